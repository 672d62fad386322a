"""Strings in and out: one normalisation, one WordPiece vocabulary, ids and back.

A text goes through `normalize` and `encode` to ids, and ids come back through `decode`. All of it takes and
gives plain Python and NumPy values. A vocabulary is a tuple of pieces; the index of a piece is its id.
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

SPECIALS = ("[PAD]", "[UNK]", "[START]", "[END]", "[MASK]")
PAD, UNK, START, END, MASK = range(5)
TEXT_FIELDS = ("captions", "caption", "question", "text")  # what examples call a text; the first there is counts
LABEL_FIELDS = ("answer", "label")  # and what is to be learned beside it

# Both classes mean the same to Python's `re` and to RE2 (tf.strings.regex_replace), so a TensorFlow graph can
# repeat `normalize`: UNSEEN to "", GAPS to " ", tf_text.normalize_utf8 "NFKC", tf.strings.lower "utf-8" (not
# case_fold_utf8, which turns "ß" into "ss"), NFKC again, GAPS to " ", strip.
GAPS = "[\\x00-\\x20\\x7f\u0080-\u00a0\u1680\u2000-\u200b\u2028\u2029\u202f\u205f\u3000]+"
UNSEEN = (  # soft hyphens, marks of direction and byte order, joiners (ZWJ), variation selectors, tags
    "[\u00ad\u034f\u061c\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]"
)

# Chinese and Japanese write no spaces. An ideograph is a word of its own to the tokenizer, a run of kana one word.
IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff"
KANA = "\u3001-\u30ff"  # with the punctuation that stands among them

# What turns pieces joined with spaces into a sentence, rule by rule; plain enough for RE2 and for a phone.
# "a man's t-shirt (red, 50% off)!", "black/white" and 'says "stop"' come back as they were. Pieces forget
# where spaces stood beside punctuation, so "dogs' bowls" becomes "dogs'bowls", "a - b" "a-b", "1.5" "1. 5".
JOIN_RULES = (
    (r"(^| )##", ""),  # a continued word
    (" ([.,!?;:)%\\]\u201d])", r"\1"),  # no space before these
    ("([(\\[\u201c\u2018$#]) ", r"\1"),  # no space after these
    (" ?(['\u2019/-]) ?", r"\1"),  # glued on both sides
    (r'" ([^"]*) "', r'"\1"'),  # a pair of straight quotes holds its words
    (f"([{KANA}{IDEOGRAPHS}]) ([{KANA}{IDEOGRAPHS}])", r"\1\2"),  # no space between these:
    (f"([{KANA}{IDEOGRAPHS}]) ([{KANA}{IDEOGRAPHS}])", r"\1\2"),  # every second one is left by the rule above
)

# A number with its points and commas, or a word with the hyphens, slashes and apostrophes inside it.
TOKEN = re.compile(r"\d+(?:[.,:]\d+)+|\w+(?:[-/.']\w+)*|[^\w\s]")
CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))$")
# What pycocoevalcap leaves out, and typographic forms that its tokenizer turns into those.
SILENT = frozenset([*"'\"`.?!,:;-–—…‘’“”()[]{}", "''", "``", "--", "..."])


def normalize(text: str | bytes) -> str:
    """The one form that every text takes before it is cut into pieces; a second time changes nothing.

    UTF-8 is decoded and broken bytes replaced. Characters take their compatibility form (NFKC) in lower
    case, any run of spaces, line breaks and control characters becomes one space, and what shows nothing of
    its own (ZWJ, variation selectors, soft hyphens) goes. Emoji stay; a vocabulary without them makes [UNK].

    >>> normalize("  A\\u2028Man's \\uff34ea\\n")
    "a man's tea"
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    elif not isinstance(text, str):
        raise TypeError(f"A text must be str or bytes, but this is {type(text).__name__}: {text!r:.80}")
    # UTF-16 joins the two halves of a surrogate pair and replaces a half that stands alone.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = re.sub(GAPS, " ", re.sub(UNSEEN, "", text))
    # NFKC on both sides: it makes capitals ("™" gives "TM"), and small letters may compose where capitals do
    # not ("H\u0331" gives "\u1e96").
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return re.sub(GAPS, " ", text).strip(" ")


