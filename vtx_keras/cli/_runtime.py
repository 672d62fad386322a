"""Exported files for vtx predict: LiteRT and ONNX start in a fraction of the time that TensorFlow and Keras take.

Nothing here imports either, unless a file is made. Pictures and texts are prepared by the code that models use.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import json
import mmap
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from vtx_keras._files import cache, file_hash, version_of
from vtx_keras.batch._work import Work, does, pictures_only, stored
from vtx_keras.cli._console import USUAL, quiet
from vtx_keras.inputs import media
from vtx_keras.inputs.text import Vocabulary, spelling_of
from vtx_keras.search import Towers

SUFFIXES = {".tflite": "litert", ".onnx": "onnx"}
ENDS = {kind: suffix for suffix, kind in SUFFIXES.items()}
MOST_BYTES = 64_000_000  # of a description and a vocabulary
HASHED = b"\x72\x4a\x0a\x06sha256\x12\x40"  # before the sha256 at the end of an .onnx
NEEDED = (
    "pieces", "task", "form", "image_shape", "resize", "max_length", "beams", "prompt", "labels", "multi_label",
    "allow_empty",
)  # fmt: skip


class Light(NamedTuple):
    """An exported model: its description (model.json), its words, and what makes a runner for one thread."""

    path: Path
    about: dict[str, Any]
    vocabulary: Vocabulary
    load: Callable[[], Callable[[dict], dict]]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.about["image_shape"])


def wanted(model: str, weights: str, settings: dict[str, Any], runtime: str | None) -> Light | None:
    """Return the exported file that answers, or None where Keras does.

    A file that is named answers. Of other models, a file that was made before answers, or one that is made now if
    `runtime` asks for it.
    """
    kind = SUFFIXES.get(Path(model).suffix.lower())
    if kind:
        if runtime not in (None, kind):
            raise ValueError(f"--runtime {runtime}: {model} is a file for {kind}")
        if weights != "default":
            raise ValueError(f"{model} is an exported file, with weights of its own: leave out --weights {weights}")
        light = opened(Path(model))
        _check_settings(light, settings)
        return light
    if runtime == "keras":
        return None
    for each in [runtime] if runtime else SUFFIXES.values():
        path = _place(model, weights, settings, each)
        kept = _kept(path, each) if path else None
        if kept is None:
            continue
        click.echo(f"vtx: by {each}, from a file made before (--runtime keras: by Keras)", err=True)
        return kept
    if runtime is None:
        return None
    path = _place(model, weights, settings, runtime)
    if path is None:
        raise ValueError(f"--runtime {runtime}: of {model} no file is kept: vtx export it, and name the file")
    return opened(_made(model, weights, settings, runtime, path))


def opened(path: Path) -> Light:
    """Open an exported file with what describes it: at the end of a .tflite, beside an .onnx.

    >>> opened(Path("nowhere.tflite"))
    Traceback (most recent call last):
    FileNotFoundError: nowhere.tflite does not exist
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        about, pieces = (content.decode("utf-8") for content in _companions(path))
        description, vocabulary = json.loads(about), pieces.removesuffix("\n").split("\n")
        if missing := [name for name in NEEDED if name not in description]:
            raise ValueError(f"its description has no {missing[0]!r}")
        if len(vocabulary) != description["pieces"]:
            raise ValueError(f"its vocabulary has {len(vocabulary)} pieces, expected {description['pieces']}")
    except Exception as error:  # of zipfile, zlib and JSON, which have no common class
        raise ValueError(f"{path} is no complete exported model ({error}): export it again") from error
    rule = description.get("rule")
    if _reads_otherwise(description.get("spelling"), rule):
        raise ValueError(f"{path} has a published tokenizer: run it with export/mobile/run.py or export/onnx/run.py")
    if description["form"] != "one" and description["task"] == "captioner":
        raise ValueError(f"{path} is of form {description['form']}: expected a file of form one")
    if description["task"] == "generator":
        raise ValueError(f"{path} reads no pictures, but draws them: run it with export/mobile/run.py")
    load = {"litert": _litert, "onnx": _onnx}[SUFFIXES[path.suffix.lower()]]
    return Light(path, description, Vocabulary(vocabulary, rule=rule), lambda: load(path))


