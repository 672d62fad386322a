"""Published architectures at full size, against transformers: BLIP-base captions of 20 words, CLIP B/32's image tower.

All sides run in this process, in turns, on one thread each; CPU time; random weights, the same on all sides, whose ids
(embeddings) are compared first. `targets` are how many times faster than transformers' eager mode each side should be.
The last rows are memory, each in a process of its own: of loading, beside the size of the checkpoint's file, and of a
fine-tune (on all cores).

    pip install -e ".[oracle,export]"
    python benchmarks/published.py [--rounds 5] [--only blip,clip,loading,tuning]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import RESULTS, interleaved, one_thread, store

LENGTH = 20
SUPPORT = str(Path(__file__).parents[1] / "tests/support")  # has the maker of checkpoints
TARGETS = {
    "blip": {"keras": 2.0, "litert float32": 2.3, "litert int8": 5.6, "onnx float32": 2.2},
    "clip": {"litert int8": 3.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="blip,clip,loading,tuning")
    args = parser.parse_args()
    sys.path.append(SUPPORT)
    one_thread()
    stored, chosen = RESULTS / "published.json", args.only.split(",")
    before = json.loads(stored.read_text())["rows"] if stored.is_file() else []
    rows = [row for row in before if row["what"] not in chosen]
    measure = {"blip": blip, "clip": clip, "loading": loading, "tuning": tuning}
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            row = {"what": name, **measure[name](Path(folder), args.rounds), "targets": TARGETS.get(name, {})}
        rows.append(row)
        store("published", rows)


def whole(values: dict[str, float]) -> dict[str, int]:
    """Return numbers without their fractions."""
    return {name: round(value) for name, value in values.items()}


def files_of(folder: Path) -> dict[str, float]:
    """Return the megabytes of each exported file."""
    sizes = {}
    for path in sorted(one for one in folder.iterdir() if one.suffix not in (".json", ".txt")):
        parts = path.rglob("*") if path.is_dir() else [path]
        sizes[path.name] = round(sum(part.stat().st_size for part in parts if part.is_file()) / 1e6, 1)
    return sizes


def exported(
    model: Any, folder: Path, what: str, peaks: dict[str, float], **settings: Any
) -> dict[str, Callable[[Any], Any]]:
    """Export by the package's own exporters; return for each file a function from pictures to ids or embeddings.

    `peaks` receives the megabytes of a process that runs the file alone.
    """
    import numpy as np
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    from vtx_keras import export

    import onnxruntime  # isort: skip (after `vtx_keras.export`, which switches its telemetry off)

    captions = what == "caption"
    picture = np.random.default_rng(1).integers(0, 256, model.image_shape, dtype="uint8")
    settings |= {"verify_data": [{"image": picture, "caption": "a cat"}], "share": 0.0}
    sides: dict[str, Callable[[Any], Any]] = {}
    for quantize in (None, "int8"):
        path = folder / f"{quantize or 'float32'}.tflite"
        peaks[f"litert {quantize or 'float32'}"] = export.litert(
            model, path, quantize=quantize, **settings
        ).peak_megabytes
        interpreter = Interpreter(str(path), num_threads=1)
        run = interpreter.get_signature_runner("serving_default" if captions else "image")
        output = "ids" if captions else "image_embedding"
        sides[f"litert {quantize or 'float32'}"] = lambda image, run=run, output=output: run(image=image)[output]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    peaks["onnx float32"] = export.onnx(model, folder / "float32.onnx", **settings).peak_megabytes
    file = next(path for path in folder.glob("*.onnx") if captions or "image" in path.name)
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    first = session.get_outputs()[0].name
    sides["onnx float32"] = lambda image: session.run([first], {"image": image})[0]
    if captions:
        peaks["savedmodel float32"] = export.saved_model(model, folder / "saved_model", **settings).peak_megabytes
        root = next(path.parent for path in folder.rglob("saved_model.pb"))
        served = tf.saved_model.load(str(root))

        def serve(image: Any) -> list[str]:
            return [one.decode() for one in served.signatures["pixels"](image=tf.constant(image))["caption"].numpy()]

        sides["savedmodel float32"] = serve
    return sides


def blip(folder: Path, rounds: int) -> dict:
    """Caption a picture greedily, 20 words."""
    import numpy as np
    import published_oracle
    import torch

    from vtx_keras import zoo

    published_oracle.blip(folder / "checkpoint", base=True)
    peer = published_oracle.tr.BlipForConditionalGeneration.from_pretrained(folder / "checkpoint").eval()
    model = zoo.build("cross_attn_captioner", weights=folder / "checkpoint")
    pictures = np.random.default_rng(0).integers(0, 256, (1, *model.image_shape), dtype="uint8")
    pixels = published_oracle.as_torch(model, pictures)

    def run_peer() -> np.ndarray:
        with torch.inference_mode():
            return peer.generate(pixel_values=pixels, max_new_tokens=LENGTH, do_sample=False).numpy()[:, 1:]

    expected = np.array(model.generate_ids(pictures.astype("float32"), max_length=LENGTH)[0])
    pieces = published_oracle.bert_pieces(len(model.vocabulary))
    assert [pieces[i] for i in run_peer()[0][:LENGTH]] == [model.vocabulary[i] for i in expected[0]], "other words"
    sides: dict[str, Callable[[], object]] = {
        "transformers": run_peer,
        "keras": lambda: model.generate(pictures, max_length=LENGTH),
    }
    (folder / "files").mkdir()
    same, peaks = {}, {}
    for name, run in exported(model, folder / "files", "caption", peaks, max_length=LENGTH).items():
        output = run(pictures)
        joined = isinstance(output, list)  # a SavedModel gives sentences
        same[name] = output == model.vocabulary.decode(expected) if joined else bool(np.array_equal(output, expected))
        sides[name] = lambda run=run: run(pictures)
    same["litert int8 of 20 pictures"] = rounded(model, folder / "files" / "int8.tflite")
    times = interleaved(sides, rounds)
    faster = {name: round(times["transformers"]["median_ms"] / times[name]["median_ms"], 2) for name in times}
    sizes = files_of(folder / "files")
    measured = {"times_faster": faster, "megabytes": sizes, "peak_megabytes": whole(peaks)}
    return {"rounds": rounds, "same_ids": same, **times, **measured}


def rounded(model: Any, path: Path) -> int:
    """Return of how many of ten photographs and ten pictures of noise an int8 file gives the ids of the model."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    from vtx_keras import data

    run = Interpreter(str(path), num_threads=1).get_signature_runner("serving_default")
    photos = sorted(data.sample("photos/cat.jpg").parent.glob("*.jpg"))[:10]
    noise = np.random.default_rng(2).integers(0, 256, (10, *model.image_shape), dtype="uint8")
    pictures = [*model.prepare([str(photo) for photo in photos])[0].astype("uint8"), *noise]
    wanted = [np.array(model.generate_ids(one[None].astype("float32"), max_length=LENGTH)[0]) for one in pictures]
    return sum(np.array_equal(run(image=one[None])["ids"], ids) for one, ids in zip(pictures, wanted, strict=True))


