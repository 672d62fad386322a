"""A model as ONNX, for onnxruntime on any machine, and in browsers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, TensorProto, helper, load_model, numpy_helper, save_model

from vtx_keras.export import _graphs as companions
from vtx_keras.export import _graphs as graphs
from vtx_keras.export import _verify as verify
from vtx_keras.export._graphs import MANY
from vtx_keras.models._base import VisionText
from vtx_keras.models._captioner import Captioner
from vtx_keras.models._readers import Retriever

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
            verify.run("onnx", target, inputs),
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

    tensors = [*graph.function.inputs, *graph.function.outputs]
    model, _ = tf2onnx.convert.from_graph_def(
        graph.function.graph.as_graph_def(),
        input_names=[tensor.name for tensor in graph.function.inputs],
        output_names=[tensor.name for tensor in graph.function.outputs],
        opset=opset,
    )
    names = (*graph.inputs, *graph.outputs)
    rename(model.graph, {tensor.name: name for tensor, name in zip(tensors, names, strict=True)})
    for tensor in (*model.graph.input, *model.graph.output):
        for axis, size in enumerate(tensor.type.tensor_type.shape.dim):
            if not size.dim_value:
                size.dim_param = "length" if axis else "batch"
    with_loops_that_look_out(model.graph)
    if quantize == "int8":
        model = with_int8_weights(model)
    else:
        with_tables_once(model)
    if quantize == "float16":
        with_half_weights(model, lambda node: True)
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


LARGE = 1024  # numbers in a weight worth shrinking


def rename(graph: Any, names: Mapping[str, str]) -> None:
    """Give tensors new names, in loops' bodies too."""
    for one in graphs_of(graph):
        for tensor in (*one.input, *one.output, *one.value_info):
            tensor.name = names.get(tensor.name, tensor.name)
        for node in one.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]


def with_loops_that_look_out(graph: Any) -> None:
    """Let the body of a loop read what never changes from outside, where TensorFlow hands it round with each turn.

    A weight is then a constant to the body: a runtime can lay it out once, and a quantizer can see that it is one.
    """
    for node in [node for node in graph.node if node.op_type == "Loop"]:
        body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
        copies = {one.output[0]: one.input[0] for one in body.node if one.op_type == "Identity"}
        changing, outside = [], {}
        for i, (given, made) in enumerate(zip(body.input[2:], body.output[1:], strict=False)):
            source = made.name
            while source in copies:
                source = copies[source]
            if source == given.name:
                outside[given.name] = node.input[2 + i]
                outside[node.output[i]] = node.input[2 + i]
            else:
                changing.append(i)
        scanned = len(body.input) - 2  # outputs behind these are gathered turn by turn
        for field, first, keep in (
            (body.input, 2, changing),
            (body.output, 1, [*changing, *range(scanned, len(body.output) - 1)]),
            (node.input, 2, changing),
            (node.output, 0, [*changing, *range(scanned, len(node.output))]),
        ):
            kept = [*field[:first], *(field[first + i] for i in keep)]
            del field[:]
            field.extend(kept)
        for one in [one for one in body.node if one.op_type == "Identity" and one.input[0] in outside]:
            outside[one.output[0]] = outside[one.input[0]]
            body.node.remove(one)
        rename(graph, outside)
        with_loops_that_look_out(body)


def with_tables_once(model: Any) -> None:
    """Replace a table that is another one turned by a `Transpose` of it, which a runtime does once, when it loads."""
    graph = model.graph
    tables = {one.name: one for one in graph.initializer if len(one.dims) == 2 and np.prod(one.dims) >= LARGE}
    by_shape: dict[tuple, list[str]] = {}
    for name, one in tables.items():
        by_shape.setdefault(tuple(one.dims), []).append(name)
    gone: set[str] = set()
    for name, one in tables.items():
        for other in by_shape.get(tuple(reversed(one.dims)), []):
            if name == other or {name, other} & gone:
                continue
            ours, theirs = (numpy_helper.to_array(tables[which]) for which in (name, other))
            if np.array_equal(ours, theirs.T) and one.dims[0] >= one.dims[1]:  # the words' rows stay as they are
                gone.add(other)
                graph.node.insert(0, helper.make_node("Transpose", [name], [other], f"{other}/turned", perm=[1, 0]))
    kept = [one for one in graph.initializer if one.name not in gone]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def with_half_weights(model: Any, chosen: Callable[[Any], bool]) -> None:
    """Store in float16 the large float weights that `chosen` operators read; they compute in float32 still."""

    def halved(name: str, values: np.ndarray) -> tuple[list, list]:
        if np.abs(values).max() > np.finfo("float16").max:  # no weights, but what keeps a word from being said
            return [], []
        stored = numpy_helper.from_array(values.astype("float16"), f"{name}/half")
        return [stored], [helper.make_node("Cast", [stored.name], [name], f"{name}/whole", to=TensorProto.FLOAT)]

    _store(model, chosen, halved)


