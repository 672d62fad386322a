"""How far each part of a captioner is from what one thread of this machine can do at most: a roofline per format.

A part takes at least the longer of its operations at the machine's matrix products and of its bytes at the machine's
reading speed, both measured in this run (`vtx_keras.compress.machine`). LiteRT and ONNX files caption one picture in
float32; a word costs what separates nine words from two. Keras trains a batch of 8, with XLA and without (a step counts
as three passes). `base` is the shape of the other benchmarks, `photos` the released captioner.

    python benchmarks/limits.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import base_model, interleaved, one_thread, processor, store

BATCH, LENGTHS = 8, (2, 9)  # no caption that is timed ends sooner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    one_thread()
    from vtx_keras import compress, zoo

    rows = []
    models = {"base": base_model(max_length=20), "photos": zoo.build("cross_attn_captioner")}
    for shape, model in models.items():
        parts = compress.parts_of(model, LENGTHS[1])
        here = compress.machine(int(parts["word"].bytes))
        machine = {"machine_gigaflops": round(here.flops / 1e9, 1), "machine_gigabytes": round(here.bytes / 1e9, 1)}
        print(shape, machine, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            sides = {
                **files(model, Path(folder)),
                "keras step": training(model, False),
                "xla step": training(model, True),
            }
            times = {name: row["median_ms"] for name, row in interleaved(sides, rounds).items()}
        for name in ("litert", "onnx"):
            few, many = (times.pop(f"{name} {length} words") for length in LENGTHS)
            times[f"{name} word"] = (many - few) / (LENGTHS[1] - LENGTHS[0])
        whole = sum(part.flops * part.times for part in compress.parts_of(model, model.options["max_length"]).values())
        least = {
            "encode": parts["encode"].seconds(here) + parts["once"].seconds(here),
            "word": parts["word"].seconds(here) / parts["word"].times,
            "step": 3 * BATCH * whole / here.flops,
        }
        for name, ms in times.items():
            limit = 1000 * least[name.split()[-1]]
            rows.append({"shape": shape, "side": name, "ms": round(ms, 3), "limit_ms": round(limit, 3),
                         "of_limit": round(limit / ms, 3), **machine})  # fmt: skip
    store("limits", rows, hardware=f"{processor()}, one thread")


def files(model, folder: Path) -> dict[str, Callable[[], object]]:
    """Return what captions the same picture with each file: of few words, of many, and the encoder alone."""
    import numpy as np
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    from vtx_keras import data, export

    image = data.from_csv(data.sample("photos/captions.csv")).take(1)
    pixels = next(iter(data.batches(image, model, batch_size=1)))[0]["image"].numpy().astype("uint8")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def opened(path: Path) -> Callable[[], np.ndarray]:
        if path.suffix == ".onnx":
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            return lambda: session.run(None, {"image": pixels})[0]
        interpreter = Interpreter(str(path), num_threads=1)
        names = interpreter.get_signature_list()
        run = interpreter.get_signature_runner("encode" if "encode" in names else "serving_default")
        return lambda: next(iter(run(image=pixels).values()))

    sides: dict[str, Callable[[], object]] = {}
    for name, suffix in (("litert", "tflite"), ("onnx", "onnx")):
        write, how = getattr(export, name), {"verify_data": [{"image": pixels[0]}]}
        for length in LENGTHS:
            path = folder / name / str(length) / f"model.{suffix}"
            path.parent.mkdir(parents=True)
            write(model, path, max_length=length, **how)
            sides[f"{name} {length} words"] = opened(path)
        path = folder / name / "split" / f"model.{suffix}"
        path.parent.mkdir()
        write(model, path, form="split", **how)
        sides[f"{name} encode"] = opened(path if suffix == "tflite" else path.with_suffix(".encode.onnx"))
    return sides


def training(model, xla: bool) -> Callable[[], object]:
    """Return a function that trains a copy of the model on a batch."""
    import keras
    import numpy as np

    from vtx_keras.compress._prune import rebuilt
    from vtx_keras.models.objectives import WordLoss

    random = np.random.default_rng(0)
    model, length = rebuilt(model, model.options), model.options["max_length"]
    tokens = random.integers(5, len(model.vocabulary), (BATCH, length + 1)).astype("int32")
    image = random.uniform(0, 255, (BATCH, *model.image_shape)).astype("float32")
    model.compile(keras.optimizers.AdamW(1e-4), loss=WordLoss(), jit_compile=xla)
    return lambda: model.train_on_batch({"image": image, "tokens": tokens[:, :-1]}, tokens[:, 1:])


if __name__ == "__main__":
    main()
