"""A model as one LiteRT file of builtin operations, for phones and small machines."""

from __future__ import annotations

import functools
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import tensorflow as tf

from vtx_keras._compat import litert_schema
from vtx_keras.export import _graphs as companions
from vtx_keras.export import _graphs as graphs
from vtx_keras.export import _verify as verify
from vtx_keras.export._graphs import MANY
from vtx_keras.models._base import VisionText
from vtx_keras.models._captioner import Captioner
from vtx_keras.models._readers import Retriever

QUANTIZE = (None, "float16", "int8", "int8_encoder")


class NoBuiltin(ValueError):
    """A model with an operation that LiteRT does not have."""


def litert(
    model: VisionText,
    path: str | os.PathLike,
    *,
    form: str = "one",
    quantize: str | None = None,
    beams: int = 1,
    max_length: int | None = None,
    prompt: str | None = None,
    verify_data: Iterable[Mapping[str, Any]] | None = None,
    share: float | None = None,
) -> verify.Report:
    """Write `model` as a `.tflite` file, run it in LiteRT, and report how it compares.

    Pictures enter as uint8 (1, h, w, 3) at the model's size. A captioner gives int32 `ids` (1, length), 0-padded, and
    its `score`; form "split" has the signatures `encode` and `decode_step` instead, for programs that show word by
    word. A vqa model, classifier or matcher takes `tokens` (1, length) too, and gives `logits`; a retriever has the
    signatures `image` and `text`. Vocabulary, labels and how to prepare a picture are in a zip at the file's end.

    Beams, length and prompt (of form "one") are fixed in the file; by default they are those of `generate`.

    `quantize` is None (float32), "float16" (half the size), "int8" (a third to a quarter: weights of 8 bits, of
    small convolutions 16, and sums in float) or "int8_encoder" (for accelerators that know only whole numbers: the
    image encoder wholly in 8 bits, adjusted on the pictures of `verify_data`, the rest as "int8"). `share` of the
    results must be identical to the model's: by default all; of a smaller file 95 %, or else a metric within 1 %.

        report = export.litert(model, "out/model.tflite", quantize="int8")

    >>> import tempfile
    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, depth=1, text_depth=1, image_shape=(32, 32, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = litert(model, f"{folder}/model.tflite")
    >>> report.identical == report.n
    True
    """
    if quantize not in QUANTIZE:
        raise ValueError(f"quantize={quantize!r}: expected None, {', '.join(map(repr, QUANTIZE[1:]))}")
    if Path(path).suffix != ".tflite":
        raise ValueError(f"{path}: expected a name that ends in .tflite")
    if find_spec("ai_edge_litert") is None:
        raise ImportError("an exported file is tried in LiteRT: pip install ai-edge-litert")
    graphs.check(model, form, beams, max_length, prompt)
    verify.check_place(Path(path))
    settings = {"beams": beams, "max_length": max_length, "prompt": prompt} if isinstance(model, Captioner) else {}
    tried = verify.examples(model, verify_data)
    inputs = {"image": tried.images} | ({} if tried.tokens is None else {"tokens": tried.tokens})

    def write(target: Path) -> None:
        target.write_bytes(converted(model, form, quantize, tried.images, **settings))
        with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as archive:
            for name, content in companions.files(model, form, **settings).items():
                archive.writestr(name, content)

    def judge(target: Path) -> verify.Report:
        return verify.compare(
            model,
            tried,
            verify.expected(model, tried, **settings),
            verify.run("litert", target, inputs),
            path=Path(path),
            share=share,
            quantize=quantize,
            format="litert",
            form="towers" if isinstance(model, Retriever) else form,
            megabytes=verify.size_of(target),
            settings=settings,
            versions={name: version(name) for name in ("tensorflow", "ai-edge-litert")},
            next_command=f"python export/mobile/run.py {path} photo.png" + ' "a text"' * (tried.texts is not None),
        )

    return verify.settle(path, write, judge)


def converted(model: VisionText, form: str, quantize: str | None, pictures: np.ndarray, **settings: Any) -> bytes:
    """The file's content, without what travels at its end. `pictures` adjust "int8_encoder"."""
    if quantize != "int8_encoder":
        return smaller(graphs.graphs(model, form, 1, **settings), quantize)
    encoder = convert({"image": graphs.image_encoder(model, 1)}, quantize, pictures)
    files = []
    for name, graph in graphs.graphs(model, form, 1, from_features=True, **settings).items():
        file = smaller({name: graph}, "int8")
        files.append(chain(encoder, file) if "features" in graph.inputs else file)
    return functools.reduce(side_by_side, files)


def smaller(parts: Mapping[str, graphs.Graph], quantize: str | None) -> bytes:
    """Graphs as a LiteRT file, whose int8 form is mended where the converter's is poor."""
    file = convert(parts, quantize)
    if quantize != "int8":
        return file
    return with_tables_once(with_exact_convolutions(file, convert(parts, None)))