def with_byte_weights(model: Any, chosen: Callable[[Any], bool]) -> None:
    """Store in 8 bits, with a scale per channel, the weights that `chosen` convolutions read, where they are many.

    A runtime multiplies them out once, when it loads the file. What enters a convolution is not rounded.
    """

    def rounded(name: str, values: np.ndarray) -> tuple[list, list]:
        if values.size < MANY:
            return [], []
        over = tuple(range(1, values.ndim))
        scales = np.maximum(np.abs(values).max(axis=over, keepdims=True) / 127, np.finfo("float32").tiny)
        stored = numpy_helper.from_array(np.rint(values / scales).astype("int8"), f"{name}/bytes")
        scale = numpy_helper.from_array(scales.astype("float32"), f"{name}/scales")
        whole = helper.make_node("Cast", [stored.name], [f"{name}/whole"], f"{name}/whole", to=TensorProto.FLOAT)
        return [stored, scale], [whole, helper.make_node("Mul", [*whole.output, scale.name], [name], f"{name}/scaled")]

    _store(model, chosen, rounded)


def _store(model: Any, chosen: Callable[[Any], bool], smaller: Callable[[str, np.ndarray], tuple[list, list]]) -> None:
    """Give each large float weight that `chosen` operators read the form, and the steps back, that `smaller` says."""
    read = {name for graph in graphs_of(model.graph) for node in graph.node if chosen(node) for name in node.input}
    for graph in graphs_of(model.graph):
        weights, steps = [], []
        for one in graph.initializer:
            large = one.data_type == TensorProto.FLOAT and np.prod(one.dims) >= LARGE
            stored, back = smaller(one.name, numpy_helper.to_array(one)) if large and one.name in read else ([], [])
            weights += stored or [one]
            steps += back
        for field, content in ((graph.initializer, weights), (graph.node, [*steps, *graph.node])):
            del field[:]
            field.extend(content)


def with_int8_weights(model: Any) -> Any:
    """Matrices and tables in 8 bits, by onnxruntime; of convolutions, which suffer more from that, the weights alone.

    Those of depthwise and small convolutions have 16.
    A table both looked up in and multiplied by is there twice, for each is rounded in its own way.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    sink_weights(model.graph)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        save_model(model, before)
        quantize_dynamic(
            before,
            after,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"EnableSubgraph": True},
        )
        model = load_model(after)
    with_byte_weights(model, lambda node: node.op_type == "Conv" and _groups(node) == 1)
    with_half_weights(model, lambda node: node.op_type == "Conv")
    return model


def _groups(convolution: Any) -> int:
    return next((attribute.i for attribute in convolution.attribute if attribute.name == "group"), 1)


def sink_weights(graph: Any) -> None:
    """Move each weight into the loop whose body alone reads it: the quantizer looks for it there."""
    for node in graph.node:
        for body in [attribute.g for attribute in node.attribute if attribute.type == AttributeProto.GRAPH]:
            outside = {name for other in graph.node if other is not node for name in _reads(other)}
            inside = {name for inner in body.node for name in _reads(inner)}
            moved = [one for one in graph.initializer if one.name in inside - outside]
            kept = [one for one in graph.initializer if one.name not in inside - outside]
            body.initializer.extend(moved)
            del graph.initializer[:]
            graph.initializer.extend(kept)
            sink_weights(body)


def _reads(node: Any) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _reads(inner)


def graphs_of(graph: Any) -> Iterator[Any]:
    """A graph and all within it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs_of(attribute.g)
