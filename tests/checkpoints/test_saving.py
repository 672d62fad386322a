"""Saving and loading: folders, `.keras` files, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from checkpoints import copy_of
from toys import ANSWERS, SHAPE, inputs, outputs, pictures, pretrained, toy

from vtx_keras import zoo
from vtx_keras.checkpoints import _restore
from vtx_keras.checkpoints._folder import CONFIG, VOCABULARY, WEIGHTS, BadWeights, config_hash, released_root


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, VOCABULARY])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_weights_folder_is_refused_by_the_name_of_the_file(saved, tmp_path, name, harm):
    folder = copy_of(saved[0], tmp_path)
    if harm == "flip":
        flip(folder / name)
    elif harm == "truncate":
        (folder / name).write_bytes((folder / name).read_bytes()[:-7])
    else:
        (folder / name).unlink()
    with pytest.raises(BadWeights, match=name):
        zoo.build("gated_vqa", weights=folder)


def test_a_damaged_keras_file_is_refused(tmp_path):
    path = zoo.save(toy("gated_vqa"), tmp_path / "model.keras")
    flip(path)
    with pytest.raises(BadWeights, match="damaged"):
        zoo.load(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadWeights, match="cut short"):
        zoo.load(path)


def rewritten(folder, **changes):
    """Change a folder's config, with a hash of its own that fits."""
    config = json.loads((folder / CONFIG).read_text()) | changes
    config["sha256"] = config_hash(config)
    (folder / CONFIG).write_text(json.dumps(config))


def test_a_config_without_the_hashes_of_its_files_is_refused(saved, tmp_path):
    folder = copy_of(saved[0], tmp_path)
    rewritten(folder, files={})
    with pytest.raises(BadWeights, match=r"has no sha256 of model\.weights\.h5"):
        zoo.load(folder)


@pytest.mark.parametrize("option", ["image_encoder", "text_encoder"])
def test_a_saved_config_that_names_an_encoder_elsewhere_is_refused(saved, tmp_path, option):
    folder = copy_of(saved[0], tmp_path)
    overrides = json.loads((folder / CONFIG).read_text())["overrides"]
    rewritten(folder, overrides={**overrides, option: "hf://someone/something"})
    with pytest.raises(BadWeights, match=f"names {option} 'hf://someone/something', which would be fetched"):
        zoo.load(folder)


