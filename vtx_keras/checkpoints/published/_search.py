"""Decoding by the rules of `transformers`, with which published captioners were evaluated: ids equal theirs.

The zoo's own search (`models.decode.search`) keeps the best finished hypothesis and stops when nothing can beat it.
transformers keeps as many as there are beams, takes twice as many proposals in each step, and stops when the worst
finished one is better than what goes on, as judged at the present length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from vtx_keras.inputs.text import END, PAD, START
from vtx_keras.models.decode import NEVER, UNWRITABLE, pick, whole_number
from vtx_keras.models.options import did_you_mean


class Rules(NamedTuple):
    """How the next token is chosen, in the terms of a generation_config.json; lengths count tokens after the start.

    `early_stopping` is False (stop by the present length), True (as soon as there are enough) or "never" (judge by the
    full length). `first` is written first and `last` in the last place, whatever the model says (BART). With
    `start_is_end` one token of the checkpoint starts and ends (GPT-2), so that it has been written before all others.
    """

    early_stopping: bool | str = False
    min_length: int = 0
    no_repeat_ngram: int = 0
    repetition_penalty: float = 1.0
    suppressed: tuple[int, ...] = UNWRITABLE
    first: int | None = None
    last: int | None = None
    start_is_end: bool = False

    @property
    def start(self) -> int:
        """The token that was written before all others."""
        return END if self.start_is_end else START

    def applied(self, scores: Any, ids: Any, index: Any, length: int) -> Any:
        """Return scores (batch, beams, vocabulary) after the rules, given ids (batch, beams, length) before `index`."""
        words = np.arange(scores.shape[-1])
        if self.repetition_penalty != 1.0:
            written = ops.where(ops.arange(length) < index, ids, self.start)
            seen = ops.any(ops.expand_dims(written, -1) == words, axis=2)  # (batch, beams, vocabulary)
            stronger, weaker = scores * self.repetition_penalty, scores / self.repetition_penalty
            scores = ops.where(seen, ops.where(scores < 0, stronger, weaker), scores)
        if 0 < self.no_repeat_ngram <= length:
            scores = ops.where(self._repeats(words, ids, index, length), NEVER, scores)
        if self.min_length:
            scores = ops.where(ops.logical_and(words == END, index < self.min_length), NEVER, scores)
        scores = ops.where(np.isin(words, self.suppressed), NEVER, scores)
        for place, forced in ((0, self.first), (length - 1, self.last)):
            if forced is not None:
                others = ops.logical_and(words != forced, ops.equal(index, place))
                scores = ops.where(ops.equal(index, place), ops.where(others, NEVER, 0.0), scores)
        return scores

    def _repeats(self, words: np.ndarray, ids: Any, index: Any, length: int) -> Any:
        """Return which words (batch, beams, vocabulary) would complete an n-gram that has been written before."""
        n = self.no_repeat_ngram
        written = ops.concatenate([ops.zeros_like(ids[:, :, :1]) + self.start, ids], axis=2)  # it stands at place 0
        places = ops.arange(length + 1)
        same = ops.ones_like(written[:, :, : length + 2 - n], "bool")  # (batch, beams, where an n-gram begins)
        for offset in range(n - 1):
            latest = ops.sum(ops.where(places == index + 2 - n + offset, written, 0), axis=2, keepdims=True)
            same = ops.logical_and(same, written[:, :, offset : length + 2 - n + offset] == latest)
        whole = ops.arange(length + 2 - n) + n - 1 <= index  # the n-gram has been written to its end
        same = ops.logical_and(ops.logical_and(same, whole), index + 2 >= n)
        ends = written[:, :, n - 1 :]  # the last word of each n-gram
        return ops.any(ops.logical_and(ops.expand_dims(ends, -1) == words, ops.expand_dims(same, -1)), axis=2)


def checked(rules: Mapping[str, Any], words: int) -> dict[str, Any]:
    """Return rules as a caller gave them, checked, for a vocabulary of so many words.

    >>> checked({"min_length": 3, "suppressed": [7]}, 10)
    {'min_length': 3, 'suppressed': (0, 1, 2, 4, 7)}
    >>> checked({"min_lengths": 3}, 10)
    Traceback (most recent call last):
    TypeError: generate() has no 'min_lengths' (did you mean min_length?): expected early_stopping, min_length, ...
    """
    known = (*Rules._fields[:-1], "length_penalty")
    expected = {
        "early_stopping": ('False, True or "never"', lambda value: value in (False, True, "never")),
        "min_length": ("a whole number", lambda value: whole_number(value) and value >= 0),
        "no_repeat_ngram": ("a whole number", lambda value: whole_number(value) and value >= 0),
        "repetition_penalty": ("a number above 0", lambda value: _number(value) and value > 0),
        "length_penalty": ("a number", _number),
        "suppressed": ("ids of the vocabulary", lambda value: _ids(value, words)),
        "first": ("an id of the vocabulary", lambda value: value is None or _id(value, words)),
        "last": ("an id of the vocabulary", lambda value: value is None or _id(value, words)),
    }
    for name, value in rules.items():
        if name not in known:
            raise TypeError(f"generate() has no {name!r}{did_you_mean(name, known)}: expected {', '.join(known)}")
        about, accepts = expected[name]
        if not accepts(value):
            raise ValueError(f"{name}={value!r}: expected {about}")
    if "suppressed" not in rules:
        return dict(rules)
    return {**rules, "suppressed": tuple(sorted({*UNWRITABLE, *map(int, rules["suppressed"])}))}


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _id(value: Any, words: int) -> bool:
    return whole_number(value) and 0 < value < words


def _ids(values: Any, words: int) -> bool:
    return isinstance(values, (list, tuple, np.ndarray)) and all(_id(one, words) for one in values)


def search(
    step: Callable[[Any, Any, Any, Any, Any], tuple[Any, Any]],
    cache: Any,
    prompt: Any,
    *,
    length: int,
    beams: int = 1,
    length_penalty: float = 1.0,
    rules: Rules | None = None,
) -> tuple[Any, Any]:
    """Write up to `length` tokens as transformers does: arguments and results are those of `models.decode.search`.

    One beam is greedy search. A prompt is written first, and counts neither for scores nor for lengths in them.
    """
    greedy, rules = beams == 1, rules or Rules()
    positions, beam, many = ops.arange(length), ops.arange(beams), 1 if greedy else 2 * beams
    zeros = ops.tile(ops.zeros_like(prompt[:, :1]), (1, beams))  # (batch, beams): the batch size may be unknown
    empty = ops.tile(ops.expand_dims(ops.zeros_like(prompt), 1), (1, beams, 1))  # (batch, beams, length)
    unscored = ops.cast(zeros, "float32")
    start = {
        "index": ops.convert_to_tensor(0, "int32"),
        "newest": zeros + START,
        "ids": empty,
        "history": empty,
        "scores": unscored + ops.where(beam == 0, 0.0, NEVER),  # all beams start equal: only one counts
        "written": unscored[:, :1],  # (batch, 1): the number of tokens after the prompt
        "finished": unscored + NEVER,  # scores of finished hypotheses, best first
        "finished_ids": empty,
        "open": unscored[:, :1] < 1,
        "cache": cache,
    }

    def unfinished(state: dict) -> Any:
        return ops.logical_and(state["index"] < length, ops.any(state["open"]))

    def write(state: dict) -> dict:
        now = positions == state["index"]  # (length,)
        history = ops.where(now, beam[:, None], state["history"])
        visible = ops.logical_and(ops.expand_dims(history, -1) == beam, (positions <= state["index"])[:, None])
        visible = ops.reshape(visible, (-1, beams, length * beams))
        logits, cache = step(state["newest"], state["index"], state["cache"], now, visible)
        total = ops.logsumexp(logits, axis=-1, keepdims=True)
        # transformers applies the rules to logits in greedy search, and to log-probabilities among beams.
        scores = logits if greedy else logits - total
        scores = rules.applied(scores, state["ids"], state["index"], length)
        values, tokens = ops.top_k(scores, min(many, scores.shape[-1]))  # (batch, beams, many)
        values = values - total if greedy else values
        width = tokens.shape[-1]
        scores = ops.reshape(ops.expand_dims(state["scores"], -1) + values, (-1, beams * width))
        scores, chosen = ops.top_k(scores, many)  # (batch, many)
        chosen = ops.cast(chosen, "int32")
        tokens, parent = pick(ops.reshape(ops.cast(tokens, "int32"), (-1, beams * width)), chosen), chosen // width
        ids = ops.where(now, ops.expand_dims(tokens, -1), pick(state["ids"], parent))  # (batch, many, length)
        ended = ops.logical_or(tokens == END, ops.equal(state["index"], length - 1))

        # The prompt replaces the choice, and is not scored.
        prompted = ops.sum(ops.where(now, prompt, 0), axis=1, keepdims=True)  # (batch, 1)
        forced = prompted > 0
        written = state["written"] + ops.where(forced, 0.0, 1.0)
        going, which = ops.top_k(scores + ops.where(ended, NEVER, 0.0), beams)
        which = ops.cast(which, "int32")

        # Of the proposals that end, only those among the best `beams` count, and the best `beams` so far are kept.
        norm = ops.power(ops.maximum(written, 1.0), length_penalty)
        counts = ops.logical_and(ops.logical_and(ended, ops.arange(many) < beams), state["open"])
        counts = ops.logical_and(counts, ops.logical_not(forced))
        hypotheses = ops.concatenate([state["finished"], ops.where(counts, scores / norm, NEVER)], axis=1)
        finished, best = ops.top_k(hypotheses, beams)
        finished_ids = pick(ops.concatenate([state["finished_ids"], ids], axis=1), ops.cast(best, "int32"))
        if rules.early_stopping is True or greedy:
            hope = finished[:, -1:] <= NEVER / 2
        else:
            judged = float(length) ** length_penalty if rules.early_stopping == "never" else norm
            hope = going[:, :1] / judged > finished[:, -1:]
        deep = ops.expand_dims(forced, -1)
        told = ops.where(now, ops.expand_dims(prompted, -1), state["ids"])
        return {
            "index": state["index"] + 1,
            "newest": ops.where(forced, prompted, pick(tokens, which)),
            "ids": ops.where(deep, told, pick(ids, which)),
            "history": ops.where(deep, history, pick(history, pick(parent, which))),
            "scores": ops.where(forced, state["scores"], going),
            "written": written,
            "finished": finished,
            "finished_ids": finished_ids,
            "open": ops.logical_and(state["open"], ops.logical_or(hope, forced)),
            "cache": cache,
        }

    final = ops.while_loop(unfinished, write, start)
    none = final["finished"][:, :1] <= NEVER / 2  # the prompt took the whole length
    ids = ops.where(none, final["ids"][:, 0], final["finished_ids"][:, 0])
    return ops.where(ids == END, PAD, ids), ops.where(none[:, 0], 0.0, final["finished"][:, 0])
