"""Clips, and batches of images and clips with their errors."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from images import BLUE, GREEN, RED, animated, encoded, plain
from PIL import Image

from vtx_keras.inputs import media


def shades(count, shape=(4, 6)):
    return np.arange(1, count + 1, dtype="uint8")[:, None, None, None] * np.ones((*shape, 3), "uint8")


@pytest.mark.parametrize(
    ("total", "frames", "picked"),
    [(8, 4, [2, 4, 6, 8]), (4, 4, [1, 2, 3, 4]), (5, 3, [1, 3, 5]), (2, 4, [1, 1, 2, 2]), (3, 1, [2]), (1, 3, [1] * 3)],
)
def test_frames_are_picked_evenly_and_a_shorter_clip_repeats(total, frames, picked):
    assert [frame[0, 0, 0] for frame in media.read_clip(shades(total), frames)] == picked
    assert [frame[0, 0, 0] for frame in media.read_clip(list(shades(total)), frames)] == picked


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
@pytest.mark.parametrize("kind", ["bytes", "path", "PIL"])
def test_an_animation_is_a_clip(tmp_path, format, kind):
    clip = animated(format, **({"lossless": True} if format == "WEBP" else {}))
    if kind == "path":
        (tmp_path / "clip").write_bytes(clip)
        clip = tmp_path / "clip"
    clip = Image.open(io.BytesIO(clip)) if kind == "PIL" else clip
    found = [tuple(frame[2, 3]) for frame in media.read_clip(clip, 6)]
    assert found == [RED, RED, GREEN, GREEN, BLUE, BLUE]


def test_the_default_image_of_an_animated_png_is_no_frame():
    clip = animated("PNG", (RED, GREEN, BLUE), default_image=True)
    assert [tuple(frame[0, 0]) for frame in media.read_clip(clip, 2)] == [GREEN, BLUE]


def test_pages_of_a_tiff_are_no_clip():
    clip = animated("TIFF")
    assert [tuple(frame[0, 0]) for frame in media.read_clip(clip, 2)] == [RED, RED]


def test_a_folder_is_a_clip_in_the_order_of_names(tmp_path):
    for name, colour in (("02.png", GREEN), ("10.PNG", BLUE), ("01.gif", RED)):
        plain(colour).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    assert [tuple(frame[0, 0]) for frame in media.read_clip(tmp_path, 3)] == [RED, GREEN, BLUE]
    assert media.prepare(str(tmp_path), (3, 4, 6, 3)).shape == (3, 4, 6, 3)


@pytest.mark.parametrize("picture", [plain(), encoded(plain()), np.full((4, 6, 3), RED)])
def test_a_single_image_is_a_clip_of_one_frame(picture):
    assert [tuple(frame[0, 0]) for frame in media.read_clip(picture, 3)] == [RED] * 3


def test_frames_of_a_clip_may_differ_in_kind_and_size():
    clip = media.prepare([plain(RED, (9, 9)), encoded(plain(GREEN)), np.full((4, 6, 3), BLUE)], (3, 8, 8, 3), "crop")
    assert clip.dtype == np.float32
    assert [tuple(frame[4, 4]) for frame in clip] == [RED, GREEN, BLUE]


BAD_CLIPS = {
    "empty list": ([], "without pictures"),
    "array of no frames": (np.zeros((0, 4, 6, 3)), "without pictures"),
    "a bad frame": ([plain(), b"<html>"], "HTML or XML"),
    "an animation cut off": (animated("GIF", [(i, 0, 0) for i in range(9)])[:-60], "cut off or damaged"),
    "a missing folder": ("no/such/folder", "no such file"),
    "rank 5": (np.zeros((1, 2, 4, 6, 3)), r"\(2, 4, 6, 3\)"),
}


@pytest.mark.parametrize("name", BAD_CLIPS)
def test_bad_clips_are_refused(name):
    clip, words = BAD_CLIPS[name]
    with pytest.raises(media.BadPicture, match=words):
        media.read_clip(clip, 9)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(media.BadPicture, match="without pictures"):
        media.read_clip(tmp_path, 2)


@pytest.mark.parametrize("frames", [0, -1, 2.5])
def test_a_number_of_frames_is_whole_and_positive(frames):
    with pytest.raises(ValueError, match=r"frames=.*at least 1"):
        media.read_clip(plain(), frames)


def test_each_frame_of_an_animation_is_held_to_the_limit():
    assert len(media.read_clip(animated("GIF"), 2, pixel_limit=96)) == 2  # of which one frame has a quarter
    with pytest.raises(media.BadPicture, match="6 x 4 pixels x 3 frames"):
        media.read_clip(animated("GIF"), 2, pixel_limit=95)


def test_each_picture_of_a_list_is_held_to_the_limit():
    assert len(media.read_clip([plain()], 2, pixel_limit=24)) == 2
    with pytest.raises(media.BadPicture, match="6 x 4 pixels: expected"):
        media.read_clip([plain()], 2, pixel_limit=23)


def test_an_animation_is_held_to_a_limit_as_a_whole():
    colours = [(i, 0, 0) for i in range(0, 250, 10)]
    assert len(media.read_clip(animated("GIF", colours[:24]), 2, pixel_limit=96)) == 2
    with pytest.raises(media.BadPicture, match=r"6 x 4 pixels x 25 frames: .* 0.000576 in all frames"):
        media.read_clip(animated("GIF", colours), 2, pixel_limit=96)


PICTURE, CLIP = (4, 6, 3), (2, 4, 6, 3)


@pytest.mark.parametrize(
    ("items", "shape", "count"),
    [
        (encoded(plain()), PICTURE, 1),
        (bytearray(encoded(plain())), PICTURE, 1),
        (plain(), PICTURE, 1),
        (np.zeros((9, 9, 3)), PICTURE, 1),
        (np.zeros((5, 9, 9, 3)), PICTURE, 5),
        ([plain(), encoded(plain())], PICTURE, 2),
        ((plain(),), PICTURE, 1),
        (animated("GIF"), PICTURE, 1),
        (animated("GIF"), CLIP, 1),
        (plain(), CLIP, 1),
        (np.zeros((9, 9, 3)), CLIP, 1),
        (np.zeros((5, 9, 9, 3)), CLIP, 1),
        (np.zeros((7, 5, 9, 9, 3)), CLIP, 7),
        ([plain(), plain(), plain()], CLIP, 3),
        ([[plain(), plain()], np.zeros((5, 9, 9, 3)), animated("GIF"), plain()], CLIP, 4),
    ],
)
def test_one_or_many_is_decided_by_kind_and_rank(items, shape, count):
    pixels, good, errors = media.batch(items, shape)
    assert pixels.shape == (count, *shape)
    assert pixels.dtype == np.float32
    assert (good, errors) == (list(range(count)), {})


@pytest.mark.filterwarnings("ignore:a grey array")
def test_a_grey_array_is_one_picture():
    assert media.batch(np.zeros((9, 9)), PICTURE)[0].shape == (1, *PICTURE)


def test_paths_come_alone_in_a_list_or_in_a_column(tmp_path):
    path = tmp_path / "a.png"
    plain().save(path)
    for items, count in ((path, 1), (str(path), 1), ([path, str(path)], 2), (np.array([str(path)] * 3, object), 3)):
        assert len(media.batch(items, PICTURE)[0]) == count


def test_encoded_bytes_in_an_array_are_one_bad_item():
    items = np.frombuffer(encoded(plain()), "uint8")
    errors = media.batch(items, PICTURE)[2]
    assert list(errors) == [0]
    assert "expected a path, encoded bytes" in errors[0]


@pytest.mark.parametrize("items", [[], (), np.zeros((0, 4, 6, 3)), np.array([], object)])
def test_an_empty_batch_is_the_callers_error(items):
    with pytest.raises(ValueError, match="no items: expected at least one"):
        media.batch(items, PICTURE)


def test_bad_items_do_not_lose_the_good_ones(tmp_path):
    items = [plain(RED), b"", plain(GREEN), tmp_path / "missing.png", None, np.zeros((4, 6, 5)), plain(BLUE)]
    pixels, good, errors = media.batch(items, PICTURE)
    assert good == [0, 2, 6]
    assert [tuple(picture[0, 0]) for picture in pixels] == [RED, GREEN, BLUE]
    assert list(errors) == [1, 3, 4, 5]
    assert "empty" in errors[1]
    assert "missing.png" in errors[3]
    assert "(4, 6, 5)" in errors[5]
    assert "(h, w, 3)" in errors[5]


def test_a_batch_may_hold_only_bad_items():
    pixels, good, errors = media.batch([b"", b""], PICTURE)
    assert pixels.shape == (0, *PICTURE)
    assert good == []
    assert list(errors) == [0, 1]


def test_a_folder_that_may_not_be_read_does_not_lose_the_others(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.listdir", refuse)
    pixels, good, errors = media.batch([tmp_path, plain()], CLIP)
    assert (len(pixels), good) == (1, [1])
    assert str(tmp_path) in errors[0]


def test_a_batch_of_too_high_a_rank_names_the_first_item_and_its_shape():
    errors = media.batch(np.zeros((2, 1, 4, 6, 3)), PICTURE)[2]
    assert list(errors) == [0, 1]
    assert "(1, 4, 6, 3)" in errors[0]


def test_settle_puts_results_at_their_places():
    assert media.settle(["a", "b"], [0, 2], {1: "bad"}, 3, "none") == ["a", None, "b"]
    assert media.settle(["a", "b"], [0, 1], {}, 2, "raise") == ["a", "b"]
    assert media.settle([], [], {0: "bad"}, 1, "none") == [None]


def test_settle_raises_with_the_good_results_kept():
    with pytest.raises(media.BadItems) as caught:
        media.settle(["a"], [1], {0: "empty: expected JPEG"}, 2, "raise")
    error = caught.value
    assert isinstance(error, ValueError)
    assert error.errors == {0: "empty: expected JPEG"}
    assert error.results == [None, "a"]
    for words in ("1 of 2 items", "item 0: empty: expected JPEG", "error.results", 'on_error="none"'):
        assert words in str(error)


def test_bad_items_names_ten_and_counts_the_rest():
    text = str(media.BadItems(dict.fromkeys(range(13), "empty"), [None] * 13))
    assert "item 9: empty" in text
    assert "item 10" not in text
    assert "and 3 more" in text
    assert "more" not in str(media.BadItems(dict.fromkeys(range(10), "empty"), [None] * 10))


def test_bad_items_can_be_pickled():
    error = pickle.loads(pickle.dumps(media.BadItems({0: "empty"}, [None, "a"])))
    assert (error.errors, error.results) == ({0: "empty"}, [None, "a"])


def test_settle_checks_on_error_and_counts():
    with pytest.raises(ValueError, match='on_error=\'ignore\': expected "raise" or "none"'):
        media.settle(["a"], [0], {}, 1, "ignore")
    with pytest.raises(ValueError, match="zip"):
        media.settle(["a"], [0, 1], {}, 2, "raise")
