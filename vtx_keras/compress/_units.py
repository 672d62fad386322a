"""What can be taken out of a model, and what data say about it.

A `Group` are units that one matrix reads, such as the neurons of an MLP: a unit goes with the columns that write it and
the rows that read it. Blocks of the fusion, of a transformer as encoder, and inverted residuals (EfficientNet-Lite,
MobileNetV2) have them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np

from vtx_keras.inputs.text import PAD
from vtx_keras.models._base import VisionText, leaves
from vtx_keras.models.blocks import Attention, Block
from vtx_keras.models.concepts import Concepts
from vtx_keras.models.encoders import IMAGES
from vtx_keras.models.fusion import MergedAttn
from vtx_keras.models.layers import RowDense

__all__ = ["Group", "Read", "blocks_of", "grams", "groups_of", "inputs_of", "matrices_of", "solved", "watched"]
MOST_ROWS = 8192  # of one batch that a layer's statistics take
MOST_EXAMPLES = 512  # more change little
RIDGE = 1e-3  # beside the mean of a Gram matrix's diagonal, so that it can be inverted


@dataclass
class Group:
    """Units of one kind in one block: `count` of them, each `width` rows of the matrix that reads them."""

    place: str  # of the block, as the option `shapes` names it
    shape: str  # what the option `shapes` calls their number
    count: int
    width: int
    reader: keras.layers.Layer
    written: list[tuple[Any, int, int]] = field(default_factory=list)  # variable, its axis, how many runs along it

    @property
    def cost(self) -> int:
        """The number of parameters that go with one unit."""
        read = matrix_of(self.reader).size // self.count
        return read + sum(np.prod(one.shape, dtype=int) // self.count for one, _, _ in self.written)

    def rows(self, units: Iterable[int]) -> np.ndarray:
        """Return the rows of the reader's matrix that belong to these units."""
        return (np.asarray(list(units), int)[:, None] * self.width + np.arange(self.width)).ravel()


def matrix_of(layer: keras.layers.Layer) -> np.ndarray:
    """Return the kernel of a dense layer or of a 1 × 1 convolution as a matrix (inputs, outputs)."""
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    return kernel.reshape(-1, kernel.shape[-1])


