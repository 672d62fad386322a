"""Fuzz every public reader with damaged files: `python tests/fuzz/run.py --seconds 60` (`--target pth`: one of them).

A target is a reader, files that it reads (seeds), and the errors that its documentation names. Seeds are damaged in
ways that depend on a number alone: bits flipped, ends cut off, parts doubled or exchanged, sizes replaced, and, where
hashes would hide all that, files are sealed anew. A target runs in a process of its own, which may take 500 MB more
than it has when it starts, and 5 s of processor time for an input. What breaks a rule (another error, a crash, memory,
time) is written to `corpus/new/` and printed; once mended, such a file belongs into `corpus/`, with the fault in its
name: `test_fuzz.py` reads all of them. `--write` stores the counts in results.json.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
CORPUS, RESULTS = HERE / "corpus", HERE / "results.json"
MEGABYTES, SECONDS = 500, 5
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "support")]


class Target(NamedTuple):
    """A reader: its seeds, a function that reads an input in an empty folder, and the errors that it may raise."""

    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], Any]
    allowed: tuple[type[Exception], ...] = (ValueError, OSError)  # BadWeights, BadPicture and BadData are ValueErrors


class TooSlow(BaseException):
    """Raised where an input took its processor time."""


# --- how files are damaged

NUMBERS = (0, 1, 127, 255, 2**15, 2**16 - 1, 2**29, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1)
SIZES = [
    number.to_bytes(width, order)
    for number in NUMBERS
    for width in (1, 2, 4, 8)
    for order in ("little", "big")
    if number < 256**width
]
WORDS = [
    b"null", b"-1", b"1e999", b"[]", b"{}", b'""', b"true", b"99999999999999999999", b"NaN", b'"\\ud800"', b"\0",
    b"\xff", b"[" * 2000, b'{"a":' * 2000, b"\n", b'"', b",", b"../../etc/passwd",
]  # fmt: skip


def mutated(seeds: list[bytes], number: int) -> bytes:
    """Return a damaged seed, the same for the same number."""
    draw = random.Random(number)
    data = bytearray(draw.choice(seeds))
    near = draw.random() < 0.5  # headers are at the beginning, or at the end
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        span = min(len(data), 400) if near else len(data)
        at = draw.randrange(span + 1)
        at = len(data) - at if near and draw.random() < 0.4 else at
        kind = draw.randrange(8)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            value = draw.choice(SIZES)
            data[at : at + len(value)] = value
        elif kind == 2:
            del data[at : at + draw.choice((1, 2, 4, 16, 256))]
        elif kind == 3:
            data[at:at] = data[at : at + draw.choice((1, 4, 64, 1024))]
        elif kind == 4:
            del data[at if draw.random() < 0.3 else max(at, len(data) - 64) :]
        elif kind == 5:
            other = draw.choice(seeds)
            start = draw.randrange(len(other) + 1)
            data[at:at] = other[start : start + draw.choice((4, 32, 512))]
        elif kind == 6:
            data[at : at + draw.choice((0, 1, 4))] = draw.choice(WORDS)
        else:
            data[at : at + 4] = draw.randbytes(4)
    return bytes(data)


def mutated_json(text: bytes, number: int) -> bytes:
    """Return a JSON object with some values in it replaced, exchanged or left out, the same for the same number."""
    draw, content = random.Random(number), json.loads(text)
    values = [
        None,
        -1,
        0,
        10**9,
        10**30,
        1e308,
        "",
        "x",
        "hf://a/b",
        [],
        {},
        [[]],
        True,
        "../x",
        {"a": {}},
        [1] * 9,
        "\ud800",
    ]
    for _ in range(draw.choice((1, 1, 2, 3))):
        node, last = content, None
        while isinstance(node, (dict, list)) and node and draw.random() < 0.85:
            last = (node, draw.choice(list(node) if isinstance(node, dict) else range(len(node))))
            node = node[last[1]]
        if last and draw.random() < 0.15:
            del last[0][last[1]]
        elif last:
            last[0][last[1]] = draw.choice(values)
    return json.dumps(content).encode()


# --- seeds and readers


def pictures() -> list[bytes]:
    from images import GOOD, encoded, plain

    kinds = [encoded(plain(), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")]
    return kinds + [made for make, _ in GOOD.values() if isinstance(made := make(), bytes)]


def clips() -> list[bytes]:
    from images import animated

    return [animated(kind) for kind in ("GIF", "PNG", "WEBP")]


def read_picture(data: bytes, folder: Path) -> Any:
    from vtx_keras.inputs import media

    return media.read(data, pixel_limit=20_000_000)  # a picture takes about 13 bytes a pixel, by right


def read_clip(data: bytes, folder: Path) -> Any:
    from vtx_keras.inputs import media

    return media.read_clip(data, 3)


def read_table(data: bytes, folder: Path) -> Any:
    from images import encoded, plain

    from vtx_keras import data as sets

    (folder / "a.png").write_bytes(encoded(plain()))
    (folder / "set.csv").write_bytes(data)
    found = list(sets.from_csv(folder / "set.csv", most_bad=0.9).encoded.as_numpy_iterator())
    assert all(Path(row["path"].decode()).name == "a.png" for row in found), found
    return found


TABLES = [
    "image,caption\na.png,a cat\na.png,two dogs\n",
    "path;question;answer;split\na.png;is it?;yes;train\na.png;or?;no;test\n",
    'file\ttext\tlabel\na.png\t"a ""quoted""\nline"\tx\n',
    "\ufeffimage,text\na.png,été ☃\n",
]


@functools.cache
def saved(kind: str) -> Path:
    """Return a saved toy model: "folder" or ".keras"."""
    from toys import toy

    from vtx_keras import zoo

    path = Path(tempfile.mkdtemp(prefix="vtx-fuzz-")) / ("model.keras" if kind == ".keras" else "model")
    return zoo.save(toy("gated_vqa"), path)


def sealed(folder: Path, **files: bytes) -> Path:
    """Write a saved model with other contents of files, with hashes that fit."""
    from vtx_keras.checkpoints._folder import CONFIG, config_hash, file_hash

    for file in saved("folder").iterdir():
        (folder / file.name).write_bytes(files.get(file.name.split(".")[0], file.read_bytes()))
    with contextlib.suppress(ValueError, RecursionError):
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        if isinstance(config, dict) and isinstance(config.get("files"), dict):
            for name in config["files"]:
                if (folder / name).is_file():
                    config["files"][name] = file_hash(folder / name)
        if isinstance(config, dict):
            config["sha256"] = config_hash(config)
        (folder / CONFIG).write_text(json.dumps(config))
    return folder


def seeds_of(name: str) -> list[bytes]:
    return [(saved("folder") / name).read_bytes()]


def load_folder(**files: bytes) -> Callable[[Path], Any]:
    from vtx_keras import zoo

    def load(folder: Path) -> Any:
        return zoo.load(sealed(folder, **files)).vocabulary.encode(["a cat, w1"], 8, allow_empty=True)

    return load


def read_config(data: bytes, folder: Path) -> Any:
    """Read a config: these bytes or, behind a "#", one whose values are changed as these bytes decide."""
    if data[:1] == b"#":
        data = mutated_json(seeds_of("config.json")[0], int.from_bytes(data))
    return load_folder(config=data)(folder)


def read_keras(data: bytes, folder: Path) -> Any:
    """Read a `.keras` file, damaged as a zip or, as half of all are, in the content of a member."""
    from vtx_keras import zoo

    path = folder / "model.keras"
    if data[:2] == b"PK":
        path.write_bytes(data)
    else:  # the name of a member in a line, then its content
        name, _, content = data.partition(b"\n")
        with zipfile.ZipFile(saved(".keras")) as old, zipfile.ZipFile(path, "w") as new:
            for one in old.namelist():
                new.writestr(one, content if one.encode() == name else old.read(one))
    return zoo.load(path)


def keras_seeds() -> list[bytes]:
    path = saved(".keras")
    with zipfile.ZipFile(path) as archive:
        return [path.read_bytes(), *(name.encode() + b"\n" + archive.read(name) for name in archive.namelist())]


@functools.cache
def checkpoints() -> dict[str, list[bytes]]:
    """Return the bytes of small published checkpoints by the end of their names."""
    import numpy as np
    import pytest
    import safetensors.numpy
    from checkpoints import checkpoint

    tensors = {
        "a.weight": np.ones((4, 3), "float32"),
        "b": np.arange(6, dtype="float16"),
        "c": np.zeros((0, 2), "int32"),
    }
    folder = Path(tempfile.mkdtemp(prefix="vtx-fuzz-"))
    with pytest.MonkeyPatch.context() as patch:
        zipped = checkpoint({name: one.astype("float32") for name, one in tensors.items() if one.size}, patch)
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        pickled = archive.read("x/data.pkl")
    return {
        ".safetensors": [safetensors.numpy.save(tensors)],
        ".pth": [zipped, pickled, pickled],
        ".gguf": [small_gguf(folder / "a.gguf").read_bytes()],
    }


def small_gguf(path: Path) -> Path:
    """Write a Llama of one block of width 8."""
    import gguf
    import numpy as np

    writer, tokens = gguf.GGUFWriter(path, "llama"), ["<s>", "</s>", *"abcdefghijkl", "\u0120", "ab"]
    numbers = {"block_count": 1, "context_length": 16, "embedding_length": 8, "feed_forward_length": 16}
    for name, number in (numbers | {"attention.head_count": 2, "attention.head_count_kv": 2}).items():
        writer.add_uint32(f"llama.{name}", number)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_float32("llama.rope.freq_base", 5e4)
    for name, text in (("model", "gpt2"), ("pre", "gpt-2")):
        writer.add_string(f"tokenizer.ggml.{name}", text)
    for name, values in (("tokens", tokens), ("token_type", [3, 3] + [1] * 14), ("merges", ["a b"])):
        writer.add_array(f"tokenizer.ggml.{name}", values)
    for name in ("bos_token_id", "eos_token_id"):
        writer.add_uint32(f"tokenizer.ggml.{name}", 0)
    shapes = {"token_embd": (16, 8), "output_norm": (8,), "blk.0.attn_norm": (8,), "blk.0.ffn_norm": (8,)}
    shapes |= {f"blk.0.attn_{name}": (8, 8) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (16, 8), "blk.0.ffn_up": (16, 8), "blk.0.ffn_down": (8, 16)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.ones(shape, "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_pth(data: bytes, folder: Path) -> Any:
    from vtx_keras.checkpoints.published import _readers

    if data[:2] != b"PK":  # a pickle: numbers stand beside it
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(checkpoints()[".pth"][0])) as old, zipfile.ZipFile(file, "w") as new:
            for name in old.namelist():
                new.writestr(name, data if name.endswith(".pkl") else old.read(name))
        data = file.getvalue()
    return _readers.read({"a.pth": data})


def read_safetensors(data: bytes, folder: Path) -> Any:
    from vtx_keras.checkpoints.published._tensors import open_tensors

    (folder / "model.safetensors").write_bytes(data)
    return [one.sum() for one in open_tensors(folder).values()]


def read_gguf(data: bytes, folder: Path) -> Any:
    from vtx_keras.checkpoints.published import _gguf

    (folder / "a.gguf").write_bytes(data)
    read = _gguf.opened(folder / "a.gguf")
    return [one.sum() for one in read.tensors.values()]


def read_vocabulary(data: bytes, folder: Path) -> Any:
    from vtx_keras.inputs.text import Vocabulary

    (folder / "vocabulary.txt").write_bytes(data)
    pieces = Vocabulary.of(folder / "vocabulary.txt")
    return pieces.decode(pieces.encode(["a cat, été"], 8, allow_empty=True))


def read_tokenizer(data: bytes, folder: Path) -> Any:
    from vtx_keras.checkpoints.published import _said

    (folder / "tokenizer.json").write_bytes(data)
    return _said.pieces(folder, 300)


def tokenizer_seeds() -> list[bytes]:
    folder = HERE.parent / "fixtures"
    return [path.read_bytes() for path in sorted(folder.glob("*/*/tokenizer.json")) if path.stat().st_size < 60_000][:4]


@functools.cache
def companion_seeds() -> list[bytes]:
    """Return a .tflite that is a few bytes and a zip, with hashes and without."""
    from toys import toy

    from vtx_keras.export import _graphs as graphs

    found = []
    for hashed in (True, False):
        files = graphs.companion_files(toy("gated_vqa"), "one", b"network")
        if not hashed:
            files["model.json"] = json.dumps(
                {k: v for k, v in json.loads(files["model.json"]).items() if k != "sha256"}
            )
        file = io.BytesIO(b"network")
        with zipfile.ZipFile(file, "a") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        found.append(file.getvalue())
    return found


def read_companions(data: bytes, folder: Path) -> Any:
    from vtx_keras.cli import _runtime

    (folder / "a.tflite").write_bytes(data)
    sys.path.append(str(HERE.parents[1] / "export"))
    from pictures_and_words import companions

    with contextlib.suppress(ValueError):
        companions(folder / "a.tflite")
    return _runtime.opened(folder / "a.tflite")


@functools.cache
def kept_features() -> tuple[Any, Any, Path]:
    """Return a model, examples, and a folder with their features."""
    import numpy as np
    import tensorflow as tf
    from toys import toy

    from vtx_keras import data

    model = toy("retriever")
    model.freeze("image")
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype="uint8")
    ds = tf.data.Dataset.from_tensor_slices({"image": images, "caption": ["a", "b", "c"]})
    folder = Path(tempfile.mkdtemp(prefix="vtx-fuzz-"))
    data.features(ds, model, folder)
    return model, ds, folder


def feature_seeds() -> list[bytes]:
    return [path.suffix.encode() + b"\n" + path.read_bytes() for path in sorted(kept_features()[2].iterdir())]


def read_features(data: bytes, folder: Path) -> Any:
    """Read kept features of which a file was changed: the same must come, made anew if need be."""
    import numpy as np

    from vtx_keras import data as sets

    model, ds, kept = kept_features()
    suffix, _, content = data.partition(b"\n")
    for path in kept.iterdir():
        (folder / path.name).write_bytes(content if path.suffix.encode() == suffix else path.read_bytes())
    found, wanted = (
        np.stack([row["image"] for row in sets.features(ds, model, where).as_numpy_iterator()])
        for where in (folder, kept)
    )
    np.testing.assert_array_equal(found, wanted)


def read_index(data: bytes, folder: Path) -> Any:
    import numpy as np

    from vtx_keras.search import Index, Towers

    place, _, content = data.partition(b"\n")
    vectors = io.BytesIO()
    np.save(vectors, np.eye(2, 4, dtype="float32"))
    files = {b"rows.json": INDEX.encode(), b"vectors.npy": vectors.getvalue()} | {place: content}
    for name, value in files.items():
        if name in (b"rows.json", b"vectors.npy"):
            (folder / name.decode()).write_bytes(value)
    none = lambda items: (np.ones((len(items), 4), "float32"), {})  # noqa: E731
    return Index(folder, Towers(none, lambda lines: np.ones((len(lines), 4), "float32"), "m")).find("a cat")


INDEX = json.dumps(
    {"model": "m", "rows": [{"path": f"{n}.png", "size": 1, "time": 1, "sha256": str(n)} for n in range(2)]}
)


def index_seeds() -> list[bytes]:
    import numpy as np

    vectors = io.BytesIO()
    np.save(vectors, np.eye(2, 4, dtype="float32"))
    return [b"rows.json\n" + INDEX.encode(), b"vectors.npy\n" + vectors.getvalue()]


@functools.cache
def server() -> int:
    """Start the demo's server in this process and return its port."""
    import threading

    from toys import toy

    from vtx_keras.cli._demo import serve

    running = serve(toy("gated_captioner"))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    return int(running.server_address[1])


