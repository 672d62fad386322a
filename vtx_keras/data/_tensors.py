"""Decode, resize and augment images and tokenize texts inside tf.data, by the rules of `inputs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from vtx_keras._compat import warp
from vtx_keras.inputs import _rules, media, text

AUGMENT = {
    "crop": 0.3,  # largest share of the area that is cropped away
    "flip": False,  # mirror half of the images, except where the text says left or right
    "rotation": 8.0,  # largest angle in degrees, in either direction
    "colour": 0.2,  # largest change of brightness, contrast and saturation
    "background": 0.0,  # share of the images with transparency ("alpha") that get a random background colour
    "words": 0.0,  # share of the input words replaced by [MASK]
    "synonyms": 0.0,  # share of the texts replaced by one of the example's "keywords"; not for captioners
}


def read(data: tf.Tensor) -> tf.Tensor:
    """Decode an image to uint8 (h, w, 3).

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (4, 2), "red").save(file, "PNG")
    >>> read(tf.constant(file.getvalue())).shape
    TensorShape([2, 4, 3])
    """
    return tf.ensure_shape(_by_python(lambda one: media.read(_plain(one)), [data]), (None, None, 3))


def fitted(
    pictures: tf.Tensor, shape: Sequence[int], fit: str, windows: tf.Tensor | None = None, *, paths: bool = False
) -> tf.Tensor:
    """Resize a batch of encoded images or clips (with `paths`, of file names), or of pixels, to uint8 (batch, *shape).

    `windows` (batch, 4) crops each one, as in `media.resize`; all frames of a clip are cropped alike.

    >>> fitted(tf.zeros((1, 20, 40, 3), tf.uint8), (4, 4, 3), "pad").numpy()[0, :, 0, 0].tolist()
    [255, 0, 0, 255]
    """
    shape = tuple(shape)

    def run(batch: np.ndarray, parts: np.ndarray) -> np.ndarray:
        return fitted_rows(batch, shape, fit, parts, paths=paths)

    if windows is None:
        if pictures.dtype == tf.uint8 and tuple(pictures.shape[1:]) == shape:
            return pictures
        windows = tf.zeros((0, 4))
    return tf.ensure_shape(_by_python(run, [pictures, windows]), (pictures.shape[0], *shape))


def fitted_rows(
    rows: Sequence | np.ndarray,
    shape: Sequence[int],
    fit: str,
    parts: Sequence | np.ndarray = (),
    *,
    paths: bool = False,
) -> np.ndarray:
    """Resize images or clips with `media`, as `fitted` does, on NumPy values.

    >>> fitted_rows([np.zeros((20, 40, 3), "uint8")], (4, 4, 3), "pad").shape
    (1, 4, 4, 3)
    """
    batch = np.empty((len(rows), *shape), "uint8")
    for index, row in enumerate(rows):
        window = parts[index] if len(parts) else None
        row = _plain(row).decode() if paths else _plain(row)
        if len(shape) == 3:
            batch[index] = media.resize(row, shape[:2], fit, window)
        else:
            batch[index] = [
                media.resize(frame, shape[1:3], fit, window)
                for frame in media.frames_of(row, shape[0], media.PIXEL_LIMIT)
            ]
    return batch


def _plain(one: Any) -> Any:
    """Unwrap a value from tf.numpy_function for `media`: in eager mode, bytes come inside an array."""
    if isinstance(one, np.ndarray) and one.dtype == object:
        return one.item() if one.ndim == 0 else list(one)
    return one


def _by_python(function: Callable, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.numpy_function(function, inputs, tf.uint8, stateful=False)


def windows(seed: tf.Tensor, count: tf.Tensor, most: float) -> tf.Tensor:
    """Draw random windows (count, 4), as shares (y, x, h, w) of the sides; each crops at most the share `most`.

    >>> parts = windows(tf.constant([1, 2]), 100, 0.3).numpy()
    >>> bool((parts[:, 2] * parts[:, 3]).min() > 0.69), bool((parts[:, :2] + parts[:, 2:]).max() <= 1)
    (True, True)
    """
    area, aspect, y, x = tf.unstack(tf.random.stateless_uniform((4, count), seed))
    kept = 1 - area * most
    # `aspect` stretches a window at most until it is as wide or as high as the image.
    height = tf.clip_by_value(tf.sqrt(kept) * tf.exp((aspect - 0.5) * most), kept, 1)
    sides = tf.stack([height, kept / height], axis=1)
    return tf.concat([(1 - sides) * tf.stack([y, x], axis=1), sides], axis=1)


def augment(
    pictures: tf.Tensor, seed: tf.Tensor, how: dict[str, Any], *, flip: tf.Tensor, clear: tf.Tensor | None = None
) -> tf.Tensor:
    """Augment a batch of uint8 images or clips, with the settings `how` (AUGMENT); return float32 of whole numbers.

    All frames of a clip change alike. `flip` (batch,) says which rows may be mirrored. `clear` is the transparency of
    each pixel before it was drawn on white (255: fully transparent), needed for another background colour.
    """
    shape, count = pictures.shape[1:], tf.shape(pictures)[0]
    draws = tf.random.stateless_uniform((count, 9), seed)
    x = tf.cast(pictures, tf.float32)
    x = x if clear is None else tf.concat([x, tf.cast(clear, tf.float32)], axis=-1)
    if how["rotation"] or how["flip"]:
        mirrored = (draws[:, 1] < 0.5) & flip if how["flip"] else tf.zeros(count, tf.bool)
        x = _rotated(x, (draws[:, 2] * 2 - 1) * how["rotation"] * np.pi / 180, mirrored)
    each = (-1, *(1 for _ in shape[:-1]))  # shape that broadcasts one value per image, for images and clips
    if clear is not None:
        # On white p = a·c + (1 - a)·255, so another background changes only the second term.
        background = tf.where(draws[:, :1] < how["background"], draws[:, 6:9] * 255, 255.0)
        x = x[..., :3] + (tf.reshape(background, (*each, 3)) - 255) * x[..., 3:] / 255
    if how["colour"]:
        light, contrast, saturation = (
            tf.reshape(1 + (draws[:, i] * 2 - 1) * how["colour"], (*each, 1)) for i in (3, 4, 5)
        )
        mean = tf.reduce_mean(x, axis=range(1, x.shape.rank), keepdims=True)
        x = (x - mean) * contrast + mean * light
        grey = tf.reduce_sum(x * [0.299, 0.587, 0.114], axis=-1, keepdims=True)
        x = grey + (x - grey) * saturation
    return tf.ensure_shape(tf.round(tf.clip_by_value(x, 0, 255)), pictures.shape)


def _rotated(x: tf.Tensor, angle: tf.Tensor, mirrored: tf.Tensor) -> tf.Tensor:
    """Rotate each image about its centre, and mirror some, on white."""
    frames = x.shape[1] if x.shape.rank == 5 else 1
    *_, height, width, channels = x.shape
    cos, sin, side = tf.cos(angle), tf.sin(angle), tf.where(mirrored, -1.0, 1.0)
    a, b, d, e = cos * side, -sin, sin * side, cos
    to_x = (width - 1) * (1 - a) / 2 - (height - 1) * b / 2
    to_y = (height - 1) * (1 - e) / 2 - (width - 1) * d / 2
    zeros = tf.zeros_like(a)
    images = tf.reshape(x, (-1, height, width, channels))
    transforms = tf.repeat(tf.stack([a, b, to_x, d, e, to_y, zeros, zeros], axis=1), frames, axis=0)
    turned = warp(images, transforms, (height, width), fill=255.0)
    return tf.reshape(turned, tf.shape(x))


def normalize(texts: tf.Tensor) -> tf.Tensor:
    """`text.normalize` in a TensorFlow graph; the steps are listed above `text.GAPS`.

    >>> normalize(tf.constant(["  A  CAT\\u2028sits "])).numpy().tolist()
    [b'a cat sits']
    """
    return tf.cond(tf.reduce_all(is_plain(texts)), lambda: tf.strings.lower(texts), lambda: _normalized(texts))


def is_plain(texts: tf.Tensor) -> tf.Tensor:
    """Return which texts are ASCII words with single spaces: most are, and normalizing changes only their case.

    >>> is_plain(tf.constant(["A cat.", "a  cat", "caf\u00e9"])).numpy().tolist()
    [True, False, False]
    """
    return tf.strings.regex_full_match(texts, "[!-~]+( [!-~]+)*")


def _normalized(texts: tf.Tensor) -> tf.Tensor:
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace", replace_control_characters=False)
    texts = tf.strings.regex_replace(tf.strings.regex_replace(texts, text.UNSEEN, ""), text.GAPS, " ")
    texts = tf.strings.lower(tf_text.normalize_utf8(texts, "NFKC"), encoding="utf-8")
    return tf.strings.strip(tf.strings.regex_replace(tf_text.normalize_utf8(texts, "NFKC"), text.GAPS, " "))


def pieces(vocabulary: Sequence[str]) -> Callable[[tf.Tensor], tf.RaggedTensor]:
    """Return a function from texts (n,) to ragged ids (n, pieces), by the rule of the vocabulary.

    >>> pieces(text.vocabulary(["cat", "##s"]))(tf.constant(["Cats  cat"])).to_list()
    [[5, 6, 5]]
    """
    rule = _rules.rule_of(vocabulary)
    if rule is None:
        tokenize = _word_pieces(vocabulary)
        return lambda texts: tokenize(normalize(texts))

    def by_python(texts: tf.Tensor) -> tf.RaggedTensor:
        ids, lengths = tf.numpy_function(lambda rows: _read(rows, vocabulary, rule), [texts], [tf.int32, tf.int64])
        ids, lengths = tf.ensure_shape(ids, [None]), tf.ensure_shape(lengths, texts.shape)
        return tf.RaggedTensor.from_row_lengths(ids, lengths, validate=False)

    return by_python


def _read(texts: np.ndarray, vocabulary: Sequence[str], rule: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of all texts in one array, and how many each has."""
    read = _rules.reader(vocabulary, rule)
    rows = [read(one.decode("utf-8", "replace")) for one in texts]
    return np.array([piece for row in rows for piece in row], "int32"), np.array(list(map(len, rows)), "int64")


