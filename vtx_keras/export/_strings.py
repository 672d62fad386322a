"""Strings inside a TensorFlow graph: the ids of `text.encode` and the sentences of `text.decode`, by core operations.

TensorFlow has no normal form of Unicode among its core operations (it is in tensorflow-text, which a server does not
have), so it is written out here: characters to their compatibility parts in lower case, accents in their order, and
then, as far as a pair has a character of its own, together again. That is `text.normalize` for every text that has no
more than `LONGEST` bytes and no more than `HEAP` characters on one base; `tokens` tells of others that they are not ok.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vtx_keras.inputs import text

LONGEST = 10_000  # bytes of a text, spaces counted once: so that nobody's question makes others wait
HEAP = 64  # characters on one base; languages stay below 10
LONGEST_WORD = 100  # bytes; WordPiece takes what is longer for unknown
HANGUL, LEADS, VOWELS, TAILS = 0xAC00, 19, 21, 28  # syllables are counted, not listed


def tokens(texts: tf.Tensor, vocabulary: Sequence[str], length: int, *, allow_empty: bool = False) -> tuple[Any, Any]:
    """`text.encode(texts, ..., start=True)`: int32 ids (n, length), and which texts are ok, with words and not endless.

    >>> ids, ok = tokens(tf.constant(["Cats\\u2028CAT", " "]), text.vocabulary(["cat", "##s"]), 5)
    >>> ids.numpy().tolist(), ok.numpy().tolist()
    ([[2, 5, 6, 5, 0], [2, 0, 0, 0, 0]], [True, False])
    """
    normal, ok = normalize(texts)
    found = pieces(normal, vocabulary, length - 1)
    if not allow_empty:
        ok = ok & (found.row_lengths() > 0)
    return tf.pad(found.to_tensor(text.PAD, shape=(None, length - 1)), [[0, 0], [1, 0]], constant_values=text.START), ok


def sentences(ids: tf.Tensor, vocabulary: Sequence[str]) -> tf.Tensor:
    """`text.decode` of what `generate_ids` writes: words, then zeros.

    >>> sentences(tf.constant([[5, 6, 7, 0]]), text.vocabulary(["a", "cat", "##s"])).numpy().tolist()
    [b'a cats']
    """
    words = tf.ragged.boolean_mask(ids, ids >= len(text.SPECIALS))
    joined = tf.strings.reduce_join(tf.gather(tf.constant(list(vocabulary)), words), axis=-1, separator=" ")
    for pattern, rewrite in text.JOIN_RULES:
        joined = tf.strings.regex_replace(joined, pattern, rewrite)
    return joined


# --- WordPiece


def pieces(texts: tf.Tensor, vocabulary: Sequence[str], most: int) -> tf.RaggedTensor:
    """At most `most` ids of each normalised text.

    >>> pieces(tf.constant(["cats cat", ""]), text.vocabulary(["cat", "##s"]), 9).to_list()
    [[5, 6, 5], []]
    """
    alone, gaps = _parting()
    texts = tf.strings.regex_replace(tf.strings.regex_replace(texts, alone, r" \0 "), gaps, " ")
    words = tf.strings.split(texts)[:, :most]  # each gives a piece or more
    found = _word_pieces(words.values, vocabulary)
    spread = tf.RaggedTensor.from_row_splits(found, words.row_splits)
    return spread.merge_dims(1, 2)[:, :most]


@functools.lru_cache(maxsize=1)
def _parting() -> tuple[str, str]:
    """What stands alone and what goes, as KerasHub's WordPiece parts words. A server's Unicode may be older."""
    import regex  # KerasHub's own

    every = "".join(chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000)
    ideographs = (
        r"\u4E00-\u9FFF\u3400-\u4DBF\U00020000-\U0002A6DF\U0002A700-\U0002CEAF\uF900-\uFAFF\U0002F800-\U0002FA1F"
    )

    def ranges(pattern: str) -> str:
        runs = regex.findall(f"(?:{pattern})+", every)
        return "".join(rf"\x{{{ord(run[0]):x}}}-\x{{{ord(run[-1]):x}}}" for run in runs)

    alone, gaps = ranges(r"[!-/:-@\[-`{-~" + ideographs + r"]|\p{P}"), ranges(r"\p{Cf}|\p{Cc}| ")
    return f"[{alone}]", f"[{gaps}]+"


def _word_pieces(words: tf.Tensor, vocabulary: Sequence[str]) -> tf.RaggedTensor:
    """The ids of each word: its longest beginning that is a piece, then the longest of the rest, and so on."""
    most = max(len(piece) for piece in vocabulary)
    short = tf.strings.length(words) <= LONGEST_WORD

    def unfinished(rest: tf.Tensor, *_: Any) -> tf.Tensor:
        return tf.reduce_any(rest != "")

    def longest(rest: tf.Tensor, ids: tf.Tensor, known: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        left = tf.strings.length(rest, unit="UTF8_CHAR")
        size = tf.minimum(tf.range(1, tf.minimum(most, tf.reduce_max(left)) + 1), left[:, None])
        begun = tf.strings.substr(
            tf.broadcast_to(rest[:, None], tf.shape(size)), tf.zeros_like(size), size, "UTF8_CHAR"
        )
        found = _ids(tf.strings.join([tf.where(tf.shape(ids)[1] > 0, "##", ""), begun]), vocabulary)
        at = tf.reduce_max(tf.where(found >= 0, size, 0), axis=1)
        new = tf.gather(found, tf.maximum(at - 1, 0), axis=1, batch_dims=1)  # -1 where there is none
        rest = tf.where(at > 0, tf.strings.substr(rest, at, left - at, "UTF8_CHAR"), "")
        return rest, tf.concat([ids, new[:, None]], axis=1), known & ((at > 0) | (left == 0))

    start = (tf.where(short, words, ""), tf.zeros((tf.size(words), 0), tf.int32), short)
    shapes = (tf.TensorShape([None]), tf.TensorShape([None, None]), tf.TensorShape([None]))
    _, ids, known = tf.while_loop(unfinished, longest, start, shape_invariants=shapes)
    ids = tf.concat([tf.where(known, -1, text.UNK)[:, None], tf.where(known[:, None], ids, -1)], axis=1)
    return tf.ragged.boolean_mask(ids, ids >= 0)


def _ids(found: tf.Tensor, vocabulary: Sequence[str]) -> tf.Tensor:
    """The id of each string, -1 where it is no piece. Found by hashes: a table would have to be filled at loading."""
    number = functools.partial(tf.strings.to_hash_bucket_fast, num_buckets=1 << 62)
    with tf.init_scope():
        hashes = number(tf.constant(list(vocabulary))).numpy()
    order = np.argsort(hashes)
    at, _ = _found(number(found), hashes[order])
    ids = tf.gather(order.astype("int32"), at)
    return tf.where(tf.gather(tf.constant(list(vocabulary)), ids) == found, ids, -1)


# --- the normal form


def normalize(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`text.normalize`, and which texts are ok: neither longer nor higher than they may be. Others become empty.

    >>> normal, ok = normalize(tf.constant(["  A\\u2028Man's \\uff34ea\\n", "H\\u0331 \\u1e9e"]))
    >>> [one.decode() for one in normal.numpy()]
    ["a man's tea", 'ẖ ß']
    """
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace", replace_control_characters=False)
    texts = tf.strings.regex_replace(tf.strings.regex_replace(texts, text.UNSEEN, ""), text.GAPS, " ")
    ok = tf.strings.length(texts) <= LONGEST
    parts = _in_order(_taken_apart(tf.strings.unicode_decode(tf.where(ok, texts, ""), "UTF-8")))
    low = tf.strings.lower(tf.strings.unicode_encode(parts, "UTF-8"), encoding="utf-8")  # a last sigma, by its place
    composed, low_enough = _composed(tf.strings.unicode_decode(low, "UTF-8"))
    texts = tf.strings.regex_replace(tf.strings.unicode_encode(composed, "UTF-8"), text.GAPS, " ")
    return tf.strings.strip(texts), ok & low_enough