def request_seeds() -> list[bytes]:
    from images import encoded, plain

    picture = encoded(plain())
    head = b"POST /ask?beams=2&text=a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return [head % len(picture) + picture, b"GET /model.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"]


def ask_server(data: bytes, folder: Path) -> Any:
    """Send a request; the server may close or answer with a status, and must go on."""
    import socket

    for content in (data, request_seeds()[1]):
        with socket.create_connection(("127.0.0.1", server()), timeout=SECONDS) as link:
            with contextlib.suppress(OSError):  # it may have closed
                link.sendall(content)
                link.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while part := link.recv(65536):
                    answer += part
    assert answer.startswith(b"HTTP/1.0 200"), answer[:80]


TARGETS = {
    "picture": Target(pictures, read_picture),
    "clip": Target(clips, read_clip),
    "table": Target(lambda: [one.encode() for one in TABLES], read_table),
    "config": Target(lambda: [*seeds_of("config.json"), *[b"#12345678"] * 7], read_config),
    "hdf5": Target(lambda: seeds_of("model.weights.h5"), lambda data, folder: load_folder(model=data)(folder)),
    "folder_vocabulary": Target(
        lambda: seeds_of("vocabulary.txt"), lambda data, folder: load_folder(vocabulary=data)(folder)
    ),
    "keras": Target(keras_seeds, read_keras),
    "pth": Target(lambda: checkpoints()[".pth"], read_pth),
    "safetensors": Target(lambda: checkpoints()[".safetensors"], read_safetensors),
    "gguf": Target(lambda: checkpoints()[".gguf"], read_gguf),
    "vocabulary": Target(lambda: seeds_of("vocabulary.txt"), read_vocabulary),
    "tokenizer": Target(tokenizer_seeds, read_tokenizer),
    "companions": Target(companion_seeds, read_companions),
    "features": Target(feature_seeds, read_features, ()),
    "index": Target(index_seeds, read_index),
    "request": Target(request_seeds, ask_server, ()),
}


