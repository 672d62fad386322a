"""Augmentation, windows and tokens inside tf.data."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import tensorflow as tf
import toys
from PIL import Image

from vtx_keras import data
from vtx_keras.data import _tensors as tensors
from vtx_keras.inputs import media, text


def test_augmentation_changes_pictures_within_their_range_and_repeats_for_a_seed():
    pictures = tf.constant(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype="uint8"))
    how = {**tensors.AUGMENT, "flip": True, "background": 0.5}
    clear = tf.cast(tf.fill((3, 32, 32, 3), 128), tf.uint8)
    arguments = {"flip": tf.constant([True] * 3), "clear": clear}
    one, again, other = (
        tensors.augment(pictures, tf.constant(seed), how, **arguments) for seed in ([1, 2], [1, 2], [3, 2])
    )
    np.testing.assert_array_equal(one, again)
    assert (one.numpy() != other.numpy()).any()
    assert one.dtype == tf.float32
    assert one.numpy().min() >= 0
    assert one.numpy().max() <= 255
    assert (one.numpy() % 1 == 0).all()


def test_augmentation_by_zero_changes_nothing():
    pictures = tf.constant(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype="uint8"))
    same = tensors.augment(
        pictures, tf.constant([1, 2]), dict.fromkeys(tensors.AUGMENT, 0), flip=tf.constant([True] * 2)
    )
    np.testing.assert_array_equal(same, tf.cast(pictures, tf.float32))


@pytest.mark.parametrize(
    ("said", "mirrored"), [("a cat on the LEFT", False), ("twelve o’clock", False), ("a cleft", True)]
)
def test_an_image_is_mirrored_only_if_its_text_allows(said, mirrored):
    model = toys.toy("gated_captioner", vocabulary=None)
    half = np.zeros((20, 32, 32, 3), "uint8")
    half[:, :, :16] = 255
    ds = tf.data.Dataset.from_tensor_slices({"image": half, "caption": [said] * 20})
    how = {"flip": True, "crop": 0, "rotation": 0, "colour": 0}
    ds = data.batches(ds, model, augment=how)
    seen = set(next(iter(ds))[0]["image"][:, 5, 5, 0].numpy().tolist())
    assert seen == ({0.0, 255.0} if mirrored else {255.0})


def test_a_mirrored_picture_is_the_mirror_image():
    picture = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype="uint8")
    how = {**dict.fromkeys(tensors.AUGMENT, 0), "flip": True}
    found = {
        tuple(tensors.augment(tf.constant(picture), tf.constant([s, 1]), how, flip=tf.constant([True])).numpy().ravel())
        for s in range(8)
    }
    assert found == {tuple(picture.ravel().astype("float32")), tuple(picture[:, :, ::-1].ravel().astype("float32"))}


def test_a_window_takes_the_part_it_names():
    picture = np.zeros((40, 80, 3), "uint8")
    picture[10:20, 60:80] = 200
    part = media.resize(picture, (10, 20), "stretch", window=(0.25, 0.75, 0.25, 0.25))
    assert (part == 200).all()


@pytest.mark.parametrize("turn", [None, 6])
def test_a_window_of_a_large_jpeg_is_near_that_of_its_pixels(turn):
    y, x = np.mgrid[0:480, 0:720]
    picture = np.stack([x // 3, y // 2, (x + y) // 5], -1).astype("uint8")
    file, exif = io.BytesIO(), Image.Exif()
    if turn:
        exif[0x0112] = turn
    Image.fromarray(picture).save(file, "JPEG", quality=95, exif=exif)
    window = (0.2, 0.3, 0.6, 0.5)
    whole = media.read(file.getvalue())
    apart = media.resize(file.getvalue(), (64, 64), "pad", window).astype(int) - media.resize(
        whole, (64, 64), "pad", window
    )
    assert np.abs(apart).mean() < 3


def test_another_background_replaces_white_where_the_image_is_transparent():
    picture = np.full((1, 8, 8, 3), 255, "uint8")
    picture[:, 2:6, 2:6] = (10, 200, 30)
    clear = np.full((1, 8, 8, 3), 255, "uint8")
    clear[:, 2:6, 2:6] = 0
    how = {**dict.fromkeys(tensors.AUGMENT, 0), "background": 1.0}
    found = tensors.augment(
        tf.constant(picture), tf.constant([3, 1]), how, flip=tf.constant([False]), clear=tf.constant(clear)
    ).numpy()
    assert (found[:, 2:6, 2:6] == picture[:, 2:6, 2:6]).all()
    assert len(np.unique(found[0, :2].reshape(-1, 3), axis=0)) == 1
    assert (found[0, 0, 0] != 255).any()


def test_ids_in_tf_data_are_those_of_text_encode():
    vocabulary = text.vocabulary()
    random = np.random.default_rng(0)
    letters = list(
        "abc xyzABC'-.,!?\t\n\r\v\f\x00\x1b\x7f\x85\u2028\u2029\u200b\u200d\ufeff\u00ad ßÄÉñÅÇİIıŽǅªﬁﬃÅ½①②™℃Ωжйё"
        "中文字日本語カﾅガ한국어عربيहिन्दीไทย👩🏽‍🚒🇩🇪❤️[START]##s$€£^`~|<>{}《》«»—…·“”‘’e\u0301"
    )
    texts = ["".join(random.choice(letters, random.integers(0, 24))) for _ in range(3000)]
    texts += ["x" * 120, "a" * 5000, "the " * 60, "", "  ", "Straße ẞ", "H\u0331"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = text.encode(texts, vocabulary, 24, start=True, end=True, allow_empty=True)
    found = tensors.encoder(vocabulary, start=True, end=True)(tf.constant([one.encode() for one in texts]), 24)
    np.testing.assert_array_equal(found, wanted)
    plain = tensors.normalize(tf.constant([one.encode() for one in texts])).numpy()
    assert [one.decode() for one in plain] == [text.normalize(one) for one in texts]


def test_broken_utf8_is_repaired_alike():
    random = np.random.default_rng(0)
    parts = [0x61, 0x20, 0xC3, 0xA9, 0xE4, 0xB8, 0xAD, 0xFF, 0xF0, 0x9F, 0x98, 0x80, 0xED, 0xA0, 0x80, 0xC0, 0x80]
    texts = [bytes(random.choice(parts, 8).tolist()) for _ in range(2000)]
    found = tensors.normalize(tf.constant(texts)).numpy()
    assert [one.decode() for one in found] == [text.normalize(one) for one in texts]
