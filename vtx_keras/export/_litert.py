"""Export a model to one LiteRT file of builtin operations, for phones and small computers."""

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
from vtx_keras.export import _drawings, _graphs, _verify
from vtx_keras.models._base import VisionText
from vtx_keras.models._drawing import Generator
from vtx_keras.models._methods import Captioner, Retriever

QUANTIZE = (None, "float16", "int8", "int8_encoder")

BYTES = {None: 4, "float16": 2, "int8": 1, "int8_encoder": 1}  # of a weight
MAX_BYTES = 2**31  # of a flatbuffer


class NoBuiltin(ValueError):
    """The model uses an operation that LiteRT does not have."""


def litert(
    model: VisionText,
    path: str | os.PathLike,
    *,
    form: str = "one",
    quantize: str | None = None,
    beams: int = 1,
    max_length: int | None = None,
    prompt: str | None = None,
    attention: bool = False,
    verify_data: Iterable[Mapping[str, Any]] | None = None,
    share: float | None = None,
) -> _verify.Report:
    """Write `model` as a `.tflite` file, run it in LiteRT, and report how its results compare with the model's.

    The input `image` is uint8 (1, h, w, 3) at the model's size. A captioner outputs int32 `ids` (1, length), 0-padded,
    and `score`; form "split" has the signatures `encode` and `decode_step` instead, for programs that show each word
    as it comes. A vqa model, classifier or matcher also takes `tokens` (1, length) and outputs `logits`; a retriever
    has the signatures `image` and `text`; a generator takes `tokens` and `noise` (1, numbers), which are normally
    distributed, and outputs `image`. Vocabulary, labels and how to prepare an image are in a zip at the end of
    the file.

    Beams, length and prompt (of form "one") are fixed in the file; by default they are those of `generate`.

    `quantize` is None (float32), "float16" (half the size), "int8" (a quarter to a third of the size: 8-bit weights,
    16-bit ones in small convolutions, sums in float) or "int8_encoder" (for accelerators that compute only integers:
    the image encoder entirely in 8 bits, calibrated on the images of `verify_data`, the rest as "int8"). `share` of
    the results must be identical to the model's: by default all; of a quantized file 95 %, or else a metric within 1 %.

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
    if quantize == "int8_encoder" and isinstance(model, Generator):
        raise ValueError('quantize="int8_encoder": a generator has no image encoder: choose "int8"')
    _graphs.check(model, form, beams, max_length, prompt, attention)
    model = _drawings.in_float32(model)
    check_size(model, quantize)
    _verify.check_destination(Path(path))
    settings = {"beams": beams, "max_length": max_length, "prompt": prompt} if isinstance(model, Captioner) else {}
    seen: dict[str, Any] = {"attention": True} if attention else {}
    examples = _verify.load_examples(model, verify_data)
    inputs = examples.arrays()

    def write(target: Path) -> None:
        network = convert_model(model, form, quantize, examples.images, **settings, **seen)
        target.write_bytes(network)
        with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as archive:
            for name, content in _graphs.companion_files(model, form, network, **settings, **seen).items():
                archive.writestr(name, content)

    def compare(target: Path) -> _verify.Report:
        return _verify.compare(
            model,
            examples,
            _verify.expected(model, examples, **settings),
            _verify.run("litert", target, inputs),
            path=Path(path),
            share=share,
            quantize=quantize,
            format="litert",
            form="towers" if isinstance(model, Retriever) else form,
            megabytes=_verify.size_of(target),
            settings=settings,
            versions={name: version(name) for name in ("tensorflow", "ai-edge-litert")},
            next_command=f"python export/mobile/run.py {path}"
            + " photo.png" * bool(examples.sources)
            + ' "a text"' * (examples.texts is not None),
        )

    return _verify.write_verified(path, write, compare)


def check_size(model: VisionText, quantize: str | None) -> None:
    """Refuse a model whose file would be larger than a flatbuffer can be, before any work is done."""
    stored = _drawings.part_of(model).count_params() * BYTES[quantize]
    if stored > MAX_BYTES:
        raise ValueError(
            f"the file would have {stored / 1e9:.1f} GB, and LiteRT reads {MAX_BYTES / 1e9:.1f}: choose "
            'quantize="float16" or "int8", a smaller model, or export.onnx, which has no bound'
        )


def convert_model(model: VisionText, form: str, quantize: str | None, images: np.ndarray, **settings: Any) -> bytes:
    """Return the file's content without the zip at its end. `images` calibrate "int8_encoder"."""
    if quantize != "int8_encoder":
        return convert_graphs(_graphs.graphs(model, form, 1, **settings), quantize)
    encoder = run_converter({"image": _graphs.image_encoder(model, 1)}, quantize, images)
    files = []
    for name, graph in _graphs.graphs(model, form, 1, from_features=True, **settings).items():
        file = convert_graphs({name: graph}, "int8")
        files.append(chain(encoder, file) if "features" in graph.inputs else file)
    return functools.reduce(merge, files)


