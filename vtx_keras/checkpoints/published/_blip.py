"""BLIP: a vision transformer, and BERT as a decoder (captions) or encoder (matching) that reads it in every layer.

Li et al. 2022, https://arxiv.org/abs/2201.12086
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vtx_keras.checkpoints.published import _said as said
from vtx_keras.checkpoints.published._names import Source, bert_block, tensor, thirds
from vtx_keras.checkpoints.published._said import Order, Said

# Tied to the word table, or counters, or heads of training that the task does not use.
SPARE = (r"position_ids$", r"cls\.predictions\.decoder\.", r"^(vision|text)_proj\.", r"^logit_scale$")

TIED = {
    "text_decoder.cls.predictions.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}


def layout(config: Said, folder: Path, task: str) -> tuple[dict[str, Any], Order, list[str], str]:
    """Return the layout of the graph, the order of ids, the pieces in it, and how pictures are fitted."""
    t, v = config.part("text_config"), config.part("vision_config")
    vision, fit = said.vision_layout(v, folder)
    names = said.pieces(folder, t("vocab_size"))
    # [DEC] begins what is written, [CLS] what is read; [SEP] ends both.
    start = t("bos_token_id") if task == "captioner" else said.special(names, "[CLS]")
    order = said.order(names, start, t("sep_token_id"), t("pad_token_id"), "[UNK]", "[MASK]")
    text = {**said.text_layout(t), "post_norm": True}
    if task == "captioner":
        text |= {"word_transform": True, "word_bias": True}
    whole = {"vision": vision, "text": text, "rule": said.rule(folder, end=task != "captioner")}
    return whole, order, order.vocabulary(names), fit


def table(layout: dict[str, Any], order: Order, task: str) -> dict[str, str | Source]:
    """Return the tensors of each layer."""
    inner = "text_decoder.bert." if task == "captioner" else "text_encoder."
    rows = vision_table(layout["vision"], "vision_model.") | text_table(layout["text"], order, inner)
    if task == "captioner":
        head = "text_decoder.cls.predictions."
        rows["norm/dense"] = head + "transform.dense"
        rows["norm/norm"] = head + "transform.LayerNorm"
        rows["word_bias"] = tensor(head + "bias", "bias", order.rows)
    else:
        rows["head"] = Source(("itm_head.weight", "itm_head.bias"), make=yes_minus_no)
    return rows


def yes_minus_no(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the head of one logit whose logistic is the softmax of the two."""
    kernel, bias = values["itm_head.weight"], values["itm_head.bias"]
    return {"kernel": (kernel[1:] - kernel[:1]).T, "bias": bias[1:] - bias[:1]}


def vision_table(vision: dict[str, Any], prefix: str) -> dict[str, str | Source]:
    """Return the tensors of the image encoder."""
    e = prefix + "embeddings."
    rows: dict[str, str | Source] = {
        "image_encoder/patches": e + "patch_embedding",
        "image_encoder/class": tensor(e + "class_embedding", "token"),
        "image_encoder/positions": tensor(e + "position_embedding", "axis_0", lambda value: value[0]),
        "image_encoder/last_norm": prefix + "post_layernorm",
    }
    for i in range(vision["depth"]):
        ours, theirs = f"image_encoder/block_{i}/", f"{prefix}encoder.layers.{i}."
        rows |= {
            ours + "attention_norm": theirs + "layer_norm1",
            ours + "attention/query": thirds(theirs + "self_attn.qkv", 0),
            ours + "attention/key_value": thirds(theirs + "self_attn.qkv", 1, 2),
            ours + "attention/output": theirs + "self_attn.projection",
            ours + "mlp_norm": theirs + "layer_norm2",
            ours + "mlp/up": theirs + "mlp.fc1",
            ours + "mlp/down": theirs + "mlp.fc2",
        }
    return rows


def text_table(text: dict[str, Any], order: Order, inner: str) -> dict[str, str | Source]:
    """Return the tensors of BERT with cross-attention."""
    e = inner + "embeddings."
    rows: dict[str, str | Source] = {
        "words": tensor(e + "word_embeddings.weight", "embeddings", order.rows),
        "positions/places": tensor(e + "position_embeddings.weight", "axis_0"),
        "positions/norm": e + "LayerNorm",
    }
    for i in range(text["depth"]):
        block, theirs = f"fusion_{i}/", f"{inner}encoder.layer.{i}."
        rows |= bert_block(block, theirs) | bert_block(block, theirs, "crossattention", "cross_attention")
    return rows
