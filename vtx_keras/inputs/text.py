"""Texts to token ids and back: one normalization, one WordPiece vocabulary.

`normalize` and `encode` turn texts into ids, `decode` turns ids into texts, all with plain Python and NumPy values.
A vocabulary is a tuple of pieces; the index of a piece is its id.
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vtx_keras.inputs import _rules

__all__ = [
    "END", "GAPS", "IDEOGRAPHS", "JOIN_RULES", "KANA", "LABEL_FIELDS", "MASK", "PAD", "SPECIALS", "START",
    "TEXT_FIELDS", "UNK", "UNSEEN", "Vocabulary", "decode", "encode", "extended", "learn", "normalize", "spelling_of",
    "tokenizer", "tokens", "vocabulary",
]  # fmt: skip
SPECIALS = ("[PAD]", "[UNK]", "[START]", "[END]", "[MASK]")
PAD, UNK, START, END, MASK = range(5)
TEXT_FIELDS = ("captions", "caption", "question", "text")  # the fields of an example that hold its text; first wins
LABEL_FIELDS = ("answer", "label")  # the fields that hold its label

# Both classes mean the same to Python's `re` and to RE2 (tf.strings.regex_replace), so a TensorFlow graph can
# repeat `normalize`: UNSEEN to "", GAPS to " ", tf_text.normalize_utf8 "NFKC", tf.strings.lower "utf-8" (not
# case_fold_utf8, which turns "ß" into "ss"), NFKC again, GAPS to " ", strip.
GAPS = "[\\x00-\\x20\\x7f\u0080-\u00a0\u1680\u2000-\u200b\u2028\u2029\u202f\u205f\u3000]+"
UNSEEN = (  # soft hyphens, marks of direction and byte order, joiners (ZWJ), variation selectors, tags
    "[\u00ad\u034f\u061c\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]"
)

# Chinese and Japanese have no spaces. The tokenizer takes each ideograph as a word, and each run of kana as one word.
IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff"
KANA = "\u3001-\u30ff"  # with the punctuation in that range

# These rules turn pieces joined with spaces into a sentence, in this order; RE2 and phones can run them.
# "a man's t-shirt (red, 50% off)!", "black/white" and 'says "stop"' are restored. Pieces do not record spaces beside
# punctuation, so "dogs' bowls" becomes "dogs'bowls", "a - b" "a-b", "1.5" "1. 5".
JOIN_RULES = (
    (r"(^| )##", ""),  # a word goes on
    (" ([.,!?;:)%\\]\u201d])", r"\1"),  # no space before these
    ("([(\\[\u201c\u2018$#]) ", r"\1"),  # no space after these
    (" ?(['\u2019/-]) ?", r"\1"),  # no space on either side
    (r'" ([^"]*) "', r'"\1"'),  # no space inside a pair of straight quotes
    (f"([{KANA}{IDEOGRAPHS}]) ([{KANA}{IDEOGRAPHS}])", r"\1\2"),  # no space between these; matches cannot overlap,
    (f"([{KANA}{IDEOGRAPHS}]) ([{KANA}{IDEOGRAPHS}])", r"\1\2"),  # so the rule above misses every second space
)

# A number with its points and commas, or a word with the hyphens, slashes and apostrophes inside it.
TOKEN = re.compile(r"\d+(?:[.,:]\d+)+|\w+(?:[-/.']\w+)*|[^\w\s]")
CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))$")
# The tokens that pycocoevalcap drops, and typographic forms that its tokenizer turns into them.
SILENT = frozenset([*"'\"`.?!,:;-–—…‘’“”()[]{}", "''", "``", "--", "..."])


FEW = 8  # texts, for which a library is not loaded


def normalize(text: str | bytes) -> str:
    """Return the form in which a text is cut into pieces; normalizing again changes nothing.

    UTF-8 is decoded, with invalid bytes replaced. Characters take their compatibility form (NFKC) in lower case, a run
    of spaces, line breaks and control characters becomes one space, and invisible characters (ZWJ, variation selectors,
    soft hyphens) are removed. Emoji stay, and are [UNK] unless the vocabulary has them.

    >>> normalize("  A\\u2028Man's \\uff34ea\\n")
    "a man's tea"
    """
    text = re.sub(GAPS, " ", re.sub(UNSEEN, "", _decoded(text)))
    # NFKC before and after `lower`: it makes capitals ("™" gives "TM"), and small letters may compose where capitals
    # do not ("H\u0331" gives "\u1e96").
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return re.sub(GAPS, " ", text).strip(" ")


def _decoded(text: str | bytes) -> str:
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    elif not isinstance(text, str):
        raise TypeError(f"A text must be str or bytes, but this is {type(text).__name__}: {text!r:.80}")
    # UTF-16 joins surrogate pairs and replaces lone surrogates.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def tokens(text: str | bytes) -> list[str]:
    """Return the words of a text in lower case, without punctuation: much like the Java tokenizer of the COCO papers.

    Clitics are separate words ("man 's", "do n't"); "t-shirt", "black/white" and "1.5" are one word each. `penn`
    differs for abbreviations ("u.s." keeps its last point there).

    >>> tokens("A man's t-shirt (red, 1.5 m) isn't\\u2028new!")
    ['a', 'man', "'s", 't-shirt', 'red', '1.5', 'm', 'is', "n't", 'new']
    """
    words = []
    for token in TOKEN.findall(normalize(text).replace("\u2019", "'")):
        clitic = CLITIC.search(token)
        words += [token[: clitic.start()], clitic[0]] if clitic else [token]
    return [word for word in words if word and word not in SILENT]


def vocabulary(source: str | os.PathLike | Sequence[str] | None = None, size: int = 8000) -> tuple[str, ...]:
    """Return the pieces of a vocabulary: bundled English ones, from a file or list, or learned from texts.

    None means the bundled ones. A path names a UTF-8 file whose lines are entries; a list or tuple holds entries. If
    any entry contains whitespace, the entries are texts, and `learn` makes at most `size` pieces of them. Otherwise
    they are pieces, and SPECIALS are put in front if they are missing.

    >>> vocabulary(["a", "cat", "##s"])
    ('[PAD]', '[UNK]', '[START]', '[END]', '[MASK]', 'a', 'cat', '##s')
    >>> vocabulary(["a cat", "cats"], size=20)[-1], "giraffe" in vocabulary()
    ('cats', True)
    """
    if source is None:
        source = Path(__file__).with_name("english.txt")
    if isinstance(source, (str, os.PathLike)):
        if not Path(source).is_file():
            raise FileNotFoundError(f"No vocabulary file at {str(source)!r}. Pass pieces or texts as a list.")
        # Not splitlines(), which also splits at U+2028 and similar characters.
        source = Path(source).read_text(encoding="utf-8-sig", errors="replace").rstrip("\n").split("\n")
    if not isinstance(source, (list, tuple)):
        raise TypeError(f"A vocabulary is None, a path, or a list or tuple, not {type(source).__name__}.")
    entries = tuple(entry.decode("utf-8", "replace") if isinstance(entry, bytes) else entry for entry in source)
    other = [index for index, entry in enumerate(entries) if not isinstance(entry, str)]
    if other:
        raise ValueError(f"Entry {other[0]} is {entries[other[0]]!r:.80}, not a string. Pass strings only.")
    if any(re.search(r"\s", entry) for entry in entries):
        return learn(entries, size)
    if not any(entries):
        raise ValueError("The vocabulary is empty. Pass at least one piece, or texts to learn from.")
    if "" in entries:
        raise ValueError(f"Piece {entries.index('')} is empty. Remove it (in a file: the blank line).")
    for piece in entries:
        if not can_be_piece(piece):
            raise ValueError(f"Piece {piece!a:.80} is not valid Unicode, has a zero, or over 250 bytes. Remove it.")
    if not set(SPECIALS) & set(entries):
        entries = SPECIALS + entries
    if entries[: len(SPECIALS)] != SPECIALS:
        first = entries[: len(SPECIALS)]
        raise ValueError(f"The vocabulary starts with {first}. Start with {SPECIALS}, or leave those all out.")
    if len(set(entries)) < len(entries):
        twice = next(piece for index, piece in enumerate(entries) if piece in entries[:index])
        raise ValueError(f"Piece {twice!r} occurs twice. A piece has one id: remove the second.")
    return entries


def learn(texts: Iterable[str | bytes], size: int = 8000) -> tuple[str, ...]:
    """Learn at most `size` WordPiece pieces from texts, even from five captions.

    The same texts give the same pieces. Learning needs TensorFlow Text, which KerasHub's trainer uses; encoding does
    not.

    >>> pieces = learn(["A cat on a mat.", "Two cats"], size=60)
    >>> pieces[0], "cat" in pieces, "mat" in pieces
    ('[PAD]', True, True)
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError("Expected texts, but one string came. Pass a list of strings.")
    lines = [line for line in map(normalize, texts) if line]
    alphabet = set().union(*lines) - {" "}
    if not alphabet:
        raise ValueError("There is nothing to learn from: no text has a word. Pass at least one that does.")
    ideographs = sorted(letter for letter in alphabet if re.match(f"[{IDEOGRAPHS}]", letter))
    count = len(alphabet) - len(ideographs)
    kept = count if ideographs else min(count, 1000)  # the trainer keeps at most 1000 characters; see `letters` below
    least = len(SPECIALS) + len(ideographs) + 2 * kept
    if size < least:
        raise ValueError(
            f"size={size} is too small: each of {count} different characters takes one piece to start a word and "
            f"one to go on, and each of {len(ideographs)} ideographs takes one. Use {least} or more."
        )
    from keras_hub.tokenizers import compute_word_piece_vocabulary

    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for start in range(0, len(lines), 20_000):  # the trainer holds the words of a whole file in memory
            paths.append(os.path.join(folder, f"{start}.txt"))
            Path(paths[-1]).write_text("\n".join(lines[start : start + 20_000]), encoding="utf-8")
        # The trainer ignores words that occur fewer than ten times: in a small corpus, all of them. Reading the corpus
        # ten times avoids that and keeps the proportions.
        copies = 10 if sum(map(len, lines)) < 10_000_000 else 1
        pieces = compute_word_piece_vocabulary(paths * copies, size, reserved_tokens=list(SPECIALS))
    # The trainer drops pieces from the end, where rare characters are. With all characters in front, every word of
    # this alphabet can be spelled.
    letters = [piece for piece in pieces if len(piece) == 1 and piece not in ideographs]
    letters += sorted(alphabet.difference(letters, ideographs)) if ideographs else []  # those that ideographs displaced
    first = [*SPECIALS, *letters, *("##" + letter for letter in letters), *ideographs]
    learned = (piece for piece in pieces if piece.removeprefix("##") not in ideographs)
    return tuple(dict.fromkeys([*first, *learned]))[:size]


