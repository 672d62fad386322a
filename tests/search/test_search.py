"""An index of pictures: only what changed is read, nothing is lost, and what was asked for is found."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import toys
from PIL import Image

from vtx_keras import search, zoo

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


def by_colour() -> tuple[search.Towers, list[str]]:
    """Towers whose vectors are colours, by words or by the mean of a picture; and the names of what was looked at."""
    looked: list[str] = []

    def unit(rows):
        rows = np.asarray(rows, "float32").reshape(-1, 3)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def pictures(items):
        found, errors = [], {}
        for index, item in enumerate(items):
            looked.append(Path(item).name)
            try:
                with Image.open(item) as image:
                    found.append(np.asarray(image.convert("RGB"), "float32").mean(axis=(0, 1)))
            except OSError:
                errors[index] = "no picture"
        return unit(found), errors

    return search.Towers(pictures, lambda lines: unit([COLOURS[line] for line in lines]), "colours"), looked


@pytest.fixture
def home(tmp_path) -> Path:
    home = tmp_path / "photos"
    (home / "deep").mkdir(parents=True)
    draws = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        for number in range(3):
            shade = np.clip(np.array(colour) + draws.integers(-60, 60, 3), 0, 255).astype("uint8")
            folder = home / "deep" if number == 2 else home
            Image.new("RGB", (20, 20), tuple(map(int, shade))).save(folder / f"{name}{number}.png")
    (home / "bad.png").write_bytes(b"no picture")
    (home / "notes.txt").write_text("no picture, and not asked to be one")
    (home / ".hidden.png").write_bytes(b"hidden")
    return home


def names(hits) -> list[str]:
    """The names that were found, those that show nearly the same behind the best of them."""
    return [Path(path).name for hit in hits for path in (hit.path, *hit.alike)]


def test_words_and_pictures_are_found_best_first(home, tmp_path):
    towers, _ = by_colour()
    index = search.Index(tmp_path / "index", towers)
    assert index.update(home) == {"pictures": 9, "new": 10, "gone": 0, "unreadable": 1}
    for colour in COLOURS:
        hits = index.find(colour, count=3)
        assert {name[:-5] for name in names(hits)[:3]} == {colour}
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert names(index.find(home / "blue0.png", count=1))[0] == "blue0.png"
    like = names(index.find(like=home / "blue0.png", count=2))
    assert set(like[:2]) == {"blue1.png", "blue2.png"}
    assert "blue0.png" not in like
    assert names(index.find("red", like=home / "blue0.png", words=0.9, count=1))[0].startswith("red")
    with pytest.raises(ValueError, match="expected a text, a picture, or both"):
        index.find()
    with pytest.raises(ValueError, match="at least 1"):
        index.find("red", count=0)


def test_only_what_is_new_or_changed_is_read_again(home, tmp_path):
    towers, looked = by_colour()
    search.Index(tmp_path / "index", towers).update(home)
    assert len(looked) == 10
    looked.clear()
    index = search.Index(tmp_path / "index", towers)  # from disk
    assert index.update(home) == {"pictures": 9, "new": 0, "gone": 0, "unreadable": 1}
    os.rename(home / "red0.png", home / "deep" / "moved.png")
    os.utime(home / "red1.png", (1, 1))
    (home / "green0.png").unlink()
    shutil.copy(home / "blue0.png", home / "copy.png")
    assert looked == []
    counts = index.update(home)
    assert (counts["pictures"], counts["new"], counts["gone"], looked) == (9, 0, 2, [])
    Image.new("RGB", (20, 20), (9, 250, 9)).save(home / "red1.png")
    assert index.update(home)["new"] == 1
    assert looked == ["red1.png"]
    assert names(index.find("green", count=1))[0] == "red1.png"
    assert {*names(index.find(home / "blue0.png", count=1))} >= {"blue0.png", "copy.png"}


def test_folders_are_told_apart_and_an_index_is_not_a_picture(home, tmp_path):
    towers, _ = by_colour()
    index = search.Index(home / "index", towers)  # inside what it indexes
    index.update(home / "deep")
    assert len(index) == 3
    index.update(home)
    assert len(index) == 9
    shutil.rmtree(home / "deep")
    with pytest.raises(ValueError, match="is no folder"):
        index.update(home / "deep")
    assert index.update(home)["gone"] == 3
    empty = tmp_path / "empty"
    empty.mkdir()
    assert search.Index(tmp_path / "other", towers).update(empty)["pictures"] == 0
    assert search.Index(tmp_path / "other", towers).find("red") == []


def test_what_is_no_index_is_refused(home, tmp_path):
    towers, _ = by_colour()
    place = tmp_path / "index"
    search.Index(place, towers).update(home)
    with pytest.raises(ValueError, match="made with another model"):
        search.Index(place, towers._replace(name="others"))
    (place / search.ROWS).write_text('{"model": "colours", "rows": []}')
    with pytest.raises(ValueError, match="is a damaged index"):
        search.Index(place, towers)
    with pytest.raises(ValueError, match="holds something that is not an index"):
        search.Index(home, towers)
    with pytest.raises(TypeError, match="expected a retriever"):
        search.towers("retriever")


def test_a_stopped_update_keeps_what_was_read(home, tmp_path, monkeypatch):
    towers, looked = by_colour()
    monkeypatch.setattr(search, "AT_ONCE", 2)
    monkeypatch.setattr(search, "SAVED_EVERY", 4)
    index = search.Index(tmp_path / "index", towers)

    def stopped(items):
        if len(looked) >= 6:
            raise KeyboardInterrupt
        return towers.pictures(items)

    index.of = towers._replace(pictures=stopped)
    with pytest.raises(KeyboardInterrupt):
        index.update(home)
    looked.clear()
    again = search.Index(tmp_path / "index", towers)
    assert again.update(home)["pictures"] == 9
    assert len(looked) == 6  # four were saved


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")
def test_the_command_finds_the_same_by_keras_and_by_a_file(home, tmp_path, monkeypatch):
    monkeypatch.setenv("VTX_KERAS_CACHE", str(tmp_path / "cache"))
    zoo.save(toys.toy("retriever"), tmp_path / "mine")
    given = ["search", home, "a cat", "--model", tmp_path / "mine", "--count", 3]
    by_keras = toys.vtx(*given, "--json")
    assert by_keras.exit_code == 0, by_keras.stderr
    assert "9 pictures in" in by_keras.stderr
    assert "1 cannot be read" in by_keras.stderr
    rows = [json.loads(line) for line in by_keras.stdout.splitlines()]
    by_file = toys.vtx(*given, "--json", "--runtime", "litert")
    found = [json.loads(line) for line in by_file.stdout.splitlines()]
    assert "0 new" in by_file.stderr  # the index is the same model's
    assert [row["picture"] for row in found] == [row["picture"] for row in rows]
    np.testing.assert_allclose([row["score"] for row in found], [row["score"] for row in rows], atol=2e-3)
    like = toys.vtx(
        "search", home, "--like", home / "red0.png", "--model", tmp_path / "mine", "--out", tmp_path / "a.html"
    )
    assert like.exit_code == 0, like.stderr
    assert "Found" in (tmp_path / "a.html").read_text("utf-8")
    assert toys.vtx("search", home / "none", "a cat").exit_code == 2
    assert "expected a retriever" in toys.vtx("search", home, "a cat", "--model", "gated_vqa").stderr


@pytest.fixture
def crowd(tmp_path, monkeypatch):
    """An index of vectors alone, of which a graph is made; "17" finds what lies near the 17th."""
    monkeypatch.setattr(search, "MANY", 300)
    vectors = np.random.default_rng(0).standard_normal((900, 16)).astype("float32")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def pictures(items):
        return np.stack([vectors[int(Path(item).stem)] for item in items]), {}

    home = tmp_path / "crowd"
    home.mkdir()
    for number in range(600):
        (home / f"{number}.png").write_bytes(str(number).encode())
    towers = search.Towers(pictures, lambda lines: np.stack([vectors[int(line)] for line in lines]), "numbers")
    return home, tmp_path / "index", towers


def test_of_many_pictures_a_graph_finds_what_comparing_all_finds(crowd):
    pytest.importorskip("usearch")
    home, folder, towers = crowd
    index = search.Index(folder, towers)
    index.update(home)
    assert (folder / search.GRAPH).is_file()
    same = [index.find(str(number)) == index.find(str(number), exact=True) for number in range(0, 600, 20)]
    assert sum(same) >= 29
    made = (folder / search.GRAPH).stat().st_mtime_ns
    shutil.copy(home / "5.png", home / "copy of 5.png")  # content that is known: the same key
    (home / "7.png").unlink()
    (home / "8.png").rename(home / "moved 8.png")
    for number in range(600, 640):
        (home / f"{number}.png").write_bytes(str(number).encode())
    assert index.update(home) == {"pictures": 640, "new": 40, "gone": 2, "unreadable": 0}
    assert (folder / search.GRAPH).stat().st_mtime_ns > made
    for again in (index, search.Index(folder, towers)):  # also as it lies on disk
        hit = again.find("5")[0]
        assert {Path(path).name for path in (hit.path, *hit.alike)} == {"5.png", "copy of 5.png"}
        assert Path(again.find("8")[0].path).name == "moved 8.png"
        assert Path(again.find("620")[0].path).name == "620.png"
        assert "7.png" not in {Path(hit.path).name for hit in again.find("7", count=50)}
        assert again.find("3") == again.find("3", exact=True)


def test_a_graph_of_another_state_is_not_asked(crowd):
    pytest.importorskip("usearch")
    home, folder, towers = crowd
    index = search.Index(folder, towers)
    index.update(home)
    old = (folder / search.GRAPH).read_bytes()
    for number in range(600, 640):
        (home / f"{number}.png").write_bytes(str(number).encode())
    index.update(home)
    (folder / search.GRAPH).write_bytes(old)  # as an update leaves it that was cut off
    assert Path(search.Index(folder, towers).find("620")[0].path).name == "620.png"


def test_pictures_that_show_nearly_the_same_are_grouped(home, tmp_path):
    towers, _ = by_colour()
    index = search.Index(tmp_path / "index", towers)
    index.update(home)
    groups = [{Path(path).name for path in group} for group in index.duplicates(0.8)]
    assert groups == [{f"{colour}{number}.png" for number in range(3)} for colour in sorted(COLOURS)]
    assert index.duplicates(1.01) == []
    zoo.save(toys.toy("retriever"), tmp_path / "mine")
    shutil.copy(home / "red0.png", home / "deep" / "the same.png")
    given = ["search", home, "--duplicates", "--model", tmp_path / "mine"]
    run = toys.vtx(*given, "--out", tmp_path / "doubles.html")
    assert run.exit_code == 0, run.stderr
    page = (tmp_path / "doubles.html").read_text("utf-8")
    assert "the same.png" in page
    assert "nearly the same" in page
    assert "leave out the words" in toys.vtx(*given, "a cat").stderr
