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

import numpy as np
import tensorflow as tf

from vtx_keras.export import companions, graphs, surgery, verify
from vtx_keras.models import Captioner, Retriever
from vtx_keras.vision_text import VisionText

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
            verify.run("run_litert", target, inputs),
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
        files.append(surgery.chain(encoder, file) if "features" in graph.inputs else file)
    return functools.reduce(surgery.side_by_side, files)


def smaller(parts: Mapping[str, graphs.Graph], quantize: str | None) -> bytes:
    """Graphs as a LiteRT file, whose int8 form is mended where the converter's is poor."""
    file = convert(parts, quantize)
    if quantize != "int8":
        return file
    return surgery.with_tables_once(surgery.with_exact_convolutions(file, convert(parts, None)))


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
