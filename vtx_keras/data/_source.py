"""Examples of a data set as one object: what is stored, which fields there are, and how pictures are decoded.

Functions over tf.data are traced as they stand: AutoGraph would rewrite each, and all that it calls, in search of `if`
and loops over tensors. Ours have none, and the rewriting takes longer than all of the tracing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from vtx_keras.data import _pixels as pixels
from vtx_keras.models.options import did_you_mean


def plainly(function: Callable) -> Callable:
    """A function that tf.data traces as it stands, and all that it calls too.

    >>> rows = tf.data.Dataset.range(3).filter(plainly(lambda number: number > 0))
    >>> [int(number) for number in rows]
    [1, 2]
    """
    return tf.autograph.experimental.do_not_convert(function)


def mapped(ds: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    """`ds.map`, several at once and in order.

    >>> [int(number) for number in mapped(tf.data.Dataset.range(3), lambda number: 2 * number)]
    [0, 2, 4]
    """
    return ds.map(plainly(function), tf.data.AUTOTUNE)


class Examples:
    """Examples `{"image": uint8 (h, w, 3), "caption": ..., ...}` whose pictures are decoded as late as possible.

    `encoded` is the tf.data that is stored, with encoded bytes under "image" or a file's name under "path"; `batches`
    decodes of it no more than it needs. `map`, `filter`, `take`, `skip`, `shuffle` and `concatenate` keep that form.
    Iterating, and everything else that a tf.data can do, is done on `decode()`.

    >>> examples = Examples(tf.data.Dataset.from_tensors({"image": b"...", "caption": "a cat"}))
    >>> examples.fields, sorted(examples.map(lambda row: {**row, "split": "train"}).fields)
    (('image', 'caption'), ['caption', 'image', 'split'])
    """

    def __init__(self, encoded: tf.data.Dataset):
        self.encoded = encoded

    @property
    def fields(self) -> tuple[str, ...]:
        """The names in an example as it is decoded."""
        return tuple(dict.fromkeys("image" if name == "path" else name for name in self.encoded.element_spec))

    def decode(self) -> tf.data.Dataset:
        """A tf.data of the same examples with pixels."""
        return mapped(self.encoded, _with_pixels)

    def map(self, function: Callable[[dict], dict], num_parallel_calls: Any = tf.data.AUTOTUNE) -> Examples:
        """The examples that `function` makes. Pictures that it passes on as they are stay encoded."""
        if not _uses_pixels(function, self.decode().element_spec):
            return Examples(self.encoded.map(_on_stored(function), num_parallel_calls))
        return Examples(self.decode().map(function, num_parallel_calls))

    def filter(self, predicate: Callable[[dict], tf.Tensor]) -> Examples:
        """The examples for which `predicate` is true."""
        if not _uses_pixels(predicate, self.decode().element_spec):
            return Examples(self.encoded.filter(_seen_stored(predicate)))
        return Examples(self.decode().filter(predicate))

    def take(self, count: int) -> Examples:
        """The first `count` examples."""
        return Examples(self.encoded.take(count))

    def skip(self, count: int) -> Examples:
        """All but the first `count` examples."""
        return Examples(self.encoded.skip(count))

    def shuffle(self, buffer_size: int, *args: Any, **kwargs: Any) -> Examples:
        """The examples in another order, as `tf.data.Dataset.shuffle` has it."""
        return Examples(self.encoded.shuffle(buffer_size, *args, **kwargs))

    def concatenate(self, other: Examples | tf.data.Dataset) -> Examples:
        """These examples, then the others, which have the same fields."""
        theirs = getattr(other, "encoded", other)
        if self.encoded.element_spec == theirs.element_spec:
            return Examples(self.encoded.concatenate(theirs))
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
    """A tf.data whose pictures are encoded as our examples; `columns` and `where` are those of `load`.

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
        found = encoded.map(adapter, tf.data.AUTOTUNE)
        encoded = encoded.flat_map(adapter) if isinstance(found.element_spec, tf.data.DatasetSpec) else found
    return Examples(encoded)


def named_classes(features: tfds.features.FeaturesDict) -> Callable[[dict], dict]:
    """A function that gives the names of classes in place of their numbers."""
    names = {key: feature.names for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)}

    def name(example: dict) -> dict:
        # tfds says -1 where a label is not known: "" stands first.
        found = {key: tf.gather(tf.constant(["", *names[key]]), example[key] + 1) for key in names}
        return {**example, **found}

    return name


def _with_pixels(example: dict) -> dict:
    picture = example["image"] if "image" in example else tf.io.read_file(example["path"])
    if picture.dtype != tf.string:
        return example
    rest = {key: value for key, value in example.items() if key != "image"}
    if "alpha" in rest and rest["alpha"].dtype == tf.string:
        rest["alpha"] = tf.io.decode_png(rest["alpha"], channels=1)
    return {"image": pixels.read(picture), **rest}


def _uses_pixels(function: Callable, spec: dict) -> bool:
    """Whether a function of decoded examples reads pixels, or makes new ones, rather than passing them on."""
    found = {}

    def look(example: dict) -> Any:
        before = {name: example[name] for name in ("image", "alpha") if name in example}
        result = function(dict(example))
        after = result if isinstance(result, dict) else {}
        found["changed"] = any(after.get(name, value) is not value for name, value in before.items())
        found["pixels"] = before.values()
        return [tf.reshape(x, [-1])[:0] for x in tf.nest.flatten({k: v for k, v in after.items() if k not in before})]

    if not isinstance(spec, dict) or "image" not in spec:
        return True
    graph = tf.function(look, input_signature=[spec], autograph=True).get_concrete_function().graph
    parts = [part for value in found["pixels"] for part in tf.nest.flatten(value, expand_composites=True)]
    return found["changed"] or any(part.graph is graph and part.consumers() for part in parts)


def _seen_stored(function: Callable) -> Callable:
    """A function of decoded examples that uses no pixels, on stored ones."""

    def on_stored(example: dict) -> Any:
        return function({**example, "image": example.get("image", example.get("path"))})

    return on_stored


def _on_stored(function: Callable) -> Callable:
    """The same for a function that makes examples: a file's name is put back in its place."""

    def on_stored(example: dict) -> dict:
        result = dict(_seen_stored(function)(example))
        if "image" not in example:
            result.pop("image", None)
            result.setdefault("path", example["path"])
        return result

    return on_stored


def _renaming(columns: Mapping[str, str], spec: dict) -> Callable[[dict], dict]:
    for ours, theirs in columns.items():
        if theirs not in spec:
            raise ValueError(
                f"columns: {ours!r} is to be {theirs!r}: no such feature{did_you_mean(theirs, spec)} in {sorted(spec)}"
            )

    def rename(example: dict) -> dict:
        chosen = {}
        for ours, theirs in columns.items():
            value = example[theirs]
            joined = value.dtype == tf.string and value.shape.rank == 1 and ours in ("text", "caption", "question")
            chosen[ours] = tf.strings.reduce_join(value, separator=", ") if joined else value
        kept = {key: value for key, value in example.items() if key in ("id", "image", "path", "alpha", "keywords")}
        return {**kept, **chosen}

    return rename
