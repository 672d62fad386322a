"""Examples of a data set as one object: the stored form, its fields, and when images are decoded.

Functions over tf.data are traced without AutoGraph, which would rewrite each function and all its callees to find `if`
and loops over tensors. Ours have none, and the rewriting takes longer than all of the tracing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageFont

from vtx_keras._files import whole
from vtx_keras.data import _tensors as tensors
from vtx_keras.inputs import media
from vtx_keras.models._base import VisionText
from vtx_keras.models.options import did_you_mean


def plainly(function: Callable) -> Callable:
    """Mark a function to be traced without AutoGraph.

    >>> rows = tf.data.Dataset.range(3).filter(plainly(lambda number: number > 0))
    >>> [int(number) for number in rows]
    [1, 2]
    """
    return tf.autograph.experimental.do_not_convert(function)


def mapped(ds: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    """Map in parallel and in order, without AutoGraph.

    >>> [int(number) for number in mapped(tf.data.Dataset.range(3), lambda number: 2 * number)]
    [0, 2, 4]
    """
    return ds.map(plainly(function), tf.data.AUTOTUNE)


class Examples:
    """Examples `{"image": uint8 (h, w, 3), "caption": ..., ...}` whose images are decoded as late as possible.

    `encoded` is the underlying `tf.data.Dataset`, with encoded bytes under "image" or a file name under "path";
    `batches` decodes only what it needs of it. `map`, `filter`, `take`, `skip`, `shuffle` and `concatenate` return
    `Examples`. Iteration, and every other method of a `tf.data.Dataset`, applies to `decode()`.

    >>> examples = Examples(tf.data.Dataset.from_tensors({"image": b"...", "caption": "a cat"}))
    >>> examples.fields, sorted(examples.map(lambda row: {**row, "split": "train"}).fields)
    (('image', 'caption'), ['caption', 'image', 'split'])
    """

    def __init__(self, encoded: tf.data.Dataset):
        self.encoded = encoded

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields in a decoded example."""
        return tuple(dict.fromkeys("image" if name == "path" else name for name in self.encoded.element_spec))

    def decode(self) -> tf.data.Dataset:
        """Return a `tf.data.Dataset` of the same examples with decoded images."""
        return mapped(self.encoded, _with_pixels)

    def map(self, function: Callable[[dict], dict], num_parallel_calls: Any = tf.data.AUTOTUNE) -> Examples:
        """Apply `function` to each example. Images stay encoded if it passes them through unchanged."""
        if not _uses_pixels(function, self.decode().element_spec):
            return Examples(self.encoded.map(_keeping_path(function), num_parallel_calls))
        return Examples(self.decode().map(function, num_parallel_calls))

    def filter(self, predicate: Callable[[dict], tf.Tensor]) -> Examples:
        """Keep the examples for which `predicate` is true."""
        if not _uses_pixels(predicate, self.decode().element_spec):
            return Examples(self.encoded.filter(_without_pixels(predicate)))
        return Examples(self.decode().filter(predicate))

    def take(self, count: int) -> Examples:
        """Return the first `count` examples."""
        return Examples(self.encoded.take(count))

    def skip(self, count: int) -> Examples:
        """Return all but the first `count` examples."""
        return Examples(self.encoded.skip(count))

    def shuffle(self, buffer_size: int, *args: Any, **kwargs: Any) -> Examples:
        """Shuffle the examples, with the arguments of `tf.data.Dataset.shuffle`."""
        return Examples(self.encoded.shuffle(buffer_size, *args, **kwargs))

    def concatenate(self, other: Examples | tf.data.Dataset) -> Examples:
        """Append other examples, which must have the same fields."""
        stored = getattr(other, "encoded", other)
        if self.encoded.element_spec == stored.element_spec:
            return Examples(self.encoded.concatenate(stored))
        return Examples(self.decode().concatenate(other.decode() if isinstance(other, Examples) else other))

    def __iter__(self) -> Iterator[dict]:
        return iter(self.decode())

    def __len__(self) -> int:
        return len(self.encoded)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "encoded":
            raise AttributeError(name)
        return getattr(self.decode(), name)

    def __repr__(self) -> str:
        return f"<Examples of {', '.join(self.fields)}>"


