"""SigLIP and SigLIP 2: two towers; a learned probe pools the image, the last of always 64 tokens is the text.

Zhai et al. 2023, https://arxiv.org/abs/2303.15343; Tschannen et al. 2025, https://arxiv.org/abs/2502.14786
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vtx_keras.checkpoints.published import _said as said
from vtx_keras.checkpoints.published._clip import block_table
from vtx_keras.checkpoints.published._names import Source, tensor
from vtx_keras.checkpoints.published._said import Order, Said

SPARE = (r"position_ids$",)

# The one architecture with defaults. Google's configs name what differs from the classes of transformers (SigLIP 2's
# base model: its vocabulary alone), so these values are part of the published files.
DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
TEXT_DEFAULTS = {**DEFAULTS, "vocab_size": 32_000, "max_position_embeddings": 64}
VISION_DEFAULTS = {**DEFAULTS, "image_size": 224, "patch_size": 16}

# SigLIP was trained on texts in lower case without punctuation, SigLIP 2 on texts in lower case. The classes of
# transformers see to that before a text comes to its tokenizer, so not every tokenizer.json does.
LOWER = {"type": "Lowercase"}
BARE = (
    {"type": "Replace", "pattern": {"Regex": r"[!-/:-@\[-`{-~]"}, "content": ""},  # the punctuation of ASCII
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Strip", "strip_left": True, "strip_right": True},
)


def layout(config: Said, folder: Path, task: str) -> tuple[dict[str, Any], Order, list[str], str]:
    """Return the layout of the graph, the order of ids, the pieces in it, and how pictures are fitted."""
    del task
    t = with_defaults(config.part("text_config"), TEXT_DEFAULTS)
    vision, fit = vision_layout(config.part("vision_config"), folder)
    names, tokenizer = said.pieces(folder, t("vocab_size")), said.read(folder, "tokenizer_config.json")
    end, pad = (said.special(names, special_piece(tokenizer, key)) for key in ("eos_token", "pad_token"))
    order = said.order(names, -1, end, pad, special_piece(tokenizer, "unk_token"), padding_is_read=True)
    text, pool = said.text_layout(t), said.block_options(with_defaults(config.part("vision_config"), VISION_DEFAULTS))
    width = t.values.get("projection_size") or text["dim"]
    if width != vision["dim"]:
        raise said.BadWeights(f"{config.where} embeds texts in {width} numbers, and images in {vision['dim']}")
    whole = {"vision": vision, "text": {**text, "padded": True}, "pool": pool, "embedding": width, "loss": "sigmoid"}
    return {**whole, "rule": rule(folder, tokenizer)}, order, order.vocabulary(names), fit


def vision_layout(v: Said, folder: Path) -> tuple[dict[str, Any], str]:
    """Return the image encoder's part of a layout, and how pictures are fitted."""
    vision, fit = said.vision_layout(with_defaults(v, VISION_DEFAULTS), folder)
    return {**vision, "class_token": False}, fit


def with_defaults(part: Said, defaults: dict[str, Any]) -> Said:
    """Return a part of a config with the values that it leaves out."""
    return Said({**defaults, **part.values}, part.where)


def special_piece(tokenizer: Said, key: str) -> str:
    """Return a special piece that a tokenizer_config.json names, as a string or with its options."""
    piece = tokenizer(key)
    return piece["content"] if isinstance(piece, dict) else piece


def rule(folder: Path, tokenizer: Said) -> dict[str, Any]:
    """Return how texts are cut: by tokenizer.json, in the form that the model was trained on."""
    of_file = said.rule(folder, end=True)
    if of_file["kind"] != "tokenizers" or tokenizer.values.get("do_lower_case") is False:
        return of_file
    kind, normalizer = str(tokenizer.values.get("tokenizer_class")), of_file["json"].get("normalizer")
    bare = BARE if kind.startswith("SiglipTokenizer") else ()
    steps = [LOWER, *bare, *([normalizer] if normalizer else [])]
    return {**of_file, "json": {**of_file["json"], "normalizer": {"type": "Sequence", "normalizers": steps}}}


def table(layout: dict[str, Any], order: Order, task: str) -> dict[str, str | Source]:
    """Return the tensors of each layer."""
    del task
    text, vision, head = "text_model.", "vision_model.", "vision_model.head."
    fused = head + "attention.in_proj_"
    rows: dict[str, str | Source] = {
        "image_pool/probe": tensor(head + "probe", "token"),
        "image_pool/attention/query": parts_of(fused, 0),
        "image_pool/attention/key_value": parts_of(fused, 1, 2),
        "image_pool/attention/output": head + "attention.out_proj",
        "image_pool/norm": head + "layernorm",
        "image_pool/mlp/up": head + "mlp.fc1",
        "image_pool/mlp/down": head + "mlp.fc2",
        "text_encoder/words": tensor(text + "embeddings.token_embedding.weight", "embeddings", order.rows),
        "text_encoder/positions": tensor(text + "embeddings.position_embedding.weight", "axis_0"),
        "text_encoder/last_norm": text + "final_layer_norm",
        "text_projection": text + "head",
        "contrastive": Source(("logit_scale", "logit_bias"), make=scale_and_bias),
    }
    rows |= vision_table(layout["vision"], vision)
    return rows | block_table(layout["text"]["depth"], "text_encoder/", text)


def vision_table(vision: dict[str, Any], prefix: str) -> dict[str, str | Source]:
    """Return the tensors of the image encoder."""
    rows: dict[str, str | Source] = {
        "image_encoder/patches": prefix + "embeddings.patch_embedding",
        "image_encoder/positions": tensor(prefix + "embeddings.position_embedding.weight", "axis_0"),
        "image_encoder/last_norm": prefix + "post_layernorm",
    }
    return rows | block_table(vision["depth"], "image_encoder/", prefix)


def parts_of(fused: str, *parts: int) -> Source:
    """Return the source of a layer that is one or two of the thirds of torch.nn.MultiheadAttention's projection."""
    weight, bias = fused + "weight", fused + "bias"

    def make(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        kernel, offset = (
            np.concatenate([np.array_split(values[name], 3)[part] for part in parts]) for name in (weight, bias)
        )
        return {"kernel": kernel.T, "bias": offset}

    return Source((weight, bias), make=make)


def scale_and_bias(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the two numbers that turn a cosine into a logit; the checkpoint has them as vectors of length 1."""
    scale, bias = (value[0] if value.shape == (1,) else value for value in values.values())
    return {"log_scale": scale, "bias": bias}
