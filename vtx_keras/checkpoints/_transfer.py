"""Transfer of weights between models: by path, matched to another grid, length or vocabulary where they can be."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from vtx_keras.checkpoints._folder import BadWeights


def transfer(source: Any, target: Any, *, new_head: bool) -> None:
    """Copy weights by path. With `new_head` the head stays new.

    Positions are matched to another grid or length and embeddings by piece to another vocabulary, with a warning;
    anything else that does not fit is an error.
    """
    stored = dict(_by_path(source))
    misfits, copies = [], []
    notes: list[str] = []
    for path, variable in _by_path(target):
        if new_head and path.startswith("head/"):
            continue
        weight = stored.get(path)
        value = None if weight is None else _adapted(path, np.array(weight), np.array(variable), source, target, notes)
        if value is None:
            misfits.append((path, tuple(variable.shape), "nothing" if weight is None else tuple(weight.shape)))
        else:
            copies.append((variable, value))
    if misfits:
        rows = "\n".join(f"  {path}: expected {expected}, found {found}" for path, expected, found in misfits[:10])
        more = f"\n  … and {len(misfits) - 10} more" if len(misfits) > 10 else ""
        raise BadWeights(
            f"the weights do not fit the options given, in {len(misfits)} places:\n{rows}{more}\n"
            "Leave out the options that change these layers, or train anew with weights=None."
        )
    for variable, value in copies:
        variable.assign(value)
    if new_head:
        notes.append("the head is new (its classes changed); all else keeps its weights")
    if notes:
        warnings.warn(f"{target.name}: {'; '.join(dict.fromkeys(notes))}", stacklevel=4)


def _adapted(
    path: str, stored: np.ndarray, new: np.ndarray, source: Any, target: Any, notes: list[str]
) -> np.ndarray | None:
    """Return a weight in the form that the target has, or None if it does not fit; add to `notes` what was changed."""
    before, after = source.vocabulary, target.vocabulary
    if before != after and after.axis_of(path) is not None:
        value, count = after.moved(path, stored, new, before)
        notes.append(f"{count:,d} of {len(after):,d} pieces keep their embeddings, the rest start new")
        return value
    if stored.shape == new.shape:
        return stored
    if "/axis_" not in path or stored.ndim != 2 or stored.shape[1] != new.shape[1]:
        return None
    of_words, places = not path.startswith(("image_encoder/", "vision/")), np.arange(len(new), dtype="float64")
    notes.append(f"texts have {len(new)} positions" if of_words else "positions are interpolated to the new size")
    places = places if of_words else (places + 0.5) * len(stored) / len(new) - 0.5  # beyond the last word: the last
    return np.stack([np.interp(places, np.arange(len(stored)), column) for column in stored.T], axis=1)


def _by_path(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the weights of a model and of models inside it, with their paths."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _by_path(layer, f"{prefix}{layer.name}/")
        else:
            yield from ((prefix + weight.path, weight) for weight in layer.weights)


def other_classes(saved: dict, wanted: dict) -> bool:
    """Return whether the classes differ, in number or names, so that the head must be new."""
    before, after = saved.get("classes"), wanted.get("classes")
    numbers = [value if isinstance(value, int) or value is None else len(value) for value in (before, after)]
    renamed = isinstance(before, list) and isinstance(after, list) and before != after
    return numbers[0] != numbers[1] or renamed