def clip(folder: Path, rounds: int) -> dict:
    """Embed a picture."""
    import numpy as np
    import published_oracle
    import torch

    from vtx_keras import zoo

    peer = published_oracle.clip(folder / "checkpoint", base=True)
    model = zoo.build("retriever", weights=folder / "checkpoint")
    pictures = np.random.default_rng(0).integers(0, 256, (1, *model.image_shape), dtype="uint8")
    pixels = published_oracle.as_torch(model, pictures)

    compiled = torch.compile(peer.vision_model)

    def run_peer(tower: Any = peer.vision_model) -> np.ndarray:
        with torch.inference_mode():
            features = peer.visual_projection(tower(pixels).pooler_output)
        return (features / features.norm(dim=-1, keepdim=True)).numpy()

    tower = model.tower("image")
    floats = pictures.astype("float32")
    sides: dict[str, Callable[[], np.ndarray]] = {
        "transformers": run_peer,
        "transformers, compiled": lambda: run_peer(compiled),
        "keras": lambda: np.asarray(tower.predict_on_batch({"image": floats})),
    }
    (folder / "files").mkdir()
    peaks: dict[str, float] = {}
    for name, run in exported(model, folder / "files", "image", peaks).items():
        sides[name] = lambda run=run: run(pictures)
    expected = run_peer()
    cosine = {name: round(float(np.sum(run() * expected)), 6) for name, run in sides.items()}
    assert min(value for name, value in cosine.items() if "int8" not in name) > 0.9999, cosine
    times = interleaved(sides, rounds)
    faster = {name: round(times["transformers"]["median_ms"] / times[name]["median_ms"], 2) for name in times}
    sizes = files_of(folder / "files")
    measured = {"times_faster": faster, "megabytes": sizes, "peak_megabytes": whole(peaks)}
    return {"rounds": rounds, "cosine": cosine, **times, **measured}


