"""Smaller weights in ONNX files: float16, 8 bits, 4 bits in blocks. Nodes still compute what they computed.

The figures in docstrings are of the released captioner and come from `python benchmarks/by_hand.py onnx`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, TensorProto, helper, load_model, numpy_helper, save_model

from vtx_keras.export import _graphs

MAX_BYTES = 2_000_000_000  # of weights in a protobuf file; more stand beside it
HASHED = b"\x72\x4a\x0a\x06sha256\x12\x40"  # as protobuf: a field 14 of a key "sha256" and a value of 64 bytes
MIN_SIZE = 1024  # numbers in a weight that is worth storing smaller
BLOCK = 32  # numbers that share a scale in 4 bits
MIN_INT4_SIZE = 2**14  # numbers in a matrix that is worth 4 bits
READ = {"MatMul": 1, "Gather": 0}  # which input is the weight


def write_file(model: Any, path: Path) -> None:
    """Write a model; weights that are too large for one file stand beside it, in `NAME.onnx.data`.

    The file ends with the sha256 of all before it, and of that other file: one more of the model's metadata_props.
    """
    large = sum(len(one.raw_data) for part in all_graphs(model.graph) for one in part.initializer) >= MAX_BYTES
    save_model(model, path, save_as_external_data=large, location=f"{path.name}.data")
    sha256 = hashlib.sha256()
    for part in (path, path.with_name(f"{path.name}.data"))[: 1 + large]:
        with part.open("rb") as file:
            while block := file.read(1 << 24):
                sha256.update(block)
    with path.open("ab") as file:
        file.write(HASHED + sha256.hexdigest().encode())


def deduplicate_tables(model: Any) -> None:
    """Replace each table that is the transpose of another one by a `Transpose` node, which runs once at loading.

    This saves 1.0 of 19.1 MB. onnxslim saves none of the file, and undoes this pass and `store_float16`.
    """
    graph = model.graph
    tables = {one.name: one for one in graph.initializer if len(one.dims) == 2 and np.prod(one.dims) >= MIN_SIZE}
    by_shape: dict[tuple, list[str]] = {}
    for name, table in tables.items():
        by_shape.setdefault(tuple(table.dims), []).append(name)
    removed: set[str] = set()
    for name, table in tables.items():
        for other in by_shape.get(tuple(reversed(table.dims)), []):
            if name == other or {name, other} & removed:
                continue
            values, other_values = (numpy_helper.to_array(tables[one]) for one in (name, other))
            # Keep the one that has a row per word, whose rows are looked up.
            if np.array_equal(values, other_values.T) and table.dims[0] >= table.dims[1]:
                removed.add(other)
                graph.node.insert(0, helper.make_node("Transpose", [name], [other], f"{other}/turned", perm=[1, 0]))
    assign(graph.initializer, [one for one in graph.initializer if one.name not in removed])


def store_float16(model: Any, selects: Callable[[Any], bool]) -> None:
    """Store in float16 the large float weights that the selected nodes read; nodes still compute in float32.

    onnxruntime's own conversion to float16 makes a file that onnxruntime does not load.
    """

    def to_float16(name: str, values: np.ndarray) -> tuple[list, list]:
        if np.abs(values).max() > np.finfo("float16").max:  # a mask of logits (-1e9), no weights
            return [], []
        stored = numpy_helper.from_array(values.astype("float16"), f"{name}/half")
        return [stored], [helper.make_node("Cast", [stored.name], [name], f"{name}/whole", to=TensorProto.FLOAT)]

    _replace_weights(model, selects, to_float16)


def store_int8(model: Any, selects: Callable[[Any], bool]) -> None:
    """Store in 8 bits, with a scale per output channel, the large weights that the selected convolutions read.

    A runtime multiplies them by their scales once, at loading. The inputs of a convolution are not rounded.
    """

    def to_int8(name: str, values: np.ndarray) -> tuple[list, list]:
        if values.size < _graphs.MIN_INT8_SIZE:
            return [], []
        axes = tuple(range(1, values.ndim))
        scales = np.maximum(np.abs(values).max(axis=axes, keepdims=True) / 127, np.finfo("float32").tiny)
        stored = numpy_helper.from_array(np.rint(values / scales).astype("int8"), f"{name}/bytes")
        scale = numpy_helper.from_array(scales.astype("float32"), f"{name}/scales")
        cast = helper.make_node("Cast", [stored.name], [f"{name}/whole"], f"{name}/whole", to=TensorProto.FLOAT)
        return [stored, scale], [cast, helper.make_node("Mul", [*cast.output, scale.name], [name], f"{name}/scaled")]

    _replace_weights(model, selects, to_int8)


def _replace_weights(
    model: Any, selects: Callable[[Any], bool], replace: Callable[[str, np.ndarray], tuple[list, list]]
) -> None:
    """Apply `replace` to each large float weight that the selected nodes read.

    It returns the tensors to store in its place and the nodes that restore it, or two empty lists to leave it.
    """
    read = {name for graph in all_graphs(model.graph) for node in graph.node if selects(node) for name in node.input}
    for graph in all_graphs(model.graph):
        weights, restoring = [], []
        for weight in graph.initializer:
            large = weight.data_type == TensorProto.FLOAT and np.prod(weight.dims) >= MIN_SIZE
            replaced = large and weight.name in read
            stored, nodes = replace(weight.name, numpy_helper.to_array(weight)) if replaced else ([], [])
            weights += stored or [weight]
            restoring += nodes
        assign(graph.initializer, weights)
        assign(graph.node, [*restoring, *graph.node])


def quantize_int8(model: Any, but: Collection[str] = ()) -> Any:
    """Quantize matrices and tables by onnxruntime's `quantize_dynamic`, and of convolutions the weights alone.

    Weights of depthwise and small convolutions get 16 bits. A table that is both looked up and multiplied by is stored
    twice, because the two uses are rounded differently. Nodes whose names are in `but` stay as they are.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        write_file(model, before)
        quantize_dynamic(
            before,
            after,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(but),
            extra_options={"EnableSubgraph": True},
            use_external_data_format=before.with_name("before.onnx.data").exists(),
        )
        model = load_model(after)
    store_convolutions(model)
    return model


