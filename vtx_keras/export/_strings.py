"""Tokenize and join texts inside a TensorFlow graph: `text.encode` and `text.decode` by core operations.

Unicode normalization is not among TensorFlow's core operations (tensorflow-text has it, but a server does not have
that), so it is written out here: characters are decomposed and lowercased, their accents sorted, and pairs that form
one character composed again. The result equals `text.normalize` for every text of at most `MAX_BYTES` bytes and at
most `MAX_HEAP` characters on one base; `tokens` marks others as not ok. A vocabulary with BERT's rule has its texts
cleaned and decomposed as that says; no graph repeats a tokenizer.json, but its pieces are joined here.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vtx_keras.inputs import _rules, text
from vtx_keras.models._base import VisionText
from vtx_keras.models._methods import Answerer

MAX_BYTES = 10_000  # of a text, runs of spaces counted once: a longer one would delay the rest of its batch
MAX_HEAP = 64  # characters on one base; languages need fewer than 10
MAX_WORD = 100  # bytes, by BERT's rule characters; WordPiece maps longer words to [UNK]
HANGUL, LEADS, VOWELS, TAILS = 0xAC00, 19, 21, 28  # syllables are computed, not listed


def text_input(model: VisionText) -> tf.TensorSpec:
    """Return the input for texts: strings or, where a graph cannot cut them into pieces, ids."""
    if reads_ids(model):
        return tf.TensorSpec([None, None], tf.int32, "tokens")
    return tf.TensorSpec([None], tf.string, "question" if isinstance(model, Answerer) else "text")


def reads_ids(model: VisionText) -> bool:
    """Return whether texts are cut by the library `tokenizers`, which no graph has."""
    return (model.vocabulary.rule or {}).get("kind") == "tokenizers"


def tokens(texts: tf.Tensor, vocabulary: Sequence[str], length: int, *, allow_empty: bool = False) -> tuple[Any, Any]:
    """Apply `text.encode(texts, ..., start=True, end=vocabulary.ends)`: int32 ids (n, length), and which texts are ok.

    A text is ok if it has words (or `allow_empty`) and is within MAX_BYTES and MAX_HEAP.

    >>> ids, ok = tokens(tf.constant(["Cats\\u2028CAT", " "]), text.vocabulary(["cat", "##s"]), 5)
    >>> ids.numpy().tolist(), ok.numpy().tolist()
    ([[2, 5, 6, 5, 0], [2, 0, 0, 0, 0]], [True, False])
    """
    rule = _rules.rule_of(vocabulary)
    if rule is not None and rule["kind"] == "tokenizers":
        raise ValueError(
            "the texts of this model are cut by its tokenizer.json, which no graph repeats: this export takes ids, "
            "tokenizer.json is beside it"
        )
    normal, ok = normalize(texts) if rule is None else cleaned(texts, rule)
    end = bool(rule and rule["end"])
    room = length - 1 - end
    ids = pieces(normal, vocabulary, room)
    if not allow_empty:
        ok = ok & (ids.row_lengths() > 0)
    padded = tf.pad(ids.to_tensor(text.PAD, shape=(None, room)), [[0, 0], [1, end]])
    if end:
        padded = tf.where(tf.range(length, dtype=tf.int64) == ids.row_lengths()[:, None] + 1, text.END, padded)
    return tf.where(tf.range(length) == 0, text.START, padded), ok


def sentences(ids: tf.Tensor, vocabulary: Sequence[str]) -> tf.Tensor:
    """Apply `text.decode` to the ids of `generate_ids`, which end in zeros.

    >>> sentences(tf.constant([[5, 6, 7, 0]]), text.vocabulary(["a", "cat", "##s"])).numpy().tolist()
    [b'a cats']
    """
    ordinary = tf.ragged.boolean_mask(ids, ids >= len(text.SPECIALS))
    rule = _rules.rule_of(vocabulary)
    if rule is not None and rule["kind"] == "tokenizers":
        return _spelled(ordinary, vocabulary, rule["json"])
    joined = tf.strings.reduce_join(tf.gather(tf.constant(list(vocabulary)), ordinary), axis=-1, separator=" ")
    for pattern, rewrite in text.JOIN_RULES:
        joined = tf.strings.regex_replace(joined, pattern, rewrite)
    return joined


def _spelled(ids: tf.RaggedTensor, vocabulary: Sequence[str], content: dict) -> tf.Tensor:
    """Join pieces by a tokenizer.json: each stands for bytes. (A run of invalid bytes may become fewer U+FFFD.)"""
    spelling = _rules.spelling(content)
    if spelling is None:
        raise ValueError(f"a decoder {content.get('decoder')!r:.80} cannot join pieces inside a graph: return ids")
    table = [spelling.piece(piece) for piece in vocabulary]
    strings = tf.gather(tf.constant(table), ids)
    firsts = [spelling.first(piece) for piece in vocabulary]
    if firsts != table:
        begins = tf.gather(tf.constant(firsts), ids.values)
        strings = strings.with_values(tf.where(_at_start(ids), begins, strings.values))
    joined = tf.strings.reduce_join(strings, axis=-1)
    joined = tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", "replace", replace_control_characters=False)
    return tf.strings.regex_replace(joined, spelling.trim, "") if spelling.trim else joined


# --- WordPiece


def pieces(texts: tf.Tensor, vocabulary: Sequence[str], most: int) -> tf.RaggedTensor:
    """Return at most `most` ids of each normalized text.

    >>> pieces(tf.constant(["cats cat", ""]), text.vocabulary(["cat", "##s"]), 9).to_list()
    [[5, 6, 5], []]
    """
    bert = _rules.rule_of(vocabulary) is not None
    isolated, gaps = _word_boundaries(bert)
    texts = tf.strings.regex_replace(tf.strings.regex_replace(texts, isolated, r" \0 "), gaps, " ")
    words = tf.strings.split(texts)[:, :most]  # each gives a piece or more
    ids = tf.RaggedTensor.from_row_splits(
        _word_pieces(words.values, vocabulary, "UTF8_CHAR" if bert else "BYTE"), words.row_splits
    )
    return ids.merge_dims(1, 2)[:, :most]


@functools.lru_cache(maxsize=2)
def _word_boundaries(bert: bool) -> tuple[str, str]:
    """Return patterns of the characters that are isolated and of those that are dropped, as in KerasHub's WordPiece.

    They list code points, because a server's Unicode classes may be older. BERT has dropped and isolated others before.
    """
    import regex  # which KerasHub uses

    every = "".join(chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000)
    if bert:
        return f"[{re.escape(''.join(filter(_rules.is_punctuation, every)))}]", " +"
    ideographs = (
        r"\u4E00-\u9FFF\u3400-\u4DBF\U00020000-\U0002A6DF\U0002A700-\U0002CEAF\uF900-\uFAFF\U0002F800-\U0002FA1F"
    )

    def ranges(pattern: str) -> str:
        runs = regex.findall(f"(?:{pattern})+", every)
        return "".join(rf"\x{{{ord(run[0]):x}}}-\x{{{ord(run[-1]):x}}}" for run in runs)

    isolated, gaps = ranges(r"[!-/:-@\[-`{-~" + ideographs + r"]|\p{P}"), ranges(r"\p{Cf}|\p{Cc}| ")
    return f"[{isolated}]", f"[{gaps}]+"


def _word_pieces(words: tf.Tensor, vocabulary: Sequence[str], unit: str) -> tf.RaggedTensor:
    """Return the ids of each word: its longest prefix that is a piece, then the longest of the rest, and so on."""
    longest_piece = max(len(piece) for piece in vocabulary)
    short = tf.strings.length(words, unit=unit) <= MAX_WORD

    def unfinished(rest: tf.Tensor, *_: Any) -> tf.Tensor:
        return tf.reduce_any(rest != "")

    def match(rest: tf.Tensor, ids: tf.Tensor, known: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        left = tf.strings.length(rest, unit="UTF8_CHAR")
        sizes = tf.minimum(tf.range(1, tf.minimum(longest_piece, tf.reduce_max(left)) + 1), left[:, None])
        repeated = tf.broadcast_to(rest[:, None], tf.shape(sizes))
        prefixes = tf.strings.substr(repeated, tf.zeros_like(sizes), sizes, "UTF8_CHAR")
        candidates = _ids(tf.strings.join([tf.where(tf.shape(ids)[1] > 0, "##", ""), prefixes]), vocabulary)
        size = tf.reduce_max(tf.where(candidates >= 0, sizes, 0), axis=1)
        new = tf.gather(candidates, tf.maximum(size - 1, 0), axis=1, batch_dims=1)  # -1 where none matches
        rest = tf.where(size > 0, tf.strings.substr(rest, size, left - size, "UTF8_CHAR"), "")
        return rest, tf.concat([ids, new[:, None]], axis=1), known & ((size > 0) | (left == 0))

    start = (tf.where(short, words, ""), tf.zeros((tf.size(words), 0), tf.int32), short)
    shapes = (tf.TensorShape([None]), tf.TensorShape([None, None]), tf.TensorShape([None]))
    _, ids, known = tf.while_loop(unfinished, match, start, shape_invariants=shapes)
    ids = tf.concat([tf.where(known, -1, text.UNK)[:, None], tf.where(known[:, None], ids, -1)], axis=1)
    return tf.ragged.boolean_mask(ids, ids >= 0)


def _ids(strings: tf.Tensor, vocabulary: Sequence[str]) -> tf.Tensor:
    """Return the id of each string, -1 where it is no piece. By hashes: a lookup table must be filled at loading."""
    number = functools.partial(tf.strings.to_hash_bucket_fast, num_buckets=1 << 62)
    with tf.init_scope():
        hashes = number(tf.constant(list(vocabulary))).numpy()
    order = np.argsort(hashes)
    at, _ = _search(number(strings), hashes[order])
    ids = tf.gather(order.astype("int32"), at)
    return tf.where(tf.gather(tf.constant(list(vocabulary)), ids) == strings, ids, -1)


# --- Unicode normalization


def normalize(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Apply `text.normalize`, and return which texts are ok: within MAX_BYTES and MAX_HEAP. Others become empty.

    >>> normal, ok = normalize(tf.constant(["  A\\u2028Man's \\uff34ea\\n", "H\\u0331 \\u1e9e"]))
    >>> [one.decode() for one in normal.numpy()]
    ["a man's tea", 'ẖ ß']
    """
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace", replace_control_characters=False)
    texts = tf.strings.regex_replace(tf.strings.regex_replace(texts, text.UNSEEN, ""), text.GAPS, " ")
    ok = tf.strings.length(texts) <= MAX_BYTES
    parts = _sort_accents(_decompose(tf.strings.unicode_decode(tf.where(ok, texts, ""), "UTF-8")))
    lower = tf.strings.lower(tf.strings.unicode_encode(parts, "UTF-8"), encoding="utf-8")  # a final sigma too
    composed, within = _compose(tf.strings.unicode_decode(lower, "UTF-8"))
    texts = tf.strings.regex_replace(tf.strings.unicode_encode(composed, "UTF-8"), text.GAPS, " ")
    return tf.strings.strip(texts), ok & within


