"""Greedy, beam and sampled decoding: one static-shape loop over a key-value cache, pure `keras.ops`.

A model brings a `step` (newest tokens and cache in, logits and cache out); this module chooses the next tokens. No
shape here depends on data, so the loop compiles under XLA and `jax.jit`, and converts to LiteRT and ONNX.

Beams are never copied. A token's keys and values stay in the cache slot of the beam that wrote it, and `history`
(batch, beams, length) holds, for each beam and position, the slot of its own past: reordering beams permutes only that
table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras.inputs.text import END, MASK, PAD, START, UNK
from vtx_keras.models.layers import NEVER

__all__ = [
    "MOST_BEAMS", "NEVER", "SAMPLERS", "UNWRITABLE", "Generate", "Likelihood", "check_beams", "check_sampling",
    "make_draw", "pick", "run_in_batches", "sampling", "search", "whole_number",
]  # fmt: skip
MOST_BEAMS = 100  # memory grows with them
SAMPLERS = ("greedy", "random", "top_k", "top_p")
UNWRITABLE = (PAD, UNK, START, MASK)  # special tokens that a decoder never writes (it does write END)


def whole_number(value: Any) -> bool:
    """Return whether a value is a whole number, of Python or NumPy.

    >>> whole_number(2), whole_number(np.int64(2)), whole_number(2.0), whole_number(True)
    (True, True, False, False)
    """
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_beams(beams: int) -> None:
    """Raise ValueError for a number of beams that cannot be searched."""
    if not whole_number(beams) or not 1 <= beams <= MOST_BEAMS:
        raise ValueError(f"beams={beams!r}: expected a whole number from 1 to {MOST_BEAMS}")


def check_sampling(
    sampler: str, beams: int, top_k: int | None, top_p: float | None, temperature: float | None, seed: int | None
) -> None:
    """Raise ValueError for contradictory or invalid arguments, before anything is computed.

    >>> check_sampling("greedy", 4, None, None, None, None)
    >>> check_sampling("greedy", 1, None, 0.9, None, None)
    Traceback (most recent call last):
    ValueError: top_p=0.9 has no effect with sampler="greedy": pass sampler="top_p"
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler={sampler!r} is not one of {', '.join(SAMPLERS)}")
    check_beams(beams)
    if sampler != "greedy" and beams > 1:
        raise ValueError(f'beams={beams} needs sampler="greedy": beam search does not draw. Drop one of the two.')
    uses = {"top_k": ("top_k", "top_p"), "top_p": ("top_p",), "temperature": SAMPLERS[1:], "seed": SAMPLERS[1:]}
    given = {"top_k": top_k, "top_p": top_p, "temperature": temperature, "seed": seed}
    for option, value in given.items():
        if value is not None and sampler not in uses[option]:
            wanted = option if option in SAMPLERS else "top_p"
            raise ValueError(f'{option}={value} has no effect with sampler="{sampler}": pass sampler="{wanted}"')
    if top_k is not None and (not whole_number(top_k) or top_k < 1):
        raise ValueError(f"top_k={top_k!r}: expected a whole number of at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p!r}: expected a share of the probability, above 0 and at most 1")
    if temperature is not None and not (temperature >= 1e-3 and math.isfinite(temperature)):
        raise ValueError(f'temperature={temperature!r}: expected at least 0.001; for no randomness use "greedy"')


def sampling(
    sampler: str, beams: int, top_k: int | None, top_p: float | None, temperature: float | None, seed: int | None
) -> dict[str, Any]:
    """Check the options of sampling, and fill in the defaults."""
    check_sampling(sampler, beams, top_k, top_p, temperature, seed)
    if sampler == "top_k":
        top_k = top_k or 50
    if sampler == "top_p":
        top_p = top_p or 0.9
    return {"sampler": sampler, "top_k": top_k, "top_p": top_p, "temperature": temperature}


