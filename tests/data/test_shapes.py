"""The set `shapes`: the rule that describes a picture, and the builder on a small archive and the published one."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vtx_keras import data
from vtx_keras._files import file_hash
from vtx_keras.data import sets
from vtx_keras.data.sets import _shapes, concepts

BOXES = {"small": (30, 20, 39, 29), "large": (5, 25, 34, 54)}
POINTS = {
    "triangle": [(0, 1), (0.5, 0), (1, 1)],
    "down": [(0, 0), (0.5, 1), (1, 0)],
    "line": [(0, 0), (0, 0.1), (1, 1)],
}
QUESTIONS = [
    ["what shape is present?", "triangle", 0], ["is there not a red shape?", "no", 0],
    ["is there a circle?", "no", 1], ["what color is the rectangle?", "blue", 2],
]  # fmt: skip
DRAWN = {0: ("small", "red", "triangle"), 1: ("large", "gray", "rectangle"), 2: ("large", "blue", "rectangle")}


def drawn(size: str, colour: str, shape: str) -> np.ndarray:
    """Draw one shape with soft edges."""
    picture = Image.new("RGB", (256, 256), (236, 243, 230))
    left, top, right, bottom = (4 * edge for edge in BOXES[size])
    pen, fill = ImageDraw.Draw(picture), _shapes.COLOURS[colour]
    if shape in POINTS:
        corners = [(left + x * (right - left), top + y * (bottom - top)) for x, y in POINTS[shape]]
        pen.polygon(corners, fill=fill)
    else:
        (pen.ellipse if shape == "circle" else pen.rectangle)((left, top, right, bottom), fill=fill)
    return np.asarray(picture.resize((64, 64), Image.Resampling.BOX))


@pytest.mark.parametrize("size", _shapes.SIZES)
@pytest.mark.parametrize("shape", _shapes.SHAPES)
def test_a_drawing_is_described(size, shape):
    for colour in _shapes.COLOURS:
        picture = drawn(size, colour, shape)
        assert _shapes.described(picture) == (size, colour, shape)
        noise = np.random.default_rng(0).normal(0, 12, picture.shape)
        assert _shapes.described(np.clip(picture + noise, 0, 255)) == (size, colour, shape)


def test_a_frame_in_the_margin_does_not_count_and_a_shape_that_reaches_into_it_does():
    picture = drawn("large", "teal", "circle").copy()
    picture[0], picture[:, -1] = 90, 30
    assert _shapes.described(picture) == ("large", "teal", "circle")
    corner = np.full((64, 64, 3), 240)
    corner[:23, 42:] = 0  # 21 pixels without the margin
    assert _shapes.described(corner) == ("large", "black", "rectangle")


def test_what_is_not_one_known_shape_is_not_described():
    two = np.concatenate([drawn("small", "red", "circle")[:, 8:40], drawn("small", "red", "circle")[:, 16:48]], axis=1)
    purple = np.where(drawn("large", "black", "circle") < 100, [150, 0, 200], 240)
    pied = drawn("large", "red", "circle").copy()
    pied[40:] = drawn("large", "blue", "circle")[40:]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    for picture in (two, purple, pied, noise, drawn("large", "red", "down"), drawn("large", "red", "line")):
        assert _shapes.described(picture) is None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make a folder with a small archive in the layout of the published one."""
    path = sets.archive_dir(tmp_path) / sets.EASY_VQA.file
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as wheel:
        for part in ("train", "test"):
            wheel.writestr(f"easy_vqa/data/{part}/questions.json", json.dumps(QUESTIONS))
            for number, labels in DRAWN.items():
                file = io.BytesIO()
                Image.fromarray(drawn(*labels)).save(file, "PNG")
                wheel.writestr(f"easy_vqa/data/{part}/images/{number}.png", file.getvalue())
    monkeypatch.setattr(sets, "EASY_VQA", sets.EASY_VQA._replace(sha256=file_hash(path)))
    return tmp_path


def test_each_picture_has_its_sentences_and_the_splits_of_easy_vqa(folder):
    for row in data.load("shapes", "test", folder=folder).as_numpy_iterator():
        number = int(row["id"].decode().removeprefix("test-"))
        labels = dict(zip(("size", "colour", "shape"), DRAWN[number], strict=True))
        assert {name: row[name].decode() for name in labels} == labels
        assert [one.decode() for one in row["captions"]] == _shapes.sentences(**labels)
        np.testing.assert_array_equal(row["image"], drawn(*DRAWN[number]))
    train = {row["id"].decode() for row in data.load("shapes", "train", folder=folder).as_numpy_iterator()}
    assert train == {f"train-{number}" for number in DRAWN if concepts.fraction(f"train-{number}") >= 0.1}


def test_sentences_are_short_and_the_first_says_all():
    first, *others = _shapes.sentences("small", "red", "triangle")
    assert first == "a small red triangle"
    assert len(set(others)) == len(others) == 8
    assert all(len(one.split()) <= 9 for one in others)


def test_the_answers_that_deny_tell_too():
    assert _shapes.told(QUESTIONS) == {0: ("red", "triangle"), 1: ("", ""), 2: ("blue", "rectangle")}


@pytest.mark.network
def test_the_published_pictures_are_described_as_the_official_answers_tell():
    counts = Counter()
    for split in ("train", "validation", "test"):
        for row in data.load("shapes", split).as_numpy_iterator():
            labels = tuple(row[name].decode() for name in ("size", "colour", "shape"))
            counts[split] += 1
            counts[labels[0]] += 1
            assert _shapes.described(row["image"]) == labels
    assert (counts["train"] + counts["validation"], counts["test"]) == (4000, 1000)
    assert 2000 < counts["large"] < 3000
