"""Encoders out of published checkpoints: of images, that of CLIP, SigLIP, BLIP or a ViT; of texts, a BERT.

zoo.build("cross_attn_captioner", weights="encoders", image_encoder="clip_b32")     # or hf://…, or a folder
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from vtx_keras.checkpoints._folder import CONFIG, BadWeights
from vtx_keras.checkpoints.published import _bert, _names, _parts, _tensors
from vtx_keras.checkpoints.published import _hub as hub
from vtx_keras.checkpoints.published import _said as said
from vtx_keras.checkpoints.published._blip import vision_table as blip_table
from vtx_keras.checkpoints.published._build import folder_of, is_published
from vtx_keras.checkpoints.published._clip import vision_layout as clip_layout
from vtx_keras.checkpoints.published._clip import vision_table as clip_table
from vtx_keras.checkpoints.published._siglip import vision_layout as siglip_layout
from vtx_keras.checkpoints.published._siglip import vision_table as siglip_table
from vtx_keras.checkpoints.published._vit_gpt2 import vision_table as vit_table

# By model_type: the part of the config, its layout, its names, and where those begin.
TOWERS: dict[str, tuple[str | None, Callable, Callable, tuple[str, ...]]] = {
    "clip": ("vision_config", clip_layout, clip_table, ("vision_model.",)),
    "clip_vision_model": (None, clip_layout, clip_table, ("vision_model.",)),
    "siglip": ("vision_config", siglip_layout, siglip_table, ("vision_model.",)),
    "siglip_vision_model": (None, siglip_layout, siglip_table, ("vision_model.",)),
    "blip": ("vision_config", said.vision_layout, blip_table, ("vision_model.",)),
    "vit": (None, said.vision_layout, vit_table, ("vit.", "")),
}


def with_encoders(overrides: Mapping[str, Any], vocabulary: Any = None) -> tuple[dict[str, Any], Any]:
    """Return the options of `zoo.build` with published encoders loaded, and the vocabulary that the text encoder reads.

    An image encoder comes with its own size and way of fitting. Presets of keras-hub on the Hub (hf://keras/…) stay
    names.

    >>> with_encoders({"image_encoder": "vit", "dim": 64})
    ({'image_encoder': 'vit', 'dim': 64}, None)
    """
    found = dict(overrides)
    if _is_named(found.get("image_encoder")):
        encoder, fit = load(found["image_encoder"])
        found = {"image_shape": encoder.input_shape[1:], "resize": fit, **found, "image_encoder": encoder}
    if _is_named(found.get("text_encoder")):
        if vocabulary is not None:
            raise BadWeights(f"vocabulary=: {found['text_encoder']} has a tokenizer of its own")
        found["text_encoder"], vocabulary = _bert.load(found["text_encoder"])
    return found, vocabulary


def _is_named(encoder: Any) -> bool:
    """Return whether an option names a published encoder that is read here."""
    name = encoder if isinstance(encoder, (str, os.PathLike)) else ""
    return not str(name).startswith("hf://keras/") and is_published(name)


def load(address: str | os.PathLike) -> tuple[keras.Model, str]:
    """Return the image encoder of a checkpoint, from 0-255 pixels to tokens, and how pictures are fitted to it."""
    folder = folder_of(address)
    hub.check_folder(folder)
    config = said.read(folder, CONFIG)
    kind = config.values.get("model_type")
    if kind not in TOWERS:
        raise BadWeights(f"{config.where} is a {kind}: image encoders are known of {', '.join(TOWERS)}")
    part, layout, table, prefixes = TOWERS[kind]
    vision, fit = layout(config.part(part) if part else config, folder)
    encoder, tensors = _parts.vit(**vision), _tensors.open_tensors(folder)
    prefix = next((one for one in prefixes if any(name.startswith(one) for name in tensors)), prefixes[0])
    rows = {path.removeprefix("image_encoder/"): source for path, source in table(vision, prefix).items()}
    others = rf"^(?!{re.escape(prefix)}(embeddings|encoder|layernorm|pre_layrnorm|post_layernorm)\.)"
    _names.assign(encoder, rows, tensors, spare=(others, r"position_ids$", r"mask_token$"), what=str(Path(folder)))
    return encoder, fit
