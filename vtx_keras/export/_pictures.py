"""Decode and resize images inside a TensorFlow graph, to the same pixels as `media` gives, bit for bit.

JPEG, PNG, GIF and BMP, by core operations only, so that a stock server runs them. Headers are read here, because sizes
are checked before anything is decoded and Exif orientation is applied. Refused, because they would differ, are:

    JPEG more than 1,000 segments, or bytes between them, before the scan
    PNG  grey or RGB of other than 8 bits with one transparent colour; Exif in a text chunk; compressed XMP; more than
         16 kB of compressed texts, which a decoder unpacks
    BMP  16 bits per pixel, RLE, bit fields, OS/2 headers
    GIF  a frame that reaches beyond the screen; blocks that are shorter than 64 bytes on average, beyond 1,000
    all  a side of more than 65,535 pixels

A CMYK JPEG may differ by one level. So may a picture that Pillow, from 13 on, resizes columns first, as one of 1:7; by
bicubic or Lanczos, one of a thousand of its pixels differs by more, up to 6. Damaged files are refused where `media`
refuses them, except a GIF with impossible codes, which TensorFlow decodes to something.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vtx_keras.inputs import media

MAGIC = ((b"\xff\xd8\xff",), (b"\x89PNG\r\n\x1a\n",), (b"GIF87a", b"GIF89a"), (b"BM",))  # JPEG, PNG, GIF, BMP
PARALLEL = 4  # images decoded at the same time: each may take half a gigabyte, at the pixel limit
LAST_FRAME = b",\0\0\0\0\1\0\1\0\0\2\2\x44\1\0;"  # a GIF's frame of one pixel, and the end of the file
SEGMENTS, BLOCK, PACKED = 1_000, 64, 16_384  # of a JPEG's header; bytes of a GIF's block; of compressed texts in a PNG
LONGEST_SIDE = 65_535  # as in a JPEG; the resizing weights grow with it


def batch(encoded: tf.Tensor, shape: Sequence[int], fit: str = "pad") -> tuple[tf.Tensor, tf.Tensor]:
    """Apply `media.prepare` to every row: uint8 pixels (n, h, w, 3), and which rows could be read; others are black.

    For clips `encoded` is (n, t), the images of each clip, and pixels are (n, frames, h, w, 3).

    >>> from vtx_keras import data
    >>> photo = tf.io.read_file(str(data.sample("photos/cat.jpg")))
    >>> pixels, ok = batch(tf.stack([photo, "<html>"]), (32, 32, 3))
    >>> pixels.shape.as_list(), ok.numpy().tolist()
    ([2, 32, 32, 3], [True, False])
    """
    *frames, height, width, _ = shape
    if frames:
        encoded = pick_frames(encoded, frames[0])
    files, count = tf.reshape(encoded, [-1]), tf.size(encoded)

    def read(index: tf.Tensor, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, resize(decode(data), (height, width), fit)

    rows = tf.data.Dataset.from_tensor_slices((tf.range(count), files)).map(read, num_parallel_calls=PARALLEL)
    extra = tf.data.Dataset.from_tensors((-1, tf.zeros((height, width, 3), tf.uint8)))  # so that it is never empty
    readable = rows.ignore_errors().concatenate(extra).batch(tf.cast(count, tf.int64) + 1)
    index, pixels = (one[:-1] for one in readable.get_single_element())
    pixels = tf.scatter_nd(index[:, None], pixels, [count, height, width, 3])
    ok = tf.scatter_nd(index[:, None], tf.ones_like(index), [count]) > 0
    if frames:
        pixels, ok = tf.reshape(pixels, [-1, *shape]), tf.reduce_all(tf.reshape(ok, [-1, frames[0]]), axis=1)
    return pixels, ok


def fit_images(images: tf.Tensor, shape: Sequence[int], fit: str = "pad") -> tf.Tensor:
    """Apply `media.prepare` to uint8 images (n, h, w, 3), or clips (n, t, h, w, 3), that are all of one size.

    >>> fit_images(tf.zeros((2, 5, 8, 8, 3), tf.uint8), (3, 4, 4, 3)).shape.as_list()
    [2, 3, 4, 4, 3]
    """
    *frames, height, width, _ = shape
    images = pick_frames(images, frames[0]) if frames else images
    flat = tf.reshape(images, tf.concat([[-1], tf.shape(images)[-3:]], axis=0))
    with _require(_size_limit(tf.shape(flat)[1], tf.shape(flat)[2])):
        spec = tf.TensorSpec((height, width, 3), tf.uint8)
        flat = tf.map_fn(lambda image: resize(image, (height, width), fit), flat, fn_output_signature=spec)
    return tf.reshape(flat, [-1, *shape])


def pick_frames(clips: tf.Tensor, frames: int) -> tf.Tensor:
    """Pick `frames` entries of axis 1, spread as `media.read_clip` spreads them.

    >>> pick_frames(tf.range(8)[None], 4).numpy().tolist()
    [[1, 3, 5, 7]]
    """
    total = tf.shape(clips)[1]
    with tf.control_dependencies([tf.debugging.assert_positive(total, "a clip without pictures: expected at least 1")]):
        return tf.gather(clips, media.frame_places(total, frames), axis=1)


def decode(data: tf.Tensor) -> tf.Tensor:
    """Decode bytes to uint8 (h, w, 3), upright and with transparency on white; raise where that is not possible."""
    raw = tf.io.decode_raw(data, tf.uint8)
    matches = [tf.reduce_any([tf.strings.substr(data, 0, len(one)) == one for one in format]) for format in MAGIC]
    with _require((tf.reduce_any(matches), "expected a JPEG, PNG, GIF or BMP")):
        format = tf.argmax(tf.stack(matches), output_type=tf.int32)
    readers = [lambda read=read: read(data, raw) for read in (_jpeg, _png, _gif, _bmp)]
    return tf.ensure_shape(tf.switch_case(format, readers), (None, None, 3))


def _require(*conditions: tuple[Any, str]) -> Any:
    """Return a context whose operations run only if each condition is true; its message is the error otherwise."""
    return tf.control_dependencies([tf.debugging.Assert(condition, [message]) for condition, message in conditions])


def _size_limit(height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, str]:
    limit, area = media.PIXEL_LIMIT, tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    fits = (height > 0) & (width > 0) & (height <= LONGEST_SIDE) & (width <= LONGEST_SIDE) & (area <= limit)
    return fits, f"expected 1 to {limit} pixels, and sides of {LONGEST_SIDE} at most"


def _number(raw: tf.Tensor, at: Any, size: int, little: Any = True) -> tf.Tensor:
    """Return the integer in `size` bytes of `raw` (zeros beyond its end). All positions and numbers are int64."""
    digits = tf.cast(raw[at : at + size], tf.int64)
    digits = tf.pad(digits, [[0, size - tf.size(digits)]])
    values = tf.constant([256**i for i in range(size)], tf.int64)
    return tf.reduce_sum(digits * tf.where(little, values, values[::-1]))


# --- the four formats


def _jpeg(data: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
    shape = tf.image.extract_jpeg_shape(data)
    exif, xmp, read = _metadata(raw)
    with _require(_size_limit(shape[0], shape[1]), (read, f"more than {SEGMENTS} segments")):
        image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    return _upright(image, _orientation(raw[exif[0] : exif[1]], tf.strings.substr(data, xmp[0], xmp[1] - xmp[0])))


def _metadata(raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return where the first Exif and the last XMP of a JPEG begin and end, and whether all of its header was read."""

    def starts_with(at: tf.Tensor, name: bytes) -> tf.Tensor:
        return tf.reduce_all(raw[at : at + len(name)] == np.frombuffer(name, "uint8"))

    def header(at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
        return (raw[at] == 0xFF) & (raw[at + 1] != 0xDA)

    def segment(at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        marker = raw[at + 1]
        without_length = (marker == 1) | ((marker >= 0xD0) & (marker <= 0xD8))
        length = tf.where(without_length, tf.constant(0, tf.int64), _number(raw, at + 2, 2, little=False))
        after = tf.where(marker == 0xFF, at + 1, at + 2 + length)  # 0xFF may be repeated

        def application() -> tuple[tf.Tensor, tf.Tensor]:
            is_exif, exif_range = starts_with(at + 4, b"Exif\0\0") & (exif[1] == 0), tf.stack([at + 10, after])
            is_xmp, xmp_range = starts_with(at + 4, b"http://ns.adobe.com/xap"), tf.stack([at + 4, after])
            return tf.where(is_exif, exif_range, exif), tf.where(is_xmp, xmp_range, xmp)

        return after, *tf.cond(marker == 0xE1, application, lambda: (exif, xmp))

    start, none = tf.constant(2, tf.int64), tf.zeros(2, tf.int64)
    at, exif, xmp = tf.while_loop(header, segment, (start, none, none), maximum_iterations=SEGMENTS)
    return exif, xmp, ~header(at, exif, xmp)


def _png(data: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
    width, height = _number(raw, 16, 4, little=False), _number(raw, 20, 4, little=False)
    depth, colour = raw[24], raw[25]  # colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA
    clear = tf.size(tf.strings.split(tf.strings.split(data, b"IDAT", 1)[0], b"tRNS", 1)) > 1
    (exif, _), (xmp, xmp_parts), (packed, _), (international, contents) = (
        _chunks(data, raw, start) for start in (b"eXIf", b"iTXtXML:com.adobe.xmp\0", b"zTXt", b"iTXt")
    )
    packed = tf.concat([packed, international[tf.strings.regex_full_match(contents, rb"\C{1,79}\0\x01\C*")]], axis=0)
    exif, xmp = (tf.concat([one, tf.zeros((1, 2), tf.int64)], axis=0)[0] for one in (exif, xmp))
    orientation = _orientation(raw[exif[0] : exif[1]], tf.strings.substr(data, xmp[0], xmp[1] - xmp[0]))
    hidden = tf.reduce_any(tf.strings.regex_full_match(xmp_parts[:1], rb"\x01\C*"))
    hidden |= tf.size(tf.strings.split(data, b"Raw profile type exif", 1)) > 1

    def grey_16_bits() -> tf.Tensor:
        grey = tf.cast(tf.io.decode_png(data, channels=1, dtype=tf.uint16), tf.int32)
        return tf.repeat(tf.cast((grey + 128) // 257, tf.uint8), 3, axis=-1)

    def with_alpha() -> tf.Tensor:
        image = tf.cast(tf.io.decode_png(data, channels=4), tf.uint16)  # large enough for all that follows
        alpha = image[..., 3:]
        mixed = image[..., :3] * alpha + 255 * (255 - alpha) + 128
        return tf.cast(tf.bitwise.right_shift(tf.bitwise.right_shift(mixed, 8) + mixed, 8), tf.uint8)

    with _require(
        _size_limit(height, width),
        (~(clear & ((colour == 0) | (colour == 2)) & (depth != 8)), "one transparent colour, not of 8 bits"),
        (~hidden, "Exif or XMP in a compressed or text chunk"),
        (tf.reduce_sum(packed[:, 1] - packed[:, 0]) <= PACKED, f"more than {PACKED} bytes of compressed texts"),
    ):
        # TensorFlow decodes an image below 8 bits without alpha wrongly to four channels.
        kind = tf.where((colour == 0) & (depth == 16), 0, tf.where(clear | (colour >= 4), 1, 2))
        readers = [grey_16_bits, with_alpha, lambda: tf.io.decode_png(data, channels=3)]
        return _upright(tf.switch_case(kind, readers), orientation)


def _chunks(data: tf.Tensor, raw: tf.Tensor, start: bytes) -> tuple[tf.Tensor, tf.Tensor]:
    """Return where a PNG's chunks whose name and content start so begin and end, (n, 2), and what follows the start."""
    parts = tf.strings.split(data, start)
    begins = tf.cumsum(tf.cast(tf.strings.length(parts), tf.int64) + len(start))[:-1] - len(start) + 4
    digits = tf.cast(tf.gather(raw, begins[:, None] - [8, 7, 6, 5]), tf.int64)
    ends = tf.minimum(begins + (digits @ [[1 << 24], [1 << 16], [1 << 8], [1]])[:, 0], tf.size(raw, tf.int64))
    return tf.stack([begins, ends], axis=1), parts[1:]


def _gif(data: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
    """Decode the first frame, rewritten as a file of its own with a grey palette, so that pixels are its indices."""
    byte = lambda at: tf.cast(raw[at], tf.int64)  # noqa: E731
    none, width, height = tf.constant(0, tf.int64), _number(raw, 6, 2), _number(raw, 8, 2)

    def table(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(none + 2, flags % 8), none)

    def after_blocks(at: tf.Tensor, left: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        more = lambda at, left: (raw[at] > 0) & (left > 0)  # noqa: E731
        at, left = tf.while_loop(more, lambda at, left: (at + 1 + byte(at), left - 1), (at, left))
        return at + 1, left

    def extension(at: tf.Tensor, clear: tf.Tensor, left: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        has_clear = (raw[at + 1] == 0xF9) & (byte(at + 3) % 2 == 1)
        after, left = after_blocks(at + 2, left - 1)
        return after, tf.where(has_clear, byte(at + 6), clear), left

    common, left = 13 + table(byte(10)), SEGMENTS + tf.size(raw, tf.int64) // BLOCK  # steps that it may take
    start = (common, none - 1, left)
    at, clear, left = tf.while_loop(lambda at, _, left: (raw[at] == 0x21) & (left > 0), extension, start)
    x, y, wide, high = (_number(raw, at + i, 2) for i in (1, 3, 5, 7))
    flags, local = byte(at + 9), at + 10 + table(byte(at + 9))
    colours = tf.cond(flags >= 128, lambda: raw[at + 10 : local], lambda: raw[13:common])
    greys = np.repeat(np.arange(256, dtype="uint8"), 3)
    size = tf.strings.substr(data, at + 5, none + 4)
    end, left = after_blocks(local + 1, left)
    codes = tf.strings.substr(data, local, end - local)
    interlaced = tf.where(tf.bitwise.bitwise_and(flags, 0x40) > 0, b"\x40", b"\0")
    parts = (b"GIF89a", size, b"\xf7\0\0" + bytes(greys) + b",\0\0\0\0", size)
    frame_file = tf.strings.join([*parts, interlaced, codes, LAST_FRAME])
    with _require(
        _size_limit(height, width),
        (left > 0, "more blocks than a frame needs"),
        (raw[at] == 0x2C, "expected a frame"),
        ((x + wide <= width) & (y + high <= height), "a frame beyond the screen"),
    ):
        frames = tf.io.decode_gif(frame_file)
    # TensorFlow decodes a damaged frame as far as it can, and stops there: then the second frame is missing.
    with _require((tf.shape(frames)[0] == 2, "the first frame is damaged")):
        index, clear = tf.cast(frames[0, :, :, 0], tf.int32), tf.cast(clear, tf.int32)
    index = tf.pad(index, [[y, height - y - high], [x, width - x - wide]], constant_values=tf.maximum(clear, 0))
    palette = tf.concat([colours, tf.constant(greys)[tf.size(colours) :]], axis=0)
    image = tf.gather(tf.reshape(palette, [256, 3]), index)
    return tf.where((index == clear)[..., None], tf.constant(255, tf.uint8), image)


def _bmp(data: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
    start, header, width, height, packing, colours = (_number(raw, at, 4) for at in (10, 14, 18, 22, 30, 46))
    bits = _number(raw, 28, 2)
    upward = height < 1 << 31
    height = tf.where(upward, height, (1 << 32) - height)
    colours = tf.where(colours > 0, colours, tf.bitwise.left_shift(tf.constant(1, tf.int64), tf.minimum(bits, 9)))
    supported = [tf.reduce_any(header == [40, 52, 56, 64, 108, 124]), tf.reduce_any(bits == [1, 4, 8, 24, 32])]
    with_palette, place = bits <= 8, 14 + header
    with _require(
        _size_limit(height, width),
        (tf.reduce_all([*supported, packing == 0, start >= place]), "an unsupported kind of BMP"),
        (~with_palette | ((start >= place + 4) & (colours <= 256) & ((bits == 1) | (colours > 2))), "an odd palette"),
    ):
        stride = (width * bits + 31) // 32 * 4
    rows = tf.reshape(raw[start : start + stride * height], [height, stride])
    rows = tf.cond(upward, lambda: rows[::-1], lambda: rows)

    def direct() -> tf.Tensor:
        size = bits // 8
        return tf.reshape(rows[:, : width * size], [height, width, size])[..., 2::-1]

    def by_palette() -> tf.Tensor:
        shifts = tf.cast(tf.range(8 - bits, -1, -bits), tf.uint8)
        mask = tf.cast(tf.bitwise.left_shift(tf.constant(1, tf.int64), bits) - 1, tf.uint8)
        index = tf.bitwise.bitwise_and(tf.bitwise.right_shift(rows[..., None], shifts), mask)
        index = tf.reshape(index, [height, -1])[:, :width]
        palette = tf.reshape(raw[place : place + 4 * colours], [-1, 4])[:, 2::-1]
        return tf.gather(palette, tf.cast(index, tf.int32))

    return tf.cond(with_palette, by_palette, direct)


# --- orientation


def _orientation(exif: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
    """Return 1 to 8 from the bytes of a TIFF header and its fields, or else from XMP; 1 where neither has one."""
    little = _number(exif, 0, 4) == 0x002A4949  # "II*\0", little-endian; "MM\0*" is big-endian
    valid = little | (_number(exif, 0, 4) == 0x2A004D4D)
    place = tf.minimum(_number(exif, 4, 4, little), tf.size(exif, tf.int64))
    count = tf.minimum(_number(exif, place, 2, little), tf.size(exif[place + 2 :], tf.int64) // 12)
    fields = tf.cast(tf.reshape(exif[place + 2 : place + 2 + 12 * count], [-1, 12]), tf.int64)
    two_bytes = tf.where(little, tf.constant([1, 256], tf.int64), tf.constant([256, 1], tf.int64))
    matching = tf.where(tf.reduce_sum(fields[:, :2] * two_bytes, axis=1) == 0x0112)[:, 0]
    field = tf.reshape(tf.cast(tf.gather(fields, matching[:1]), tf.uint8), [-1])  # 12 bytes, or none
    kind = _number(field, 2, 2, little)
    of_exif = tf.where(kind == 4, _number(field, 8, 4, little), _number(field, 8, 2, little))
    of_xmp = tf.strings.regex_replace(xmp, rb'^\C*?tiff:Orientation(?:="|>)([0-9])\C*$', rb"\1")
    of_xmp = tf.where(tf.strings.regex_full_match(of_xmp, "[1-8]"), of_xmp, "1")
    one_number = ((kind == 3) | (kind == 4)) & (_number(field, 4, 4, little) == 1)
    with _require(((tf.size(field) == 0) | one_number, "an orientation that is not one whole number")):
        absent = (tf.size(exif) == 0) | (valid & (tf.size(field) == 0))
        value = tf.where(absent, tf.strings.to_number(of_xmp, tf.int64), tf.where(valid, of_exif, 1))
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    def turned() -> tf.Tensor:
        x = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        x = tf.cond(tf.reduce_any(orientation == [3, 4, 7, 8]), lambda: x[::-1], lambda: x)
        return tf.cond(tf.reduce_any(orientation == [2, 3, 6, 7]), lambda: x[:, ::-1], lambda: x)

    return tf.cond(orientation > 1, turned, lambda: image)


# --- resizing

STRIP, BITS = 1 << 22, 22  # pixels resized at a time; bits of a weight's fraction, as in Pillow
KERNELS = {  # by the end of a fit's name: how far Pillow's filter reaches, and its values from there to 0
    "": (1, lambda x: 1.0 - x),
    "bicubic": (2, lambda x: tf.where(x < 1, (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5)),
    "lanczos": (3, lambda x: tf.experimental.numpy.sinc(x) * tf.experimental.numpy.sinc(x / 3)),
}


def resize(image: tf.Tensor, size: Sequence[int], fit: str = "pad") -> tf.Tensor:
    """Resize uint8 (h, w, 3) to `size` exactly as `media.resize` does: Pillow's own arithmetic, in integers.

    >>> resize(tf.zeros((20, 40, 3), tf.uint8), (4, 4)).numpy()[:, 0, 0].tolist()
    [255, 0, 0, 255]
    """
    (height, width), shape, (kind, _, name) = size, tf.shape(image), fit.partition("-")

    def resized() -> tf.Tensor:
        h, w, zero = (tf.cast(side, tf.float64) for side in (shape[0], shape[1], 0))
        if kind == "stretch":
            return _resample(image, (height, zero, h), (width, zero, w), name)
        if kind == "crop":
            across = tf.minimum(w, width / height * h)
            down = tf.where(w / h >= width / height, h, w / (width / height))
            left, top = (w - across) / 2, (h - down) / 2
            return _resample(image, (height, top, top + down), (width, left, left + across), name)
        if kind == "shortest":
            high, wide = (
                tf.maximum(a, tf.cast(b * x / y, tf.int32)) for a, b, x, y in ((*size, h, w), (*size[::-1], w, h))
            )
            rows, columns = (high, zero, h, (high - height) // 2, height), (wide, zero, w, (wide - width) // 2, width)
            with _require(_size_limit(high, wide)):
                return _resample(image, rows, columns, name)
        scale = tf.minimum(width / w, height / h)
        high, wide = (tf.maximum(1, tf.cast(side * scale + 0.5, tf.int32)) for side in (h, w))
        inner = _resample(image, (high, zero, h), (wide, zero, w), name)
        borders = [[(a - b) // 2, (a - b + 1) // 2] for a, b in ((height, high), (width, wide))]
        return tf.pad(inner, [*borders, [0, 0]], constant_values=255)

    unchanged = tf.reduce_all(shape[:2] == [height, width])
    return tf.ensure_shape(tf.cond(unchanged, lambda: image, resized), (height, width, 3))


def _resample(image: tf.Tensor, rows: tuple, columns: tuple, name: str) -> tf.Tensor:
    """Resize; `rows` and `columns` give the new number, the start and end of the old that are sampled, and a part."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    across, down = _weights(name, width, *columns), _weights(name, height, *rows)

    def narrow(strip: tf.Tensor) -> tf.Tensor:
        return tf.transpose(_apply(across, tf.transpose(strip, [1, 0, 2])), [1, 0, 2])

    strips = tf.maximum(1, height * width // STRIP)  # limits the memory that a large image takes
    high = -(-height // strips)
    padded = tf.reshape(tf.pad(image, [[0, strips * high - height], [0, 0], [0, 0]]), [strips, high, width, 3])
    spec = tf.TensorSpec((None, None, 3), tf.uint8)
    narrowed = tf.map_fn(narrow, padded, fn_output_signature=spec, parallel_iterations=1)
    return _apply(down, tf.reshape(narrowed, [strips * high, -1, 3])[:height])


def _apply(weights: tf.SparseTensor, image: tf.Tensor) -> tf.Tensor:
    """Resize the first axis of an image."""
    flat = tf.cast(tf.reshape(image, [tf.shape(image)[0], -1]), tf.int32)
    sums = tf.sparse.sparse_dense_matmul(weights, flat) + (1 << (BITS - 1))
    rounded = tf.clip_by_value(tf.bitwise.right_shift(sums, BITS), 0, 255)
    return tf.reshape(tf.cast(rounded, tf.uint8), [-1, tf.shape(image)[1], 3])


def _weights(name: str, length: Any, size: Any, low: Any, high: Any, begin: Any = 0, count: Any = None) -> Any:
    """Return the resizing matrix (size, length), each row summing to 1 << BITS; or `count` of its rows from `begin`."""
    support, kernel = KERNELS[name]
    # Pillow stores the ends of the sampled range, and subtracts them, in single precision; the rest is in double.
    low, high = tf.cast(low, tf.float32), tf.cast(high, tf.float32)
    low, scale = tf.cast(low, tf.float64), tf.cast(high - low, tf.float64) / tf.cast(size, tf.float64)
    shrink, count = tf.maximum(scale, 1.0), size if count is None else count
    reach = support * shrink
    centres = low + (tf.cast(begin + tf.range(count), tf.float64) + 0.5) * scale
    first = tf.maximum(tf.cast(centres - reach + 0.5, tf.int32), 0)
    last = tf.minimum(tf.cast(centres + reach + 0.5, tf.int32), length)
    at = first[:, None] + tf.range(tf.cast(tf.math.ceil(reach), tf.int32) * 2 + 1)
    distance = tf.abs((tf.cast(at, tf.float64) - centres[:, None] + 0.5) * (1.0 / shrink))
    weights = tf.where((at < last[:, None]) & (distance < support), kernel(distance), 0.0)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    integers = tf.cast(weights * (1 << BITS) + 0.5 * tf.sign(weights), tf.int32)
    places = tf.stack([tf.broadcast_to(tf.range(count)[:, None], tf.shape(at)), tf.minimum(at, length - 1)], axis=-1)
    shape = tf.cast(tf.stack([count, length]), tf.int64)
    return tf.SparseTensor(tf.cast(tf.reshape(places, [-1, 2]), tf.int64), tf.reshape(integers, [-1]), shape)