@functools.lru_cache(maxsize=1)
def _tables() -> dict[str, np.ndarray]:
    """What Unicode says, as this Python knows it: parts, classes of accents, and pairs that are one character."""
    parts, classes, pairs = {}, {}, {}
    for point in range(0x110000):
        if 0xD800 <= point < 0xE000 or HANGUL <= point < HANGUL + LEADS * VOWELS * TAILS:
            continue
        one = chr(point)
        apart = unicodedata.normalize("NFKD", one)
        apart = apart if "\u03a3" in apart else unicodedata.normalize("NFKD", apart.lower())
        if apart != one:
            parts[point] = [ord(each) for each in apart]
        if unicodedata.combining(one):
            classes[point] = unicodedata.combining(one)
        pair = unicodedata.decomposition(one).split()
        if len(pair) == 2 and unicodedata.normalize("NFC", one) == one and not pair[0].startswith("<"):
            pairs[int(pair[0], 16) << 21 | int(pair[1], 16)] = point
    joining = sorted({key & 0x1FFFFF for key in pairs})  # what may join the character before it
    pairs = dict(sorted(pairs.items()))
    return {
        "of": np.array(list(parts), "int32"),
        "parts": np.concatenate(list(map(np.array, parts.values()))).astype("int32"),
        "ends": np.cumsum([len(each) for each in parts.values()]).astype("int32"),
        "accents": np.array(list(classes), "int32"),
        "classes": np.array(list(classes.values()), "int32"),
        "joining": np.array(joining, "int32"),
        "pairs": np.array(list(pairs), "int64"),
        "composed": np.array(list(pairs.values()), "int32"),
    }