def cleaned(texts: tf.Tensor, rule: dict) -> tuple[tf.Tensor, tf.Tensor]:
    """Apply the characters of BERT's rule, and return which texts are within MAX_BYTES. Others become empty.

    >>> normal, ok = cleaned(tf.constant(["Caf\u00e9\u2028\u65e5\u200b"]), _rules.checked({"kind": "bert"}))
    >>> [one.decode() for one in normal.numpy()]
    ['cafe  日 ']
    """
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace", replace_control_characters=False)
    texts = tf.strings.regex_replace(tf.strings.regex_replace(texts, _rules.DROPPED, ""), _rules.SPACES, " ")
    ok = tf.strings.length(texts) <= MAX_BYTES
    texts = tf.strings.regex_replace(tf.where(ok, texts, ""), _rules.IDEOGRAPHS, r" \0 ")
    points = tf.strings.unicode_decode(texts, "UTF-8")
    first, second = _bert_tables(rule["lowercase"], rule["strip_accents"])
    points = _sort_accents(_replaced(points, *first)) if rule["strip_accents"] else points
    points = _replaced(points, *second)
    return tf.strings.unicode_encode(points, "UTF-8"), ok


@functools.lru_cache(maxsize=4)
def _bert_tables(lowercase: bool, strip_accents: bool) -> tuple[tuple, tuple]:
    """Return the tables that decompose characters, and that remove accents and put characters into lower case."""

    def decomposed(character: str) -> str:
        return unicodedata.normalize("NFD", character) if strip_accents else character

    def final(character: str) -> str:
        if strip_accents and _rules.is_mark(character):
            return ""
        return _rules.lower(character) if lowercase else character

    return _table(decomposed), _table(final)