# --- running


def tried(target: Target, data: bytes) -> str:
    """Read an input in a folder of its own; return "read", the name of an allowed error, or what rule was broken."""
    folder = Path(tempfile.mkdtemp(prefix="vtx-fuzz-"))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            target.read(data, folder)
        return "read"
    except target.allowed as error:
        vague = isinstance(error, (UnicodeError, json.JSONDecodeError)) or not str(error).strip()
        return f"broke: {type(error).__name__} names no file: {error!s:.80}" if vague else type(error).__name__
    except (Exception, TooSlow) as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = next((one for one in reversed(frames) if "vtx_keras" in one.filename), frames[-1])
        return f"broke: {type(error).__name__}: {error!s:.120} ({Path(ours.filename).name}:{ours.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        shutil.rmtree(folder, ignore_errors=True)


def limited(target: Target) -> None:
    """Bound the memory of this process, after what a reader loads and builds once, and its time for an input."""

    def stop(*_: Any) -> None:
        raise TooSlow(f"more than {SECONDS} s of processor time")

    signal.signal(signal.SIGPROF, stop)
    for seed in target.seeds():
        tried(target, seed)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEGABYTES * 1_000_000, resource.RLIM_INFINITY))


def inputs(target: Target, first: int, seconds: float) -> Iterator[tuple[int, bytes]]:
    end, seeds = time.monotonic() + seconds, target.seeds()
    while time.monotonic() < end:
        yield first, mutated(seeds, first)
        first += 1


