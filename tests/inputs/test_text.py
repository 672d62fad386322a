"""Texts: one normalisation, ids and back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
import warnings

import numpy as np
import pytest
from paths import ROOT
from sentences import AWKWARD, CAPTIONS, ROUND_TRIPS

from vtx_keras.inputs import text


@pytest.fixture(scope="module")
def english():
    return text.vocabulary()


@pytest.fixture(scope="module")
def learned():
    return text.learn(CAPTIONS)


def child(code, **environment):
    """Run code in a fresh Python and return the JSON of its last line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    return json.loads(done.stdout.decode("utf-8").splitlines()[-1])


OTHER = "tensorflow" if os.environ.get("KERAS_BACKEND") == "jax" else "jax"


@pytest.fixture(scope="module")
def other_backend():
    """Results of the same calls in a process with another backend and another seed of string hashes."""
    code = f"""
import json, keras, keras_hub
from vtx_keras import text as t
texts, pieces = {CAPTIONS + ROUND_TRIPS!r}, t.vocabulary()
layer = keras_hub.tokenizers.WordPieceTokenizer(list(pieces))
print(json.dumps(dict(
    name=keras.backend.backend(),
    learned=t.learn({CAPTIONS!r}),
    ids=t.encode(texts, pieces, 40).tolist(),
    rows=[[int(one) for one in layer(t.normalize(each))] for each in texts],
)))"""
    return child(code, KERAS_BACKEND=OTHER, PYTHONHASHSEED="1")


def test_import_loads_no_framework():
    loaded = child(
        "import json, sys; from vtx_keras import text as t; t.decode([[5]], t.vocabulary());"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    assert "numpy" in loaded
    assert not {"keras", "keras_hub", "tensorflow", "tensorflow_text", "jax", "torch", "PIL"} & set(loaded)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("  A Man\tRIDES \n", "a man rides"),
        ("one\u2028two\u2029three\rfour\x00five\x85six", "one two three four five six"),
        ("\uff34\uff25\uff21 \u2122 \ufb01sh \u2460", "tea tm fish 1"),
        ("sun\u00adset \ufeffman \u2764\ufe0f", "sunset man \u2764"),
        ("\U0001f469\u200d\U0001f692", "\U0001f469\U0001f692"),
        ("a\u200bb", "a b"),
        ("H\u0331", "\u1e96"),
        ("Stra\u00dfe", "stra\u00dfe"),
        (b"caf\xc3\xa9", "caf\u00e9"),
        (b"caf\xe9 bar", "caf\ufffd bar"),
        ("half \ud83d and \ud83d\ude00", "half \ufffd and \U0001f600"),
        ("\u200d\ufe0f \r\n", ""),
    ],
)
def test_normalize_gives_the_documented_form(given, expected):
    assert text.normalize(given) == expected


def test_normalize_is_idempotent_for_every_character_and_its_accents():
    cases = list(AWKWARD)
    for point in range(sys.maxunicode + 1):
        one = chr(point)
        if 0xD800 <= point < 0xE000 or not (one.lower() != one or not unicodedata.is_normalized("NFKC", one)):
            continue
        cases += [one, *(one + mark for mark in "\u0301\u0307\u0308\u030c\u0331\u0345\u03a3\u200d\u00a8")]
    assert len(cases) > 40_000
    once = [text.normalize(case) for case in cases]
    assert [text.normalize(case) for case in once] == once


def test_normalize_can_be_expressed_in_tensorflow():
    tf = pytest.importorskip("tensorflow")
    tf_text = pytest.importorskip("tensorflow_text")
    cases = [case for case in AWKWARD if "\ud83d" not in case] + CAPTIONS + ROUND_TRIPS
    graph = tf.strings.regex_replace(tf.constant(cases), text.UNSEEN, "")
    graph = tf_text.normalize_utf8(tf.strings.regex_replace(graph, text.GAPS, " "), "NFKC")
    graph = tf_text.normalize_utf8(tf.strings.lower(graph, encoding="utf-8"), "NFKC")
    graph = tf.strings.strip(tf.strings.regex_replace(graph, text.GAPS, " "))
    assert [one.decode() for one in graph.numpy()] == [text.normalize(case) for case in cases]


@pytest.mark.parametrize("wrong", [None, 3, 2.5, ["a"]])
def test_normalize_refuses_other_types(wrong):
    with pytest.raises(TypeError, match=type(wrong).__name__):
        text.normalize(wrong)


def test_learn_is_deterministic_across_processes_and_backends(learned, other_backend):
    assert tuple(other_backend["learned"]) == learned


def expected_ids(pieces, texts):
    import keras_hub

    layer = keras_hub.tokenizers.WordPieceTokenizer(list(pieces), lowercase=False)
    return [[int(one) for one in layer(text.normalize(each))] for each in texts]