def search(
    step: Callable[[Any, Any, Any, Any, Any], tuple[Any, Any]],
    cache: Any,
    prompt: Any,
    *,
    length: int,
    beams: int = 1,
    length_penalty: float = 1.0,
    draw: Callable[[Any, Any], Any] | None = None,
) -> tuple[Any, Any]:
    """Write up to `length` tokens after the start token; return (ids (batch, length), scores (batch,)).

    `step(tokens (batch, beams), index, cache, now (length,), visible (batch, beams, length * beams))` returns float32
    logits (batch, beams, vocabulary) and the next cache. `prompt` (batch, length), 0-padded, is written first. The
    score is the log-probability of the tokens after the prompt, END included, divided by their number to the power
    `length_penalty`. The ids do not contain END. `draw(logits, index)` returns the token to write (batch, 1, 1), in
    place of the likeliest.
    """
    positions, beam = ops.arange(length), ops.arange(beams)
    zeros = ops.tile(ops.zeros_like(prompt[:, :1]), (1, beams))  # (batch, beams): the batch size may be unknown
    empty = ops.tile(ops.expand_dims(ops.zeros_like(prompt), 1), (1, beams, 1))  # (batch, beams, length)
    start = {
        "index": ops.convert_to_tensor(0, "int32"),
        "newest": zeros + START,  # (batch, beams)
        "ids": empty,  # (batch, beams, length)
        "history": empty,  # (batch, beams, length): the cache slot of each past token
        # All beams start equal, so at first only one of them counts.
        "scores": ops.cast(zeros, "float32") + ops.where(beam == 0, 0.0, NEVER),  # (batch, beams)
        "written": ops.cast(prompt[:, :1] * 0, "float32"),  # (batch, 1): the number of tokens after the prompt
        "best": ops.cast(prompt[:, 0] * 0, "float32") + 10 * NEVER,  # (batch,): best score of the finished hypotheses
        "best_ids": ops.zeros_like(prompt),  # (batch, length)
        "cache": cache,
    }

    def normalized(scores: Any, written: Any) -> Any:
        return scores / ops.power(ops.maximum(written, 1.0), length_penalty)

    def unfinished(state: dict) -> Any:
        # A log-probability only falls, so divided by the greatest length it bounds the score a beam can still reach.
        bound = ops.max(state["scores"], axis=1) / float(length) ** length_penalty
        return ops.logical_and(state["index"] < length, ops.any(bound > state["best"]))

    def write(state: dict) -> dict:
        now = positions == state["index"]  # (length,)
        history = ops.where(now, beam[:, None], state["history"])  # (batch, beams, length)
        past = (positions <= state["index"])[:, None]  # (length, 1)
        visible = ops.logical_and(ops.expand_dims(history, -1) == beam, past)  # (batch, beams, length, beams)
        visible = ops.reshape(visible, (-1, beams, length * beams))
        logits, cache = step(state["newest"], state["index"], state["cache"], now, visible)
        logits = ops.where(
            np.isin(np.arange(logits.shape[-1]), UNWRITABLE), NEVER, logits
        )  # (batch, beams, vocabulary)

        # Each beam proposes its likeliest next tokens; the best of all proposals become the new beams.
        if draw is None:
            values, tokens = ops.top_k(logits, min(beams, logits.shape[-1]))  # (batch, beams, width)
            tokens = ops.cast(tokens, "int32")
        else:
            tokens = ops.cast(draw(logits, state["index"]), "int32")
            values = ops.take_along_axis(logits, tokens, axis=-1)
        width = tokens.shape[-1]
        scores = ops.expand_dims(state["scores"], -1) + values - ops.logsumexp(logits, axis=-1, keepdims=True)
        scores, tokens = (ops.reshape(x, (-1, beams * width)) for x in (scores, tokens))
        scores, chosen = ops.top_k(scores, beams)  # (batch, beams)
        chosen = ops.cast(chosen, "int32")
        newest, parent = pick(tokens, chosen), chosen // width  # (batch, beams)

        # The prompt replaces the choice, and is not scored.
        prompted = ops.sum(ops.where(now, prompt, 0), axis=1, keepdims=True)  # (batch, 1)
        forced = prompted > 0
        parent = ops.where(forced, beam, parent)
        newest = ops.where(forced, prompted, newest)
        scores = ops.where(forced, state["scores"], scores)
        written = state["written"] + ops.where(forced, 0.0, 1.0)
        ids = ops.where(now, ops.expand_dims(newest, -1), pick(state["ids"], parent))  # (batch, beams, length)

        # Finished hypotheses are stored apart, the best one per row, and free their beam.
        ended = newest == END
        finished, which = ops.top_k(ops.where(ended, normalized(scores, written), 20 * NEVER), 1)  # (batch, 1)
        better = finished > ops.expand_dims(state["best"], -1)
        return {
            "index": state["index"] + 1,
            "newest": newest,
            "ids": ids,
            "history": pick(history, parent),
            "scores": ops.where(ended, 2 * NEVER, scores),
            "written": written,
            "best": ops.maximum(state["best"], finished[:, 0]),
            "best_ids": ops.where(better, pick(ids, ops.cast(which, "int32"))[:, 0], state["best_ids"]),
            "cache": cache,
        }

    final = ops.while_loop(unfinished, write, start)
    # Hypotheses that reached the length without END compete with the finished ones.
    truncated, which = ops.top_k(normalized(final["scores"], final["written"]), 1)  # (batch, 1)
    ids = pick(final["ids"], ops.cast(which, "int32"))[:, 0]  # (batch, length)
    ids = ops.where(truncated > ops.expand_dims(final["best"], -1), ids, final["best_ids"])
    return ops.where(ids == END, PAD, ids), ops.maximum(final["best"], truncated[:, 0])