def adapted(
    encoded: tf.data.Dataset,
    columns: Mapping[str, str] | Callable[[dict], Any] | None = None,
    where: Callable[[dict], tf.Tensor] | None = None,
) -> Examples:
    """Turn a tf.data with encoded images into `Examples`; `columns` and `where` are those of `load`.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (4, 2), "red").save(file, "PNG")
    >>> raw = tf.data.Dataset.from_tensors({"photo": file.getvalue(), "title": "a red thing"})
    >>> example = next(iter(adapted(raw, {"image": "photo", "caption": "title"})))
    >>> example["image"].shape, example["caption"].numpy()
    (TensorShape([2, 4, 3]), b'a red thing')
    """
    if where is not None:
        encoded = encoded.filter(where)
    if columns is not None:
        adapter = columns if callable(columns) else plainly(_renaming(columns, encoded.element_spec))
        adapted_rows = encoded.map(adapter, tf.data.AUTOTUNE)
        encoded = (
            encoded.flat_map(adapter) if isinstance(adapted_rows.element_spec, tf.data.DatasetSpec) else adapted_rows
        )
    return Examples(encoded)


def named_classes(features: tfds.features.FeaturesDict) -> Callable[[dict], dict]:
    """Return a function that replaces class numbers in an example by class names."""
    names = {key: feature.names for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)}

    def name(example: dict) -> dict:
        # tfds uses -1 for an unknown label, hence the "" in front.
        replaced = {key: tf.gather(tf.constant(["", *names[key]]), example[key] + 1) for key in names}
        return {**example, **replaced}

    return name


def _with_pixels(example: dict) -> dict:
    picture = example["image"] if "image" in example else tf.io.read_file(example["path"])
    if picture.dtype != tf.string:
        return example
    rest = {key: value for key, value in example.items() if key != "image"}
    if "alpha" in rest and rest["alpha"].dtype == tf.string:
        rest["alpha"] = tf.io.decode_png(rest["alpha"], channels=1)
    return {"image": tensors.read(picture), **rest}


def _uses_pixels(function: Callable, spec: dict) -> bool:
    """Return whether a function of decoded examples reads or replaces pixels rather than passing them through."""
    trace: dict[str, Any] = {}

    def traced(example: dict) -> Any:
        before = {name: example[name] for name in ("image", "alpha") if name in example}
        result = function(dict(example))
        after = result if isinstance(result, dict) else {}
        trace["changed"] = any(after.get(name, value) is not value for name, value in before.items())
        trace["pixels"] = before.values()
        return [tf.reshape(x, [-1])[:0] for x in tf.nest.flatten({k: v for k, v in after.items() if k not in before})]

    if not isinstance(spec, dict) or "image" not in spec:
        return True
    graph = tf.function(traced, input_signature=[spec], autograph=True).get_concrete_function().graph
    pixel_tensors = [part for value in trace["pixels"] for part in tf.nest.flatten(value, expand_composites=True)]
    return trace["changed"] or any(part.graph is graph and part.consumers() for part in pixel_tensors)


def _without_pixels(function: Callable) -> Callable:
    """Adapt a function of decoded examples that uses no pixels to stored examples."""

    def on_stored(example: dict) -> Any:
        return function({**example, "image": example.get("image", example.get("path"))})

    return on_stored


def _keeping_path(function: Callable) -> Callable:
    """Adapt a function that returns examples, as `_without_pixels` does, and keep the file name in its result."""

    def on_stored(example: dict) -> dict:
        result = dict(_without_pixels(function)(example))
        if "image" not in example:
            result.pop("image", None)
            result.setdefault("path", example["path"])
        return result

    return on_stored


