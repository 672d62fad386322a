"""Fits of published image processors: the pixels are Pillow's, and those of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import vtx_keras
from vtx_keras.inputs import media
from vtx_keras.models.options import OPTIONS

PHOTOS = sorted((Path(vtx_keras.__file__).parent / "sample" / "photos").glob("*.jpg"))
FILTERS = {
    "": Image.Resampling.BILINEAR,
    "-bicubic": Image.Resampling.BICUBIC,
    "-lanczos": Image.Resampling.LANCZOS,
}


def shapes_of(path):
    """A photograph wide, high, enlarged, of odd sides, and square."""
    picture = Image.open(path).convert("RGB")
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    return [picture, turned, picture.crop((3, 5, 204, 112)), picture.resize((61, 33)), turned.resize((300, 1001))]


@pytest.mark.parametrize("end", list(FILTERS))
def test_the_end_of_a_name_is_the_filter(end):
    for path in PHOTOS[:4]:
        for picture in shapes_of(path):
            stretched = np.asarray(picture.resize((96, 64), FILTERS[end]))
            np.testing.assert_array_equal(media.resize(picture, (64, 96), f"stretch{end}"), stretched)
            filled = np.asarray(ImageOps.fit(picture, (96, 64), FILTERS[end]))
            np.testing.assert_array_equal(media.resize(picture, (64, 96), f"crop{end}"), filled)
            inner = ImageOps.contain(picture, (96, 64), FILTERS[end]).size
            padded = media.resize(picture, (64, 96), f"pad{end}")
            scale = min(96 / picture.width, 64 / picture.height)
            size = [int(side * scale + 0.5) for side in picture.size]
            assert np.abs(np.subtract(size, inner)).max() <= 1
            left, top = (96 - size[0]) // 2, (64 - size[1]) // 2
            part = padded[top : top + size[1], left : left + size[0]]
            np.testing.assert_array_equal(part, np.asarray(picture.resize(size, FILTERS[end])))
            assert padded.sum(dtype=int) - part.sum(dtype=int) == 255 * 3 * (64 * 96 - size[0] * size[1])


@pytest.mark.parametrize(
    ("size", "scaled", "box"),
    [
        ((320, 213), (336, 224), (56, 0, 280, 224)),  # int(224 * 320 / 213) = 336.5 -> 336
        ((213, 320), (224, 336), (0, 56, 224, 280)),
        ((100, 99), (226, 224), (1, 0, 225, 224)),  # int(226.26)
        ((101, 99), (228, 224), (2, 0, 226, 224)),  # int(228.5), not rounded
        ((103, 99), (233, 224), (4, 0, 228, 224)),  # an odd rest: the left side is the smaller one
    ],
)
def test_shortest_scales_the_short_side_and_crops_whole_pixels(size, scaled, box):
    picture = Image.open(PHOTOS[0]).convert("RGB").resize(size)
    wanted = np.asarray(picture.resize(scaled, Image.Resampling.BICUBIC).crop(box))
    np.testing.assert_array_equal(media.resize(picture, (224, 224), "shortest-bicubic"), wanted)
    assert (wanted != media.resize(picture, (224, 224), "crop-bicubic")).any()


def test_shortest_fills_an_oblong_too():
    picture = Image.open(PHOTOS[0]).convert("RGB").resize((40, 21))
    high = np.asarray(picture.resize((60, 32), Image.Resampling.BILINEAR).crop((22, 0, 38, 32)))
    np.testing.assert_array_equal(media.resize(picture, (32, 16), "shortest"), high)
    wide = np.asarray(picture.resize((80, 42), Image.Resampling.BILINEAR).crop((0, 16, 80, 26)))
    np.testing.assert_array_equal(media.resize(picture, (10, 80), "shortest"), wide)
    np.testing.assert_array_equal(media.resize(picture, (21, 40), "shortest"), np.asarray(picture))


@pytest.mark.parametrize("fit", [kind + end for kind in media.FITS for end in FILTERS])
def test_the_option_and_the_reader_know_the_same_names(fit):
    assert OPTIONS["resize"].accepts(fit)
    assert media.prepare(np.zeros((20, 10, 3), "uint8"), (8, 8, 3), fit).shape == (8, 8, 3)


@pytest.mark.parametrize("fit", ["pad-", "-bicubic", "bicubic", "crop-nearest", "stretch_bicubic", ""])
def test_other_names_are_refused(fit):
    assert not OPTIONS["resize"].accepts(fit)
    with pytest.raises(ValueError, match=r"expected .+, each also with .+-bicubic"):
        media.resize(np.zeros((4, 4, 3), "uint8"), (2, 2), fit)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("model", "name", "fit"),
    [
        ("blip", "BlipImageProcessorPil", "stretch-bicubic"),
        ("clip", "CLIPImageProcessorPil", "shortest-bicubic"),  # GIT as well
        ("siglip", "SiglipImageProcessorPil", "stretch-bicubic"),
        ("vit", "ViTImageProcessorPil", "stretch"),  # ViT-GPT2
    ],
)
def test_pixels_are_those_of_transformers(model, name, fit):
    pytest.importorskip("transformers")
    module = pytest.importorskip(f"transformers.models.{model}.image_processing_pil_{model}")
    process = getattr(module, name)(do_rescale=False, do_normalize=False)
    for path in PHOTOS:
        for picture in shapes_of(path):
            wanted = np.moveaxis(process(images=picture, return_tensors="np")["pixel_values"][0], 0, -1)
            assert wanted.dtype == np.uint8
            np.testing.assert_array_equal(media.resize(picture, wanted.shape[:2], fit), wanted)
