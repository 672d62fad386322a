"""Rules of published tokenizers, and fits of published processors, inside graphs and in the files beside them."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("tokenizers")
from text_rules import TEXTS, bert_pieces, published, with_specials_of_its_own
from tokenizers import Tokenizer

from vtx_keras import data
from vtx_keras.data import _tensors as tensors
from vtx_keras.export import _graphs as graphs
from vtx_keras.export import _pictures as pictures
from vtx_keras.export import _strings as strings
from vtx_keras.inputs import media, text

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow"),
    pytest.mark.filterwarnings("ignore:.*texts were cut"),
]
PHOTOS = sorted(Path(str(data.sample("photos/cat.jpg"))).parent.glob("*.jpg"))
CASES = [one.encode() for one in TEXTS] + [b"caf\xe9 the", b"\xff\xfe", b"a\xed\xa0\xbdb", b"\xf0\x9f\x98 cat"]


@pytest.fixture(scope="module", params=["bytes", "clip", "unigram"])
def pair(request):
    return published(request.param)


def bert(lowercase=True, strip_accents=True, end=False):
    rule = {"kind": "bert", "lowercase": lowercase, "strip_accents": strip_accents, "end": end}
    return text.Vocabulary(bert_pieces(), rule=rule)


@pytest.mark.parametrize(("lowercase", "strip_accents", "end"), [(True, True, True), (False, False, False)])
def test_a_graph_reads_texts_by_berts_rule(lowercase, strip_accents, end):
    vocabulary = bert(lowercase, strip_accents, end)
    assert vocabulary.ends == end
    read = tf.function(
        lambda texts: strings.tokens(texts, vocabulary, 24),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )
    ids, ok = read(tf.constant(CASES))
    wanted = text.encode(CASES, vocabulary, 24, start=True, end=end, allow_empty=True)
    np.testing.assert_array_equal(ids.numpy(), wanted)
    np.testing.assert_array_equal(ok.numpy(), ~np.isin(wanted[:, 1], [text.PAD, text.END]))
    assert not ok.numpy().all()
    assert read(tf.constant(["cat " * 9000]))[1].numpy().tolist() == [False]
    assert read(tf.zeros([0], tf.string))[0].shape == (0, 24)


def test_a_graph_joins_pieces_as_text_does(pair):
    _, vocabulary = pair
    rows = text.encode(TEXTS, vocabulary, 60, allow_empty=True)
    draw = np.random.default_rng(0).integers(len(text.SPECIALS), len(vocabulary), (500, 60), "int32")
    rows = np.concatenate([rows, draw])  # pieces in any order: invalid UTF-8 as well
    join = tf.function(
        lambda ids: strings.sentences(ids, vocabulary),
        input_signature=[tf.TensorSpec([None, None], tf.int32)],
        autograph=False,
    )
    assert [one.decode() for one in join(rows).numpy()] == vocabulary.decode(rows)


def test_a_graph_joins_berts_pieces_by_the_rules_of_today():
    ids = bert().encode(["The cats, sitting"], 12)
    assert (
        strings.sentences(tf.constant(ids), bert()).numpy().tolist()
        == [b"the cats, sitting"]
        == [one.encode() for one in bert().decode(ids)]
    )


def test_a_graph_that_would_need_the_library_is_refused(pair):
    _, vocabulary = pair
    with pytest.raises(ValueError, match=r"this export takes ids, tokenizer\.json is beside it"):
        strings.tokens(tf.constant(["a cat"]), vocabulary, 9)
    content = {"decoder": {"type": "WordPiece"}, "model": {"type": "WordPiece", "vocab": {}}}
    other = text.Vocabulary(text.SPECIALS, rule={"kind": "tokenizers", "json": content})
    with pytest.raises(ValueError, match="cannot join pieces inside a graph"):
        strings.sentences(tf.constant([[1]]), other)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "make", [bert, lambda: bert(lowercase=False), *(lambda k=k: published(k)[1] for k in ("bytes", "clip", "unigram"))]
)
def test_batches_read_texts_by_the_rule(make, plain):
    vocabulary = make()
    cases = [one for one in CASES if not plain or tensors.is_plain(tf.constant([one])).numpy()[0]]
    ds = tf.data.Dataset.from_tensor_slices(cases[:600]).batch(100)
    encode = tensors.encoder(vocabulary, start=True, end=True, plain=plain)
    found = np.concatenate(list(ds.map(lambda texts: encode(texts, 20)).as_numpy_iterator()))
    wanted = text.encode(cases[:600], vocabulary, 20, start=True, end=True, allow_empty=True)
    np.testing.assert_array_equal(found, wanted)


def file_of(vocabulary, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(graphs.tokenizer(vocabulary)), encoding="utf-8")
    return Tokenizer.from_file(str(path))


def test_the_file_beside_an_export_gives_the_ids_of_text(pair, tmp_path):
    _, vocabulary = pair
    beside = file_of(vocabulary, tmp_path)
    for one, row in zip(TEXTS, text.encode(TEXTS, vocabulary, 600, allow_empty=True), strict=True):
        ids = beside.encode(one).ids
        assert ids == row[: len(ids)].tolist(), one
        assert not row[len(ids) :].any()


def test_names_of_special_tokens_have_no_id_of_their_own_beside_an_export(tmp_path):
    for kind in ("bytes", "clip"):
        _, vocabulary = published(kind)
        one = "a cat <|endoftext|> [PAD]"
        ids = file_of(vocabulary, tmp_path).encode(one).ids
        assert ids == vocabulary.encode([one], len(ids)).tolist()[0]
        assert ids.count(text.UNK) == 1
        assert text.PAD not in ids
    assert file_of(with_specials_of_its_own(), tmp_path).encode("[PAD]").ids == [5, 6, 7]


@pytest.mark.parametrize(("lowercase", "strip_accents"), [(True, True), (False, False)])
def test_the_file_of_berts_rule_gives_the_ids_of_text(lowercase, strip_accents, tmp_path):
    vocabulary = bert(lowercase, strip_accents)
    beside = file_of(vocabulary, tmp_path)
    for one, row in zip(TEXTS, text.encode(TEXTS, vocabulary, 600, allow_empty=True), strict=True):
        assert beside.encode(one).ids == row[row != text.PAD].tolist(), one


@pytest.mark.parametrize("fit", [kind + end for kind in media.FITS for end in ("-bicubic", "-lanczos")] + ["shortest"])
def test_a_graph_resizes_as_pillow_does(fit):
    resize = tf.function(
        lambda image: pictures.resize(image, (96, 128), fit),
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)],
        autograph=False,
    )
    for path in PHOTOS:
        picture = media.read(path)
        for one in (picture, picture[:70, :200]):
            difference = np.abs(resize(one).numpy().astype(int) - media.resize(one, (96, 128), fit))
            assert difference.max() <= 1
            assert (difference > 0).mean() < 1e-4
    same = picture[:96, :128]
    np.testing.assert_array_equal(resize(same).numpy(), media.resize(same, (96, 128), fit))


def test_a_picture_too_long_for_shortest_is_refused_in_a_graph_as_by_media():
    line = np.zeros((1, 60_000, 3), "uint8")
    with pytest.raises(tf.errors.InvalidArgumentError, match="pixels"):
        pictures.resize(tf.constant(line), (224, 224), "shortest-bicubic")
    with pytest.raises(media.BadPicture, match="pixels"):
        media.resize(line, (224, 224), "shortest-bicubic")
