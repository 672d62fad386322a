"""Export a model to ONNX, for onnxruntime on any machine and in browsers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from vtx_keras.export import _drawings, _graphs, _verify
from vtx_keras.export._weights import (
    all_graphs,
    assign,
    deduplicate_tables,
    drop_unused,
    quantize_int4,
    quantize_int8,
    store_float16,
    write_file,
)
from vtx_keras.models._base import VisionText
from vtx_keras.models._drawing import Generator
from vtx_keras.models._methods import Captioner, Retriever

QUANTIZE = (None, "float16", "int8", "int4")
OPSETS = (17, 18)
IN_FILE = ("model.json", "vocabulary.txt")  # these companions also stand in the file's metadata
LARGE = 2**18  # numbers in a weight of which copies matter


def onnx(
    model: VisionText,
    path: str | os.PathLike,
    *,
    form: str = "one",
    quantize: str | None = None,
    beams: int = 1,
    max_length: int | None = None,
    prompt: str | None = None,
    attention: bool = False,
    opset: int = 17,
    verify_data: Iterable[Mapping[str, Any]] | None = None,
    share: float | None = None,
) -> _verify.Report:
    """Write `model` as an `.onnx` file, run it in onnxruntime, and report how its results compare with the model's.

    The input `image` is uint8 (batch, h, w, 3) at the model's size, with any batch size. A captioner outputs int32
    `ids` (batch, length), 0-padded, and `score`. A vqa model, classifier or matcher also takes `tokens`
    (batch, length) and outputs `logits`; a generator takes `tokens` and normally distributed `noise` (batch, numbers),
    and outputs `image`. A model in two parts becomes two files named after `path`: form "split"
    writes `model.encode.onnx` and `model.decode_step.onnx`, a retriever `model.image.onnx` and `model.text.onnx`.
    vocabulary.txt, tokenizer.json (for Hugging Face's `tokenizers`) and model.json (labels, and how to prepare an
    image) are written beside them, the first and the last also into them; and weights, if they are more than 2 GB, in
    `model.onnx.data`.

    `attention` adds an output that tells where each word looks: (batch, length, rows, columns), as `explain` draws it.
    Beams, length and prompt (of form "one") are fixed in the file; by default they are those of `generate`.

    `quantize` is None (float32), "float16" (half the size), "int8" (a quarter to a third of the size: 8-bit weights,
    16-bit ones in small convolutions) or "int4" (matrices in 4 bits, for language models). `share` is as in `litert`.

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
    if quantize == "int4" and isinstance(model, Generator):
        raise ValueError('quantize="int4" moves the outlines of what a generator draws: choose "int8"')
    _graphs.check(model, form, beams, max_length, prompt, attention)
    model = _drawings.in_float32(model)
    _verify.check_destination(path)
    settings: dict[str, Any] = {}
    if isinstance(model, Captioner):
        settings = {"beams": beams, "max_length": max_length, "prompt": prompt}
    seen: dict[str, Any] = {"attention": True} if attention else {}
    companions = _graphs.companion_files(model, form, **settings, **seen)
    check_companions(companions, path)
    examples = _verify.load_examples(model, verify_data)
    inputs = examples.arrays()

    def write(target: Path) -> None:
        for name, graph in _graphs.graphs(model, form, taken=large_weights(model), **settings, **seen).items():
            part = target if name == "serving_default" else target.with_name(f"{path.stem}.{name}.onnx")
            network = convert_graph(graph, quantize, opset)
            for key in IN_FILE:  # a page that is given the file alone runs it
                network.metadata_props.add(key=key, value=companions[key])
            write_file(network, part)
        for name, content in companions.items():
            (target.parent / name).write_bytes(content.encode())

    def compare(target: Path) -> _verify.Report:
        return _verify.compare(
            model,
            examples,
            _verify.expected(model, examples, **settings),
            _verify.run("onnx", target, inputs),
            path=path,
            share=share,
            quantize=quantize,
            format="onnx",
            form="towers" if isinstance(model, Retriever) else form,
            megabytes=sum(map(_verify.size_of, target.parent.glob("*.onnx*"))),
            settings={**settings, "opset": opset},
            versions={name: version(name) for name in ("tensorflow", "tf2onnx", "onnx", "onnxruntime")},
            next_command=f"python export/onnx/run.py {path}"
            + " photo.png" * bool(examples.sources)
            + ' "a text"' * (examples.texts is not None),
        )

    return _verify.write_verified(path, write, compare)


def convert_graph(graph: _graphs.Graph, quantize: str | None, opset: int) -> Any:
    """Return a graph as an ONNX model."""
    model = run_converter(graph, opset)
    hoist_loop_invariants(model.graph)
    divide_before_erf(model.graph)
    if quantize in ("int8", "int4"):
        model = {"int8": quantize_int8, "int4": quantize_int4}[quantize](model)
    else:
        deduplicate_tables(model)
    if quantize == "float16":
        store_float16(model, lambda node: True)
    return model


