"""From a name and options to a model: resolve the options and encoders, write the description, call the task."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import keras

from vtx_keras.models import encoders
from vtx_keras.models._base import VisionText, leaves
from vtx_keras.models.blocks import Block
from vtx_keras.models.options import lookup, resolve
from vtx_keras.models.tasks import TASKS

__all__ = ["ENCODERS", "construct", "dtype_policy"]
ENCODERS = ("image_encoder", "text_encoder")


def construct(
    name: str,
    overrides: dict,
    vocabulary: tuple[str, ...],
    dtype: str | None,
    *,
    load: Mapping[str, encoders.Loader] = {},
) -> VisionText:
    """Build a model with these options; `load` maps encoder options to loaders of pretrained encoders."""
    entry = lookup(name)
    decoder = overrides.get("text_decoder")
    if isinstance(decoder, dict):  # which says these itself
        overrides = {**overrides, **{key: decoder[key] for key in ("dim", "heads", "depth")}}
    options = resolve(entry.task, entry.video, overrides)
    with dtype_policy(dtype):
        _resolve_encoders(options, vocabulary, load)
        spec = {
            "name": name,
            "overrides": {key: _as_json(value) for key, value in options.items()},
            "dtype": keras.config.dtype_policy().name,
            "vocabulary": list(vocabulary),
        }
        if getattr(vocabulary, "rule", None):  # of a published text encoder
            spec["rule"] = vocabulary.rule  # type: ignore[attr-defined]
        o = SimpleNamespace(**options, spec=spec, vocabulary_size=len(vocabulary), load=load)
        model = TASKS[entry.task](entry.fusion, o)
        _check_shapes(model, options.get("shapes", {}))
        return model


def _check_shapes(model: VisionText, shapes: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError for a block or a shape that the model does not have: it would change nothing."""
    of_block = {"heads", "hidden", *(f"mlp/{name}" for name in ("up", "gate", "down"))}
    of_block |= {f"attention/{name}" for name in ("query", "key_value", "output")}
    known: dict[str, set[str]] = {"concepts": {"kernel"}} if model.has_layer("concepts") else {}
    for layer in model.layers if shapes else ():
        if layer.name in ENCODERS:
            for one in leaves(layer, stop_at=Block):
                if isinstance(one, Block):
                    known[f"{layer.name}/{one.name}"] = of_block
                elif one.name.endswith("_expand"):
                    known[f"{layer.name}/{one.name.removesuffix('_expand')}"] = {"channels"}
        elif isinstance(layer, Block) and layer.name.startswith("fusion_"):
            crossed = {f"cross_{name}" for name in of_block if name.startswith("attention/")} | {"fusion_heads"}
            known[layer.name] = of_block | (crossed if hasattr(layer, "cross_attention") else set())
    for place, row in shapes.items():
        named = {*row, *row.get("ranks", ())} - {"ranks"}
        if place not in known or not named <= known[place]:
            wrong = place if place not in known else f"{place}: {', '.join(sorted(named - known[place]))}"
            raise ValueError(f"shapes={{{wrong!r}: …}}: this model has no such part")


def _resolve_encoders(options: dict, vocabulary: tuple[str, ...], load: Mapping[str, encoders.Loader]) -> None:
    """Replace presets and saved configs of encoders by models, in place: their configs are saved with the model."""
    for option in ENCODERS:
        value = options.get(option)
        if isinstance(value, dict):  # copied, because Keras empties the config it reads
            options[option] = keras.saving.deserialize_keras_object(copy.deepcopy(value))
        elif isinstance(value, str) and value not in encoders.NAMES:
            if option == "image_encoder":
                options[option] = encoders.image_preset(value, options["image_shape"][-3:], option in load)
            else:
                options[option] = encoders.text_preset(value, option in load)
    text_encoder = options.get("text_encoder")
    for attribute, needed in (("vocabulary_size", len(vocabulary)), ("max_sequence_length", options["max_length"])):
        limit = getattr(text_encoder, attribute, None)
        if isinstance(limit, int) and limit < needed:
            raise ValueError(f"text_encoder has a {attribute} of {limit}: expected at least {needed}")


def _as_json(value: Any) -> Any:
    """Return an option as JSON stores it."""
    if isinstance(value, keras.Model):
        return keras.saving.serialize_keras_object(value)
    return list(value) if isinstance(value, tuple) else value


@contextlib.contextmanager
def dtype_policy(dtype: str | None) -> Iterator[None]:
    """Set Keras' dtype policy for layers created inside the `with` block."""
    before = keras.config.dtype_policy()
    if dtype is not None:
        try:
            keras.config.set_dtype_policy(dtype)
        except ValueError as error:
            raise ValueError(
                f"dtype={dtype!r} is not a Keras dtype policy such as float32 or mixed_bfloat16"
            ) from error
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