def convert(parts: Mapping[str, graphs.Graph], quantize: str | None, pictures: np.ndarray | None = None) -> bytes:
    """Graphs as a LiteRT file with a signature for each."""
    with tempfile.TemporaryDirectory() as folder:
        module = tf.Module()
        signatures = {name: _signature(graph) for name, graph in parts.items()}
        tf.saved_model.save(module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(parts))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if pictures is not None:
            converter.representative_dataset = lambda: ([picture[None]] for picture in pictures)
        try:
            return converter.convert()
        except Exception as error:
            raise NoBuiltin(_explained(error, parts)) from error


def _signature(graph: graphs.Graph) -> Any:
    """The frozen graph as a function whose outputs bear their names."""

    def call(*values: Any) -> dict:
        return dict(zip(graph.outputs, tf.nest.flatten(graph.function(*values)), strict=True))

    specs = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name)
        for tensor, name in zip(graph.function.inputs, graph.inputs, strict=True)
    ]
    return tf.function(call, input_signature=specs, autograph=False)


def _explained(error: Exception, parts: Mapping[str, graphs.Graph]) -> str:
    """Which operations of which layers LiteRT does not have."""
    missing = set(re.findall(r"'?tf\.(\w+)'? op is neither", str(error)))
    missing |= set(re.findall(r"\btf\.(\w+)\(", str(error)))
    found = set()
    for graph in parts.values():
        definition = graph.function.graph.as_graph_def()
        nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
        found |= {(node.op, node.name.rpartition("/")[0]) for node in nodes if node.op in missing}
    told = ", ".join(f"{op} (in {layer})" for op, layer in sorted(found)) or str(error)[:600]
    return f"LiteRT has no builtin for {told}. Replace the layer, for example by another image_encoder or fusion"


schema = litert_schema()
_OPERATORS, _TYPES = schema.BuiltinOperator, schema.TensorType


def side_by_side(first: bytes, second: bytes) -> bytes:
    """A file with the signatures of both, and nothing shared."""
    left, right = _read(first), _read(second)
    _shift(left, right, subgraphs=len(left.subgraphs))
    for signature in right.signatureDefs:
        signature.subgraphIndex += len(left.subgraphs)
    left.signatureDefs += right.signatureDefs
    left.subgraphs += right.subgraphs
    return _packed(left)


def chain(first: bytes, second: bytes) -> bytes:
    """A file in which the outputs of the first are inputs of the second, by name; its signature is the second's."""
    left, right = _read(first), _read(second)
    # The second's main graph dissolves in the first's, so the others move down by one.
    _shift(left, right, subgraphs=len(left.subgraphs) - 1)
    main, rest = left.subgraphs[0], right.subgraphs[0]
    before, after = left.signatureDefs[0], right.signatureDefs[0]
    made = {one.name: one.tensorIndex for one in before.outputs}
    place = [len(main.tensors) + i for i in range(len(rest.tensors))]
    more = [one for one in after.inputs if one.name not in made]
    for one in after.inputs:
        if one.name in made:
            place[one.tensorIndex] = made[one.name]
    main.tensors += rest.tensors  # those of its inputs are left unused
    for operator in rest.operators:
        for field in ("inputs", "outputs", "intermediates"):
            tensors = getattr(operator, field)
            if tensors is not None:
                setattr(operator, field, [place[i] if i >= 0 else -1 for i in tensors])
    main.operators += rest.operators
    for one in (*more, *after.outputs):
        one.tensorIndex = place[one.tensorIndex]
    main.inputs = [*main.inputs, *(one.tensorIndex for one in more)]
    main.outputs = [place[i] for i in rest.outputs]
    before.signatureKey, before.outputs = after.signatureKey, after.outputs
    before.inputs += more
    left.subgraphs += right.subgraphs[1:]
    return _packed(left)


def with_exact_convolutions(quantized: bytes, exact: bytes) -> bytes:
    """`quantized` with convolutions that compute in float, by weights of `exact`, the same graphs in float32.

    The converter rounds what enters a convolution to 8 bits, too. In a light encoder that changed one caption in eight,
    and took longer. Here only the weights are rounded, and unpacked once, when the file is loaded: where there are many
    of them to 8 bits with a scale per channel, else to float16. The first, small convolutions of a MobileNetV2 make two
    thirds of the error and hold a thirtieth of the weights; depthwise ones are small as well.
    """
    model, floats = _read(quantized), _read(exact)
    for graph, whole in zip(model.subgraphs, floats.subgraphs, strict=True):
        for operator, original in zip(_convolutions(model, graph), _convolutions(floats, whole), strict=True):
            weights = whole.tensors[original.inputs[1]]
            packed = floats.buffers[weights.buffer].data
            if packed is None or graph.tensors[operator.inputs[0]].type != _TYPES.FLOAT32:
                continue  # weights that are computed, or a convolution of whole numbers
            values = np.asarray(packed, "uint8").view("float32").reshape(weights.shape)
            across = model.operatorCodes[operator.opcodeIndex].builtinCode == _OPERATORS.CONV_2D
            stored = (_bytes if across and values.size >= MANY else _halves)(model, graph, weights, values)
            step = schema.OperatorT()
            step.opcodeIndex = _unpacking(model)
            step.inputs, step.outputs = [stored], [_tensor(graph, weights, _TYPES.FLOAT32, 0)]
            graph.operators.insert(graph.operators.index(operator), step)
            operator.inputs = [operator.inputs[0], step.outputs[0], *operator.inputs[2:]]
    return _packed(model)


