"""Rules of published tokenizers: the pieces and texts are those of the library `tokenizers`."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import unicodedata

import numpy as np
import pytest

from vtx_keras.inputs import _rules, text

pytest.importorskip("tokenizers")
from text_rules import TEXTS, bert_of_the_library, bert_pieces, published, with_specials_of_its_own


@pytest.fixture(scope="module", params=["bytes", "clip", "unigram"])
def pair(request):
    return published(request.param)


@pytest.mark.parametrize(("lowercase", "strip_accents"), [(True, True), (True, False), (False, False), (False, True)])
@pytest.mark.filterwarnings("ignore:.*texts were cut")
def test_bert_gives_the_ids_of_the_library(lowercase, strip_accents):
    pieces = bert_pieces()
    oracle = bert_of_the_library(pieces, lowercase, strip_accents)
    rule = {"kind": "bert", "lowercase": lowercase, "strip_accents": strip_accents, "end": False}
    found = text.encode(TEXTS, text.Vocabulary(pieces, rule=rule), 200, allow_empty=True)
    for one, row in zip(TEXTS, found, strict=True):
        ids = oracle.encode(one).ids[:200]
        assert row[: len(ids)].tolist() == ids, one
        assert not row[len(ids) :].any(), one


def test_every_character_is_classified_as_by_the_library():
    """Each character between two letters: dropped, a space, a word of its own, or part of the word."""
    from tokenizers import normalizers, pre_tokenizers

    clean, cut = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    rule = _rules.checked({"kind": "bert"})
    points = [*range(0x3400), *range(0x3400, 0xD800, 5), *range(0xE000, 0x110000, 5), *_rules.LOWER]
    # Characters that are unknown to this Python keep their case, and one is decomposed by newer Unicode alone: both are
    # in no vocabulary.
    known = [point for point in points if unicodedata.category(chr(point)) != "Cn" and point != 0x11938]
    assert len(known) > 30_000
    for one in map(chr, [*known, *_rules.LOWER]):
        wanted = [word for word, _ in cut.pre_tokenize_str(clean.normalize_str(f"a{one}b"))]
        assert _rules.words(f"a{one}b", rule) == wanted, hex(ord(one))


def test_rules_of_the_library_give_its_pieces(pair):
    oracle, vocabulary = pair
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    found = text.encode(TEXTS, vocabulary, 600, allow_empty=True)
    known = 0
    for one, row in zip(TEXTS, found, strict=True):
        wanted = [ids.get(piece, text.UNK) for piece in oracle.encode(one, add_special_tokens=False).tokens]
        assert row[: len(wanted)].tolist() == wanted, one
        known += len(wanted) - wanted.count(text.UNK)
    assert known > 20_000


def test_pieces_become_the_text_that_the_library_makes(pair):
    oracle, vocabulary = pair
    content = vocabulary.rule["json"]
    rows = text.encode(TEXTS, vocabulary, 600, allow_empty=True)
    draw = np.random.default_rng(0)
    rows = [*rows, *draw.integers(text.PAD, len(vocabulary), (500, 12))]  # pieces in any order: invalid UTF-8 as well
    for row in rows:
        row = row[: next((i for i, token in enumerate(row) if token in (text.PAD, text.END)), len(row))]
        pieces = [vocabulary[token] for token in row if token >= len(text.SPECIALS)]
        wanted = oracle.decoder.decode(pieces)
        if content["model"].get("end_of_word_suffix"):
            wanted = oracle.decoder.decode([piece.replace("</w>", "\u0120") for piece in pieces]).strip(" ")
        assert vocabulary.decode([row]) == [wanted], pieces


def test_captions_come_back(pair):
    _, vocabulary = pair
    one = "Two dogs catch a frisbee"
    one = one.lower() if "Lowercase" in json.dumps(vocabulary.rule) else one
    assert vocabulary.decode(vocabulary.encode(["Two dogs catch a frisbee"], 60, start=True, end=True)) == [one]


def test_bytes_and_spaces_of_sentencepiece_are_written_as_by_the_library():
    from tokenizers import decoders

    chain = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    for oracle, kind in [
        (decoders.Sequence(chain), "Sequence"),
        (decoders.Metaspace(prepend_scheme="never"), "Metaspace"),
        (decoders.Metaspace(), "Metaspace"),
        (decoders.WordPiece(), "WordPiece"),  # by the library itself
    ]:
        section = json.loads(oracle.__getstate__())
        assert section["type"] == kind
        rule = {"kind": "tokenizers", "json": {"decoder": section, "model": {"type": "WordLevel", "vocab": {}}}}
        rule["json"]["model"]["unk_token"] = "[UNK]"
        for pieces in (
            ["\u2581a", "\u2581\u2581cat", "s"],
            ["<0xE6>", "<0x97>", "<0xA5>", "\u2581", "<0xFF>", "<0x41>", "x", "<0x41>"],
            ["a", "<0xE6>", "<0x97>", "b"],
            ["\u2581"],
            [],
        ):
            vocabulary = text.Vocabulary((*text.SPECIALS, *dict.fromkeys(pieces)), rule=rule)
            ids = [[vocabulary.index(piece) for piece in pieces]]
            if section["type"] == "WordPiece" and not pieces:
                continue  # which the library cannot write
            assert vocabulary.decode(np.array(ids, int).reshape(1, -1)) == [oracle.decode(pieces)], (kind, pieces)


def test_a_rule_travels_with_copies_and_counts_in_caches():
    pieces = text.vocabulary(["cat", "\u00e9", "e", "caf\u00e9", "cafe"])
    plain = text.Vocabulary(pieces)
    bert, cased = (text.Vocabulary(pieces, rule={"kind": "bert", "strip_accents": strip}) for strip in (True, False))
    assert plain.rule is None
    assert not plain.ends
    assert plain == bert == cased == pieces
    assert hash(bert) == hash(pieces)
    for again in (
        pickle.loads(pickle.dumps(cased)),
        copy.copy(cased),
        copy.deepcopy(cased),
        text.Vocabulary.of(cased),
        text.Vocabulary(list(cased), rule=json.loads(json.dumps(cased.rule))),
    ):
        assert again.rule == cased.rule
        for _ in range(2):
            found = [one.encode(["Caf\u00e9"], 1).tolist() for one in (again, bert, plain, pieces_as(plain, True))]
            assert found == [[[8]], [[9]], [[8]], [[9]]]
    assert pieces_as(plain, True).encode(["cat"], 4, start=True, end=bool(pieces_as(plain, True).ends)).tolist() == [
        [2, 5, 3, 0]
    ]


def pieces_as(vocabulary, end):
    return text.Vocabulary(vocabulary, rule={"kind": "bert", "end": end})


def test_texts_may_be_bytes_or_broken_and_are_cut_with_a_warning():
    vocabulary = text.Vocabulary(bert_pieces(), rule={"kind": "bert"})
    with pytest.warns(UserWarning, match="1 of 2 texts were cut to 2 pieces"):
        ids = vocabulary.encode([b"caf\xff\xc3\xa9 the the", "\ud83d the"], 4, start=True, end=True)
    assert ids[1].tolist() == [text.START, vocabulary.index("the"), text.END, text.PAD]
    with pytest.raises(ValueError, match="has no words"):
        vocabulary.encode(["\u200b\u0301"], 4)
    with pytest.raises(TypeError, match="Text 0 is int"):
        vocabulary.encode([3], 4)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"kind": "wordpiece"}, "expected None, or a dict whose kind is one of bert, tokenizers"),
        ("bert", "expected None"),
        ({"kind": "bert", "lower": True}, "has no 'lower'"),
        ({"kind": "tokenizers"}, "needs the content of a tokenizer.json"),
    ],
)
def test_a_wrong_rule_is_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        text.Vocabulary(text.SPECIALS, rule=rule)


def test_without_the_library_the_error_says_what_to_install(pair, monkeypatch):
    _, vocabulary = pair
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    _rules._reader.cache_clear()
    with pytest.raises(ImportError, match=r'pip install "vtx_keras\[hf\]"'):
        vocabulary.encode(["a cat"], 9)
    assert vocabulary.decode([[5, 6]])  # needs no library


def test_special_pieces_in_a_text_are_ordinary_characters():
    published_so = with_specials_of_its_own()
    for vocabulary in (published_so, text.Vocabulary(published_so, rule={"kind": "bert"})):
        assert vocabulary.encode(["[PAD]"], 4).tolist() == [[5, 6, 7, 0]]
