"""`explain.attention` and `explain.drawing`: heat maps over an image for each word, of any model of the zoo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras.explain._methods import (
    ROLLOUT,
    attention_blocks,
    attention_maps,
    display_text,
    gradcam_maps,
    run_in_batches,
    words_of,
)
from vtx_keras.explain._pictures import Explanation
from vtx_keras.inputs import media, text
from vtx_keras.models._base import VisionText, cut
from vtx_keras.models._drawing import Generator, as_pixels, noise_of
from vtx_keras.models._methods import Answerer, Captioner, Matcher, Retriever
from vtx_keras.models.maps import OverWords
from vtx_keras.models.options import did_you_mean

METHODS = ("attention", "gradcam")
MAX_PREFIX = 16  # class and register tokens that an encoder may put before its patches


def attention(
    model: VisionText,
    image: Any,
    text: str | Sequence[str] | None = None,
    *,
    method: str | None = None,
    block: int | str | None = None,
    target: str | None = None,
    batch_size: int = 8,
    on_error: str = "raise",
) -> Explanation | list[Explanation]:
    """Return heat maps over an image or clip for each word; for a list of images, a list.

    A captioner explains its own caption, or the given `text` as if it were writing it. Other models need a text (a
    question, a label's text, a candidate): one for all images, or one for each.

    `method` "attention" (for fusions that have it: cross_attn, merged_attn, co_attn) returns, for each word, the
    attention weights over the image: of the step that writes the word, or at the word that is read. They are the mean
    over heads and over the fusion's blocks; `block` is the number of one block, or "rollout", which follows words
    through all blocks: each keeps half of itself and takes half from what it attends to.

    `method` "gradcam" (all models; the default without attention, as in concat_mlp, gated, retriever) shows which
    places raise the score of a target: each word a captioner wrote, the answer or label (the most likely one, or the
    class named by `target`), the match, or the similarity. It averages the target's gradient at the vision tokens
    between a white image and this one; see `_methods.gradcam_maps`.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("cross_attn_vqa", weights=None, dim=32, image_shape=(32, 32, 3), classes=["no", "yes"])
    >>> explanation = attention(model, np.zeros((40, 60, 3), "uint8"), "is it a cat?")
    >>> explanation.words, explanation.maps.shape, explanation.heat("cat?").shape
    (['is', 'it', 'a', 'cat?'], (4, 2, 2), (40, 60))
    """
    media.check_on_error(on_error)
    _check_model(model)
    method = _checked_method(model, method, block)
    if target is not None and (method != "gradcam" or not isinstance(model, Answerer)):
        raise ValueError(
            f'target={target!r}: only a vqa or classifier has classes, and only method="gradcam" explains one'
        )
    axes = len(getattr(image, "shape", ()))
    many = isinstance(image, (list, tuple)) or axes == 1 or axes > len(model.image_shape)  # as in `media.batch`
    items = list(image) if many else [image]
    pixels, good, errors = model.prepare(items)
    results: list[Explanation] = []
    if good:
        originals = [_original(items[index], model.image_shape) for index in good]
        tokens, explained, scores = _texts(model, pixels, text, len(items), good, batch_size)
        if method == "attention":
            maps = attention_maps(model, pixels, tokens, explained, block, batch_size)
        else:
            maps = gradcam_maps(model, pixels, tokens, explained, scores, target)
        about, said = _title(model, method, block), _results(model, explained, scores)
        for row, (words, heat) in enumerate(maps):
            seen, fit = np.rint(pixels[row]).astype("uint8"), model.options["resize"]
            results.append(Explanation(words, _on_grid(heat, model), originals[row], seen, fit, about, said[row]))
    explanations = media.settle(results, good, errors, len(items), on_error)
    return explanations if many else explanations[0]


def _check_model(model: Any) -> None:
    if not isinstance(model, VisionText):
        raise TypeError(
            f"explain.attention takes a model from zoo.build or zoo.load, not a {type(model).__name__}, "
            "whose layers it does not know"
        )
    if model.image_shape[-1] != 3:
        raise ValueError(
            f"this model reads features {model.image_shape}, not pictures: explain the model it was cut from"
        )


def _checked_method(model: VisionText, method: str | None, block: int | str | None) -> str:
    blocks = attention_blocks(model)
    if method is None:
        method = "attention" if blocks else "gradcam"
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not one of {', '.join(METHODS)}{did_you_mean(method, METHODS)}")
    if method == "attention" and not blocks:
        raise ValueError(f'{model.spec["name"]} has no attention over the image: use method="gradcam"')
    if method == "gradcam" and block is not None:
        raise ValueError(f'block={block!r} is about attention: leave it out, or use method="attention"')
    if block is None or block == ROLLOUT:
        return method
    if isinstance(block, bool) or not isinstance(block, int) or not -len(blocks) <= block < len(blocks):
        raise ValueError(f'block={block!r}: expected one of 0 to {len(blocks) - 1}, or "{ROLLOUT}"')
    return method


def _texts(
    model: VisionText, pixels: np.ndarray, text_or_texts: Any, total: int, good: list[int], batch_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the ids that the model reads, those that are explained, and its scores: logits, or similarities."""
    texts = [text_or_texts] * total if isinstance(text_or_texts, (str, bytes)) else text_or_texts
    if texts is not None and len(texts) != total:
        raise ValueError(f"{len(texts)} texts for {total} pictures: give one for all, or one for each")
    length = model.options["max_length"]
    if isinstance(model, Captioner):
        if texts is None:

            def generate(inputs: dict) -> Any:
                return model.generate_ids(inputs["image"])[0]

            ids = run_in_batches(model, "words", lambda: generate, {"image": pixels}, batch_size)
        else:
            ids = text.encode([texts[index] for index in good], model.vocabulary, length)
        return np.concatenate([np.full_like(ids[:, :1], text.START), ids[:, :-1]], axis=1), ids, None
    if texts is None:
        raise ValueError(f"a {model.name} reads a text with the picture: pass text=, one for all or one for each")
    tokens = model.tokens_of([texts[index] for index in good], allow_empty=model.options.get("allow_empty", False))
    if isinstance(model, Retriever):
        of_images = run_in_batches(model, "image", lambda: model.tower("image"), {"image": pixels}, batch_size)
        of_texts = run_in_batches(model, "text", lambda: model.tower("text"), {"tokens": tokens}, batch_size)
        scores = np.sum(of_images * of_texts, axis=-1)
    else:
        scores = run_in_batches(model, "scores", lambda: model, {"image": pixels, "tokens": tokens}, batch_size)
        scores = scores["logits"] if isinstance(scores, dict) else scores
    return tokens, tokens[:, 1:], np.asarray(scores, "float32")


def _on_grid(heat: np.ndarray, model: VisionText) -> np.ndarray:
    """Reshape (words, vision tokens) to (words, [frames,] rows, columns), leaving out class tokens."""
    frames, places, grid = grid_of(model)
    tokens = heat.reshape(len(heat), -1)[:, : math.prod(frames) * places]  # those of concepts come after
    heat = tokens.reshape(len(heat), *frames, places)[..., places - math.prod(grid) :]
    return heat.reshape(len(heat), *frames, *grid)


def grid_of(model: VisionText) -> tuple[tuple[int, ...], int, tuple[int, int]]:
    """Return the frames of a clip, the vision tokens of each, and the rows and columns of the last of these tokens."""
    vision, (*frames, height, width, _) = model.get_layer("vision"), model.image_shape
    grid = tuple(vision.input.shape[2 if frames else 1 : -1])
    rows, columns = square_grid(vision.places, height, width) if len(grid) == 1 else grid
    return tuple(frames), vision.places, (rows, columns)


def square_grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of square patches among tokens; the first may be class or register tokens.

    >>> square_grid(197, 224, 224)
    (14, 14)
    """
    for patches in range(tokens, max(tokens - MAX_PREFIX, 0) - 1, -1):
        rows = round(math.sqrt(patches * height / width))
        if rows and patches % rows == 0 and rows * width == patches // rows * height:
            return rows, patches // rows
    raise ValueError(
        f"the image encoder gives {tokens} tokens, which are not square patches of a picture of {height} × {width} "
        "behind a few class tokens: give it a feature map (rows, columns, width) as its output"
    )


def _original(item: Any, shape: tuple[int, ...]) -> np.ndarray | list[np.ndarray]:
    """Return the image as it was given, or the frames of a clip that the model uses, as uint8."""
    if len(shape) == 3:
        return np.rint(media.read(item)).astype("uint8")
    return [np.rint(frame).astype("uint8") for frame in media.read_clip(item, shape[0])]


def _title(model: VisionText, method: str, block: int | str | None) -> str:
    name = model.spec["name"]
    if method == "gradcam":
        return f"{name}: Grad-CAM"
    blocks = len(attention_blocks(model))
    which = "rollout" if block == ROLLOUT else f"block {block}" if block is not None else f"mean of {blocks} blocks"
    return f"{name}: attention, {which if blocks > 1 or block is not None else 'one block'}"


def _results(model: VisionText, explained: np.ndarray, scores: np.ndarray | None) -> list[str]:
    """Return the model's result for each image as a line of text."""
    texts = [display_text(ids, model) for ids in explained]
    if isinstance(model, Captioner):
        return texts
    assert scores is not None  # only a captioner has none
    if isinstance(model, Retriever):
        return [f"{words}: similarity {score:.2f}" for words, score in zip(texts, scores, strict=True)]
    if isinstance(model, Matcher):
        probabilities = 1 / (1 + np.exp(-scores[:, 0]))
        return [f"{words}: fits with probability {p:.2f}" for words, p in zip(texts, probabilities, strict=True)]
    names, several = model.class_names, model.options["multi_label"]
    answers = [
        ", ".join(names[i] for i in np.flatnonzero(row > 0)) or "none" if several else names[int(row.argmax())]
        for row in scores
    ]
    return [f"{words} — {answer}" for words, answer in zip(texts, answers, strict=True)]


def drawing(model: Generator, text: str, *, seed: int = 0, truncation: float = 1.0) -> Explanation:
    """Draw the picture of `model.draw` for a text, with heat maps: how much each cell attended to each word.

    The maps are those of the largest map that attends, mean over heads; the shares of a cell sum to 1, of which the
    start of the text takes what no word does. Only `cross_attn` generators attend.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("cross_attn_generator", weights=None, width=2, dim=8, image_shape=(16, 16, 3))
    >>> explanation = drawing(model, "a cat")
    >>> explanation.words, explanation.maps.shape
    (['a', 'cat'], (2, 16, 16))
    """
    if not isinstance(model, Generator):
        raise TypeError(f"explain.drawing takes a generator, not a {getattr(model, 'name', model)}: explain.attention")
    attending = [layer for layer in model.layers if isinstance(layer, OverWords)]
    if not attending:
        raise ValueError(f"{model.spec['name']} does not attend to words: a cross_attn generator does")
    tokens = model.checked_tokens([text])
    layer = attending[-1]

    def make() -> keras.Model:
        names = ("x", "words", "keep")
        outputs = {**dict(zip(names, layer.input, strict=True)), "drawn": model.get_layer("drawn").output}
        inputs = {"noise": model.get_layer("noise").output, "tokens": model.input["tokens"]}
        return cut(model, inputs, outputs, name="attending")

    inputs = {"noise": noise_of([text], model.options["noise"], seed, truncation), "tokens": tokens}
    outputs = model.in_batches(model.cached("attending", make), inputs, 1)
    x, words, keep = (ops.convert_to_tensor(outputs[name]) for name in ("x", "words", "keep"))
    weights = ops.convert_to_numpy(ops.cast(layer.weights_of(x, words, keep), "float32"))  # ([frames,] heads, cells, …)
    grid = tuple(layer.input[0].shape[1:3])
    by_place = weights.mean(axis=1).swapaxes(1, 2).reshape(len(weights), -1, *grid)  # ([frames], words, rows, columns)
    found = words_of(tokens[0, 1:], model.vocabulary)
    maps = np.stack([by_place[:, [place + 1 for place in pieces]].sum(axis=1) for _, pieces in found])
    picture = as_pixels(outputs["drawn"])[0]
    shown, maps = (list(picture), maps) if len(model.image_shape) == 4 else (picture, maps[:, 0])
    about = f"{model.spec['name']}: attention to words, seed {seed}"
    return Explanation([word for word, _ in found], maps, shown, picture, model.options["resize"], about, text)