def _word_pieces(vocabulary: Sequence[str]) -> Callable[[tf.Tensor], tf.RaggedTensor]:
    """Return a function from normalized texts, or ASCII ones of any rule that has WordPiece, to ragged ids."""
    unknown = text.SPECIALS[text.UNK]
    return tf_text.FastBertTokenizer(list(vocabulary), token_out_type=tf.int32, unknown_token=unknown).tokenize


def encoder(
    vocabulary: Sequence[str], *, start: bool = False, end: bool = False, plain: bool = False
) -> Callable[[tf.Tensor, int | tf.Tensor], tf.Tensor]:
    """Return a function from texts (n,) and a length to int32 ids (n, length), equal to those of `text.encode`.

    `plain` promises that `is_plain` is true of all texts, which halves the time.

    >>> ids = encoder(text.vocabulary(["cat", "##s"]), start=True, end=True)(tf.constant(["Cats"]), 6)
    >>> ids.numpy().tolist()
    [[2, 5, 6, 3, 0, 0]]
    """
    tokenize, rule = pieces(vocabulary), _rules.rule_of(vocabulary)
    if plain and (rule is None or rule["kind"] == "bert"):
        fast = _word_pieces(vocabulary)
        tokenize = (lambda texts: fast(tf.strings.lower(texts))) if rule is None or rule["lowercase"] else fast

    def encode(texts: tf.Tensor, length: int | tf.Tensor) -> tf.Tensor:
        ragged_ids, width = tokenize(texts), length - start
        # The width of a bucket is a tensor.
        shape = (None, width) if isinstance(width, int) else tf.stack([-1, width])
        ids = ragged_ids.to_tensor(text.PAD, shape=shape)
        if end:
            last = tf.minimum(ragged_ids.row_lengths(), tf.cast(width, tf.int64) - 1)
            ids = tf.where(tf.range(tf.cast(width, tf.int64)) == last[:, None], text.END, ids)
        if start:
            ids = tf.pad(ids, [[0, 0], [1, 0]], constant_values=text.START)
        return ids

    return encode


def beside(one: tuple, other: tuple) -> tuple:
    """Return a batch with the other's picture as "teacher_image"; both must be of the same examples."""
    (inputs, *rest), image = one, other[0]["image"]
    theirs = other[0].get("tokens")
    if theirs is not None and inputs["tokens"].shape[1:] == theirs.shape[1:]:
        same = tf.reduce_all(inputs["tokens"] == theirs)
        said = "the two have other examples, or another order: shuffle them before, and make batches as they come"
        with tf.control_dependencies([tf.debugging.Assert(same, [said])]):
            image = tf.identity(image)
    return ({**inputs, "teacher_image": image}, *rest)
