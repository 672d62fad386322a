"""`explain.drawing`: which words each place of a drawn picture attended to."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from vtx_keras.explain._methods import words_of
from vtx_keras.explain._pictures import Explanation
from vtx_keras.models._base import cut
from vtx_keras.models._drawing import Generator, as_pixels, noise_of
from vtx_keras.models.maps import OverWords


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
