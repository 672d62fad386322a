"""Rules of published tokenizers: how a text is cut into pieces, and how pieces become a text again.

A rule is a dict that JSON can hold:

    {"kind": "bert", "lowercase": true, "strip_accents": true, "end": false}     BERT's words and WordPiece
    {"kind": "tokenizers", "json": {a tokenizer.json}, "end": true}              the library `tokenizers`

"names" of the second, which may be absent, gives special pieces by the names they have in a tokenizer.json. "end" says
that texts which a model reads, in contrast to those it writes, have END after the last piece.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

UNKNOWN, SPECIALS = "[UNK]", 5  # the first five pieces of a vocabulary are special
DEFAULTS: dict[str, dict[str, Any]] = {
    "bert": {"kind": "bert", "lowercase": True, "strip_accents": True, "end": False},
    "tokenizers": {"kind": "tokenizers", "json": {}, "end": False},
}
LONGEST_WORD = 100  # characters; BERT maps longer words to [UNK]

# --- characters, as the library `tokenizers` classifies them: by Unicode 8, so that newer ones are ordinary
# The classes mean the same to Python's `re` and to RE2. Control, format and private characters, and U+FFFD:
DROPPED = (
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\u009f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u2064\u2066-\u206f\ue000-\uf8ff\ufeff\ufff9-\ufffb\ufffd\U000110bd\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f\U000f0000-\U000ffffd\U00100000-\U0010fffd]"
)
SPACES = "[\\t\\n\\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
IDEOGRAPHS = (  # each is a word; without U+2B820 to U+2B91F
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b81f\U0002b920-\U0002ceaf"
    "\U0002f800-\U0002fa1f]"
)
NEWER_MARKS = (
    "5c8-5c9 7fd 897-8e1 9fe afa-aff b53-b55 c04-c3c d00 d3b-d3c d81 eba ece 180f-1886 1abf-1af0 1df6-1dfb a82c a8c5 "
    "a8ff a9bd 10d24-10f85 11070-11074 110c2 111c9 111cf 1123e-11241 1133b 113bb-1145e 1182f-1612f 16f4f 16fe4 "
    "1cf00-1d128 1d25b-1d25c 1e000-1e6f5 1e944-1e94a"
)
NEWER_PUNCTUATION = (
    "61d 9fd-a76 c77-c84 1b4e-1b4f 1b7d-1b7f 2e43-2e63 10d6e-10f89 113d4-1145d 11660-116b9 1183b-11fff 12ff1-12ff2 "
    "16d6d-16fe2 1e5ff-1e95f"
)
ASCII_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
LOWER = {0x3A3: 0x3C3, 0xA7CB: 0x264, 0xA7D2: 0xA7D3, 0xA7D4: 0xA7D5, 0xA7DC: 0x19B}  # a sigma has one form


def checked(rule: dict | None) -> dict | None:
    """Return a rule with its defaults, or None; raise ValueError for what is no rule.

    >>> checked({"kind": "bert", "end": True})
    {'kind': 'bert', 'lowercase': True, 'strip_accents': True, 'end': True}
    """
    if rule is None:
        return None
    kind = rule.get("kind") if isinstance(rule, dict) else None
    if kind not in DEFAULTS:
        raise ValueError(f"rule={rule!r:.80}: expected None, or a dict whose kind is one of {', '.join(DEFAULTS)}")
    if unknown := sorted(set(rule) - {*DEFAULTS[kind], *(["names"] if kind == "tokenizers" else [])}):
        raise ValueError(f"a rule of kind {kind!r} has no {unknown[0]!r}: expected {', '.join(DEFAULTS[kind])}")
    if kind == "tokenizers" and not isinstance(rule.get("json", {}).get("model"), dict):
        raise ValueError("a rule of kind 'tokenizers' needs the content of a tokenizer.json as a dict, in 'json'")
    return rule if set(DEFAULTS[kind]) <= set(rule) else {**DEFAULTS[kind], **rule}


def rule_of(vocabulary: Sequence[str]) -> dict | None:
    """Return the rule of a vocabulary: None for a plain tuple.

    >>> rule_of(("[PAD]", "a"))
    """
    return getattr(vocabulary, "rule", None)


def reader(vocabulary: Sequence[str], rule: dict) -> Callable[[str], list[int]]:
    """Return the function from a text to its ids, without START and END; it is kept for the next call.

    >>> read = reader(("[PAD]", "[UNK]", "cat", "##s"), checked({"kind": "bert"}))
    >>> read("C\\u00c1TS, cat")
    [2, 3, 1, 2]
    """
    return _reader(tuple(vocabulary), _Key(rule))


class _Key:
    """A rule as a key of a cache. Most keys are the same object; a hash of all content would take too long."""

    def __init__(self, rule: dict):
        self.rule = rule

    def __hash__(self) -> int:
        return hash(self.rule["kind"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and (self.rule is other.rule or self.rule == other.rule)


@functools.lru_cache(maxsize=8)
def _reader(vocabulary: tuple[str, ...], key: _Key) -> Callable[[str], list[int]]:
    ids = {piece: index for index, piece in enumerate(vocabulary)}
    unknown = ids[UNKNOWN]
    if key.rule["kind"] == "tokenizers":
        content, ours = key.rule["json"], vocabulary[:SPECIALS]  # those names are ordinary characters in a text
        added = [one for one in content.get("added_tokens", []) if one["content"] not in ours]
        encode = library({**content, "added_tokens": added}).encode
        ids |= {name: ids[piece] for name, piece in key.rule.get("names", {}).items()}
        return lambda text: [ids.get(piece, unknown) for piece in encode(text, add_special_tokens=False).tokens]
    longest = max(map(len, ids))

    @functools.lru_cache(maxsize=10_000)
    def pieces(word: str) -> list[int]:
        found: list[int] = []
        at = 0
        while at < len(word) <= LONGEST_WORD:
            start = "##" if at else ""
            ends = range(min(len(word), at + longest), at, -1)
            end = next((end for end in ends if start + word[at:end] in ids), None)
            if end is None:
                return [unknown]
            found.append(ids[start + word[at:end]])
            at = end
        return found or [unknown]

    return lambda text: [piece for word in words(text, key.rule) for piece in pieces(word)]


# --- BERT


def words(text: str, rule: dict) -> list[str]:
    """Return BERT's words of a text: cleaned, split at spaces, with punctuation and ideographs on their own.

    >>> words("Caf\\u00e9\\u00a0(\\u65e5\\u672c)\\u200b", checked({"kind": "bert"}))
    ['cafe', '(', '日', '本', ')']
    """
    text = re.sub(IDEOGRAPHS, r" \g<0> ", re.sub(SPACES, " ", re.sub(DROPPED, "", text)))
    if rule["strip_accents"] and not text.isascii():
        text = "".join(one for one in unicodedata.normalize("NFD", text) if not is_mark(one))
    text = lower(text) if rule["lowercase"] else text
    return [word for word in "".join(f" {one} " if is_punctuation(one) else one for one in text).split(" ") if word]


def lower(text: str) -> str:
    """Return a text in lower case, each character by itself: a sigma at the end of a word is as any other.

    >>> lower("\\u039f\\u03a3")
    'οσ'
    """
    return text.translate(LOWER).lower()


@functools.cache
def _points(ranges: str) -> frozenset[int]:
    pairs = [one.split("-") for one in ranges.split()]
    return frozenset(point for pair in pairs for point in range(int(pair[0], 16), int(pair[-1], 16) + 1))


@functools.lru_cache(maxsize=10_000)
def is_mark(character: str) -> bool:
    """Return whether a character is an accent or another mark that takes no space, which BERT removes.

    >>> is_mark("\\u0301"), is_mark("a")
    (True, False)
    """
    newer = ord(character) in _points(NEWER_MARKS)
    return character == "\u1734" or (unicodedata.category(character) == "Mn" and not newer)


@functools.lru_cache(maxsize=10_000)
def is_punctuation(character: str) -> bool:
    """Return whether BERT takes a character as a word of its own.

    >>> is_punctuation("$"), is_punctuation("\\u20ac")
    (True, False)
    """
    newer = ord(character) in _points(NEWER_PUNCTUATION)
    listed = character in ASCII_PUNCTUATION or character in "\u166d\U000111c9"
    return listed or (unicodedata.category(character)[0] == "P" and not newer)


# --- the library `tokenizers`


def library(content: dict) -> Any:
    """Return the library's tokenizer of a tokenizer.json. It neither cuts nor pads.

    >>> words = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    >>> library({"version": "1.0", "added_tokens": [], "model": words}).encode("a").tokens
    ['a']
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError(
            'the texts of this model are read by the tokenizers library, which is missing: pip install "vtx_keras[hf]"'
        ) from error
    return Tokenizer.from_str(json.dumps({**content, "truncation": None, "padding": None}))


