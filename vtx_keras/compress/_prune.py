"""Take units or blocks out of a model, or split its matrices, by what data say, without training.

A unit's worth is what the layer's output loses without it when the matrix that reads it has adapted: the exact form for
a linear reader, wᵀ(H⁻¹)⁻¹w over the Gram matrix H of what it reads (Hassibi & Stork 1993). The least worthy units go,
over all blocks together, by loss for each parameter saved, and the readers that stay are solved anew by least squares.
So a pruned model starts near the whole one, and training back is short.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from vtx_keras._compat import sublayers
from vtx_keras.checkpoints import by_path
from vtx_keras.compress._units import (
    Group,
    Read,
    blocks_of,
    grams,
    groups_of,
    inputs_of,
    matrices_of,
    matrix_of,
    solved,
    watched,
)
from vtx_keras.models._base import VisionText, leaves
from vtx_keras.models.concepts import Concepts
from vtx_keras.models.construct import construct
from vtx_keras.models.options import lookup, options_of

__all__ = ["factor", "prune"]
BY = ("neurons", "heads", "channels", "blocks")
LEAST_KEPT = 8  # of so many units of a group, one stays at least
DEPTHS = {"fusion": "depth", "image_encoder/block": "vision_depth", "text_encoder/block": "text_depth"}  # of each stack


def prune(model: VisionText, amount: float, by: str | Sequence[str] = "neurons", *, data: Iterable) -> VisionText:
    """Return a model without a share `amount` of its neurons, heads, channels or blocks: those that matter least.

    `data` are some batches as `fit` takes them, without shuffled pixels or hidden words. "neurons" are those of the
    blocks' MLPs, "heads" those of their attention, "channels" the inner ones of an EfficientNet-Lite or MobileNetV2.
    The share is one of the parameters that go with these units; each block keeps an eighth of them. Several kinds,
    ("neurons", "heads"), are weighed against each other. Of "blocks" the share counts in each stack of blocks by
    itself, and at least one stays.

    The result is compiled as the model is. Train it back with `distil`, or with `fit`.

    >>> from vtx_keras import data as d, zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=2, vision_depth=1, image_shape=(32, 32, 3))
    >>> batches = d.arrays(model, np.zeros((4, 32, 32, 3)), ["a cat", "a dog", "two birds", "a tree"])
    >>> smaller = prune(model, 0.5, by="neurons", data=batches)
    >>> smaller.options["shapes"]["fusion_0"]["hidden"] < 128
    True
    """
    kinds = [by] if isinstance(by, str) else list(dict.fromkeys(by))
    if not kinds or not set(kinds) <= set(BY) or ("blocks" in kinds and len(kinds) > 1):
        raise ValueError(f"by={by!r}: expected one of {', '.join(BY)}, or several but blocks")
    if isinstance(amount, bool) or not 0 < amount < 1:
        raise ValueError(f"amount={amount!r}: expected a share between 0 and 1")
    model = checked(model)
    if kinds == ["blocks"]:
        return _without_blocks(model, amount, data)
    groups = [group for kind in kinds for group in groups_of(model, kind)]
    if not groups:
        raise ValueError(f"by={by!r}: this model has no {by} that can be taken out; of {', '.join(BY)} try another")
    found = grams(model, [group.reader for group in groups], data)
    orders = [_order(group, solved(found[id(group.reader)].gram)) for group in groups]
    kept = _chosen(groups, orders, amount)
    shapes = copy.deepcopy(model.options.get("shapes", {}))
    cuts: dict[int, list[tuple[int, np.ndarray]]] = {}
    values: dict[int, np.ndarray] = {}
    for group, keep in zip(groups, kept, strict=True):
        shapes.setdefault(group.place, {})[group.shape] = len(keep)
        rows = group.rows(keep)
        for variable, axis, runs in group.written:
            length = variable.shape[axis] // runs
            unit = length // group.count
            columns = (keep[:, None] * unit + np.arange(unit)).ravel()
            cuts.setdefault(id(variable), []).append(
                (axis, np.concatenate([run * length + columns for run in range(runs)]))
            )
        adapted, shift = reads_on(found[id(group.reader)], matrix_of(group.reader), rows)
        values[id(group.reader.kernel)] = adapted.reshape(*group.reader.kernel.shape[:-2], *adapted.shape)
        if np.any(shift):
            values[id(group.reader.bias)] = keras.ops.convert_to_numpy(group.reader.bias) + shift
    for place, block in blocks_of(model).items():  # where one kind of head is counted, so is the other
        if hasattr(block, "cross_attention") and {"heads", "fusion_heads"} & set(shapes.get(place, ())):
            shapes[place].setdefault("heads", block.attention.heads)
            shapes[place].setdefault("fusion_heads", block.cross_attention.heads)
    smaller = rebuilt(model, {**model.options, "shapes": shapes})
    for source, target in zip(model.weights, smaller.weights, strict=True):
        value = values.get(id(source))
        if value is None:
            value = keras.ops.convert_to_numpy(source)
            for axis, index in cuts.get(id(source), ()):
                value = np.take(value, index, axis=axis)
        target.assign(value)
    return finished(model, smaller)


def factor(
    model: VisionText, *, rank: int | None = None, energy: float | None = None, of: str = "", data: Iterable
) -> VisionText:
    """Return a model whose matrices in blocks are products of two narrow ones, where that saves parameters.

    The factors are those that change the outputs over `data` least: an SVD of the matrix behind what it reads
    (Chen et al. 2021, "DRONE"). `rank` is that of all matrices; with `energy`, for example 0.95, each gets the
    smallest rank that keeps this share of its outputs' variance. A concept head is split, too. `of` names the blocks
    whose names begin so: "fusion", "image_encoder", "concepts".

    >>> from vtx_keras import data as d, zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=2, vision_depth=1, image_shape=(32, 32, 3))
    >>> batches = d.arrays(model, np.zeros((4, 32, 32, 3)), ["a cat", "a dog", "two birds", "a tree"])
    >>> factor(model, rank=8, data=batches).count_params() < model.count_params()
    True
    """
    if (rank is None) == (energy is None):
        raise ValueError(f"rank={rank!r}, energy={energy!r}: expected one of the two")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ValueError(f"rank={rank!r}: expected a whole number of at least 1")
    if energy is not None and not 0 < energy < 1:
        raise ValueError(f"energy={energy!r}: expected a share between 0 and 1")
    model = checked(model)
    matrices = {where: layer for where, layer in matrices_of(model).items() if where[0].startswith(of)}
    if not matrices:
        raise ValueError(f"of={of!r}: this model has no such block whose matrices can be split")
    found = grams(model, matrices.values(), data)
    shapes = copy.deepcopy(model.options.get("shapes", {}))
    stored = dict(by_path(model))
    paths = {id(variable): path for path, variable in stored.items()}
    values = dict(stored)
    for (place, name), layer in matrices.items():
        read = found[id(layer)]
        narrow, wide = split(matrix_of(layer), read.gram, rank, energy)
        if narrow.size + wide.size < matrix_of(layer).size:
            shapes.setdefault(place, {}).setdefault("ranks", {})[name] = narrow.shape[1]
            path = paths[id(layer.kernel)].rpartition("/")[0]
            narrow_at, wide_at = (f"{path}/narrow/kernel", f"{path}/wide/kernel")
            if isinstance(layer, Concepts):
                narrow_at, wide_at = f"{path}/narrow", f"{path}/kernel"
            values |= {narrow_at: narrow, wide_at: wide}
            if layer.bias is not None:
                lost = read.mean @ matrix_of(layer) - read.mean @ narrow @ wide
                bias_at = f"{wide_at.rpartition('/')[0]}/bias"
                values[bias_at] = keras.ops.convert_to_numpy(layer.bias) + lost
    smaller = rebuilt(model, {**model.options, "shapes": shapes})
    for path, target in by_path(smaller):
        target.assign(values[path])
    return finished(model, smaller)


def reads_on(read: Read, matrix: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix that reads only these rows of its inputs, as near as can be, and what the bias grows by.

    >>> x = np.random.default_rng(0).normal(size=(500, 2)) + 3
    >>> x = np.stack([x[:, 0], 2 * x[:, 0] + 1, x[:, 1], np.full(500, 7.0)], axis=1)  # the last two go
    >>> matrix, mean = np.array([[1.0], [1.0], [0.0], [1.0]]), x.mean(axis=0)
    >>> read = Read((x - mean).T @ (x - mean) / 500, mean)
    >>> left, shift = reads_on(read, matrix, np.array([0, 2]))
    >>> bool(np.abs(x[:, [0, 2]] @ left + shift - x @ matrix).max() < 0.05)
    True
    """
    gram = solved(read.gram)
    left = np.linalg.solve(gram[np.ix_(rows, rows)], gram[rows] @ matrix)
    return left, read.mean @ matrix - read.mean[rows] @ left


