"""Sets of examples joined, filtered and blanked, as the families of recipes need them."""

from __future__ import annotations

import tensorflow as tf

from vtx_keras.data import Examples


def concatenate(*sets: Examples) -> Examples:
    """Return several sets of examples as one, with the fields that all of them have.

    >>> one, two = (Examples(tf.data.Dataset.from_tensors({"image": b"", "caption": name})) for name in ("a", "b"))
    >>> [row["caption"] for row in concatenate(one, two).encoded.as_numpy_iterator()]
    [b'a', b'b']
    """
    fields = set.intersection(*(set(examples.encoded.element_spec) for examples in sets)) | {"image"}
    first, *others = [examples.encoded.map(lambda row: {name: row[name] for name in fields}) for examples in sets]
    for other in others:
        first = first.concatenate(other)
    return Examples(first)


def without(examples: Examples, part: str) -> Examples:
    """Return the examples with a blank picture ("picture") or an empty text ("words"); unchanged where `part` is "".

    >>> pair = Examples(tf.data.Dataset.from_tensors({"image": b"", "text": "a cat"}))
    >>> next(without(pair, "words").encoded.as_numpy_iterator())["text"]
    b''
    """
    if part == "picture":
        blank = tf.io.encode_png(tf.fill((8, 8, 3), tf.constant(255, tf.uint8)))
        return Examples(examples.encoded.map(lambda row: {**row, "image": blank}))
    return Examples(examples.encoded.map(lambda row: {**row, "text": ""})) if part else examples


def split_and_part(split: str) -> tuple[str, str]:
    """Return the split that is loaded and the part that is left out, if any, of an evaluated split's name.

    >>> split_and_part("test without picture"), split_and_part("test")
    (('test', 'picture'), ('test', ''))
    """
    name, _, part = split.partition(" without ")
    return name, part