@pytest.mark.parametrize("name", ["mine", "mine.keras"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path, monkeypatch, name, value):
    model = toy("gated_vqa")
    bias = model.get_layer("head").bias
    bias.assign(bias + value)
    with pytest.raises(BadWeights, match="head/bias has values that are NaN or infinite"):
        zoo.save(model, tmp_path / name)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as before:
        before.setattr(_restore, "check_finite", lambda *args: None)
        zoo.save(model, tmp_path / name)
    with pytest.raises(BadWeights, match="head/bias has values that are NaN or infinite"):
        zoo.load(tmp_path / name)


def test_numbers_beyond_float16_stay_float32_in_a_half_folder(tmp_path):
    model = toy("gated_vqa")
    bias = model.get_layer("head").bias
    bias.assign(bias + 70_000.0)
    again = zoo.load(zoo.save(model, tmp_path / "half", half=True))
    np.testing.assert_array_equal(again.get_layer("head").bias, bias)


def test_a_config_whose_named_encoder_is_another_is_refused(tmp_path):
    folder = zoo.save(pretrained(), tmp_path / "mine")
    overrides = json.loads((folder / CONFIG).read_text())["overrides"]
    rewritten(folder, overrides={**overrides, "image_encoder": "MobileNetV3Small"})
    with pytest.raises(BadWeights, match="weights of mobilenet_v2 for image_encoder='MobileNetV3Small'"):
        zoo.load(folder)


@pytest.mark.parametrize("asked", ["auto", False])
def test_a_keras_file_keeps_the_requested_jit_compile(asked, tmp_path):
    model = toy("gated_vqa")
    model.compile(loss=model.loss, jit_compile=asked)
    loaded = zoo.load(zoo.save(model, tmp_path / "whole.keras"))
    assert loaded.get_compile_config()["jit_compile"] == asked
    assert loaded.jit_compile is model.jit_compile


def test_a_keras_file_of_another_kind_is_refused(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "plain.keras")
    with pytest.raises(BadWeights, match="holds a Sequential: expected a model of the zoo"):
        zoo.load(tmp_path / "plain.keras")


def test_a_folder_is_built_with_its_options_and_a_run_folder_with_its_best(saved, tmp_path):
    folder, x, expected = saved
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best").symlink_to(folder)
    for place in (folder, str(folder), tmp_path / "run"):
        model = zoo.build("gated_vqa", weights=place)
        np.testing.assert_array_equal(outputs(model, x), expected)
        assert model.class_names == ANSWERS
    np.testing.assert_array_equal(outputs(zoo.load(folder), x), expected)
    assert zoo.build("gated_vqa", weights=folder, dropout=0.3).options["dropout"] == 0.3


def test_a_folder_needs_no_slash(saved, tmp_path, monkeypatch):
    copy_of(saved[0], tmp_path)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(outputs(zoo.build("gated_vqa", weights="copy"), saved[1]), saved[2])


def test_the_same_size_changes_nothing(saved):
    np.testing.assert_array_equal(outputs(zoo.build("gated_vqa", weights=saved[0], size="tiny"), saved[1]), saved[2])


def test_a_folder_named_like_a_released_tag_is_the_folder(saved, tmp_path, monkeypatch):
    copy_of(saved[0], tmp_path).rename(tmp_path / "emoji")
    monkeypatch.chdir(tmp_path)
    assert zoo.load("emoji").spec["name"] == "gated_vqa"


def test_the_wrong_name_for_a_folder_is_refused(saved):
    with pytest.raises(BadWeights, match="holds a gated_vqa"):
        zoo.build("cross_attn_vqa", weights=saved[0])


def test_saving_replaces_a_folder_whole_and_keeps_its_other_files(saved, tmp_path):
    folder = copy_of(saved[0], tmp_path)
    (folder / "notes.txt").write_text("mine")
    other = toy("gated_vqa")
    zoo.save(other, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    np.testing.assert_array_equal(outputs(zoo.build("gated_vqa", weights=folder), saved[1]), outputs(other, saved[1]))
    assert [path.name for path in tmp_path.iterdir()] == ["copy"], "temporary files were left behind"


def test_saving_through_a_link_writes_where_it_points(saved, tmp_path):
    folder = copy_of(saved[0], tmp_path)
    (tmp_path / "link").symlink_to(folder)
    other = toy("gated_vqa")
    zoo.save(other, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    np.testing.assert_array_equal(outputs(zoo.load(folder), saved[1]), outputs(other, saved[1]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "link"]


def test_saving_over_something_else_or_failing_half_way_loses_nothing(saved, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"ends in \.keras"):
        zoo.save(toy("gated_vqa"), tmp_path / "mine.h5")
    with pytest.raises(ValueError, match="not a weights folder"):
        zoo.save(toy("gated_vqa"), tmp_path / "photos")
    folder = copy_of(saved[0], tmp_path)
    model = zoo.build("gated_vqa", weights=folder)

    def full(*_args, **_kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(keras.Model, "save_weights", full)
    with pytest.raises(OSError, match="no space"):
        zoo.save(model, folder)
    monkeypatch.undo()
    np.testing.assert_array_equal(outputs(zoo.build("gated_vqa", weights=folder), saved[1]), saved[2])


def test_precision_is_saved_and_can_be_changed(tmp_path):
    model = toy("cross_attn_captioner", dtype="mixed_bfloat16")
    zoo.save(model, tmp_path / "half")
    again = zoo.build("cross_attn_captioner", weights=tmp_path / "half")
    assert again.get_layer("vision").compute_dtype == "bfloat16"
    assert again.get_layer("vision").variable_dtype == "float32"
    assert (
        zoo.build("cross_attn_captioner", weights=tmp_path / "half", dtype="float32").get_layer("vision").compute_dtype
        == "float32"
    )
    for before, after in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(np.array(before), np.array(after))


def test_a_keras_file_loads_in_a_fresh_process_compiled_and_with_its_class(tmp_path):
    model = toy("merged_attn_captioner")
    x = pictures(model, 2)
    model.save(tmp_path / "mine.keras")
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys, numpy as np, keras\nfrom vtx_keras import zoo\n"
        "model = keras.saving.load_model(sys.argv[1] + '/mine.keras')\n"
        "print(model.generate(np.load(sys.argv[1] + '/x.npy')), type(model).__name__, model.compiled)"
    )
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"{model.generate(x)} Captioner True"


def small_backbone():
    """An image model of a user, from 0-255 pixels to a feature map."""
    pixels = keras.Input(SHAPE)
    x = keras.layers.Rescaling(1 / 255)(pixels)
    return keras.Model(pixels, keras.layers.Conv2D(12, 8, strides=8)(x))


def test_a_users_own_encoder_is_saved_and_loaded(tmp_path):
    mine = small_backbone()
    model = toy("cross_attn_captioner", image_encoder=mine)
    np.testing.assert_array_equal(np.array(mine.weights[0]), np.array(model.get_layer("image_encoder").weights[0]))
    x = inputs(model)
    folder = zoo.build("cross_attn_captioner", weights=zoo.save(model, tmp_path / "a"))
    for again in (
        zoo.load(zoo.save(model, tmp_path / "a.keras")),
        folder,
        zoo.build("cross_attn_captioner", weights=zoo.save(folder, tmp_path / "b"), dropout=0.1),
    ):
        np.testing.assert_array_equal(outputs(again, x), outputs(model, x))
    assert len(toy("gated_video_captioner", image_encoder=small_backbone()).generate(np.zeros((1, 2, *SHAPE)))) == 1


def test_a_model_whose_encoder_was_cut_off_can_still_be_saved_in_one_file(tmp_path):
    model = toy("gated_vqa")
    model.behind_encoder()
    _restore._without_optimizer(model, without_encoder=True)
    again = zoo.load(zoo.save(model, tmp_path / "whole.keras"))
    x = inputs(model)
    np.testing.assert_allclose(outputs(again, x), outputs(model, x), atol=1e-6)


def test_the_released_captioner_writes_the_captions_of_its_card():
    folder = released_root() / "cross_attn_captioner" / "emoji"
    examples = json.loads((folder / "results.json").read_text())["examples"]
    model = zoo.build("cross_attn_captioner", weights="emoji")
    assert model.generate([folder / example["picture"] for example in examples]) == [
        example["said"] for example in examples
    ]
