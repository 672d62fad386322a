"""Vocabularies: the bundled one, of pieces, of files, and learned from texts."""

from __future__ import annotations

import itertools
import re
import unicodedata

import pytest
from sentences import CAPTIONS, ROUND_TRIPS

from vtx_keras.inputs import text


@pytest.fixture(scope="module")
def english():
    return text.vocabulary()


@pytest.fixture(scope="module")
def learned():
    return text.learn(CAPTIONS)


def test_the_bundled_vocabulary_is_complete_and_english(english):
    assert english[:5] == text.SPECIALS
    assert english == text.vocabulary(english)  # passes its own checks
    assert 7500 <= len(english) <= 8000
    letters = set("abcdefghijklmnopqrstuvwxyz0123456789")
    assert letters | {"##" + letter for letter in letters} <= set(english)
    assert set(map(chr, range(33, 127))) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZ") <= set(english)
    assert all(text.normalize(piece) == piece for piece in english[5:])
    foreign = [one for piece in english for one in piece if not one.isascii()]
    assert {unicodedata.name(one).split()[0] for one in foreign if one.isalpha()} == {"LATIN"}


@pytest.mark.parametrize(
    "words",
    [
        "man woman people riding standing skateboard frisbee giraffe umbrella kitchen toilet zebra snowboard",
        "firefighter skin tone medium dark light smiling face woman beard flag button keycap grinning",
        "the a of on in with two wearing red white grey gray colour color pizza traffic hydrant",
    ],
)
def test_everyday_and_emoji_words_are_single_pieces(english, words):
    assert [word for word in words.split() if word not in english] == []


def test_the_bundled_vocabulary_encodes_plain_english_without_unk(english):
    ids = text.encode(CAPTIONS + ROUND_TRIPS, english, 40)
    assert not (ids == text.UNK).any()


def test_vocabulary_of_pieces_gets_the_specials_in_front_when_missing():
    assert text.vocabulary(["a", "cat"]) == (*text.SPECIALS, "a", "cat")
    assert text.vocabulary((*text.SPECIALS, "a")) == (*text.SPECIALS, "a")


def test_a_vocabulary_is_learned_from_texts(learned):
    assert text.vocabulary(CAPTIONS) == learned
    assert text.vocabulary([one.encode() for one in CAPTIONS]) == learned
    assert text.vocabulary(["cat", "a dog"], size=30)[:5] == text.SPECIALS
    assert "dog" in text.vocabulary(["cat", "a dog"], size=30)


def test_a_vocabulary_file_holds_pieces_or_texts(tmp_path, learned):
    pieces, texts = tmp_path / "pieces.txt", tmp_path / "texts.txt"
    pieces.write_bytes("\ufeffa\r\ncat\r\n##s\r\n".encode())
    texts.write_text("\n".join([*CAPTIONS, "", ""]), encoding="utf-8")
    assert text.vocabulary(pieces) == (*text.SPECIALS, "a", "cat", "##s")
    assert text.vocabulary(str(texts)) == learned


def test_vocabulary_file_breaks_at_line_feeds_only(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("cat\u2028dog\n", encoding="utf-8")  # one text with a space in it, not two pieces
    assert {"##c", "##d"} <= set(text.vocabulary(path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (["a", "b", "a"], "'a' occurs twice"),
        (["a", "", "b"], "Piece 1 is empty"),
        ([], "vocabulary is empty"),
        ([""], "vocabulary is empty"),
        (["a", 3], "Entry 1 is 3"),
        (["a", None], "Entry 1 is None"),
        (["a", "[PAD]"], "Start with"),
        (["[UNK]", "[PAD]", "[START]", "[END]", "[MASK]", "a"], "Start with"),
        (["[PAD]", "[UNK]", "a"], "Start with"),
        (["  ", " "], "no text has a word"),
    ],
)
def test_vocabulary_says_what_is_wrong(source, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        text.vocabulary(source)


def test_vocabulary_refuses_a_missing_file_and_other_types(tmp_path):
    with pytest.raises(FileNotFoundError, match="as a list"):
        text.vocabulary("a man riding a skateboard")
    with pytest.raises(FileNotFoundError):
        text.vocabulary(tmp_path)
    with pytest.raises(TypeError, match="set"):
        text.vocabulary({"a", "b"})


def test_learn_from_five_captions_keeps_whole_words_and_can_spell_the_rest(learned):
    assert learned[:5] == text.SPECIALS
    words = {word for one in CAPTIONS for word in re.findall("[a-z]{2,}", one.lower())}
    assert words <= set(learned)
    new = text.encode(["thirteen broken umbrella bats"], learned, 40)
    assert not (new == text.UNK).any()
    assert text.decode(new, learned) == ["thirteen broken umbrella bats"]


@pytest.mark.parametrize("spare", [0, 3, 9])
def test_learn_respects_a_small_size_and_keeps_every_character(spare):
    words = ["".join(word) for word in itertools.permutations("abcde")]  # all as frequent, so many have to go
    size = 5 + 2 * len("abcde") + spare
    pieces = text.learn([" ".join(words)], size)
    assert len(pieces) == size
    ids = text.encode(words, pieces, 5)
    assert not (ids == text.UNK).any()
    assert text.decode(ids, pieces) == words


def test_learn_says_what_is_wrong():
    with pytest.raises(ValueError, match="Use 11 or more"):
        text.learn(["abc"], size=8)
    with pytest.raises(ValueError, match="no text has a word"):
        text.learn(["", " \u2028"])
    with pytest.raises(TypeError, match="one string"):
        text.learn("a cat")
    with pytest.raises(TypeError, match="NoneType"):
        text.learn(["a cat", None])


def test_learn_keeps_more_ideographs_than_the_trainer_does():
    letters = [chr(0x4E00 + i) for i in range(1500)]
    pieces = text.learn([*(f"{letter} {letter} de" for letter in letters), "\u3069"], size=1600)
    assert {*letters, "\u3069", "##\u3069"} <= set(pieces)
    assert "de" in pieces