def _companions(path: Path) -> tuple[bytes, bytes]:
    """Return model.json and vocabulary.txt, after checking the hashes of both and of the file, if it has them."""
    names, last = ("model.json", "vocabulary.txt"), len(HASHED) + 64
    if path.suffix.lower() == ".tflite":
        with zipfile.ZipFile(path) as archive:
            size = sum(archive.getinfo(name).file_size for name in names)
            about, pieces = (archive.read(name) if size <= MOST_BYTES else b"" for name in names)
            end = min(one.header_offset for one in archive.infolist())
    else:
        size = sum(path.with_name(name).stat().st_size for name in names)
        about, pieces = (path.with_name(name).read_bytes() if size <= MOST_BYTES else b"" for name in names)
        end = max(0, path.stat().st_size - last)
    if size > MOST_BYTES:
        raise ValueError(f"its description has more than {MOST_BYTES // 1_000_000} MB")
    if not (wanted := json.loads(about).get("sha256")):
        return about, pieces  # made before there were hashes
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        model, at_end = hashlib.sha256(memoryview(data)[:end]), data[end:]
        if path.suffix.lower() == ".onnx":
            weights = path.with_name(f"{path.name}.data")  # of a large model
            with weights.open("rb") if weights.is_file() else io.BytesIO() as more:
                hashlib.file_digest(more, lambda: model)
            if data.find(about) < 0:
                raise ValueError("the model.json beside it is of another export")
            wanted = {**wanted, "model": at_end.removeprefix(HASHED).decode("ascii", "replace")}
    whole = about.replace(wanted["model.json"].encode(), b"0" * 64)  # as it was before its hash was put in
    found = {"model.json": hashlib.sha256(whole), "vocabulary.txt": hashlib.sha256(pieces), "model": model}
    for name, sha256 in found.items():
        if sha256.hexdigest() != wanted[name]:
            raise ValueError(f"{name} is damaged, or of another file: its sha256 is not the one that was exported")
    return about, pieces


def _reads_otherwise(spelling: Any, rule: dict | None) -> bool:
    """Return whether texts are cut by a published tokenizer.json, which is not in an exported file."""
    return bool(spelling) or (rule or {}).get("kind") == "tokenizers"


def _kept(path: Path, kind: str) -> Light | None:
    """Return a kept file, if it is whole and its runtime is installed."""
    if importlib.util.find_spec({"litert": "ai_edge_litert", "onnx": "onnxruntime"}[kind]) is None:
        return None
    try:
        return opened(path)
    except (OSError, ValueError):
        return None


def runner(light: Light, question: str | None) -> Callable[[list], Iterable]:
    """Return a function from pictures to the model's result for each; a core looks at one picture at a time."""
    about, task = light.about, light.about["task"]
    if task == "captioner" and question is not None:
        raise ValueError(f"{light.path} writes captions: --text is for models that read a text; use --prompt")
    if task != "captioner" and question is None:
        raise ValueError(f"{light.path} reads a text beside the picture: give it with --text")
    texts = {}
    if question is not None:
        how = {"start": True, "end": light.vocabulary.ends, "allow_empty": about["allow_empty"]}
        texts["tokens"] = light.vocabulary.encode([question], about["max_length"], **how)
    look = _looking(light, texts)

    def run(pictures: list) -> list:
        outputs, good, errors = look(pictures)
        return media.settle([said(one, light) for one in outputs], good, errors, len(pictures), "raise")

    return run