def convert_graphs(parts: Mapping[str, _graphs.Graph], quantize: str | None) -> bytes:
    """Return graphs as a LiteRT file, correcting what the converter's int8 form does poorly."""
    file = run_converter(parts, quantize)
    if quantize != "int8":
        return file
    return deduplicate_tables(with_float_convolutions(file, run_converter(parts, None)))


def run_converter(parts: Mapping[str, _graphs.Graph], quantize: str | None, images: np.ndarray | None = None) -> bytes:
    """Return graphs as a LiteRT file with a signature for each, as TensorFlow's converter makes it."""
    with tempfile.TemporaryDirectory() as folder:
        module = tf.Module()
        module.held = [graph.function.variables for graph in parts.values()]  # the converter makes them constants
        signatures = {name: _signature(graph) for name, graph in parts.items()}
        tf.saved_model.save(module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(parts))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if images is not None:
            converter.representative_dataset = lambda: ([image[None]] for image in images)
        try:
            return converter.convert()
        except Exception as error:
            raise NoBuiltin(_missing_operations(error, parts)) from error


def _signature(graph: _graphs.Graph) -> Any:
    """Return the graph as a function that names its outputs."""

    def call(*values: Any) -> dict:
        return dict(zip(graph.outputs, tf.nest.flatten(graph.function(*values)), strict=True))

    specs = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name)
        for tensor, name in zip(graph.function.inputs, graph.inputs, strict=False)  # weights come after the inputs
    ]
    return tf.function(call, input_signature=specs, autograph=False)


def _missing_operations(error: Exception, parts: Mapping[str, _graphs.Graph]) -> str:
    """Name the operations that LiteRT does not have, and the layers that use them."""
    missing = set(re.findall(r"'?tf\.(\w+)'? op is neither", str(error)))
    missing |= set(re.findall(r"\btf\.(\w+)\(", str(error)))
    used = set()
    for graph in parts.values():
        definition = graph.function.graph.as_graph_def()
        nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
        used |= {(node.op, node.name.rpartition("/")[0]) for node in nodes if node.op in missing}
    names = ", ".join(f"{op} (in {layer})" for op, layer in sorted(used)) or str(error)[:600]
    return f"LiteRT has no builtin for {names}. Replace the layer, for example by another image_encoder or fusion"


# --- editing the files that the converter makes: joining them, and storing weights in another way


schema = litert_schema()
_OPERATORS, _TYPES = schema.BuiltinOperator, schema.TensorType


def merge(first: bytes, second: bytes) -> bytes:
    """Return a file with the signatures of both, which share nothing."""
    left, right = _parse(first), _parse(second)
    _renumber(left, right, subgraphs=len(left.subgraphs))
    for signature in right.signatureDefs:
        signature.subgraphIndex += len(left.subgraphs)
    left.signatureDefs += right.signatureDefs
    left.subgraphs += right.subgraphs
    return _serialize(left)


