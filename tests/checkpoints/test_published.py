"""Published encoders: exact to their reference, and found without a network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from checkpoints import ARCHIVES
from paths import REFERENCE
from photographs import ODD, PHOTOS, SENTENCES, SIZES, pixels
from toys import other_backend

from vtx_keras import _files as archives
from vtx_keras._compat import frozen_function
from vtx_keras.checkpoints._folder import CONFIG, BadWeights
from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.checkpoints.published._encoders import PUBLISHED

RELEASED = ("efficientnet_lite0", "mobilenet_v2")
OTHERS = [name for name, entry in PUBLISHED.items() if entry.archive]  # published by others
pytestmark = pytest.mark.usefixtures("bare_cache")


def stored(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(REFERENCE / f"{name}.npz"))


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    assert np.abs(wanted).max() > 0.01
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def outputs(name: str, folder: Path | None = None) -> dict[str, np.ndarray]:
    """The figures that the reference stores, computed with our encoder."""
    whole = published.load(name, head=True, folder=folder)
    both = keras.Model(whole.input, [whole.get_layer("features").output, whole.output])
    features, logits = both.predict(pixels(SIZES[name], SIZES[name]), verbose=0)
    odd = published.load(name, image_shape=(*ODD, 3), folder=folder).predict(pixels(*ODD, count=3), verbose=0)
    probabilities = np.array(keras.ops.softmax(logits))
    classes = np.argsort(-probabilities, axis=-1)[:, :5]
    return {
        "pooled": features.mean((1, 2)),
        "odd_pooled": odd.mean((1, 2)),
        "odd_map": odd.mean(-1),
        "classes": classes,
        "probabilities": np.take_along_axis(probabilities, stored(name)["classes"], 1),
    }


@pytest.mark.parametrize("name", RELEASED)
def test_released_float16_weights_agree_with_the_reference(name):
    found, wanted = outputs(name), stored(name)
    assert len(wanted["classes"]) == 10
    np.testing.assert_array_equal(found["classes"][:, 0], wanted["classes"][:, 0])
    np.testing.assert_allclose(found["probabilities"], wanted["probabilities"], atol=5e-3)
    for key in ("pooled", "odd_pooled", "odd_map"):
        assert relative(found[key], wanted[key]) < 1e-2, key


def test_labels_name_the_photographs():
    labels = (published.find("mobilenet_v2") / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert len(labels) == 1000
    best = outputs("mobilenet_v2")["classes"][:, 0]
    said = {path.stem: labels[i] for path, i in zip(PHOTOS, best, strict=True)}
    assert said["coffee"] == "espresso"
    assert said["dogs"] == "cocker_spaniel"
    assert said["brushes"] == "paintbrush"
    assert said["cat"] == "Egyptian_cat"


@pytest.mark.network
@pytest.mark.parametrize("name", OTHERS)
def test_converted_float32_weights_equal_the_reference(name, tmp_path):
    folder, wanted = published.convert(name, tmp_path / name, ARCHIVES), stored(name)
    if name == "minilm_l6":
        from keras_hub.tokenizers import BertTokenizer

        words = BertTokenizer(str(folder / "vocabulary.txt"), lowercase=True)
        for sentence, ids in zip(SENTENCES, wanted["ids"], strict=True):
            assert [101, *np.array(words(sentence)), 102] == ids[ids > 0].tolist()
        hidden = published.load(name, folder=folder).predict(wanted["ids"], verbose=0)
        assert relative(hidden * (wanted["ids"] > 0)[..., None], wanted["hidden"]) < 1e-4
        sentences = published.load(name, head=True, folder=folder).predict(wanted["ids"], verbose=0)
        assert relative(sentences, wanted["sentence"]) < 1e-4
        return
    found = outputs(name, folder)
    np.testing.assert_array_equal(found["classes"], wanted["classes"])
    for key in ("pooled", "odd_pooled", "odd_map", "probabilities"):
        assert relative(found[key], wanted[key]) < 1e-4, key


@pytest.mark.network
@pytest.mark.parametrize("name", OTHERS)
def test_stored_references_are_reproduced(name):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import make

    archives.fetch(PUBLISHED[name].archive, ARCHIVES)
    again, wanted = make.reference(ARCHIVES, name), stored(name)
    assert set(again) == set(wanted)
    for key, value in wanted.items():
        np.testing.assert_allclose(again[key], value, rtol=1e-4, atol=1e-5 * np.abs(value).max(), err_msg=key)


@pytest.mark.slow  # KERAS_BACKEND=jax runs this whole file there
def test_the_jax_backend_gives_the_same_features(tmp_path):
    script = (
        "import sys, numpy as np, keras; from vtx_keras import encoders; from photographs import pixels; "
        "assert keras.backend.backend() == 'jax'; "
        "model = encoders.load('mobilenet_v2', image_shape=(97, 131, 3)); "
        "np.save(sys.argv[1], model.predict(pixels(97, 131, 3), verbose=0))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x.npy")], env=other_backend(), check=True)
    here = published.load("mobilenet_v2", image_shape=(97, 131, 3)).predict(pixels(97, 131, 3), verbose=0)
    assert relative(np.load(tmp_path / "x.npy"), here) < 1e-4


@pytest.mark.parametrize("name", RELEASED)
def test_features_and_logits_at_two_sizes(name):
    for (height, width), grid in {(64, 96): (2, 3), (97, 131): (4, 5)}.items():
        model = published.load(name, image_shape=(height, width, 3))
        assert model.output_shape == (None, *grid, 1280)
        assert model(np.zeros((2, height, width, 3), "float32")).shape == (2, *grid, 1280)
        assert published.load(name, head=True, image_shape=(height, width, 3)).output_shape == (None, 1000)


def test_a_size_or_name_that_cannot_be_is_refused():
    for shape in [(31, 64, 3), (64, 64, 1), (64, 64)]:
        with pytest.raises(ValueError, match="at least 32 px"):
            published.load("mobilenet_v2", image_shape=shape)
    with pytest.raises(ValueError, match="did you mean mobilenet_v2"):
        published.load("mobilenetv2")
    with pytest.raises(ValueError, match="reads texts"):
        published.load("minilm_l6", image_shape=(64, 64, 3))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")
def test_efficientnet_lite0_runs_in_litert_with_builtins_alone():
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    model = published.load("efficientnet_lite0", image_shape=(96, 96, 3))
    traced = tf.function(lambda image: model(image)).get_concrete_function(tf.TensorSpec((1, 96, 96, 3)))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen_function(traced)])
    assert converter.target_spec.supported_ops == {tf.lite.OpsSet.TFLITE_BUILTINS}
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    image = pixels(96, 96, 1)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert relative(found, model.predict(image, verbose=0)) < 1e-4


@pytest.mark.parametrize("name", OTHERS)
def test_the_card_of_an_encoder_is_written_from_its_results(name):
    import cards

    folder = cards.ZOO / name
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert cards.card(name, results) == (folder / "README.md").read_text(encoding="utf-8")
    stored = published.parse_config(folder / CONFIG)
    described = published.describe(name, stored["files"], stored["stored"] == "float16")
    assert {**described, "versions": stored["versions"], "sha256": stored["sha256"]} == stored
    assert set(stored["files"]) <= {file.name for file in folder.iterdir()}


def test_an_encoder_that_was_trained_here_cannot_be_converted_and_says_where_it_is(tmp_path):
    with pytest.raises(BadWeights, match=r"trained for this package.*install the package again"):
        published.convert("mobilenet_v2_emoji", tmp_path / "out", tmp_path)
    features = published.load("mobilenet_v2_emoji", image_shape=(97, 97, 3))
    assert features.output_shape == (None, 4, 4, 1280)
    began = published.load("mobilenet_v2", image_shape=(97, 97, 3))
    same = [np.array_equal(a, b) for a, b in zip(features.get_weights(), began.get_weights(), strict=True)]
    early = [layer.name for layer in features.layers].index("block_6_expand")
    count = sum(len(layer.weights) for layer in features.layers[:early])
    assert all(same[:count])
    assert not any(same[count:])