def _renaming(columns: Mapping[str, str], spec: dict) -> Callable[[dict], dict]:
    """Return a function that renames fields by `columns`, and joins a list of texts."""
    for name, feature in columns.items():
        if feature not in spec:
            raise ValueError(
                f"columns: {name!r} maps to {feature!r}: no such feature{did_you_mean(feature, spec)} in {sorted(spec)}"
            )

    def rename(example: dict) -> dict:
        chosen = {}
        for name, feature in columns.items():
            value = example[feature]
            is_list = value.dtype == tf.string and value.shape.rank == 1 and name in ("text", "caption", "question")
            chosen[name] = tf.strings.reduce_join(value, separator=", ") if is_list else value
        kept = {key: value for key, value in example.items() if key in ("id", "image", "path", "alpha", "keywords")}
        return {**kept, **chosen}

    return rename


TILE, LINES, MARGIN = 144, 3, 8


def preview(ds: Iterable, path: str | os.PathLike, model: VisionText | None = None, *, count: int = 24) -> Path:
    """Draw the first examples of a data set, or the first rows of `model`'s batches, as a PNG at `path`.

    >>> import tempfile
    >>> import tensorflow as tf
    >>> ds = tf.data.Dataset.from_tensors({"image": np.zeros((8, 8, 3), "uint8"), "caption": "a black square"})
    >>> preview(ds, tempfile.mkdtemp() + "/sheet.png").name
    'sheet.png'
    """
    tiles = []
    for element in ds:
        tiles += _rows(element, model) if isinstance(element, tuple) else [_example(element)]
        if len(tiles) >= count:
            break
    if not tiles:
        raise ValueError("there is nothing to draw: the data set is empty")
    tiles = tiles[:count]
    columns = min(len(tiles), 6)
    font = ImageFont.load_default(size=12)
    height = TILE + 16 * LINES
    size = (columns * (TILE + MARGIN) + MARGIN, math.ceil(len(tiles) / columns) * (height + MARGIN) + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (pixels, words) in enumerate(tiles):
        row, column = divmod(number, columns)
        x, y = MARGIN + column * (TILE + MARGIN), MARGIN + row * (height + MARGIN)
        sheet.paste(Image.fromarray(media.resize(pixels, (TILE, TILE))), (x, y))
        draw.rectangle((x - 1, y - 1, x + TILE, y + TILE), outline="lightgrey")
        draw.multiline_text((x, y + TILE + 2), _wrapped(words, font), "black", font, spacing=2)
    with whole(path) as part:
        sheet.save(part, "PNG")
    return Path(path)


def _example(example: dict) -> tuple[np.ndarray, str]:
    picture = example["image"]
    pixels = (picture[0] if hasattr(picture, "to_tensor") else picture).numpy()  # the first of ragged frames
    texts = []
    for key in ("caption", "captions", "question", "answer", "questions", "answers", "text", "label"):
        if key in example:
            texts += [
                value.decode() if isinstance(value, bytes) else str(value)
                for value in np.atleast_1d(example[key].numpy())
            ]
    return _middle_frame(pixels), " / ".join(filter(None, texts))


def _rows(batch: tuple, model: VisionText | None) -> list[tuple[np.ndarray, str]]:
    inputs, labels, *_ = batch
    ids = inputs["tokens"].numpy()
    texts = model.vocabulary.decode(ids) if model else ["" for _ in ids]
    names: Any = getattr(model, "class_names", None)
    if names and labels.shape.rank == 1:
        texts = [f"{words} / {names[int(label)]}" for words, label in zip(texts, labels.numpy(), strict=True)]
    return [(_middle_frame(pixels), words) for pixels, words in zip(inputs["image"].numpy(), texts, strict=True)]


def _middle_frame(pixels: np.ndarray) -> np.ndarray:
    """Return the middle frame of a clip, or an image itself, as uint8."""
    pixels = pixels[len(pixels) // 2] if pixels.ndim == 4 else pixels
    return np.rint(pixels).astype("uint8")


def _wrapped(words: str, font: Any) -> str:
    """Wrap a text to LINES lines as wide as a tile."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= TILE:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines[:LINES])
