"""Pretrained encoders inside models: named, kept, frozen, cached, adapted to other sizes and vocabularies."""

from __future__ import annotations

import io
import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import toys
from PIL import Image

from vtx_keras import data, zoo
from vtx_keras.checkpoints import _encoders as published
from vtx_keras.checkpoints import _folder as weights
from vtx_keras.checkpoints._folder import BadWeights
from vtx_keras.data._load import SAMPLE
from vtx_keras.inputs import media, text
from vtx_keras.models import encoders
from vtx_keras.models import encoders as architectures
from vtx_keras.models import objectives as tuning
from vtx_keras.models._base import leaves

SHAPE = (64, 64, 3)


def pretrained(name: str = "gated_vqa", encoder: str = "mobilenet_v2", **overrides):
    options = {"weights": "encoders", "image_encoder": encoder, "image_shape": SHAPE, **overrides}
    return toys.toy(name, **options)


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
    model = pretrained(encoder=encoder)
    pictures = media.resize(photo("cat"), SHAPE[:2])[None].astype("float32")
    held = model.get_layer("image_encoder")(pictures)
    np.testing.assert_array_equal(held, encoders.load(encoder, image_shape=SHAPE)(pictures))
    assert held.shape[1:] == (2, 2, 1280)
    new = toys.toy("gated_vqa", image_encoder=encoder, image_shape=SHAPE)
    assert (np.array(new.get_layer("image_encoder")(pictures)) != np.array(held)).any()


def test_a_video_model_reads_each_frame_with_it():
    model = pretrained("gated_video_vqa", image_shape=(2, *SHAPE))
    clip = np.stack([media.resize(photo(name), SHAPE[:2]) for name in ("cat", "coffee")]).astype("float32")
    frames = encoders.load("mobilenet_v2", image_shape=SHAPE)(clip)
    np.testing.assert_allclose(model.get_layer("image_encoder")(clip[None])[0], frames, rtol=1e-4, atol=1e-4)


# ---- saved by name


