"""Building by name, saving, loading, and being told what was wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from toys import ANSWERS, SHAPE, WORDS, batches, inputs, outputs, pictures, texts, toy

from vtx_keras import data, zoo
from vtx_keras.checkpoints._folder import CONFIG, VOCABULARY, WEIGHTS, BadWeights
from vtx_keras.inputs import media


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zoo.build("cross_atn_captioner"), "did you mean cross_attn_captioner"),
        (lambda: zoo.build("co_attn_captioner"), "its own future"),
        (lambda: zoo.build("co_attn_classifier"), "weights=None"),
        (lambda: zoo.build("gated_vqa", weights="nowhere"), "neither a folder here nor a released tag"),
        (lambda: zoo.build("gated_vqa", weights="encoders"), "no published weights"),
        (lambda: toy("gated_vqa", dept=2), "did you mean depth"),
        (lambda: toy("gated_vqa", temporal="lstm"), "positions or gru"),
        (lambda: toy("gated_vqa", resize="stretched"), "did you mean stretch"),
        (lambda: toy("gated_vqa", dim=0), "whole number"),
        (lambda: toy("gated_vqa", dim=True), "whole number"),
        (lambda: toy("gated_vqa", dim=30, heads=4), "does not divide"),
        (lambda: toy("gated_vqa", image_shape=(30, 30, 3)), "multiples of 16"),
        (lambda: toy("gated_vqa", image_shape=(32, 32)), r"\(h, w, 3\)"),
        (lambda: toy("gated_video_vqa", image_shape=SHAPE), "frames"),
        (lambda: toy("gated_vqa", classes=["a", "a"]), "distinct"),
        (lambda: toy("gated_vqa", classes=1), "at least 2"),
        (lambda: toy("gated_captioner", classes=3), "belongs to vqa, classifier"),
        (lambda: toy("gated_vqa", dropout=1.0), "from 0"),
        (lambda: toy("gated_vqa", dtype="float17"), "dtype policy"),
        (lambda: toy("gated_vqa", image_encoder="resnet51"), "keras-hub could not open"),
        (lambda: toy("gated_vqa", vocabulary=[]), "empty"),
        (lambda: zoo.load("missing.keras"), "does not exist"),
    ],
)
def test_a_wrong_build_says_what_to_do(call, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call()


def test_describe_and_list_agree_with_build():
    about = zoo.describe("gated_vqa")
    assert (about["task"], about["fusion"], about["video"]) == ("vqa", "gated", False)
    assert set(about["options"]) == set(zoo.build("gated_vqa", weights=None, dim=32, depth=1).options)
    assert zoo.list_models("cross_attn_*") == [name for name in zoo.MODELS if name.startswith("cross_attn_")]
    assert set(zoo.list_models(released=True)) | set(zoo.list_models(released=False)) == set(zoo.MODELS)
    assert "cross_attn_captioner" in zoo.list_models(released=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model, its folder, and what it says."""
    model = toy("gated_vqa")
    model.fit(batches(model), verbose=0)
    folder = tmp_path_factory.mktemp("saved") / "mine"
    zoo.save(model, folder)
    x = inputs(model)
    return folder, x, outputs(model, x)


def copy_of(folder, tmp_path):
    target = tmp_path / "copy"
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def flip(path):
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


@pytest.mark.parametrize("asked", ["auto", False])
def test_a_keras_file_leaves_it_to_the_next_machine_whether_to_compile(asked, tmp_path):
    model = toy("gated_vqa")
    model.compile(loss=model.loss, jit_compile=asked)
    loaded = zoo.load(zoo.save(model, tmp_path / "whole.keras"))
    assert loaded.get_compile_config()["jit_compile"] == asked
    assert loaded.jit_compile is model.jit_compile


def test_a_keras_file_of_another_kind_is_refused(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "plain.keras")
    with pytest.raises(BadWeights, match="holds a Sequential: expected a model of the zoo"):
        zoo.load(tmp_path / "plain.keras")


