"""Image encoders out of published checkpoints, in models of the zoo that are otherwise new."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vtx_keras import zoo
from vtx_keras.checkpoints import BadWeights, published

FIXTURES = Path(__file__).parents[1] / "fixtures/published"


@pytest.mark.parametrize(
    ("kind", "fit"), [("clip", "shortest-bicubic"), ("blip", "stretch-bicubic"), ("siglip", "stretch-bicubic")]
)
def test_an_encoder_is_that_of_the_whole_model(kind, fit, tmp_path):
    options = {"dim": 32, "depth": 1, "max_length": 6}
    model = zoo.build("gated_captioner", weights="encoders", image_encoder=FIXTURES / kind, **options)
    whole = zoo.named(FIXTURES / kind)
    pictures = np.load(FIXTURES / kind / "expected.npz")["pictures"].astype("float32")
    ours, theirs = (np.asarray(one.get_layer("image_encoder")(pictures)) for one in (model, whole))
    np.testing.assert_array_equal(ours, theirs)
    assert (model.image_shape, model.options["resize"]) == ((48, 48, 3), fit)
    said = model.generate(pictures)
    zoo.save(model, tmp_path / "mine")
    assert zoo.load(tmp_path / "mine").generate(pictures) == said


def test_options_without_a_published_encoder_are_as_they_were():
    named = {"image_encoder": "hf://keras/vit_base", "dim": 8}
    assert published.with_encoders(named) == (named, None)
    assert published.with_encoders({"dim": 8}, ["a"]) == ({"dim": 8}, ["a"])


def test_a_folder_of_another_kind_says_which_are_known(tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(FIXTURES / "clip", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "dinov2"}))
    with pytest.raises(BadWeights, match="is a dinov2: image encoders are known of clip"):
        zoo.build("gated_captioner", weights="encoders", image_encoder=str(folder), dim=32)


def test_bert_reads_texts_as_it_was_published(tmp_path):
    expected = np.load(FIXTURES / "bert/expected.npz")
    options = {"dim": 32, "depth": 1, "max_length": 12, "image_encoder": FIXTURES / "clip", "classes": ["no", "yes"]}
    model = zoo.build("gated_vqa", weights="encoders", text_encoder=FIXTURES / "bert", **options)
    tokens = model.tokens_of("a cat, two dogs café")
    pieces = [model.vocabulary[i] for i in tokens[0] if i]
    assert pieces == ["[START]", *json.loads((FIXTURES / "bert/expected.json").read_text())["pieces"], "[END]"]
    states = np.asarray(model.get_layer("text_encoder")(tokens))
    assert np.abs(states[:, : len(pieces)] - expected["states"]).max() < 1e-5
    picture = np.zeros((1, 48, 48, 3))
    zoo.save(model, tmp_path / "mine")
    zoo.save(model, tmp_path / "mine.keras")
    logits = model.logits(picture, ["a cat?"], 1)[0]
    for path in ("mine", "mine.keras"):
        loaded = zoo.load(tmp_path / path)
        assert loaded.vocabulary.rule == model.vocabulary.rule
        np.testing.assert_allclose(loaded.logits(picture, ["a cat?"], 1)[0], logits, atol=1e-6)
    with pytest.raises(BadWeights, match="has a tokenizer of its own"):
        zoo.build("gated_vqa", weights="encoders", text_encoder=FIXTURES / "bert", vocabulary=["a", "b"], **options)