def store_convolutions(model: Any) -> None:
    """Store the weights of convolutions in 8 bits, those of depthwise and small ones in 16.

    `quantize_dynamic` also rounds the inputs of convolutions: a file of 5.2 MB instead of 5.3, but 4.5 × the time and
    236 instead of 240 of 240 captions identical. Without this function the file has 11.7 MB.
    """
    store_int8(model, lambda node: node.op_type == "Conv" and _groups(node) == 1)
    store_float16(model, lambda node: node.op_type == "Conv")


def _groups(convolution: Any) -> int:
    return next((attribute.i for attribute in convolution.attribute if attribute.name == "group"), 1)


def quantize_int4(model: Any) -> Any:
    """Store matrices and tables in 4 bits, in blocks of 32 inputs with a scale and a zero each, and all else in 8.

    onnxruntime multiplies by them and looks up in them as they are (`MatMulNBits`, `GatherBlockQuantized`); a table
    that is also the output head is stored once. Its own tool needs another library (onnx_ir): nodes are made here.
    """
    chosen = {node.name for node, _ in _matrices(model.graph)}
    model = quantize_int8(model, but=chosen)  # first: its tool cannot read the nodes that are made here
    graph = model.graph
    matrices: dict[str, tuple[list[str], np.ndarray]] = {}  # the tensors of a matrix (inputs, outputs), and the matrix
    tables: dict[str, list[str]] = {}  # those of a table (rows, width)
    found = [(node, weight) for node, weight in _matrices(graph) if node.name in chosen]
    for node, weight in found:
        if node.op_type == "MatMul":
            if weight.name not in matrices:
                values = numpy_helper.to_array(weight)
                matrices[weight.name] = (_added(graph, in_blocks(values, weight.name)), values)
            inputs, outputs = weight.dims
            node.input[:] = [node.input[0], *matrices[weight.name][0]]
            _become(node, "MatMulNBits", K=inputs, N=outputs, bits=4, block_size=BLOCK, accuracy_level=4)
    for node, table in found:
        if node.op_type == "Gather":
            if table.name not in tables:
                values, rows = numpy_helper.to_array(table), f"{table.name}/rows"
                same = next((one for one, head in matrices.values() if np.array_equal(head, values.T)), None)
                tensors = same or _added(graph, in_blocks(values.T, f"{table.name}/looked_up"))
                shape = np.array([table.dims[0], table.dims[1] // 2])
                graph.initializer.append(numpy_helper.from_array(shape, f"{rows}/shape"))
                graph.node.insert(0, helper.make_node("Reshape", [tensors[0], f"{rows}/shape"], [rows], rows))
                tables[table.name] = [rows, *tensors[1:]]
            rows, *others = tables[table.name]
            node.input[:] = [rows, node.input[1], *others]
            _become(node, "GatherBlockQuantized", gather_axis=0, quantize_axis=1, block_size=BLOCK, bits=4)
    if found:
        if "com.microsoft" not in {one.domain for one in model.opset_import}:
            model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        drop_unused(graph)
    return model


def _matrices(graph: Any) -> list[tuple[Any, Any]]:
    """Return the nodes that multiply by a large matrix or look up rows in a large table, each with its weight."""
    weights = {one.name: one for part in all_graphs(graph) for one in part.initializer}
    found = []
    for node in [node for part in all_graphs(graph) for node in part.node]:
        weight = weights.get(node.input[READ[node.op_type]]) if node.op_type in READ else None
        other_axis = node.op_type == "Gather" and any(one.i for one in node.attribute)
        if weight is not None and not other_axis and _is_large(weight, axis=0 if node.op_type == "MatMul" else 1):
            found.append((node, weight))
    return found


def _is_large(weight: Any, axis: int) -> bool:
    """Return whether a weight is a matrix that is worth 4 bits, and divides into blocks along an axis."""
    is_matrix = len(weight.dims) == 2 and weight.data_type == TensorProto.FLOAT
    return is_matrix and np.prod(weight.dims) >= MIN_INT4_SIZE and weight.dims[axis] % BLOCK == 0


def _added(graph: Any, tensors: list[Any]) -> list[str]:
    graph.initializer.extend(tensors)
    return [one.name for one in tensors]


def _become(node: Any, kind: str, **settings: int) -> None:
    """Make a node one of onnxruntime's own."""
    node.op_type, node.domain = kind, "com.microsoft"
    assign(node.attribute, [helper.make_attribute(name, value) for name, value in settings.items()])


def in_blocks(values: np.ndarray, name: str) -> list[Any]:
    """Return a matrix (inputs, outputs) in 4 bits: (outputs, blocks, 16 bytes), scales and zeros of each block.

    >>> matrix = np.linspace(-1, 1, 64, dtype="float32").reshape(32, 2)
    >>> [tuple(one.dims) for one in in_blocks(matrix, "w")]
    [(2, 1, 16), (2, 1), (2, 1)]
    """
    outputs = values.shape[1]
    blocks = values.T.reshape(outputs, -1, BLOCK).astype("float32")  # (outputs, blocks, 32)
    low, high = np.minimum(blocks.min(axis=2), 0), np.maximum(blocks.max(axis=2), 0)
    scales = np.maximum((high - low) / 15, np.finfo("float32").tiny)
    zeros = np.clip(np.rint(-low / scales), 0, 15)
    codes = np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], 0, 15).astype("uint8")
    zeros = np.pad(zeros.astype("uint8"), ((0, 0), (0, zeros.shape[1] % 2)))  # two of them, as two codes, are a byte
    arrays = {"blocks": codes, "scales": scales, "zeros": zeros}
    arrays |= {name: arrays[name][..., 0::2] | arrays[name][..., 1::2] << 4 for name in ("blocks", "zeros")}
    return [numpy_helper.from_array(array, f"{name}/{part}") for part, array in arrays.items()]


def drop_unused(graph: Any) -> None:
    """Remove constants that nothing reads, of which onnxruntime would warn."""
    used = {name for part in all_graphs(graph) for node in part.node for name in node.input}
    for part in all_graphs(graph):
        named = used | {one.name for one in part.output}
        assign(part.initializer, [one for one in part.initializer if one.name in named])


def all_graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph and all its subgraphs."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from all_graphs(attribute.g)


def assign(field: Any, values: list) -> None:
    """Replace the content of a repeated protobuf field."""
    del field[:]
    field.extend(values)