def test_a_folder_brings_its_options_and_a_run_folder_its_best(saved, tmp_path):
    folder, x, expected = saved
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best").symlink_to(folder)
    for weights in (folder, str(folder), tmp_path / "run"):
        model = zoo.build("gated_vqa", weights=weights)
        np.testing.assert_array_equal(outputs(model, x), expected)
        assert model.class_names == ANSWERS
    np.testing.assert_array_equal(outputs(zoo.load(folder), x), expected)
    assert zoo.build("gated_vqa", weights=folder, dropout=0.3).options["dropout"] == 0.3


def test_a_name_is_a_folder_without_a_slash(saved, tmp_path, monkeypatch):
    copy_of(saved[0], tmp_path)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(outputs(zoo.build("gated_vqa", weights="copy"), saved[1]), saved[2])


def test_other_classes_keep_the_trunk_and_say_so(saved):
    folder, x, _ = saved
    with pytest.warns(UserWarning, match="head is new"):
        model = zoo.build("gated_vqa", weights=folder, classes=7)
    old = zoo.build("gated_vqa", weights=folder)
    assert outputs(model, x).shape == (4, 7)
    for before, after in zip(old.get_layer("fusion_0").weights, model.get_layer("fusion_0").weights, strict=True):
        if "seed" not in before.path:
            np.testing.assert_array_equal(np.array(before), np.array(after))


def test_a_misfit_names_layer_expected_and_found(saved):
    with pytest.raises(BadWeights, match=r"image_encoder/vit/positions/axis_0: expected \(2, 64\), found \(2, 32\)"):
        zoo.build("gated_vqa", weights=saved[0], dim=64)
    with pytest.raises(BadWeights, match=r"fusion_1/.*found nothing"):
        zoo.build("gated_vqa", weights=saved[0], depth=2)


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


def test_precision_is_kept_and_travels(tmp_path):
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


def test_a_keras_file_loads_in_a_fresh_process_with_its_class_words_and_loss(tmp_path):
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
    """Somebody's own image model, from 0-255 pixels to a feature map."""
    pixels = keras.Input(SHAPE)
    x = keras.layers.Rescaling(1 / 255)(pixels)
    return keras.Model(pixels, keras.layers.Conv2D(12, 8, strides=8)(x))


def test_a_model_of_ones_own_is_an_encoder_and_travels(tmp_path):
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


def test_weights_whose_reader_has_words_of_its_own_refuse_another_vocabulary(tmp_path):
    tokens = keras.Input((None,), dtype="int32")
    reader = keras.Model(tokens, keras.layers.Embedding(64, 32)(tokens))
    folder = zoo.save(toy("cross_attn_vqa", text_encoder=reader), tmp_path / "a")
    with pytest.raises(BadWeights, match="cannot be matched to another vocabulary"):
        zoo.build("cross_attn_vqa", weights=folder, vocabulary=WORDS[::-1])


def test_a_backbone_of_keras_applications_is_an_encoder_with_its_own_scaling():
    model = toy("gated_vqa", image_encoder="MobileNetV2")
    x = pictures(model, 2)
    network = model.get_layer("image_encoder").get_layer("MobileNetV2").layers[-1]
    expected = network(keras.applications.mobilenet_v2.preprocess_input(x.copy()))
    np.testing.assert_allclose(np.array(model.get_layer("image_encoder")(x)), np.array(expected), atol=1e-5)
    assert np.isfinite(outputs(model, inputs(model))).all()


