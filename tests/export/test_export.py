"""Exports in any format: verified, named last, with a fixed prompt, and refused on other backends."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from toys import decisive, other_backend, pictures, toy

from vtx_keras import export
from vtx_keras.export import _verify as verify
from vtx_keras.inputs import text
from vtx_keras.inputs.media import prepare
from vtx_keras.models._methods import Captioner

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")


@pytest.fixture(scope="module")
def model():
    return decisive("cross_attn_captioner")


@pytest.fixture(scope="module")
def tried(model):
    return verify.load_examples(model, limit=6)


def report_of(model, tried, found, path="model.tflite", quantize=None, **kwargs):
    cost = {"load_s": np.array(0.1), "ms": np.array([1.0, 2.0]), "peak_megabytes": np.array(50.0)}
    about = {"format": "litert", "form": "one", "megabytes": 1.0}
    wanted = verify.expected(model, tried)
    return verify.compare(
        model, tried, wanted, {**found, **cost}, path=Path(path), quantize=quantize, **about, **kwargs
    )


def test_exports_are_verified_on_the_sample_by_default(tried):
    assert tried.images.shape == (6, 32, 32, 3)
    assert tried.images.dtype == np.uint8
    assert len({image.tobytes() for image in tried.images}) == 6
    assert all(isinstance(one, str) for many in tried.truth for one in many)


@pytest.mark.parametrize(
    "rows",
    [
        [{"image": np.full((9, 7, 3), 30, "uint8"), "caption": b"a cat"}],
        [{"image": np.full((9, 7, 3), 30, "uint8"), "captions": np.array([b"a cat", b"a grey cat"])}],
    ],
)
def test_examples_are_taken_as_data_gives_them(model, rows):
    found = verify.load_examples(model, rows)
    assert found.truth[0][0] == "a cat"
    np.testing.assert_array_equal(found.images[0], prepare(rows[0]["image"], (32, 32, 3)))


def test_examples_that_cannot_be_used_are_refused_with_a_reason(model):
    with pytest.raises(ValueError, match="verify_data is empty"):
        verify.load_examples(model, [])
    with pytest.raises(ValueError, match='expected "image"'):
        verify.load_examples(model, [{"photo": 1}])
    with pytest.raises(ValueError, match="picture 0 cannot be read"):
        verify.load_examples(model, [{"image": b"no picture"}])


def test_float_files_must_agree_and_quantized_ones_nearly(model, tried):
    wanted = verify.expected(model, tried)
    assert report_of(model, tried, wanted).ok
    ids = wanted["ids"].copy()
    ids[0, 0] = 5 + (ids[0, 0] + 1) % 50  # another word
    changed = {**wanted, "ids": ids}
    assert not report_of(model, tried, changed).ok
    assert report_of(model, tried, changed).identical == 5
    assert not report_of(model, tried, changed, quantize="int8").ok
    small = report_of(model, tried, changed, quantize="int8", share=0.8)
    assert small.ok
    assert "80% identical" in str(small), "the limit is not told"
    assert not report_of(model, tried, {**wanted, "score": wanted["score"] * np.nan}).ok


def test_a_quantized_file_may_differ_if_its_metric_does_not():
    answerer = toy("gated_vqa")
    logits = np.array([[3.0, 0, 0], [0, 3, 0], [0, 0, 3], [1, 0, 0]], "float32")
    other = np.array([[3.0, 0, 0], [0, 3, 0], [0, 0, 3], [0, 1, 0]], "float32")
    tried = verify.load_examples(answerer, limit=4)._replace(truth=["no", "yes", "maybe", "maybe"])
    cost = {"load_s": np.array(0.1), "ms": np.ones(4), "peak_megabytes": np.array(1.0)}
    about = {"path": Path("x"), "format": "litert", "form": "one", "megabytes": 1.0}
    small = verify.compare(answerer, tried, {"logits": logits}, {"logits": other, **cost}, quantize="int8", **about)
    assert (small.identical, small.metric_model, small.metric_artifact, small.ok) == (3, 0.75, 0.75, True)
    assert not verify.compare(answerer, tried, {"logits": logits}, {"logits": other, **cost}, **about).ok


def test_a_file_is_named_last_and_a_failed_one_is_kept_with_its_report(model, tried, tmp_path):
    good = report_of(model, tried, verify.expected(model, tried), path=tmp_path / "a.tflite")
    path = tmp_path / "deep" / "a.tflite"

    def write(target):
        assert not path.exists()
        target.write_bytes(b"first")
        (target.parent / "words.txt").write_text("w")

    assert verify.write_verified(path, write, lambda target: good) is good
    assert path.read_bytes() == b"first"
    assert json.loads((tmp_path / "deep/a.tflite.report.json").read_text())["identical"] == 6
    with pytest.raises(verify.NotEqual, match="share=") as caught:
        verify.write_verified(
            path, lambda target: target.write_bytes(b"second"), lambda target: replace(good, ok=False)
        )
    assert path.read_bytes() == b"first", "the good file was lost"
    assert (tmp_path / "deep/a.tflite.failed").read_bytes() == b"second"
    assert "NOT EQUAL" in str(caught.value)
    with pytest.raises(ZeroDivisionError):
        verify.write_verified(path, lambda target: 1 / 0, lambda target: good)
    assert sorted(one.name for one in path.parent.iterdir()) == [
        "a.tflite", "a.tflite.failed", "a.tflite.failed.report.json", "a.tflite.report.json", "words.txt",
    ]  # fmt: skip


def test_a_folder_is_replaced_only_where_it_was_an_export(model, tried, tmp_path):
    good = report_of(model, tried, verify.expected(model, tried))

    def write(target):
        target.mkdir()
        (target / "saved_model.pb").write_bytes(b"x")

    for _ in range(2):
        verify.write_verified(tmp_path / "serving", write, lambda target: good)
    assert (tmp_path / "serving/saved_model.pb").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match="holds other things"):
        verify.write_verified(tmp_path / "mine", write, lambda target: good)
    assert (tmp_path / "mine/thesis.txt").is_file()


def test_importing_export_and_its_command_loads_no_framework():
    script = "import sys, vtx_keras.cli._export; print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_another_backend_is_refused_with_advice(tmp_path):
    script = (
        "from vtx_keras import export, zoo\n"
        "model = zoo.build('gated_vqa', weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))\n"
        f"export.litert(model, {str(tmp_path / 'x.tflite')!r})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=other_backend())
    assert "KERAS_BACKEND=tensorflow" in done.stderr
    assert "zoo.save" in done.stderr


def test_keras_own_export_keeps_working(model, tmp_path):
    import tensorflow as tf

    assert isinstance(model, Captioner)
    model.export(tmp_path / "logits", verbose=False)
    x = {"image": pictures(model, 2), "tokens": np.array([[2, 6], [2, 7]], "int32")}
    loaded = tf.saved_model.load(str(tmp_path / "logits"))
    np.testing.assert_allclose(np.array(loaded.serve(x)), np.array(model(x)), atol=1e-5)


@pytest.mark.parametrize("format", ["litert", "onnx", "saved_model"])
def test_a_prompt_is_fixed_in_the_file(model, tried, format, tmp_path):
    rows = [{"image": image, "caption": "a cat"} for image in tried.images]
    prompt = model.vocabulary[-1]
    name = {"litert": "model.tflite", "onnx": "model.onnx", "saved_model": "1"}[format]
    report = getattr(export, format)(model, tmp_path / name, prompt=prompt, verify_data=rows)
    assert report.identical == report.n == 6
    assert report.settings["prompt"] == prompt
    wanted = model.generate(list(tried.images), prompt=prompt)
    assert all(caption.startswith(prompt) for caption in wanted)
    if format == "litert":
        assert json.loads(zipfile.ZipFile(tmp_path / name).read("model.json"))["prompt"] == prompt
        found = verify.run("litert", tmp_path / name, {"image": tried.images})
        assert text.decode(found["ids"], model.vocabulary) == wanted


def test_there_is_one_prompt_for_all_images_or_one_for_each(model):
    images = pictures(model, 3)
    one = model.prompts(model.vocabulary[-1], 1, 8)
    expected = np.array(model.generate_ids(images, np.repeat(one, 3, axis=0))[0])
    np.testing.assert_array_equal(np.array(model.generate_ids(images, one)[0]), expected)
    with pytest.raises(ValueError, match="2 rows of prompt_ids for 3 pictures"):
        model.generate_ids(images, np.repeat(one, 2, axis=0))


def test_a_prompt_that_cannot_be_fixed_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="does not know"):
        export.litert(model, tmp_path / "model.tflite", prompt="\u2603")
    with pytest.raises(ValueError, match="first tokens"):
        export.onnx(model, tmp_path / "model.onnx", form="split", prompt=model.vocabulary[-1])
    with pytest.raises(ValueError, match="prompt= are for captioners"):
        export.saved_model(toy("gated_vqa"), tmp_path / "1", prompt="a")
