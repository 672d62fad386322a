"""Texts to ids inside tf.data: the same ids as `text.encode` gives, by tensorflow-text, many texts at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf
import tensorflow_text as tf_text

from vtx_keras.inputs import text


def normalize(texts: tf.Tensor) -> tf.Tensor:
    """`text.normalize` as a graph: the sequence is written down above `text.GAPS`.

    >>> normalize(tf.constant(["  A  CAT\\u2028sits "])).numpy().tolist()
    [b'a cat sits']
    """
    return tf.cond(tf.reduce_all(is_plain(texts)), lambda: tf.strings.lower(texts), lambda: _normalized(texts))


def is_plain(texts: tf.Tensor) -> tf.Tensor:
    """Which texts are ASCII words with single spaces between: most are, and only their case can change.

    >>> is_plain(tf.constant(["A cat.", "a  cat", "caf\u00e9"])).numpy().tolist()
    [True, False, False]
    """
    return tf.strings.regex_full_match(texts, "[!-~]+( [!-~]+)*")


def _normalized(texts: tf.Tensor) -> tf.Tensor:
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
    vocabulary: Sequence[str], *, start: bool = False, end: bool = False, plain: bool = False
) -> Callable[[tf.Tensor, int | tf.Tensor], tf.Tensor]:
    """A function from texts (n,) and a length to int32 ids (n, length), as `text.encode` makes them.

    `plain` promises that all texts are (see `is_plain`), which saves half of the time.

    >>> ids = encoder(text.vocabulary(["cat", "##s"]), start=True, end=True)(tf.constant(["Cats"]), 6)
    >>> ids.numpy().tolist()
    [[2, 5, 6, 3, 0, 0]]
    """
    cut = pieces(vocabulary)

    def encode(texts: tf.Tensor, length: int | tf.Tensor) -> tf.Tensor:
        found, width = cut(tf.strings.lower(texts) if plain else normalize(texts)), length - start
        shape = (
            (None, width) if isinstance(width, int) else tf.stack([-1, width])
        )  # a bucket's is known when it is full
        ids = found.to_tensor(text.PAD, shape=shape)
        if end:
            last = tf.minimum(found.row_lengths(), tf.cast(width, tf.int64) - 1)
            ids = tf.where(tf.range(tf.cast(width, tf.int64)) == last[:, None], text.END, ids)
        if start:
            ids = tf.pad(ids, [[0, 0], [1, 0]], constant_values=text.START)
        return ids

    return encode