def child(name: str, first: int, seconds: float) -> None:
    """Fuzz one target; print each fault, and what happened how often. The input at work lies in a file, for a crash."""
    target, counts, faults = TARGETS[name], dict[str, int](), dict[str, int]()
    limited(target)
    at_work = Path(tempfile.gettempdir()) / f"vtx-fuzz-{name}"
    for number, data in inputs(target, first, seconds):
        at_work.write_bytes(number.to_bytes(8) + data)
        what = tried(target, data)
        if what.startswith("broke"):
            faults[what] = faults.get(what, 0) + 1
            if faults[what] == 1:
                keep(name, number, data)
                print(f"{name} {number}: {what}", file=sys.stderr, flush=True)
        else:
            counts[what] = counts.get(what, 0) + 1
    print(json.dumps({"next": number + 1, "counts": counts, "faults": faults}))


def keep(name: str, number: int, data: bytes) -> None:
    (CORPUS / "new").mkdir(parents=True, exist_ok=True)
    (CORPUS / "new" / f"{name}.{number}").write_bytes(data)


def fuzzed(name: str, seconds: float, first: int = 0) -> dict[str, Any]:
    """Fuzz a target in a process of its own, again behind an input that ended it."""
    end, total, counts, faults = time.monotonic() + seconds, 0, dict[str, int](), dict[str, int]()
    while (left := end - time.monotonic()) > 0:
        command = [sys.executable, __file__, "--child", name, "--first", str(first), "--seconds", str(left)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode == 0:
            found = json.loads(done.stdout.splitlines()[-1])
            for sums, more in ((counts, found["counts"]), (faults, found["faults"])):
                for what, count in more.items():
                    sums[what] = sums.get(what, 0) + count
            total += found["next"] - first
            break
        at_work = (Path(tempfile.gettempdir()) / f"vtx-fuzz-{name}").read_bytes()
        number = int.from_bytes(at_work[:8])
        keep(name, number, at_work[8:])
        faults[f"broke: the process ended with {done.returncode}"] = 1
        print(f"{name} {number}: the process ended with {done.returncode}", file=sys.stderr)
        total, first = total + number + 1 - first, number + 1
    return {"inputs": total, "read": counts.pop("read", 0), "refused": counts, "faults": faults}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--target", choices=TARGETS, action="append", help="repeatable; all by default")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--write", action="store_true", help="store the counts in results.json")
    parser.add_argument("--child", choices=TARGETS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child(given.child, given.first, given.seconds)
    results = {name: fuzzed(name, given.seconds, given.first) for name in given.target or TARGETS}
    for name, row in results.items():
        refused = ", ".join(f"{count:,d} {what}" for what, count in row["refused"].items())
        print(f"{name:18s} {row['inputs']:>9,d} inputs, {row['read']:,d} read, refused: {refused or 'none'}")
        for what, count in row["faults"].items():
            print(f"{'':18s} {count:,d} × {what}")
    if given.write:
        stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        stored |= {name: {**row, "seconds": given.seconds} for name, row in results.items()}
        RESULTS.write_text(json.dumps({name: stored[name] for name in TARGETS if name in stored}, indent=1) + "\n")
    if any(row["faults"] for row in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
