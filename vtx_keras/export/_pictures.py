"""Pictures inside a TensorFlow graph, by the rule of `media`: of JPEG, PNG, GIF and BMP the very pixels that it gives.

Core operations only, so that a server runs them. Headers are read here: sizes are checked before anything is decoded,
Exif orientation is applied, and what the graph cannot read as `media` reads it is refused:

    PNG  grey or RGB of other than 8 bits with one transparent colour; Exif in a text chunk; XMP compressed
    BMP  16 bits per pixel, RLE, bit fields, OS/2 headers
    GIF  a frame that reaches beyond the screen
    all  a side of more than 65,535 pixels

A CMYK JPEG may differ by one level. All else is decoded to the last bit; for sizes see `resizing`. Damaged files are
refused as `media` refuses them, but for a GIF with impossible codes in it: TensorFlow reads those as something.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vtx_keras.inputs import media

MAGIC = ((b"\xff\xd8\xff",), (b"\x89PNG\r\n\x1a\n",), (b"GIF87a", b"GIF89a"), (b"BM",))  # JPEG, PNG, GIF, BMP
AT_ONCE = 4  # pictures decoded at the same time: each may take half a gigabyte, at the pixel limit
DOT = b",\0\0\0\0\1\0\1\0\0\2\2\x44\1\0;"  # a GIF's frame of one pixel, and its end
LONGEST_SIDE = 65_535  # as in a JPEG; the weights that resize a side grow with it


def batch(encoded: tf.Tensor, shape: Sequence[int], fit: str = "pad") -> tuple[tf.Tensor, tf.Tensor]:
    """`media.prepare` of every row: uint8 pixels (n, h, w, 3), and which rows could be read; the others are black.

    For clips `encoded` is (n, t), the pictures of each clip, and pixels are (n, frames, h, w, 3).

    >>> from vtx_keras import data
    >>> photo = tf.io.read_file(str(data.sample("photos/cat.jpg")))
    >>> pixels, ok = batch(tf.stack([photo, "<html>"]), (32, 32, 3))
    >>> pixels.shape.as_list(), ok.numpy().tolist()
    ([2, 32, 32, 3], [True, False])
    """
    *frames, height, width, _ = shape
    if frames:
        encoded = picked(encoded, frames[0])
    many, count = tf.reshape(encoded, [-1]), tf.size(encoded)

    def numbered(index: tf.Tensor, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, resize(decode(data), (height, width), fit)

    good = tf.data.Dataset.from_tensor_slices((tf.range(count), many)).map(numbered, num_parallel_calls=AT_ONCE)
    last = tf.data.Dataset.from_tensors((-1, tf.zeros((height, width, 3), tf.uint8)))  # so that it is never empty
    found = good.ignore_errors().concatenate(last).batch(tf.cast(count, tf.int64) + 1)
    index, pixels = found.get_single_element()
    index, pixels = index[:-1, None], pixels[:-1]
    pixels = tf.scatter_nd(index, pixels, [count, height, width, 3])
    ok = tf.scatter_nd(index, tf.ones_like(index[:, 0]), [count]) > 0
    if frames:
        pixels, ok = tf.reshape(pixels, [-1, *shape]), tf.reduce_all(tf.reshape(ok, [-1, frames[0]]), axis=1)
    return pixels, ok


def fitted(images: tf.Tensor, shape: Sequence[int], fit: str = "pad") -> tf.Tensor:
    """`media.prepare` of uint8 pictures (n, h, w, 3), or of clips (n, t, h, w, 3), that are all of one size.

    >>> fitted(tf.zeros((2, 5, 8, 8, 3), tf.uint8), (3, 4, 4, 3)).shape.as_list()
    [2, 3, 4, 4, 3]
    """
    *frames, height, width, _ = shape
    images = picked(images, frames[0]) if frames else images
    many = tf.reshape(images, tf.concat([[-1], tf.shape(images)[-3:]], axis=0))
    with _only_if(_size_fits(tf.shape(many)[1], tf.shape(many)[2])):
        spec = tf.TensorSpec((height, width, 3), tf.uint8)
        many = tf.map_fn(lambda one: resize(one, (height, width), fit), many, fn_output_signature=spec)
    return tf.reshape(many, [-1, *shape])


def picked(clips: tf.Tensor, frames: int) -> tf.Tensor:
    """Of axis 1, as many as `frames`, spread as `media.read_clip` spreads them.

    >>> picked(tf.range(8)[None], 4).numpy().tolist()
    [[1, 3, 5, 7]]
    """
    total = tf.shape(clips)[1]
    with tf.control_dependencies([tf.debugging.assert_positive(total, "a clip without pictures: expected at least 1")]):
        return tf.gather(clips, media.frame_places(total, frames), axis=1)


def decode(data: tf.Tensor) -> tf.Tensor:
    """Encoded bytes to uint8 (h, w, 3), upright, transparency laid on white; an error where that is not possible."""
    raw = tf.io.decode_raw(data, tf.uint8)
    start = tf.strings.substr(data, 0, max(len(one) for kind in MAGIC for one in kind))
    is_kind = [tf.reduce_any([tf.strings.substr(start, 0, len(one)) == one for one in kind]) for kind in MAGIC]
    which = tf.argmax(tf.stack([*is_kind, True]), output_type=tf.int32)
    readers = [lambda read=read: read(data, raw) for read in (_jpeg, _png, _gif, _bmp, _other)]
    return tf.ensure_shape(tf.switch_case(which, readers), (None, None, 3))


def _other(data: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
    with _only_if((False, "expected a JPEG, PNG, GIF or BMP")):
        return tf.zeros((0, 0, 3), tf.uint8)


def _only_if(*promises: tuple[Any, str]) -> Any:
    return tf.control_dependencies([tf.debugging.Assert(promise, [told]) for promise, told in promises])


def _size_fits(height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, str]:
    limit = media.PIXEL_LIMIT
    area = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    fits = (height > 0) & (width > 0) & (height <= LONGEST_SIDE) & (width <= LONGEST_SIDE) & (area <= limit)
    return fits, f"expected 1 to {limit} pixels, and sides of {LONGEST_SIDE} at most"


def _number(raw: tf.Tensor, at: Any, size: int, little: Any = True) -> tf.Tensor:
    """The whole number in `size` bytes of `raw`; beyond its end there are zeros. All places and numbers are int64."""
    found = tf.cast(raw[at : at + size], tf.int64)
    found = tf.pad(found, [[0, size - tf.size(found)]])
    places = tf.constant([256**i for i in range(size)], tf.int64)
    return tf.reduce_sum(found * tf.where(little, places, places[::-1]))


# --- the four formats


def _jpeg(data: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
    shape = tf.image.extract_jpeg_shape(data)
    exif, xmp = _notes(raw)
    with _only_if(_size_fits(shape[0], shape[1])):
        picture = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    return _upright(picture, _orientation(raw[exif[0] : exif[1]], tf.strings.substr(data, xmp[0], xmp[1] - xmp[0])))


def _notes(raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where the first Exif and the last XMP of a JPEG begin and end, segment by segment up to the picture itself."""

    def begins(at: tf.Tensor, name: bytes) -> tf.Tensor:
        return tf.reduce_all(raw[at : at + len(name)] == np.frombuffer(name, "uint8"))

    def header(at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
        return (raw[at] == 0xFF) & (raw[at + 1] != 0xDA)

    def segment(at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        kind = raw[at + 1]
        alone = (kind == 1) | ((kind >= 0xD0) & (kind <= 0xD8))
        length = tf.where(alone, tf.constant(0, tf.int64), _number(raw, at + 2, 2, little=False))
        after = tf.where(kind == 0xFF, at + 1, at + 2 + length)  # 0xFF may be repeated

        def note() -> tuple[tf.Tensor, tf.Tensor]:
            first, place = begins(at + 4, b"Exif\0\0") & (exif[1] == 0), tf.stack([at + 4, after])
            exif_place, is_xmp = tf.stack([at + 10, after]), begins(at + 4, b"http://ns.adobe.com/xap")
            return tf.where(first, exif_place, exif), tf.where(is_xmp, place, xmp)

        return after, *tf.cond(kind == 0xE1, note, lambda: (exif, xmp))

    start, nowhere = tf.constant(2, tf.int64), tf.zeros(2, tf.int64)
    return tf.while_loop(header, segment, (start, nowhere, nowhere))[1:]


def _png(data: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
    width, height = _number(raw, 16, 4, little=False), _number(raw, 20, 4, little=False)
    depth, colour = raw[24], raw[25]  # colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA
    clear = tf.size(tf.strings.split(tf.strings.split(data, b"IDAT", 1)[0], b"tRNS", 1)) > 1

    def chunk(parts: tf.Tensor) -> tf.Tensor:
        """Where the note between whose name and rest the bytes were parted begins and ends."""
        known = tf.size(parts) > 1
        start = tf.cast(tf.strings.length(parts[0]), tf.int64) + 4
        place = tf.minimum(tf.stack([start, start + _number(raw, start - 8, 4, little=False)]), tf.size(raw, tf.int64))
        return tf.where(known, place, tf.zeros(2, tf.int64))

    exif = chunk(tf.strings.split(data, b"eXIf", 1))
    xmp = tf.strings.split(data, b"iTXtXML:com.adobe.xmp\0", 1)
    place = chunk(xmp)
    notes = _orientation(raw[exif[0] : exif[1]], tf.strings.substr(data, place[0], place[1] - place[0]))
    packed = (tf.size(xmp) > 1) & tf.strings.regex_full_match(xmp[-1], rb"\x01\C*")
    hidden = tf.size(tf.strings.split(data, b"Raw profile type exif", 1)) > 1

    def deep() -> tf.Tensor:
        grey = tf.cast(tf.io.decode_png(data, channels=1, dtype=tf.uint16), tf.int32)
        return tf.repeat(tf.cast((grey + 128) // 257, tf.uint8), 3, axis=-1)

    def with_alpha() -> tf.Tensor:
        picture = tf.cast(tf.io.decode_png(data, channels=4), tf.uint16)  # which holds all that follows
        alpha = picture[..., 3:]
        mixed = picture[..., :3] * alpha + 255 * (255 - alpha) + 128
        return tf.cast(tf.bitwise.right_shift(tf.bitwise.right_shift(mixed, 8) + mixed, 8), tf.uint8)

    with _only_if(
        _size_fits(height, width),
        (~(clear & ((colour == 0) | (colour == 2)) & (depth != 8)), "one transparent colour, not of 8 bits"),
        (~(packed | hidden), "Exif or XMP in a compressed or text chunk"),
    ):
        # Four channels of a picture below 8 bits that has no alpha would be wrong.
        kind = tf.where((colour == 0) & (depth == 16), 0, tf.where(clear | (colour >= 4), 1, 2))
        plain = lambda: tf.io.decode_png(data, channels=3)  # noqa: E731
        return _upright(tf.switch_case(kind, [deep, with_alpha, plain]), notes)


def _gif(data: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
    """The first frame. It is written anew, alone and with greys for a palette, so that decoding tells the indices."""
    byte = lambda at: tf.cast(raw[at], tf.int64)  # noqa: E731
    none, width, height = tf.constant(0, tf.int64), _number(raw, 6, 2), _number(raw, 8, 2)

    def table(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(none + 2, flags % 8), none)

    def after_blocks(at: tf.Tensor) -> tf.Tensor:
        return 1 + tf.while_loop(lambda at: raw[at] > 0, lambda at: (at + 1 + byte(at),), (at,))[0]

    def extension(at: tf.Tensor, clear: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        told = (raw[at + 1] == 0xF9) & (byte(at + 3) % 2 == 1)
        return after_blocks(at + 2), tf.where(told, byte(at + 6), clear)

    common = 13 + table(byte(10))
    at, clear = tf.while_loop(lambda at, _: raw[at] == 0x21, extension, (common, none - 1))
    left, top, wide, high = (_number(raw, at + i, 2) for i in (1, 3, 5, 7))
    flags = byte(at + 9)
    local = at + 10 + table(flags)
    colours = tf.cond(flags >= 128, lambda: raw[at + 10 : local], lambda: raw[13:common])
    greys = tf.repeat(tf.range(256, dtype=tf.int32), 3)
    alone = tf.strings.join(
        [
            b"GIF89a",
            tf.strings.substr(data, at + 5, none + 4),
            b"\xf7\0\0" + bytes(np.repeat(np.arange(256, dtype="uint8"), 3)) + b",\0\0\0\0",
            tf.strings.substr(data, at + 5, none + 4),
            tf.where(tf.bitwise.bitwise_and(flags, 0x40) > 0, b"\x40", b"\0"),
            tf.strings.substr(data, local, after_blocks(local + 1) - local),
            DOT,
        ]
    )
    with _only_if(
        _size_fits(height, width),
        (raw[at] == 0x2C, "expected a frame"),
        ((left + wide <= width) & (top + high <= height), "a frame beyond the screen"),
    ):
        frames = tf.io.decode_gif(alone)
    # Of a damaged frame TensorFlow makes what it can, and goes no further.
    with _only_if((tf.shape(frames)[0] == 2, "the first frame is damaged")):
        index = tf.cast(frames[0, :, :, 0], tf.int32)
    around = [[top, height - top - high], [left, width - left - wide]]
    clear = tf.cast(clear, tf.int32)
    index = tf.pad(index, around, constant_values=tf.maximum(clear, 0))
    palette = tf.concat([colours, tf.cast(greys[tf.size(colours) :], tf.uint8)], axis=0)
    picture = tf.gather(tf.reshape(palette, [256, 3]), index)
    return tf.where((index == clear)[..., None], tf.constant(255, tf.uint8), picture)


def _bmp(data: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
    start, header, width, height, packing, colours = (_number(raw, at, 4) for at in (10, 14, 18, 22, 30, 46))
    bits = _number(raw, 28, 2)
    upward = height < 1 << 31
    height = tf.where(upward, height, (1 << 32) - height)
    colours = tf.where(colours > 0, colours, tf.bitwise.left_shift(tf.constant(1, tf.int64), tf.minimum(bits, 9)))
    known = [tf.reduce_any(header == [40, 52, 56, 64, 108, 124]), tf.reduce_any(bits == [1, 4, 8, 24, 32])]
    with_palette = bits <= 8
    place = 14 + header
    with _only_if(
        _size_fits(height, width),
        (tf.reduce_all([*known, packing == 0, start >= place]), "a kind of BMP that is not known"),
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
    """1 to 8 from the bytes of a TIFF header and what follows it, or else from XMP; 1 where neither tells."""
    little = _number(exif, 0, 4) == 0x002A4949  # "II*\0", Intel's order; the other is "MM\0*"
    sound = little | (_number(exif, 0, 4) == 0x2A004D4D)
    place = tf.minimum(_number(exif, 4, 4, little), tf.size(exif, tf.int64))
    count = tf.minimum(_number(exif, place, 2, little), tf.size(exif[place + 2 :], tf.int64) // 12)
    fields = tf.cast(tf.reshape(exif[place + 2 : place + 2 + 12 * count], [-1, 12]), tf.int64)
    two = tf.where(little, tf.constant([1, 256], tf.int64), tf.constant([256, 1], tf.int64))
    which = tf.where(tf.reduce_sum(fields[:, :2] * two, axis=1) == 0x0112)[:, 0]
    field = tf.reshape(tf.cast(tf.gather(fields, which[:1]), tf.uint8), [-1])  # 12 bytes, or none
    kind = _number(field, 2, 2, little)
    told = tf.where(kind == 4, _number(field, 8, 4, little), _number(field, 8, 2, little))
    of_xmp = tf.strings.regex_replace(xmp, rb'^\C*?tiff:Orientation(?:="|>)([0-9])\C*$', rb"\1")
    of_xmp = tf.where(tf.strings.regex_full_match(of_xmp, "[1-8]"), of_xmp, "1")
    one_number = ((kind == 3) | (kind == 4)) & (_number(field, 4, 4, little) == 1)
    with _only_if(((tf.size(field) == 0) | one_number, "an orientation that is not one whole number")):
        absent = (tf.size(exif) == 0) | (sound & (tf.size(field) == 0))
        told = tf.where(absent, tf.strings.to_number(of_xmp, tf.int64), tf.where(sound, told, 1))
    return tf.where((told >= 1) & (told <= 8), told, 1)


def _upright(picture: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    def turned() -> tf.Tensor:
        x = tf.cond(orientation >= 5, lambda: tf.transpose(picture, [1, 0, 2]), lambda: picture)
        x = tf.cond(tf.reduce_any(orientation == [3, 4, 7, 8]), lambda: x[::-1], lambda: x)
        return tf.cond(tf.reduce_any(orientation == [2, 3, 6, 7]), lambda: x[:, ::-1], lambda: x)

    return tf.cond(orientation > 1, turned, lambda: picture)


STRIP = 1 << 22  # pixels resized at a time
BITS = 22  # of a weight


def resize(picture: tf.Tensor, size: Sequence[int], fit: str = "pad") -> tf.Tensor:
    """uint8 (h, w, 3) at `size`, equal to what `media.resize` gives: Pillow's own arithmetic, in whole numbers.

    >>> resize(tf.zeros((20, 40, 3), tf.uint8), (4, 4)).numpy()[:, 0, 0].tolist()
    [255, 0, 0, 255]
    """
    height, width = size
    found = tf.shape(picture)

    def sized() -> tf.Tensor:
        h, w = tf.cast(found[0], tf.float64), tf.cast(found[1], tf.float64)
        zero = tf.constant(0.0, tf.float64)
        if fit == "stretch":
            return _resampled(picture, (height, zero, h), (width, zero, w))
        if fit == "crop":
            across = tf.minimum(w, width / height * h)
            down = tf.where(w / h >= width / height, h, w / (width / height))
            left, top = (w - across) / 2, (h - down) / 2
            return _resampled(picture, (height, top, top + down), (width, left, left + across))
        scale = tf.minimum(width / w, height / h)
        high, wide = (tf.maximum(1, tf.cast(side * scale + 0.5, tf.int32)) for side in (h, w))
        inner = _resampled(picture, (high, zero, h), (wide, zero, w))
        top, left = (height - high) // 2, (width - wide) // 2
        around = [[top, height - high - top], [left, width - wide - left], [0, 0]]
        return tf.pad(inner, around, constant_values=255)

    already = tf.reduce_all(found[:2] == [height, width])
    return tf.ensure_shape(tf.cond(already, lambda: picture, sized), (height, width, 3))


def _resampled(picture: tf.Tensor, rows: tuple, columns: tuple) -> tf.Tensor:
    """Each of `rows` and `columns`: how many there will be, and which stretch of those there are they come from."""
    height, width = tf.shape(picture)[0], tf.shape(picture)[1]
    across, down = _weights(width, *columns), _weights(height, *rows)

    def narrow(strip: tf.Tensor) -> tf.Tensor:
        return tf.transpose(_weighed(across, tf.transpose(strip, [1, 0, 2])), [1, 0, 2])

    strips = tf.maximum(1, height * width // STRIP)  # so that a large picture takes no more memory
    high = -(-height // strips)
    padded = tf.pad(picture, [[0, strips * high - height], [0, 0], [0, 0]])
    padded = tf.reshape(padded, [strips, high, width, 3])
    spec = tf.TensorSpec((None, None, 3), tf.uint8)
    narrowed = tf.map_fn(narrow, padded, fn_output_signature=spec, parallel_iterations=1)
    return _weighed(down, tf.reshape(narrowed, [strips * high, -1, 3])[:height])


def _weighed(weights: tf.SparseTensor, picture: tf.Tensor) -> tf.Tensor:
    """The first axis of a picture resized."""
    flat = tf.cast(tf.reshape(picture, [tf.shape(picture)[0], -1]), tf.int32)
    summed = tf.sparse.sparse_dense_matmul(weights, flat) + (1 << (BITS - 1))
    whole = tf.clip_by_value(tf.bitwise.right_shift(summed, BITS), 0, 255)
    return tf.reshape(tf.cast(whole, tf.uint8), [-1, tf.shape(picture)[1], 3])


def _weights(length: tf.Tensor, size: Any, low: tf.Tensor, high: tf.Tensor) -> tf.SparseTensor:
    """The matrix (size, length) that resizes: a triangle on each centre, widened to shrink, summing to 1 << BITS."""
    # Pillow keeps the ends of the stretch in single precision, and reckons in double.
    low, high = (tf.cast(tf.cast(side, tf.float32), tf.float64) for side in (low, high))
    scale = (high - low) / tf.cast(size, tf.float64)
    reach = tf.maximum(scale, 1.0)
    centres = low + (tf.cast(tf.range(size), tf.float64) + 0.5) * scale
    first = tf.maximum(tf.cast(centres - reach + 0.5, tf.int32), 0)
    last = tf.minimum(tf.cast(centres + reach + 0.5, tf.int32), length)
    at = first[:, None] + tf.range(tf.cast(tf.math.ceil(reach), tf.int32) * 2 + 1)
    distance = tf.abs((tf.cast(at, tf.float64) - centres[:, None] + 0.5) * (1.0 / reach))
    weights = tf.where(at < last[:, None], tf.maximum(1.0 - distance, 0.0), 0.0)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    whole = tf.cast(weights * (1 << BITS) + 0.5, tf.int32)
    places = tf.stack([tf.broadcast_to(tf.range(size)[:, None], tf.shape(at)), tf.minimum(at, length - 1)], axis=-1)
    shape = tf.cast(tf.stack([size, length]), tf.int64)
    return tf.SparseTensor(tf.cast(tf.reshape(places, [-1, 2]), tf.int64), tf.reshape(whole, [-1]), shape)
