"""GIT: CLIP's image encoder, and one BERT over image and text, a prefix LM: merged attention with norms after.

Wang et al. 2022, https://arxiv.org/abs/2205.14100
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtx_keras.checkpoints.published import _said as said
from vtx_keras.checkpoints.published._clip import vision_layout, vision_table
from vtx_keras.checkpoints.published._names import Source, bert_block, tensor
from vtx_keras.checkpoints.published._said import Order, Said

SPARE = (r"position_ids$", r"(^|\.)img_temporal_embedding\.")


def layout(config: Said, folder: Path, task: str) -> tuple[dict[str, Any], Order, list[str], str]:
    """Return the layout of the graph, the order of ids, the pieces in it, and how pictures are fitted."""
    del task  # GIT writes, whatever it is asked
    vision, fit = vision_layout(config.part("vision_config"), folder)
    names = said.pieces(folder, config("vocab_size"))
    order = said.order(names, config("bos_token_id"), config("eos_token_id"), config("pad_token_id"), "[UNK]", "[MASK]")
    text = {**said.text_layout(config), "post_norm": True, "own_head": True, "word_bias": True}
    bridge = {"epsilon": vision["epsilon"]}
    whole = {"vision": vision, "bridge": bridge, "text": text, "rule": said.rule(folder)}
    return whole, order, order.vocabulary(names), fit


def table(layout: dict[str, Any], order: Order, task: str) -> dict[str, str | Source]:
    """Return the tensors of each layer."""
    del task
    e = "git.embeddings."
    rows = vision_table(layout["vision"], "git.image_encoder.vision_model.") | {
        "vision/projection": "git.visual_projection.visual_projection.0",
        "vision/norm": "git.visual_projection.visual_projection.1",
        "words": tensor(e + "word_embeddings.weight", "embeddings", order.rows),
        "positions/places": tensor(e + "position_embeddings.weight", "axis_0"),
        "positions/norm": e + "LayerNorm",
        "word_head": tensor("output.weight", "kernel", order.columns),
        "word_bias": tensor("output.bias", "bias", order.rows),
    }
    for i in range(layout["text"]["depth"]):
        rows |= bert_block(f"fusion_{i}/", f"git.encoder.layer.{i}.")
    return rows
