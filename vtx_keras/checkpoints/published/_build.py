"""Building a model from a published checkpoint: which architecture it is, its spec, its graph, its weights."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vtx_keras.checkpoints._folder import CONFIG, MOST_JSON, BadWeights
from vtx_keras.checkpoints.published._catalogue import CATALOGUE
from vtx_keras.models.decode import whole_number
from vtx_keras.models.options import did_you_mean, lookup, resolve

MAX_LENGTH = 32  # tokens of a text, unless it is given: tables of positions are much longer than captions
MOST = {"dim": 65_536, "heads": 1_024, "depth": 1_000, "hidden": 1 << 20, "size": 8_192, "patch": 8_192}
MOST |= {"positions": 1 << 20, "kv_heads": 1_024, "head_dim": 4_096, "window": 1 << 24}
GIVEN = ("max_length", "dropout")  # options that a published model takes; the checkpoint says the others


class Architecture(NamedTuple):
    """The module of an architecture, and the name in the zoo of what it builds."""

    module: str
    name: str


# By the class that a config.json names.
ARCHITECTURES = {
    "BlipForConditionalGeneration": Architecture("_blip", "cross_attn_captioner"),
    "BlipForImageTextRetrieval": Architecture("_blip", "cross_attn_matcher"),
    "VisionEncoderDecoderModel": Architecture("_vit_gpt2", "cross_attn_captioner"),
    "GitForCausalLM": Architecture("_git", "merged_attn_captioner"),
    "CLIPModel": Architecture("_clip", "retriever"),
    "SiglipModel": Architecture("_siglip", "retriever"),
    "ViltForQuestionAnswering": Architecture("_vilt", "merged_attn_vqa"),
    "ViltForVisualQuestionAnswering": Architecture("_vilt", "merged_attn_vqa"),
    "ViltForImageAndTextRetrieval": Architecture("_vilt", "merged_attn_matcher"),
}
NAMELESS = {"siglip": "SiglipModel"}  # by model_type: the configs that were published name no class
DECIDED = ("classes", "loss")  # options of a task that a layout holds


def is_published(weights: Any) -> bool:
    """Return whether `weights=` means a published checkpoint: an address, a tag, or a folder of transformers.

    >>> is_published("hf://owner/name"), is_published("photos"), is_published(None)
    (True, False, False)
    """
    if not isinstance(weights, (str, os.PathLike)):
        return False
    return str(weights).startswith("hf://") or str(weights) in CATALOGUE or is_transformers(Path(weights))


def is_transformers(folder: Path) -> bool:
    """Return whether a folder has a config.json of transformers."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig")) if path.stat().st_size <= MOST_JSON else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "model_type" in config


def say_aside(line: str) -> None:
    """Print a line beside the results, to standard error."""
    print(line, file=sys.stderr, flush=True)


def folder_of(weights: str | os.PathLike, say: Callable[[str], object] = say_aside) -> Path:
    """Return the folder of a checkpoint: a local one as it is, or the copy of an address, fetched if it is not here."""
    from vtx_keras.checkpoints.published import _hub as hub

    known = CATALOGUE.get(str(weights))
    if known:
        return hub.fetch(hub.Address(known.repository, known.revision), hashes=known.hashes, say=say)
    return hub.fetch(hub.parse(str(weights)), say=say) if str(weights).startswith("hf://") else Path(weights)


def build(
    weights: str | os.PathLike,
    name: str | None = None,
    *,
    folder: Path | None = None,
    dtype: str | None = None,
    **overrides: Any,
) -> Any:
    """Build the model of a published checkpoint, with its weights; `folder` is where it lies, if that is known.

    A `name` that is another model's is an error.

    build("hf://Salesforce/blip-image-captioning-base", max_length=40)      # fetches 990 MB, once
    """
    from vtx_keras.checkpoints.published import _graphs, _names, _tensors
    from vtx_keras.checkpoints.published import _hub as hub
    from vtx_keras.checkpoints.published import _said as said
    from vtx_keras.models.construct import dtype_policy

    folder = folder or folder_of(weights)
    hub.check_folder(folder)
    config = said.read(folder, CONFIG)
    architecture = architecture_of(config)
    if name is not None and name != architecture.name:
        wanted = f"zoo.build({architecture.name!r}, weights={str(weights)!r})"
        raise BadWeights(f"{weights} is a {architecture.name}, not a {name}: {wanted}")
    check_given(overrides, str(weights))
    module = importlib.import_module(f"vtx_keras.checkpoints.published.{architecture.module}")
    task = lookup(architecture.name).task
    layout, order, vocabulary, fit = module.layout(config, folder, task)
    known = CATALOGUE.get(str(weights))
    address = f"hf://{known.repository}@{known.revision}" if known else str(weights)
    check_layout(layout, config.where)
    layout["origin"] = {"weights": address, "licence": known.licence if known else said.licence(folder)}
    spec = spec_of(architecture.name, layout, order, vocabulary, fit, overrides)
    with dtype_policy(dtype):
        spec["dtype"] = _policy()
        model = _graphs.construct(spec)
    tensors = _tensors.open_tensors(folder)
    rows, tied = module.table(layout, order, task), getattr(module, "TIED", {})
    _names.assign(model, rows, tensors, spare=module.SPARE, tied=tied, what=str(folder))
    return model


