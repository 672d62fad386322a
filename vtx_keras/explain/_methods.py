"""The two ways of asking where a model looks: the attention it used, and Grad-CAM.

A fusion that has attention tells its weights for given inputs (`attention_weights` in fusion.py); those inputs are
tensors of the model's own graph, so nothing is built anew. Grad-CAM cuts the graph at the vision tokens.

Both give for each picture its words (or what was asked about) and, for each of them, a number per vision token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras.inputs import text
from vtx_keras.models._base import VisionText, eager_is_faster
from vtx_keras.models._captioner import Captioner
from vtx_keras.models._readers import Matcher, PairModel, Retriever
from vtx_keras.models.layers import Block, graph
from vtx_keras.models.options import did_you_mean

ROLLOUT = "rollout"
STRENGTHS = (np.arange(8, dtype="float32") + 0.5) / 8  # from a white picture (0) to the picture (1)
WHITE = 255  # nothing: padding and transparency are white (media.py)
GRADIENT_SCALE = 1024.0  # keeps small gradients within float16; divided out again

Found = list[tuple[list[str], np.ndarray]]


class Run(keras.Model):
    """A function of a model behind `predict_on_batch`; Keras compiles it for the backend at hand, unless `eager`."""

    def __init__(self, model: keras.Model, function: Callable[[dict], Any], eager: bool):
        super().__init__(name="explain", dtype="float32")
        self.model, self.function = model, function  # the model, so that its weights are seen as they change
        self.compile(run_eagerly=eager)

    def call(self, inputs: dict) -> Any:
        return self.function(inputs)


def ran(
    model: VisionText, what: Any, make: Callable[[], Callable[[dict], Any]], inputs: dict[str, np.ndarray], batch: int
) -> Any:
    """What the function that `make` gives has to say of the inputs; it is made once per `what` it tells."""
    eager = model.run_eagerly or eager_is_faster(len(next(iter(inputs.values()))))
    run = model.cached(("explain", what, eager), lambda: Run(model, make(), eager))
    return model.in_batches(run, inputs, batch)


def words_of(ids: np.ndarray, vocabulary: Sequence[str]) -> list[tuple[str, list[int]]]:
    """The words of a row of ids, each with the places of its pieces; an unknown piece shows as [UNK].

    >>> pieces = text.vocabulary(["a", "cat", "##s", "!"])
    >>> words_of(np.array([5, 6, 7, 8, 3, 0]), pieces)
    [('a', [0]), ('cats!', [1, 2, 3])]
    """
    stop = next((place for place, one in enumerate(ids) if one in (text.END, text.PAD)), len(ids))
    shown = np.where(ids[:stop] == text.UNK, len(vocabulary), ids[:stop])  # decode leaves out what is special
    readable = (*vocabulary, text.SPECIALS[text.UNK])
    so_far = [text.decode([shown[: place + 1]], readable)[0].split() for place in range(stop)]
    # How a text is joined may change what came before: a closing quote joins its words to the opening one.
    lengths = [len(words) for words in so_far]
    counts: Iterable[int] = np.minimum.accumulate(lengths[::-1])[::-1] if so_far else []
    places: dict[int, list[int]] = {}
    for place, count in enumerate(counts):
        places.setdefault(max(int(count) - 1, 0), []).append(place)
    return [(so_far[-1][word], pieces) for word, pieces in places.items()] if so_far and so_far[-1] else []


def attention_blocks(model: VisionText) -> list[Block]:
    """The blocks whose words attend to the image; none where the fusion pools it.

    >>> from vtx_keras import zoo
    >>> attention_blocks(zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3)))
    []
    """
    return [layer for layer in model.layers if hasattr(layer, "attention_weights")]


def attended(
    model: VisionText,
    pixels: np.ndarray,
    tokens: np.ndarray,
    explained: np.ndarray,
    block: int | str | None,
    batch_size: int,
) -> Found:
    """For each word the attention to each vision token, brought together as `block` says."""
    inputs = {"image": pixels, "tokens": tokens}
    weights = np.asarray(
        ran(model, ("attention", block), lambda: _weights(model, block), inputs, batch_size), "float32"
    )
    # A captioner writes a word while it reads the one before; the others look at it while they read it.
    shift = 0 if isinstance(model, Captioner) else 1
    found = []
    for row, ids in zip(weights, explained, strict=True):
        words = words_of(ids, model.vocabulary)
        heat = [row[[place + shift for place in pieces]].mean(axis=0) for _, pieces in words]
        found.append(([word for word, _ in words], np.reshape(heat, (len(words), row.shape[-1]))))
    return found


def _weights(model: VisionText, block: int | str | None) -> Callable[[dict], Any]:
    """A function from a batch to weights (batch, text tokens, vision tokens), heads and blocks brought together."""
    blocks = attention_blocks(model)
    reach = graph(model.input, {each.name: each.input for each in blocks}, "block_inputs")

    def weights(inputs: dict) -> Any:
        given = reach(inputs)
        looks = [each.attention_weights(*given[each.name]) for each in blocks]
        means = [[ops.mean(ops.cast(part, "float32"), axis=1) for part in look] for look in looks]
        if block is None:
            return sum(image for image, _ in means) / len(means)
        if block != ROLLOUT:
            assert isinstance(block, int)  # there is no other word
            return means[block][0]
        reached = ops.zeros_like(means[0][0])
        for image, words in means:
            taken = image + ops.matmul(words, reached)
            share = ops.sum(image, axis=-1, keepdims=True) + ops.sum(words, axis=-1, keepdims=True)
            reached = (reached + taken / share) / 2
        return reached

    return weights


def gradcam_maps(
    model: VisionText,
    pixels: np.ndarray,
    tokens: np.ndarray,
    explained: np.ndarray,
    scores: np.ndarray | None,
    target: str | None,
) -> Found:
    """For each target (a captioner's words, else one) how much each vision token speaks for it: Grad-CAM.

    The gradient is the mean of those at STRENGTHS between the tokens of a white picture and the picture's own: where a
    model is sure, its gradient at the picture itself says little. It is not averaged over places, which would blur
    what attention singles out; and a token counts by how it differs from the white one, so that neither its position
    nor padding counts.
    """
    see, think = _halves(model)
    strengths = np.reshape(STRENGTHS, (-1, 1, 1))
    found = []
    for row in range(len(pixels)):
        names, asked = _asked(model, tokens[row], explained[row], None if scores is None else scores[row], target)
        ends = see.predict_on_batch({"image": np.stack([np.full_like(pixels[row], WHITE), pixels[row]])})
        start, difference = np.asarray(ends[0], "float32"), np.asarray(ends[1] - ends[0], "float32")
        heat = np.zeros((len(names), len(difference)), "float32")
        path = ops.convert_to_tensor(start + strengths * difference)
        words = ops.convert_to_tensor(np.repeat(tokens[row : row + 1], len(strengths), axis=0))
        for place in range(len(names)):

            def value(x: Any, place: int = place, asked: Callable = asked, words: Any = words) -> Any:
                return GRADIENT_SCALE * asked(think(x, words), place)

            slope = ops.convert_to_numpy(gradient(value, path)).mean(axis=0) / GRADIENT_SCALE
            heat[place] = np.maximum(np.sum(slope * difference, axis=-1), 0)
        found.append((names, heat))
    return found


def _asked(
    model: VisionText, tokens: np.ndarray, explained: np.ndarray, scores: np.ndarray | None, target: str | None
) -> tuple[list[str], Callable[[Any, int], Any]]:
    """What is asked about, and the number to follow for each of them in the model's output."""
    if isinstance(model, Captioner):
        words = words_of(explained, model.vocabulary)

        def of_word(logits: Any, number: int) -> Any:
            return sum(ops.sum(_centred(logits)[:, at, explained[at]]) for at in words[number][1])

        return [word for word, _ in words], of_word
    if isinstance(model, Retriever):
        other = model.tower("text").predict_on_batch({"tokens": tokens[None]})
        return [shown(explained, model)], lambda embedding, _: ops.sum(embedding * other)
    place, name = _class(model, scores, target)
    if isinstance(model, Matcher) or model.options["multi_label"]:
        return [name], lambda logits, _: ops.sum(logits[:, place])
    return [name], lambda logits, _: ops.sum(_centred(logits)[:, place])


def _centred(logits: Any) -> Any:
    """Logits of a softmax, less their mean: what raises all of them alike speaks for none."""
    return logits - ops.mean(logits, axis=-1, keepdims=True)


def _class(model: PairModel, scores: np.ndarray | None, target: str | None) -> tuple[int, str]:
    if isinstance(model, Matcher):
        return 0, "fits"
    names = model.class_names
    if target is None:
        assert scores is not None  # only a captioner has none
        target = names[int(scores.argmax())]
    if target not in names:
        raise ValueError(f"target={target!r} is not a class of this model{did_you_mean(target, names)}")
    return names.index(target), target


def shown(ids: np.ndarray, model: VisionText) -> str:
    """The words of a row of ids as they are shown."""
    return " ".join(word for word, _ in words_of(ids, model.vocabulary))


def gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """The gradient of a scalar function at `x`, on the backend at hand.

    >>> ops.convert_to_numpy(gradient(lambda x: ops.sum(x * x), ops.array([1.0, 3.0]))).tolist()
    [2.0, 6.0]
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x)
    if backend == "jax":
        import jax

        return jax.grad(function)(x)
    raise NotImplementedError(f"Grad-CAM needs the TensorFlow or the JAX backend, not {backend}: set KERAS_BACKEND")


def _halves(model: VisionText) -> tuple[keras.Model, Callable[[Any, Any], Any]]:
    """The model cut at its vision tokens: from pictures to them, and from them and words to what is asked about."""
    last = "logits" if isinstance(model, Captioner) else "image_embedding" if isinstance(model, Retriever) else "head"
    vision = model.get_layer("vision").output
    see = model.cached("explain.see", lambda: graph({"image": model.input["image"]}, vision, "see"))
    inputs = [vision] if isinstance(model, Retriever) else [vision, model.input["tokens"]]
    # Not a `keras.Model`, which would add nodes to the graph that it cuts: this one could not be saved any more.
    rest = model.cached("explain.rest", lambda: keras.Function(inputs, model.get_layer(last).output))
    return see, lambda x, words: ops.cast(rest([x, words][: len(inputs)]), "float32")
