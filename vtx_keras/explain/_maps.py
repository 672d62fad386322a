"""`explain.attention`: for any model of the zoo, where it looked in a picture, word by word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtx_keras.explain._methods import ROLLOUT, attended, attention_blocks, ran, shown, gradcam_maps
from vtx_keras.explain._pictures import Explanation
from vtx_keras.inputs import media, text
from vtx_keras.models._base import VisionText
from vtx_keras.models._captioner import Captioner
from vtx_keras.models._readers import Answerer, Matcher, Retriever
from vtx_keras.models.options import did_you_mean

METHODS = ("attention", "gradcam")
MOST_PREFIX = 16  # class and register tokens that an encoder may put before its patches


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
    """Heat maps over a picture or clip for each word; for a list of pictures, a list.

    A captioner explains its own caption, or the `text` you give, as if it were writing it. The others need a text:
    a question, a label's text, a candidate (one for all pictures, or one for each).

    `method` "attention" (where the fusion has it: cross_attn, merged_attn, co_attn) gives, for each word, the weights
    with which the model looked at each place: while it wrote the word, or at the word it read. It is the mean over
    heads and over the blocks of the fusion; `block` is the number of one block, or "rollout", which follows words
    through all blocks: each keeps half of itself and takes half from what it looked at.

    `method` "gradcam" (all models; the default where there is no attention, as in concat_mlp, gated, retriever) asks
    which places speak for a target: each word a captioner wrote, the answer or label (the likeliest, or the class named
    by `target`), the match, the similarity. It follows the target's gradient at the vision tokens while the picture
    comes up out of a white one; `methods.gradcam_maps` says how.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("cross_attn_vqa", weights=None, dim=32, image_shape=(32, 32, 3), classes=["no", "yes"])
    >>> seen = attention(model, np.zeros((40, 60, 3), "uint8"), "is it a cat?")
    >>> seen.words, seen.maps.shape, seen.heat("cat?").shape
    (['is', 'it', 'a', 'cat?'], (4, 2, 2), (40, 60))
    """
    _check_model(model)
    how = _checked_method(model, method, block)
    if target is not None and (how != "gradcam" or not isinstance(model, Answerer)):
        raise ValueError(f'target={target!r}: only a vqa or classifier has classes, and only method="gradcam" asks so')
    axes = len(getattr(image, "shape", ()))
    many = isinstance(image, (list, tuple)) or axes == 1 or axes > len(model.image_shape)  # as `media.batch` sees it
    items = list(image) if many else [image]
    pixels, good, errors = model.prepare(items)
    found: list[Explanation] = []
    if good:
        pictures = [_picture(items[index], model.image_shape) for index in good]
        tokens, written, scores = _texts(model, pixels, text, len(items), good, batch_size)
        if how == "attention":
            maps = attended(model, pixels, tokens, written, block, batch_size)
        else:
            maps = gradcam_maps(model, pixels, tokens, written, scores, target)
        about, told = _about(model, how, block), _said(model, written, scores)
        for row, (words, heat) in enumerate(maps):
            seen, fit = np.rint(pixels[row]).astype("uint8"), model.options["resize"]
            found.append(Explanation(words, _on_grid(heat, model), pictures[row], seen, fit, about, told[row]))
    settled = media.settle(found, good, errors, len(items), on_error)
    return settled if many else settled[0]


def _check_model(model: Any) -> None:
    if not isinstance(model, VisionText):
        raise TypeError(
            f"explain.attention takes a model from zoo.build or zoo.load, not a {type(model).__name__}: "
            "its layers would not be known"
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
    model: VisionText, pixels: np.ndarray, given: Any, total: int, good: list[int], batch_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """What the model reads, the words that are explained, and its scores: logits, or similarities."""
    texts = [given] * total if isinstance(given, (str, bytes)) else given
    if texts is not None and len(texts) != total:
        raise ValueError(f"{len(texts)} texts for {total} pictures: give one for all, or one for each")
    length = model.options["max_length"]
    if isinstance(model, Captioner):
        if texts is None:

            def write(inputs: dict) -> Any:
                return model.generate_ids(inputs["image"])[0]

            written = ran(model, "words", lambda: write, {"image": pixels}, batch_size)
        else:
            written = text.encode([texts[index] for index in good], model.vocabulary, length)
        return np.concatenate([np.full_like(written[:, :1], text.START), written[:, :-1]], axis=1), written, None
    if texts is None:
        raise ValueError(f"a {model.name} reads a text with the picture: pass text=, one for all or one for each")
    tokens = model.tokens_of([texts[index] for index in good], allow_empty=model.options.get("allow_empty", False))
    if isinstance(model, Retriever):
        image = ran(model, "image", lambda: model.tower("image"), {"image": pixels}, batch_size)
        scores = np.sum(
            image * ran(model, "text", lambda: model.tower("text"), {"tokens": tokens}, batch_size), axis=-1
        )
    else:
        scores = ran(model, "scores", lambda: model, {"image": pixels, "tokens": tokens}, batch_size)
        scores = scores["logits"] if isinstance(scores, dict) else scores
    return tokens, tokens[:, 1:], np.asarray(scores, "float32")


def _on_grid(heat: np.ndarray, model: VisionText) -> np.ndarray:
    """(words, vision tokens) as (words, rows, columns), or (words, frames, rows, columns); class tokens left out."""
    vision, (*frames, height, width, _) = model.get_layer("vision"), model.image_shape
    grid = tuple(vision.input.shape[2 if frames else 1 : -1])
    heat = heat.reshape(len(heat), *frames, vision.places)
    if len(grid) == 1:
        grid = square_grid(vision.places, height, width)
        heat = heat[..., vision.places - math.prod(grid) :]
    return heat.reshape(len(heat), *frames, *grid)


def square_grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of square patches among tokens, of which the first may be no patches (class, registers).

    >>> square_grid(197, 224, 224)
    (14, 14)
    """
    for patches in range(tokens, max(tokens - MOST_PREFIX, 0) - 1, -1):
        rows = round(math.sqrt(patches * height / width))
        if rows and patches % rows == 0 and rows * width == patches // rows * height:
            return rows, patches // rows
    raise ValueError(
        f"the image encoder gives {tokens} tokens, which are not square patches of a picture of {height} × {width} "
        "behind a few class tokens: give it a feature map (rows, columns, width) as its output"
    )


