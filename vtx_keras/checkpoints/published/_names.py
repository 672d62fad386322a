"""Names: which tensors of a checkpoint become which variables. Every variable and every tensor must find its other.

An architecture gives a table from the path of a layer to the name of a tensor without its last part, or a `Source`.

    >>> layer = keras.layers.Dense(2, name="up")
    >>> model = keras.Sequential([keras.Input((3,)), layer])
    >>> tensors = {"fc.weight": np.ones((2, 3), "float32"), "fc.bias": np.zeros(2, "float32")}
    >>> assign(model, {"up": "fc"}, tensors)
    >>> float(layer.kernel[0, 0])
    1.0
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from vtx_keras._compat import sublayers
from vtx_keras.checkpoints._folder import BadWeights

SHOWN = 8  # tensors that an error names


class Source(NamedTuple):
    """The tensors of a layer: side by side along the outputs, or some `parts` of `of` that a tensor is divided into.

    A linear layer of PyTorch holds (outputs, inputs), GPT-2's holds (`inputs_first`) inputs, outputs. `make` turns the
    tensors, by the last part of their names, into variables by name, where a layer has its own form.
    """

    names: tuple[str, ...]
    parts: tuple[int, ...] = ()
    of: int = 1
    inputs_first: bool = False
    make: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] | None = None


def side_by_side(*names: str) -> Source:
    """Return the source of a layer whose outputs come from several."""
    return Source(names)


def thirds(name: str, *parts: int, inputs_first: bool = False) -> Source:
    """Return the source of a layer that is one or two of the thirds query, key, value of a fused one."""
    return Source((name,), parts, 3, inputs_first)


def conv1d(name: str) -> Source:
    """Return the source of a layer that GPT-2 stores with its inputs first."""
    return Source((name,), inputs_first=True)


def tensor(name: str, variable: str, change: Callable[[np.ndarray], np.ndarray] = lambda value: value) -> Source:
    """Return the source of a layer with one variable, from a tensor whose whole name this is."""
    return Source((name,), make=lambda values: {variable: change(values[name])})


def bert_block(ours: str, theirs: str, part: str = "attention", layer: str = "attention") -> dict[str, str | Source]:
    """Return the tensors of attention in a block of BERT, and of its MLP; `part` and `layer` name the attention.

    >>> sorted(bert_block("fusion_0/", "encoder.layer.0."))[:2]
    ['fusion_0/attention/key_value', 'fusion_0/attention/output']
    """
    own, norm = f"{theirs}{part}.self.", {"attention": "attention_norm", "cross_attention": "fusion_norm"}[layer]
    return {
        f"{ours}{layer}/query": own + "query",
        f"{ours}{layer}/key_value": side_by_side(own + "key", own + "value"),
        f"{ours}{layer}/output": f"{theirs}{part}.output.dense",
        f"{ours}{norm}": f"{theirs}{part}.output.LayerNorm",
        f"{ours}mlp/up": f"{theirs}intermediate.dense",
        f"{ours}mlp/down": f"{theirs}output.dense",
        f"{ours}mlp_norm": f"{theirs}output.LayerNorm",
    }


def vit_block(ours: str, theirs: str) -> dict[str, str | Source]:
    """Return the tensors of a block of ViT.

    >>> vit_block("block_0/", "encoder.layer.0.")["block_0/mlp_norm"]
    'encoder.layer.0.layernorm_after'
    """
    own = f"{theirs}attention.attention."
    return {
        f"{ours}attention_norm": f"{theirs}layernorm_before",
        f"{ours}attention/query": own + "query",
        f"{ours}attention/key_value": side_by_side(own + "key", own + "value"),
        f"{ours}attention/output": f"{theirs}attention.output.dense",
        f"{ours}mlp_norm": f"{theirs}layernorm_after",
        f"{ours}mlp/up": f"{theirs}intermediate.dense",
        f"{ours}mlp/down": f"{theirs}output.dense",
    }


IN_TORCH = {
    "kernel": "weight",
    "gamma": "weight",
    "scale": "weight",
    "embeddings": "weight",
    "bias": "bias",
    "beta": "bias",
}


def assign(
    model: keras.Model,
    table: Mapping[str, str | Source],
    tensors: Mapping[str, np.ndarray],
    *,
    spare: Sequence[str] = (),
    tied: Mapping[str, str] = {},
    of: Callable[[str], bool] = lambda path: True,
    what: str = "the checkpoint",
) -> None:
    """Give every variable of a model its tensor. A missing, left-over or misshapen one is an error with its name.

    `spare` are patterns of tensors that are left over by design, `tied` those that repeat others, which they must
    equal. Nothing is assigned unless everything fits. Layers whose path is not `of` it are left as they are.
    """
    layers = {path: own for path, own in by_path(model) if of(path)}
    wrong = [f"{path}: expected a source in the table of names" for path in layers if path not in table]
    wrong += [f"{path}: named in the table, not in the model" for path in table if path not in layers]
    used, checked = set(), []
    for path in [path for path in table if path in layers]:
        source = table[path]
        source = source if isinstance(source, Source) else Source((source,))
        shapes = {name: tuple(one.shape) for name, one in layers[path].items()}
        wanted = (
            list(source.names)
            if source.make
            else [f"{name}.{IN_TORCH[variable]}" for name in source.names for variable in shapes]
        )
        used |= set(wanted)
        missing = [name for name in wanted if name not in tensors]
        wrong += [f"{name}: expected, not found" for name in missing]
        if not missing:
            checked.append((path, source, shapes))
    left = [name for name in tensors if name not in used and not any(re.search(one, name) for one in spare)]
    wrong += [f"{name}: found, not expected" for name in sorted(left)]
    pairs = [(name, other) for name, other in tied.items() if name in {*tensors} - used and other in tensors]
    wrong += [
        f"{name}: expected the values of {other}, with which it is tied here"
        for name, other in pairs
        if not np.array_equal(tensors[name], tensors[other])
    ]
    ready = []
    for path, source, shapes in checked if not wrong else ():
        for variable, value in values_of(source, shapes, tensors).items():
            if variable not in shapes or tuple(value.shape) != shapes[variable]:
                came = f"{path}/{variable} from {', '.join(source.names)}"
                wrong.append(f"{came}: expected shape {shapes.get(variable)}, found {tuple(value.shape)}")
            ready.append((path, variable))
    if wrong:
        more = f"\n  … and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        lines = "\n  ".join(wrong[:SHOWN])
        raise BadWeights(
            f"{what} does not fit: {len(wrong)} tensors are missing, left over or of another shape.\n  {lines}{more}"
        )
    for path, source, shapes in checked:  # one layer at a time: a large checkpoint is never in memory as a whole
        for variable, value in values_of(source, shapes, tensors).items():
            layers[path][variable].assign(np.asarray(value, "float32"))


def sourced(source: str | Source, own: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the variables of a layer by name, from the source that a table has for it."""
    shapes = {name: tuple(one.shape) for name, one in own.items()}
    return values_of(source if isinstance(source, Source) else Source((source,)), shapes, tensors)


