"""Run a model of any task on examples, row by row beside the expected texts, measure the result and choose cases.

Examples are those of `data.load`: dicts with "image" (or "path") and a text. They are read a few at a time, and only
texts and numbers are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vtx_keras.data import _examples as examples
from vtx_keras.evaluate import _captions as captions
from vtx_keras.evaluate import _measures as measures
from vtx_keras.evaluate._measures import Measure, mean
from vtx_keras.evaluate._pages import CASES, LOWER_IS_BETTER, RANKING, Card, figure_text
from vtx_keras.inputs import media, text
from vtx_keras.inputs.text import TEXT_FIELDS
from vtx_keras.models._base import VisionText
from vtx_keras.models._methods import Answerer, Captioner, Matcher, Retriever

LONGEST = 32  # tokens of an answer


class Row(NamedTuple):
    """One row: its place in the data, its resampling group, its input text, the expected texts and the prediction.

    `turn` is its place in a conversation.
    """

    place: int
    id: str
    group: str
    read: str
    expected: tuple[str, ...]
    said: str = ""
    turn: int = 0


class Outcome(NamedTuple):
    """Rows of one kind: "captions", "answers" (written), "label", "labels", "matches" or "search".

    `scores` and `truth` are (rows, classes) if a model gives numbers; a row of `truth` is all False if the right label
    is none of the classes. `logits` says that scores stand for probabilities and do not only rank. In a search the rows
    are images, then texts (with nothing expected), `scores` are their embeddings, and `truth` are pairs of rows that
    belong together.
    """

    kind: str
    rows: tuple[Row, ...]
    left_out: dict[int, str]
    scores: np.ndarray | None = None
    truth: np.ndarray | None = None
    logits: bool = True


def said_of(
    model: VisionText,
    ds: Iterable[Mapping],
    *,
    beams: int = 1,
    batch_size: int = 32,
    told: Callable[[int], object] = lambda done: None,
) -> Outcome:
    """Run `model` on examples. A row that cannot be used is left out, with the reason in `left_out`.

    A captioner reads the question of an example with a question and an answer, and continues a "prompt"; one that has a
    template of conversations answers as `model.answer` does, and reads the true turns "before" a question. A matcher
    gets each image with its own text and with the text of the row before, unless examples have a "label". `told` is
    called with the number of rows done.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3), classes=["no", "yes"])
    >>> example = {"image": np.zeros((32, 32, 3), "uint8"), "question": "is it a cat?", "answer": "no"}
    >>> outcome = said_of(model, [example, {**example, "image": b"?"}])
    >>> outcome.rows[0].expected, list(outcome.left_out)
    (('no',), [1])
    """
    runners: dict[type[VisionText], Callable[..., Outcome]]
    runners = {Captioner: _written, Answerer: _labelled, Matcher: _matched, Retriever: _searched}
    runner = next((runner for kind, runner in runners.items() if isinstance(model, kind)), None)
    if runner is None:
        raise TypeError(f"{type(model).__name__}: expected a model from zoo.build")
    settings = {"batch_size": batch_size, **({"beams": beams} if isinstance(model, Captioner) else {})}
    outcome = runner(model, examples.chunks(examples.as_numpy(ds), 4 * batch_size, told), {}, **settings)
    if not outcome.rows:
        reasons = "; ".join(f"row {place}: {why}" for place, why in list(outcome.left_out.items())[:3])
        raise ValueError(f"no row can be judged: {reasons or 'there is none'}")
    return outcome


def measures_of(
    outcome: Outcome, *, scorers: Sequence[str] | None = None, tokenizer: str = "plain"
) -> dict[str, Measure]:
    """Compute the measures of an outcome, by name. `scorers` and `tokenizer` are those of `caption_scores`.

    The default scorers are BLEU, ROUGE-L and CIDEr.

    >>> rows = tuple(Row(i, str(i), str(i), "", ("a cat",), said) for i, said in enumerate(["a cat", "a dog"]))
    >>> measures_of(Outcome("captions", rows, {}), scorers=[])["word_f1"].value
    0.75
    """
    rows = outcome.rows
    if outcome.kind == "search":
        images = sum(bool(row.expected) for row in rows)
        assert outcome.scores is not None  # a search has both
        assert outcome.truth is not None
        image_of, text_of = outcome.truth.T
        return measures.retrieval(outcome.scores[:images], outcome.scores[images:], text_of - images, image_of)
    if outcome.kind == "matches":
        return measures.yes_or_no(outcome.scores, outcome.truth) | _calibration(outcome)
    if outcome.kind == "labels":
        return measures.many_labels(outcome.scores, outcome.truth) | _calibration(outcome)
    result: dict[str, Measure] = {}
    if outcome.kind in ("answers", "label") and all(len(row.expected) > 1 for row in rows):
        result["vqa_accuracy"] = mean([measures.vqa_accuracy(row.said, row.expected) for row in rows])
    if outcome.kind == "label":
        majority = [_majority(row.expected)[0] for row in rows]
        return result | measures.one_label([row.said for row in rows], majority) | _calibration(outcome)
    result["exact_match"] = mean(exact := [captions.exact(row.said, row.expected) for row in rows])
    if any(row.turn for row in rows):
        later = [one if row.turn else np.nan for one, row in zip(exact, rows, strict=True)]
        result["exact_match_of_later_turns"] = mean(later)
    result["word_f1"] = mean([captions.word_f1(row.said, row.expected) for row in rows])
    if outcome.kind == "captions":
        predicted, references = [row.said for row in rows], [row.expected for row in rows]
        scorers = captions.SCORERS[:3] if scorers is None else scorers
        result |= captions.caption_scores(predicted, references, scorers=scorers, tokenizer=tokenizer)
    return result


def cases_of(
    outcome: Outcome,
    measures: Mapping[str, Measure],
    others: Mapping[str, Outcome],
    stream: Callable[[], Iterator[dict]],
    image_shape: Sequence[int],
    seed: int = 0,
) -> list[tuple[str, list[Card]]]:
    """Return random, best and worst cases as sections of a page; only their images are read again."""
    rows = [number for number, row in enumerate(outcome.rows) if row.expected]
    scores = [(name, measures[name].rows) for name in RANKING if name in measures]
    random = np.random.default_rng(seed)
    shuffled = [rows[number] for number in random.permutation(len(rows))]

    def goodness(number: int) -> tuple:
        return tuple(-value[number] if name.endswith(LOWER_IS_BETTER) else value[number] for name, value in scores)

    ranked = sorted(shuffled, key=goodness)
    share = min(CASES, max(1, len(ranked) // 2))
    sections = {
        "Random cases": shuffled[:CASES],
        f"Best cases, by {scores[0][0].replace('_', ' ')}": ranked[::-1][:share],
        f"Worst cases, by {scores[0][0].replace('_', ' ')}": ranked[:share],
    }
    places = {outcome.rows[number].place for numbers in sections.values() for number in numbers}
    images = {place: _frames(example, image_shape) for place, example in enumerate(stream()) if place in places}

    def card(number: int) -> Card:
        row = outcome.rows[number]
        lines = [("id", row.id), *([("input", row.read)] if row.read else []), ("predicted", row.said or "(nothing)")]
        lines += [("expected", " | ".join(row.expected))]
        lines += [(name.replace("_", " "), other.rows[number].said) for name, other in others.items()]
        lines += [(name.replace("_", " "), figure_text(value[number])) for name, value in scores[:2]]
        return Card(images[row.place], lines)

    return [(name, [card(number) for number in numbers]) for name, numbers in sections.items()]


def _frames(example: Mapping, image_shape: Sequence[int]) -> list:
    """Return the image, or a few frames of the clip, to show."""
    image = examples.image_of(example)
    return media.read_clip(image, min(4, image_shape[0])) if len(image_shape) == 4 else [image]


def _calibration(outcome: Outcome) -> dict[str, Measure]:
    """Measure the calibration of the predicted label's probability, or of every label's, if there are some."""
    if outcome.scores is None or outcome.truth is None or not outcome.logits:
        return {}
    scores, truth = outcome.scores.astype(float), outcome.truth
    if outcome.kind == "label":
        best = scores.argmax(axis=1)[:, None]
        chances = 1 / np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1)  # softmax of the best
        return {"calibration_error": measures.calibration(chances, np.take_along_axis(truth, best, 1)[:, 0])}
    chances = 0.5 * (1 + np.tanh(scores / 2))  # the sigmoid, without overflow
    return {"calibration_error": measures.calibration(chances, truth)}


def _written(model: Captioner, chunks: Iterator, left_out: dict, *, beams: int, batch_size: int) -> Outcome:
    """Write captions, or answers to questions."""
    rows: list[Row] = []
    is_question = None
    for places, chunk in chunks:
        if is_question is None:  # the first example decides for all
            is_question = examples.writes_answers(chunk[0])
        inputs, references = zip(*(examples.text_and_targets(model, example) for example in chunk), strict=True)
        usable = examples.comparable_rows(places, left_out, references, inputs if is_question else None)
        if not usable:
            continue
        prompts = [inputs[i] for i in usable] if any(inputs) else None
        images = [examples.image_of(chunk[i]) for i in usable]
        chats = bool(is_question and examples.template_of(model))
        try:
            if chats:
                if beams != 1:
                    raise TypeError(f"beams={beams}: a conversation is written greedily, leave beams out")
                captions, errors = _answered(
                    model, images, [chunk[i] for i in usable], inputs=[inputs[i] for i in usable]
                )
            else:
                captions, errors = model.generate(images, prompts, beams=beams, batch_size=batch_size), {}
        except media.BadItems as error:
            captions, errors = error.results, error.errors
        if prompts and not chats:
            prefixes = text.decode(model.prompts(prompts, len(usable), model.options["max_length"]), model.vocabulary)
            pairs = zip(prefixes, captions, strict=True)
            captions = [None if caption is None else _after(prefix, caption) for prefix, caption in pairs]
        for index, i in enumerate(usable):
            if index in errors:
                left_out[places[i]] = errors[index]
            else:
                rows.append(_row(places[i], chunk[i], inputs[i], references[i], captions[index]))
    return Outcome("answers" if is_question else "captions", tuple(rows), left_out)


def _answered(
    model: Captioner, images: Sequence, chunk: Sequence[Mapping], inputs: Sequence[str]
) -> tuple[list[Any], dict[int, str]]:
    """Answer each question after the true turns before it; pictures that follow one another are read once."""
    answers: list[Any] = []
    errors: dict[int, str] = {}
    chat, last = None, None
    for index, (image, example, question) in enumerate(zip(images, chunk, inputs, strict=True)):
        said = None
        try:
            chat = chat if chat and image is last else model.chat(image)
            chat.history[:] = [
                {"role": role, "content": content}
                for both in example.get("before", ())
                for role, content in zip(("user", "assistant"), both, strict=True)
            ]
            said, last = chat.ask(question, max_length=LONGEST).strip(), image
        except media.BadItems as error:
            errors[index] = error.errors[0]
        except ValueError as error:  # too long, or a name of a special piece
            errors[index] = str(error)
        answers.append(said)
    return answers, errors


def _labelled(model: Answerer, chunks: Iterator, left_out: dict, *, batch_size: int) -> Outcome:
    """Predict one label per row, or several."""
    multi, names, empty = model.options["multi_label"], model.class_names, model.options["allow_empty"]
    index_of = {name: c for c, name in enumerate(names)}
    rows, logits, truth = [], [], []
    for places, chunk in chunks:
        inputs, targets = zip(*(examples.text_and_targets(model, example) for example in chunk), strict=True)
        usable = [i for i in range(len(places)) if empty or text.normalize(inputs[i])]
        left_out.update({place: "an empty text" for i, place in enumerate(places) if i not in usable})
        if not usable:
            continue
        images, texts = [examples.image_of(chunk[i]) for i in usable], [inputs[i] for i in usable]
        values, readable, errors, _ = model.logits(images, texts, batch_size, allow_empty=empty)
        left_out.update({places[usable[index]]: reason for index, reason in errors.items()})
        for index, row in zip(readable, values, strict=True):
            i = usable[index]
            predicted = [names[c] for c in np.flatnonzero(row > 0)] if multi else [names[int(row.argmax())]]
            rows.append(_row(places[i], chunk[i], inputs[i], targets[i], ", ".join(predicted)))
            right = targets[i] if multi else _majority(targets[i])
            logits.append(row)
            truth.append(np.isin(range(len(names)), [index_of[one] for one in right if one in index_of]))
    return Outcome("labels" if multi else "label", tuple(rows), left_out, np.array(logits), np.array(truth))


def _majority(answers: Sequence[str]) -> list[str]:
    """Return the most common answer, the first if several are equally common, in a list; [] of none."""
    return [answer for answer, _ in Counter(answers).most_common(1)]


def _matched(model: Matcher, chunks: Iterator, left_out: dict, *, batch_size: int) -> Outcome:
    """Judge whether each text fits its image; without labels, also the text of the row before."""
    rows, logits, truth, previous = [], [], [], None
    for places, chunk in chunks:
        references = [examples.expected(example, TEXT_FIELDS) for example in chunk]
        pairs = []
        for i in examples.comparable_rows(places, left_out, references):
            own_text, label = references[i][0], examples.as_text(chunk[i].get("label", 1)).removesuffix(".0")
            if label not in ("0", "1"):
                left_out[places[i]] = f"label {label}: expected 1 (fits) or 0"
                continue
            pairs.append((i, own_text, int(label)))
            if (
                "label" not in chunk[i]
                and previous is not None
                and text.normalize(previous) != text.normalize(own_text)
            ):
                pairs.append((i, previous, 0))
            previous = own_text
        if not pairs:
            continue
        images, texts = [examples.image_of(chunk[i]) for i, _, _ in pairs], [paired_text for _, paired_text, _ in pairs]
        values, readable, errors, _ = model.logits(images, texts, batch_size)
        left_out.update({places[pairs[index][0]]: reason for index, reason in errors.items()})
        for index, value in zip(readable, values[:, 0], strict=True):
            i, paired_text, fits = pairs[index]
            predicted = "yes" if value > 0 else "no"
            rows.append(_row(places[i], chunk[i], paired_text, (("no", "yes")[fits],), predicted))
            logits.append([value])
            truth.append([fits])
    return Outcome("matches", tuple(rows), left_out, np.array(logits), np.array(truth))


def _searched(model: Retriever, chunks: Iterator, left_out: dict, *, batch_size: int) -> Outcome:
    """Embed images and texts. Equal images are one candidate, and so are equal texts, since they cannot be ranked."""
    image_rows: dict[str, Row] = {}
    text_rows: dict[str, Row] = {}
    images, texts = [], []
    pairs: dict[tuple[str, str], None] = {}
    for places, chunk in chunks:
        captions_of = [examples.expected(example, TEXT_FIELDS) for example in chunk]
        usable = examples.comparable_rows(places, left_out, captions_of)
        digests = {i: examples.image_digest(examples.image_of(chunk[i])) for i in usable}
        new_images = [i for i in usable if digests[i] not in image_rows]
        if new_images:
            pixels, readable, errors = model.prepare([examples.image_of(chunk[i]) for i in new_images])
            left_out.update({places[new_images[index]]: reason for index, reason in errors.items()})
            first_rows: dict[int, None] = {}
            for index, i in enumerate(new_images[index] for index in readable):
                if digests[i] not in image_rows:
                    image_rows[digests[i]] = _row(places[i], chunk[i], "", (), "")
                    first_rows[index] = None
            if first_rows:
                encode = model.tower("image")
                images.append(model.in_batches(encode, {"image": pixels[list(first_rows)]}, batch_size))
        new_texts = []
        for i in usable:
            if digests[i] not in image_rows:
                continue
            for caption in captions_of[i]:
                key = text.normalize(caption)
                if key not in text_rows:
                    text_rows[key] = _row(places[i], chunk[i], caption, (), "")
                    new_texts.append(caption)
                pairs[digests[i], key] = None
        if new_texts:
            texts.append(model.in_batches(model.tower("text"), {"tokens": model.tokens_of(new_texts)}, batch_size))
    if not image_rows:
        return Outcome("search", (), left_out)
    image_index, text_index = ({key: index for index, key in enumerate(rows)} for rows in (image_rows, text_rows))
    texts_of: dict[str, list[str]] = {}
    for digest, key in pairs:
        texts_of.setdefault(digest, []).append(text_rows[key].read)
    image_vectors, text_vectors = np.concatenate(images), np.concatenate(texts)
    names = [row.read for row in text_rows.values()]
    nearest = [names[int((text_vectors @ vector).argmax())] for vector in image_vectors]
    image_results = [
        row._replace(expected=tuple(texts_of[key]), said=caption)
        for (key, row), caption in zip(image_rows.items(), nearest, strict=True)
    ]
    truth = np.array([(image_index[digest], len(image_results) + text_index[key]) for digest, key in pairs])
    return Outcome(
        "search", (*image_results, *text_rows.values()), left_out, np.concatenate([image_vectors, text_vectors]), truth
    )


def _row(place: int, example: Mapping, read: str, expected: Sequence[str], predicted: str) -> Row:
    identity = examples.as_text(example["id"]) if "id" in example else str(place)
    turn = len(example.get("before", ()))
    return Row(place, identity, examples.group_of(example), read, tuple(expected), predicted, turn)


def _after(prompt: str, caption: str) -> str:
    """Return what follows the prompt. Decoding may have moved the prompt's spaces, so only its letters are skipped."""
    end = 0
    for letter in prompt:
        if not letter.isspace():
            end = caption.find(letter, end) + 1
    return caption[end:].strip()