def _picture(item: Any, shape: tuple[int, ...]) -> np.ndarray | list[np.ndarray]:
    """The picture as it came, or the frames of a clip that the model saw, as uint8."""
    if len(shape) == 3:
        return np.rint(media.read(item)).astype("uint8")
    return [np.rint(frame).astype("uint8") for frame in media.read_clip(item, shape[0])]


def _about(model: VisionText, how: str, block: int | str | None) -> str:
    name = model.spec["name"]
    if how == "gradcam":
        return f"{name}: Grad-CAM"
    blocks = len(attention_blocks(model))
    which = "rollout" if block == ROLLOUT else f"block {block}" if block is not None else f"mean of {blocks} blocks"
    return f"{name}: attention, {which if blocks > 1 or block is not None else 'one block'}"


def _said(model: VisionText, written: np.ndarray, scores: np.ndarray | None) -> list[str]:
    """What the model made of each picture, in words."""
    texts = [shown(ids, model) for ids in written]
    if isinstance(model, Captioner):
        return texts
    assert scores is not None  # only a captioner has none
    if isinstance(model, Retriever):
        return [f"{words}: similarity {score:.2f}" for words, score in zip(texts, scores, strict=True)]
    if isinstance(model, Matcher):
        return [
            f"{words}: fits by {1 / (1 + np.exp(-score[0])):.2f}" for words, score in zip(texts, scores, strict=True)
        ]
    names, several = model.class_names, model.options["multi_label"]
    answers = [
        ", ".join(names[i] for i in np.flatnonzero(row > 0)) or "none" if several else names[int(row.argmax())]
        for row in scores
    ]
    return [f"{words} — {answer}" for words, answer in zip(texts, answers, strict=True)]