def pick(x: Any, index: Any) -> Any:
    """Return `x[b, index[b, k]]` for all b and k by comparisons: batched gathers do not convert everywhere.

    `x` is (batch, n) or (batch, n, length), `index` (batch, k), and the result (batch, k) or (batch, k, length).

    >>> ops.convert_to_numpy(pick(ops.array([[5, 6, 7]]), ops.array([[2, 0]]))).tolist()
    [[7, 5]]
    """
    if x.shape[1] == 1:
        return x
    chosen = ops.expand_dims(index, -1) == ops.arange(x.shape[1])  # (batch, k, n)
    if len(x.shape) == 3:
        return ops.sum(ops.where(ops.expand_dims(chosen, -1), ops.expand_dims(x, 1), 0), axis=2)
    return ops.sum(ops.where(chosen, ops.expand_dims(x, 1), 0), axis=-1)


def make_draw(noise: Any, *, top_k: int | None, top_p: Any = None, temperature: Any = None) -> Callable:
    """Return a `draw` for `search`: the token at which the cumulative probability passes `noise` (batch, length).

    `noise` is one number in [0, 1) per row and position, so a draw does not depend on the other rows of a batch.
    `top_p` and `temperature` are numbers, or tensors (batch, 1, 1) of them.
    """

    def draw(logits: Any, index: Any) -> Any:
        logits = logits if temperature is None else logits / temperature  # (batch, 1, vocabulary)
        values, tokens = ops.top_k(logits, min(top_k or logits.shape[-1], logits.shape[-1]))  # (batch, 1, k)
        probabilities = ops.softmax(values)
        if top_p is not None:
            before = ops.cumsum(probabilities, axis=-1) - probabilities
            probabilities = ops.where(before < top_p, probabilities, 0.0)
        cumulative = ops.cumsum(probabilities, axis=-1)  # (batch, 1, k), rising to its total
        level = ops.sum(ops.where(ops.arange(noise.shape[1]) == index, noise, 0.0), axis=1)[:, None, None]
        passed = ops.sum(ops.cast(cumulative <= level * cumulative[:, :, -1:], "int32"), axis=-1, keepdims=True)
        candidates = ops.sum(ops.cast(probabilities > 0, "int32"), axis=-1, keepdims=True)
        return ops.take_along_axis(tokens, ops.minimum(passed, candidates - 1), axis=-1)  # (batch, 1, 1)

    return draw


# --- as models, so that `predict_on_batch` compiles them on every backend


class Generate(keras.Model):
    """`generate_ids` as a model."""

    def __init__(self, captioner: Any, settings: dict):
        super().__init__(name="generate", dtype="float32")
        self.captioner, self.settings = captioner, settings
        self.compile(run_eagerly=captioner.run_eagerly)

    def call(self, inputs: dict) -> tuple[Any, Any]:
        draw, settings = None, dict(self.settings)
        top_k = settings.pop("top_k")
        if "noise" in inputs:
            draw = make_draw(
                inputs["noise"], top_k=top_k, top_p=inputs.get("top_p"), temperature=inputs.get("temperature")
            )
        return self.captioner.search(inputs["image"], inputs["prompt"], draw, **settings)


class Likelihood(keras.Model):
    """The log-probability of texts as a model."""

    def __init__(self, captioner: Any):
        super().__init__(name="likelihood", dtype="float32")
        self.captioner = captioner
        self.compile(run_eagerly=captioner.run_eagerly)

    def call(self, inputs: dict) -> Any:
        ids = ops.cast(inputs["ids"], "int32")  # (batch, length + 1)
        logits = self.captioner({"image": inputs["image"], "tokens": ids[:, :-1]}, training=False)
        logits = logits["logits"] if isinstance(logits, dict) else logits
        chances = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)  # (batch, length, vocabulary)
        written = ids[:, 1:, None]
        known = ops.cast((written != PAD) & (written != UNK), "float32")
        return ops.sum(ops.take_along_axis(chances, written, axis=-1) * known, axis=(1, 2))


