"""The two methods: the attention weights that a model used, and Grad-CAM.

A fusion with attention returns its weights for its inputs (`attention_weights` in fusion.py). Those inputs are
tensors of the model's own graph, so nothing is built again. Grad-CAM splits the graph at the vision tokens.

Both return for each image its words (or the targets) and, for each of them, a number per vision token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras._compat import input_gradients
from vtx_keras.inputs import text
from vtx_keras.models._base import VisionText, cut, eager_is_faster, graph
from vtx_keras.models._methods import Captioner, Matcher, PairModel, Retriever
from vtx_keras.models.blocks import Block
from vtx_keras.models.options import did_you_mean

ROLLOUT = "rollout"
STRENGTHS = (np.arange(8, dtype="float32") + 0.5) / 8  # steps from a white image (0) to the image (1)
WHITE = 255  # an empty image: padding and transparency are white
GRADIENT_SCALE = 1024.0  # keeps small gradients within float16; divided out again

Maps = list[tuple[list[str], np.ndarray]]  # of each image the words, and the heat (words, vision tokens)


class Run(keras.Model):
    """A function of a model behind `predict_on_batch`, which Keras compiles for the current backend unless `eager`."""

    def __init__(self, model: keras.Model, function: Callable[[dict], Any], eager: bool):
        super().__init__(name="explain", dtype="float32")
        self.model, self.function = model, function  # the model, so that changes of its weights take effect
        self.compile(run_eagerly=eager)

    def call(self, inputs: dict) -> Any:
        return self.function(inputs)


def run_in_batches(
    model: VisionText, key: Any, make: Callable[[], Callable[[dict], Any]], inputs: dict[str, np.ndarray], batch: int
) -> Any:
    """Apply the function that `make` returns to the inputs, in batches. It is made once per `key` and kept."""
    eager = model.run_eagerly or eager_is_faster(len(next(iter(inputs.values()))))
    run = model.cached(("explain", key, eager), lambda: Run(model, make(), eager))
    return model.in_batches(run, inputs, batch)


def words_of(ids: np.ndarray, vocabulary: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return the words of a row of ids, each with the positions of its pieces; an unknown piece becomes [UNK].

    >>> pieces = text.vocabulary(["a", "cat", "##s", "!"])
    >>> words_of(np.array([5, 6, 7, 8, 3, 0]), pieces)
    [('a', [0]), ('cats!', [1, 2, 3])]
    """
    stop = next((place for place, one in enumerate(ids) if one in (text.END, text.PAD)), len(ids))
    ids = np.where(ids[:stop] == text.UNK, len(vocabulary), ids[:stop])  # `decode` would skip the special id
    extended = text.Vocabulary((*vocabulary, text.SPECIALS[text.UNK]), rule=getattr(vocabulary, "rule", None))
    prefixes = [text.decode([ids[: place + 1]], extended)[0].split() for place in range(stop)]
    # A later piece may join earlier words, as a closing quote does with the opening one: no count exceeds a later one.
    lengths = [len(words) for words in prefixes]
    counts: Iterable[int] = np.minimum.accumulate(lengths[::-1])[::-1] if prefixes else []
    places: dict[int, list[int]] = {}
    for place, count in enumerate(counts):
        places.setdefault(max(int(count) - 1, 0), []).append(place)
    return [(prefixes[-1][word], pieces) for word, pieces in places.items()] if prefixes and prefixes[-1] else []


def attention_blocks(model: VisionText) -> list[Block]:
    """Return the blocks whose words attend to the image; none if the fusion pools it.

    >>> from vtx_keras import zoo
    >>> attention_blocks(zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3)))
    []
    """
    if model.has_layer("fewer") or model.has_layer("image_words"):
        return []  # a language model reads tokens that are not places of the image
    return [layer for layer in model.layers if hasattr(layer, "attention_weights")]


def attention_maps(
    model: VisionText,
    pixels: np.ndarray,
    tokens: np.ndarray,
    explained: np.ndarray,
    block: int | str | None,
    batch_size: int,
) -> Maps:
    """Return each word's attention to each vision token, of one block or combined over blocks as `block` says."""
    inputs = {"image": pixels, "tokens": tokens}
    weights = run_in_batches(model, ("attention", block), lambda: attending(model, block), inputs, batch_size)
    # A captioner predicts a word at the position of the one before; other models read it at its own.
    shift = 0 if isinstance(model, Captioner) else 1
    maps = []
    for row, ids in zip(np.asarray(weights, "float32"), explained, strict=True):
        words = words_of(ids, model.vocabulary)
        heat = [row[[place + shift for place in pieces]].mean(axis=0) for _, pieces in words]
        maps.append(([word for word, _ in words], np.reshape(heat, (len(words), row.shape[-1]))))
    return maps