def test_an_unchanged_encoder_is_named_and_not_held_again(tmp_path):
    model = pretrained()
    zoo.save(model, tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    file = published.find("mobilenet_v2") / weights.WEIGHTS
    assert config["image_encoder"] == {"name": "mobilenet_v2", "sha256": weights.file_hash(file)}
    assert (tmp_path / "mine" / weights.WEIGHTS).stat().st_size < 1_000_000
    again = zoo.build("gated_vqa", weights=tmp_path / "mine")
    inputs = toys.inputs(model)
    np.testing.assert_array_equal(toys.outputs(model, inputs), toys.outputs(again, inputs))
    assert zoo.load(tmp_path / "mine").options == model.options


def test_a_changed_encoder_is_held(tmp_path):
    model = pretrained()
    variable = model.get_layer("image_encoder").weights[0]
    variable.assign(variable + 0.01)
    zoo.save(model, tmp_path / "mine")
    assert "image_encoder" not in json.loads((tmp_path / "mine" / "config.json").read_text())
    inputs = toys.inputs(model)
    again = zoo.build("gated_vqa", weights=tmp_path / "mine")
    np.testing.assert_array_equal(toys.outputs(model, inputs), toys.outputs(again, inputs))


def test_another_encoder_of_that_name_is_refused(tmp_path):
    zoo.save(pretrained(), tmp_path / "mine")
    path = tmp_path / "mine" / "config.json"
    config = json.loads(path.read_text())
    config["image_encoder"]["sha256"] = "0" * 64
    config["sha256"] = weights._config_hash(config)
    path.write_text(json.dumps(config))
    with pytest.raises(BadWeights, match="trained on mobilenet_v2 with sha256 0000000000000000, but the one here has"):
        zoo.build("gated_vqa", weights=tmp_path / "mine")


def test_an_encoder_that_is_not_here_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("VTX_KERAS_CACHE", str(tmp_path))
    with pytest.raises(BadWeights, match=r"python -m vtx_keras.weights convert resnet50"):
        pretrained(encoder="resnet50")
    assert not list(tmp_path.iterdir())
    assert toys.toy("gated_vqa", image_encoder="resnet50", image_shape=SHAPE)  # new weights need no file


def test_a_half_stored_release_reads_back(tmp_path):
    model = pretrained()
    zoo.save(model, tmp_path / "half", half=True)
    inputs = toys.inputs(model)
    again = zoo.build("gated_vqa", weights=tmp_path / "half")
    np.testing.assert_allclose(toys.outputs(model, inputs), toys.outputs(again, inputs), atol=5e-2)


# ---- another size, another vocabulary


def test_positions_are_interpolated_to_another_size_and_it_is_said(tmp_path):
    model = toys.toy("cross_attn_captioner", image_shape=(64, 64, 3))
    zoo.save(model, tmp_path / "mine")
    with pytest.warns(UserWarning, match="positions are interpolated to the new size"):
        larger = zoo.build("cross_attn_captioner", weights=tmp_path / "mine", image_shape=(128, 64, 3))
    before = np.array(model.get_layer("vision").space.axes[0])
    after = np.array(larger.get_layer("vision").space.axes[0])
    assert after.shape == (8, 32)
    np.testing.assert_allclose(after[0], before[0], atol=1e-6)
    np.testing.assert_allclose(after[3], 0.25 * before[2] * 1 + 0.75 * before[1], atol=1e-6)
    np.testing.assert_array_equal(larger.get_layer("vision").space.axes[1], model.get_layer("vision").space.axes[1])
    assert len(larger.generate(np.zeros((1, 128, 64, 3)), max_length=3)) == 1


@pytest.mark.parametrize("name", ["cross_attn_captioner", "gated_matcher"])
def test_embeddings_are_matched_by_piece_and_it_is_said(name, tmp_path):
    options = {"mlm": True} if "matcher" in name else {}
    model = toys.toy(name, **options)
    zoo.save(model, tmp_path / "mine")
    other = ["new", *reversed(toys.WORDS[:20])]
    with pytest.warns(UserWarning, match="25 of 26 pieces keep their embeddings, the rest start new"):
        again = zoo.build(name, weights=tmp_path / "mine", vocabulary=other)
    have, given = (dict(weights._by_path(one)) for one in (model, again))
    path = next(path for path in have if path.endswith("words/embeddings"))
    for piece in ("[END]", "w0", "w19"):
        row, old = again.vocabulary.index(piece), model.vocabulary.index(piece)
        np.testing.assert_array_equal(given[path][row], have[path][old])
        if options:
            np.testing.assert_array_equal(given["words_head/kernel"][:, row], have["words_head/kernel"][:, old])
    assert again.vocabulary[5] == "new"


def test_what_cannot_be_adapted_is_still_an_error(tmp_path):
    zoo.save(toys.toy("gated_vqa"), tmp_path / "mine")
    with pytest.raises(BadWeights, match="do not fit the options given"):
        zoo.build("gated_vqa", weights=tmp_path / "mine", dim=64)


# ---- frozen, thawed, low rank


def test_freezing_all_but_the_last_layers():
    model = pretrained()
    model.freeze("image", but_last=4)
    inner = [layer for layer in leaves(model.get_layer("image_encoder")) if layer.weights]
    assert (inner[0].name, inner[-1].name) == ("stem", "top_bn")
    assert [layer.trainable for layer in inner] == [False] * (len(inner) - 4) + [True] * 4
    before = [np.array(value) for value in model.get_layer("image_encoder").weights]
    toys.fit(model, toys.batches(model))
    moved = [(np.array(a) != b).any() for a, b in zip(model.get_layer("image_encoder").weights, before, strict=True)]
    assert any(moved[-6:])
    assert not any(moved[:-10])
    model.freeze("image", frozen=False)
    assert all(layer.trainable for layer in inner)


@pytest.mark.parametrize(
    "name",
    [
        "cross_attn_captioner",
        pytest.param("merged_attn_matcher", marks=pytest.mark.slow),
        pytest.param("retriever", marks=pytest.mark.slow),
    ],
)
def test_lora_learns_beside_the_matrices_and_merges(name, tmp_path):
    model = toys.toy(name)
    inputs = toys.inputs(model)
    before = toys.outputs(model, inputs)
    model.enable_lora(2)
    np.testing.assert_allclose(toys.outputs(model, inputs), before, atol=1e-5)
    dense = [layer for layer in model._flatten_layers() if getattr(layer, "lora_enabled", False)]
    kernels = [np.array(layer._kernel) for layer in dense]
    toys.fit(model, toys.batches(model), epochs=3)
    assert all((np.array(layer._kernel) == kernel).all() for layer, kernel in zip(dense, kernels, strict=True))
    after = toys.outputs(model, inputs)
    assert np.abs(after - before).max() > 1e-4
    merged = model.merged()
    assert not any(getattr(layer, "lora_enabled", False) for layer in merged._flatten_layers())
    np.testing.assert_allclose(toys.outputs(merged, inputs), after, atol=1e-4)
    assert merged.count_params() == toys.toy(name).count_params()
    zoo.save(model, tmp_path / "mine")
    np.testing.assert_allclose(toys.outputs(zoo.load(tmp_path / "mine"), inputs), after, atol=1e-4)
    assert np.isfinite(toys.fit(merged, toys.batches(merged)).history["loss"]).all()


def test_a_paced_encoder_moves_at_its_share_of_the_rate():
    model = toys.toy("gated_vqa", vision_depth=2)
    encoder = model.get_layer("image_encoder")
    tuning.pace(model, "image", rate=0.1, decay=0.5)
    model.compile(tuning.PacedAdamW(1e-2, weight_decay=0.0), loss=model.loss)
    learned = [layer for layer in leaves(encoder) if layer.trainable_variables]
    chosen = [learned[-1].trainable_variables[0], learned[-2].trainable_variables[0], model.get_layer("head").kernel]
    before = [np.array(variable) for variable in chosen]
    model.train_on_batch(*toys.batches(model)[0])
    # Adam's first step is the rate itself, whatever the gradient.
    steps = [float(np.abs(np.array(v) - b).max()) for v, b in zip(chosen, before, strict=True)]
    np.testing.assert_allclose(steps, [1e-3, 5e-4, 1e-2], rtol=0.05)
    with pytest.raises(ValueError, match="expected shares"):
        tuning.pace(model, rate=2)


# ---- features, made once


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def pairs(form: str, count: int = 6) -> tf.data.Dataset:
    pictures = np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), dtype="uint8")
    stored = pictures if form == "pixels" else [png(picture) for picture in pictures]
    return tf.data.Dataset.from_tensor_slices({"image": stored, "caption": toys.texts(count)})