def test_encode_gives_the_ids_of_keras_hub(english):
    texts = CAPTIONS + ROUND_TRIPS
    ids = text.encode(texts, english, 40)
    assert ids.dtype == np.int32
    assert ids.shape == (len(texts), 40)
    rows = expected_ids(english, texts)
    assert [row[row > 0].tolist() for row in ids] == rows
    assert [int((row == 0).sum()) for row in ids] == [40 - len(row) for row in rows]


def test_encode_gives_the_same_ids_under_another_backend(english, other_backend):
    texts = CAPTIONS + ROUND_TRIPS
    assert other_backend["name"] == OTHER
    assert other_backend["ids"] == text.encode(texts, english, 40).tolist()
    assert other_backend["rows"] == expected_ids(english, texts)


def test_encode_agrees_with_the_tokenizer_in_a_tensorflow_graph(english):
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_text")
    texts = [text.normalize(one) for one in CAPTIONS + ROUND_TRIPS + AWKWARD[:4]]
    layer = text.tokenizer(english)
    rows = tf.data.Dataset.from_tensor_slices(texts).map(layer.tokenize).as_numpy_iterator()
    ids = text.encode(texts, english, 40)
    assert [row[row > 0].tolist() for row in ids] == [row.tolist() for row in rows]


def test_the_tokenizer_is_built_once(english):
    assert text.tokenizer(english) is text.tokenizer((*english,))


def test_encode_puts_start_and_end_where_asked():
    pieces = text.vocabulary(["a", "cat", "##s"])
    a, cat, s = 5, 6, 7
    pad, start, end = text.PAD, text.START, text.END
    texts = ["a cat", "cats"]
    assert text.encode(texts, pieces, 4).tolist() == [[a, cat, pad, pad], [cat, s, pad, pad]]
    assert text.encode(texts, pieces, 4, start=True).tolist()[0] == [start, a, cat, pad]
    assert text.encode(texts, pieces, 4, end=True).tolist()[0] == [a, cat, end, pad]
    assert text.encode(texts, pieces, 4, start=True, end=True).tolist()[1] == [start, cat, s, end]


def test_encode_never_makes_special_ids_from_a_text(english, learned):
    spelled = [" ".join(text.SPECIALS), " ".join(text.SPECIALS).lower(), "a[MASK]b [END]"]
    ids = text.encode(spelled, english, 60)
    assert ids[ids != text.PAD].min() >= len(text.SPECIALS)
    assert text.decode(ids, english)[2].replace(" ", "") == "a[mask]b[end]"
    few = text.encode(["[END] cat"], learned, 10)  # no bracket in this vocabulary
    assert set(few[0].tolist()) & {text.START, text.END, text.MASK} == set()


def test_encode_writes_unk_for_an_unknown_word_and_decode_omits_it(learned):
    ids = text.encode(["a \U0001f469\u200d\U0001f692 man"], learned, 5)
    assert ids[0, 1] == text.UNK
    assert text.decode(ids, learned) == ["a man"]


