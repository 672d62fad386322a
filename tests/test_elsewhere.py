"""What recipes do on the way to a GPU: changed pictures, what an encoder is taught, packing, training, taking home."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from vtx_keras import data, zoo

ROOT = Path(__file__).parents[1]
WITHOUT_TENSORFLOW = "raise ImportError('there is no TensorFlow here')"


@pytest.fixture
def room(monkeypatch):
    """A module of the folder of recipes, as the checkout has it."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"zoo.{name}")


def drawn(count: int = 2, side: int = 24) -> np.ndarray:
    """A red square in the middle of a white, clear ground."""
    pictures = np.full((count, side, side, 4), 255, "uint8")
    pictures[:, 8:16, 8:16] = [200, 30, 40, 0]
    return pictures


def test_changed_pictures_differ_each_time_and_come_again_with_their_seed(room):
    changed = room("changes").changed
    first, again, other = (np.array(changed(drawn(), seed=seed)) for seed in (0, 0, 1))
    assert first.shape == (2, 24, 24, 3)
    assert first.min() >= 0
    assert first.max() <= 255
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first[0], first[1]), "the pictures of a batch are changed alike"
    assert np.array(changed(drawn(), side=16, seed=0)).shape == (2, 16, 16, 3)


def test_a_picture_moved_by_a_pixel_is_moved_by_a_pixel(room):
    picture = keras.ops.reshape(keras.ops.arange(16.0), (1, 4, 4, 1)) + 1
    same = {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0, "e": 1.0, "f": 0.0, "g": 0.0, "h": 0.0}

    def seen(**how):
        transform = [keras.ops.full((1,), value) for value in {**same, **how}.values()]
        return np.array(room("changes").warped(picture, transform, (4, 4)))[0, ..., 0]

    whole = np.array(picture)[0, ..., 0]
    np.testing.assert_allclose(seen(), whole, atol=1e-4)
    np.testing.assert_allclose(seen(c=0.25)[:, :3], whole[:, 1:], atol=1e-4)
    np.testing.assert_allclose(seen(c=0.25)[:, 3], 0, atol=1e-4)  # blank comes in
    np.testing.assert_allclose(seen(a=-1.0), whole[:, ::-1], atol=1e-4)  # a mirror
    np.testing.assert_allclose(seen(f=0.125)[:3], (whole[:3] + whole[1:]) / 2, atol=1e-4)  # mixed of two


def test_shown_pictures_are_changed_in_training_alone(room):
    shown = room("changes").Shown(drawn(3), 24, paint=np.ones(3, "float32"))
    numbers = np.array([2, 0], "int32")
    plain = np.array(shown(numbers))
    np.testing.assert_array_equal(plain, drawn()[..., :3])
    first, second = (np.array(shown(numbers, training=True)) for _ in range(2))
    assert not np.allclose(first, plain)
    assert not np.allclose(first, second)
    unpainted = room("changes").Shown(drawn(3), 12)
    assert np.array(unpainted(numbers, training=True)).shape == (2, 12, 12, 3)


def test_what_a_picture_teaches_an_encoder(room):
    eyes = room("eyes")
    rows = [
        {"name": "woman pilot: dark skin tone", "keywords": ["fly", "plane"]},
        {"name": "woman pilot: light skin tone", "keywords": ["fly"]},
        {"name": "fly", "keywords": []},
        {"name": "fly", "keywords": ["insect"]},
    ]
    found = eyes.targets(rows)
    assert found["names"].tolist() == [0, 1, 2, 2]
    assert found["tone"].tolist() == [1 + eyes.TONES.index("dark"), 1 + eyes.TONES.index("light"), 0, 0]
    assert found["people"].tolist() == [1 + eyes.PEOPLE.index("woman")] * 2 + [0, 0]
    np.testing.assert_allclose(found["words"].sum(axis=1), 1)
    assert eyes.paint(rows).tolist() == [1, 1, 3, 3], "colours of skin change little"


def test_stored_pictures_come_back(room, tmp_path):
    eyes = room("eyes")
    for exact, off in ((True, 0), (False, 12)):
        eyes.store(tmp_path / "pictures.npz", list(drawn(3)), exact=exact, keys=["a", "b", "c"])
        with np.load(tmp_path / "pictures.npz") as kept:
            back = eyes.pictures_of(kept).astype(int)
            assert kept["keys"].tolist() == ["a", "b", "c"]
        assert np.abs(back - drawn(3)).mean() <= off


