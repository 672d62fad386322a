"""Images and strings inside a SavedModel's graph, by the rules of `media` and `text`."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from images import BAD, GOOD, animated, encoded, noise, png
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sentences import AWKWARD, CAPTIONS, ROUND_TRIPS
from toys import SHAPE

from vtx_keras import data
from vtx_keras.data._load import SAMPLE
from vtx_keras.export import _pictures as pictures
from vtx_keras.export import _strings as strings
from vtx_keras.inputs import media, text

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")


PHOTOS = sorted(Path(str(data.sample("photos/cat.jpg"))).parent.glob("*.jpg"))


@pytest.fixture(scope="module")
def decode():
    return tf.function(pictures.decode, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def rows(array):
    return b"".join(b"\0" + row.tobytes() for row in array)


def bmp(bits, pixels, palette=b"", height=40, header=40, colours=0, packing=0):
    start = 14 + header + len(palette)
    about = struct.pack("<IiiHHIIiiII", header, 50, height, 1, bits, packing, len(pixels), 0, 0, colours, 0)
    return (
        b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + about.ljust(header, b"\0") + palette + pixels
    )


def random_bytes(*shape, below=256):
    return np.random.default_rng(1).integers(0, below, shape, "uint8")


def on_larger_screen(gif):
    return gif[:6] + struct.pack("<HH", 70, 90) + gif[10:]


def damaged(gif):
    """The file without one of its data blocks."""
    start = gif.index(b",\0\0\0\0") + 11
    return gif[:start] + gif[start + 1 + gif[start] :]


def with_xmp(format, orientation, **options):
    xmp = f'<x tiff:Orientation="{orientation}"/>'
    if format == "JPEG":
        return encoded(Image.fromarray(noise()), "JPEG", xmp=xmp.encode(), **options)
    notes = PngInfo()
    notes.add_itxt("XML:com.adobe.xmp", xmp, **options)
    return encoded(Image.fromarray(noise()), "PNG", pnginfo=notes)


def exif(orientation=None, order="<", kind=3):
    fields = [struct.pack(f"{order}HHI", 0x010F, 2, 2) + b"a\0\0\0"]
    if orientation is not None:
        value = struct.pack(f"{order}{'H' if kind == 3 else 'I'}", orientation).ljust(4, b"\0")
        fields.append(struct.pack(f"{order}HHI", 0x0112, kind, 1) + value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(fields))
    return b"Exif\0\0" + head + b"".join(fields) + bytes(4)


RGB, GREY = Image.fromarray(noise()), Image.fromarray(noise()[..., 0])
DEEP = np.random.default_rng(0).integers(0, 65536, (40, 50, 4)).astype(">u2")
NOT_FOR_US = ("TIFF", "WebP", "PPM", "PGM", "16-bit PNG with a transparent grey")
KNOWN = {name: make for name, (make, _) in GOOD.items() if not any(word in name for word in NOT_FOR_US)} | {
    "progressive JPEG": lambda: encoded(RGB, "JPEG", progressive=True, quality=60),
    "JPEG of full colour": lambda: encoded(RGB, "JPEG", subsampling=0, comment=b"hello"),
    "JPEG kept in RGB": lambda: encoded(RGB, "JPEG", keep_rgb=True),
    "JPEG with Exif, no orientation": lambda: encoded(RGB, "JPEG", exif=exif()),
    "JPEG with Exif of nonsense": lambda: encoded(RGB, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "JPEG with Exif cut off": lambda: encoded(RGB, "JPEG", exif=exif(6)[:-10]),
    "16-bit RGBA PNG": lambda: png(50, 40, 16, 6, rows(DEEP)),
    "16-bit grey and alpha PNG": lambda: png(50, 40, 16, 4, rows(np.ascontiguousarray(DEEP[..., :2]))),
    "RGB PNG with a transparent colour": lambda: encoded(RGB, transparency=tuple(map(int, noise()[0, 0]))),
    "grey PNG with a transparent grey": lambda: encoded(GREY, transparency=int(noise()[0, 0, 0])),
    "GIF of greys": lambda: encoded(GREY, "GIF"),
    "GIF in lines": lambda: encoded(RGB.convert("P"), "GIF", interlace=0, comment=b"x" * 700),
    "GIF on a larger screen": lambda: on_larger_screen(encoded(RGB.quantize(5), "GIF")),
    "transparent GIF on a larger screen": lambda: on_larger_screen(encoded(RGB.quantize(9), "GIF", transparency=3)),
    **{
        f"{bits}-bit PNG, {kind}": lambda bits=bits, chunks=chunks, colour=colour: png(
            50, 40, bits, colour, rows(random_bytes(40, -(-50 * bits // 8))), *chunks
        )
        for bits in (1, 2, 4, 8)
        for kind, colour, chunks in (
            ("grey", 0, ()),
            ("palette", 3, ((b"PLTE", random_bytes(3 * 2**bits).tobytes()),)),
            ("palette with alpha", 3, ((b"PLTE", random_bytes(3 * 2**bits).tobytes()), (b"tRNS", b"\0\x40"))),
        )
    },
    **{
        f"{bits}-bit BMP, {header} {height}": lambda bits=bits, header=header, height=height: bmp(
            bits,
            random_bytes(40 * ((50 * bits + 31) // 32 * 4)).tobytes(),
            random_bytes(4 * 2**bits).tobytes() if bits <= 8 else b"",
            height,
            header,
        )
        for bits in (1, 4, 8, 24, 32)
        for header, height in ((40, 40), (40, -40), (124, 40))
    },
}
REFUSED = {name: make for name, (make, _) in GOOD.items() if any(word in name for word in NOT_FOR_US)} | {
    "a 2-bit PNG with a transparent grey": lambda: png(8, 4, 2, 0, rows(random_bytes(4, 2)), (b"tRNS", b"\0\1")),
    "compressed XMP": lambda: with_xmp("PNG", 3, zip=True),
    "16-bit BMP": lambda: bmp(16, random_bytes(40 * 100).tobytes()),
    "BMP of runs": lambda: bmp(8, random_bytes(4000).tobytes(), bytes(1024), packing=1),
    "BMP with a colour that its palette lacks": lambda: bmp(8, random_bytes(40 * 52).tobytes(), bytes(12), colours=3),
    "BMP cut off": lambda: bmp(24, random_bytes(1000).tobytes()),
    "GIF beyond its screen": lambda: animated("GIF")[:6] + struct.pack("<HH", 3, 3) + animated("GIF")[10:],
    "a GIF damaged inside": lambda: damaged(encoded(RGB.convert("P"), "GIF")),
    "two orientations": lambda: encoded(RGB, "JPEG", exif=exif(6).replace(b"\x12\1\3\0\1", b"\x12\1\3\0\2")),
    "a line of pixels": lambda: png(70_000, 1, 1, 0, bytes(1 + 70_000 // 8)),
    "an orientation in words": lambda: encoded(RGB, "JPEG", exif=exif(6).replace(b"\x12\1\3\0", b"\x12\1\2\0")),
    **{name: make for name, (make, _) in BAD.items() if isinstance(make(), bytes)},
}


def test_pixels_equal_those_of_media(decode):
    for name, make in KNOWN.items():
        wanted, found = media.read(make()), decode(make()).numpy()
        assert wanted.shape == found.shape, name
        assert np.abs(wanted.astype(int) - found).max() <= ("CMYK" in name), name


def test_orientation_equals_that_of_media(decode):
    told = []
    for orientation in range(10):
        for order, kind in (("<", 3), (">", 3), (">", 4)):
            note = exif(orientation, order, kind)
            told += [encoded(RGB, format, exif=note) for format in ("JPEG", "PNG")]
            told.append(encoded(RGB, "JPEG", exif=note, xmp=b'<x tiff:Orientation="3"/>'))
        told += [with_xmp("JPEG", orientation), with_xmp("PNG", orientation)]
        told.append(with_xmp("JPEG", orientation, exif=exif()))
    for picture in told:
        np.testing.assert_array_equal(decode(picture).numpy(), media.read(picture))


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_resizing_equals_that_of_media(fit, decode):
    random = np.random.default_rng(3)
    cases = [(path.read_bytes(), size) for path in PHOTOS for size in ((128, 128), (60, 224))]
    for _ in range(12):
        height, width, *size = (int(side) for side in random.integers(1, 200, 4))
        cases.append((encoded(Image.fromarray(random.integers(0, 256, (height, width, 3), "uint8"))), tuple(size)))
    exact = 0
    for picture, size in cases:
        found = pictures.resize(decode(picture), size, fit).numpy()
        difference = np.abs(found.astype(int) - media.resize(picture, size, fit)).max()
        assert difference <= 1, (size, difference)
        exact += difference == 0
    assert exact >= 0.5 * len(cases)  # otherwise Pillow, from 13 on, sometimes resizes columns first


def test_a_large_picture_is_resized_strip_by_strip(decode):
    picture = encoded(Image.fromarray(noise()).resize((2500, 3700)), "JPEG")
    assert 2 * pictures.STRIP < 2500 * 3700
    np.testing.assert_array_equal(pictures.resize(decode(picture), (96, 64)).numpy(), media.resize(picture, (96, 64)))


def test_rows_that_cannot_be_read_leave_the_others_alone():
    good = PHOTOS[0].read_bytes()
    items = [good, *(make() for make in REFUSED.values()), good]
    see = tf.function(lambda items: pictures.batch(items, SHAPE), input_signature=[tf.TensorSpec([None], tf.string)])
    pixels, ok = see(tf.constant(items))
    refused = dict(zip(REFUSED, ~ok.numpy()[1:-1], strict=True))
    assert all(refused.values()), [name for name, was in refused.items() if not was]
    assert ok.numpy()[[0, -1]].all()
    assert not pixels.numpy()[1:-1].any()
    for row in (0, -1):
        np.testing.assert_array_equal(pixels[row].numpy(), media.resize(good, SHAPE[:2]))
    assert see(tf.zeros([0], tf.string))[0].shape == (0, *SHAPE)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_file_cut_off_anywhere_is_never_read_wrongly(format, decode):
    whole = encoded(Image.fromarray(noise(shape=(16, 12, 3))), format)
    wanted = media.read(whole)
    for end in range(0, len(whole), max(1, len(whole) // 60)):
        try:
            found = decode(whole[:end]).numpy()
        except tf.errors.OpError:
            continue
        np.testing.assert_array_equal(found, wanted)  # only bytes after the image were missing


@pytest.mark.slow
def test_frames_are_picked_as_media_picks_them():
    see = tf.function(
        lambda clips: pictures.batch(clips, (3, *SHAPE)), input_signature=[tf.TensorSpec([None] * 2, tf.string)]
    )
    for given in (1, 3, 5):
        clip = [encoded(Image.fromarray(noise(i))) for i in range(given)]
        pixels, ok = see(tf.constant([clip, [*clip[:-1], b""]]))
        np.testing.assert_array_equal(pixels[0].numpy(), media.prepare(clip, (3, *SHAPE)))
        assert ok.numpy().tolist() == [True, False]
    with pytest.raises(tf.errors.InvalidArgumentError, match="without pictures"):
        see(tf.zeros([1, 0], tf.string))


HOSTILE = [
    *(one for one in AWKWARD if "\ud83d" not in one),
    *CAPTIONS,
    *ROUND_TRIPS,
    *(" ".join(text.SPECIALS), "[start] ##s cats", "x" * 100, "x" * 101, "\u00e9" * 50, "\u00e9" * 51, "supercali" * 9),
    *("\u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 \u1112\u1161\u11ab\u1100\u116e\u11a8", "a\u0600b", "foo\u2e60bar"),
    *(
        "a\u0327\u0301\u0323",
        "\u0301a",
        "\u03a3\u03a3 \u039f\u0394\u039f\u03a3, \u03a3",
        "\u1e9b\u0323",
        "\u0958\u0344",
    ),
    *("$^`~|<>=+", "\u0661\u0662", "\ufdfa", "\u3300", " ", "\u2028", "\ue000 \U0001f469\u200d\U0001f692"),
]
BROKEN = [b"caf\xe9 bar", b"\xff\xfe", b"a\xed\xa0\xbdb", b"\xf0\x9f\x98", "\u00e9\U0001f600".encode()[1:5]]


def test_texts_are_normalized_as_by_text():
    cases = [one.encode() for one in HOSTILE] + BROKEN
    marked = [chr(point) + mark for point in range(0xA0, 0x3000, 7) for mark in ("\u0301", "\u0323\u0308", "\u1161")]
    cases += [one.encode() for one in marked]
    found, ok = strings.normalize(tf.constant(cases))
    assert [one.decode() for one in found.numpy()] == [text.normalize(one) for one in cases]
    assert ok.numpy().all()


@pytest.mark.parametrize("pieces", ["english", pytest.param("learned", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*texts were cut")
def test_ids_equal_those_of_text(pieces):
    vocabulary = text.vocabulary(None if pieces == "english" else CAPTIONS)
    cases = [one.encode() for one in HOSTILE] + BROKEN
    cases += [line.encode() for name in ("captions", "questions") for line in sample_lines(name)]
    read = tf.function(
        lambda texts: strings.tokens(texts, vocabulary, 12, allow_empty=True),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )
    wanted = text.encode(cases, vocabulary, 12, start=True, allow_empty=True)
    np.testing.assert_array_equal(read(tf.constant(cases))[0].numpy(), wanted)
    assert read(tf.zeros([0], tf.string))[0].shape == (0, 12)
    np.testing.assert_array_equal(
        read(tf.constant([""]))[0].numpy(), text.encode([""], vocabulary, 12, start=True, allow_empty=True)
    )


def sample_lines(name):
    return (SAMPLE / f"{name}.csv").read_text(encoding="utf-8").splitlines()


def test_texts_without_words_or_far_too_long_are_not_ok():
    given = ["a cat", "", " \u2028", "cat " * 2500, "a" + " " * 50_000 + "cat", "\u1f67" * 3000, "a" + "\u0301" * 200]
    _, ok = strings.tokens(tf.constant(given), text.vocabulary(), 8)
    assert ok.numpy().tolist() == [True, False, False, True, True, True, False]
    _, ok = strings.tokens(tf.constant(["", "cat " * 9000]), text.vocabulary(), 8, allow_empty=True)
    assert ok.numpy().tolist() == [True, False]


def test_ids_are_decoded_as_by_text():
    vocabulary = text.vocabulary()
    ids = text.encode([*CAPTIONS, *ROUND_TRIPS, "", "[unk] ##"], vocabulary, 40, allow_empty=True)
    assert [one.decode() for one in strings.sentences(tf.constant(ids), vocabulary).numpy()] == text.decode(
        ids, vocabulary
    )


@pytest.mark.parametrize("stuffing", [b"\xff" * 200_000, b"\xff\xfe\0\2" * 100_000])
def test_a_jpeg_whose_header_does_not_end_is_refused_after_some_steps(decode, stuffing):
    file = PHOTOS[0].read_bytes()
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 1000 segments"):
        decode(file[:2] + stuffing + file[2:])
    few = file[:2] + stuffing[:400] + file[2:]
    np.testing.assert_array_equal(decode(few), media.read(few))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt"])
def test_compressed_texts_of_a_png_are_bounded_before_a_decoder_unpacks_them(decode, name):
    whole = encoded(Image.new("RGB", (8, 8), "red"))
    start = b"Comment\0\0" if name == b"zTXt" else b"Comment\0\1\0\0\0"

    def holding(*texts: bytes) -> bytes:
        return whole[:33] + b"".join(chunk(name, start + zlib.compress(one)) for one in texts) + whole[33:]

    for bomb in (holding(bytes(30_000_000)), holding(*[bytes(5_000_000)] * 100)):
        assert len(bomb) < 1_000_000
        with pytest.raises(tf.errors.InvalidArgumentError, match="bytes of compressed texts"):
            decode(bomb)
    np.testing.assert_array_equal(decode(holding(b"said " * 900)), media.read(whole))
    plain = whole[:33] + chunk(b"iTXt", b"Comment\0\0\0\0\0" + b"said " * 9000) + whole[33:]
    np.testing.assert_array_equal(decode(plain), media.read(whole))


@pytest.mark.parametrize("stuffing", [b"\x21\xfe\x01a\0" * 200_000, b"\x21\xfe" + b"\x01a" * 500_000 + b"\0"])
def test_a_gif_of_very_many_blocks_is_refused_after_some_steps(decode, stuffing):
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300), "uint8")), "GIF")
    first = 13 + 3 * (2 << (whole[10] & 7))
    with pytest.raises(tf.errors.InvalidArgumentError, match="more blocks than a frame needs"):
        decode(whole[:first] + stuffing + whole[first:])
    few = whole[:first] + b"\x21\xfe\x01a\0" * 200 + whole[first:]
    np.testing.assert_array_equal(decode(few), media.read(few))


def test_no_images_are_an_empty_batch():
    pixels, ok = pictures.batch(tf.constant([], tf.string), SHAPE)
    assert pixels.shape == (0, *SHAPE)
    assert ok.shape == (0,)