def extended(vocabulary: Sequence[str], texts: Iterable[str | bytes], least: int = 2) -> tuple[str, ...]:
    """Return a vocabulary with the words added that occur in the texts at least `least` times.

    >>> extended(("[PAD]", "a", "cat"), ["a cat .", "a lynx .", "a lynx"])
    ('[PAD]', 'a', 'cat', '.', 'lynx')
    """
    counts = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", normalize(text)))
    return tuple(dict.fromkeys([*vocabulary, *(word for word, count in counts.most_common() if count >= least)]))


def can_be_piece(piece: str) -> bool:
    """Return whether a piece can be cut off a text: no lone surrogate, no zero, at most as long as TensorFlow takes."""
    encoded = piece.encode("utf-8", "replace")
    return piece == encoded.decode() and b"\0" not in encoded and len(encoded) <= 250


@functools.lru_cache(maxsize=8)
def tokenizer(vocabulary: tuple[str, ...]) -> Any:
    """Return the KerasHub WordPieceTokenizer of these pieces, for texts from `normalize`.

    It takes a special piece that is spelled out in a text as ordinary characters.

    >>> list(map(int, tokenizer(vocabulary(["cat", "##s"]))("cats")))
    [5, 6]
    """
    from keras_hub.tokenizers import WordPieceTokenizer

    return WordPieceTokenizer(list(vocabulary), lowercase=False, oov_token=SPECIALS[UNK])


