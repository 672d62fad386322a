"""What a model says of examples, row by row beside what was expected, and how good that is: for every task.

Examples are those of `data.load`: dicts with "image" (or "path") and a text. They are read as they come, a few at a
time, and only texts and numbers are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vtx_keras.data import _examples as examples
from vtx_keras.evaluate import _captions as captions
from vtx_keras.evaluate import _measures as answers
from vtx_keras.evaluate import _measures as labels
from vtx_keras.evaluate import _measures as ranking
from vtx_keras.evaluate._measures import Measure, mean
from vtx_keras.inputs import media, text
from vtx_keras.inputs.text import TEXT_FIELDS
from vtx_keras.models._base import VisionText
from vtx_keras.models._captioner import Captioner
from vtx_keras.models._readers import Answerer, Matcher, Retriever


class Row(NamedTuple):
    """One row: where it stands in the data, what it is resampled with, what was read, expected and said."""

    place: int
    id: str
    group: str
    read: str
    expected: tuple[str, ...]
    said: str = ""


class Outcome(NamedTuple):
    """Rows of one kind: "captions", "answers" (written), "label", "labels", "matches" or "search".

    `scores` and `truth` are (rows, classes) where a model gives numbers. In a search the rows are pictures, then texts
    (which expect nothing), `scores` their embeddings, and `truth` pairs of rows that belong together.
    """

    kind: str
    rows: tuple[Row, ...]
    left_out: dict[int, str]
    scores: np.ndarray | None = None
    truth: np.ndarray | None = None


def said_of(
    model: VisionText,
    ds: Iterable[Mapping],
    *,
    beams: int = 1,
    batch_size: int = 32,
    told: Callable[[int], object] = lambda done: None,
) -> Outcome:
    """What `model` says of examples. A row that cannot be used is left out, and `left_out` says why.

    A captioner is asked the question where an example has a question and an answer, and goes on from a "prompt". A
    matcher is asked about each picture's own text and about that of the row before, unless examples have a "label".

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3), classes=["no", "yes"])
    >>> example = {"image": np.zeros((32, 32, 3), "uint8"), "question": "is it a cat?", "answer": "no"}
    >>> outcome = said_of(model, [example, {**example, "image": b"?"}])
    >>> outcome.rows[0].expected, list(outcome.left_out)
    (('no',), [1])
    """
    judges: dict[type[VisionText], Callable[..., Outcome]]
    judges = {Captioner: _written, Answerer: _labelled, Matcher: _matched, Retriever: _searched}
    judge = next((judge for kind, judge in judges.items() if isinstance(model, kind)), None)
    if judge is None:
        raise TypeError(f"{type(model).__name__}: expected a model from zoo.build")
    settings = {"batch_size": batch_size, **({"beams": beams} if isinstance(model, Captioner) else {})}
    outcome = judge(model, examples.chunks(examples.plain(ds), 4 * batch_size, told), {}, **settings)
    if not outcome.rows:
        reasons = "; ".join(f"row {place}: {why}" for place, why in list(outcome.left_out.items())[:3])
        raise ValueError(f"no row can be judged: {reasons or 'there is none'}")
    return outcome


def measures_of(
    outcome: Outcome, *, scorers: Sequence[str] | None = None, tokenizer: str = "plain"
) -> dict[str, Measure]:
    """The figures of an outcome by name. `scorers` and `tokenizer` are those of `caption_scores`.

    Without `scorers` they are BLEU, ROUGE-L and CIDEr.

    >>> rows = tuple(Row(i, str(i), str(i), "", ("a cat",), said) for i, said in enumerate(["a cat", "a dog"]))
    >>> measures_of(Outcome("captions", rows, {}), scorers=[])["word_f1"].value
    0.75
    """
    rows = outcome.rows
    if outcome.kind == "search":
        pictures = sum(bool(row.expected) for row in rows)
        assert outcome.scores is not None  # a search has both
        assert outcome.truth is not None
        image_of, text_of = outcome.truth.T
        return ranking.retrieval(outcome.scores[:pictures], outcome.scores[pictures:], text_of - pictures, image_of)
    if outcome.kind == "matches":
        return labels.yes_or_no(outcome.scores, outcome.truth)
    if outcome.kind == "labels":
        return labels.many_labels(outcome.scores, outcome.truth)
    found: dict[str, Measure] = {}
    if outcome.kind in ("answers", "label") and all(len(row.expected) > 1 for row in rows):
        found["vqa_accuracy"] = mean([answers.vqa_accuracy(row.said, row.expected) for row in rows])
    if outcome.kind == "label":
        commonest = [Counter(row.expected).most_common(1)[0][0] for row in rows]
        return found | labels.one_label([row.said for row in rows], commonest)
    found["exact_match"] = mean([captions.exact(row.said, row.expected) for row in rows])
    found["word_f1"] = mean([captions.word_f1(row.said, row.expected) for row in rows])
    if outcome.kind == "captions":
        said, wanted = [row.said for row in rows], [row.expected for row in rows]
        scorers = captions.SCORERS[:3] if scorers is None else scorers
        found |= captions.caption_scores(said, wanted, scorers=scorers, tokenizer=tokenizer)
    return found


def _written(model: Captioner, chunks: Iterator, left_out: dict, *, beams: int, batch_size: int) -> Outcome:
    rows, kind = [], "captions"
    for places, found in chunks:
        asks = examples.writes_answers(found[0])
        kind = "answers" if asks else "captions"
        read, wanted = zip(*(examples.asked(model, example) for example in found), strict=True)
        good = examples.usable(places, left_out, wanted, read if asks else None)
        if not good:
            continue
        prompts = [read[i] for i in good] if any(read) else None
        pictures = [examples.picture(found[i]) for i in good]
        try:
            said, errors = model.generate(pictures, prompts, beams=beams, batch_size=batch_size), {}
        except media.BadItems as error:
            said, errors = error.results, error.errors
        if prompts:
            begun = text.decode(model.prompts(prompts, len(good), model.options["max_length"]), model.vocabulary)
            said = [None if one is None else _after(begin, one) for begin, one in zip(begun, said, strict=True)]
        for at, i in enumerate(good):
            if at in errors:
                left_out[places[i]] = errors[at]
            else:
                rows.append(_row(places[i], found[i], read[i], wanted[i], said[at]))
    return Outcome(kind, tuple(rows), left_out)


def _labelled(model: Answerer, chunks: Iterator, left_out: dict, *, batch_size: int) -> Outcome:
    multi, names, empty = model.options["multi_label"], model.class_names, model.options["allow_empty"]
    rows, logits, truth = [], [], []
    for places, found in chunks:
        read, wanted = zip(*(examples.asked(model, example) for example in found), strict=True)
        good = [i for i, place in enumerate(places) if empty or text.normalize(read[i]) or _left(left_out, place)]
        if not good:
            continue
        pictures, asked = [examples.picture(found[i]) for i in good], [read[i] for i in good]
        values, fine, errors, _ = model.logits(pictures, asked, batch_size, allow_empty=empty)
        left_out.update({places[good[at]]: why for at, why in errors.items()})
        for at, row in zip(fine, values, strict=True):
            i = good[at]
            said = [names[c] for c in np.flatnonzero(row > 0)] if multi else [names[int(row.argmax())]]
            rows.append(_row(places[i], found[i], read[i], wanted[i], ", ".join(said)))
            if multi:
                logits.append(row)
                truth.append([name in wanted[i] for name in names])
    if multi:
        return Outcome("labels", tuple(rows), left_out, np.array(logits), np.array(truth))
    return Outcome("label", tuple(rows), left_out)


def _matched(model: Matcher, chunks: Iterator, left_out: dict, *, batch_size: int) -> Outcome:
    rows, logits, truth, before = [], [], [], None
    for places, found in chunks:
        wanted = [examples.expected(example, TEXT_FIELDS) for example in found]
        pairs = []
        for i in examples.usable(places, left_out, wanted):
            own, label = wanted[i][0], examples.one(found[i].get("label", 1)).removesuffix(".0")
            if label not in ("0", "1"):
                left_out[places[i]] = f"label {label}: expected 1 (fits) or 0"
                continue
            pairs.append((i, own, int(label)))
            if "label" not in found[i] and before is not None and text.normalize(before) != text.normalize(own):
                pairs.append((i, before, 0))
            before = own
        if not pairs:
            continue
        pictures, asked = [examples.picture(found[i]) for i, _, _ in pairs], [words for _, words, _ in pairs]
        values, fine, errors, _ = model.logits(pictures, asked, batch_size)
        left_out.update({places[pairs[at][0]]: why for at, why in errors.items()})
        for at, value in zip(fine, values[:, 0], strict=True):
            i, words, fits = pairs[at]
            said = "yes" if value > 0 else "no"
            rows.append(_row(places[i], found[i], words, (("no", "yes")[fits],), said))
            logits.append([value])
            truth.append([fits])
    return Outcome("matches", tuple(rows), left_out, np.array(logits), np.array(truth))


def _searched(model: Retriever, chunks: Iterator, left_out: dict, *, batch_size: int) -> Outcome:
    """A picture that comes several times is one candidate, and so is a text: neither can be told from its twin."""
    image_rows: dict[str, Row] = {}
    text_rows: dict[str, Row] = {}
    images, texts = [], []
    pairs: dict[tuple[str, str], None] = {}
    for places, found in chunks:
        wanted = [examples.expected(example, TEXT_FIELDS) for example in found]
        good = examples.usable(places, left_out, wanted)
        twins = {i: examples.digest(examples.picture(found[i])) for i in good}
        new = [i for i in good if twins[i] not in image_rows]
        if new:
            pixels, fine, errors = model.prepare([examples.picture(found[i]) for i in new])
            left_out.update({places[new[at]]: why for at, why in errors.items()})
            firsts: dict[int, None] = {}
            for at, i in enumerate(new[at] for at in fine):
                if twins[i] not in image_rows:
                    image_rows[twins[i]] = _row(places[i], found[i], "", (), "")
                    firsts[at] = None
            if firsts:
                run = model.tower("image")
                images.append(model.in_batches(run, {"image": pixels[list(firsts)]}, batch_size))
        fresh = []
        for i in good:
            if twins[i] not in image_rows:
                continue
            for said in wanted[i]:
                twin = text.normalize(said)
                if twin not in text_rows:
                    text_rows[twin] = _row(places[i], found[i], said, (), "")
                    fresh.append(said)
                pairs[twins[i], twin] = None
        if fresh:
            texts.append(model.in_batches(model.tower("text"), {"tokens": model.tokens_of(fresh)}, batch_size))
    if not image_rows:
        return Outcome("search", (), left_out)
    image_at, text_at = ({twin: at for at, twin in enumerate(rows)} for rows in (image_rows, text_rows))
    theirs: dict[str, list[str]] = {}
    for picture, twin in pairs:
        theirs.setdefault(picture, []).append(text_rows[twin].read)
    pictures, words = np.concatenate(images), np.concatenate(texts)
    names = [row.read for row in text_rows.values()]
    first = [names[int((words @ vector).argmax())] for vector in pictures]
    seen = [
        row._replace(expected=tuple(theirs[twin]), said=said)
        for (twin, row), said in zip(image_rows.items(), first, strict=True)
    ]
    belong = np.array([(image_at[picture], len(seen) + text_at[words]) for picture, words in pairs])
    return Outcome("search", (*seen, *text_rows.values()), left_out, np.concatenate([pictures, words]), belong)


def _row(place: int, example: Mapping, read: str, expected: Sequence[str], said: str) -> Row:
    identity = examples.one(example["id"]) if "id" in example else str(place)
    return Row(place, identity, examples.group_of(example), read, tuple(expected), said)


def _left(left_out: dict, place: int) -> bool:
    left_out[place] = "an empty text"
    return False


def _after(prompt: str, said: str) -> str:
    """What follows the prompt. Joining pieces may have moved the prompt's spaces, so only its letters are skipped."""
    at = 0
    for letter in prompt:
        if not letter.isspace():
            at = said.find(letter, at) + 1
    return said[at:].strip()
