"""Images: what can be read and how, what cannot, and how they are resized."""

from __future__ import annotations

import doctest
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from images import BAD, BLUE, GOOD, GREEN, RED, WHITE, animated, bomb, encoded, noise, palette_with_transparency, plain
from PIL import Image, features

from vtx_keras.inputs import media


def corner(picture, **options):
    return tuple(int(value) for value in media.read(picture, **options)[0, 0])


@pytest.mark.parametrize("name", GOOD)
def test_unusual_images_become_8_bit_rgb(name):
    make, colour = GOOD[name]
    pixels = media.read(make())
    assert pixels.dtype == np.uint8
    assert pixels.shape == (4, 6, 3)
    assert np.abs(pixels[0, 0].astype(int) - colour).max() <= 1, pixels[0, 0]


def test_16_bit_grey_is_scaled_not_clipped():
    deep = np.arange(65536, dtype="uint16").reshape(256, 256)
    assert np.array_equal(media.read(encoded(Image.fromarray(deep)))[..., 0], np.rint(deep / 257))


def test_a_photograph_of_a_phone_is_read_upright(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "IMG_0001.HEIC"
    turned = np.zeros((40, 60, 3), "uint8")
    turned[:, :30] = (200, 30, 30)  # on the left, as the sensor sees it; above, when the picture is upright
    heif.from_pillow(Image.fromarray(turned)).save(path, exif=exif.tobytes(), quality=100)
    pixels = media.read(path)
    assert pixels.shape == (60, 40, 3)
    np.testing.assert_allclose(pixels[[10, -10], 20], [(200, 30, 30), (0, 0, 0)], atol=12)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(media.BadPicture, match="a HEIC picture: pip install pillow-heif"):
        media.read(path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read():
    assert media.read(encoded(plain(), "AVIF")).shape == (4, 6, 3)


def test_a_palette_picture_keeps_its_visible_pixels():
    assert tuple(media.read(palette_with_transparency())[3, 5]) == RED


def test_the_content_decides_not_the_extension(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(plain(BLUE)))
    assert corner(path) == corner(str(path)) == BLUE


STORED = {  # how an upright picture lies in a file, by EXIF orientation
    1: lambda u: u,
    2: lambda u: u[:, ::-1],
    3: lambda u: u[::-1, ::-1],
    4: lambda u: u[::-1],
    5: lambda u: u.swapaxes(0, 1),
    6: lambda u: np.rot90(u),
    7: lambda u: u[::-1, ::-1].swapaxes(0, 1),
    8: lambda u: np.rot90(u, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "PIL"])
def test_exif_orientation_is_applied(orientation, format):
    upright = np.zeros((16, 32, 3), "uint8")
    upright[:8, :16], upright[:8, 16:], upright[8:, :16] = RED, GREEN, BLUE
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    picture = encoded(stored, "PNG" if format == "PIL" else format, exif=exif, **options)
    if format == "PIL":
        picture = Image.open(io.BytesIO(picture))
    pixels = media.read(picture)
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).max() <= 8


def test_a_pil_image_is_left_as_it_was():
    image = Image.open(io.BytesIO(animated("GIF")))
    image.seek(1)
    assert corner(image) == GREEN
    media.read_clip(image, 3)
    assert image.tell() == 1
    assert image.size == (6, 4)


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_in_plain_words(name):
    make, words = BAD[name]
    with pytest.raises(media.BadPicture, match=f"(?s){words}"):
        media.read(make())


@pytest.mark.parametrize("content", [b"", b"<html>", encoded(plain())[:45]])
def test_an_error_names_the_file(tmp_path, content):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(media.BadPicture, match=re.escape(repr(str(path)))):
        media.read(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(media.BadPicture, match="a folder: expected a picture's file"):
        media.read(tmp_path)


def test_a_closed_pil_image_is_refused_as_a_bad_picture(tmp_path):
    plain().save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pass
    with pytest.raises(media.BadPicture, match="Image"):
        media.read(image)


def test_a_decompression_bomb_is_refused_from_its_header_fast_and_in_little_memory(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    assert path.stat().st_size < 100_000
    code = """if True:
        import resource, sys, time
        from vtx_keras import media
        media.read(sys.argv[2])
        peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        try:
            media.read(sys.argv[1])
        except media.BadPicture:
            print(time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    """
    (tmp_path / "small.png").write_bytes(encoded(plain()))
    command = [sys.executable, "-W", "always", "-c", code, str(path), str(tmp_path / "small.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, kilobytes = map(float, done.stdout.split())
    assert seconds < 0.5
    assert kilobytes < 10_000  # decoded, it would be 400 MB
    assert "DecompressionBomb" not in done.stderr


def test_the_header_is_checked_before_the_pixels_are_read():
    with pytest.raises(media.BadPicture, match="20000 x 20000"):
        media.read(bomb()[:60])


@pytest.mark.parametrize(("side", "fits"), [(10, True), (11, False)])
@pytest.mark.parametrize("make", [lambda image: encoded(image), lambda image: image, np.asarray])
def test_the_limit_can_be_changed_and_holds_for_every_kind_of_image(make, side, fits):
    picture = make(plain(size=(side, 10)))
    if fits:
        assert media.read(picture, pixel_limit=100).shape == (10, 10, 3)
    else:
        with pytest.raises(media.BadPicture, match=r"11 x 10 pixels: expected 1 to 0\.0001 million"):
            media.read(picture, pixel_limit=100)


@pytest.mark.filterwarnings("error")
def test_a_raised_limit_is_not_undone_by_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow would warn above 10 and refuse above 20
    assert media.read(encoded(plain(size=(5, 5)))).shape == (5, 5, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float16", "float32", "float64"])
def test_an_rgb_array_is_read_without_a_warning(dtype):
    pixels = media.read(np.full((4, 6, 3), 200, dtype))
    assert pixels.dtype == ("float32" if dtype.startswith("float") else "uint8")
    assert (pixels == 200).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["black", "files"])
def test_correct_input_gives_no_warning(kind):
    picture = np.zeros((4, 6, 3)) if kind == "black" else encoded(Image.new("LA", (6, 4), (0, 51)))
    assert media.read(picture).shape == (4, 6, 3)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1)])
def test_a_grey_array_is_repeated_with_a_warning(shape):
    with pytest.warns(UserWarning, match="grey"):
        pixels = media.read(np.full(shape, 33, "uint8"))
    assert pixels.shape == (4, 6, 3)
    assert (pixels == 33).all()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_an_array_with_alpha_is_composited_on_white_with_a_warning(dtype):
    array = np.full((4, 6, 4), (255, 4, 100, 51), dtype)
    with pytest.warns(UserWarning, match="alpha"):
        pixels = media.read(array)
    assert pixels.dtype == dtype
    assert pixels[0, 0].tolist() == pytest.approx([255, 205 if dtype == "uint8" else 204.8, 224], abs=1e-3)


def test_alpha_means_the_same_in_a_file_and_in_an_array():
    array = noise(shape=(16, 16, 4))
    with pytest.warns(UserWarning, match="alpha"):
        pixels = media.read(array)
    assert np.abs(pixels.astype(int) - media.read(encoded(Image.fromarray(array)))).max() <= 1


def test_floats_of_0_to_1_are_used_as_given_but_warned_about():
    array = np.linspace(0, 1, 72).reshape(4, 6, 3)
    with pytest.warns(UserWarning, match="looks scaled"):
        assert np.array_equal(media.read(array), array.astype("float32"))


def test_a_warning_is_shown_once_whatever_is_read_in_between():
    code = """if True:
        import io
        import numpy as np
        from PIL import Image
        from vtx_keras import media
        file = io.BytesIO()
        Image.new("RGB", (4, 4)).save(file, "PNG")
        for size in (4, 5, 6):
            media.batch([np.zeros((size, size)), file.getvalue(), b""], (4, 4, 3))
            media.read(np.ones((size, size, 3)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("Warning") == 2, done.stderr


def test_a_tensor_is_an_array():
    class Tensor:
        shape = (2, 4, 6, 3)

        def __array__(self, dtype=None, copy=None):
            return np.full(self.shape, 5.5, "float32")

        def __len__(self):
            return self.shape[0]

        def __getitem__(self, index):
            return np.asarray(self)[index]

    pixels, good, errors = media.batch(Tensor(), (4, 6, 3))
    assert (pixels == 5.5).all()
    assert (good, errors) == ([0, 1], {})


def test_results_can_be_changed_without_changing_the_input():
    array = np.zeros((4, 6, 3), "float32")
    for pixels in (media.read(array), media.prepare(array, (4, 6, 3)), media.read(encoded(plain()))):
        pixels[:] = 7
    assert not array.any()


def antialiased_bilinear(length, size):
    """The matrix that resizes `length` samples to `size`: a triangle, half-pixel centres, widened to shrink."""
    scale = length / size
    centres = (np.arange(size) + 0.5) * scale
    distance = np.abs(np.arange(length)[None] + 0.5 - centres[:, None]) / max(scale, 1)
    weight = np.maximum(0, 1 - distance)
    return weight / weight.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(24, 20), (100, 90), (64, 7)])
def test_resizing_is_antialiased_bilinear_with_half_pixel_centres(size):
    picture = noise()
    rows, columns = (antialiased_bilinear(*sides) for sides in zip(picture.shape, size, strict=False))
    expected = np.einsum("yh,hwc,xw->yxc", rows, picture, columns)
    found = media.resize(picture, size, "stretch")
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1.01


def test_pad_keeps_the_aspect_and_centres_between_white_borders():
    pixels = media.resize(plain(RED, (40, 20)), (10, 10), "pad")
    assert (pixels[:2] == WHITE).all()
    assert (pixels[2:7] == RED).all()
    assert (pixels[7:] == WHITE).all()
    assert (media.resize(plain(RED, (20, 40)), (10, 10), "pad")[:, 2:7] == RED).all()


def test_every_fit_resamples_alike():
    picture = noise(3, (60, 40, 3))
    pad, crop, stretch = (media.resize(picture, (30, 20), fit) for fit in ("pad", "crop", "stretch"))
    assert np.array_equal(pad, stretch)
    assert np.array_equal(crop, stretch)


def test_pad_is_the_default_and_enlarges_too():
    assert (media.resize(plain(RED, (2, 1)), (8, 8))[2:6] == RED).all()


def test_crop_fills_and_cuts_the_centre():
    picture = np.concatenate([np.full((20, 10, 3), c, "uint8") for c in (RED, GREEN, GREEN, BLUE)], axis=1)
    pixels = media.resize(picture, (8, 8), "crop")
    assert (pixels[:, 1:-1] == GREEN).all()
    assert np.array_equal(media.resize(picture.swapaxes(0, 1), (8, 8), "crop"), pixels.swapaxes(0, 1))
    picture = noise(1, (32, 64, 3))
    filled = media.resize(picture, (16, 32), "stretch")[:, 8:24]
    assert np.abs(media.resize(picture, (16, 16), "crop").astype(int) - filled).max() <= 1


def test_stretch_uses_the_whole_picture():
    picture = np.concatenate([np.full((20, 20, 3), RED, "uint8"), np.full((20, 20, 3), BLUE, "uint8")], axis=1)
    pixels = media.resize(picture, (8, 8), "stretch")
    assert (pixels[:, :3] == RED).all()
    assert (pixels[:, 5:] == BLUE).all()


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_an_image_one_pixel_wide_is_resized(fit, size):
    pixels = media.resize(plain(RED, size), (8, 8), fit)
    assert pixels.shape == (8, 8, 3)
    assert (pixels == RED).all(-1).any()


def test_floats_are_exact_at_the_wanted_size_and_rounded_when_resized():
    array = np.full((4, 4, 3), 99.6)
    assert (media.prepare(array, (4, 4, 3)) == np.float32(99.6)).all()
    assert (media.prepare(array, (8, 8, 3)) == 100).all()


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (0, 4, 3), (None, 4, 3), (2.0, 4, 3), (1, 2, 4, 4, 3)])
@pytest.mark.parametrize("function", [media.prepare, media.batch])
def test_an_impossible_shape_is_the_callers_error(function, shape):
    with pytest.raises(ValueError, match=r"shape .*expected") as error:
        function(np.zeros((4, 4, 3)), shape)
    assert not isinstance(error.value, media.BadPicture)


def test_an_unknown_fit_is_the_callers_error():
    for call in (media.batch, media.prepare, lambda picture, shape, fit: media.resize(picture, shape[:2], fit)):
        with pytest.raises(ValueError, match='fit=\'fill\': expected "pad", "crop" or "stretch"'):
            call(np.zeros((4, 4, 3)), (4, 4, 3), "fill")


def test_media_loads_neither_tensorflow_nor_keras():
    code = "import sys; from vtx_keras import media; print({'tensorflow', 'keras', 'jax', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_examples_in_the_docstrings_hold():
    found = doctest.testmod(media)
    assert found.attempted >= 6
    assert found.failed == 0
