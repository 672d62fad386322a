"""Published encoders inside models: their weights, saved by name, other vocabularies."""

from __future__ import annotations

import json

import numpy as np
import pytest
import toys
from checkpoints import ARCHIVES

from vtx_keras import encoders, zoo
from vtx_keras.checkpoints import _folder as weights
from vtx_keras.checkpoints._folder import BadWeights
from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.data._load import SAMPLE
from vtx_keras.inputs import media, text
from vtx_keras.models.encoders import architecture


def photo(name: str) -> np.ndarray:
    return media.read(SAMPLE / "photos" / f"{name}.jpg")


@pytest.mark.parametrize(("name", "label"), [("cat", "tabby"), ("coffee", "espresso"), ("brushes", "paintbrush")])
def test_an_encoder_with_its_head_names_photographs(name, label):
    model = encoders.load("efficientnet_lite0", head=True)
    labels = (published.find("efficientnet_lite0") / "labels.txt").read_text().splitlines()
    logits = model.predict_on_batch(media.resize(photo(name), (224, 224), "crop")[None].astype("float32"))[0]
    assert label in [labels[i].replace("_", " ") for i in np.argsort(-logits)[:5]]


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "mobilenet_v2"])
def test_a_model_starts_from_the_published_weights_and_is_fed_0_to_255(encoder):
    model = toys.pretrained(encoder=encoder)
    pictures = media.resize(photo("cat"), toys.LARGER[:2])[None].astype("float32")
    held = model.get_layer("image_encoder")(pictures)
    np.testing.assert_array_equal(held, encoders.load(encoder, image_shape=toys.LARGER)(pictures))
    assert held.shape[1:] == (2, 2, 1280)
    new = toys.toy("gated_vqa", image_encoder=encoder, image_shape=toys.LARGER)
    assert (np.array(new.get_layer("image_encoder")(pictures)) != np.array(held)).any()


def test_a_video_model_encodes_each_frame_with_it():
    model = toys.pretrained("gated_video_vqa", image_shape=(2, *toys.LARGER))
    clip = np.stack([media.resize(photo(name), toys.LARGER[:2]) for name in ("cat", "coffee")]).astype("float32")
    frames = encoders.load("mobilenet_v2", image_shape=toys.LARGER)(clip)
    np.testing.assert_allclose(model.get_layer("image_encoder")(clip[None])[0], frames, rtol=1e-4, atol=1e-4)


