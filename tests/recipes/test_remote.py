"""Training a recipe on a GPU machine: augmented pictures, an encoder's targets, packing, training, releasing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from paths import ROOT

from vtx_keras import data, zoo

WITHOUT_TENSORFLOW = "raise ImportError('there is no TensorFlow here')"


@pytest.fixture
def recipes(monkeypatch):
    """A module of the checkout's `recipes`, by name."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"recipes.{name}")


def drawings(count: int = 2, side: int = 24) -> np.ndarray:
    """A red square in the middle of a white, transparent ground."""
    pictures = np.full((count, side, side, 4), 255, "uint8")
    pictures[:, 8:16, 8:16] = [200, 30, 40, 0]
    return pictures


def test_augmented_pictures_differ_each_time_and_repeat_with_their_seed(recipes):
    augment = recipes("augment").augment
    first, again, other = (np.array(augment(drawings(), seed=seed)) for seed in (0, 0, 1))
    assert first.shape == (2, 24, 24, 3)
    assert first.min() >= 0
    assert first.max() <= 255
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first[0], first[1]), "the pictures of a batch are augmented alike"
    assert np.array(augment(drawings(), side=16, seed=0)).shape == (2, 16, 16, 3)


def test_a_picture_moved_by_a_pixel_is_moved_by_a_pixel(recipes):
    picture = keras.ops.reshape(keras.ops.arange(16.0), (1, 4, 4, 1)) + 1
    identity = {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0, "e": 1.0, "f": 0.0, "g": 0.0, "h": 0.0}

    def warped(**changes):
        transform = [keras.ops.full((1,), value) for value in {**identity, **changes}.values()]
        return np.array(recipes("augment").warp(picture, transform, (4, 4)))[0, ..., 0]

    whole = np.array(picture)[0, ..., 0]
    np.testing.assert_allclose(warped(), whole, atol=1e-4)
    np.testing.assert_allclose(warped(c=0.25)[:, :3], whole[:, 1:], atol=1e-4)
    np.testing.assert_allclose(warped(c=0.25)[:, 3], 0, atol=1e-4)  # outside is blank
    np.testing.assert_allclose(warped(a=-1.0), whole[:, ::-1], atol=1e-4)  # mirrored
    np.testing.assert_allclose(warped(f=0.125)[:3], (whole[:3] + whole[1:]) / 2, atol=1e-4)  # interpolated


def test_pictures_are_augmented_in_training_alone(recipes):
    lookup = recipes("augment").Pictures(drawings(3), 24, colour=np.ones(3, "float32"))
    numbers = np.array([2, 0], "int32")
    plain = np.array(lookup(numbers))
    np.testing.assert_array_equal(plain, drawings()[..., :3])
    first, second = (np.array(lookup(numbers, training=True)) for _ in range(2))
    assert not np.allclose(first, plain)
    assert not np.allclose(first, second)
    without_colour = recipes("augment").Pictures(drawings(3), 12)
    assert np.array(without_colour(numbers, training=True)).shape == (2, 12, 12, 3)


def test_an_encoders_targets(recipes):
    encoder = recipes("encoder")
    rows = [
        {"name": "woman pilot: dark skin tone", "keywords": ["fly", "plane"]},
        {"name": "woman pilot: light skin tone", "keywords": ["fly"]},
        {"name": "fly", "keywords": []},
        {"name": "fly", "keywords": ["insect"]},
    ]
    targets = encoder.targets(rows)
    assert targets["names"].tolist() == [0, 1, 2, 2]
    assert targets["tone"].tolist() == [1 + encoder.TONES.index("dark"), 1 + encoder.TONES.index("light"), 0, 0]
    assert targets["people"].tolist() == [1 + encoder.PEOPLE.index("woman")] * 2 + [0, 0]
    np.testing.assert_allclose(targets["words"].sum(axis=1), 1)
    assert encoder.colour_strength(rows).tolist() == [1, 1, 3, 3], "colours of skin change little"


def test_stored_pictures_come_back(recipes, tmp_path):
    encoder = recipes("encoder")
    for exact, tolerance in ((True, 0), (False, 12)):
        encoder.store_pictures(tmp_path / "pictures.npz", list(drawings(3)), exact=exact, keys=["a", "b", "c"])
        with np.load(tmp_path / "pictures.npz") as packed:
            pictures = encoder.read_pictures(packed).astype(int)
            assert packed["keys"].tolist() == ["a", "b", "c"]
        assert np.abs(pictures - drawings(3)).mean() <= tolerance


