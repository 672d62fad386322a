"""ViLT: patches and words in one transformer without an image encoder, for answers (vqa) and matching.

Kim et al. 2021, https://arxiv.org/abs/2102.03334

The original reads pictures of any aspect, with their positions interpolated. Here every picture is stretched to the
square that the positions were trained on, so that results differ from the original's for pictures that are not square.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vtx_keras.checkpoints.published import _said as said
from vtx_keras.checkpoints.published._names import Source, tensor, vit_block
from vtx_keras.checkpoints.published._said import Order, Said

SPARE = (r"position_ids$",)
TEXT, IMAGE = 0, 1  # rows of the table of modalities
HEAD_EPSILON = 1e-5  # of the norm in the classifier, which is PyTorch's own


def layout(config: Said, folder: Path, task: str) -> tuple[dict[str, Any], Order, list[str], str]:
    """Return the layout of the graph, the order of ids, the pieces in it, and how pictures are fitted."""
    vision, fit = said.vision_layout(config, folder)
    names = said.pieces(folder, config("vocab_size"))
    start, end, pad = (said.special(names, piece) for piece in ("[CLS]", "[SEP]", "[PAD]"))
    order = said.order(names, start, end, pad, "[UNK]", "[MASK]")
    text = {**said.text_layout(config), "embedding_norm": True, "pooler": True}
    vision = {**vision, "depth": 0, "last_norm": False}  # the blocks are those of the text
    whole: dict[str, Any] = {"vision": vision, "text": text, "rule": said.rule(folder, end=True)}
    if task == "vqa":
        whole |= {"head": {"hidden": 2 * text["dim"], "epsilon": HEAD_EPSILON}, "classes": answers(config)}
    return whole, order, order.vocabulary(names), fit


def answers(config: Said) -> list[str]:
    """Return the names of the classes."""
    labels = config("id2label")
    numbers = [str(i) for i in range(len(labels))]
    if set(labels) != set(numbers) or len(set(labels.values())) < max(2, len(labels)):
        raise said.BadWeights(f"{config.where} has an id2label of {len(labels)}: expected distinct answers from 0 on")
    return [labels[number] for number in numbers]


def table(layout: dict[str, Any], order: Order, task: str) -> dict[str, str | Source]:
    """Return the tensors of each layer."""
    e = "vilt.embeddings."
    t, modality = e + "text_embeddings.", e + "token_type_embeddings.weight"
    kinds = t + "token_type_embeddings.weight"
    rows: dict[str, str | Source] = {
        "image_encoder/patches": e + "patch_embeddings.projection",
        "image_encoder/class": tensor(e + "cls_token", "token"),
        "image_encoder/positions": summed("axis_0", e + "position_embeddings", modality, IMAGE),
        "words": tensor(t + "word_embeddings.weight", "embeddings", order.rows),
        "positions/places": summed("axis_0", t + "position_embeddings.weight", kinds, TEXT),
        "positions/norm": normed(t + "LayerNorm", modality),
        "norm": "vilt.layernorm",
        "pooler": "vilt.pooler.dense",
    }
    if task == "vqa":
        rows |= {"head_up": "classifier.0", "head_norm": "classifier.1", "head": "classifier.3"}
    else:
        rows["head"] = "rank_output"
    for i in range(layout["text"]["depth"]):
        rows |= vit_block(f"fusion_{i}/", f"vilt.encoder.layer.{i}.")
    return rows


def summed(variable: str, places: str, kinds: str, kind: int) -> Source:
    """Return the source of positions to which a row of another table is added: all tokens there are of one kind."""

    def make(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        table = values[places]
        return {variable: (table[0] if table.ndim == 3 else table) + values[kinds][kind]}

    return Source((places, kinds), make=make)


def normed(norm: str, modality: str) -> Source:
    """Return the source of the norm of the words, after which the original adds the row of the text."""
    gain, offset = norm + ".weight", norm + ".bias"

    def make(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"gamma": values[gain], "beta": values[offset] + values[modality][TEXT]}

    return Source((gain, offset, modality), make=make)
