"""BERT as a text encoder with its own pieces: google-bert/bert-base-uncased and its kin.

Devlin et al. 2018, https://arxiv.org/abs/1810.04805
"""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras.checkpoints._folder import CONFIG, BadWeights
from vtx_keras.checkpoints.published import _hub as hub
from vtx_keras.checkpoints.published import _names, _tensors
from vtx_keras.checkpoints.published import _said as said
from vtx_keras.checkpoints.published._build import folder_of
from vtx_keras.checkpoints.published._names import Source, bert_block, tensor
from vtx_keras.checkpoints.published._parts import NormedPositions
from vtx_keras.checkpoints.published._said import Order
from vtx_keras.inputs.text import PAD, Vocabulary
from vtx_keras.models._base import graph
from vtx_keras.models.blocks import Block

SPARE = (r"position_ids$", r"(^|\.)pooler\.", r"^cls\.", r"^classifier\.", r"^dropout")


def load(address: str | os.PathLike) -> tuple[keras.Model, Vocabulary]:
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
    _names.assign(model, table, tensors, spare=SPARE, what=str(folder))
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
