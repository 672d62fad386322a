"""Generators as graphs, and how what their files draw is compared with what they draw themselves.

a graph of            takes                                             gives
.tflite, .onnx        tokens int32 (n, words), noise float32 (n, k)     image uint8 (n, [frames,] h, w, 3)
SavedModel            text (n,), seed int64 (n,)                        png_bytes (n,), ok (n,)
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from PIL import Image

from vtx_keras.export import _strings
from vtx_keras.inputs import text
from vtx_keras.models._base import VisionText
from vtx_keras.models._drawing import Generator

LEVELS = 2  # of 255: two drawings that nowhere differ by more are alike
MEAN_LEVELS = 8.0  # that a drawing of a file with rounded weights may differ by, in the mean of its values
OWN = 32  # texts of the model's own words, on which a file is tried where no others are given
MOST_WORDS = 4  # of such a text


def in_float32(model: Any) -> Any:
    """Return a generator that computes in another precision as one in float32, as its files do; other models as is.

    >>> from vtx_keras import zoo
    >>> options = {"width": 2, "dim": 8, "image_shape": (16, 16, 3), "dtype": "mixed_bfloat16"}
    >>> in_float32(zoo.build("gated_generator", weights=None, **options)).spec["dtype"]
    'float32'
    """
    if not isinstance(model, Generator) or model.spec["dtype"] == "float32":
        return model
    config = json.dumps(model.get_config()).replace(json.dumps(model.spec["dtype"]), '"float32"')
    plain = type(model).from_config(json.loads(config))
    plain.set_weights(model.get_weights())
    return plain


def part_of(model: VisionText) -> keras.Model:
    """Return the part of a model that a file holds: of a generator the painter, of others all.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_generator", weights=None, width=2, dim=8, image_shape=(16, 16, 3))
    >>> part_of(model).count_params() < model.count_params()
    True
    """
    return model.painter() if isinstance(model, Generator) else model


def noise_input(model: Generator, batch: int | None) -> tf.TensorSpec:
    """Return the input for noise."""
    return tf.TensorSpec((batch, model.options["noise"]), tf.float32, "noise")


def painting(model: Generator) -> Callable[[Any, Any], dict]:
    """Return the function from ids and noise to uint8 pictures or clips."""
    painter = model.painter()

    def paint(tokens: Any, noise: Any) -> dict:
        noise = ops.cast(noise, painter.input["noise"].dtype)
        picture = painter({"noise": noise, "tokens": tokens}, training=False)  # -1 to 1
        return {"image": ops.cast(ops.clip(ops.round((picture + 1) * 127.5), 0, 255), "uint8")}

    return paint


# --- a SavedModel: strings and seeds in, files of pictures out


def signatures(model: Generator, *, jit_compile: bool = False) -> dict[str, Any]:
    r"""Return functions by name: `serving_default`, `pixels` from ids and noise, with `jit_compile` also `xla`.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_generator", weights=None, width=2, dim=8, image_shape=(16, 16, 3))
    >>> drawn = signatures(model)["serving_default"](tf.constant(["a cat", "\u2603"]), tf.constant([7, 7], tf.int64))
    >>> drawn["png_bytes"][0].numpy()[1:4], drawn["ok"].numpy().tolist()
    (b'PNG', [True, False])
    """
    words, seeds = _strings.text_input(model), tf.TensorSpec([None], tf.int64, "seed")
    arrays = (tf.TensorSpec([None, None], tf.int32, "tokens"), noise_input(model, None))
    count = model.options["noise"]

    def compiled(jit_compile: bool) -> Any:
        paint = tf.function(painting(model), input_signature=arrays, autograph=False, jit_compile=jit_compile)

        def some(tokens: tf.Tensor, noise: tf.Tensor) -> dict:
            rows = tf.shape(tokens)[0]
            padding = [[0, tf.cast(rows == 0, tf.int32)], [0, 0]]  # fused convolutions give no rows a wrong shape
            return {"image": paint(tf.pad(tokens, padding), tf.pad(noise, padding))["image"][:rows]}

        return tf.function(some, input_signature=arrays, autograph=False)

    def from_texts(paint: Callable) -> Any:
        def serve(*given: tf.Tensor) -> dict:
            texts, seed = given
            paired = tf.debugging.assert_equal(tf.shape(texts)[0], tf.size(seed), "a seed for each text")
            with tf.control_dependencies([paired]):
                ids, ok = read(model, texts)
            files = tf.io.encode_png(side_by_side(paint(ids, noise_of_seeds(seed, count))["image"]))
            return {"png_bytes": tf.where(ok, files, ""), "ok": ok}

        return tf.function(serve, input_signature=(words, seeds), autograph=False)

    paint = compiled(False)
    functions = {"serving_default": from_texts(paint), "pixels": paint}
    return {**functions, "xla": from_texts(compiled(True))} if jit_compile else functions


def read(model: Generator, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the ids of texts (or of ids), and which have words, none that is unknown and none that is not read."""
    longest = model.options["max_length"]
    if texts.dtype == tf.string:
        ids, ok = _strings.tokens(texts, model.vocabulary, longest + 1)
    else:
        ids, ok = texts, tf.reduce_any(texts >= len(text.SPECIALS), axis=1)
    whole = tf.reduce_all(ids[:, longest:] == text.PAD, axis=1) & tf.reduce_all(ids != text.UNK, axis=1)
    return ids[:, :longest], ok & whole