@pytest.mark.parametrize("form", ["pixels", "encoded"])
@pytest.mark.parametrize("name", ["cross_attn_captioner", "retriever"])
def test_training_on_features_trains_the_model(name, form, tmp_path, capsys):
    model = toys.toy(name)
    model.freeze("image")
    features = data.features(pairs(form), model, tmp_path, batch_size=4)
    assert "0 read, 6 made" in capsys.readouterr().out
    head = model.behind_encoder()
    seen = next(iter(data.batches(features, head, batch_size=6)))
    whole = next(iter(data.batches(pairs(form), model, batch_size=6)))
    np.testing.assert_array_equal(seen[0]["tokens"], whole[0]["tokens"])
    np.testing.assert_allclose(head(seen[0], training=False), model(whole[0], training=False), atol=2e-2)
    toys.fit(head, data.batches(features, head, batch_size=3, training=True), epochs=2)
    np.testing.assert_allclose(head(seen[0], training=False), model(whole[0], training=False), atol=2e-2)


def test_features_are_read_where_they_are_and_made_where_they_are_not(tmp_path, monkeypatch, capsys):
    from vtx_keras.data import _feature_cache as caching

    monkeypatch.setattr(caching, "SHARD", 2)
    model = toys.toy("retriever")
    model.freeze("image")
    wanted = [row["image"] for row in data.features(pairs("encoded"), model, tmp_path).as_numpy_iterator()]
    capsys.readouterr()
    (lost, *_) = sorted(tmp_path.glob("*.npy"))
    lost.unlink()  # as if the run had been killed there
    (tmp_path / ".half.npy.123").write_bytes(b"half-written")
    again = [row["image"] for row in data.features(pairs("encoded"), model, tmp_path).as_numpy_iterator()]
    assert "4 read, 2 made" in capsys.readouterr().out
    np.testing.assert_array_equal(wanted, again)
    variable = model.get_layer("image_encoder").weights[0]
    variable.assign(variable + 0.1)
    data.features(pairs("encoded"), model, tmp_path)
    assert "0 read, 6 made" in capsys.readouterr().out, "another encoder never reads them"
    data.features(pairs("encoded", 4), model, tmp_path)
    assert "4 read, 0 made" in capsys.readouterr().out


def test_a_picture_of_many_examples_is_looked_at_once(tmp_path, monkeypatch, capsys):
    from vtx_keras.data import _feature_cache as caching

    monkeypatch.setattr(caching, "SHARD", 2)
    model = toys.toy("retriever")
    model.freeze("image")
    once = [row["image"] for row in data.features(pairs("encoded", 3), model, tmp_path / "once").as_numpy_iterator()]
    order = [0, 1, 0, 2, 2, 1, 0]
    rows = list(pairs("encoded", 3).as_numpy_iterator())
    columns = {"image": [rows[i]["image"] for i in order], "caption": toys.texts(len(order))}
    many = data.features(tf.data.Dataset.from_tensor_slices(columns), model, tmp_path / "many")
    assert "features of 3 pictures: 0 read, 3 made" in capsys.readouterr().out
    found = list(many.as_numpy_iterator())
    np.testing.assert_array_equal([row["image"] for row in found], [once[i] for i in order])
    assert [row["caption"].decode() for row in found] == toys.texts(len(order))


