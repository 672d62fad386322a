"""Train a captioner on a reward of whole captions: CIDEr-D of token ids, and the loss that raises it.

Self-critical training (Rennie et al., 2017): captions are sampled, and those that score above the others of their
picture become likelier. The baseline of a sample is the mean score of the picture's other samples (Luo, 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from vtx_keras.inputs.text import END, PAD, SPECIALS, START
from vtx_keras.models._base import cut
from vtx_keras.models._methods import Captioner
from vtx_keras.models.decode import NEVER

__all__ = ["Rarity", "Rewarded", "advantages", "by_cider", "cider", "ngrams", "rarity", "rewarded"]
ORDERS = 4  # n-grams of one to four tokens
SIGMA = 6.0  # of CIDEr-D's length penalty
BLOCK = 64  # words whose probabilities are summed first
FACTOR = 1_540_483_477  # odd, of the hash of n-grams, which wraps around in int32
Reward = Callable[[Any, Any], Any]  # row numbers (batch,), ids (batch, samples, length) -> scores (batch, samples)


class Rarity(NamedTuple):
    """Weights of n-grams by how few pictures' references contain them: log(pictures / pictures with the n-gram)."""

    hashes: np.ndarray  # (2 ** bits,) int32, rising; the first is the least number there is
    weights: np.ndarray  # (2 ** bits,) float32
    unseen: float  # weight of any other n-gram


def rarity(references: Any) -> Rarity:
    """Count in how many pictures each n-gram of the references (pictures, references, length), 0-padded, occurs.

    >>> table = rarity([[[5, 6], [5, 7]], [[5, 0], [0, 0]]])
    >>> round(table.unseen, 2), sorted({round(float(one), 2) for one in table.weights})
    (0.69, [0.0, 0.69])
    """
    grams = ops.convert_to_numpy(ngrams(ops.convert_to_tensor(references, "int32")))
    rows = [np.unique(row) for row in grams.reshape(len(grams), -1)]
    hashes, frequencies = np.unique(np.concatenate(rows), return_counts=True)
    known = hashes != 0
    hashes, frequencies = hashes[known], frequencies[known]
    unseen, limits = math.log(len(grams)), np.iinfo("int32")
    size = 2 ** math.ceil(math.log2(len(hashes) + 1))
    table = np.full(size, limits.max, "int32")
    table[: len(hashes) + 1] = [limits.min, *hashes]
    weights = np.full(size, unseen, "float32")
    weights[1 : len(hashes) + 1] = unseen - np.log(frequencies)
    return Rarity(table, weights, unseen)


def ngrams(ids: Any) -> Any:
    """Return hashes (..., ORDERS, length) of the n-grams that begin at each position of ids (..., length).

    There is none, 0, where an n-gram would reach into the padding.

    >>> one, two = ops.convert_to_numpy(ngrams(ops.array([[5, 6, 7, 0], [5, 6, 0, 0]])))
    >>> (one != 0).sum(axis=-1).tolist(), (one == two)[1].tolist()
    ([3, 2, 1, 0], [True, False, True, True])
    """
    length, result = ids.shape[-1], []
    hashed = ops.ones_like(ids)
    for order in range(ORDERS):
        shift = min(order, length)
        last = ops.pad(ids[..., shift:], [[0, 0]] * (len(ids.shape) - 1) + [[0, shift]])  # the n-gram's last token
        hashed = hashed * FACTOR + last
        result.append(ops.where(last == PAD, 0, hashed))
    return ops.stack(result, axis=-2)


def weights_of(grams: Any, table: Rarity) -> Any:
    """Return the weights of n-grams, found by bisection: `searchsorted` compares all pairs under TensorFlow's XLA."""
    hashes, weights = ops.convert_to_tensor(table.hashes), ops.convert_to_tensor(table.weights)
    at = ops.zeros_like(grams)  # the last place whose hash is not above
    for bit in reversed(range(int(math.log2(len(table.hashes))))):
        further = at + 2**bit
        at = ops.where(ops.take(hashes, further) <= grams, further, at)
    return ops.where(ops.take(hashes, at) == grams, ops.take(weights, at), table.unseen)


