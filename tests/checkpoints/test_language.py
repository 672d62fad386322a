"""Language models as text sides: equal to transformers, in one pass, word by word and by further tokens."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from vtx_keras import zoo
from vtx_keras.checkpoints.published import _causal
from vtx_keras.models import language

FIXTURES = Path(__file__).parents[1] / "fixtures" / "language"
KINDS = sorted(path.name for path in FIXTURES.iterdir())
SMALL = {"image_shape": (32, 32, 3), "vision_depth": 1, "patch": 16, "dropout": 0.0}


def captioner(kind: str, fusion: str = "cross_attn", **options):
    keras.utils.set_random_seed(1)
    folder = str(FIXTURES / kind)
    options = {**SMALL, "max_length": 24, **options}
    pixels = keras.Input((32, 32, 3))
    encoder = keras.Model(pixels, keras.layers.Conv2D(8, 8, 8, activation="relu")(pixels))
    return zoo.build(f"{fusion}_captioner", weights="encoders", text_decoder=folder, image_encoder=encoder, **options)


def ours_of(model, kind: str):
    """The function from ids of the checkpoint to those here, and expected.npz."""
    names = json.loads((FIXTURES / kind / "tokenizer.json").read_text())
    order = _causal.opened(str(FIXTURES / kind)).order.ids
    place = np.zeros(max(order) + 1, int)
    for here, there in enumerate(order):
        if there >= 0:
            place[there] = here  # of a token with two rows the later, END
    assert names and len(model.vocabulary) == len(order)
    return lambda ids: place[ids], np.load(FIXTURES / kind / "expected.npz"), order


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fusion", ["cross_attn", "gated"])
def test_words_behind_closed_gates_have_the_logits_of_transformers(kind, fusion):
    model = captioner(kind, fusion)
    to_ours, expected, order = ours_of(model, kind)
    tokens = to_ours(expected["ids"]).astype("int32")
    image = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    logits = np.asarray(model({"image": image, "tokens": tokens}))
    theirs = [there for there in order if there >= 0]
    found = np.zeros_like(expected["logits"])
    for here, there in enumerate(order):
        if there >= 0 and here not in model.options["text_decoder"]["absent"]:
            found[..., there] = logits[..., here]
    assert len(set(theirs)) == found.shape[-1]
    np.testing.assert_allclose(found, expected["logits"], atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fusion", ["concat_mlp", "cross_attn", "gated", "merged_attn"])
def test_further_tokens_have_the_logits_of_one_pass(kind, fusion):
    model = captioner(kind, fusion, image_words=4 if fusion == "merged_attn" else 0)
    for layer in model.layers:
        for part in getattr(layer, "parts", lambda: ())():
            if isinstance(part[0], language.Opening):
                part[0].opening.assign(0.7)
    to_ours, expected, _ = ours_of(model, kind)
    tokens = to_ours(expected["ids"]).astype("int32")
    image = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    whole = np.asarray(model({"image": image, "tokens": tokens}))
    reading, prefix = language.begin(model, model.get_layer("image_encoder")(image), 32)
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        padded = np.concatenate([tokens[:, start:stop], np.zeros((3, 2), "int32")], axis=1)
        logits, reading = language.extend(model, reading, prefix, ops.convert_to_tensor(padded))
        np.testing.assert_allclose(np.asarray(logits), whole[:, stop - 1], atol=2e-5)