def restored(saved: Mapping[str, Any], *, dtype: str | None = None, **overrides: Any) -> Any:
    """Build the model that a weights folder's config describes, whose weights are read next."""
    from vtx_keras.checkpoints.published import _graphs
    from vtx_keras.models.construct import dtype_policy

    check_given(overrides, saved["name"])
    layout = {**saved["published"], "text": {**saved["published"]["text"], **_dropout(overrides)}}
    options = resolve(lookup(saved["name"]).task, False, {**saved["overrides"], **overrides})
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    check_length(options["max_length"], layout["text"])
    spec = {key: saved[key] for key in ("name", "vocabulary", "rule")} | {"overrides": options, "published": layout}
    with dtype_policy(dtype or saved["dtype"]):
        return _graphs.construct({**spec, "dtype": _policy()})


def check_layout(layout: Mapping[str, Any], where: str) -> None:
    """Raise `BadWeights` for widths, depths and epsilons that no model has, before anything is built."""
    for part in (part for part in ("vision", "text") if part in layout):
        sizes = {
            key: layout[part][key]
            for key in (
                "dim",
                "heads",
                "depth",
                "hidden",
                "size",
                "patch",
                "positions",
                "kv_heads",
                "head_dim",
                "window",
            )
            if key in layout[part]
        }
        for key, value in sizes.items():
            if not whole_number(value) or not 0 <= value <= MOST[key] or (value == 0 and key != "depth"):
                raise BadWeights(
                    f"{where} says {key} {value!r} of the {part}: expected a whole number up to {MOST[key]:,d}"
                )
        if sizes["dim"] % sizes["heads"] and "head_dim" not in layout[part]:
            raise BadWeights(f"{where}: a width of {sizes['dim']} does not divide by {sizes['heads']} heads")
        epsilon = layout[part]["epsilon"]
        if not isinstance(epsilon, (int, float)) or not 0 < epsilon < 1:
            raise BadWeights(f"{where} says epsilon {epsilon!r} of the {part}: expected a small number above 0")


def check_given(overrides: Mapping[str, Any], what: str) -> None:
    """Raise ValueError for an option that the checkpoint decides."""
    for option in overrides:
        if option not in GIVEN:
            raise ValueError(
                f"{option}= cannot be chosen for {what}, whose checkpoint decides it{did_you_mean(option, GIVEN)}: "
                f"expected {' or '.join(GIVEN)}"
            )


def check_length(length: int, text: Mapping[str, Any]) -> None:
    """Raise ValueError for texts that are longer than the table of positions."""
    if length > longest(text):
        raise ValueError(f"max_length={length}: expected at most {longest(text)}, which has positions")


def longest(text: Mapping[str, Any]) -> int:
    """Return the number of tokens of the longest text: as many as positions, and a start token that takes none."""
    return text["positions"] + bool(text.get("padded"))


def _dropout(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {"dropout": overrides["dropout"]} if "dropout" in overrides else {}


def _policy() -> str:
    import keras

    return keras.config.dtype_policy().name


def architecture_of(config: Any) -> Architecture:
    """Return the architecture that a config.json names."""
    nameless = NAMELESS.get(config.values.get("model_type", ""))
    names = config.values.get("architectures") or ([nameless] if nameless else [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadWeights(f"{config.where} has architectures {names!r:.80}: expected a list of names")
    for name in names:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    raise BadWeights(
        f"{config.where} is of {', '.join(map(str, names)) or 'no architecture'}: expected one of "
        f"{', '.join(ARCHITECTURES)}"
    )


def spec_of(
    name: str, layout: dict[str, Any], order: Any, vocabulary: list[str], fit: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the spec of a published model: the zoo's options as far as they apply, and the layout of its graph."""
    task, text, vision = lookup(name).task, layout["text"], layout["vision"]
    # Texts that are padded to all positions are cut nowhere else: the last token is what is read of them.
    length = longest(text) if text.get("padded") else min(MAX_LENGTH, text["positions"])
    options = {
        "image_shape": (vision["size"], vision["size"], 3),
        "dim": text["dim"],
        "heads": text["heads"],
        "vision_depth": max(1, vision["depth"]),  # ViLT's image encoder has no block, and the option no 0
        "patch": vision["patch"],
        "resize": fit,
        "max_length": length,
        "dropout": 0.0,
        **({} if task == "retriever" else {"depth": text["depth"]}),
        **{option: layout[option] for option in DECIDED if option in layout},
        **given,
    }
    options = resolve(task, False, options)
    check_length(options["max_length"], text)
    rule = layout["rule"]
    layout = {key: value for key, value in layout.items() if key not in (*DECIDED, "rule")}
    layout = {**layout, "text": {**text, "dropout": options["dropout"]}, "absent": order.absent}
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    spec = {"name": name, "overrides": options, "dtype": "float32", "vocabulary": vocabulary}
    return {**spec, "rule": rule, "published": layout}
