"""Turn questions and answers into the ids that a chat reads and writes, by the template of a language model.

A row is a whole conversation. What a chat reads is read: the template, the questions, earlier answers. What it writes
is learned: each answer, and END behind it, where the template may go on otherwise.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vtx_keras.data._examples import template_of
from vtx_keras.data._source import mapped
from vtx_keras.inputs import _rules, text
from vtx_keras.inputs._templates import BadTemplate, rendered
from vtx_keras.models._base import VisionText

FIELDS = ({"question", "answer"}, {"questions", "answers"})
# Why a row cannot be learned: its state is the place here.
STATES = (
    "",
    "conversations have no turn, or not as many questions as answers",
    "conversations have an empty question or answer",
    "conversations have the name of a special piece in their words",
    "conversations are written otherwise by the template once they are answered: make a row of each question",
    "conversations are too long for an answer: build the model with a greater max_length, which must hold the template",
)
SAMPLES = ("\ue000{}\ue001", "Is it {} or (so): yes!", "{}", "what's it, {}?")  # what a template must not look at
PLAIN = re.compile(r"[\w,;:!?.'\"()-]+( [\w,;:!?.'\"()-]+)*")


class Turns(NamedTuple):
    """A conversation as ids: what is read, and at each place what is to be learned there, PAD for nothing."""

    ids: list[int]
    learned: list[int]
    state: int = 0


def has_turns(spec: Any) -> bool:
    """Return whether examples are questions with answers, one or several, rather than captions.

    >>> has_turns({"image": 1, "question": 2, "answer": 3}), has_turns({"image": 1, "caption": 2})
    (True, False)
    """
    fields = set(spec) if isinstance(spec, dict) else set()
    return any(both <= fields for both in FIELDS) and not {"caption", "captions"} & fields


def reader(model: VisionText) -> Callable[[Sequence[str], Sequence[str]], Turns]:
    """Return a function from questions and their answers to `Turns`, whose ids are those of `Chat`, turn by turn."""
    tokens, rule = model.options["text_decoder"]["tokens"], model.vocabulary.rule or {}
    encode = _rules.reader(model.vocabulary, rule)
    names = {*tokens.values(), *rule["names"]}
    before = _writer(template_of(model), tokens)
    once, lead = before(["?"], []), ""  # raises an error where nothing can be written
    with contextlib.suppress(BadTemplate):
        history = before(["?", "?"], ["\ue000"])
        gap = history.removeprefix(once).partition("\ue000")[0]
        lead = gap if gap.isspace() else ""  # "[/INST]" may be what is read, and " a dog" what is written

    def ids_of(words: str) -> list[int]:
        return [one for one in encode(words) if one != text.PAD]

    def read(questions: Sequence[str], answers: Sequence[str]) -> Turns:
        if not len(questions) == len(answers) > 0:
            return Turns([], [], 1)
        answers = [one.strip() for one in answers]
        said, written = [*questions, *answers], [lead + one for one in answers]
        if not all(one.strip() for one in said):
            return Turns([], [], 2)
        if any(name in one for name in names for one in said):
            return Turns([], [], 3)
        try:
            asked = [before(questions[: turn + 1], answers[:turn]) for turn in range(len(questions))]
        except BadTemplate:
            return Turns([], [], 4)
        ids = ids_of(asked[-1] + written[-1])
        learned = [text.PAD] * (len(ids) + 1)
        for prompt, answer in zip(asked, written, strict=True):
            start, stop = ids_of(prompt), ids_of(prompt + answer)
            if ids[: len(stop)] != stop or stop[: len(start)] != start:
                return Turns([], [], 4)
            learned[len(start) : len(stop) + 1] = [*stop[len(start) :], text.END]
        return Turns([*ids, text.END], learned)

    return read


def _writer(template: str, tokens: dict[str, str]) -> Callable[[Sequence[str], Sequence[str]], str]:
    """Return a function from questions and the answers to all but the last to the text up to the last one's answer.

    Most templates write the same around any words. Then it is found once for each number of turns.
    """

    def render(questions: Sequence[str], answers: Sequence[str]) -> str:
        history = [{"role": "user", "content": questions[0]}]
        for answer, question in zip(answers, questions[1:], strict=True):
            history += [{"role": "assistant", "content": answer}, {"role": "user", "content": question}]
        return rendered(template, history, tokens=tokens)

    @functools.lru_cache(maxsize=64)
    def around(turns: int) -> tuple[str, ...]:
        """Return the parts before, between and after the words of these turns; none if they are not always the same."""
        parts: tuple[str, ...] = ()
        for sample in SAMPLES:
            said = [sample.format(f"x{place}y") for place in range(2 * turns - 1)]
            written = render(said[::2], said[1::2])
            if not parts:
                found = re.split("|".join(map(re.escape, said)), written)
                parts = tuple(found) if len(found) == 2 * turns else ()
            if not parts or written != _interleaved(parts, said):
                return ()
        return parts

    def write(questions: Sequence[str], answers: Sequence[str]) -> str:
        said = [one for both in zip(questions, answers, strict=False) for one in both] + [questions[-1]]
        if all(PLAIN.fullmatch(one) for one in said) and (parts := around(len(questions))):
            return _interleaved(parts, said)
        return render(questions, answers)

    return write


def _interleaved(parts: Sequence[str], said: Sequence[str]) -> str:
    return "".join(part + one for part, one in zip(parts, [*said, ""], strict=True))


def with_ids(source: tf.data.Dataset, model: VisionText, length: int) -> tf.data.Dataset:
    """Replace questions and answers by "_turns" and "_learned", `length` ids each, their "_state", and a "caption".

    "_pieces" is the number of ids before they are cut to `length`.
    """
    read = reader(model)

    def by_python(questions: np.ndarray, answers: np.ndarray) -> tuple:
        row = read(*([one.decode("utf-8", "replace") for one in many] for many in (questions, answers)))
        padded = np.full((2, length), text.PAD, "int32")
        for place, ids in enumerate(row[:2]):
            padded[place, : len(ids)] = ids[:length]
        state = row.state or (0 if padded[1, 1:].any() else 5)
        return padded, np.array([len(row.ids), state], "int64")

    def written(example: dict) -> dict:
        one = "question" in example
        questions, answers = (
            tf.reshape(_strings(example[key + "s" * (not one)]), [-1]) for key in ("question", "answer")
        )
        padded, counts = tf.numpy_function(by_python, [questions, answers], [tf.int32, tf.int64], stateful=False)
        padded, counts = tf.ensure_shape(padded, (2, length)), tf.ensure_shape(counts, (2,))
        rest = {key: value for key, value in example.items() if not any(key in both for both in FIELDS)}
        words = tf.strings.reduce_join(tf.concat([questions, answers], axis=0), separator=" | ")
        return {
            **rest, "caption": words, "_turns": padded[0], "_learned": padded[1], "_pieces": counts[0],
            "_state": counts[1],
        }  # fmt: skip

    return mapped(source, written)


def _strings(value: tf.Tensor) -> tf.Tensor:
    return value if value.dtype == tf.string else tf.strings.as_string(value)