def test_keras_hub_backbones_are_encoders(tmp_path):
    import keras_hub

    words = keras_hub.models.BertBackbone(
        vocabulary_size=64, num_layers=1, num_heads=2, hidden_dim=24, intermediate_dim=32, max_sequence_length=16
    )
    model = toy("cross_attn_vqa", text_encoder=words)
    x = inputs(model)
    longer = {**x, "tokens": np.pad(x["tokens"], ((0, 0), (0, 4)))}
    np.testing.assert_allclose(outputs(model, longer), outputs(model, x), atol=1e-5)
    again = zoo.load(zoo.save(model, tmp_path / "hub.keras"))
    np.testing.assert_array_equal(outputs(again, x), outputs(model, x))

    eye = keras_hub.models.ViTBackbone(
        image_shape=SHAPE, patch_size=16, num_layers=1, num_heads=2, hidden_dim=24, mlp_dim=32
    )
    eye.save_to_preset(str(tmp_path / "eye"))
    keras_hub.layers.ViTImageConverter(image_size=(32, 32), scale=1 / 255).save_to_preset(str(tmp_path / "eye"))
    model = toy("gated_captioner", image_encoder=str(tmp_path / "eye"), weights="encoders")
    assert model.get_layer("vision").input.shape == (None, 5, 24)
    x = pictures(model, 2)
    np.testing.assert_allclose(
        np.array(model.get_layer("image_encoder")(x)), np.array(eye(x / 255)), atol=1e-5, err_msg="scaling or weights"
    )
    zoo.save(model, tmp_path / "whole")
    shutil.rmtree(tmp_path / "eye")
    x = inputs(model)
    np.testing.assert_array_equal(outputs(zoo.load(tmp_path / "whole"), x), outputs(model, x))
    with pytest.raises(ValueError, match="vocabulary_size of 64"):
        toy("gated_vqa", text_encoder=words, vocabulary=[f"w{i}" for i in range(90)])


BAD_INPUTS = [
    (lambda m: m.generate([]), "at least one picture"),
    (lambda m: m.generate(np.zeros((0, 32, 32, 3))), "at least one picture"),
    (lambda m: m.generate(np.full((32, 32, 3), np.nan)), "item 0.*nan.*expected finite"),
    (lambda m: m.generate(np.full((32, 32, 3), 300.0)), "255"),
    (lambda m: m.generate(np.full((32, 32, 3), -1.0)), "255"),
    (lambda m: m.generate(np.zeros((32, 32, 5))), "5"),
    (lambda m: m.generate("missing.png"), "missing.png"),
    (lambda m: m.generate(__file__), "test_zoo.py.*expected JPEG"),
    (lambda m: m.generate(pictures(m), beams=0), "beams"),
    (lambda m: m.generate(pictures(m), sampler="best"), "sampler"),
    (lambda m: m.generate(pictures(m), temperature=0.5), "no effect"),
    (lambda m: m.generate(pictures(m), sampler="top_p", beams=2), "beams"),
    (lambda m: m.generate(pictures(m), sampler="top_p", top_p=1.5), "top_p"),
    (lambda m: m.generate(pictures(m), max_length=99), "max_length"),
    (lambda m: m.generate(pictures(m), prompt=["a", "b"]), "2 prompts for 4"),
    (lambda m: m.generate(pictures(m), on_error="ignore"), "on_error"),
]


@pytest.fixture(scope="module")
def captioner():
    return toy("cross_attn_captioner")