def test_encode_cuts_long_texts_with_one_warning_and_keeps_the_end():
    pieces = text.vocabulary(["a", "b"])
    with pytest.warns(UserWarning, match="texts were cut") as caught:
        ids = text.encode(["a b a b a b", "a", "b b b b"], pieces, 4, start=True, end=True)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "2 of 3 texts were cut to 2 pieces" in message
    assert "length=8" in message
    assert caught[0].filename == __file__
    assert ids.tolist() == [[2, 5, 6, 3], [2, 5, 3, 0], [2, 6, 6, 3]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert text.encode(["a b a b a b"], pieces, 8, start=True, end=True).all()


@pytest.mark.parametrize("empty", ["", " \n", "\u2028\ufe0f", b"", "\u0600"])
def test_encode_refuses_an_empty_text_by_index(english, empty):
    with pytest.raises(ValueError, match="Text 1 has no words"):
        text.encode(["a cat", empty], english, 8)
    ids = text.encode(["a cat", empty], english, 8, start=True, end=True, allow_empty=True)
    assert ids[1].tolist() == [text.START, text.END, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("wrong", [None, 3, float("nan"), ["cat"]])
def test_encode_refuses_other_types_by_index(english, wrong):
    with pytest.raises(TypeError, match=f"Text 2 is {type(wrong).__name__}"):
        text.encode(["a", "b", wrong], english, 8)


def test_encode_refuses_one_string_and_no_room(english):
    with pytest.raises(TypeError, match="Pass a list"):
        text.encode("a cat", english, 8)
    with pytest.raises(ValueError, match="Use 3 or more"):
        text.encode(["a cat"], english, 2, start=True, end=True)


def test_encode_takes_arrays_bytes_and_no_texts_at_all(english):
    expected = text.encode(["a cat", "a dog"], english, 6)
    assert (text.encode(np.array(["a cat", "a dog"]), english, 6) == expected).all()
    assert (text.encode(np.array(["A cat", b"a DOG"], object), list(english), 6) == expected).all()
    assert text.encode([], english, 6).shape == (0, 6)
    assert text.decode(text.encode([], english, 6), english) == []


@pytest.mark.parametrize("caption", CAPTIONS + ROUND_TRIPS)
def test_captions_survive_encode_and_decode(english, caption):
    ids = text.encode([caption], english, 40, start=True, end=True)
    assert text.decode(ids, english) == [text.normalize(caption)]


def test_spaces_beside_punctuation_are_lost_as_documented(english):
    given = ["two dogs' bowls", "left - right", "1.5", "at 3:30"]
    back = text.decode(text.encode(given, english, 20), english)
    assert back == ["two dogs'bowls", "left-right", "1. 5", "at 3: 30"]


def test_decode_stops_at_the_first_end_or_pad_and_drops_specials():
    pieces = text.vocabulary(["a", "cat", "##s"])
    rows = [
        [text.START, 5, 6, 7, text.END, 6],
        [5, text.PAD, 6, 6, 6, 6],
        [text.START, text.UNK, 5, text.MASK, 6, text.START],
        [text.END, 5, 5, 5, 5, 5],
        [text.PAD] * 6,
        [7, 5, 6, 7, 7, 0],
    ]
    expected = ["a cats", "a", "a cat", "", "", "s a catss"]
    for dtype in (np.int32, np.int64, np.uint16):
        assert text.decode(np.array(rows, dtype), pieces) == expected
    assert text.decode(rows, pieces) == expected


def test_decode_rules_give_the_same_text_in_tensorflow(english):
    tf = pytest.importorskip("tensorflow")
    texts = CAPTIONS + ROUND_TRIPS + ['he said " hi " - "you" ( [ok] ) it\'s 5 % / # 3 ## "']
    ids = text.encode(texts, english, 40)
    words = tf.gather(tf.constant(english), tf.ragged.constant([row[row > 0].tolist() for row in ids]))
    joined = tf.strings.reduce_join(words, axis=-1, separator=" ")
    for pattern, rewrite in text.JOIN_RULES:
        joined = tf.strings.regex_replace(joined, pattern, rewrite)
    assert [one.decode() for one in joined.numpy()] == text.decode(ids, english)


def test_chinese_and_japanese_are_decoded_without_spaces():
    names = [
        "\u66c7\u308a\u6642\u3005\u6674\u308c",
        "\u5f7c\u306f\u300c\u306f\u3044\u300d",
        "\u8349\u8393",
        "\u98df\u3079\u7269",
        "\u3044\u3061\u3054 10",
        "\u5973\u4eba: \u6d45\u80a4\u8272",
        "\u6708\u4eae\u751f\u65e5\u5feb\u4e50",
    ]
    pieces = text.vocabulary([f"{name} x" for name in names], size=200)
    ids = text.encode(names, pieces, 20)
    assert text.UNK not in ids
    assert not any(piece.startswith("##") and re.match(f"[{text.IDEOGRAPHS}]", piece[2:]) for piece in pieces)
    assert text.decode(ids, pieces) == names


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([5, 6], "shape \\(2,\\)"),
        ([[5.0, 6.0]], "float64"),
        ([[5, 8]], "from 5 to 8"),
        ([[-1, 5]], "from -1 to 5"),
    ],
)
def test_decode_says_what_is_wrong(ids, message):
    with pytest.raises(ValueError, match=message):
        text.decode(ids, text.vocabulary(["a", "cat", "##s"]))


def test_examples_in_the_docstrings_run():
    import doctest

    found = doctest.testmod(text)
    assert found.attempted >= 8
    assert found.failed == 0


def test_a_few_plain_texts_have_the_same_ids_as_by_the_library():
    random, vocabulary = np.random.default_rng(0), text.vocabulary()
    characters = [
        *"abcdefghijklmnopqrstuvwxyzABC0123456789",
        *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
        *(" " * 12),
        "\t",
        "\n",
    ]
    texts = ["".join(random.choice(characters, random.integers(1, 60))) + " a" for _ in range(300)]
    texts += ["[unk] a", "a dog's bowl, isn't it?", "x" * 120 + " a", "caf\u00e9 a"]
    many = text.encode(texts, vocabulary, 80)  # by the library: they are more than a few
    few = np.concatenate([text.encode([one], vocabulary, 80) for one in texts])
    np.testing.assert_array_equal(few, many)