def cider(candidates: Any, references: Any, table: Rarity) -> Any:
    """Return CIDEr-D (batch, samples), 0 to 10, of candidates (batch, samples, length), all ids 0-padded.

    `references` (batch, references, length) are those of each row's picture. It is the number of pycocoevalcap, whose
    length is that in bigrams.

    >>> references = ops.array([[[5, 6, 7, 8, 9]], [[10, 11, 12, 13, 14]]])
    >>> score = cider(references[:, :1], references, rarity(references))
    >>> ops.convert_to_numpy(score).round(2).tolist()
    [[10.0], [10.0]]
    """
    ours, theirs = (ops.moveaxis(ngrams(ids), 2, 1) for ids in (candidates, references))
    batch, length, count = ops.shape(candidates)[0], candidates.shape[2], references.shape[1]

    def described(grams: Any) -> tuple[Any, Any, Any]:  # (batch, orders, texts, length)
        weights, present = weights_of(grams, table), ops.cast(grams != 0, "float32")
        equal = ops.cast(ops.expand_dims(grams, -1) == ops.expand_dims(grams, -2), "float32")
        occurrences = present * ops.sum(equal, axis=-1)  # how often the n-gram occurs in its text
        return weights, occurrences, ops.sqrt(ops.sum(occurrences * weights**2, axis=-1))

    weights, occurrences, size = described(ours)
    _, _, their_size = described(theirs)
    # Tensors of more than five dimensions are not compared everywhere.
    pairs = ops.reshape(ours, (batch, ORDERS, -1, 1)) == ops.reshape(theirs, (batch, ORDERS, 1, -1))
    pairs = ops.reshape(ops.cast(pairs, "float32"), (batch, ORDERS, -1, count, references.shape[2]))
    common = ops.reshape(ops.sum(pairs, axis=-1), (batch, ORDERS, -1, length, count))
    # Summed over positions: an n-gram that occurs k times in the candidate counts 1/k at each.
    own = ops.expand_dims(occurrences, -1)
    shared = ops.minimum(own, common) * common * ops.expand_dims(weights**2, -1) / ops.maximum(own, 1.0)
    sizes = ops.expand_dims(size, -1) * ops.expand_dims(their_size, 2)  # (batch, orders, samples, references)
    cosines = ops.sum(shared, axis=3) / ops.where(sizes > 0, sizes, 1.0)
    bigrams, their_bigrams = (ops.sum(ops.cast(x[:, 1] != 0, "float32"), axis=-1) for x in (ours, theirs))
    gap = ops.expand_dims(bigrams, -1) - ops.expand_dims(their_bigrams, 1)  # (batch, samples, references)
    scores = ops.sum(ops.mean(cosines, axis=1) * ops.exp(-(gap**2) / (2 * SIGMA**2)), axis=-1)
    texts = ops.sum(ops.cast(references[:, :, 0] != PAD, "float32"), axis=-1, keepdims=True)  # (batch, 1)
    return 10.0 * scores / ops.maximum(texts, 1.0)


def by_cider(references: np.ndarray, picture_of: np.ndarray, table: Rarity, end: bool = True) -> Reward:
    """Return the reward of samples by CIDEr-D.

    `references` (pictures, references, length) end with END; `picture_of` (rows,) is the picture of each row. With
    `end`, END is a token like others, so that a caption that breaks off scores less; make `table` of references alike.
    """

    def reward(rows: Any, ids: Any) -> Any:
        pictures = ops.take(ops.convert_to_tensor(picture_of, "int32"), rows)  # (batch,)
        texts = ops.take(ops.convert_to_tensor(references, "int32"), pictures, axis=0)
        if not end:
            ids, texts = (ops.where(x == END, PAD, x) for x in (ids, texts))
        return cider(ids, texts, table)

    return reward


def advantages(rewards: Any) -> Any:
    """Return how far each reward (batch, samples) is above the mean of the others of its row.

    >>> ops.convert_to_numpy(advantages(ops.array([[3.0, 0.0, 0.0]]))).tolist()
    [[3.0, -1.5, -1.5]]
    """
    count = rewards.shape[1]
    return (rewards - ops.mean(rewards, axis=1, keepdims=True)) * (count / (count - 1))