def test_features_and_pictures_are_not_mixed_up(tmp_path):
    model = toys.toy("retriever")
    model.freeze("image")
    head, features = model.behind_encoder(), data.features(pairs("encoded"), model, tmp_path)
    with pytest.raises(ValueError, match=r"this model reads features \(2, 2, 32\): data.features"):
        data.batches(pairs("encoded"), head)
    with pytest.raises(ValueError, match="features cannot be augmented"):
        data.batches(features, head, augment=True)
    with pytest.raises(ValueError, match="features cannot be augmented"):
        data.batches(features, head, augment={"words": 0.5})  # what is not named stays as in AUGMENT
    words = {"words": 0.5, "crop": 0, "rotation": 0, "colour": 0}
    inputs, _, _ = next(iter(data.batches(features, head, augment=words)))
    assert (inputs["tokens"].numpy() == text.MASK).any()


def test_features_of_an_encoder_that_learns_are_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="not frozen"):
        data.features(pairs("pixels"), toys.toy("retriever"), tmp_path)


# ---- a text encoder of another vocabulary


def test_minilm_s_architecture_reads_our_ids():
    model = toys.toy("retriever", text_encoder="minilm_l6", max_length=6)
    inputs = toys.inputs(model)
    short, long = (np.pad(inputs["tokens"][:, :4], ((0, 0), (0, n))) for n in (0, 2))
    encoder = model.get_layer("text_encoder")
    np.testing.assert_allclose(encoder(short), encoder(long)[:, :4], atol=1e-5)  # padding changes nothing
    assert encoder(long).shape[1:] == (6, 384)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="once is enough for 90 MB")
def test_minilm_brings_its_words(tmp_path):
    try:
        folder = published.find("minilm_l6")
    except BadWeights:
        pytest.skip("minilm_l6 is not here: python -m vtx_keras.weights convert minilm_l6")
    model = toys.toy("retriever", text_encoder="minilm_l6", weights="encoders", image_encoder="mobilenet_v2",
                     image_shape=SHAPE, vocabulary=None)  # fmt: skip
    assert len(model.vocabulary) > 29_000
    said = ["a photo of a cat", "colourless green ideas"]
    ids = text.encode(said, model.vocabulary, 12, start=True)
    theirs = (folder / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    rows = []
    for row in ids:
        pieces = [published.SPECIALS.get(model.vocabulary[i], model.vocabulary[i]) for i in row if i]
        rows.append([theirs.index(piece) for piece in [*pieces, "[SEP]"]] + [0] * (12 - len(pieces)))
    wanted = encoders.load("minilm_l6")(np.array(rows, "int32"))
    found = model.get_layer("text_encoder")(ids)
    for row, line in enumerate(ids):
        count = int((line > 0).sum())
        np.testing.assert_allclose(found[row, :count], wanted[row, :count], atol=1e-4)


def test_pieces_that_the_text_encoder_does_not_know_are_told(monkeypatch):
    source = architectures.architecture("minilm_l6")
    theirs = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", *(f"x{i}" for i in range(30_516))]
    monkeypatch.setattr(published, "load", lambda name, head: source)
    monkeypatch.setattr(published, "words_of", lambda name: theirs)
    with pytest.warns(UserWarning, match="6 of 7 pieces have the embeddings of minilm_l6; the others start new"):
        model = published.reader("minilm_l6", [*text.SPECIALS, "cat", "zebra"], pretrained=True)
    table, given = (np.array(one.get_layer("words").embeddings) for one in (model, source))
    np.testing.assert_array_equal(table[[2, 3, 5]], given[[2, 3, 5]])


def test_the_command_converts_and_is_polite(tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (
            published.main(["convert", "mobilenet_v2", "--archives", str(tmp_path / "no"), "--out", str(SAMPLE)]) == 1
        )
    assert "Traceback" not in capsys.readouterr().err


def test_an_archive_from_a_url_is_checked(tmp_path):
    (tmp_path / "elsewhere.tgz").write_bytes(b"something else")
    url = (tmp_path / "elsewhere.tgz").as_uri()
    with pytest.raises(ValueError, match=r"(?i)incomplete or corrupted|hash|sha256"):
        published.convert("resnet50", tmp_path / "out", tmp_path / "archives", url=url)
    assert not (tmp_path / "out").exists()


def test_a_model_whose_encoder_was_cut_off_can_still_be_saved_in_one_file(tmp_path):
    model = toys.toy("gated_vqa")
    model.behind_encoder()
    weights._bare(model, without_encoder=True)
    again = zoo.load(zoo.save(model, tmp_path / "whole.keras"))
    x = toys.inputs(model)
    np.testing.assert_allclose(toys.outputs(again, x), toys.outputs(model, x), atol=1e-6)