def run_converter(graph: _graphs.Graph, opset: int) -> Any:
    """Return a graph as an ONNX model, as tf2onnx converts it, with the graph's names of inputs and outputs.

    The weights that the graph takes are no constants while tf2onnx works, which copies constants many times.
    """
    import tf2onnx

    function = _graphs.frozen(graph).function
    tensors = [*function.inputs, *function.outputs]
    model, _ = tf2onnx.convert.from_graph_def(
        function.graph.as_graph_def(),
        input_names=[tensor.name for tensor in function.inputs],
        output_names=[tensor.name for tensor in function.outputs],
        opset=opset,
    )
    weights = [f"weight_{i}" for i in range(len(graph.weights))]
    names = (*graph.inputs, *weights, *graph.outputs)
    rename_tensors(model.graph, {tensor.name: name for tensor, name in zip(tensors, names, strict=True)})
    assign(model.graph.input, [one for one in model.graph.input if one.name not in weights])
    for name, weight in zip(weights, graph.weights, strict=True):
        model.graph.initializer.add().CopyFrom(numpy_helper.from_array(keras.ops.convert_to_numpy(weight), name))
    fold_weights(model.graph)
    for tensor in (*model.graph.input, *model.graph.output):
        for axis, size in enumerate(tensor.type.tensor_type.shape.dim):
            if not size.dim_value:
                size.dim_param = "length" if axis else "batch"
    return model


def large_weights(model: VisionText) -> list[keras.Variable]:
    """Return the large matrices; kernels of convolutions stay constants, which tf2onnx merges with what follows."""
    variables = _drawings.part_of(model).variables
    return [one for one in variables if np.prod(one.shape) >= LARGE and len(one.shape) < 4]


def check_companions(companions: Mapping[str, str], path: Path) -> None:
    """Refuse a folder in which the companion files of another model would be overwritten."""
    own = {path.name, *(file.name for file in path.parent.glob(f"{path.stem}.*.onnx"))}
    others = sorted({file.name for file in path.parent.glob("*.onnx")} - own)
    for name, content in companions.items() if others else ():
        existing = path.with_name(name)
        if existing.is_file() and existing.read_text(encoding="utf-8") != content:
            raise FileExistsError(
                f"{path.parent} holds {others[0]} with another {name}, and the files beside an .onnx have fixed names: "
                "choose another folder"
            )


# --- passes over the converted graph; the figures in their docstrings are of the released captioner and come from
#     `python benchmarks/by_hand.py onnx`


def rename_tensors(graph: Any, names: Mapping[str, str]) -> None:
    """Give tensors new names, in loop bodies too."""
    for part in all_graphs(graph):
        for tensor in (*part.input, *part.output, *part.value_info):
            tensor.name = names.get(tensor.name, tensor.name)
        for node in part.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]


def fold_weights(graph: Any) -> None:
    """Compute what is made of weights alone, such as the transpose of a table: quantizers look for weights."""
    weights = {one.name: one for one in graph.initializer}
    large = {name for name, one in weights.items() if np.prod(one.dims) >= LARGE}
    for part in all_graphs(graph):
        for node in list(part.node):
            if large & set(node.input) and set(node.input) <= set(weights) and len(node.output) == 1:
                values = {name: numpy_helper.to_array(weights[name]) for name in node.input}
                (value,) = ReferenceEvaluator(node).run(None, values)
                made = numpy_helper.from_array(np.asarray(value), node.output[0])
                part.node.remove(node)
                graph.initializer.add().CopyFrom(made)
                weights[made.name] = made
                large.add(made.name)
    drop_unused(graph)


def hoist_loop_invariants(graph: Any) -> None:
    """Let loop bodies read constant values from the enclosing graph; TensorFlow carries them through each iteration.

    A weight is then a constant inside the body, so a runtime can lay it out once and a quantizer can recognise it.
    Without this pass a caption takes 1.2 × the time, and an int8 file 11.4 MB instead of 5.3. onnxslim does not do it.
    """
    for node in [node for node in graph.node if node.op_type == "Loop"]:
        body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
        copies = {one.output[0]: one.input[0] for one in body.node if one.op_type == "Identity"}
        changing, outer_names = [], {}
        for i, (carried, result) in enumerate(zip(body.input[2:], body.output[1:], strict=False)):
            source = result.name
            while source in copies:
                source = copies[source]
            if source == carried.name:
                outer_names[carried.name] = node.input[2 + i]
                outer_names[node.output[i]] = node.input[2 + i]
            else:
                changing.append(i)
        scanned = len(body.input) - 2  # outputs from here on are collected over the iterations
        for field, first, keep in (
            (body.input, 2, changing),
            (body.output, 1, [*changing, *range(scanned, len(body.output) - 1)]),
            (node.input, 2, changing),
            (node.output, 0, [*changing, *range(scanned, len(node.output))]),
        ):
            assign(field, [*field[:first], *(field[first + i] for i in keep)])
        for copy in [one for one in body.node if one.op_type == "Identity" and one.input[0] in outer_names]:
            outer_names[copy.output[0]] = outer_names[copy.input[0]]
            body.node.remove(copy)
        rename_tensors(graph, outer_names)
        hoist_loop_invariants(body)


def divide_before_erf(graph: Any) -> None:
    """Write x · √½ in front of an `Erf` as x / √2: then onnxruntime recognises GELU, and computes it in one pass."""
    for part in all_graphs(graph):
        tables = [*graph.initializer, *part.initializer]
        scalars = {one.name: numpy_helper.to_array(one) for one in tables if np.prod(one.dims) == 1}
        makers = {name: node for node in part.node for name in node.output}
        for node in [makers[one.input[0]] for one in part.node if one.op_type == "Erf" and one.input[0] in makers]:
            halves = [name for name in node.input if name in scalars and np.isclose(scalars[name].item(), 0.5**0.5)]
            if node.op_type == "Mul" and halves:
                root = numpy_helper.from_array(np.array(2**0.5, "float32"), f"{node.output[0]}/root")
                part.initializer.append(root)
                node.op_type, node.input[:] = "Div", [*(name for name in node.input if name != halves[0]), root.name]
    drop_unused(graph)