def split(
    matrix: np.ndarray, gram: np.ndarray, rank: int | None, energy: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return two matrices whose product is nearest to a matrix (inputs, outputs) over what it reads.

    >>> narrow, wide = split(np.eye(3), np.diag([4.0, 1.0, 0.0]), 2, None)
    >>> np.round(narrow @ wide, 3).diagonal().tolist()
    [1.0, 1.0, 0.0]
    """
    root = np.linalg.cholesky(solved(gram)).T  # gram = rootᵀ root
    left, sizes, right = np.linalg.svd(root @ matrix, full_matrices=False)
    if energy is not None:
        rank = 1 + int(np.searchsorted(np.cumsum(sizes**2) / np.sum(sizes**2), energy))
    rank = min(rank or 1, len(sizes))
    even = np.sqrt(sizes[:rank])  # of either half
    return np.linalg.solve(root, left[:, :rank] * even), even[:, None] * right[:rank]


def _without_blocks(model: VisionText, amount: float, data: Iterable) -> VisionText:
    """Leave out the blocks whose output is most like their input (Men et al. 2024, "ShortGPT")."""
    blocks = blocks_of(model)
    stacks: dict[str, list[str]] = {}
    for place in blocks:
        stacks.setdefault(place.rpartition("_")[0], []).append(place)
    change: dict[int, list[float]] = {}

    def seen(block: Any, output: Any, x: Any, *others: Any) -> None:
        del others
        ends = (x, output[0] if isinstance(output, tuple) else output)
        old, new = (keras.ops.convert_to_numpy(one).reshape(-1, block.dim).astype("float64") for one in ends)
        norms = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
        change.setdefault(id(block), []).append(1 - float(np.mean(np.sum(old * new, axis=1) / (norms + 1e-12))))

    with watched(blocks.values(), seen):
        for inputs in inputs_of(data):
            model(inputs, training=False)
    names: dict[str, str] = {}  # of a block that stays, by its new name
    options = dict(model.options)
    for stack, places in stacks.items():
        gone = min(len(places) - 1, round(amount * len(places)))
        worth = {place: float(np.mean(change[id(blocks[place])])) for place in places}
        stay = sorted(sorted(places, key=lambda place: worth[place])[gone:], key=places.index)
        names |= {f"{stack}_{i}": place for i, place in enumerate(stay)}
        options[DEPTHS[stack]] = len(stay)
    if len(names) == len(blocks):
        raise ValueError(f"amount={amount} leaves out no block: of {len(blocks)} blocks in {len(stacks)} stacks")
    former = options.get("shapes", {})
    shapes = {name: row for name, row in former.items() if name not in blocks}
    shapes |= {new: former[old] for new, old in names.items() if old in former}
    smaller = rebuilt(model, {**options, "shapes": shapes})
    stored = dict(by_path(model))
    for place, block in blocks_of(smaller).items():
        for source, target in zip(blocks[names[place]].weights, block.weights, strict=True):
            target.assign(source)
    inside = {id(one) for block in blocks_of(smaller).values() for one in block.weights}
    for path, target in by_path(smaller):
        if id(target) not in inside:
            target.assign(stored[path])
    return finished(model, smaller, names)


# --- which units go


def _order(group: Group, gram: np.ndarray) -> list[tuple[int, float]]:
    """Return the units of a group in the order in which they go, each with what the output then loses, as a share.

    A fiftieth goes at a time; the matrix that reads the rest adapts after each.
    """
    matrix, inverse = matrix_of(group.reader).astype("float64"), np.linalg.inv(gram)
    whole = float(np.sum(matrix * (gram @ matrix)))
    left, order = list(range(group.count)), []
    while len(left) > max(1, group.count // LEAST_KEPT):
        losses = _losses(group, matrix, inverse, left)
        for unit in sorted(left, key=lambda unit: losses[unit])[: max(1, group.count // 50)]:
            order.append((unit, losses[unit] / max(whole, 1e-12)))
            left.remove(unit)
        rows = group.rows(unit for unit, _ in order[-max(1, group.count // 50) :])
        moved = np.linalg.solve(inverse[np.ix_(rows, rows)], np.concatenate([matrix[rows], inverse[rows]], axis=1))
        matrix -= inverse[:, rows] @ moved[:, : matrix.shape[1]]
        inverse -= inverse[:, rows] @ moved[:, matrix.shape[1] :]
    return order


def _losses(group: Group, matrix: np.ndarray, inverse: np.ndarray, units: list[int]) -> dict[int, float]:
    """Return what the output loses without each unit: tr(wᵀ (H⁻¹)⁻¹ w) over the unit's rows w."""
    if group.width == 1:
        losses = np.sum(matrix[units] ** 2, axis=1) / np.maximum(np.diag(inverse)[units], 1e-30)
        return dict(zip(units, losses.tolist(), strict=True))
    rows = {unit: group.rows([unit]) for unit in units}
    return {
        unit: float(np.sum(matrix[own] * np.linalg.solve(inverse[np.ix_(own, own)], matrix[own])))
        for unit, own in rows.items()
    }


def _chosen(groups: list[Group], orders: list[list[tuple[int, float]]], amount: float) -> list[np.ndarray]:
    """Return the units that stay in each group, when those with the least loss for each parameter go first."""
    steps = []
    for number, (group, order) in enumerate(zip(groups, orders, strict=True)):
        worst = 0.0
        for unit, loss in order:
            worst = max(worst, loss / group.cost)  # a unit cannot go before those that it was compared with
            steps.append((worst, number, unit))
    budget = amount * sum(group.cost * group.count for group in groups)
    gone: list[set[int]] = [set() for _ in groups]
    for _, number, unit in sorted(steps, key=lambda step: step[0]):
        if budget <= 0:
            break
        budget -= groups[number].cost
        gone[number].add(unit)
    return [
        np.array([unit for unit in range(group.count) if unit not in out])
        for group, out in zip(groups, gone, strict=True)
    ]


# --- from one model to another


def checked(model: VisionText) -> VisionText:
    """Return a model that can be made smaller, its LoRA additions merged, or raise an error that says why it cannot."""
    if not isinstance(model, VisionText):
        raise TypeError(f"expected a model of the zoo, not a {type(model).__name__}")
    task = lookup(model.spec["name"]).task
    if "shapes" not in options_of(task) or "published" in model.spec:
        raise ValueError(f"a {model.name} of this kind has no free shapes: it can be distilled into another model")
    model.check_whole()
    return model.merged() if any(getattr(layer, "lora_enabled", False) for layer in leaves(model)) else model


def rebuilt(model: VisionText, options: Mapping[str, Any]) -> VisionText:
    """Build a model like this one with other options; its weights are new."""
    return construct(model.spec["name"], dict(options), model.vocabulary, model.spec["dtype"])


def finished(model: VisionText, smaller: VisionText, names: Mapping[str, str] = {}) -> VisionText:
    """Freeze and compile the smaller model as the model is; `names` are former names of blocks, by their new ones."""
    former = dict(_leaves_by_path(model))
    for layer in smaller.layers:
        layer.trainable = model.get_layer(names.get(layer.name, layer.name)).trainable
    for path, leaf in _leaves_by_path(smaller):
        first, *others = path.split("/")
        inner = [names.get(f"{first}/{one}", one).rpartition("/")[2] for one in others]
        path = "/".join([names.get(first, first), *inner])
        old = former.get(path) or former.get(path.rpartition("/")[0])  # a half of a split matrix is frozen as it was
        if old is not None and not old.trainable:
            leaf.trainable = False
    if model.compiled:
        try:
            smaller.compile_from_config(model.get_compile_config())
        except (TypeError, ValueError):  # Keras cannot serialize unregistered functions
            warnings.warn(
                "the smaller model is compiled with its task's own loss: compile it as you need", stacklevel=3
            )
    return smaller


def _leaves_by_path(layer: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for one in sublayers(layer):
        path = f"{prefix}{one.name}"
        if sublayers(one):
            yield from _leaves_by_path(one, f"{path}/")
        else:
            yield path, one