@pytest.mark.parametrize(("call", "message"), BAD_INPUTS)
def test_bad_input_to_generate_is_named(captioner, call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(captioner)


def test_grey_and_alpha_are_converted_and_it_is_said(captioner):
    with pytest.warns(UserWarning, match="grey"):
        assert len(captioner.generate(np.zeros((32, 32, 1), "uint8"))) == 1
    with pytest.warns(UserWarning, match="alpha"):
        assert len(captioner.generate(np.zeros((2, 32, 32, 4), "uint8"))) == 2


def test_one_bad_picture_does_not_lose_the_others(captioner):
    good = pictures(captioner, 1)[0]
    alone = captioner.generate(good)[0]
    with pytest.raises(media.BadItems, match=r"item 1.*missing\.png") as caught:
        captioner.generate([good, "missing.png", good])
    assert caught.value.results == [alone, None, alone]
    assert captioner.generate([good, "missing.png", good], on_error="none") == [alone, None, alone]


def test_pictures_come_as_paths_bytes_pil_and_arrays_alike(captioner, tmp_path):
    from PIL import Image

    array = pictures(captioner, 1)[0].round().astype("uint8")
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    said = {
        caption
        for item in (
            path,
            str(path),
            path.read_bytes(),
            Image.open(path),
            array,
            array.astype("float32"),
            array[None],
            tmp_path.glob("*.png"),
        )
        for caption in captioner.generate(item)
    }
    assert len(said) == 1


def test_a_clip_is_a_path_a_list_or_an_array(tmp_path):
    from PIL import Image

    model = toy("cross_attn_video_captioner")
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    array = np.stack([np.asarray(frame) for frame in frames])
    assert model.generate(tmp_path / "clip.gif") == model.generate(array) == model.generate([frames])


def test_questions_and_pictures_pair_up_or_say_why_not():
    model = toy("gated_vqa")
    x = pictures(model, 3)
    assert len(model.answer(x, texts(3))) == 3
    assert model.answer(x[0], texts(2)) == [model.answer(x[0], texts(2)[i])[0] for i in range(2)]
    assert len(model.answer(x, "w1 w2")) == 3
    with pytest.raises(ValueError, match="3 pictures and 2 texts"):
        model.answer(x, texts(2))
    with pytest.raises(ValueError, match="empty"):
        model.answer(x, ["w1", " ", "w2"])
    with pytest.raises(TypeError, match="NoneType"):
        model.answer(x, ["w1", None, "w2"])
    with pytest.warns(UserWarning, match="cut|long"):
        model.answer(x, "w1 " * 100)
    for odd in ("🙂 w1", b"w1 \xff\xfe", "w1\u2028w2"):
        assert model.answer(x[0], [odd])[0] in ANSWERS
    numbered = toy("gated_vqa", classes=3)
    assert numbered.answer(x, "w1")[0] in ("0", "1", "2")


def test_data_arrays_names_what_does_not_fit():
    model = toy("gated_vqa")
    x = pictures(model, 2)
    with pytest.raises(ValueError, match="did you mean yes"):
        data.arrays(model, x, texts(2), ["no", "yess"])
    with pytest.raises(ValueError, match="label 1 is 3"):
        data.arrays(model, x, texts(2), [0, 3])
    with pytest.raises(ValueError, match="1 texts"):
        data.arrays(model, x, texts(1), [0, 1])
    with pytest.raises(ValueError, match="pass labels="):
        data.arrays(model, x, texts(2))
    with pytest.raises(ValueError, match=r"1 .* or 0"):
        data.arrays(toy("gated_matcher"), x, texts(2), [1, 2])


def test_a_matcher_makes_its_negatives_from_its_neighbours():
    model = toy("gated_matcher")
    x, y, _ = data.arrays(model, pictures(model, 3), ["w1 w2", "w3", "w3"], batch_size=3)[0]
    assert y[:, 0].tolist() == [1, 1, 1, 0, 0, 1]  # the last rolled text is its picture's own
    assert 0 <= model.match(x["image"][:1], ["w1"])[0] <= 1


def test_no_warning_is_given_for_what_is_right(captioner):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        captioner.generate(pictures(captioner, 2), prompt="w1")


def test_the_released_captioner_names_its_example():
    from vtx_keras.checkpoints._folder import released_root

    folder = released_root() / "cross_attn_captioner" / "emoji"
    examples = json.loads((folder / "results.json").read_text())["examples"]
    model = zoo.build("cross_attn_captioner")
    assert model.generate([folder / example["picture"] for example in examples]) == [
        example["said"] for example in examples
    ]
    assert os.path.getsize(folder / WEIGHTS) < 20e6
