"""ViT and GPT-2 with cross-attention, as nlpconnect/vit-gpt2-image-captioning has them (VisionEncoderDecoder)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtx_keras.checkpoints.published import _said as said
from vtx_keras.checkpoints.published._names import Source, conv1d, tensor, thirds, vit_block
from vtx_keras.checkpoints.published._said import Order, Said

SPARE = (r"\.attn\.(masked_)?bias$", r"\.crossattention\.(masked_)?bias$", r"lm_head\.weight$", r"pooler\.dense\.")

TIED = {"decoder.lm_head.weight": "decoder.transformer.wte.weight"}


def layout(config: Said, folder: Path, task: str) -> tuple[dict[str, Any], Order, list[str], str]:
    """Return the layout of the graph, the order of ids, the pieces in it, and how pictures are fitted."""
    del task
    t, v = config.part("decoder"), config.part("encoder")
    for part, expected in ((t, "gpt2"), (v, "vit")):
        if part("model_type") != expected:
            raise said.BadWeights(f"{part.where} is a {part('model_type')}: expected {expected}")
    if t.values.get("scale_attn_weights") is False or t.values.get("scale_attn_by_inverse_layer_idx"):
        raise said.BadWeights(f"{t.where} scales attention in a way of its own, which is not built here")
    vision, fit = said.vision_layout(v, folder)
    names = said.pieces(folder, t("vocab_size"))
    end = config.values.get("eos_token_id") or t("eos_token_id")
    start = config.values.get("decoder_start_token_id") or t("bos_token_id")
    order = said.order(names, start, end, config.values.get("pad_token_id"))
    text = {
        "dim": t("n_embd"),
        "heads": t("n_head"),
        "depth": t("n_layer"),
        "hidden": t.values.get("n_inner") or 4 * t("n_embd"),
        "epsilon": t("layer_norm_epsilon"),
        "activation": t.activation("activation_function"),
        "positions": t("n_positions"),
    }
    if t.values.get("tie_word_embeddings") is False:
        text["own_head"] = True
    bridge: dict | None = None if vision["dim"] == text["dim"] else {}
    whole = {"vision": vision, "bridge": bridge, "text": text, "rule": said.rule(folder)}
    whole["decode"] = {"start_is_end": start == end}
    return whole, order, order.vocabulary(names), fit


def table(layout: dict[str, Any], order: Order, task: str) -> dict[str, str | Source]:
    """Return the tensors of each layer."""
    del task
    p = "decoder.transformer."
    rows = vision_table(layout["vision"], "encoder.") | {
        "words": tensor(p + "wte.weight", "embeddings", order.rows),
        "positions": tensor(p + "wpe.weight", "axis_0"),
        "norm": p + "ln_f",
    }
    if layout["text"].get("own_head"):
        rows["word_head"] = tensor("decoder.lm_head.weight", "kernel", order.columns)
    if layout["bridge"] is not None:
        rows["vision/projection"] = "enc_to_dec_proj"
    for i in range(layout["text"]["depth"]):
        ours, theirs = f"fusion_{i}/", f"{p}h.{i}."
        rows |= {
            ours + "attention_norm": theirs + "ln_1",
            ours + "attention/query": thirds(theirs + "attn.c_attn", 0, inputs_first=True),
            ours + "attention/key_value": thirds(theirs + "attn.c_attn", 1, 2, inputs_first=True),
            ours + "attention/output": conv1d(theirs + "attn.c_proj"),
            ours + "fusion_norm": theirs + "ln_cross_attn",
            ours + "cross_attention/query": conv1d(theirs + "crossattention.q_attn"),
            ours + "cross_attention/key_value": conv1d(theirs + "crossattention.c_attn"),
            ours + "cross_attention/output": conv1d(theirs + "crossattention.c_proj"),
            ours + "mlp_norm": theirs + "ln_2",
            ours + "mlp/up": conv1d(theirs + "mlp.c_fc"),
            ours + "mlp/down": conv1d(theirs + "mlp.c_proj"),
        }
    return rows


def vision_table(vision: dict[str, Any], prefix: str) -> dict[str, str | Source]:
    """Return the tensors of the image encoder."""
    e = prefix + "embeddings."
    rows: dict[str, str | Source] = {
        "image_encoder/patches": e + "patch_embeddings.projection",
        "image_encoder/class": tensor(e + "cls_token", "token"),
        "image_encoder/positions": tensor(e + "position_embeddings", "axis_0", lambda value: value[0]),
        "image_encoder/last_norm": prefix + "layernorm",
    }
    for i in range(vision["depth"]):
        rows |= vit_block(f"image_encoder/block_{i}/", f"{prefix}encoder.layer.{i}.")
    return rows