class Spelling(NamedTuple):
    """How pieces are written: the bytes of a piece and of one that begins a text, and what the text loses at last."""

    piece: Callable[[str], bytes]
    first: Callable[[str], bytes]
    trim: str = ""  # a pattern of RE2; `re` writes \Z for \z
    fallback: bool = False  # whether "<0x41>" is a byte


def spelling(content: dict) -> Spelling | None:
    """Return how the pieces of a tokenizer.json are written; None if they neither are bytes nor mark spaces by "▁".

    >>> gpt2 = spelling({"decoder": {"type": "ByteLevel"}, "model": {"type": "BPE"}})
    >>> gpt2.piece("\\u0120caf\\u00c3\\u00a9").decode()
    ' café'
    """
    decoders, before = _parts(content.get("decoder")), _parts(content.get("pre_tokenizer"))
    by_kind = {part["type"]: part for part in (*before, *decoders)}
    if is_byte_level(content):
        suffix = content["model"].get("end_of_word_suffix") or ""
        piece = functools.partial(_bytes_of, suffix=suffix)
        return Spelling(piece, piece, r"^ +| +\z" if suffix else "")
    fallback = "ByteFallback" in by_kind or bool(content["model"].get("byte_fallback"))
    spaced = functools.partial(_spaced, fallback=fallback)
    if space := by_kind.get("Metaspace"):
        drops = space.get("prepend_scheme", "always" if space.get("add_prefix_space", True) else "never") != "never"
        return Spelling(spaced, functools.partial(spaced, space="") if drops else spaced, "", fallback)
    if any(part["type"] == "Replace" and part["pattern"] == {"String": "\u2581"} for part in decoders):
        strip = by_kind.get("Strip", {})
        return Spelling(spaced, spaced, "^ " if strip.get("start") and strip.get("content") == " " else "", fallback)
    return None