def work_of(light: Light | None, model: str, weights: str, question: str | None, settings: dict[str, Any]) -> Work:
    """Return what workers do with many pictures: by the exported file that answers, or by Keras."""
    from vtx_keras import batch

    if light:
        name = f"{light.path.name} {json.dumps(question)} ({file_hash(light.path)[:16]})"
        return Work(name, functools.partial(by_file, light.path.absolute(), question))
    asked = {name: value for name, value in settings.items() if value != USUAL[name]}
    work = batch.work(model, weights, question, **asked)
    return work._replace(load=functools.partial(_loaded, model, weights, question, settings))


def _loaded(model: str, weights: str, question: str | None, settings: dict[str, Any]) -> Callable[[list], Iterable]:
    """Load what a worker does, without the log of TensorFlow's start; of a retriever without a text, vectors."""
    with quiet():
        from keras import ops

        from vtx_keras import zoo
        from vtx_keras.models._methods import Retriever

        ops.zeros(1)
    network = pictures_only(zoo.named(model, weights))
    if isinstance(network, Retriever) and question is None:
        return does(network, None, {})
    return answering(network, model, question, settings)


def answering(network: Any, name: str, question: str | None, settings: dict[str, Any]) -> Callable[[list], Iterable]:
    """Return a function from images to the model's result for each."""
    from vtx_keras.models._drawing import Generator
    from vtx_keras.models._methods import Captioner

    if isinstance(network, Generator):
        raise ValueError(f'{name} reads no pictures, but draws them: vtx draw {name} "words"')
    if isinstance(network, Captioner):
        if question is not None:
            raise ValueError(f"{name} writes captions: --text is for models that read a text; use --prompt")
    elif settings != USUAL:
        raise ValueError(f"{name} writes no captions: leave out --prompt, --beams and --max-length")
    elif question is None:
        raise ValueError(f"{name} reads a text beside the picture: give it with --text")
    return does(network, question, settings)


def by_file(path: Path, question: str | None) -> Callable[[list], Iterable]:
    """Return a function from pictures to the results of an exported file; of a retriever without a text, vectors."""
    from vtx_keras.batch._work import vectors_of

    light = opened(path)
    if light.about["task"] == "retriever" and question is None:
        return functools.partial(vectors_of, towers(light, "").pictures)
    return runner(light, question)


def _looking(light: Light, texts: dict[str, np.ndarray]) -> Callable[[list], tuple[list, list[int], dict[int, str]]]:
    """Return a function from pictures to a file's outputs for the good ones, their indices, and errors by index."""
    own, loading = threading.local(), threading.Lock()

    def one(picture: Any) -> tuple[Any, str]:
        if not hasattr(own, "run"):
            with loading, quiet():
                own.run = light.load()  # each thread has its own: an interpreter is not shared
        try:
            image = media.prepare(picture, light.shape, light.about["resize"])
        except (media.BadPicture, OSError) as error:
            return None, str(error)
        pixels = np.rint(np.asarray(image, "float32")).astype("uint8")[None]
        return own.run({"image": pixels, **texts}), ""

    pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def look(pictures: list) -> tuple[list, list[int], dict[int, str]]:
        rows = list(pool.map(one, pictures))
        errors = {index: error for index, (_, error) in enumerate(rows) if error}
        good = [index for index in range(len(rows)) if index not in errors]
        return [rows[index][0] for index in good], good, errors

    return look


def towers(light: Light, name: str) -> Towers:
    """Return the towers of an exported retriever, for `search.Index`."""
    if light.about["task"] != "retriever" or light.path.suffix != ".tflite":
        raise ValueError(f"{light.path} has no towers that search: expected a retriever's .tflite")
    look = _looking(light, {})
    with quiet():
        run = light.load()

    def pictures(items: list) -> tuple[np.ndarray, dict[int, str]]:
        outputs, _, errors = look(items)
        return np.concatenate([one["image_embedding"] for one in outputs] or [np.zeros((0, 1), "float32")]), errors

    def texts(lines: Sequence[str]) -> np.ndarray:
        how = {"start": True, "end": light.vocabulary.ends}
        ids = light.vocabulary.encode(list(lines), light.about["max_length"], **how)
        return np.concatenate([run({"tokens": row[None]})["text_embedding"] for row in ids])

    return Towers(pictures, texts, name)


