"""Words by SmolLM2-135M as a text side, beside transformers eager; and the second question about one picture.

One thread, sides in turns. Each side writes 20 tokens from the start token, greedily; ours also encode a picture
(EfficientNet-Lite0, 128 px). transformers reads the same GGUF file, in float32.

    vtx convert smollm2_135m
    python benchmarks/chat.py                   # in an environment with torch, transformers, accelerate
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from common import interleaved, one_thread, store

WORDS = 20
OPTIONS = {"text_decoder": "smollm2_135m", "image_encoder": "efficientnet_lite0", "max_length": WORDS, "dropout": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    one_thread()
    store("chat", [*words(args.rounds), *questions(args.rounds)])


def words(rounds: int) -> list[dict[str, Any]]:
    """Time 20 tokens of each side, of a captioner whose gates are closed: they are the language model's own."""
    import torch

    from vtx_keras import zoo
    from vtx_keras.checkpoints.published import find_decoder

    import transformers as tr  # isort: skip (slow to load)

    model = zoo.build("gated_captioner", weights="encoders", **OPTIONS)
    picture = np.zeros((1, *model.image_shape), "uint8")
    expected = model.vocabulary.decode(np.asarray(model.generate_ids(picture.astype("float32"))[0]))[0]
    file = find_decoder("smollm2_135m")
    peer = tr.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    tokenizer = tr.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    start = torch.tensor([[peer.config.bos_token_id]])

    def theirs() -> str:
        with torch.inference_mode():
            ids = peer.generate(start, max_new_tokens=WORDS, min_new_tokens=WORDS, do_sample=False)
        return tokenizer.decode(ids[0, 1:])

    assert theirs() == expected, (theirs(), expected)
    with tempfile.TemporaryDirectory() as folder:
        sides, sizes = exported(model, picture, Path(folder))
        sides = {"transformers eager": theirs, "Keras": lambda: model.generate(picture), **sides}
        times = interleaved(sides, rounds)
    eager = times["transformers eager"]["median_ms"]
    return [
        {
            "what": f"{WORDS} tokens",
            "side": name,
            **row,
            "speed": round(eager / row["median_ms"], 2),
            **sizes.get(name, {}),
        }
        for name, row in times.items()
    ]


def exported(model: Any, picture: np.ndarray, folder: Path) -> tuple[dict[str, Callable[[], object]], dict[str, dict]]:
    """Export; return for each file a function that captions the picture, and its megabytes."""
    from ai_edge_litert.interpreter import Interpreter

    from vtx_keras import export

    import onnxruntime  # isort: skip (after `vtx_keras.export`, which switches its telemetry off)

    settings = {"verify_data": [{"image": picture[0], "caption": "a cat"}], "share": 0.0}
    sides: dict[str, Callable[[], object]] = {}
    sizes = {}
    for quantize in (None, "int8"):
        name = f"LiteRT {quantize or 'float32'}"
        report = export.litert(model, folder / f"{quantize}.tflite", quantize=quantize, **settings)
        run = Interpreter(str(folder / f"{quantize}.tflite"), num_threads=1).get_signature_runner()
        sides[name] = lambda run=run: run(image=picture)
        sizes[name] = {"megabytes": round(report.megabytes, 1)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for quantize in ("int8", "int4"):
        name, path = f"ONNX {quantize}", folder / quantize / "model.onnx"
        report = export.onnx(model, path, quantize=quantize, **settings)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        sides[name] = lambda session=session: session.run(None, {"image": picture})
        sizes[name] = {"megabytes": round(report.megabytes, 1)}
    return sides, sizes


def questions(rounds: int) -> list[dict[str, Any]]:
    """Time the first and the second question about a picture, of the released small model that answers."""
    from vtx_keras import data, zoo

    model = zoo.build("cross_attn_vqa", weights="photos")
    picture = model.prepare([data.sample("photos/cat.jpg")])[0]

    def first() -> object:
        return model.answer(picture, "what is in the picture?")

    seen = model.look(picture)
    times = interleaved({"first": first, "second": lambda: model.answer(seen, "what colour is it?")}, rounds)
    ratio = round(times["first"]["median_ms"] / times["second"]["median_ms"], 2)
    return [{"what": "question", "side": name, **row, "speed": ratio} for name, row in times.items()]


if __name__ == "__main__":
    main()
