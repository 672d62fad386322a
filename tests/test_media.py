"""Promises of media.py: what a picture is, how it comes in, and what is said of one that does not."""

import doctest
import io
import pickle
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, features

from vtx_keras.inputs import media

WHITE, BLACK, RED, GREEN, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def plain(colour=RED, size=(6, 4)):
    return Image.new("RGB", size, colour)


def animated(format, colours=(RED, GREEN, BLUE), **options):
    first, *others = [plain(colour) for colour in colours]
    return encoded(first, format, save_all=True, append_images=others, duration=100, **options)


def png(width, height, depth, colour_type, rows, *chunks):
    """A PNG by hand, for what Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def bomb(side=20_000):
    return png(side, side, 1, 0, bytes(side * (1 + side // 8)))


def palette_with_transparency():
    image = Image.new("P", (6, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((0, 0), 0)
    return encoded(image, transparency=0)


def noise(seed=0, shape=(64, 48, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, "uint8")


def corner(picture, **options):
    return tuple(int(value) for value in media.read(picture, **options)[0, 0])


# --- what can be read: the pixel at the upper left tells the verdict


GOOD = {
    "16-bit PNG": (lambda: encoded(Image.fromarray(np.full((4, 6), 0x8080, "uint16"))), (128, 128, 128)),
    "16-bit PNG, dark": (lambda: encoded(Image.fromarray(np.full((4, 6), 300, "uint16"))), (1, 1, 1)),
    "16-bit PNG, white": (lambda: encoded(Image.fromarray(np.full((4, 6), 65535, "uint16"))), WHITE),
    "16-bit TIFF": (lambda: encoded(Image.fromarray(np.full((4, 6), 0x4040, "uint16")), "TIFF"), (64, 64, 64)),
    "16-bit PGM": (lambda: b"P5 6 4 65535\n" + b"\x40\x40" * 24, (64, 64, 64)),
    "16-bit colour PNG": (lambda: png(6, 4, 16, 2, (b"\0" + b"\xff\xff\x40\x40\0\0" * 6) * 4), (255, 64, 0)),
    "16-bit PNG with a transparent grey": (
        lambda: png(6, 4, 16, 0, (b"\0" + b"\x12\x34" * 6) * 4, (b"tRNS", b"\x12\x34")),
        WHITE,
    ),
    "CMYK JPEG": (lambda: encoded(Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "JPEG"), RED),
    "grey JPEG": (lambda: encoded(Image.new("L", (6, 4), 90), "JPEG"), (90, 90, 90)),
    "palette PNG": (lambda: encoded(plain(BLUE).convert("P")), BLUE),
    "palette PNG, transparent": (palette_with_transparency, WHITE),
    "grey and alpha PNG": (lambda: encoded(Image.new("LA", (6, 4), (0, 51))), (204, 204, 204)),
    "RGBA PNG": (lambda: encoded(Image.new("RGBA", (6, 4), (255, 0, 0, 51))), (255, 204, 204)),
    "RGBA PNG, invisible": (lambda: encoded(Image.new("RGBA", (6, 4), (9, 9, 9, 0))), WHITE),
    "1-bit PNG": (lambda: encoded(Image.new("1", (6, 4), 1)), WHITE),
    "1-bit TIFF": (lambda: encoded(Image.new("1", (6, 4), 0), "TIFF", compression="group4"), BLACK),
    "animated GIF": (lambda: animated("GIF"), RED),
    "animated WebP": (lambda: animated("WEBP", lossless=True), RED),
    "transparent GIF": (lambda: encoded(Image.new("RGBA", (6, 4), (0, 0, 0, 0)), "GIF"), WHITE),
    "JPEG of several pictures": (lambda: animated("MPO", (BLUE, RED)), (0, 0, 254)),
    "BMP": (lambda: encoded(plain(GREEN), "BMP"), GREEN),
    "PPM": (lambda: encoded(plain(GREEN), "PPM"), GREEN),
    "JPEG with broken EXIF": (lambda: encoded(plain(), "JPEG", exif=b"Exif\0\0no such thing"), (254, 0, 0)),
    "PNG with broken EXIF": (lambda: encoded(plain(), "PNG", exif=b"no such thing"), RED),
    "PNG with EXIF cut off": (lambda: encoded(plain(), "PNG", exif=b"Exif\0\0MM\0*"), RED),
    "LAB TIFF": (lambda: encoded(Image.new("LAB", (6, 4), (255, 128, 128)), "TIFF"), WHITE),
}


@pytest.mark.parametrize("name", GOOD)
def test_odd_pictures_become_8_bit_rgb(name):
    make, colour = GOOD[name]
    pixels = media.read(make())
    assert pixels.dtype == np.uint8
    assert pixels.shape == (4, 6, 3)
    assert np.abs(pixels[0, 0].astype(int) - colour).max() <= 1, pixels[0, 0]


def test_16_bit_grey_is_scaled_and_neither_clipped_nor_cut():
    deep = np.arange(65536, dtype="uint16").reshape(256, 256)
    assert np.array_equal(media.read(encoded(Image.fromarray(deep)))[..., 0], np.rint(deep / 257))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read():
    assert media.read(encoded(plain(), "AVIF")).shape == (4, 6, 3)


def test_a_palette_picture_keeps_its_visible_pixels():
    assert tuple(media.read(palette_with_transparency())[3, 5]) == RED


def test_an_extension_is_not_believed(tmp_path):
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


# --- what cannot, and what is then said


def floats(value, shape=(4, 6, 3)):
    array = np.full(shape, 100, "float32")
    array[0, 0, 0] = value
    return array


BAD = {
    "truncated JPEG": (lambda: encoded(Image.fromarray(noise()), "JPEG")[:1500], "cut off or damaged.*anew"),
    "truncated PNG": (lambda: encoded(Image.fromarray(noise()))[:1500], "cut off or damaged"),
    "truncated GIF": (lambda: encoded(Image.fromarray(noise()), "GIF")[:1500], "cut off or damaged"),
    "truncated WebP": (lambda: encoded(Image.fromarray(noise()), "WEBP")[:900], "cut off or damaged"),
    "PNG cut in its header": (lambda: encoded(plain())[:20], "cut off or damaged"),
    "JPEG of its first three bytes": (lambda: b"\xff\xd8\xff", "cut off or damaged"),
    "no bytes": (lambda: b"", "empty.*JPEG, PNG"),
    "HTML": (lambda: b"<!DOCTYPE html><title>404</title>", "begins with b'<!DOCTYPE html>.*JPEG, PNG.*fetch"),
    "text": (lambda: b"Once upon a time", "begins with b'Once.*JPEG, PNG"),
    "a format that is not for pictures": (lambda: encoded(plain(size=(32, 32)), "ICO"), "JPEG, PNG.*Convert"),
    "PDF": (lambda: encoded(plain(), "PDF"), "begins with b'%PDF.*Convert"),
    "EPS, which would start a program": (lambda: encoded(plain(), "EPS"), "begins with b'%!PS.*Convert"),
    "float TIFF": (lambda: encoded(Image.new("F", (6, 4), 0.5), "TIFF"), "32 bits.*expected 8 or 16.*0-255"),
    "bomb PNG": (bomb, "20000 x 20000 pixels: expected 1 to 50 million.*smaller.*pixel_limit"),
    "bomb GIF": (lambda: b"GIF89a" + struct.pack("<HH", 60000, 60000) + animated("GIF")[10:], "60000 x 60000"),
    "PIL image without pixels": (lambda: Image.new("RGB", (0, 4)), "0 x 4 pixels"),
    "missing path": (lambda: "no/such/picture.png", "'no/such/picture.png': no such file: expected"),
    "path with a null": (lambda: "a\0b.png", "no such file"),
    "path without end": (lambda: "a" * 5000, "no such file"),
    "empty path": (lambda: "", "no such file"),
    "nothing": (lambda: None, "NoneType.*expected a path, encoded bytes"),
    "a dict": (lambda: {"image": 1}, "dict.*expected a path"),
    "words": (lambda: ["a", "b"], "list of shape.*expected a path"),
    "ragged list": (lambda: [[1, 2], [3]], "list.*expected a path"),
    "NaN": (lambda: floats(np.nan), "values from nan to nan: expected finite numbers, 0 to 255"),
    "infinity": (lambda: floats(np.inf), "to inf: expected finite"),
    "minus infinity": (lambda: floats(-np.inf), "from -inf to 100: expected finite"),
    "float above 255": (lambda: floats(300.5), "from 100 to 300.5: expected.*0 to 255"),
    "negative float": (lambda: floats(-1), "from -1 to 100: expected"),
    "negative integer": (lambda: np.full((4, 6, 3), -7), "from -7 to -7: expected"),
    "uint16 array": (lambda: np.full((4, 6, 3), 4096, "uint16"), "uint16 with values from 4096 to 4096"),
    "bool array": (lambda: np.ones((4, 6, 3), bool), "type bool: expected.*0-255"),
    "complex array": (lambda: np.ones((4, 6, 3), complex), "complex128: expected"),
    "rank 1": (lambda: np.zeros(9), r"\(9,\).*expected.*\(h, w, 3\)"),
    "rank 4": (lambda: np.zeros((1, 4, 6, 3)), r"\(1, 4, 6, 3\).*expected.*\(h, w, 3\)"),
    "two channels": (lambda: np.zeros((4, 6, 2)), r"\(4, 6, 2\).*expected.*\(h, w, 3\)"),
    "channels first": (lambda: np.zeros((3, 40, 60)), r"\(3, 40, 60\).*expected.*\(h, w, 3\)"),
    "array without pixels": (lambda: np.zeros((0, 6, 3)), "6 x 0 pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_refused_in_plain_words(name):
    make, words = BAD[name]
    with pytest.raises(media.BadPicture, match=f"(?s){words}"):
        media.read(make())


@pytest.mark.parametrize("content", [b"", b"<html>", encoded(plain())[:45]])
def test_an_error_names_the_file(tmp_path, content):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(media.BadPicture, match=re.escape(repr(str(path)))):
        media.read(path)


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(media.BadPicture, match="a folder: expected a picture's file"):
        media.read(tmp_path)


def test_a_closed_pil_image_is_refused_as_a_bad_picture(tmp_path):
    plain().save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pass
    with pytest.raises(media.BadPicture, match="Image"):
        media.read(image)


def test_a_bomb_is_refused_from_its_header_without_time_memory_or_pillow_warnings(tmp_path):
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


def test_the_header_is_judged_before_the_pixels_are_looked_at():
    with pytest.raises(media.BadPicture, match="20000 x 20000"):
        media.read(bomb()[:60])


@pytest.mark.parametrize(("side", "fits"), [(10, True), (11, False)])
@pytest.mark.parametrize("make", [lambda image: encoded(image), lambda image: image, np.asarray])
def test_the_limit_can_be_changed_and_holds_for_every_kind_of_picture(make, side, fits):
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


# --- arrays


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float16", "float32", "float64"])
def test_an_rgb_array_passes_without_a_word(dtype):
    pixels = media.read(np.full((4, 6, 3), 200, dtype))
    assert pixels.dtype == ("float32" if dtype.startswith("float") else "uint8")
    assert (pixels == 200).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["black", "files"])
def test_what_is_no_mistake_gives_no_warning(kind):
    picture = np.zeros((4, 6, 3)) if kind == "black" else encoded(Image.new("LA", (6, 4), (0, 51)))
    assert media.read(picture).shape == (4, 6, 3)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1)])
def test_a_grey_array_is_repeated_with_a_warning(shape):
    with pytest.warns(UserWarning, match="grey"):
        pixels = media.read(np.full(shape, 33, "uint8"))
    assert pixels.shape == (4, 6, 3)
    assert (pixels == 33).all()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_an_array_with_alpha_is_laid_on_white_with_a_warning(dtype):
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


def test_python_says_a_warning_once_whatever_is_read_in_between():
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


def test_a_result_is_the_callers_to_change():
    array = np.zeros((4, 6, 3), "float32")
    for pixels in (media.read(array), media.prepare(array, (4, 6, 3)), media.read(encoded(plain()))):
        pixels[:] = 7
    assert not array.any()


# --- sizes


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
def test_a_line_of_pixels_neither_vanishes_nor_explodes(fit, size):
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


# --- clips


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


def test_the_still_that_a_png_shows_elsewhere_is_no_frame():
    clip = animated("PNG", (RED, GREEN, BLUE), default_image=True)
    assert [tuple(frame[0, 0]) for frame in media.read_clip(clip, 2)] == [GREEN, BLUE]


def test_the_pages_of_a_tiff_are_no_clip():
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
def test_a_single_picture_is_a_clip_of_one_frame(picture):
    assert [tuple(frame[0, 0]) for frame in media.read_clip(picture, 3)] == [RED] * 3


def test_frames_of_a_clip_may_differ_in_kind_and_size():
    clip = media.prepare([plain(RED, (9, 9)), encoded(plain(GREEN)), np.full((4, 6, 3), BLUE)], (3, 8, 8, 3), "crop")
    assert clip.dtype == np.float32
    assert [tuple(frame[4, 4]) for frame in clip] == [RED, GREEN, BLUE]


BAD_CLIPS = {
    "empty list": ([], "without pictures"),
    "array of no frames": (np.zeros((0, 4, 6, 3)), "without pictures"),
    "a bad frame": ([plain(), b"<html>"], "begins with"),
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
    assert len(media.read_clip(animated("GIF"), 2, pixel_limit=24)) == 2
    with pytest.raises(media.BadPicture, match="6 x 4 pixels x 3 frames"):
        media.read_clip(animated("GIF"), 2, pixel_limit=23)


def test_each_picture_of_a_list_is_held_to_the_limit():
    assert len(media.read_clip([plain()], 2, pixel_limit=24)) == 2
    with pytest.raises(media.BadPicture, match="6 x 4 pixels: expected"):
        media.read_clip([plain()], 2, pixel_limit=23)


def test_an_animation_is_held_to_a_limit_as_a_whole():
    colours = [(i, 0, 0) for i in range(0, 210, 10)]
    assert len(media.read_clip(animated("GIF", colours[:20]), 2, pixel_limit=24)) == 2
    with pytest.raises(media.BadPicture, match=r"6 x 4 pixels x 21 frames: .* 20 times that in all frames"):
        media.read_clip(animated("GIF", colours), 2, pixel_limit=24)


# --- batches

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


def test_a_batch_may_be_bad_as_a_whole():
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


# --- results


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


def test_bad_items_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(media.BadItems({0: "empty"}, [None, "a"])))
    assert (error.errors, error.results) == ({0: "empty"}, [None, "a"])


def test_settle_knows_two_ways_and_checks_its_counts():
    with pytest.raises(ValueError, match='on_error=\'ignore\': expected "raise" or "none"'):
        media.settle(["a"], [0], {}, 1, "ignore")
    with pytest.raises(ValueError, match="zip"):
        media.settle(["a"], [0, 1], {}, 2, "raise")


# --- the module


def test_media_loads_neither_tensorflow_nor_keras():
    code = "import sys, vtx_keras.media; print({'tensorflow', 'keras', 'jax', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_examples_in_the_docstrings_hold():
    found = doctest.testmod(media)
    assert found.attempted >= 6
    assert found.failed == 0