def run_in_batches(run: Callable[[Any], Any], inputs: Any, size: int) -> Any:
    """Run a function on arrays, `size` rows at a time. A short last batch is filled up, so only one shape is traced.

    >>> run_in_batches(lambda x: {"sum": x.sum(axis=1)}, np.ones((5, 3)), 2)
    {'sum': array([3., 3., 3., 3., 3.])}
    """
    total = len(keras.tree.flatten(inputs)[0])
    size, results = min(size, total), []
    for start in range(0, total, size):
        rows = np.minimum(np.arange(start, start + size), total - 1)
        results.append(run(keras.tree.map_structure(lambda array, rows=rows: array[rows], inputs)))
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts)[:total], *results)


# --- ranking again what a retriever finds

AT_ONCE = 2_048  # pairs whose features are in memory


def reranked(
    captioner: Any,
    similarity: Any,
    images: Any,
    texts: Sequence[str],
    *,
    find: str = "image",
    best: int = 10,
    weight: float = 40.0,
    batch_size: int = 128,
) -> np.ndarray:
    """Return scores (images, texts): of each text's `best` images (`find="text"`: each image's `best` texts) above all.

    `similarity` (images, texts) is that of a retriever for the same images, of which there should be many: with one,
    no text tells it better than others. The score is `weight` × similarity + how much likelier the captioner makes the
    text for this image than, on average, for the `best` images nearest to the text: one that fits many images gains
    nothing. Images that the retriever could not read (NaN) come last. For a captioner behind its encoder, `images` are
    features.

    >>> from vtx_keras import zoo
    >>> searcher = zoo.build("retriever", weights=None, dim=32, image_shape=(32, 32, 3))
    >>> captioner = zoo.build("gated_captioner", weights=None, dim=32, depth=1, image_shape=(32, 32, 3))
    >>> pictures, words = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)), ["a cat", "a dog", "a bus"]
    >>> reranked(captioner, searcher.similarity(pictures, words), pictures, words, best=2).shape
    (4, 3)
    """
    near, texts = np.asarray(similarity, "float64"), list(texts)
    readable = np.isfinite(near)
    if find not in ("image", "text") or best < 1:
        raise ValueError(f'find={find!r}, best={best}: expected "image" or "text", and at least 1')
    if near.shape != (len(images), len(texts)):
        raise ValueError(f"similarity {near.shape} of {len(images)} images and {len(texts)} texts")
    if not readable.any(axis=0).all():
        raise ValueError("similarity has no numbers: no image could be read")
    near = np.where(readable, near, -np.inf)
    images_of = np.argsort(-near.T, axis=1, kind="stable")[:, :best]  # (texts, best)
    nearest = np.zeros(near.shape, bool)
    nearest[images_of, np.arange(len(texts))[:, None]] = True
    ranked = nearest
    if find == "text":
        texts_of = np.argsort(-near, axis=1, kind="stable")[:, :best]  # (images, best)
        ranked = np.zeros(near.shape, bool)
        ranked[np.arange(len(near))[:, None], texts_of] = True
    ranked = ranked & readable
    told = _told(captioner, (nearest & readable) | ranked, images, texts, batch_size)
    usual = np.nanmean(np.take_along_axis(told.T, images_of, axis=1), axis=1)  # (texts,)
    scores = np.where(ranked, weight * near + told - usual, np.nan)
    return np.where(ranked, scores, near - near.max() + np.nanmin(scores) - 1)


def _told(captioner: Any, pairs: np.ndarray, images: Any, texts: list[str], batch_size: int) -> np.ndarray:
    """Return the likelihoods of the chosen pairs (images, texts), NaN elsewhere; each image is encoded once."""
    needed = np.flatnonzero(pairs.any(axis=1))
    features, _, errors = captioner.prepare([images[place] for place in needed])
    if errors:
        raise ValueError(
            f"images that cannot be read: {[(int(needed[place]), what) for place, what in errors.items()]}"
        )
    behind = captioner
    if captioner.has_layer("image_encoder"):
        behind = captioner.cached(("behind",), captioner.behind_encoder)
        features = run_in_batches(captioner.get_layer("image_encoder").predict_on_batch, features, batch_size)
    told, (rows, columns) = np.full(pairs.shape, np.nan), np.nonzero(pairs)
    for start in range(0, len(rows), AT_ONCE):
        few, chosen = rows[start : start + AT_ONCE], columns[start : start + AT_ONCE]
        described = [texts[place] for place in chosen]
        told[few, chosen] = behind.likelihood(features[np.searchsorted(needed, few)], described, batch_size=batch_size)
    return told
