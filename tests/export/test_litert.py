"""LiteRT: every task and fusion in one file of builtins, run by its interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from exporting import as_bytes, assert_near, convolving, few, made
from paths import PROGRAMS
from toys import ANSWERS, decisive, pictures, toy

from vtx_keras import _compat, data, export, zoo
from vtx_keras.export import _graphs as graphs
from vtx_keras.export import _litert as tflite
from vtx_keras.export import _verify as verify
from vtx_keras.inputs import text

interpreters = pytest.importorskip("ai_edge_litert.interpreter")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")
RUN = PROGRAMS / "mobile/run.py"
QUICK = {"retriever", "merged_attn_video_captioner"}  # those below try the other tasks
NAMES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in zoo.list_models()]
NAMES = [one for one in NAMES if not one.values[0].endswith("generator")]  # test_generator_files.py has them


@pytest.fixture(scope="module")
def captioner():
    return decisive("cross_attn_captioner")


@pytest.fixture(scope="module")
def exported(captioner, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "model.tflite"
    return path, export.litert(captioner, path, verify_data=few(captioner))


@pytest.mark.parametrize("name", NAMES)
def test_every_model_gives_the_same_results_from_its_file(name, tmp_path):
    model = made(name)
    report = export.litert(model, tmp_path / "model.tflite", verify_data=few(model))
    assert report.ok
    assert report.identical == report.n == 6
    assert report.difference < 1e-4
    interpreter = interpreters.Interpreter(str(tmp_path / "model.tflite"))
    used = _compat.litert_operations(interpreter)
    assert not {one for one in used if one.startswith("Flex")} | (used & {"CUSTOM"})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gated_classifier", {"multi_label": True}),
        pytest.param("cross_attn_vqa", {"mlm": True}, marks=pytest.mark.slow),
        pytest.param("gated_vqa", {"text_encoder": "lstm"}, marks=pytest.mark.slow),
        pytest.param("cross_attn_video_captioner", {"temporal": "gru"}, marks=pytest.mark.slow),
    ],
)
def test_options_that_change_the_graph(name, options, tmp_path):
    model = toy(name, **options)
    assert export.litert(model, tmp_path / "model.tflite", verify_data=few(model)).identical == 6


def test_the_contract_of_the_file(captioner, exported):
    path, report = exported
    interpreter = interpreters.Interpreter(str(path))
    run = interpreter.get_signature_runner("serving_default")
    assert list(run.get_input_details()) == ["image"]
    assert run.get_input_details()["image"]["dtype"] == np.uint8
    image = pictures(captioner, 1).astype("uint8")
    outputs = run(image=image)
    assert outputs["ids"].dtype == np.int32
    expected = np.array(captioner.generate_ids(image)[0])
    np.testing.assert_array_equal(outputs["ids"], expected)
    with zipfile.ZipFile(path) as inside:
        vocabulary = inside.read("vocabulary.txt").decode().rstrip("\n").split("\n")
        about = json.loads(inside.read("model.json"))
    assert tuple(vocabulary) == captioner.vocabulary
    assert about["image_shape"] == [32, 32, 3]
    assert about["join_rules"] == [list(rule) for rule in text.JOIN_RULES]
    assert report.path == str(path)
    stored = json.loads(Path(f"{path}.report.json").read_text())
    assert stored["identical"] == 6
    assert {"load_s", "ms_p50", "ms_p95", "peak_megabytes", "megabytes", "metric"} <= set(stored)
    assert 0 < report.peak_megabytes < 500
    assert [one for one in path.parent.iterdir() if one.name.startswith(".")] == []
    wrong = [np.repeat(image, 2, 0), image[:0], image[:, :16], image[0], image.astype("float32")]
    for one in wrong:
        with pytest.raises((RuntimeError, ValueError)):
            interpreters.Interpreter(str(path)).get_signature_runner("serving_default")(image=one)


@pytest.mark.parametrize(
    "settings",
    [
        {"beams": 3, "max_length": 4},
        pytest.param({"beams": 3}, marks=pytest.mark.slow),
        pytest.param({"form": "split", "max_length": 5}, marks=pytest.mark.slow),
    ],
)
def test_beams_lengths_and_forms(captioner, settings, tmp_path):
    report = export.litert(captioner, tmp_path / "model.tflite", verify_data=few(captioner), **settings)
    assert report.identical == 6
    assert report.difference < 1e-4


@pytest.mark.parametrize(
    "name",
    [
        "merged_attn_captioner",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("concat_mlp_captioner", "gated_captioner")),
    ],
)
def test_every_causal_fusion_decodes_word_by_word(name, tmp_path):
    model = decisive(name)
    assert export.litert(model, tmp_path / "m.tflite", form="split", verify_data=few(model)).identical == 6


@pytest.mark.slow
def test_a_contrastive_captioner_decodes_word_by_word(tmp_path):
    model = toy("cross_attn_captioner", contrastive=0.5)
    assert export.litert(model, tmp_path / "m.tflite", form="split", verify_data=few(model)).identical == 6


@pytest.mark.parametrize(
    ("quantize", "form"),
    [
        ("int8", "one"),
        pytest.param("float16", "one", marks=pytest.mark.slow),
        pytest.param("int8", "split", marks=pytest.mark.slow),
        pytest.param("int8_encoder", "one", marks=pytest.mark.slow),
        pytest.param("int8_encoder", "split", marks=pytest.mark.slow),
    ],
)
def test_quantized_files_stay_near(captioner, quantize, form, tmp_path):
    path = tmp_path / "small.tflite"
    small = export.litert(captioner, path, form=form, quantize=quantize, verify_data=few(captioner), share=0.5)
    assert small.identical >= 3
    assert small.megabytes < {"float16": 0.75}.get(quantize, 0.65) * small.weights_megabytes
    assert small.quantize == quantize


@pytest.mark.parametrize("name", ["gated_matcher", pytest.param("retriever", marks=pytest.mark.slow)])
def test_an_int8_encoder_serves_every_task(name, tmp_path):
    model = toy(name)
    report = export.litert(model, tmp_path / "m.tflite", quantize="int8_encoder", verify_data=few(model), share=0.5)
    assert 0 < report.difference < 0.5


def test_only_the_weights_of_convolutions_are_rounded():
    model, (depthwise, kernel) = convolving()
    file = tflite.convert_graphs({"image": graphs.image_encoder(model, 1)}, "int8")
    by_channel = np.transpose(kernel, (3, 0, 1, 2))
    assert as_bytes(by_channel).tobytes() in file
    assert depthwise.reshape(depthwise.shape[0], depthwise.shape[1], -1).astype("float16").tobytes() in file
    assert by_channel.tobytes() not in file
    image = pictures(model, 1).astype("uint8")
    (found,) = interpreters.Interpreter(model_content=file).get_signature_runner()(image=image).values()
    assert_near(found, model, image)


def test_a_file_too_large_for_litert_is_refused_before_the_work(captioner, tmp_path, monkeypatch):
    monkeypatch.setattr(tflite, "MAX_BYTES", 2 * captioner.count_params())
    with pytest.raises(ValueError, match=r"the file would have .* GB, and LiteRT reads"):
        export.litert(captioner, tmp_path / "model.tflite")
    tflite.check_size(captioner, "int8")


@pytest.mark.slow
def test_the_words_are_stored_once(tmp_path):
    model = toy("cross_attn_captioner", dim=64, vocabulary=[f"w{i}" for i in range(4000)])
    table = 4005 * 64
    whole = len(tflite.convert_model(model, "one", None, pictures(model)))
    small = len(tflite.convert_model(model, "one", "int8", pictures(model)))
    rest = model.count_params() - table
    assert whole < 4 * (table + rest) + 100_000
    assert small < table + rest + 150_000


def test_an_operation_without_a_builtin_is_named_with_its_layer(tmp_path):
    @keras.saving.register_keras_serializable("test_export_litert")
    class Odd(keras.layers.Layer):
        def call(self, x):
            return x * keras.ops.erfinv(keras.ops.clip(x / 256, -0.5, 0.5))

    image = keras.Input((32, 32, 3))
    encoder = keras.Model(image, keras.layers.AveragePooling2D(8)(Odd(name="odd")(image)), name="small")
    model = toy("gated_vqa", image_encoder=encoder)
    with pytest.raises(tflite.NoBuiltin, match=r"Erfinv \(in .*odd"):
        export.litert(model, tmp_path / "m.tflite", verify_data=few(model))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"quantize": "int4"}, "expected None, 'float16'"),
        ({"form": "both"}, "expected one of one, split"),
        ({"beams": 0}, "from 1 to 100"),
        ({"beams": 2, "form": "split"}, "word by word"),
        ({"max_length": 99}, "from 1 to 8"),
    ],
)
def test_contradictory_settings_are_refused_before_any_work(captioner, settings, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        export.litert(captioner, tmp_path / "m.tflite", verify_data=few(captioner), **settings)
    with pytest.raises(ValueError, match=r"ends in \.tflite"):
        export.litert(captioner, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_captions_refuses_settings_for_them(tmp_path):
    for settings in ({"form": "split"}, {"beams": 2}, {"max_length": 3}):
        with pytest.raises(ValueError, match="writes no captions"):
            export.litert(toy("gated_vqa"), tmp_path / "m.tflite", **settings)


def ran(*arguments):
    return subprocess.run([sys.executable, str(RUN), *map(str, arguments)], capture_output=True, text=True)


def test_the_program_captions_answers_and_streams(captioner, exported, tmp_path):
    photo = data.sample("photos/cat.jpg")
    said = captioner.generate(photo)[0]
    export.litert(captioner, tmp_path / "split.tflite", form="split", verify_data=few(captioner))
    for path in (exported[0], tmp_path / "split.tflite"):
        done = ran(path, photo)
        assert done.returncode == 0, done.stderr
        assert done.stdout.replace("\r", "\n").strip().split("\n")[-1].strip() == said
    asked = toy("gated_vqa")
    export.litert(asked, tmp_path / "vqa.tflite", verify_data=few(asked))
    done = ran(tmp_path / "vqa.tflite", photo, "W1 w2!")
    assert done.stdout.strip() == asked.answer(photo, "W1 w2!")[0]
    assert done.stdout.strip() in ANSWERS
    assert "needs a text" in ran(tmp_path / "vqa.tflite", photo).stderr
    done = ran(tmp_path / "vqa.tflite", photo, " ")
    assert (done.returncode, done.stdout, "no words" in done.stderr) == (1, "", True)


def test_the_program_reports_a_broken_image_or_file_in_a_line(exported, tmp_path):
    photo, whole = data.sample("photos/cat.jpg"), exported[0].read_bytes()
    (tmp_path / "bad.png").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    (tmp_path / "half.tflite").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "hole.tflite").write_bytes(whole[:5000] + bytes(20000) + whole[25000:])
    for model, picture in (
        (exported[0], tmp_path / "bad.png"),
        (exported[0], tmp_path / "none.png"),
        (tmp_path / "half.tflite", photo),
        (tmp_path / "hole.tflite", photo),
        (photo, photo),
    ):
        done = ran(model, picture)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = [line for line in done.stderr.splitlines() if not line.startswith("INFO")]
        assert line.startswith(f"{model} on ")
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_released_captioner_in_every_precision(tmp_path):
    model = zoo.build("cross_attn_captioner", weights="emoji")
    for quantize, most in ((None, 1.05), ("float16", 0.55), ("int8", 0.36)):
        report = export.litert(model, tmp_path / "m.tflite", quantize=quantize)
        assert report.n >= 60
        assert report.megabytes <= most * report.weights_megabytes
        assert report.identical >= report.n * verify.SHARE[quantize is None]
