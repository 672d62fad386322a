"""Training on a reward: the references of examples, and the model that is trained in place of the captioner."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from vtx_keras.data._memory import Batches
from vtx_keras.inputs.text import END, PAD, TEXT_FIELDS
from vtx_keras.models._base import VisionText
from vtx_keras.models._captioner import Captioner
from vtx_keras.models.rewards import by_cider, rarity, rewarded
from vtx_keras.train._settings import Settings

MOST = 20  # references per picture that are read
SHARE = 0.95  # of the references are no longer than a sample may be: time grows with the longest


def check(model: VisionText, data: Any, validation: Any, *, told: bool) -> None:
    """Raise an error if these cannot be trained on a reward."""
    if not isinstance(model, Captioner):
        raise ValueError(f'objective="cider" trains captioners, and this is a {model.name}')
    if told:
        raise ValueError('objective="cider" needs pictures: leave out text=, because sentences alone have no reward')
    if any(isinstance(given, Batches) for given in (data, validation)):
        raise ValueError(
            'objective="cider" needs examples, such as those of data.load; data.arrays are batches already'
        )


def by_cider_of(model: Captioner, data: Any, validation: Any, settings: Settings) -> Captioner:
    """Return the model of `rewarded` whose samples are compared with the captions of these examples.

    N-grams are as rare as in `data`; the metric of validation compares with the captions of `validation`.
    """
    references, picture_of = references_of(data, model)
    table, held_out = rarity(references), None
    if validation is not None:
        held_out = by_cider(*references_of(validation, model), table)
    lengths = (references != PAD).sum(axis=-1)
    return rewarded(
        model, by_cider(references, picture_of, table), held_out, samples=settings.samples_per_picture,
        length=int(np.quantile(lengths[lengths > 0], SHARE, method="higher")),
        weight_of_words=settings.weight_of_words,
    )  # fmt: skip


def identity(settings: Settings) -> dict:
    """Return what tells a run on a reward from others."""
    if settings.objective == "words":
        return {}
    names = ("objective", "samples_per_picture", "weight_of_words")
    return {name: getattr(settings, name) for name in names}


def references_of(examples: Any, model: Captioner) -> tuple[np.ndarray, np.ndarray]:
    """Return the captions of each picture as ids (pictures, references, length), and the picture of each row (rows,).

    Rows with the same `image_id` are one picture. Captions end with END; longer ones are cut as for training.
    """
    from vtx_keras.data._examples import as_text, encoded_of
    from vtx_keras.data._source import mapped

    source = encoded_of(examples)
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
    texts = [list(one)[:MOST] for one in captions.values()]
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