def encode(
    texts: Iterable[str | bytes],
    vocabulary: Sequence[str],
    length: int,
    *,
    start: bool = False,
    end: bool = False,
    allow_empty: bool = False,
) -> np.ndarray:
    """Return texts as int32 ids (texts, length), padded with PAD.

    `start` puts START in front, `end` puts END after the last piece. Texts that are too long are cut (END stays), with
    one warning for all of them. The rule of a `Vocabulary` says how texts are cut into pieces.

    >>> encode(["Cats!", "a cat"], vocabulary(["a", "cat", "##s", "!"]), 5, end=True)
    array([[6, 7, 8, 3, 0],
           [5, 6, 3, 0, 0]], dtype=int32)
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError("Expected texts, but one string came. Pass a list, such as [text].")
    room = length - start - end
    if room < 1:
        raise ValueError(f"length={length} leaves no room for a piece. Use {1 + start + end} or more.")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, (str, bytes)):
            raise TypeError(f"Text {index} is {type(text).__name__}, not str: {text!r:.80}. Pass strings only.")
    rule = _rules.rule_of(vocabulary)
    if rule is not None:
        rows: Sequence = list(map(_rules.reader(vocabulary, rule), map(_decoded, texts)))
    else:
        rows = _plain_rows([normalize(text) for text in texts], vocabulary)
    empty = [index for index, row in enumerate(rows) if not len(row)]
    if empty and not allow_empty:
        raise ValueError(
            f"Text {empty[0]} has no words: {texts[empty[0]]!r:.80} ({len(empty)} such of {len(texts)}). "
            "Remove it, or pass allow_empty=True."
        )
    longest = max(map(len, rows), default=0)
    if longest > room:
        count = sum(len(row) > room for row in rows)
        warnings.warn(
            f"{count} of {len(rows)} texts were cut to {room} pieces. The longest has {longest}: "
            f"length={longest + start + end} would keep them whole.",
            stacklevel=2,
        )
    ids = np.full((len(rows), length), PAD, np.int32)
    for padded, row in zip(ids, rows, strict=True):
        row = [START] * start + list(row[:room]) + [END] * end
        padded[: len(row)] = row
    return ids


def _plain_rows(texts: list[str], vocabulary: Sequence[str]) -> Sequence:
    """Return the ids of normalized texts.

    BERT's reader gives the same for a few ASCII texts, and need not load keras-hub: a search starts in half a second.
    """
    if len(texts) <= FEW and all(text.isascii() and max(map(len, text.split()), default=0) <= 100 for text in texts):
        return list(map(_rules.reader(vocabulary, _rules.DEFAULTS["bert"]), texts))
    return tokenizer(tuple(vocabulary)).tokenize(texts)


def decode(ids: np.ndarray | Sequence[Sequence[int] | np.ndarray], vocabulary: Sequence[str]) -> list[str]:
    """Return the texts of ids (texts, length): up to the first END or PAD, without specials, joined by JOIN_RULES.

    A `Vocabulary` whose rule has a tokenizer.json joins as that says.

    >>> decode([[2, 6, 7, 8, 3, 0]], vocabulary(["a", "cat", "##s", "!"]))
    ['cats!']
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"Expected integer ids of shape (texts, length), got {ids.dtype} of shape {ids.shape}.")
    if ids.size and not 0 <= ids.min() <= ids.max() < len(vocabulary):
        raise ValueError(
            f"The ids run from {ids.min()} to {ids.max()}, but the vocabulary has {len(vocabulary)} pieces. "
            "Decode with the vocabulary that encoded."
        )
    texts, rule = [], _rules.rule_of(vocabulary)
    for row in ids.tolist():
        stop = next((index for index, token in enumerate(row) if token in (END, PAD)), len(row))
        pieces = [vocabulary[token] for token in row[:stop] if token >= len(SPECIALS)]
        if rule is not None and rule["kind"] == "tokenizers":
            texts.append(_rules.joined(pieces, rule))
            continue
        text = " ".join(pieces)
        for pattern, rewrite in JOIN_RULES:
            text = re.sub(pattern, rewrite, text)
        texts.append(text)
    return texts


