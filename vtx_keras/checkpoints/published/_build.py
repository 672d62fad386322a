"""Building a model from a published checkpoint: which architecture it is, its spec, its graph, its weights."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vtx_keras.checkpoints._folder import CONFIG, BadWeights
from vtx_keras.models.options import did_you_mean, lookup, resolve

MAX_LENGTH = 32  # tokens of a text, unless it is given: tables of positions are much longer than captions
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
}


class Checkpoint(NamedTuple):
    """A published checkpoint: what it becomes here, where it is, its licence, its size, and what its authors measured.

    `revision` and the sha256 in `hashes` pin it. `figure` is of the paper or the project: it was not measured here.
    """

    name: str
    repository: str
    revision: str
    licence: str
    parameters: int  # millions
    megabytes: int
    figure: str
    source: str
    hashes: Mapping[str, str] = {}


BLIP = "Li et al. 2022 and LAVIS' benchmark page"
GIT = "the GenerativeImage2Text repository"
CLIP = "open_clip's table of results"
BIN, SAFE = "pytorch_model.bin", "model.safetensors"
CATALOGUE = {
    "blip_base": Checkpoint(
        "cross_attn_captioner", "Salesforce/blip-image-captioning-base", "82a37760796d32b1411fe092ab5d4e227313294b",
        "BSD-3-Clause", 247, 990, "COCO CIDEr 133.5 when fine-tuned on COCO; this file may be of before", BLIP,
        {BIN: "d6638651a5526cc2ede56f2b5104d6851b0755816d220e5e046870430180c767"},
    ),
    "blip_large": Checkpoint(
        "cross_attn_captioner", "Salesforce/blip-image-captioning-large", "353689b859fcf0523410b1806dace5fb46ecdf41",
        "BSD-3-Clause", 470, 1879, "COCO CIDEr 136.7", BLIP,
        {SAFE: "ebc867586b8318647dd7b75ef8e52f93f89b98ac7dcbd04d10219d33b9a68c6f"},
    ),
    "vit_gpt2": Checkpoint(
        "cross_attn_captioner", "nlpconnect/vit-gpt2-image-captioning", "dc68f91c06a1ba6f15268e5b9c13ae7a7c514084",
        "Apache-2.0", 239, 982, "none published", "its card",
        {BIN: "2605a69b760d0b218c3b5d2069ba070d28f279a16ce4bc87bf019b75a91553e6"},
    ),
    "git_base_coco": Checkpoint(
        "merged_attn_captioner", "microsoft/git-base-coco", "a13141da42abd4a8cbf283601a8104265f537cee",
        "MIT", 177, 707, "COCO CIDEr 131.4", GIT,
        {BIN: "9debdaecd629157630a7a3e69dd1bdae0461290bec8e66c682296813d9391ff2"},
    ),
    "git_large_coco": Checkpoint(
        "merged_attn_captioner", "microsoft/git-large-coco", "b644b0b41274649f87de8846fa15f9a22dad7583",
        "MIT", 394, 1580, "COCO CIDEr 138.5", GIT,
        {SAFE: "b829ce129d49db383baed90ee283087d53b5c916bef2782eefc32e19bef6f42f"},
    ),
    "git_base_textcaps": Checkpoint(
        "merged_attn_captioner", "microsoft/git-base-textcaps", "3708bb659e51815348366a12d87840227cb5aaf4",
        "MIT", 177, 707, "TextCaps CIDEr 64.9 (validation)", GIT,
        {BIN: "cc7a0995b8b20b9a5759b91606ed33ad128ba6fdeede0dbc45e8adde0da7836b"},
    ),
    "blip_itm_coco": Checkpoint(
        "cross_attn_matcher", "Salesforce/blip-itm-base-coco", "bed8ad38cb2d04a5a4bdf2d071b3c3c0a4aa724c",
        "BSD-3-Clause", 224, 895, "COCO recall@1 82.0 of texts, 64.5 of images", BLIP,
        {BIN: "017fb3e7f4e125f13a8a4717f1402dbe0d0bb877474b4a203db13a4447b0227f"},
    ),
    "blip_itm_flickr": Checkpoint(
        "cross_attn_matcher", "Salesforce/blip-itm-base-flickr", "1de29e660d91ae1786c1876212ea805a22eab251",
        "BSD-3-Clause", 224, 895, "Flickr30k recall@1 96.9 of texts, 87.5 of images", BLIP,
        {BIN: "8d5e0fa9646853f11ba81db09b89f2265ed60ff1d7e69e594f46e103db391488"},
    ),
    "clip_b32": Checkpoint(
        "retriever", "openai/clip-vit-base-patch32", "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        "MIT (of its code; the card names none)", 151, 605, "ImageNet zero-shot 63.3", CLIP,
        {BIN: "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"},
    ),
    "clip_b16": Checkpoint(
        "retriever", "openai/clip-vit-base-patch16", "57c216476eefef5ab752ec549e440a49ae4ae5f3",
        "MIT (of its code; the card names none)", 150, 599, "ImageNet zero-shot 68.3", CLIP,
        {BIN: "ec89c7b09c749a60aae3c9cd910516f24b58214a7df060b48962d14c469cfbf0"},
    ),
    "clip_l14": Checkpoint(
        "retriever", "openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41",
        "MIT (of its code; the card names none)", 428, 1711, "ImageNet zero-shot 75.5", CLIP,
        {SAFE: "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"},
    ),
}  # fmt: skip


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
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" in config


def folder_of(weights: str | os.PathLike, say: Any = print) -> Path:
    """Return the folder of a checkpoint: a local one as it is, or the copy of an address, fetched if it is not here."""
    from vtx_keras.checkpoints.published import _hub as hub

    known = CATALOGUE.get(str(weights))
    if known:
        return hub.fetch(hub.Address(known.repository, known.revision), hashes=known.hashes, say=say)
    return hub.fetch(hub.parse(str(weights)), say=say) if str(weights).startswith("hf://") else Path(weights)


def build(weights: str | os.PathLike, name: str | None = None, *, dtype: str | None = None, **overrides: Any) -> Any:
    """Build the model of a published checkpoint, with its weights. A `name` that is another model's is an error.

    build("hf://Salesforce/blip-image-captioning-base", max_length=40)      # fetches 990 MB, once
    """
    from vtx_keras.checkpoints.published import _graphs, _names, _tensors
    from vtx_keras.checkpoints.published import _hub as hub
    from vtx_keras.checkpoints.published import _said as said
    from vtx_keras.models.tasks import dtype_policy

    folder = folder_of(weights)
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
    spec = spec_of(architecture.name, layout, order, vocabulary, fit, overrides)
    with dtype_policy(dtype):
        spec["dtype"] = _policy()
        model = _graphs.construct(spec)
    tensors = _tensors.open_tensors(folder)
    _names.assign(model, module.table(layout, order, task), tensors, spare=module.SPARE, what=str(folder))
    return model


def restored(saved: Mapping[str, Any], *, dtype: str | None = None, **overrides: Any) -> Any:
    """Build the model that a weights folder's config describes, whose weights are read next."""
    from vtx_keras.checkpoints.published import _graphs
    from vtx_keras.models.tasks import dtype_policy

    check_given(overrides, saved["name"])
    layout = {**saved["published"], "text": {**saved["published"]["text"], **_dropout(overrides)}}
    options = resolve(lookup(saved["name"]).task, False, {**saved["overrides"], **overrides})
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    check_length(options["max_length"], layout["text"])
    spec = {"name": saved["name"], "overrides": options, "vocabulary": saved["vocabulary"], "published": layout}
    with dtype_policy(dtype or saved["dtype"]):
        return _graphs.construct({**spec, "dtype": _policy()})


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
    if length > text["positions"]:
        raise ValueError(f"max_length={length}: expected at most {text['positions']}, which has positions")


def _dropout(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {"dropout": overrides["dropout"]} if "dropout" in overrides else {}


def _policy() -> str:
    import keras

    return keras.config.dtype_policy().name


def architecture_of(config: Any) -> Architecture:
    """Return the architecture that a config.json names."""
    names = config.values.get("architectures") or []
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
    options = {
        "image_shape": (vision["size"], vision["size"], 3),
        "dim": text["dim"],
        "heads": text["heads"],
        "vision_depth": vision["depth"],
        "patch": vision["patch"],
        "resize": fit,
        "max_length": min(MAX_LENGTH, text["positions"]),
        "dropout": 0.0,
        **({} if task == "retriever" else {"depth": text["depth"]}),
        **given,
    }
    options = resolve(task, False, options)
    check_length(options["max_length"], text)
    layout = {**layout, "text": {**text, "dropout": options["dropout"]}, "absent": order.absent}
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    return {"name": name, "overrides": options, "dtype": "float32", "vocabulary": vocabulary, "published": layout}