def attending(model: VisionText, block: int | str | None, behind: bool = False) -> Callable[[dict], Any]:
    """Return a function from a batch to weights (batch, text tokens, vision tokens), combined over heads and blocks.

    With `behind`, its "image" is what the image encoder gives.
    """
    blocks = attention_blocks(model)
    inputs = {**model.input, "image": model.get_layer("vision").input} if behind else model.input
    read = {str(id(one)): one for each in blocks for one in each.input}  # Keras cannot cut at one tensor twice
    block_inputs = cut(model, inputs, read, name="block_inputs")

    def weights(inputs: dict) -> Any:
        inputs_of = block_inputs(inputs)
        given = [[inputs_of[str(id(one))] for one in each.input] for each in blocks]
        all_weights = [each.attention_weights(*tensors) for each, tensors in zip(blocks, given, strict=True)]
        means = [[ops.mean(ops.cast(part, "float32"), axis=1) for part in parts] for parts in all_weights]
        if block is None:
            return sum(to_image for to_image, _ in means) / len(means)
        if block != ROLLOUT:
            assert isinstance(block, int)  # there is no other string
            return means[block][0]
        reached = ops.zeros_like(means[0][0])
        for to_image, to_words in means:  # (batch, text tokens, vision tokens), (batch, text tokens, text tokens)
            taken = to_image + ops.matmul(to_words, reached)
            share = ops.sum(to_image, axis=-1, keepdims=True) + ops.sum(to_words, axis=-1, keepdims=True)
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
) -> Maps:
    """Return, for each target (a captioner's words, else one), how much each vision token contributes: Grad-CAM.

    The gradient is the mean of those at STRENGTHS between the tokens of a white image and the image's own, because the
    gradient at the image itself says little where a model is certain. It is not averaged over places, which would
    blur what attention singles out. A token is weighted by its difference from the white image's, so that its position
    and padding do not count.
    """
    to_tokens, from_tokens = _split_at_vision(model)
    strengths = np.reshape(STRENGTHS, (-1, 1, 1))
    maps = []
    for row in range(len(pixels)):
        names, score_of = _targets(model, tokens[row], explained[row], None if scores is None else scores[row], target)
        images = np.stack([np.full_like(pixels[row], WHITE), pixels[row]])
        ends = to_tokens.predict_on_batch({"image": images})
        start, difference = np.asarray(ends[0], "float32"), np.asarray(ends[1] - ends[0], "float32")
        heat = np.zeros((len(names), len(difference)), "float32")
        path = ops.convert_to_tensor(start + strengths * difference)  # (strengths, vision tokens, dim)
        words = ops.convert_to_tensor(np.repeat(tokens[row : row + 1], len(strengths), axis=0))
        for number in range(len(names)):

            def value(x: Any, number: int = number, score_of: Callable = score_of, words: Any = words) -> Any:
                return GRADIENT_SCALE * score_of(from_tokens(x, words), number)

            (slope,) = input_gradients(lambda inputs, value=value: value(*inputs), (path,))
            slope = ops.convert_to_numpy(slope).mean(axis=0) / GRADIENT_SCALE
            heat[number] = np.maximum(np.sum(slope * difference, axis=-1), 0)
        maps.append((names, heat))
    return maps


def _targets(
    model: VisionText, tokens: np.ndarray, explained: np.ndarray, scores: np.ndarray | None, target: str | None
) -> tuple[list[str], Callable[[Any, int], Any]]:
    """Return the names of the targets, and the function from the model's output and a target's number to its score."""
    if isinstance(model, Captioner):
        words = words_of(explained, model.vocabulary)

        def of_word(logits: Any, number: int) -> Any:
            return sum(ops.sum(_centred(logits)[:, at, explained[at]]) for at in words[number][1])

        return [word for word, _ in words], of_word
    if isinstance(model, Retriever):
        text_embedding = model.tower("text").predict_on_batch({"tokens": tokens[None]})
        return [display_text(explained, model)], lambda embedding, _: ops.sum(embedding * text_embedding)
    number, name = _class(model, scores, target)
    if isinstance(model, Matcher) or model.options["multi_label"]:
        return [name], lambda logits, _: ops.sum(logits[:, number])
    return [name], lambda logits, _: ops.sum(_centred(logits)[:, number])


def _centred(logits: Any) -> Any:
    """Subtract the mean from the logits of a softmax: raising all of them alike favours no class."""
    return logits - ops.mean(logits, axis=-1, keepdims=True)


def _class(model: PairModel, scores: np.ndarray | None, target: str | None) -> tuple[int, str]:
    """Return the number and the name of the class that is explained: `target`, or the most likely one."""
    if isinstance(model, Matcher):
        return 0, "fits"
    names = model.class_names
    if target is None:
        assert scores is not None  # only a captioner has none
        target = names[int(scores.argmax())]
    if target not in names:
        raise ValueError(f"target={target!r} is not a class of this model{did_you_mean(target, names)}")
    return names.index(target), target


def display_text(ids: np.ndarray, model: VisionText) -> str:
    """Return the words of a row of ids as one string."""
    return " ".join(word for word, _ in words_of(ids, model.vocabulary))


def _split_at_vision(model: VisionText) -> tuple[keras.Model, Callable[[Any, Any], Any]]:
    """Split the model at its vision tokens: from images to them, and from them and words to the targets' scores."""
    last = "logits" if isinstance(model, Captioner) else "image_embedding" if isinstance(model, Retriever) else "head"
    vision = model.get_layer("vision").output
    to_tokens = model.cached("explain.see", lambda: graph({"image": model.input["image"]}, vision, "see"))
    inputs = [vision] if isinstance(model, Retriever) else [vision, model.input["tokens"]]
    # Not a `keras.Model`: it would add nodes to the graph that it splits, which could then not be saved any more.
    rest = model.cached("explain.rest", lambda: keras.Function(inputs, model.get_layer(last).output))
    return to_tokens, lambda x, words: ops.cast(rest([x, words][: len(inputs)]), "float32")