MAKE = """
import sys
from pathlib import Path
sys.path.append(sys.argv[2])
import published_oracle
published_oracle.blip(Path(sys.argv[1]), base=True)
"""
LOAD = """
import json, resource, sys
from vtx_keras import zoo
zoo.build("cross_attn_captioner", weights=None, dim=32, depth=1, image_shape=(32, 32, 3))
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
before = peak()
model = zoo.build("cross_attn_captioner", weights=sys.argv[1])
print(json.dumps([before, peak()]))
"""


TUNE = """
import json, resource, sys, tempfile, time
from vtx_keras import data, zoo
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
model = zoo.build("cross_attn_captioner", weights=sys.argv[1])
model.freeze("image")
model.enable_lora(8)
pairs = data.load("sample", split="train").take(64)
behind = model.behind_encoder()
times = []
with tempfile.TemporaryDirectory() as folder:
    times.append(time.time())
    features = data.features(pairs, model, folder)
    times.append(time.time())
    behind.fit(data.batches(features, behind, batch_size=16, training=True), epochs=1, verbose=0)
    times.append(time.time())
    history = behind.fit(data.batches(features, behind, batch_size=16, training=True), epochs=1, verbose=0).history
    times.append(time.time())
steps = [round(b - a, 1) for a, b in zip(times, times[1:])]
print(json.dumps([peak(), steps, len(behind.trainable_variables)]))
"""


def tuning(folder: Path, rounds: int) -> dict:
    """Fine-tune BLIP-base by low-rank additions behind its frozen encoder: features of 64 pictures, batches of 16."""
    del rounds
    subprocess.run([sys.executable, "-c", MAKE, str(folder), SUPPORT], check=True)
    done = subprocess.run([sys.executable, "-c", TUNE, str(folder)], capture_output=True, text=True, check=True)
    gigabytes, (encoding, first, second), trained = json.loads(done.stdout.splitlines()[-1])
    return {
        "peak_gb": round(gigabytes, 2),
        "encoding_64_pictures_s": encoding,
        "first_epoch_s": first,
        "next_epoch_s": second,
        "trained_variables": trained,
    }


def loading(folder: Path, rounds: int) -> dict:
    """Load BLIP-base in a process of its own, and return the growth of its peak memory beside the file's size."""
    del rounds
    subprocess.run([sys.executable, "-c", MAKE, str(folder), SUPPORT], check=True)  # memory here would be inherited
    done = subprocess.run([sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout.splitlines()[-1])
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9
    return {
        "file_gb": round(size, 2),
        "before_gb": round(before, 2),
        "peak_gb": round(after, 2),
        "times_the_file": round((after - before) / size, 2),
    }


if __name__ == "__main__":
    main()