def is_byte_level(content: dict) -> bool:
    """Return whether the characters of a tokenizer.json's pieces stand for bytes.

    >>> is_byte_level({"decoder": {"type": "ByteLevel"}}), is_byte_level({"decoder": {"type": "Metaspace"}})
    (True, False)
    """
    parts = (*_parts(content.get("pre_tokenizer")), *_parts(content.get("decoder")))
    return any(part["type"] == "ByteLevel" for part in parts)


def _parts(section: dict | None) -> list[dict]:
    """Return the members of a section of tokenizer.json that may be a sequence."""
    section = section or {"type": "Sequence", "decoders": []}
    inside = section.get("decoders") or section.get("pretokenizers") or []
    return [one for part in inside for one in _parts(part)] if section["type"] == "Sequence" else [section]


@functools.cache
def _byte_of() -> dict[str, int]:
    """Return the byte that each character of a byte-level piece stands for: visible ones for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}


def _bytes_of(piece: str, suffix: str) -> bytes:
    ends = bool(suffix) and piece.endswith(suffix)
    body, table = piece.removesuffix(suffix) if ends else piece, _byte_of()
    whole = bytes(table[one] for one in body) if all(one in table for one in body) else body.encode()
    return whole + b" " * ends


def _spaced(piece: str, space: str = " ", fallback: bool = False) -> bytes:
    byte = _byte(piece) if fallback else None
    return piece.replace("\u2581", space).encode() if byte is None else byte


def _byte(piece: str) -> bytes | None:
    return bytes.fromhex(piece[3:5]) if re.fullmatch("<0x[0-9A-Fa-f]{2}>", piece) else None


def joined(pieces: Sequence[str], rule: dict) -> str:
    """Return the text of pieces by a rule of kind "tokenizers".

    >>> content = {"decoder": {"type": "Metaspace"}, "model": {"type": "Unigram"}}
    >>> joined(["\\u2581a", "\\u2581cat", "s"], {"kind": "tokenizers", "json": content})
    'a cats'
    """
    spelled = spelling(rule["json"])
    if spelled is None:
        decoder = library(rule["json"]).decoder
        return decoder.decode(list(pieces)) if decoder else " ".join(pieces)
    parts = [(spelled.piece if index else spelled.first)(piece) for index, piece in enumerate(pieces)]
    if spelled.fallback:
        parts = list(_repaired(pieces, parts))
    text = b"".join(parts).decode("utf-8", "replace")
    return re.sub(spelled.trim.replace(r"\z", r"\Z"), "", text) if spelled.trim else text


def _repaired(pieces: Iterable[str], parts: Iterable[bytes]) -> Iterator[bytes]:
    """Replace the bytes of runs that are no UTF-8 by U+FFFD each."""
    for is_bytes, run in itertools.groupby(zip(pieces, parts, strict=True), lambda both: _byte(both[0]) is not None):
        whole = b"".join(part for _, part in run)
        valid = not is_bytes or whole.decode("utf-8", "ignore").encode() == whole
        yield whole if valid else "\ufffd".encode() * len(whole)