def tokens(text: str | bytes) -> list[str]:
    """The words of a text, in lower case and without punctuation: much as the COCO papers' Java tokenizer has them.

    A clitic stands alone ("man 's", "do n't"), "t-shirt" and "black/white" are one word, and so is "1.5". It differs
    from `penn` where that knows abbreviations ("u.s." keeps its last point there).

    >>> tokens("A man's t-shirt (red, 1.5 m) isn't\\u2028new!")
    ['a', 'man', "'s", 't-shirt', 'red', '1.5', 'm', 'is', "n't", 'new']
    """
    words = []
    for token in TOKEN.findall(normalize(text).replace("\u2019", "'")):
        clitic = CLITIC.search(token)
        words += [token[: clitic.start()], clitic[0]] if clitic else [token]
    return [word for word in words if word and word not in SILENT]


def vocabulary(source: str | os.PathLike | Sequence[str] | None = None, size: int = 8000) -> tuple[str, ...]:
    """The pieces to use: the bundled English ones, or those of a file, of a list, or learned from texts.

    None is the bundle. A path names a UTF-8 file whose lines are entries; a list or tuple holds entries. When
    any entry contains whitespace they are texts, and `learn` makes at most `size` pieces of them. Otherwise
    they are the pieces themselves, and SPECIALS go in front when missing.

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
        # Not splitlines(), which also breaks a text at U+2028 and its like.
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
        if piece != piece.encode("utf-8", "replace").decode():  # half a surrogate pair, which no file can keep
            raise ValueError(f"Piece {piece!a} is not valid Unicode. Remove it.")
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
    """At most `size` WordPiece pieces learned from texts, even from five captions.

    The same texts give the same pieces. Learning needs TensorFlow Text, for the KerasHub trainer; the use of
    pieces does not.

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
    spelled = len(alphabet) - len(ideographs)
    kept = spelled if ideographs else min(spelled, 1000)  # the trainer keeps no more characters, but see below
    least = len(SPECIALS) + len(ideographs) + 2 * kept
    if size < least:
        raise ValueError(
            f"size={size} is too small: each of {spelled} different characters takes one piece to start a word and "
            f"one to go on, and each of {len(ideographs)} ideographs takes one. Use {least} or more."
        )
    from keras_hub.tokenizers import compute_word_piece_vocabulary

    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for at in range(0, len(lines), 20_000):  # the trainer holds the words of a whole file in memory
            paths.append(os.path.join(folder, f"{at}.txt"))
            Path(paths[-1]).write_text("\n".join(lines[at : at + 20_000]), encoding="utf-8")
        # The trainer passes over what it counts fewer than ten times: in a small corpus, every word. Reading
        # the corpus ten times lifts that limit and changes no proportion.
        copies = 10 if sum(map(len, lines)) < 10_000_000 else 1
        pieces = compute_word_piece_vocabulary(paths * copies, size, reserved_tokens=list(SPECIALS))
    # It cuts to size from the end, where the rare characters are. With those in front, every word spelled in
    # this alphabet stays within reach.
    letters = [piece for piece in pieces if len(piece) == 1 and piece not in ideographs]
    letters += sorted(alphabet.difference(letters, ideographs)) if ideographs else []  # whose places those took
    begun = [*SPECIALS, *letters, *("##" + letter for letter in letters), *ideographs]
    learned = (piece for piece in pieces if piece.removeprefix("##") not in ideographs)
    return tuple(dict.fromkeys([*begun, *learned]))[:size]


