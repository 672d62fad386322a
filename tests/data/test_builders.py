"""The data sets as tfds makes them: from small archives here, and (-m network) from the published ones."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import archives as small
import numpy as np
import pytest
import tensorflow_datasets as tfds
from paths import ROOT

from vtx_keras import _files as archives
from vtx_keras import data
from vtx_keras.data import sets
from vtx_keras.data.sets import _builder, _emoji
from vtx_keras.data.sets import concepts as emoji

SHARED = Path(os.environ.get("VTX_KERAS_TEST_DATA", "no such folder"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    small.write(sets.archive_dir(tmp_path), monkeypatch)
    return tmp_path


def examples(name: str, split: str, folder: Path) -> list[dict]:
    return list(data.load(name, split, folder=folder).as_numpy_iterator())


def test_emoji_holds_every_picture_with_its_name_in_its_split(folder):
    train = examples("emoji", "train", folder)
    told = _builder.counts("emoji", folder)
    whole = {split: found["all"] for split, found in told.items()}
    assert whole["train"] == len(train) == 3 * sum(emoji.split_of(name) == "train" for _, name, _ in small.EMOJI)
    assert told["vendor"]["fluent"] == whole["vendor"] == len(train) // 3
    assert {row["vendor"] for row in train} == {b"noto", b"twemoji", b"openmoji"}
    assert {row["vendor"] for row in examples("emoji", "test", folder)} == {b"noto", b"twemoji", b"openmoji", b"fluent"}
    row = next(row for row in train if row["id"] == b"noto-1f353")
    assert (row["caption"], row["group"], row["name"]) == (b"strawberry", b"Food & Drink", b"strawberry")
    assert row["keywords"].tolist() == [b"thing", b"strawberry"]
    white = np.array(small.picture(0))
    np.testing.assert_array_equal(row["alpha"], white[..., 3:])
    assert row["image"].shape == (64, 64, 3)
    openmoji = next(row for row in train if row["vendor"] == b"openmoji")
    assert openmoji["image"].shape == (128, 128, 3)
    assert tuple(openmoji["image"][0, 0]) == (255, 255, 255)


def test_emoji_more_finds_emoji_by_name_and_omits_skin_tones_that_artists_do_not_draw(folder):
    data.load("emoji_more", "train", folder=folder)
    rows = []
    for split in _builder.counts("emoji_more", folder):
        rows += examples("emoji_more", split, folder)
        assert all(emoji.split_of(row["name"].decode()) == split for row in examples("emoji_more", split, folder))
    by_artist = defaultdict(set)
    for row in rows:
        by_artist[row["vendor"].decode()].add(row["name"].decode())
    everything = {name for _, name, _ in small.EMOJI}
    assert set(by_artist) == set(_emoji.ICONS)
    for artist, names in by_artist.items():
        assert names == everything - ({small.EMOJI[-2][1]} if artist in _emoji.ONE_TONE else set())
    red = next(row for row in rows if row["name"] == b"snail")
    assert tuple(red["image"][64, 64]) == (255, 0, 0)
    assert tuple(red["image"][0, 0]) == (255, 255, 255)


def test_where_filters_before_columns_rename(folder):
    columns = {"text": "keywords", "label": "group"}
    ds = data.load("emoji", "train", columns=columns, where=lambda row: row["vendor"] == "noto", folder=folder)
    rows = list(ds.as_numpy_iterator())
    assert 3 * len(rows) == len(examples("emoji", "train", folder))
    assert {"text", "label"} <= set(rows[0])
    assert all(row["id"].startswith(b"noto") and row["label"].decode() in _emoji.GROUPS for row in rows)


def test_emoji_has_the_language_of_its_config(folder):
    assert all(row["caption"] == b"de " + row["name"] for row in examples("emoji/de", "train", folder))
    assert {config.name for config in _emoji.Emoji.BUILDER_CONFIGS} >= {
        "en",
        "de",
        "fr",
        "es",
        "zh",
        "ja",
        "ar",
        "hi",
    }


def test_emoji_video_holds_animated_emoji(folder):
    data.load("emoji_video", "train", folder=folder)
    rows = [row for split in _builder.counts("emoji_video", folder) for row in examples("emoji_video", split, folder)]
    assert {row["name"].decode() for row in rows} == {name for _, name, _ in small.EMOJI[::2]}
    assert all(row["image"].shape == (16, 96, 96, 3) for row in rows)
    assert all((row["image"] != row["image"][0]).any() for row in rows)
    for split in _builder.counts("emoji_video", folder):
        assert all(emoji.split_of(row["name"].decode()) == split for row in examples("emoji_video", split, folder))


def test_easy_vqa_and_its_validation_by_image(folder):
    rows = examples("easy_vqa", "test", folder)
    assert [(row["question"].decode(), row["answer"].decode()) for row in sorted(rows, key=lambda row: row["id"])] == [
        (question, answer) for question, answer, _ in small.QUESTIONS
    ]


def test_a_word_that_shares_its_drawing_with_a_held_out_word_is_left_out(folder):
    found = {
        row["caption"].decode(): (split, row)
        for split in ("train", "validation", "test")
        for row in examples("word_cards", split, folder)
    }
    assert (emoji.split_of("teach"), emoji.split_of("teacher")) == ("test", "train")
    assert set(found) == {*(word.replace("_", " ") for word in small.CARDS), "teach"}
    assert b"CC-BY-SA" in found["teach"][1]["attribution"]
    assert found["lizard"][1]["group"] == b"animals"


def test_a_wrong_archive_is_refused_by_name(folder):
    path = sets.archive_dir(folder) / sets.EASY_VQA.file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(archives.BadArchive, match=r"easy_vqa.*is not easy-vqa 1.0b1 as pinned.*Remove it"):
        data.load("easy_vqa", folder=folder)


def test_vqa_rad_says_where_to_get_what_is_missing(tmp_path):
    with pytest.raises(
        archives.BadArchive, match=r"has no trainset.json, testset.json, images: get the official files"
    ):
        data.load("vqa_rad", folder=tmp_path)


def test_vqa_rad_refuses_files_that_are_not_the_release(tmp_path):
    folder = sets.archive_dir(tmp_path) / "vqa_rad"
    (folder / "images").mkdir(parents=True)
    for name in ("trainset.json", "testset.json"):
        (folder / name).write_text("[]")
    with pytest.raises(archives.BadArchive, match="not as released"):
        data.load("vqa_rad", folder=tmp_path)


def test_a_killed_build_leaves_nothing_that_is_read(folder, tmp_path):
    script = (
        "import sys, time\n"
        "sys.path.insert(0, 'tests/support')\n"
        "from pathlib import Path\n"
        "import archives as small, pytest\n"
        "from vtx_keras import media\n"
        "from vtx_keras.data import load\n"
        "patch = pytest.MonkeyPatch()\n"
        "small.write(Path(sys.argv[1]) / 'again', patch)\n"  # the same archives, so the same pins
        "read = media.read\n"
        "def slow(picture):\n"
        "    if Path(sys.argv[1], 'kill').exists():\n"
        "        print('reading', file=sys.__stdout__, flush=True); time.sleep(60)\n"  # not where builds tell
        "    return read(picture)\n"
        "media.read = slow\n"
        "print(len(load('word_cards', 'train', folder=sys.argv[1])), flush=True)\n"
    )
    (tmp_path / "kill").touch()
    command = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert any(line == "reading\n" for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("word_cards/1.0.0/*"))
    (tmp_path / "kill").unlink()
    data.load("word_cards", folder=tmp_path)
    assert sum(found["all"] for found in _builder.counts("word_cards", tmp_path).values()) == len(small.CARDS) + 1


@pytest.mark.network
@pytest.mark.parametrize("name", ["emoji", "emoji_more", "emoji_video", "easy_vqa", "word_cards"])
def test_the_published_archives_make_the_sets(name):
    data.load(name)
    told = {split: found["all"] for split, found in _builder.counts(name).items()}
    assert told == PUBLISHED[name]


PUBLISHED = {
    "emoji": {"train": 7083, "validation": 729, "test": 3298, "vendor": 2063, "composition": 195, "flags": 1059},
    "emoji_video": {"train": 1423, "validation": 141, "test": 476, "composition": 64, "flags": 5},
    "easy_vqa": {"train": 34611, "validation": 3964, "test": 9673},
    "emoji_more": {"train": 3398, "validation": 490, "test": 1492, "composition": 52, "flags": 9},
    "word_cards": {"train": 395, "validation": 37, "test": 150},
}


@pytest.mark.network
def test_no_test_concept_or_picture_is_in_train():
    concepts, pictures = defaultdict(set), defaultdict(set)
    for name in ("emoji", "emoji_more", "word_cards"):
        for split in ("train", "validation", "test"):
            for row in data.load(name, split).as_numpy_iterator():
                concepts[split].add(row["concept"])
                pictures[split].add(hashlib.sha256(row["image"].tobytes()).digest())
    stills = set(concepts["train"])
    for split in ("validation", "test"):
        assert not concepts["train"] & concepts[split]
        assert not pictures["train"] & pictures[split]
        moving = {row["concept"] for row in data.load("emoji_video", split).as_numpy_iterator()}
        assert moving
        assert not moving & stills


@pytest.mark.network
def test_skin_in_fluent_pictures_darkens_with_its_name():
    tones, shades = ("medium-light", "medium", "medium-dark", "dark"), defaultdict(dict)  # light skin has black hair
    for split in ("vendor", "test"):
        for row in data.load("emoji", split).as_numpy_iterator():
            name, _, tone = row["name"].decode().removesuffix(" skin tone").partition(": ")
            if row["vendor"] == b"fluent" and tone in tones:
                shades[name][tone] = row["image"].mean(axis=-1)[row["alpha"][..., 0] > 200].mean()
    told = [[each[tone] for tone in tones if tone in each] for each in shades.values()]
    assert len(told) > 200
    assert sum(each != sorted(each, reverse=True) for each in told) <= 1  # mountain bikers are drawn in other clothes


@pytest.mark.network
def test_train_holds_no_fluent_picture_and_no_held_out_triple():
    rows = list(data.load("emoji", "train").as_numpy_iterator())
    assert Counter(row["vendor"] for row in rows).keys() == {b"noto", b"twemoji", b"openmoji"}
    assert not any(emoji.held_out(row["name"].decode()) for row in rows)
    assert {emoji.held_out(row["name"].decode()) for row in data.load("emoji", "composition").as_numpy_iterator()} == {
        True
    }


@pytest.mark.network
@pytest.mark.skipif(not SHARED.is_dir(), reason="VTX_KERAS_TEST_DATA names no folder that holds vqa_rad/")
@pytest.mark.parametrize("config", ["official", "disjoint"])
def test_vqa_rad_splits(config, tmp_path):
    sets.archive_dir(tmp_path).mkdir(parents=True)
    (sets.archive_dir(tmp_path) / "vqa_rad").symlink_to(SHARED / "vqa_rad")
    rows = {split: examples(f"vqa_rad/{config}", split, tmp_path) for split in ("train", "validation", "test")}
    images = {split: {row["image_id"] for row in found} for split, found in rows.items()}
    assert not images["train"] & images["validation"]
    assert sum(map(len, rows.values())) == 3515
    assert {row["answer_type"] for row in rows["test"]} == {b"open", b"closed"}
    if config == "official":
        assert (len(rows["train"]) + len(rows["validation"]), len(rows["test"])) == (3064, 451)
        assert Counter(row["answer_type"] for row in rows["test"]) == {b"closed": 272, b"open": 179}
        assert images["test"] <= images["train"] | images["validation"]
    else:
        assert not images["test"] & (images["train"] | images["validation"])


def test_tfds_itself_finds_the_builders():
    found = tfds.list_builders(with_community_datasets=False)  # whose list tfds keeps in the home, were it read-only
    assert {"emoji", "emoji_more", "emoji_video", "easy_vqa", "word_cards", "vqa_rad", "flickr8k", "flowers102"} <= set(
        found
    )