def _table(function: Callable[[str], str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the characters that a function changes, all that it gives for them, and where that of each one ends."""
    every = (chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000)
    changed = {ord(one): function(one) for one in every if function(one) != one}
    ends = np.cumsum([len(each) for each in changed.values()])
    parts = np.array([ord(one) for each in changed.values() for one in each], "int32")
    return np.array(list(changed), "int32"), parts, ends.astype("int32")


@functools.lru_cache(maxsize=1)
def _tables() -> dict[str, np.ndarray]:
    """Return this Python's Unicode data: decompositions, combining classes of accents, and pairs that compose."""
    parts, classes, pairs = {}, {}, {}
    for point in range(0x110000):
        if 0xD800 <= point < 0xE000 or HANGUL <= point < HANGUL + LEADS * VOWELS * TAILS:
            continue
        character = chr(point)
        decomposed = unicodedata.normalize("NFKD", character)
        if "\u03a3" not in decomposed:  # a sigma's lower case depends on its place in the word
            decomposed = unicodedata.normalize("NFKD", decomposed.lower())
        if decomposed != character:
            parts[point] = [ord(each) for each in decomposed]
        if unicodedata.combining(character):
            classes[point] = unicodedata.combining(character)
        pair = unicodedata.decomposition(character).split()
        if len(pair) == 2 and unicodedata.normalize("NFC", character) == character and not pair[0].startswith("<"):
            pairs[int(pair[0], 16) << 21 | int(pair[1], 16)] = point
    joining = sorted({key & 0x1FFFFF for key in pairs})  # characters that may join the one before them
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


def _search(points: tf.Tensor, among: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the position of each point among sorted numbers, and whether it is one of them."""
    at = tf.reshape(tf.searchsorted(among, tf.reshape(points, [-1])), tf.shape(points))
    at = tf.minimum(at, len(among) - 1)
    return at, tf.gather(among, at) == points


def _class(points: tf.Tensor) -> tf.Tensor:
    at, accent = _search(points, _tables()["accents"])
    return tf.where(accent, tf.gather(_tables()["classes"], at), 0)


def _decompose(points: tf.RaggedTensor) -> tf.RaggedTensor:
    """Replace each character by its compatibility decomposition in lower case."""
    return _replaced(points, *(_tables()[name] for name in ("of", "parts", "ends")))


def _replaced(points: tf.RaggedTensor, of: np.ndarray, parts: np.ndarray, ends: np.ndarray) -> tf.RaggedTensor:
    """Replace the characters `of` by their parts; `ends` says where those of each one end."""
    if not len(of):
        return points
    at, has_parts = _search(points.values, of)
    starts = tf.where(at > 0, tf.gather(ends, tf.maximum(at - 1, 0)), 0)
    # Behind the parts of all characters are those of this text, which stand for themselves where they have no parts.
    pool = tf.concat([parts, points.values], axis=0)
    own = len(parts) + tf.range(tf.size(points.values))
    which = tf.ragged.range(tf.where(has_parts, starts, own), tf.where(has_parts, tf.gather(ends, at), own + 1))
    return tf.RaggedTensor.from_row_splits(tf.gather(pool, which), points.row_splits).merge_dims(1, 2)


def _sort_accents(points: tf.RaggedTensor) -> tf.RaggedTensor:
    """Sort the accents on each base by their classes."""
    classes = _class(points.values)
    base = tf.cumsum(tf.cast((classes == 0) | _at_start(points), tf.int32))
    order = tf.argsort(tf.cast(base, tf.int64) * 256 + tf.cast(classes, tf.int64), stable=True)
    return points.with_values(tf.gather(points.values, order))


def _at_start(points: tf.RaggedTensor) -> tf.Tensor:
    """Return which values begin a row."""
    rows = tf.cast(points.value_rowids(), tf.int32)
    return tf.concat([tf.ones_like(rows[:1]), rows[1:] - rows[:-1]], axis=0) > 0


def _compose(points: tf.RaggedTensor) -> tuple[tf.RaggedTensor, tf.Tensor]:
    """Compose pairs that form one character, from left to right; and return which rows are within MAX_HEAP.

    The text is cut into heaps: a base and all characters after it that may join it. All heaps are composed at once, a
    character at a time.
    """
    tables = _tables()
    values = points.values
    joins = _search(values, tables["joining"])[1] | (_class(values) > 0) | _hangul_part(values)
    begins = ~joins | _at_start(points)
    heap_of = tf.cumsum(tf.cast(begins, tf.int32)) - 1
    heaps = tf.RaggedTensor.from_value_rowids(values, heap_of)
    row_of = tf.boolean_mask(points.value_rowids(), begins)
    rows = tf.cast(points.nrows(), tf.int32)
    highest = tf.math.unsorted_segment_max(heaps.row_lengths(), tf.cast(row_of, tf.int32), rows)
    heaps = heaps[:, :MAX_HEAP].to_tensor(-1)

    def unfinished(at: tf.Tensor, *_: Any) -> tf.Tensor:
        return at < tf.shape(heaps)[1]

    def join(at: tf.Tensor, heaps: tf.Tensor, base: tf.Tensor, last: tf.Tensor) -> tuple:
        """`base` is the position of the newest base, `last` the class of what remains between it and this character."""
        current = heaps[:, at]
        before = tf.gather(heaps, base, axis=1, batch_dims=1)
        kind = _class(current)
        both = _composed_pair(before, current)
        both = tf.where((current >= 0) & ((last == 0) | (last < kind)), both, -1)
        places = tf.range(tf.shape(heaps)[1])
        heaps = tf.where((both >= 0)[:, None] & (places == base[:, None]), both[:, None], heaps)
        heaps = tf.where((both >= 0)[:, None] & (places == at), -1, heaps)
        stays = (current >= 0) & (both < 0)
        base = tf.where(stays & (kind == 0), at, base)
        return at + 1, heaps, base, tf.where(stays, kind, last)

    zeros = tf.zeros(tf.shape(heaps)[:1], tf.int32)
    heaps = tf.while_loop(unfinished, join, (tf.constant(1), heaps, zeros, zeros))[1]
    kept = tf.ragged.boolean_mask(heaps, heaps >= 0)
    texts = tf.RaggedTensor.from_value_rowids(kept, row_of, nrows=points.nrows()).merge_dims(1, 2)
    return texts, highest <= MAX_HEAP


def _hangul_part(points: tf.Tensor) -> tf.Tensor:
    """Return which characters are vowels or tails of Korean syllables."""
    return ((points >= 0x1161) & (points < 0x1161 + VOWELS)) | ((points > 0x11A7) & (points < 0x11A7 + TAILS))


def _composed_pair(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Return the character that two compose to, or -1."""
    tables = _tables()
    key = tf.bitwise.left_shift(tf.cast(first, tf.int64), tf.constant(21, tf.int64)) + tf.cast(second, tf.int64)
    at, listed = _search(key, tables["pairs"])
    lead, vowel, tail = first - 0x1100, second - 0x1161, second - 0x11A7
    syllable = (lead >= 0) & (lead < LEADS) & (vowel >= 0) & (vowel < VOWELS)
    without_tail = (first >= HANGUL) & (first < HANGUL + LEADS * VOWELS * TAILS) & ((first - HANGUL) % TAILS == 0)
    with_tail = without_tail & (tail > 0) & (tail < TAILS)
    composed = tf.where(listed, tf.gather(tables["composed"], at), -1)
    composed = tf.where(syllable, HANGUL + (lead * VOWELS + vowel) * TAILS, composed)
    return tf.where(with_tail, first + tail, composed)