def _found(points: tf.Tensor, among: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    """Where each lies among sorted numbers, and whether it does."""
    at = tf.reshape(tf.searchsorted(among, tf.reshape(points, [-1])), tf.shape(points))
    at = tf.minimum(at, len(among) - 1)
    return at, tf.gather(among, at) == points


def _class(points: tf.Tensor) -> tf.Tensor:
    at, known = _found(points, _tables()["accents"])
    return tf.where(known, tf.gather(_tables()["classes"], at), 0)


def _taken_apart(points: tf.RaggedTensor) -> tf.RaggedTensor:
    """Each character by its compatibility parts in lower case."""
    tables = _tables()
    at, known = _found(points.values, tables["of"])
    ends = tf.gather(tables["ends"], at)
    starts = tf.where(at > 0, tf.gather(tables["ends"], tf.maximum(at - 1, 0)), 0)
    many = tf.concat([tables["parts"], points.values], axis=0)  # a character without parts is its own
    own = len(tables["parts"]) + tf.range(tf.size(points.values))
    which = tf.ragged.range(tf.where(known, starts, own), tf.where(known, ends, own + 1))
    parts = tf.RaggedTensor.from_row_splits(tf.gather(many, which), points.row_splits)
    return parts.merge_dims(1, 2)


def _in_order(points: tf.RaggedTensor) -> tf.RaggedTensor:
    """Accents on one base in the order of their classes."""
    classes = _class(points.values)
    base = tf.cumsum(tf.cast((classes == 0) | _at_start(points), tf.int32))
    order = tf.argsort(tf.cast(base, tf.int64) * 256 + tf.cast(classes, tf.int64), stable=True)
    return points.with_values(tf.gather(points.values, order))


def _at_start(points: tf.RaggedTensor) -> tf.Tensor:
    """Which values begin a row."""
    rows = tf.cast(points.value_rowids(), tf.int32)
    return tf.concat([tf.ones_like(rows[:1]), rows[1:] - rows[:-1]], axis=0) > 0


def _composed(points: tf.RaggedTensor) -> tuple[tf.RaggedTensor, tf.Tensor]:
    """Pairs that have a character of their own become it, from left to right; and which rows are low enough.

    The text is cut into heaps, where nothing joins what is before it; all heaps go on at once, a character at a time.
    """
    tables = _tables()
    values = points.values
    joins = _found(values, tables["joining"])[1] | (_class(values) > 0) | _hangul_part(values)
    begins = ~joins | _at_start(points)
    heap_of = tf.cumsum(tf.cast(begins, tf.int32)) - 1
    heaps = tf.RaggedTensor.from_value_rowids(values, heap_of)
    row_of = tf.boolean_mask(points.value_rowids(), begins)
    rows = tf.cast(points.nrows(), tf.int32)
    highest = tf.math.unsorted_segment_max(heaps.row_lengths(), tf.cast(row_of, tf.int32), rows)
    heaps = heaps[:, :HEAP].to_tensor(-1)

    def unfinished(at: tf.Tensor, *_: Any) -> tf.Tensor:
        return at < tf.shape(heaps)[1]

    def join(at: tf.Tensor, heaps: tf.Tensor, base: tf.Tensor, last: tf.Tensor) -> tuple:
        """`base` is where the newest base lies, `last` the class of what stayed between it and this character."""
        one = heaps[:, at]
        before = tf.gather(heaps, base, axis=1, batch_dims=1)
        kind = _class(one)
        both = _together(before, one)
        both = tf.where((one >= 0) & ((last == 0) | (last < kind)), both, -1)
        places = tf.range(tf.shape(heaps)[1])
        heaps = tf.where((both >= 0)[:, None] & (places == base[:, None]), both[:, None], heaps)
        heaps = tf.where((both >= 0)[:, None] & (places == at), -1, heaps)
        stays = (one >= 0) & (both < 0)
        base = tf.where(stays & (kind == 0), at, base)
        return at + 1, heaps, base, tf.where(stays, kind, last)

    nothing = tf.zeros(tf.shape(heaps)[:1], tf.int32)
    heaps = tf.while_loop(unfinished, join, (tf.constant(1), heaps, nothing, nothing))[1]
    kept = tf.ragged.boolean_mask(heaps, heaps >= 0)
    rejoined = tf.RaggedTensor.from_value_rowids(kept, row_of, nrows=points.nrows()).merge_dims(1, 2)
    return rejoined, highest <= HEAP


def _hangul_part(points: tf.Tensor) -> tf.Tensor:
    """Vowels and tails of Korean syllables."""
    return ((points >= 0x1161) & (points < 0x1161 + VOWELS)) | ((points > 0x11A7) & (points < 0x11A7 + TAILS))


def _together(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """The character that two make, or -1."""
    tables = _tables()
    key = tf.bitwise.left_shift(tf.cast(first, tf.int64), tf.constant(21, tf.int64)) + tf.cast(second, tf.int64)
    at, known = _found(key, tables["pairs"])
    lead, vowel, tail = first - 0x1100, second - 0x1161, second - 0x11A7
    syllable = (lead >= 0) & (lead < LEADS) & (vowel >= 0) & (vowel < VOWELS)
    open_one = (first >= HANGUL) & (first < HANGUL + LEADS * VOWELS * TAILS) & ((first - HANGUL) % TAILS == 0)
    closed = open_one & (tail > 0) & (tail < TAILS)
    made = tf.where(known, tf.gather(tables["composed"], at), -1)
    made = tf.where(syllable, HANGUL + (lead * VOWELS + vowel) * TAILS, made)
    return tf.where(closed, first + tail, made)
