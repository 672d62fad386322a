"""CLIP: two towers, each a transformer; the class token and the end token are projected and compared.

Radford et al. 2021, https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vtx_keras.checkpoints.published import _said as said
from vtx_keras.checkpoints.published._names import Source, side_by_side, tensor
from vtx_keras.checkpoints.published._said import Order, Said

SPARE = (r"position_ids$",)


def layout(config: Said, folder: Path, task: str) -> tuple[dict[str, Any], Order, list[str], str]:
    """Return the layout of the graph, the order of ids, the pieces in it, and how pictures are fitted."""
    del task
    t = config.part("text_config")
    vision, fit = vision_layout(config.part("vision_config"), folder)
    names = said.pieces(folder, t("vocab_size"))
    # The config of OpenAI's checkpoints names another end token than they use.
    start, end = (said.special(names, piece) for piece in ("<|startoftext|>", "<|endoftext|>"))
    order = said.order(names, start, end, None)
    text = said.text_layout(t)
    whole = {"vision": vision, "text": text, "embedding": config("projection_dim"), "rule": said.rule(folder, end=True)}
    return whole, order, order.vocabulary(names), fit


def vision_layout(v: Said, folder: Path) -> tuple[dict[str, Any], str]:
    """Return the image encoder's part of a layout, and how pictures are fitted."""
    vision, fit = said.vision_layout(v, folder)
    return {**vision, "first_norm": True, "patch_bias": False}, fit


def table(layout: dict[str, Any], order: Order, task: str) -> dict[str, str | Source]:
    """Return the tensors of each layer."""
    del task

    def turned(value: np.ndarray) -> np.ndarray:
        return value.T

    e = "text_model.embeddings."
    rows = vision_table(layout["vision"], "vision_model.") | {
        "text_encoder/words": tensor(e + "token_embedding.weight", "embeddings", order.rows),
        "text_encoder/positions": tensor(e + "position_embedding.weight", "axis_0"),
        "text_encoder/last_norm": "text_model.final_layer_norm",
        "image_projection": tensor("visual_projection.weight", "kernel", turned),
        "text_projection": tensor("text_projection.weight", "kernel", turned),
        "contrastive": tensor("logit_scale", "log_scale"),
    }
    return rows | block_table(layout["text"]["depth"], "text_encoder/", "text_model.")


def vision_table(vision: dict[str, Any], prefix: str) -> dict[str, str | Source]:
    """Return the tensors of the image encoder."""
    e = prefix + "embeddings."
    rows: dict[str, str | Source] = {
        "image_encoder/patches": e + "patch_embedding",
        "image_encoder/class": tensor(e + "class_embedding", "token", lambda value: value[None, None]),
        "image_encoder/positions": tensor(e + "position_embedding.weight", "axis_0"),
        "image_encoder/first_norm": prefix + "pre_layrnorm",  # so spelled
        "image_encoder/last_norm": prefix + "post_layernorm",
    }
    return rows | block_table(vision["depth"], "image_encoder/", prefix)


def block_table(depth: int, ours: str, prefix: str) -> dict[str, str | Source]:
    """Return the tensors of CLIP's blocks, in either tower."""
    rows: dict[str, str | Source] = {}
    for i in range(depth):
        block, theirs = f"{ours}block_{i}/", f"{prefix}encoder.layers.{i}."
        a = theirs + "self_attn."
        rows |= {
            block + "attention_norm": theirs + "layer_norm1",
            block + "attention/query": a + "q_proj",
            block + "attention/key_value": side_by_side(a + "k_proj", a + "v_proj"),
            block + "attention/output": a + "out_proj",
            block + "mlp_norm": theirs + "layer_norm2",
            block + "mlp/up": theirs + "mlp.fc1",
            block + "mlp/down": theirs + "mlp.fc2",
        }
    return rows
