"""Texts to ids inside tf.data: the same ids as `text.encode` gives, by tensorflow-text, many texts at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf
import tensorflow_text as tf_text

from vtx_keras import text


def normalize(texts: tf.Tensor) -> tf.Tensor:
    """`text.normalize` as a graph: the sequence is written down above `text.GAPS`.

    >>> normalize(tf.constant(["  A  CAT\\u2028sits "])).numpy().tolist()
    [b'a cat sits']
    """
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace", replace_control_characters=False)
    texts = tf.strings.regex_replace(tf.strings.regex_replace(texts, text.UNSEEN, ""), text.GAPS, " ")
    texts = tf.strings.lower(tf_text.normalize_utf8(texts, "NFKC"), encoding="utf-8")
    return tf.strings.strip(tf.strings.regex_replace(tf_text.normalize_utf8(texts, "NFKC"), text.GAPS, " "))


def pieces(vocabulary: Sequence[str]) -> Callable[[tf.Tensor], tf.RaggedTensor]:
    """A function from normalised texts (n,) to ragged ids (n, pieces).

    >>> pieces(text.vocabulary(["cat", "##s"]))(tf.constant(["cats cat"])).to_list()
    [[5, 6, 5]]
    """
    tokenizer = tf_text.FastBertTokenizer(
        list(vocabulary), token_out_type=tf.int32, unknown_token=text.SPECIALS[text.UNK]
    )
    return tokenizer.tokenize


def encoder(
    vocabulary: Sequence[str], *, start: bool = False, end: bool = False
) -> Callable[[tf.Tensor, int | tf.Tensor], tf.Tensor]:
    """A function from texts (n,) and a length to int32 ids (n, length), as `text.encode` makes them.

    >>> ids = encoder(text.vocabulary(["cat", "##s"]), start=True, end=True)(tf.constant(["Cats"]), 6)
    >>> ids.numpy().tolist()
    [[2, 5, 6, 3, 0, 0]]
    """
    cut = pieces(vocabulary)

    def encode(texts: tf.Tensor, length: int | tf.Tensor) -> tf.Tensor:
        ids = cut(normalize(texts))[:, : length - start - end]
        count = ids.nrows()
        if start:
            ids = tf.concat([tf.fill([count, 1], text.START), ids], axis=1)
        if end:
            ids = tf.concat([ids, tf.fill([count, 1], text.END)], axis=1)
        if isinstance(length, int):
            return tf.ensure_shape(ids.to_tensor(text.PAD, shape=(None, length)), (texts.shape[0], length))
        ids = ids.to_tensor(text.PAD)  # a bucket's length, known only when it is filled
        return tf.pad(ids, [[0, 0], [0, length - tf.shape(ids)[1]]], constant_values=text.PAD)

    return encode
