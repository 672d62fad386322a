"""A model as ONNX, for onnxruntime on any machine, and in browsers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vtx_keras.export import companions, graphs, verify
from vtx_keras.models import Captioner, Retriever
from vtx_keras.vision_text import VisionText

QUANTIZE = (None, "float16", "int8")
OPSETS = (17, 18)
MOST = 2_000_000_000  # bytes of a file that holds its weights itself


def onnx(
    model: VisionText,
    path: str | os.PathLike,
    *,
    form: str = "one",
    quantize: str | None = None,
    beams: int = 1,
    max_length: int | None = None,
    prompt: str | None = None,
    opset: int = 17,
    verify_data: Iterable[Mapping[str, Any]] | None = None,
    share: float | None = None,
) -> verify.Report:
    """Write `model` as an `.onnx` file, run it in onnxruntime, and report how it compares.

    Pictures enter as uint8 `image` (batch, h, w, 3) at the model's size, any number at once. A captioner gives int32
    `ids` (batch, length), 0-padded, and its `score`. A vqa model, classifier or matcher takes `tokens` (batch, length)
    too, and gives `logits`. What is in two parts is in two files, named after `path`: form "split" writes
    `model.encode.onnx` and `model.decode_step.onnx`, and a retriever `model.image.onnx` and `model.text.onnx`. Beside
    them lie vocabulary.txt, tokenizer.json (for Hugging Face's `tokenizers`) and model.json (how to prepare a picture,
    labels).

    Beams, length and prompt (of form "one") are fixed in the file; by default they are those of `generate`.

    `quantize` is None (float32), "float16" (half the size) or "int8" (a third to a quarter: weights of 8 bits, of
    small convolutions 16). `share` is as in `litert`.

        report = export.onnx(model, "out/model.onnx")

    >>> import tempfile
    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, depth=1, text_depth=1, image_shape=(32, 32, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = onnx(model, f"{folder}/model.onnx")
    >>> report.identical == report.n
    True
    """
    path = Path(path)
    if quantize not in QUANTIZE:
        raise ValueError(f"quantize={quantize!r}: expected None, {', '.join(map(repr, QUANTIZE[1:]))}")
    if opset not in OPSETS:
        raise ValueError(f"opset={opset!r}: expected {' or '.join(map(str, OPSETS))}")
    if path.suffix != ".onnx":
        raise ValueError(f"{path}: expected a name that ends in .onnx")
    if find_spec("onnxruntime") is None:
        raise ImportError("an exported file is tried in onnxruntime: pip install onnxruntime")
    graphs.check(model, form, beams, max_length, prompt)
    verify.check_place(path)
    settings: dict[str, Any] = {}
    if isinstance(model, Captioner):
        settings = {"beams": beams, "max_length": max_length, "prompt": prompt}
    check_companions(companions.files(model, form, **settings), path)
    tried = verify.examples(model, verify_data)
    inputs = {"image": tried.images} | ({} if tried.tokens is None else {"tokens": tried.tokens})

    def write(target: Path) -> None:
        for name, graph in graphs.graphs(model, form, **settings).items():
            part = target if name == "serving_default" else target.with_name(f"{path.stem}.{name}.onnx")
            part.write_bytes(converted(graph, quantize, opset))
        for name, content in companions.files(model, form, **settings).items():
            (target.parent / name).write_text(content, encoding="utf-8")

    def judge(target: Path) -> verify.Report:
        return verify.compare(
            model,
            tried,
            verify.expected(model, tried, **settings),
            verify.run("run_onnx", target, inputs),
            path=path,
            share=share,
            quantize=quantize,
            format="onnx",
            form="towers" if isinstance(model, Retriever) else form,
            megabytes=sum(map(verify.size_of, target.parent.glob("*.onnx"))),
            settings={**settings, "opset": opset},
            versions={name: version(name) for name in ("tensorflow", "tf2onnx", "onnx", "onnxruntime")},
            next_command=f"python export/onnx/run.py {path} photo.png" + ' "a text"' * (tried.texts is not None),
        )

    return verify.settle(path, write, judge)


def converted(graph: graphs.Graph, quantize: str | None, opset: int) -> bytes:
    """A graph as an ONNX file."""
    import tf2onnx

    from vtx_keras.export import onnx_files

    tensors = [*graph.function.inputs, *graph.function.outputs]
    model, _ = tf2onnx.convert.from_graph_def(
        graph.function.graph.as_graph_def(),
        input_names=[tensor.name for tensor in graph.function.inputs],
        output_names=[tensor.name for tensor in graph.function.outputs],
        opset=opset,
    )
    names = (*graph.inputs, *graph.outputs)
    onnx_files.rename(model.graph, {tensor.name: name for tensor, name in zip(tensors, names, strict=True)})
    for tensor in (*model.graph.input, *model.graph.output):
        for axis, size in enumerate(tensor.type.tensor_type.shape.dim):
            if not size.dim_value:
                size.dim_param = "length" if axis else "batch"
    onnx_files.with_loops_that_look_out(model.graph)
    if quantize == "int8":
        model = onnx_files.with_int8_weights(model)
    else:
        onnx_files.with_tables_once(model)
    if quantize == "float16":
        onnx_files.with_half_weights(model, lambda node: True)
    file = model.SerializeToString() if model.ByteSize() < MOST else b""
    if not file:
        raise ValueError(f"the weights are {model.ByteSize() / 1e9:.1f} GB, and an .onnx file holds 2: quantize='int8'")
    return file


def check_companions(beside: Mapping[str, str], path: Path) -> None:
    """Refuse a folder in which another model's vocabulary, labels or sizes would be lost."""
    ours = {path.name, *(file.name for file in path.parent.glob(f"{path.stem}.*.onnx"))}
    others = sorted({file.name for file in path.parent.glob("*.onnx")} - ours)
    for name, content in beside.items() if others else ():
        there = path.with_name(name)
        if there.is_file() and there.read_text(encoding="utf-8") != content:
            raise FileExistsError(
                f"{path.parent} holds {others[0]} with another {name}, and the files beside an .onnx have fixed names: "
                "choose another folder"
            )
