"""Encoded images by hand: good ones, odd ones and bad ones."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

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
    "HTML": (lambda: b"<!DOCTYPE html><title>404</title>", "HTML or XML: expected JPEG, PNG.*fetch"),
    "text": (lambda: b"Once upon a time", "text: expected JPEG, PNG"),
    "a format that is not for pictures": (lambda: encoded(plain(size=(32, 32)), "ICO"), "JPEG, PNG.*Convert"),
    "PDF": (lambda: encoded(plain(), "PDF"), "a PDF: expected.*Convert"),
    "EPS, which would start a program": (lambda: encoded(plain(), "EPS"), "text: expected.*Convert"),
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