class Rewarded(Captioner):
    """A captioner whose loss is that of sampled captions; made by `rewarded`, it shares the layers of another.

    It has one more input "row", the number of the example (batch, 1), by which the reward knows the references.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.draws = keras.random.SeedGenerator()
        self.mean_reward = keras.metrics.Mean(name="reward")

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the loss on sampled captions plus a share of the loss on the batch's own; in evaluation the latter.

        Keras calls this outside the model's `call`, so that no dropout is applied while captions are sampled.
        """
        words = super().compute_loss(x, y, y_pred, sample_weight, training)
        batch = ops.shape(x["tokens"])[0]
        count, length = (self.plan["samples"], self.plan["length"]) if training else (1, self.options["max_length"])
        noise = keras.random.uniform((batch, count, length), seed=self.draws) if training else None
        # JAX cannot differentiate a loop of unknown length, even where nothing depends on it.
        values = [(variable, ops.stop_gradient(variable.value)) for variable in self.variables]
        with keras.StatelessScope(values):
            ids = self.sample(ops.stop_gradient(x["image"]), count, length, noise)  # (batch, samples, length)
        rewards = self.plan["reward" if training else "validation_reward"](x["row"][:, 0], ids)  # (batch, samples)
        real = ops.ones((batch, 1)) if sample_weight is None else ops.max(sample_weight, axis=1, keepdims=True)
        real = ops.cast(real > 0, "float32")  # rows that pad a batch have no weight
        self.mean_reward.update_state(rewards, ops.broadcast_to(real, ops.shape(rewards)))
        if not training:
            return words
        losses = self.losses_of(x, ids)  # (batch, samples, length)
        weights = ops.expand_dims(real, -1) * ops.cast(ids != PAD, "float32")
        advantage = ops.expand_dims(ops.stop_gradient(advantages(rewards)), -1)
        loss = ops.sum(advantage * weights * losses) / ops.maximum(ops.sum(weights), 1.0)
        return loss + self.plan["weight_of_words"] * words

    def sample(self, images: Any, count: int, length: int, noise: Any = None) -> Any:
        """Return `count` captions per image as ids (batch, count, length), END included, 0-padded.

        Drawn by `noise` (batch, count, length) in [0, 1), or the likeliest words. Samples of an image are beams that
        are never reordered: the image is encoded once.
        """
        step, cache = self.decoder(images, length, count)
        positions, beam, rows = ops.arange(length), ops.arange(count), ops.zeros((ops.shape(images)[0], 1), "int32")
        start = rows + ops.zeros((1, count), "int32") + START  # (batch, count)
        own = beam[:, None, None] == beam  # (count, 1, count)

        def unfinished(state: dict) -> Any:
            return ops.logical_and(state["index"] < length, ops.any(state["running"]))

        def write(state: dict) -> dict:
            now, running = positions == state["index"], state["running"]  # (length,), (batch, count)
            visible = ops.logical_and(own, (positions <= state["index"])[:, None])  # (count, length, count)
            visible = ops.logical_or(ops.reshape(visible, (1, count, -1)), rows[:, :, None] > 0)
            logits, cache = step(state["newest"], state["index"], state["cache"], now, visible)
            level = None if noise is None else ops.sum(ops.where(now, noise, 0.0), axis=-1, keepdims=True)
            newest = ops.where(running, drawn(logits, level), PAD)  # (batch, count)
            return {
                "index": state["index"] + 1,
                "newest": newest,
                "ids": ops.where(now, ops.expand_dims(newest, -1), state["ids"]),
                "running": ops.logical_and(running, newest != END),
                "cache": cache,
            }

        first = {
            "index": ops.convert_to_tensor(0, "int32"),
            "newest": start,
            "ids": ops.expand_dims(start * 0, -1) + ops.zeros((length,), "int32"),  # (batch, count, length)
            "running": start == START,
            "cache": cache,
        }
        return ops.while_loop(unfinished, write, first)["ids"]

    def losses_of(self, x: dict, ids: Any) -> Any:
        """Return the cross-entropy (batch, samples, length) of sampled ids, in training mode."""
        batch, count, length = ops.shape(ids)[0], ids.shape[1], ids.shape[2]
        seen = {name: x[name] for name in ("image", "seen") if name in x}
        vision = self.cached("vision", self.vision_part)(seen, training=True)  # (batch, image tokens, dim)
        tokens = ops.pad(ids[:, :, :-1], [[0, 0], [0, 0], [1, 0]], constant_values=START)
        inputs = {"vision": ops.repeat(vision, count, axis=0), "tokens": ops.reshape(tokens, (-1, length))}
        logits = self.cached("decoder", self.decoder_part)(inputs, training=True)  # (batch * samples, length, words)
        losses = ops.sparse_categorical_crossentropy(ops.reshape(ids, (-1, length)), logits, from_logits=True)
        return ops.reshape(losses, (batch, count, length))

    def vision_part(self) -> keras.Model:
        """Return the part of the graph up to the tokens of the image."""
        inputs = {"image": self.input["image"] if self.has_layer("image_encoder") else self.get_layer("vision").input}
        if "seen" in self.input:
            inputs["seen"] = self.get_layer("concepts").output
        return cut(self, inputs, self.vision_output, name="vision_part")

    def decoder_part(self) -> keras.Model:
        """Return the rest of the graph."""
        inputs = {"vision": self.vision_output, "tokens": self.get_layer("spec").input}
        return cut(self, inputs, self.get_layer("logits").output, name="decoder_part")

    @property
    def vision_output(self) -> Any:
        """The image tokens in the graph that the layers were first called in, of which this may be a copy."""
        return self.get_layer("with_concepts" if self.has_layer("concepts") else "vision").output


