"""Read examples of `data.load` as NumPy values: the input text, the expected texts or labels, and the image."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from vtx_keras.inputs.text import END, LABEL_FIELDS, PAD, TEXT_FIELDS, normalize, tokens
from vtx_keras.models._base import VisionText
from vtx_keras.models._methods import Answerer, Captioner

LABELS = ("answers", *LABEL_FIELDS)  # "answers", of several people, are for evaluation only
GROUPS = ("concept", "image_id", "path", "id")  # fields that the rows of one image share, the widest first
MOST_REFERENCES = 20  # of a picture, that a reward compares with


def encoded_of(ds: Any) -> Any:
    """Return the stored form of examples (`Examples.encoded`), or `ds` itself if it is no `Examples`.

    >>> encoded_of([1, 2])
    [1, 2]
    """
    return getattr(ds, "encoded", ds)


def as_numpy(ds: Any) -> Iterator[dict]:
    """Yield examples one by one as NumPy values, their images still encoded where possible.

    >>> next(as_numpy([{"image": b"", "caption": "a"}]))["caption"]
    'a'
    """
    source = encoded_of(ds)
    yield from source.as_numpy_iterator() if hasattr(source, "as_numpy_iterator") else source


def chunks(examples: Iterable, size: int, update: Callable[[int], object]) -> Iterator[tuple[list[int], list]]:
    """Yield indices and examples, `size` at a time; `update(done)` is called after each chunk.

    >>> list(chunks("abc", 2, lambda done: None))
    [([0, 1], ['a', 'b']), ([2], ['c'])]
    """
    stream, done = iter(examples), 0
    while chunk := list(islice(stream, size)):
        yield list(range(done, done + len(chunk))), chunk
        done += len(chunk)
        update(done)


def template_of(model: VisionText) -> str:
    """Return the template of conversations of a model's language model, or "".

    >>> from vtx_keras import zoo
    >>> template_of(zoo.build("retriever", weights=None, dim=32, image_shape=(32, 32, 3)))
    ''
    """
    layout = model.options.get("text_decoder")
    return layout["template"] if isinstance(layout, dict) else ""


def turns_of(examples: Iterable[Mapping]) -> Iterator[Mapping]:
    """Yield an example for each turn of a conversation, with the turns "before" it; other examples as they are.

    >>> example = {"id": b"7", "questions": ["what is it?", "where?"], "answers": ["a dog", "in the snow"]}
    >>> for turn in turns_of([example]):
    ...     print(turn)
    {'id': '7-0', 'question': 'what is it?', 'answer': 'a dog', 'before': ()}
    {'id': '7-1', 'question': 'where?', 'answer': 'in the snow', 'before': (('what is it?', 'a dog'),)}
    """
    for example in examples:
        if "questions" not in example:
            yield example
            continue
        rest = {key: value for key, value in example.items() if key not in ("questions", "answers", "kinds")}
        pairs = tuple(zip(as_texts(example["questions"]), as_texts(example["answers"]), strict=False))
        for turn, (question, answer) in enumerate(pairs):
            number = {"id": f"{as_text(example['id'])}-{turn}"} if "id" in example else {}
            yield {**rest, **number, "question": question, "answer": answer, "before": pairs[:turn]}


def writes_answers(example: Mapping) -> bool:
    """Return whether a captioner reads a question and writes its answer for this example, as in `batches`.

    >>> writes_answers({"question": "?", "answer": "!"}), writes_answers({"caption": "a cat"})
    (True, False)
    """
    has_answer = "question" in example and ("answer" in example or "answers" in example)
    return has_answer and not {"caption", "captions"} & set(example)


def text_and_targets(model: VisionText, example: Mapping) -> tuple[str, tuple[str, ...]]:
    """Return the text that the model reads beside the image, and the correct texts or labels.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3), classes=["no", "yes"])
    >>> text_and_targets(model, {"question": b"is it red?", "answer": 1})
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
        return as_texts(example[keys[0]])[0], tuple(_class_name(one, names) for one in np.atleast_1d(example[label]))
    if isinstance(model, Captioner) and writes_answers(example):
        return as_text(example["question"]), expected(example, LABELS)
    return as_text(example.get("prompt")), expected(example, TEXT_FIELDS)


def expected(example: Mapping, keys: Sequence[str]) -> tuple[str, ...]:
    """Return the texts under the first of `keys` in the example, leaving out texts without words if others have some.

    >>> expected({"captions": [b"a cat", b" "]}, TEXT_FIELDS)
    ('a cat',)
    """
    key = next((key for key in keys if key in example), None)
    if key is None:
        raise ValueError(f"examples have {sorted(example)}: expected one of {', '.join(keys)}")
    texts = as_texts(example[key])
    return tuple(text for text in texts if tokens(text)) or texts[:1]