def noise_of_seeds(seeds: Any, count: int) -> tf.Tensor:
    """Return noise (seeds, count) that is a function of each seed alone; `draw` has other noise, of NumPy.

    >>> noise = noise_of_seeds([3, 4, 3], 2).numpy()
    >>> bool((noise[0] == noise[2]).all()), bool((noise[0] == noise[1]).any())
    (True, False)
    """

    def one(seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_normal([count], tf.stack([seed, tf.zeros_like(seed)]), alg="philox")

    return tf.map_fn(one, tf.convert_to_tensor(seeds, tf.int64), fn_output_signature=tf.float32)


def side_by_side(pictures: Any) -> Any:
    """Return the frames of clips (n, frames, h, w, 3) beside each other (n, h, frames * w, 3); pictures stay."""
    if len(pictures.shape) == 4:
        return pictures
    _, frames, height, width, colours = pictures.shape
    return ops.reshape(ops.transpose(pictures, (0, 2, 1, 3, 4)), (-1, height, frames * width, colours))


# --- trying a file


def sentences(model: Generator, rows: Sequence[Mapping[str, Any]] | None) -> tuple[list[str], np.ndarray]:
    r"""Return texts that the model reads whole, and their ids: those of `rows`, or with None some of its own words.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_generator", weights=None, width=2, dim=8, image_shape=(16, 16, 3))
    >>> sentences(model, [{"caption": "a cat"}, {"captions": ["a dog", "a pet"]}, {"caption": "a \u2603"}])[0]
    ['a cat', 'a dog']
    """
    if rows is None:
        texts = _own(model)
    else:
        given = [next((row[key] for key in text.TEXT_FIELDS if key in row), "") for row in rows]
        texts = [str(np.atleast_1d(words)[0]) for words in given]
    texts, longest = list(dict.fromkeys(texts)), model.options["max_length"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about texts that are cut, which are left out
        ids = model.tokens_of(texts or [""], longest + 1, allow_empty=True)
    good = (ids >= len(text.SPECIALS)).any(axis=1) & (ids != text.UNK).all(axis=1) & (ids[:, longest] == text.PAD)
    if not good.any():
        raise ValueError(
            f"there is no text that the model reads whole, such as of {texts[:3]}: verify_data needs captions of words "
            f"that it knows, of at most {longest - 1} pieces"
        )
    return [one for one, kept in zip(texts, good[: len(texts)], strict=True) if kept], ids[good, :longest]


def _own(model: Generator) -> list[str]:
    """Return texts of some words of the model's vocabulary."""
    pieces, random = list(enumerate(model.vocabulary)), np.random.default_rng(0)
    ordinary = [i for i, piece in pieces if i >= len(text.SPECIALS) and (piece.isalnum() or _strings.reads_ids(model))]
    most = max(1, min(MOST_WORDS, model.options["max_length"] - 1 - model.vocabulary.ends))
    if not ordinary:
        return []
    lengths = random.integers(1, most + 1, (OWN, 1))
    ids = np.where(np.arange(most) < lengths, random.choice(ordinary, (OWN, most)), text.PAD)
    return model.vocabulary.decode(ids)


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two drawings differ nowhere by more than LEVELS.

    >>> alike(np.zeros((2, 2, 3), "uint8"), np.full((2, 2, 3), 2, "uint8"))
    True
    """
    return bool(np.abs(one.astype("int16") - other).max() <= LEVELS)


def judged(
    one: Sequence[np.ndarray], other: Sequence[np.ndarray], quantize: str | None, share: float
) -> tuple[bool, tuple[str, ...]]:
    """Return whether enough drawings are near enough for a file with rounded weights, and sentences about all.

    >>> judged([np.zeros((2, 2, 3), "uint8")], [np.full((2, 2, 3), 3, "uint8")], "int8", 0.95)[0]
    True
    """
    means = np.array([np.abs(a.astype("int16") - b).mean() for a, b in zip(one, other, strict=True)])
    near = int((means <= MEAN_LEVELS).sum())
    told = [
        f"identical are drawings of which no value differs by more than {LEVELS} of 255 levels",
        f"a drawing differs by {means.mean():.2g} levels in the mean, the worst by {means.max():.2g}",
    ]
    if quantize:
        told.append(
            f"{quantize} rounds the weights, so {share:.0%} within {MEAN_LEVELS:g} levels is enough: {near} are"
        )
    return bool(quantize and near >= share * len(means)), tuple(told)


def opened(files: Iterable[bytes], shape: Sequence[int]) -> np.ndarray:
    """Return the pictures or clips of PNG files, whose frames are side by side.

    >>> opened([as_png(np.zeros((4, 8, 3), "uint8"))], (2, 4, 4, 3)).shape
    (1, 2, 4, 4, 3)
    """
    wide = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    if len(shape) == 3:
        return wide
    frames, height, width, colours = shape
    return wide.reshape(-1, height, frames, width, colours).transpose(0, 2, 1, 3, 4)


def farthest(model: Generator, results: Mapping[str, np.ndarray], wanted: np.ndarray) -> np.ndarray:
    """Return of each value that which differs most from `wanted`, of the results of all signatures of a SavedModel."""
    files = [opened(each, model.image_shape) for name, each in results.items() if name.endswith(".png_bytes")]
    found = np.stack([*files, results["pixels.image"]])
    most = np.abs(found.astype("int16") - wanted).argmax(axis=0)
    return np.take_along_axis(found, most[None], axis=0)[0]


def as_png(image: np.ndarray) -> bytes:
    """Encode an image without loss.

    >>> as_png(np.zeros((2, 2, 3), "uint8"))[1:4]
    b'PNG'
    """
    file = io.BytesIO()
    Image.fromarray(np.rint(image).astype("uint8")).save(file, "PNG")
    return file.getvalue()