def values_of(source: Source, shapes: Mapping[str, tuple], tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the variables of a layer by name, from the tensors of a checkpoint."""
    if source.make:
        return source.make({name: np.asarray(tensors[name], "float32") for name in source.names})
    values = {}
    for variable in shapes:
        arrays = [np.asarray(tensors[f"{name}.{IN_TORCH[variable]}"]) for name in source.names]
        if variable == "kernel" and arrays[0].ndim == 4:
            arrays = [array.transpose(2, 3, 1, 0) for array in arrays]  # (outputs, inputs, rows, columns)
        elif variable == "kernel" and not source.inputs_first:
            arrays = [array.T for array in arrays]
        if source.parts and arrays[0].shape[-1] % source.of == 0:  # else its shape will be found wrong
            pieces = np.split(arrays[0], source.of, axis=-1)
            arrays = [pieces[part] for part in source.parts]
        values[variable] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)
    return values


def by_path(layer: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each layer that owns variables, by its path in the model, with the variables by name."""
    inner = sublayers(layer)
    of_parts = {id(weight) for part in inner for weight in part.weights}
    own = {weight.name: weight for weight in layer.weights if id(weight) not in of_parts}
    own = {name: weight for name, weight in own.items() if name != "seed_generator_state"}  # of dropout
    if own:
        yield path, own
    for part in inner:
        yield from by_path(part, f"{path}/{part.name}" if path else part.name)