def references_of(ds: Any, model: Captioner) -> tuple[np.ndarray, np.ndarray]:
    """Return the captions of each picture as ids (pictures, references, length), and the picture of each row (rows,).

    Rows with the same `image_id` are one picture. Captions end with END; longer ones are cut as for training.
    """
    from vtx_keras.data._source import mapped  # needs TensorFlow

    source = encoded_of(ds)
    if "prompt" in source.element_spec or {"question", "answer"} <= set(source.element_spec):
        raise ValueError('objective="cider" scores whole captions: leave prompts and questions out')
    key = next((name for name in TEXT_FIELDS if name in source.element_spec), None)
    if key is None:
        raise ValueError(f"examples have no captions: expected one of {', '.join(TEXT_FIELDS)}")
    kept = {key, "image_id"} & set(source.element_spec)
    rows = mapped(source, lambda example: {name: example[name] for name in kept})
    captions: dict[Any, dict[str, None]] = {}  # by picture, each once
    pictures = []
    for number, row in enumerate(rows.as_numpy_iterator()):
        picture = row.get("image_id", number)
        pictures.append(captions.setdefault(picture, {}))
        pictures[-1].update(dict.fromkeys(as_text(one) for one in np.atleast_1d(row[key])))
    texts = [list(one)[:MOST_REFERENCES] for one in captions.values()]
    if len(texts) < 2:
        raise ValueError(
            f'{len(texts)} pictures: objective="cider" needs at least 2, because it weighs words by rarity'
        )
    place = {id(one): at for at, one in enumerate(captions.values())}
    length = model.options["max_length"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the survey of the examples says how many are cut
        flat = model.vocabulary.encode([one for few in texts for one in few], length, end=True, allow_empty=True)
    ids = np.zeros((len(texts), max(map(len, texts)), length), "int32")
    flat[flat[:, 0] == END] = PAD  # captions without words
    ids[np.arange(ids.shape[1]) < np.array([[len(few)] for few in texts])] = flat
    return ids, np.array([place[id(one)] for one in pictures], "int32")


def comparable_rows(
    places: Sequence[int],
    left_out: dict[int, str],
    references: Sequence[Sequence[str]],
    inputs: Sequence[str] | None = None,
) -> list[int]:
    """Return the rows of a chunk that have words in their references (and `inputs`); add the others to `left_out`.

    >>> left_out = {}
    >>> comparable_rows([7, 8], left_out, [["a"], ["!"]]), left_out
    ([0], {8: 'no words to compare with'})
    """
    rows = []
    for i, place in enumerate(places):
        if inputs is not None and not normalize(inputs[i]):
            left_out[place] = "an empty text"
        elif not any(tokens(text) for text in references[i]):
            left_out[place] = "no words to compare with"
        else:
            rows.append(i)
    return rows


def image_of(example: Mapping) -> Any:
    """Return the image or clip in a form that `inputs.media` reads.

    >>> image_of({"path": b"cat.png"}), image_of({"image": np.array([b"one", b"two"], object)})
    ('cat.png', [b'one', b'two'])
    """
    image = example["image"] if "image" in example else as_text(example["path"])
    if isinstance(image, np.ndarray) and image.dtype == object:  # a clip of encoded frames
        return list(image)
    return image


def image_digest(image: Any) -> str:
    """Return a hash of an image's content (of its path, for a path).

    >>> image_digest(b"a") == image_digest(b"a") != image_digest(b"b")
    True
    """
    sha = hashlib.sha256()
    for part in image if isinstance(image, list) else [image]:
        if isinstance(part, str):
            sha.update(part.encode())
        else:
            sha.update(part if isinstance(part, bytes) else repr(np.shape(part)).encode() + np.asarray(part).tobytes())
    return sha.hexdigest()[:16]


def group_of(example: Mapping) -> str:
    """Return the group that an example is resampled with: its concept, or else its image.

    >>> group_of({"concept": b"cat", "id": "1"}), group_of({"id": "1"})
    ('cat', '1')
    """
    key = next((key for key in GROUPS if key in example), None)
    return image_digest(image_of(example)) if key is None else as_text(example[key])


def as_text(value: Any) -> str:
    """Return a text or label as a string; invalid UTF-8 is replaced and None becomes "".

    >>> as_text(b"a"), as_text(np.array(3)), as_text(None)
    ('a', '3', '')
    """
    value = value.item() if isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0 else value
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def as_texts(value: Any) -> tuple[str, ...]:
    """Return one text or several as a tuple of strings.

    >>> as_texts(b"a"), as_texts([b"a", "b"])
    (('a',), ('a', 'b'))
    """
    return tuple(map(as_text, value)) if isinstance(value, (list, tuple)) or np.ndim(value) else (as_text(value),)


def _class_name(label: Any, names: Sequence[str]) -> str:
    """Return a label's name; a number is an index into the model's classes."""
    if isinstance(label, (int, np.integer)) and 0 <= label < len(names):
        return names[int(label)]
    return as_text(label)