def chain(first: bytes, second: bytes) -> bytes:
    """Return a file that feeds the outputs of `first` to the inputs of `second` of the same names.

    Its signature has the name of the second's.
    """
    left, right = _parse(first), _parse(second)
    # The second's main graph becomes part of the first's, so its other graphs move down by one.
    _renumber(left, right, subgraphs=len(left.subgraphs) - 1)
    main, appended = left.subgraphs[0], right.subgraphs[0]
    before, after = left.signatureDefs[0], right.signatureDefs[0]
    produced = {output.name: output.tensorIndex for output in before.outputs}
    place = [len(main.tensors) + i for i in range(len(appended.tensors))]
    new_inputs = [one for one in after.inputs if one.name not in produced]
    for one in after.inputs:
        if one.name in produced:
            place[one.tensorIndex] = produced[one.name]
    main.tensors += appended.tensors  # the tensors of the inputs that are fed stay unused
    for operator in appended.operators:
        for field in ("inputs", "outputs", "intermediates"):
            tensors = getattr(operator, field)
            if tensors is not None:
                setattr(operator, field, [place[i] if i >= 0 else -1 for i in tensors])
    main.operators += appended.operators
    for one in (*new_inputs, *after.outputs):
        one.tensorIndex = place[one.tensorIndex]
    main.inputs = [*main.inputs, *(one.tensorIndex for one in new_inputs)]
    main.outputs = [place[i] for i in appended.outputs]
    before.signatureKey, before.outputs = after.signatureKey, after.outputs
    before.inputs += new_inputs
    left.subgraphs += right.subgraphs[1:]
    return _serialize(left)


def with_float_convolutions(quantized: bytes, exact: bytes) -> bytes:
    """Make the convolutions of `quantized` compute in float, with weights from `exact`, the same graphs in float32.

    The converter also rounds the inputs of a convolution to 8 bits. In a light encoder that changed one caption in
    eight, and was slower. Here only the weights are rounded, and unpacked once, when the file is loaded: large ones
    to 8 bits with a scale per channel, others to float16. The first, small convolutions of a MobileNetV2 cause two
    thirds of the error and hold a thirtieth of the weights; depthwise ones are small as well.
    """
    model, floats = _parse(quantized), _parse(exact)
    for graph, exact_graph in zip(model.subgraphs, floats.subgraphs, strict=True):
        for operator, original in zip(_convolutions(model, graph), _convolutions(floats, exact_graph), strict=True):
            weights = exact_graph.tensors[original.inputs[1]]
            data = floats.buffers[weights.buffer].data
            if data is None or graph.tensors[operator.inputs[0]].type != _TYPES.FLOAT32:
                continue  # weights that are computed, or an integer convolution
            values = np.asarray(data, "uint8").view("float32").reshape(weights.shape)
            plain = model.operatorCodes[operator.opcodeIndex].builtinCode == _OPERATORS.CONV_2D  # not depthwise
            store = _add_int8 if plain and values.size >= _graphs.MIN_INT8_SIZE else _add_float16
            unpack = schema.OperatorT()
            unpack.opcodeIndex = _dequantize_code(model)
            unpack.inputs = [store(model, graph, weights, values)]
            unpack.outputs = [_add_tensor(graph, weights, _TYPES.FLOAT32, 0)]
            graph.operators.insert(graph.operators.index(operator), unpack)
            operator.inputs = [operator.inputs[0], unpack.outputs[0], *operator.inputs[2:]]
    return _serialize(model)


