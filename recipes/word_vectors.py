"""What words mean, lent by a large reader to a small one: words that were never trained on lie near those that were.

model = zoo.build("retriever", weights="encoders", image_encoder="mobilenet_v2")
meanings.give(model)                                # before training; needs the published minilm_l6 once
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence

import numpy as np

from vtx_keras import published, text
from vtx_keras.vision_text import VisionText, in_pieces, leaves

LENGTH = 32  # of a text's pieces, at most


def give(model: VisionText, reader: str = "minilm_l6", *, folder: str | os.PathLike | None = None) -> None:
    """The model's pieces get the vectors that `reader` has for them, and keep them: their table is frozen.

    The small model holds no more than the vectors' main directions, so nothing of `reader` is needed afterwards. Give
    the model a wide vocabulary (the bundled one, by default): what is not in it has no meaning. Whether a table is
    frozen is kept in `.keras` files, not in weights folders.
    """
    words = [piece.removeprefix("##") for piece in model.vocabulary]
    assign(model, of(words, reader, folder=folder))


def assign(model: VisionText, vectors: np.ndarray) -> None:
    """The main directions of `vectors` (pieces, width) become the model's word table, at the table's own scale.

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
    known = slice(len(text.SPECIALS), None)  # padding and the like mean nothing
    centred = vectors - vectors[known].mean(axis=0)
    directions = np.linalg.svd(centred[known], full_matrices=False)[2][:width]
    after = np.pad(centred @ directions.T, [[0, 0], [0, width - len(directions)]])  # of few pieces there are few
    after *= before.std() / after[known].std()
    table.embeddings.assign(np.concatenate([before[: known.start], after[known]]))
    table.trainable = False
    model.compile_again()


def of(texts: Sequence[str], reader: str = "minilm_l6", *, folder: str | os.PathLike | None = None) -> np.ndarray:
    """The vector (texts, width) that a published reader has for each text, as published for its sentences."""
    home = published.find(reader, folder)
    vocabulary = tuple((home / "vocabulary.txt").read_text(encoding="utf-8").rstrip("\n").split("\n"))
    model = published.load(reader, head=True, folder=folder)
    begin, end = (vocabulary.index(special) for special in ("[CLS]", "[SEP]"))
    rows = text.tokenizer(vocabulary).tokenize([_plain(one) for one in texts])
    ids = np.zeros((len(rows), LENGTH), "int32")
    for line, row in zip(ids, rows, strict=True):
        pieces = [begin, *(int(piece) for piece in row[: LENGTH - 2]), end]
        line[: len(pieces)] = pieces
    return in_pieces(model.predict_on_batch, ids, 256)


def _plain(words: str) -> str:
    """Normalized and without accents, as uncased BERT reads.

    >>> _plain("Pi\u00f1ata")
    'pinata'
    """
    letters = unicodedata.normalize("NFD", text.normalize(words))
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Mn")