@functools.lru_cache(maxsize=8)
def tokenizer(vocabulary: tuple[str, ...]) -> Any:
    """The KerasHub WordPieceTokenizer of these pieces, for texts that went through `normalize`.

    A special piece spelled out in a text is ordinary characters to it.

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
    """Texts to int32 ids of shape (texts, length), filled up with PAD.

    `start` puts START in front, `end` puts END after the last piece. What does not fit is cut, ahead of END,
    with one warning for all texts.

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
    rows = tokenizer(tuple(vocabulary)).tokenize([normalize(text) for text in texts]) if texts else []
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
    for line, row in zip(ids, rows, strict=True):
        row = [START] * start + list(row[:room]) + [END] * end
        line[: len(row)] = row
    return ids


def decode(ids: np.ndarray | Sequence[Sequence[int] | np.ndarray], vocabulary: Sequence[str]) -> list[str]:
    """Ids of shape (texts, length) to texts: up to the first END or PAD, specials left out, then JOIN_RULES.

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
    texts = []
    for row in ids.tolist():
        stop = next((at for at, one in enumerate(row) if one in (END, PAD)), len(row))
        text = " ".join(vocabulary[one] for one in row[:stop] if one >= len(SPECIALS))
        for pattern, rewrite in JOIN_RULES:
            text = re.sub(pattern, rewrite, text)
        texts.append(text)
    return texts


class Vocabulary(tuple):
    """The pieces of a model's texts; the index of a piece is its id. A tuple that encodes, decodes and moves tables.

    >>> pieces = Vocabulary.of(["a", "cat", "##s"])
    >>> pieces.encode(["cats"], 3).tolist(), pieces.decode([[6, 7, 0]])
    ([[6, 7, 0]], ['cats'])
    """

    # Which axis of a weight counts pieces, by the end of its path. Sizes cannot tell: a model may be as wide as its
    # vocabulary is long.
    AXES: ClassVar[dict[str, int]] = {"words/embeddings": 0, "words_head/kernel": 1, "words_head/bias": 0}

    @classmethod
    def of(cls, source: str | os.PathLike | Sequence[str] | None = None, size: int = 8000) -> Vocabulary:
        """The pieces that `vocabulary(source, size)` gives."""
        return source if isinstance(source, cls) else cls(vocabulary(source, size))

    def encode(self, texts: Iterable[str | bytes], length: int, **how: bool) -> np.ndarray:
        """`encode` with these pieces: texts to int32 ids (texts, length)."""
        return encode(texts, self, length, **how)

    def decode(self, ids: np.ndarray | Sequence[Sequence[int] | np.ndarray]) -> list[str]:
        """`decode` with these pieces: ids (texts, length) to texts."""
        return decode(ids, self)

    def axis_of(self, path: str) -> int | None:
        """Which axis of the weight at `path` counts pieces, None if it has none.

        >>> Vocabulary.of(["a"]).axis_of("fusion_0/words_head/kernel"), Vocabulary.of(["a"]).axis_of("head/kernel")
        (1, None)
        """
        return self.AXES.get("/".join(path.split("/")[-2:]))

    def moved(self, path: str, stored: np.ndarray, new: np.ndarray, before: Vocabulary) -> tuple[np.ndarray, int]:
        """The weight `new` with the rows of pieces that `before` has too, taken from `stored`; and how many those are.

        >>> ours, theirs = Vocabulary(["a", "b"]), Vocabulary(["b", "c"])
        >>> theirs.moved("words/embeddings", np.array([[1.0], [2.0]]), np.zeros((2, 1)), ours)
        (array([[2.],
               [0.]]), 1)
        """
        axis, rows = self.AXES["/".join(path.split("/")[-2:])], {piece: row for row, piece in enumerate(before)}
        pairs = np.array([(row, rows[piece]) for row, piece in enumerate(self) if piece in rows], int).reshape(-1, 2)
        value = np.moveaxis(new.copy(), axis, 0)
        value[pairs[:, 0]] = np.moveaxis(stored, axis, 0)[pairs[:, 1]]
        return np.moveaxis(value, 0, axis), len(pairs)