def drawn(logits: Any, level: Any = None) -> Any:
    """Return tokens (batch, count): where the cumulative probability passes `level` (batch, count, 1), or likeliest.

    The place is found among blocks of words and then in one: a sum over the whole vocabulary is slow.

    >>> logits = ops.log(ops.array([[[1e-9] * 5 + [0.25, 0.75]]]))
    >>> [int(drawn(logits, ops.array([[[level]]]))[0, 0]) for level in (0.01, 0.24, 0.26, 0.99)]
    [5, 5, 6, 6]
    """
    words = len(SPECIALS)  # the first of them; of the special tokens only END is written
    choices = ops.concatenate([logits[:, :, END : END + 1], logits[:, :, words:]], axis=-1)
    if level is None:
        chosen = ops.cast(ops.argmax(choices, axis=-1), "int32")
        return ops.where(chosen == 0, END, chosen + words - 1)
    count = choices.shape[-1]
    filler = ops.zeros_like(logits[:, :, :1]) + ops.full((-count % BLOCK,), NEVER)
    choices = ops.concatenate([choices, filler], axis=-1)
    weights = ops.exp(choices - ops.max(choices, axis=-1, keepdims=True))
    weights = ops.reshape(weights, (-1, logits.shape[1], choices.shape[-1] // BLOCK, BLOCK))
    sums = ops.sum(weights, axis=-1)  # (batch, count, blocks)
    cumulative = ops.cumsum(sums, axis=-1)
    level = level * cumulative[:, :, -1:]
    block = ops.sum(ops.cast(cumulative <= level, "int32"), axis=-1, keepdims=True)
    block = ops.minimum(block, sums.shape[-1] - 1)  # (batch, count, 1)
    inside = ops.take_along_axis(weights, ops.expand_dims(block, -1), axis=2)[:, :, 0]  # (batch, count, BLOCK)
    before = ops.take_along_axis(cumulative - sums, block, axis=-1)
    passed = ops.sum(ops.cast(before + ops.cumsum(inside, axis=-1) <= level, "int32"), axis=-1)
    chosen = ops.minimum(block[:, :, 0] * BLOCK + ops.minimum(passed, BLOCK - 1), count - 1)
    return ops.where(chosen == 0, END, chosen + words - 1)


def rewarded(
    captioner: Captioner,
    reward: Reward,
    validation_reward: Reward | None = None,
    *,
    samples: int = 5,
    length: int | None = None,
    weight_of_words: float = 0.2,
) -> Rewarded:
    """Return a model of the same layers, compiled alike, that `fit` trains on the reward of sampled captions.

    Samples have up to `length` tokens; fewer than the model's `max_length` save time. The metric `reward` is the mean
    reward of the samples; in evaluation, that of greedy captions by `validation_reward`. `data.batches(ds, model)`
    gives the inputs.
    """
    if samples < 2:
        raise ValueError(f"samples={samples}: expected at least 2, which are compared")
    if captioner.options.get("contrastive"):
        raise ValueError("a captioner with contrastive= cannot be trained on a reward: build it without")
    inputs = {**captioner.input, "row": keras.Input((1,), dtype="int32", name="row")}
    model = cut(captioner, inputs, captioner.output, Rewarded, captioner.name)
    model.plan = {
        "reward": reward,
        "validation_reward": validation_reward or reward,
        "samples": samples,
        "length": captioner.check_length(length),
        "weight_of_words": weight_of_words,
    }
    if captioner.compiled:
        model.compile_from_config(captioner.get_compile_config())
    return model
