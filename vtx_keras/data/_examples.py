"""Examples as `data.load` gives them, in plain terms: what is asked, what is expected, which picture it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from vtx_keras.inputs.text import LABEL_FIELDS, TEXT_FIELDS, normalize, tokens
from vtx_keras.models._base import VisionText
from vtx_keras.models._captioner import Captioner
from vtx_keras.models._readers import Answerer

LABELS = ("answers", *LABEL_FIELDS)  # several people's are judged by, and not learned from
GROUPS = ("concept", "image_id", "path", "id")  # what the rows of one picture share, the widest first


def encoded_of(ds: Any) -> Any:
    """What is stored of examples (`Examples.encoded`), or the examples themselves where that is all there is.

    >>> encoded_of([1, 2])
    [1, 2]
    """
    return getattr(ds, "encoded", ds)


def plain(ds: Any) -> Iterator[dict]:
    """Examples one by one in NumPy's terms, their pictures still encoded where they can be.

    >>> next(plain([{"image": b"", "caption": "a"}]))["caption"]
    'a'
    """
    source = encoded_of(ds)
    yield from source.as_numpy_iterator() if hasattr(source, "as_numpy_iterator") else source


def chunks(examples: Iterable, size: int, told: Callable[[int], object]) -> Iterator[tuple[list[int], list]]:
    """Places and examples, `size` at a time; `told(done)` is called after each.

    >>> list(chunks("abc", 2, lambda done: None))
    [([0, 1], ['a', 'b']), ([2], ['c'])]
    """
    stream, done = iter(examples), 0
    while chunk := list(islice(stream, size)):
        yield list(range(done, done + len(chunk))), chunk
        done += len(chunk)
        told(done)


def writes_answers(example: Mapping) -> bool:
    """Whether a captioner is asked something here: it reads the question and writes the answer, as in `batches`.

    >>> writes_answers({"question": "?", "answer": "!"}), writes_answers({"caption": "a cat"})
    (True, False)
    """
    answered = "question" in example and ("answer" in example or "answers" in example)
    return answered and not {"caption", "captions"} & set(example)


def asked(model: VisionText, example: Mapping) -> tuple[str, tuple[str, ...]]:
    """The text that the model reads beside the picture, and the texts or labels that are right.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3), classes=["no", "yes"])
    >>> asked(model, {"question": b"is it red?", "answer": 1})
    ('is it red?', ('yes',))
    """
    if isinstance(model, Answerer):
        label = next((key for key in LABELS if key in example), None)
        keys = [key for key in ("question", *TEXT_FIELDS) if key in example]
        if not keys or label is None:
            raise ValueError(
                f'a {model.name} is judged by "question" or "text", and "answer" or "label": examples have '
                f"{sorted(example)}"
            )
        names = model.class_names
        return several(example[keys[0]])[0], tuple(_named(one, names) for one in np.atleast_1d(example[label]))
    if isinstance(model, Captioner) and writes_answers(example):
        return one(example["question"]), expected(example, LABELS)
    return one(example.get("prompt")), expected(example, TEXT_FIELDS)


def expected(example: Mapping, keys: Sequence[str]) -> tuple[str, ...]:
    """The texts under the first of `keys` there is; those without words only if there are no others.

    >>> expected({"captions": [b"a cat", b" "]}, TEXT_FIELDS)
    ('a cat',)
    """
    key = next((key for key in keys if key in example), None)
    if key is None:
        raise ValueError(f"examples have {sorted(example)}: expected one of {', '.join(keys)}")
    texts = several(example[key])
    return tuple(one for one in texts if tokens(one)) or texts[:1]


def usable(
    places: Sequence[int], left_out: dict[int, str], wanted: Sequence[Sequence[str]], read: Sequence[str] | None = None
) -> list[int]:
    """Which rows of a chunk have words to compare with (and to read); why the others have not goes to `left_out`.

    >>> left_out = {}
    >>> usable([7, 8], left_out, [["a"], ["!"]]), left_out
    ([0], {8: 'no words to compare with'})
    """
    good = []
    for i, place in enumerate(places):
        if read is not None and not normalize(read[i]):
            left_out[place] = "an empty text"
        elif not any(tokens(text) for text in wanted[i]):
            left_out[place] = "no words to compare with"
        else:
            good.append(i)
    return good


def picture(example: Mapping) -> Any:
    """The picture or clip, as `media` takes it.

    >>> picture({"path": b"cat.png"}), picture({"image": np.array([b"one", b"two"], object)})
    ('cat.png', [b'one', b'two'])
    """
    found = example["image"] if "image" in example else one(example["path"])
    if isinstance(found, np.ndarray) and found.dtype == object:  # a clip of encoded frames
        return list(found)
    return found


def digest(found: Any) -> str:
    """Which picture it is: the same for the same bytes.

    >>> digest(b"a") == digest(b"a") != digest(b"b")
    True
    """
    told = hashlib.sha256()
    for part in found if isinstance(found, list) else [found]:
        if isinstance(part, str):
            told.update(part.encode())
        else:
            told.update(part if isinstance(part, bytes) else repr(np.shape(part)).encode() + np.asarray(part).tobytes())
    return told.hexdigest()[:16]


def group_of(example: Mapping) -> str:
    """What an example is drawn with when figures are resampled: its concept, or else its picture.

    >>> group_of({"concept": b"cat", "id": "1"}), group_of({"id": "1"})
    ('cat', '1')
    """
    key = next((key for key in GROUPS if key in example), None)
    return digest(picture(example)) if key is None else one(example[key])


def one(value: Any) -> str:
    """A text or label as a string; broken UTF-8 is mended, nothing is "".

    >>> one(b"a"), one(np.array(3)), one(None)
    ('a', '3', '')
    """
    value = value.item() if isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0 else value
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def several(value: Any) -> tuple[str, ...]:
    """One text or many as strings.

    >>> several(b"a"), several([b"a", "b"])
    (('a',), ('a', 'b'))
    """
    return tuple(map(one, value)) if isinstance(value, (list, tuple)) or np.ndim(value) else (one(value),)


def _named(label: Any, names: Sequence[str]) -> str:
    """A label as the model names it; a number counts its classes."""
    if isinstance(label, (int, np.integer)) and 0 <= label < len(names):
        return names[int(label)]
    return one(label)