def deduplicate_tables(quantized: bytes) -> bytes:
    """Keep one copy of a table that is both looked up and multiplied by, such as a captioner's word table.

    The converter rounds it twice: with one scale for the look-up, and with a scale per row for the product.
    """
    model = _parse(quantized)
    tables = [
        tensor
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type == _TYPES.INT8 and len(tensor.shape) == 2 and len(_scales(tensor)) in (1, tensor.shape[0])
    ]
    for coarse in [tensor for tensor in tables if len(_scales(tensor)) == 1]:
        for fine in tables:
            alike = len(_scales(fine)) > 1 and tuple(fine.shape) == tuple(coarse.shape)
            if alike and np.abs(_dequantized(model, coarse) - _dequantized(model, fine)).max() <= _scales(coarse)[0]:
                fine.buffer, fine.quantization = coarse.buffer, coarse.quantization
    return _serialize(model)


def _scales(tensor: Any) -> np.ndarray:
    quantization = tensor.quantization
    empty = quantization is None or quantization.scale is None
    return np.zeros(0) if empty else np.asarray(quantization.scale, "float32")


def _dequantized(model: Any, tensor: Any) -> np.ndarray:
    data = np.asarray(model.buffers[tensor.buffer].data, "uint8").view("int8").reshape(tensor.shape)
    return data * _scales(tensor)[:, None]


def _convolutions(model: Any, graph: Any) -> list:
    codes = (_OPERATORS.CONV_2D, _OPERATORS.DEPTHWISE_CONV_2D)
    return [one for one in graph.operators if model.operatorCodes[one.opcodeIndex].builtinCode in codes]


def _dequantize_code(model: Any) -> int:
    """Return the number of the operator that turns float16 or int8 into float32, adding it where it is missing."""
    for number, code in enumerate(model.operatorCodes):
        if code.builtinCode == _OPERATORS.DEQUANTIZE and code.version >= 5:
            return number
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = _OPERATORS.DEQUANTIZE
    code.version = 5  # the first that reads a scale per channel
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _add_float16(model: Any, graph: Any, like: Any, values: np.ndarray) -> int:
    return _add_tensor(graph, like, _TYPES.FLOAT16, _add_buffer(model, values.astype("float16")))


def _add_int8(model: Any, graph: Any, like: Any, values: np.ndarray) -> int:
    """Store weights in 8 bits, with a scale for each output channel, which is their first axis."""
    scales = np.maximum(np.abs(values).reshape(len(values), -1).max(axis=1) / 127, np.finfo("float32").tiny)
    rounded = np.rint(values / scales.reshape(-1, 1, 1, 1)).astype("int8")
    number = _add_tensor(graph, like, _TYPES.INT8, _add_buffer(model, rounded))
    quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = scales.astype("float32"), np.zeros(len(scales), "int64")
    quantization.quantizedDimension = 0
    graph.tensors[number].quantization = quantization
    return number


def _add_tensor(graph: Any, like: Any, kind: int, buffer: int) -> int:
    """Add a tensor and return its number. Buffer 0 is the empty one, of tensors that are computed."""
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.buffer = like.shape, kind, buffer
    tensor.name = f"convolution/{len(graph.tensors)}".encode()
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _add_buffer(model: Any, values: np.ndarray) -> int:
    buffer = schema.BufferT()
    buffer.data = np.ascontiguousarray(values).reshape(-1).view("uint8")
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def _renumber(left: Any, right: Any, subgraphs: int) -> None:
    """Shift the right file's operator codes, buffers and subgraphs to the numbers they will have in the left file."""
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


def _parse(file: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(file, 0)


def _serialize(model: Any) -> bytes:
    """Return the file's bytes, without the data of buffers that nothing reads any more."""
    model.metadata, model.metadataBuffer = None, None  # the converter's notes refer to the old numbers
    used = set()
    for graph in model.subgraphs:
        read = [i for operator in graph.operators for i in operator.inputs if i >= 0]
        used |= {graph.tensors[i].buffer for i in (*read, *graph.outputs)}
    for number, buffer in enumerate(model.buffers):
        if number not in used:
            buffer.data = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
