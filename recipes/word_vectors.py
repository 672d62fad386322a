"""Word vectors of a large text encoder for a small model: similar words start close, even words that are never trained.

    model = zoo.build("retriever", weights="encoders", image_encoder="mobilenet_v2")
    word_vectors.give(model)    # before training

The vectors are those of a published encoder, which is converted once: `vtx convert minilm_l6`.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence

import numpy as np

from vtx_keras import text
from vtx_keras.checkpoints._folder import VOCABULARY
from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.models._base import VisionText, leaves, run_in_batches

LENGTH = 32  # the most pieces of a text that are read


def give(model: VisionText, reader: str = "minilm_l6", *, folder: str | os.PathLike | None = None) -> None:
    """Set the model's word table to the vectors of a published text encoder (`reader`), and freeze it.

    The table holds only the main directions of the vectors, so `reader` is not needed afterwards. Give the model a
    large vocabulary (the bundled one, by default): a word that is not in it has no vector. `.keras` files store that
    the table is frozen, weights folders do not.
    """
    words = [piece.removeprefix("##") for piece in model.vocabulary]
    assign(model, of(words, reader, folder=folder))


def assign(model: VisionText, vectors: np.ndarray) -> None:
    """Set the model's word table to the main directions of `vectors` (pieces, width), at its own scale, and freeze it.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("retriever", weights=None, dim=32, text_depth=1, image_shape=(32, 32, 3))
    >>> assign(model, np.random.default_rng(0).normal(size=(len(model.vocabulary), 64)))
    >>> next(layer.trainable for layer in leaves(model) if layer.name == "words")
    False
    """
    table = next((layer for layer in leaves(model) if layer.name == "words"), None)
    if table is None:
        raise ValueError(f"this {model.name} has no word table of its own: text_encoder must be one from scratch")
    before = np.array(table.embeddings)
    pieces, width = before.shape
    if vectors.shape[0] != pieces or vectors.shape[1] < width:
        raise ValueError(f"vectors of shape {vectors.shape}: expected {pieces} of at least {width} numbers")
    words = slice(len(text.SPECIALS), None)  # special pieces keep their embeddings
    centred = vectors - vectors[words].mean(axis=0)
    directions = np.linalg.svd(centred[words], full_matrices=False)[2][:width]
    after = np.pad(centred @ directions.T, [[0, 0], [0, width - len(directions)]])  # few pieces have few directions
    after *= before.std() / after[words].std()
    table.embeddings.assign(np.concatenate([before[: words.start], after[words]]))
    table.trainable = False
    model.compile_again()


def of(texts: Sequence[str], reader: str = "minilm_l6", *, folder: str | os.PathLike | None = None) -> np.ndarray:
    """Return the sentence vector (texts, width) of a published text encoder for each text."""
    home = published.find(reader, folder)
    vocabulary = tuple((home / VOCABULARY).read_text(encoding="utf-8").rstrip("\n").split("\n"))
    model = published.load(reader, head=True, folder=folder)
    begin, end = (vocabulary.index(special) for special in ("[CLS]", "[SEP]"))
    rows = text.tokenizer(vocabulary).tokenize([_plain(one) for one in texts])
    ids = np.zeros((len(rows), LENGTH), "int32")
    for line, row in zip(ids, rows, strict=True):
        pieces = [begin, *(int(piece) for piece in row[: LENGTH - 2]), end]
        line[: len(pieces)] = pieces
    return run_in_batches(model.predict_on_batch, ids, 256)


def _plain(words: str) -> str:
    """Normalize and remove accents, as uncased BERT does.

    >>> _plain("Pi\u00f1ata")
    'pinata'
    """
    letters = unicodedata.normalize("NFD", text.normalize(words))
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Mn")