def said(outputs: dict[str, np.ndarray], light: Light) -> Any:
    """Return a file's outputs for one picture as the model's own method does: words, labels or a number."""
    about = light.about
    if "ids" in outputs:
        return light.vocabulary.decode(outputs["ids"])[0]
    if "image_embedding" in outputs:
        return outputs["image_embedding"] @ outputs["text_embedding"].T[:, 0]
    logits = outputs["logits"][0].astype("float64")
    if about["task"] == "matcher":
        return 1 / (1 + np.exp(-logits))
    if about["multi_label"]:
        return [label for label, logit in zip(about["labels"], logits, strict=True) if logit > 0]
    return about["labels"][int(np.argmax(logits))]


def _litert(path: Path) -> Callable[[dict], dict]:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError("a .tflite file is run by LiteRT: pip install ai-edge-litert") from error
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()  # it says so, once
    runs = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    if "text" not in runs:
        return lambda inputs: _copied(runs["serving_default"](**inputs))
    tower = {"image": "image", "tokens": "text"}  # of a retriever
    return lambda inputs: {
        name: value
        for given, array in inputs.items()
        for name, value in _copied(runs[tower[given]](**{given: array})).items()
    }


def _copied(outputs: dict) -> dict:
    return {name: np.array(value) for name, value in outputs.items()}  # the next run overwrites them


def _onnx(path: Path) -> Callable[[dict], dict]:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("an .onnx file is run by onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def _check_settings(light: Light, settings: dict[str, Any]) -> None:
    """Raise ValueError for what is fixed in a file and was asked otherwise."""
    about = light.about
    has = {"prompt": about["prompt"] or None, "beams": about["beams"], "max_length": about["max_length"]}
    for name, value in settings.items():
        if value != USUAL[name] and value != has[name]:
            raise ValueError(
                f"--{name.replace('_', '-')} {value}: {light.path} was exported with {has[name]}, which is fixed in it"
            )


# --- files that are kept


def _place(model: str, weights: str, settings: dict[str, Any], kind: str) -> Path | None:
    """Return where the file of a model is kept, by its weights and by what is fixed in it; None if it has no place."""
    files = stored(model, weights)
    if files is None:
        return None
    times = [(one.stat().st_size, one.stat().st_mtime_ns) for one in files]  # of weights, which are not read here
    versions = [version_of(package) for package in ("vtx_keras", "tensorflow", "keras")]
    about = hashlib.sha256(
        json.dumps([file_hash(files[0]), times, settings, versions], sort_keys=True).encode()
    ).hexdigest()[:16]
    return cache() / "files" / f"{Path(model).name}-{about}" / f"model{ENDS[kind]}"


def named(model: str, weights: str) -> str:
    """Return a name of a model's weights, the same wherever they are installed, or "" where they are not here."""
    files = stored(model, weights)
    return file_hash(files[0]) if files else ""  # of a config, which has that of the weights


def _made(model: str, weights: str, settings: dict[str, Any], kind: str, path: Path) -> Path:
    """Export a model to where its file is kept."""
    from vtx_keras import export, zoo

    start = time.monotonic()
    click.echo(f"vtx: makes a file for {kind}, once; it then starts at once", err=True)
    with quiet():
        network = zoo.named(model, weights)
    if "image" not in network.input or _reads_otherwise(spelling_of(network.vocabulary), network.spec.get("rule")):
        raise ValueError(f"--runtime {kind}: {model} has a published tokenizer: vtx export it, and use export/*/run.py")
    how = {} if settings == USUAL else settings
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet():
        {"litert": export.litert, "onnx": export.onnx}[kind](network, path, **how)
    if not path.is_file():
        raise ValueError(f"--runtime {kind}: a {network.name} becomes two files; --runtime litert makes one")
    click.echo(f"vtx: made in {time.monotonic() - start:.0f} s", err=True)
    return path
