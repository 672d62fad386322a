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
import numpy as np
from keras import ops

from vtx_keras.checkpoints._folder import CONFIG, BadWeights
from vtx_keras.checkpoints.published import _hub as hub
from vtx_keras.checkpoints.published import _names, _parts, _tensors
from vtx_keras.checkpoints.published import _said as said
from vtx_keras.checkpoints.published._blip import vision_table as blip_table
from vtx_keras.checkpoints.published._build import folder_of, is_published
from vtx_keras.checkpoints.published._clip import vision_layout as clip_layout
from vtx_keras.checkpoints.published._clip import vision_table as clip_table
from vtx_keras.checkpoints.published._names import Source, bert_block, tensor
from vtx_keras.checkpoints.published._parts import NormedPositions
from vtx_keras.checkpoints.published._said import Order
from vtx_keras.checkpoints.published._siglip import vision_layout as siglip_layout
from vtx_keras.checkpoints.published._siglip import vision_table as siglip_table
from vtx_keras.checkpoints.published._vit_gpt2 import vision_table as vit_table
from vtx_keras.inputs.text import PAD, Vocabulary
from vtx_keras.models._base import graph
from vtx_keras.models.blocks import Block

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
        found["text_encoder"], vocabulary = load_text(found["text_encoder"])
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


# --- texts: BERT, google-bert/bert-base-uncased and its kin (Devlin et al. 2018, https://arxiv.org/abs/1810.04805)

BERT_SPARE = (r"position_ids$", r"(^|\.)pooler\.", r"^cls\.", r"^classifier\.", r"^dropout")


def load_text(address: str | os.PathLike) -> tuple[keras.Model, Vocabulary]:
    """Return the text encoder of a checkpoint, from ids to (batch, words, dim), and the vocabulary of those ids."""
    folder = folder_of(address)
    hub.check_folder(folder)
    config = said.read(folder, CONFIG)
    if config.values.get("model_type") != "bert":
        raise BadWeights(f"{config.where} is a {config.values.get('model_type')}: text encoders are known of bert")
    names = said.pieces(folder, config("vocab_size"))
    for special in ("[PAD]", "[UNK]", "[CLS]", "[SEP]"):
        if special not in names:
            raise BadWeights(f"the tokenizer of {folder} has no {special}: it is not that of a BERT")
    start, end, pad = (names.index(one) for one in ("[CLS]", "[SEP]", "[PAD]"))
    order = said.order(names, start, end, pad, "[UNK]", "[MASK]")
    options = {
        "hidden": config("intermediate_size"),
        "epsilon": config("layer_norm_eps"),
        "activation": config.activation(),
    }
    size = len(order.ids), config("max_position_embeddings"), config("hidden_size")
    model = network(*size, config("num_attention_heads"), config("num_hidden_layers"), **options)
    tensors = _tensors.open_tensors(folder)
    prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""
    table = names_of(config("num_hidden_layers"), prefix, order)
    _names.assign(model, table, tensors, spare=BERT_SPARE, what=str(folder))
    return model, Vocabulary(order.vocabulary(names), rule=said.rule(folder, end=True))


def network(pieces: int, places: int, dim: int, heads: int, depth: int, **options: Any) -> keras.Model:
    """Build BERT without its pooler: norms after the sums, every word sees every other that is not padding."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.not_equal(tokens, PAD)  # (batch, words)
    x = NormedPositions((places,), options["epsilon"], name="positions")(
        keras.layers.Embedding(pieces, dim, name="words")(tokens)
    )  # (batch, words, dim)
    for i in range(depth):
        x = Block(dim, heads, post_norm=True, **options, name=f"block_{i}")(x, mask)
    return graph(tokens, x, "text_encoder")


def names_of(depth: int, prefix: str, order: Order) -> dict[str, str | Source]:
    """Return the tensors of each layer. A text is one segment, whose vector is added to the positions."""
    e = prefix + "embeddings."
    places, segments = e + "position_embeddings.weight", e + "token_type_embeddings.weight"

    def summed(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"axis_0": values[places] + values[segments][:1]}

    rows: dict[str, str | Source] = {
        "words": tensor(e + "word_embeddings.weight", "embeddings", order.rows),
        "positions/places": Source((places, segments), make=summed),
        "positions/norm": e + "LayerNorm",
    }
    for i in range(depth):
        rows |= bert_block(f"block_{i}/", f"{prefix}encoder.layer.{i}.")
    return rows