def spelling_of(vocabulary: Sequence[str]) -> dict[str, str] | None:
    """Return how a program joins pieces whose characters stand for bytes; None for pieces of words.

    >>> spelling_of(("[PAD]", "a"))
    """
    rule = _rules.rule_of(vocabulary)
    if rule is None or rule["kind"] != "tokenizers" or not _rules.is_byte_level(rule["json"]):
        return None
    return {"kind": "bytes", "word_end": rule["json"]["model"].get("end_of_word_suffix") or ""}


class Vocabulary(tuple):
    """The pieces of a model's texts as a tuple, with `encode`, `decode`, and the transfer of weights indexed by piece.

    `rule` is None, or how a published model cuts and joins texts: a dict, described in `inputs/_rules.py`, that must
    not be changed. Copies keep it; equality and hash are those of the tuple.

    >>> pieces = Vocabulary.of(["a", "cat", "##s"])
    >>> pieces.encode(["cats"], 3).tolist(), pieces.decode([[6, 7, 0]])
    ([[6, 7, 0]], ['cats'])
    >>> Vocabulary(pieces, rule={"kind": "bert", "end": True}).ends
    True
    """

    rule: dict | None

    # The axis of a weight that is indexed by piece, by the end of its path. Sizes are ambiguous: a model's width may
    # equal the size of its vocabulary.
    AXES: ClassVar[dict[str, int]] = {"words/embeddings": 0, "words_head/kernel": 1, "words_head/bias": 0}

    def __new__(cls, pieces: Iterable[str] = (), rule: dict | None = None) -> Vocabulary:
        self = super().__new__(cls, pieces)
        self.rule = _rules.checked(rule)
        return self

    @property
    def ends(self) -> bool:
        """Whether texts that the model reads have END after the last piece."""
        return self.rule is not None and bool(self.rule["end"])

    @classmethod
    def of(cls, source: str | os.PathLike | Sequence[str] | None = None, size: int = 8000) -> Vocabulary:
        """Return the pieces of `vocabulary(source, size)`."""
        return source if isinstance(source, cls) else cls(vocabulary(source, size))

    def encode(self, texts: Iterable[str | bytes], length: int, **how: bool) -> np.ndarray:
        """Return texts as int32 ids (texts, length), by `encode`."""
        return encode(texts, self, length, **how)

    def decode(self, ids: np.ndarray | Sequence[Sequence[int] | np.ndarray]) -> list[str]:
        """Return the texts of ids (texts, length), by `decode`."""
        return decode(ids, self)

    def axis_of(self, path: str) -> int | None:
        """Return the axis of the weight at `path` that is indexed by piece, or None.

        >>> Vocabulary.of(["a"]).axis_of("fusion_0/words_head/kernel"), Vocabulary.of(["a"]).axis_of("head/kernel")
        (1, None)
        """
        return self.AXES.get("/".join(path.split("/")[-2:]))

    def moved(self, path: str, stored: np.ndarray, new: np.ndarray, before: Vocabulary) -> tuple[np.ndarray, int]:
        """Return the weight `new` with the rows of pieces that `before` shares taken from `stored`, and their number.

        >>> old, new = Vocabulary(["a", "b"]), Vocabulary(["b", "c"])
        >>> new.moved("words/embeddings", np.array([[1.0], [2.0]]), np.zeros((2, 1)), old)
        (array([[2.],
               [0.]]), 1)
        """
        axis, rows = self.AXES["/".join(path.split("/")[-2:])], {piece: row for row, piece in enumerate(before)}
        pairs = np.array([(row, rows[piece]) for row, piece in enumerate(self) if piece in rows], int).reshape(-1, 2)
        value = np.moveaxis(new.copy(), axis, 0)
        value[pairs[:, 0]] = np.moveaxis(stored, axis, 0)[pairs[:, 1]]
        return np.moveaxis(value, 0, axis), len(pairs)