def blocks_of(model: VisionText) -> dict[str, Block]:
    """Return the transformer blocks of a model whose shape is free, by the names that the option `shapes` has."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, Block) and layer.name.startswith("fusion_"):
            found[layer.name] = layer
    for encoder in ("image_encoder", "text_encoder"):
        if model.options.get(encoder) in ("vit", "transformer"):
            inside = leaves(model.get_layer(encoder), stop_at=Block)
            found |= {f"{encoder}/{one.name}": one for one in inside if isinstance(one, Block)}
    return found


def groups_of(model: VisionText, by: str) -> list[Group]:
    """Return the groups of "neurons", "heads" or "channels"."""
    if by == "channels":
        return _channels(model)
    groups = []
    for place, block in blocks_of(model).items():
        if by == "neurons" and not block.mlp.ranks:
            writers = [block.mlp.up, *([block.mlp.gate] if block.mlp.gated else [])]
            groups.append(Group(place, "hidden", block.mlp.hidden, 1, block.mlp.down, _columns(writers)))
        if by == "heads":
            parts = {"heads": block.attention, "fusion_heads": getattr(block, "cross_attention", None)}
            groups += [_heads(place, shape, part) for shape, part in parts.items() if part and not part.ranks]
    return groups


def _heads(place: str, shape: str, part: Attention) -> Group:
    written = [*_columns([part.query]), *_columns([part.key_value], runs=2)]
    return Group(place, shape, part.heads, part.width, part.output_projection, written)


def _columns(writers: Iterable[RowDense], runs: int = 1) -> list[tuple[Any, int, int]]:
    return [
        (variable, axis, runs)
        for writer in writers
        for variable, axis in ((writer.kernel, 1), (writer.bias, 0))
        if variable is not None
    ]


def _channels(model: VisionText) -> list[Group]:
    if model.options.get("image_encoder") not in IMAGES:  # names alike in other networks mean other layers
        return []
    layers = {layer.name: layer for layer in leaves(model.get_layer("image_encoder"))}
    groups = []
    for name, reader in layers.items():
        block, _, role = name.rpartition("_")
        expand = layers.get(f"{block}_expand")
        if role != "project" or expand is None:
            continue
        deep = layers[f"{block}_depthwise"]
        written = [(expand.kernel, 3, 1), (deep.kernel, 2, 1)]
        norms = (layers[f"{block}_expand_bn"], layers[f"{block}_depthwise_bn"])
        written += [(variable, 0, 1) for norm in norms for variable in norm.weights]
        groups.append(Group(f"image_encoder/{block}", "channels", expand.filters, 1, reader, written))
    return groups


def matrices_of(model: VisionText) -> dict[tuple[str, str], Any]:
    """Return the layers whose matrix `factor` may split, by block and by name in the block."""
    found: dict[tuple[str, str], Any] = {}
    if model.has_layer("concepts") and not model.get_layer("concepts").rank:
        found["concepts", "kernel"] = model.get_layer("concepts")
    for place, block in blocks_of(model).items():
        parts = [block.attention, *([block.cross_attention] if hasattr(block, "cross_attention") else []), block.mlp]
        for part in parts:
            for dense in leaves(part):
                if type(dense) is RowDense:
                    found[place, f"{part.name}/{dense.name}"] = dense
    return found


# --- what data say


def inputs_of(data: Iterable) -> Iterator[dict]:
    """Yield the inputs of batches as `fit` takes them, of `MOST_EXAMPLES` examples at most."""
    count = 0
    for batch in data:
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        if not isinstance(inputs, dict) or "image" not in inputs:
            raise TypeError("data: expected batches as `fit` takes them, from data.batches or data.arrays")
        yield inputs
        count += len(inputs["image"])
        if count >= MOST_EXAMPLES:
            return
    if not count:
        raise ValueError("data has no batch: expected some examples that the model meets in use")


@contextlib.contextmanager
def watched(layers: Iterable[keras.layers.Layer], seen: Callable[..., None], method: str = "call") -> Iterator[None]:
    """Call `seen(layer, output, *inputs)` for every call of a method of these layers inside the `with` block."""
    layers = list(layers)

    def watching(layer: keras.layers.Layer) -> Callable:
        call = getattr(layer, method)

        def and_tell(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            seen(layer, output, *args)
            return output

        return and_tell

    for layer in layers:
        setattr(layer, method, watching(layer))
    try:
        yield
    finally:
        for layer in layers:
            delattr(layer, method)


class Read(NamedTuple):
    """What a layer reads over some data: the mean of xᵀx, or of the deviations from the mean x if it has a bias."""

    gram: np.ndarray
    mean: np.ndarray  # zeros of a layer without bias


def grams(model: VisionText, layers: Iterable[keras.layers.Layer], data: Iterable) -> dict[int, Read]:
    """Return what each layer reads, by its id. Padding of texts does not count."""
    sums: dict[int, Any] = {}
    means: dict[int, Any] = {}
    counts: dict[int, int] = {}
    words: np.ndarray
    layers = list(layers)
    seeing = [model.get_layer("image_encoder")] if model.has_layer("image_encoder") else []
    of_image = {id(leaf) for encoder in seeing for leaf in leaves(encoder)}
    blocks = blocks_of(model).values()
    of_image |= {id(block.cross_attention.key_value) for block in blocks if hasattr(block, "cross_attention")}
    merged = {id(leaf) for block in blocks if isinstance(block, MergedAttn) for leaf in leaves(block)}

    def seen(layer: keras.layers.Layer, output: Any, x: Any, *others: Any) -> None:
        del output, others
        x = keras.ops.convert_to_numpy(x).astype("float32")
        if isinstance(layer, Concepts):
            x = x.mean(axis=tuple(range(1, x.ndim - 1)))
        before = x.shape[1] - words.shape[1] if id(layer) in merged else 0  # image tokens
        if x.ndim == 3 and id(layer) not in of_image and x.shape[1] == before + words.shape[1]:
            x = x[np.pad(words, ((0, 0), (before, 0)), constant_values=True)]
        rows = x.reshape(-1, x.shape[-1])
        rows = rows[:: max(1, len(rows) // MOST_ROWS)].astype("float64")  # else what hardly varies rounds below zero
        means[id(layer)] = means.get(id(layer), 0) + rows.sum(axis=0)
        sums[id(layer)] = sums.get(id(layer), 0) + rows.T @ rows
        counts[id(layer)] = counts.get(id(layer), 0) + len(rows)

    with watched(layers, seen):
        for inputs in inputs_of(data):
            words = keras.ops.convert_to_numpy(inputs["tokens"]) != PAD
            model(inputs, training=False)
    found = {}
    for layer in layers:
        key = id(layer)
        gram, mean = sums[key] / max(1, counts[key]), means[key] / max(1, counts[key])
        if getattr(layer, "bias", None) is None:
            found[key] = Read(gram, 0 * mean)
        else:
            rounding = 1e-6 * np.mean(np.diag(gram)) * np.eye(len(gram))
            found[key] = Read(gram - np.outer(mean, mean) + rounding, mean)
    return found


def solved(gram: np.ndarray) -> np.ndarray:
    """Return a Gram matrix that can be inverted."""
    return gram + RIDGE * np.mean(np.diag(gram)) * np.eye(len(gram)) + 1e-12 * np.eye(len(gram))