def test_copies_are_the_picture_and_changed_ones(room):
    import tensorflow as tf

    from vtx_keras.data._load import adapted

    rows = adapted(data.load("sample", "validation").encoded.take(3).map(
        lambda row: {"image": tf.io.read_file(row["path"]), "caption": row["caption"]}
    ))  # fmt: skip
    found = list(room("copies").with_copies(rows, (32, 32, 3), copies=3).as_numpy_iterator())
    assert [row["caption"] for row in found[:3]] == [row["caption"] for row in found[3:6]]
    pictures = [row["image"] for row in found]
    assert {picture.shape for picture in pictures} == {(32, 32, 3)}
    assert not any(np.array_equal(pictures[0], other) for other in (pictures[3], pictures[6]))


OWN, PUBLISHED = "an eye of its own, changed pictures", "a published eye, a prompt, pictures as they are"
WAYS = {OWN: {"copies": 2, "far_epochs": 3}, PUBLISHED: {"epochs": 3}}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="packing needs TensorFlow")
@pytest.mark.parametrize("way", [OWN, pytest.param(PUBLISHED, marks=pytest.mark.slow)])
def test_a_recipe_is_packed_trained_where_there_is_no_tensorflow_and_taken_home(way, room, monkeypatch, tmp_path):
    import tensorflow as tf

    from vtx_keras.data._load import adapted

    making, far, eyes = room("making"), room("far"), room("eyes")
    here = tmp_path / "zoo" / "gated_captioner" / "mine"
    here.mkdir(parents=True)
    own = way == OWN

    def sample(split):
        rows = data.load("sample", split).encoded.take(24)
        prompt = {} if own else {"prompt": "it is"}
        return adapted(
            rows.map(lambda row: {"image": tf.io.read_file(row["path"]), "caption": row["caption"], **prompt})
        )

    def eye():
        pixels = keras.Input((32, 32, 3))
        return keras.Model(pixels, keras.layers.Conv2D(8, 8, strides=8)(pixels), name="eye")

    side = 32 if own else 33
    release = making.Release(
        str(here / "recipe.py"), "", "", ("sample",), sample, {}, eye=eye if own else None, batch_size=8,
        options={"dim": 32, "depth": 1, "image_shape": (side, side, 3)}, **WAYS[way],
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    file = None
    if not own:  # pictures that were packed for something else
        pictures = [row["image"] for row in sample("train").encoded.as_numpy_iterator()]
        shown = [np.zeros((side, side, 4), "uint8")] * len(pictures)
        file = tmp_path / "pictures.npz"
        eyes.store(file, shown[1:], keys=[eyes.key(picture) for picture in pictures[1:]])
        with pytest.raises(SystemExit, match="1 of 24 pictures are not in that file"):
            far.pack(release, file)
        eyes.store(file, shown, keys=[eyes.key(picture) for picture in pictures])
    far.pack(release, file)
    packed = far.FOLDER / release.run.name

    blocked = tmp_path / "blocked"
    for name in ("tensorflow", "tensorflow_text", "tensorflow_datasets"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text(WITHOUT_TENSORFLOW)
    paths = os.pathsep.join([str(blocked), str(ROOT)])
    command = [sys.executable, "-m", "zoo.far", "train", str(packed)]
    told = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths, "KERAS_BACKEND": "jax"}, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr[-2000:]
    losses = [float(line.split("loss: ")[1]) for line in told.stdout.splitlines() if "loss: " in line]
    assert len(losses) == release.epochs_there == 3
    assert losses[-1] < losses[0]

    far.take(release)
    after = zoo.build("gated_captioner", weights=here)
    trained = json.loads((here / "results.json").read_text(encoding="utf-8"))["training"]
    assert (trained["rows"], trained["epochs"]) == (24, 3)
    if own:
        before = zoo.build("gated_captioner", weights=packed / far.START)
        kept = before.get_layer("image_encoder").get_weights(), after.get_layer("image_encoder").get_weights()
        assert all(map(np.array_equal, *kept)), "the frozen encoder was trained"
        same = map(np.array_equal, before.get_weights(), after.get_weights())
        assert not all(same)
    assert len(after.generate(np.zeros((2, side, side, 3)))) == 2