def _unpacking(model: Any) -> int:
    """The number of the operator that makes floats of what is stored smaller."""
    for number, code in enumerate(model.operatorCodes):
        if code.builtinCode == _OPERATORS.DEQUANTIZE and code.version >= 5:
            return number
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = _OPERATORS.DEQUANTIZE
    code.version = 5  # the first that reads a scale per channel
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _halves(model: Any, graph: Any, like: Any, values: np.ndarray) -> int:
    return _tensor(graph, like, _TYPES.FLOAT16, _buffer(model, values.astype("float16")))


def _bytes(model: Any, graph: Any, like: Any, values: np.ndarray) -> int:
    """In 8 bits, with a scale for each of the channels that a convolution makes, its weights' first axis."""
    scales = np.maximum(np.abs(values).reshape(len(values), -1).max(axis=1) / 127, np.finfo("float32").tiny)
    whole = np.rint(values / scales.reshape(-1, 1, 1, 1)).astype("int8")
    number = _tensor(graph, like, _TYPES.INT8, _buffer(model, whole))
    rounding = schema.QuantizationParametersT()
    rounding.scale, rounding.zeroPoint = scales.astype("float32"), np.zeros(len(scales), "int64")
    rounding.quantizedDimension = 0
    graph.tensors[number].quantization = rounding
    return number


def _buffer(model: Any, values: np.ndarray) -> int:
    buffer = schema.BufferT()
    buffer.data = np.ascontiguousarray(values).reshape(-1).view("uint8")
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def _convolutions(model: Any, graph: Any) -> list:
    kinds = (_OPERATORS.CONV_2D, _OPERATORS.DEPTHWISE_CONV_2D)
    return [one for one in graph.operators if model.operatorCodes[one.opcodeIndex].builtinCode in kinds]


def _tensor(graph: Any, like: Any, kind: int, buffer: int) -> int:
    """A new tensor's number. Buffer 0 is the empty one, of tensors that are computed."""
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.buffer = like.shape, kind, buffer
    tensor.name = f"convolution/{len(graph.tensors)}".encode()
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def with_tables_once(quantized: bytes) -> bytes:
    """The file with one copy of a table that is both looked up in and multiplied by, as the words of a captioner are.

    The converter rounds it twice: with one scale for the look-up, with a scale per row for the product.
    """
    model = _read(quantized)
    tables = [
        tensor
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type == _TYPES.INT8 and len(tensor.shape) == 2 and len(_scales(tensor)) in (1, tensor.shape[0])
    ]
    for coarse in [tensor for tensor in tables if len(_scales(tensor)) == 1]:
        for fine in tables:
            alike = len(_scales(fine)) > 1 and tuple(fine.shape) == tuple(coarse.shape)
            if alike and np.abs(_values(model, coarse) - _values(model, fine)).max() <= _scales(coarse)[0]:
                fine.buffer, fine.quantization = coarse.buffer, coarse.quantization
    return _packed(model)


def _scales(tensor: Any) -> np.ndarray:
    given = tensor.quantization
    return np.zeros(0) if given is None or given.scale is None else np.asarray(given.scale, "float32")


def _values(model: Any, tensor: Any) -> np.ndarray:
    data = np.asarray(model.buffers[tensor.buffer].data, "uint8").view("int8").reshape(tensor.shape)
    return data * _scales(tensor)[:, None]


def _shift(left: Any, right: Any, subgraphs: int) -> None:
    """Give what the right file counts (operator codes, buffers, subgraphs) the numbers it will have in the left."""
    codes, buffers = len(left.operatorCodes), len(left.buffers)
    left.operatorCodes += right.operatorCodes
    left.buffers += right.buffers
    for graph in right.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer += buffers
        for operator in graph.operators:
            operator.opcodeIndex += codes
            options = operator.builtinOptions
            for field in [] if options is None else vars(options):
                if field.endswith("SubgraphIndex"):  # of loops and branches
                    setattr(options, field, getattr(options, field) + subgraphs)


def _read(file: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(file, 0)


def _packed(model: Any) -> bytes:
    model.metadata, model.metadataBuffer = None, None  # notes of the converter, which count by old numbers
    used = set()
    for graph in model.subgraphs:
        read = [i for one in graph.operators for i in one.inputs if i >= 0]
        used |= {graph.tensors[i].buffer for i in (*read, *graph.outputs)}
    for number, buffer in enumerate(model.buffers):
        if number not in used:
            buffer.data = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