def test_an_unchanged_encoder_is_saved_by_name(tmp_path):
    model = toys.pretrained()
    zoo.save(model, tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    file = published.find("mobilenet_v2") / weights.WEIGHTS
    assert config["image_encoder"] == {"name": "mobilenet_v2", "sha256": weights.file_hash(file)}
    assert (tmp_path / "mine" / weights.WEIGHTS).stat().st_size < 1_000_000
    again = zoo.build("gated_vqa", weights=tmp_path / "mine")
    inputs = toys.inputs(model)
    np.testing.assert_array_equal(toys.outputs(model, inputs), toys.outputs(again, inputs))
    assert zoo.load(tmp_path / "mine").options == model.options


def test_an_unchanged_text_encoder_is_saved_by_name(tmp_path, monkeypatch):
    source, here = architecture("minilm_l6"), tmp_path / "minilm_l6"
    here.mkdir()
    source.save_weights(here / weights.WEIGHTS)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", *(f"x{i}" for i in range(30_516))]
    find, load = published.find, published.load
    monkeypatch.setattr(published, "find", lambda name, *rest: here if name == "minilm_l6" else find(name, *rest))
    monkeypatch.setattr(published, "load", lambda name, *a, **k: source if name == "minilm_l6" else load(name, *a, **k))
    monkeypatch.setattr(published, "words_of", lambda name: pieces)
    options = {"image_encoder": "mobilenet_v2", "image_shape": toys.LARGER, "dim": 32, "depth": 1}
    model = zoo.build("cross_attn_matcher", weights="encoders", text_encoder="minilm_l6", **options)
    zoo.save(model, tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert [config[option]["name"] for option in ("image_encoder", "text_encoder")] == ["mobilenet_v2", "minilm_l6"]
    assert (tmp_path / "mine" / weights.WEIGHTS).stat().st_size < 1_000_000
    again = zoo.load(tmp_path / "mine")
    inputs = toys.inputs(model)
    np.testing.assert_array_equal(toys.outputs(model, inputs), toys.outputs(again, inputs))
    variable = again.get_layer("text_encoder").weights[0]
    variable.assign(variable + 0.01)
    zoo.save(again, tmp_path / "changed")
    assert "text_encoder" not in json.loads((tmp_path / "changed" / "config.json").read_text())
    changed = zoo.load(tmp_path / "changed")
    np.testing.assert_array_equal(toys.outputs(again, inputs), toys.outputs(changed, inputs))


def test_a_changed_encoder_is_saved_whole(tmp_path):
    model = toys.pretrained()
    variable = model.get_layer("image_encoder").weights[0]
    variable.assign(variable + 0.01)
    zoo.save(model, tmp_path / "mine")
    assert "image_encoder" not in json.loads((tmp_path / "mine" / "config.json").read_text())
    inputs = toys.inputs(model)
    again = zoo.build("gated_vqa", weights=tmp_path / "mine")
    np.testing.assert_array_equal(toys.outputs(model, inputs), toys.outputs(again, inputs))


def test_another_encoder_of_that_name_is_refused(tmp_path):
    zoo.save(toys.pretrained(), tmp_path / "mine")
    path = tmp_path / "mine" / "config.json"
    config = json.loads(path.read_text())
    config["image_encoder"]["sha256"] = "0" * 64
    config["sha256"] = weights.config_hash(config)
    path.write_text(json.dumps(config))
    with pytest.raises(BadWeights, match="trained on mobilenet_v2 with sha256 0000000000000000, but the one here has"):
        zoo.build("gated_vqa", weights=tmp_path / "mine")


def test_a_model_of_an_encoder_that_was_released_before_loads_with_the_same_one(tmp_path, monkeypatch):
    model = toys.pretrained()
    zoo.save(model, tmp_path / "mine")
    path = tmp_path / "mine" / "config.json"
    config = json.loads(path.read_text())
    config["image_encoder"]["sha256"] = "0" * 64
    config["sha256"] = weights.config_hash(config)
    path.write_text(json.dumps(config))
    before = published.PUBLISHED["mobilenet_v2"]._replace(former=("0" * 64,))
    monkeypatch.setitem(published.PUBLISHED, "mobilenet_v2", before)
    inputs = toys.inputs(model)
    again = zoo.build("gated_vqa", weights=tmp_path / "mine")
    np.testing.assert_array_equal(toys.outputs(model, inputs), toys.outputs(again, inputs))


def test_an_encoder_that_was_trained_here_keeps_its_head_where_it_says_so():
    whole = published.load("efficientnet_lite2_photos", head=True, image_shape=(64, 64, 3))
    assert whole.output_shape == (None, 1000)
    assert published.load("mobilenet_v2_emoji", head=True, image_shape=(65, 65, 3)).output_shape == (None, 1280)
    told = {"weights": "encoders", "concepts": 2, "dim": 16, "depth": 1}
    model = toys.toy("gated_captioner", image_encoder="efficientnet_lite2_photos", image_shape=(64, 64, 3), **told)
    kernel = whole.get_layer("logits").get_weights()[0]
    np.testing.assert_array_equal(model.get_layer("concepts").get_weights()[0], kernel)
    with pytest.raises(ValueError, match="expected an image_encoder with ImageNet's head"):
        toys.toy("gated_captioner", image_encoder="mobilenet_v2_emoji", image_shape=(65, 65, 3), **told)


def test_an_encoder_without_its_weights_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("VTX_KERAS_CACHE", str(tmp_path))
    with pytest.raises(BadWeights, match=r"vtx convert resnet50"):
        toys.pretrained(encoder="resnet50")
    assert not list(tmp_path.iterdir())
    assert toys.toy("gated_vqa", image_encoder="resnet50", image_shape=toys.LARGER)  # new weights need no file


def test_weights_stored_as_float16_load(tmp_path):
    model = toys.pretrained()
    zoo.save(model, tmp_path / "half", half=True)
    inputs = toys.inputs(model)
    again = zoo.build("gated_vqa", weights=tmp_path / "half")
    np.testing.assert_allclose(toys.outputs(model, inputs), toys.outputs(again, inputs), atol=5e-2)


def test_padding_changes_nothing_in_minilm():
    model = toys.toy("retriever", text_encoder="minilm_l6", max_length=6)
    inputs = toys.inputs(model)
    short, long = (np.pad(inputs["tokens"][:, :4], ((0, 0), (0, n))) for n in (0, 2))
    encoder = model.get_layer("text_encoder")
    np.testing.assert_allclose(encoder(short), encoder(long)[:, :4], atol=1e-5)
    assert encoder(long).shape[1:] == (6, 384)


@pytest.mark.network
def test_a_model_on_minilm_takes_its_vocabulary(bare_cache):
    folder = published.convert("minilm_l6", bare_cache / "minilm_l6", ARCHIVES)
    model = toys.toy("retriever", text_encoder="minilm_l6", weights="encoders", image_encoder="mobilenet_v2",
                     image_shape=toys.LARGER, vocabulary=None)  # fmt: skip
    assert len(model.vocabulary) > 29_000
    texts = ["a photo of a cat", "colourless green ideas"]
    ids = text.encode(texts, model.vocabulary, 12, start=True)
    own = (folder / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    rows = []
    for row in ids:
        pieces = [published.SPECIALS.get(model.vocabulary[i], model.vocabulary[i]) for i in row if i]
        rows.append([own.index(piece) for piece in [*pieces, "[SEP]"]] + [0] * (12 - len(pieces)))
    wanted = encoders.load("minilm_l6")(np.array(rows, "int32"))
    found = model.get_layer("text_encoder")(ids)
    for row, line in enumerate(ids):
        count = int((line > 0).sum())
        np.testing.assert_allclose(found[row, :count], wanted[row, :count], atol=1e-4)


def test_pieces_that_the_text_encoder_lacks_are_counted_in_a_warning(monkeypatch):
    source = architecture("minilm_l6")
    theirs = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", *(f"x{i}" for i in range(30_516))]
    monkeypatch.setattr(published, "load", lambda name, head: source)
    monkeypatch.setattr(published, "words_of", lambda name: theirs)
    with pytest.warns(UserWarning, match="6 of 7 pieces have the embeddings of minilm_l6; the others start new"):
        model = published.reader("minilm_l6", [*text.SPECIALS, "cat", "zebra"])
    table, given = (np.array(one.get_layer("words").embeddings) for one in (model, source))
    np.testing.assert_array_equal(table[[2, 3, 5]], given[[2, 3, 5]])
