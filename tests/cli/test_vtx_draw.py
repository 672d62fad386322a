"""vtx draw: files of one picture, sheets, clips, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from toys import eager, toy, vtx

from vtx_keras import zoo


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    return zoo.save(toy("cross_attn_generator"), tmp_path_factory.mktemp("still") / "mine")


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    return zoo.save(toy("cross_attn_video_generator"), tmp_path_factory.mktemp("moving") / "mine")


def drawn(tmp_path, name: str, *words: object) -> Image.Image:
    out = tmp_path / name
    done = vtx("draw", *words, "--out", out)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out}\n"
    return Image.open(out)


def test_one_picture_is_the_one_of_draw_and_several_are_a_sheet(still, tmp_path):
    alone = drawn(tmp_path, "one.png", still, "w1 w2", "--seed", 3)
    expected = eager(zoo.load(still)).draw("w1 w2", seed=3)[0]
    assert np.abs(np.array(alone).astype(int) - expected).max() <= 1
    sheet = drawn(tmp_path, "sheet.png", still, "w1", "w2 w3", "--count", 3)
    assert sheet.size == (8 + 3 * 136, 2 * (128 + 18 + 8) + 8)
    tile = np.array(sheet)[8 + 18 + 4 : 8 + 18 + 128 : 8, 8 + 4 : 8 + 128 : 8]
    assert np.abs(tile.astype(int) - zoo.load(still).draw("w1")[0]).max() <= 1
    between = drawn(tmp_path, "between.webp", still, "w1", "w2", "--between", 4)
    assert between.size[0] == 8 + 4 * 136
    maps = drawn(tmp_path, "words.png", still, "w1 w2", "--attention")
    assert maps.size[0] > 300


def test_clips_move_or_lie_side_by_side(moving, tmp_path):
    for name, frames, size in (("a.gif", 2, (16, 16)), ("a.webp", 2, (16, 16)), ("a.png", 1, (32, 16))):
        clip = drawn(tmp_path, name, moving, "w1")
        assert (getattr(clip, "n_frames", 1), clip.size) == (frames, size), name
    assert drawn(tmp_path, "sheet.gif", moving, "w1", "w2", "--count", 2).n_frames == 2
    assert drawn(tmp_path, "sheet.png", moving, "w1", "--count", 2).size == (8 + 2 * 136, 2 * 154 + 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("w1", "--out", "a.txt"), "expected a name that ends in"),
        (("w1", "--out", "a.gif"), "does not move: expected a name"),
        (("w1 zebra",), "does not know: zebra"),
        (("w1", "--side", "5"), "draws 16, 8 px"),
        (("w1", "w2", "--attention"), "one picture of one text"),
        (("w1", "--between", "4"), "expected two, and got 1"),
        (("w1", "--seed", "-1"), "seed=-1: expected a whole number"),
    ],
)
def test_what_cannot_be_drawn_is_an_error_in_a_line(still, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = vtx("draw", still, *words)
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_model_that_draws_nothing_says_so(tmp_path):
    done = vtx("draw", zoo.save(toy("gated_vqa"), tmp_path / "mine"), "w1")
    assert (done.exit_code, "draws nothing: expected a generator" in done.stderr) == (2, True), done.output