def test_copies_are_the_picture_and_augmented_ones(recipes):
    import tensorflow as tf

    rows = data.Examples(data.load("sample", "validation").encoded.take(3).map(
        lambda row: {"image": tf.io.read_file(row["path"]), "caption": row["caption"]}
    ))  # fmt: skip
    copies = list(recipes("copies").with_copies(rows, (32, 32, 3), copies=3).as_numpy_iterator())
    assert [row["caption"] for row in copies[:3]] == [row["caption"] for row in copies[3:6]]
    pictures = [row["image"] for row in copies]
    assert {picture.shape for picture in pictures} == {(32, 32, 3)}
    assert not any(np.array_equal(pictures[0], other) for other in (pictures[3], pictures[6]))


OWN, PUBLISHED = "an encoder of its own, augmented pictures", "a published encoder, a prompt, pictures as they are"
CASES = {OWN: {"copies": 2, "gpu_epochs": 3}, PUBLISHED: {"epochs": 3}}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="packing needs TensorFlow")
@pytest.mark.parametrize("case", [OWN, pytest.param(PUBLISHED, marks=pytest.mark.slow)])
def test_a_recipe_is_packed_trained_without_tensorflow_and_released(case, recipes, monkeypatch, tmp_path):
    import tensorflow as tf

    remote, encoder, own = recipes("remote"), recipes("encoder"), case == OWN
    here = tmp_path / "zoo" / "gated_captioner" / "mine"
    here.mkdir(parents=True)

    def sample(split):
        rows = data.load("sample", split).encoded.take(24)
        prompt = {} if own else {"prompt": "it is"}
        return data.Examples(
            rows.map(lambda row: {"image": tf.io.read_file(row["path"]), "caption": row["caption"], **prompt})
        )

    def own_encoder():
        pixels = keras.Input((32, 32, 3))
        return keras.Model(pixels, keras.layers.Conv2D(8, 8, strides=8)(pixels), name="mine")

    side = 32 if own else 33
    release = recipes("release").Release(
        str(here / "recipe.py"), "", "", ("sample",), sample, {}, encoder=own_encoder if own else None, batch_size=8,
        options={"dim": 32, "depth": 1, "image_shape": (side, side, 3)}, **CASES[case],
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    file = None
    if not own:  # pictures that were packed for something else
        images = [row["image"] for row in sample("train").encoded.as_numpy_iterator()]
        pictures = [np.zeros((side, side, 4), "uint8")] * len(images)
        file = tmp_path / "pictures.npz"
        encoder.store_pictures(file, pictures[1:], keys=[encoder.key_of(image) for image in images[1:]])
        with pytest.raises(SystemExit, match="1 of 24 pictures are not in that file"):
            remote.pack(release, file)
        encoder.store_pictures(file, pictures, keys=[encoder.key_of(image) for image in images])
    remote.pack(release, file)
    packed = remote.FOLDER / release.run.name

    blocked = tmp_path / "blocked"
    for name in ("tensorflow", "tensorflow_text", "tensorflow_datasets"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text(WITHOUT_TENSORFLOW)
    paths = os.pathsep.join([str(blocked), str(ROOT)])
    command = [sys.executable, "-m", "recipes.remote", "train", str(packed)]
    run = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths, "KERAS_BACKEND": "jax"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    losses = [float(line.split("loss: ")[1]) for line in run.stdout.splitlines() if "loss: " in line]
    assert len(losses) == release.epochs_on_gpu == 3
    assert losses[-1] < losses[0]

    remote.take(release)
    after = zoo.build("gated_captioner", weights=here)
    training = json.loads((here / "results.json").read_text(encoding="utf-8"))["training"]
    assert (training["rows"], training["epochs"]) == (24, 3)
    if own:
        before = zoo.build("gated_captioner", weights=packed / remote.START)
        encoders = before.get_layer("image_encoder").get_weights(), after.get_layer("image_encoder").get_weights()
        assert all(map(np.array_equal, *encoders)), "the frozen encoder was trained"
        assert not all(map(np.array_equal, before.get_weights(), after.get_weights()))
    assert len(after.generate(np.zeros((2, side, side, 3)))) == 2
