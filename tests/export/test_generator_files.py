"""Generators as files: the pictures that the model draws, from ids and noise or from strings and seeds."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
import urllib.request
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from paths import PROGRAMS
from PIL import Image

from vtx_keras import _compat, export, zoo
from vtx_keras.export import _drawings as drawings
from vtx_keras.export import _graphs as graphs
from vtx_keras.export import _verify as verify
from vtx_keras.models._drawing import noise_of

interpreters = pytest.importorskip("ai_edge_litert.interpreter")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")
WORDS = ["a", "red", "blue", "circle", "square"]
ROWS = [
    {"caption": "a red circle"},
    {"captions": ["blue square", "?"]},
    {"caption": "a green circle"},
    {"caption": "a"},
]
NAMES = [name for name in zoo.list_models() if name.endswith("generator")]


def made(name="cross_attn_generator", **options):
    keras.utils.set_random_seed(1)
    shape = (2, 16, 32, 3) if "video" in name else (16, 16, 3)
    options = {"vocabulary": WORDS, "max_length": 5, "image_shape": shape, **options}
    return zoo.build(name, weights=None, width=2, dim=16, noise=8, text_depth=1, **options)


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.fixture(scope="module")
def phone(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("phone") / "model.tflite"
    return path, export.litert(model, path, verify_data=ROWS)


@pytest.fixture(scope="module")
def web(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("web") / "model.onnx"
    return path, export.onnx(model, path, verify_data=ROWS)


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "1"
    return path, export.saved_model(model, path, verify_data=ROWS)


def given(model, texts, seed=5):
    return {"tokens": model.checked_tokens(texts), "noise": noise_of(texts, 8, seed)}


def opened(file):
    return np.asarray(Image.open(io.BytesIO(file)))


def test_a_tflite_draws_what_the_model_draws(model, phone):
    path, report = phone
    assert (report.ok, report.identical, report.n, report.difference_of) == (True, 3, 3, "image"), "unknown words"
    assert report.difference <= 1
    interpreter = interpreters.Interpreter(str(path))
    used = _compat.litert_operations(interpreter)
    assert not {one for one in used if one.startswith("Flex")} | (used & {"CUSTOM"})
    run = interpreter.get_signature_runner("serving_default")
    takes = {name: (one["dtype"], one["shape"].tolist()) for name, one in run.get_input_details().items()}
    assert takes == {"tokens": (np.int32, [1, 5]), "noise": (np.float32, [1, 8])}
    image = run(**given(model, ["a blue circle"]))["image"]
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - model.draw("a blue circle", seed=5)).max() <= 1


def test_it_holds_the_painter_alone_and_what_a_program_must_know(model, phone):
    path, report = phone
    judge = np.array(model.get_layer("discriminator").joined.kernel).transpose(3, 0, 1, 2)  # as LiteRT stores kernels
    kernel = np.array(model.get_layer("map_8_conv_1").kernel).transpose(3, 0, 1, 2)
    content = path.read_bytes()
    assert kernel.tobytes() in content
    assert judge.tobytes() not in content
    assert report.weights_megabytes == pytest.approx(4e-6 * model.painter().count_params())
    with zipfile.ZipFile(path) as inside:
        assert sorted(inside.namelist()) == ["model.json", "tokenizer.json", "vocabulary.txt"]
        about = json.loads(inside.read("model.json"))
    known = {"task": "generator", "noise": 8, "image_shape": [16, 16, 3], "max_length": 5}
    assert {name: about[name] for name in known} == known
    assert "noise" not in graphs.describe(zoo.build("retriever", weights=None, dim=16, image_shape=(32, 32, 3)), "one")


def test_an_int8_file_is_near_and_says_how_near(model, tmp_path):
    report = export.litert(model, tmp_path / "model.tflite", quantize="int8")
    assert report.ok
    assert (report.n, report.quantize) == (drawings.OWN, "int8") or report.n < drawings.OWN  # texts may repeat
    assert 0 < report.difference < 100
    assert any("levels is enough" in note for note in report.notes)


def test_an_onnx_takes_any_batch_and_shorter_texts(model, web):
    path, report = web
    assert (report.ok, report.identical, report.n, report.difference_of) == (True, 3, 3, "image")
    opened = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    kinds = {one.name: (one.type, one.shape) for one in (*opened.get_inputs(), *opened.get_outputs())}
    assert kinds == {
        "tokens": ("tensor(int32)", ["batch", "length"]),
        "noise": ("tensor(float)", ["batch", 8]),
        "image": ("tensor(uint8)", ["batch", 16, 16, 3]),
    }
    texts = ["a red square", "blue circle", "blue circle"]
    inputs = given(model, texts)
    for length in (4, 5):
        (image,) = opened.run(None, {**inputs, "tokens": inputs["tokens"][:, :length]})
        assert np.abs(image.astype(int) - model.draw(texts, seed=5)).max() <= 1
    assert {one.name for one in path.parent.iterdir()} >= {"model.json", "vocabulary.txt", "tokenizer.json"}


def test_a_server_draws_from_strings_and_seeds(model, served):
    path, report = served
    assert (report.ok, report.identical, report.n, report.difference_of) == (True, 3, 3, "image")
    signatures = tf.saved_model.load(str(path)).signatures
    texts = ["A red  circle", "", "a green circle", "a a a a a", "a red circle", "a red circle"]
    seeds = tf.constant([2**40, 1, 1, 1, -3, 2**40], tf.int64)
    outputs = signatures["serving_default"](text=tf.constant(texts), seed=seeds)
    assert outputs["ok"].numpy().tolist() == [True, False, False, False, True, True]
    files = outputs["png_bytes"].numpy()
    assert files[1:4].tolist() == [b"", b"", b""]
    assert files[0] == files[5] != files[4]
    noise = drawings.noise_of_seeds(seeds, 8)
    wanted = model.painted({"tokens": model.checked_tokens(["a red circle"] * 6), "noise": np.array(noise)}, 6, None)
    for i in (0, 4, 5):
        assert np.abs(opened(files[i]).astype(int) - wanted[i]).max() <= 1
    alone = signatures["serving_default"](text=tf.constant(texts[4:5]), seed=seeds[4:5])["png_bytes"].numpy()
    assert np.abs(opened(alone[0]).astype(int) - opened(files[4])).max() <= 1
    image = signatures["pixels"](**given(model, ["a red circle"]))["image"].numpy()
    assert np.abs(image.astype(int) - model.draw("a red circle", seed=5)).max() <= 1
    assert signatures["serving_default"](text=tf.zeros([0], tf.string), seed=seeds[:0])["png_bytes"].shape == (0,)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a seed for each text"):
        signatures["serving_default"](text=tf.constant(texts), seed=seeds[:2])


def test_by_rest_a_file_comes_as_base64(served, tmp_path):
    sys.path.insert(0, str(PROGRAMS / "serving"))
    try:
        import stand_in
    finally:
        sys.path.remove(str(PROGRAMS / "serving"))
    (tmp_path / "1").symlink_to(served[0], target_is_directory=True)
    server = stand_in.serve(tmp_path, "drawings", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        body = json.dumps({"inputs": {"text": ["a red circle", "?"], "seed": [1, 2]}}).encode()
        address = f"http://localhost:{server.server_port}/v1/models/drawings:predict"
        with urllib.request.urlopen(address, body, timeout=60) as answer:
            first, second = json.load(answer)["outputs"]["png_bytes"]
    finally:
        server.shutdown()
        server.server_close()
    assert opened(base64.b64decode(first["b64"])).shape == (16, 16, 3)
    assert second == {"b64": ""}


def test_a_clip_is_one_picture_of_its_frames_and_a_file_gives_its_frames(tmp_path):
    model = made("cross_attn_video_generator")
    report = export.litert(model, tmp_path / "model.tflite", verify_data=ROWS)
    assert report.identical == report.n == 3
    outputs = drawings.signatures(model)["serving_default"](tf.constant(["a red circle"]), tf.constant([3], tf.int64))
    noise = np.array(drawings.noise_of_seeds([3], 8))
    clip = model.painted({"tokens": model.checked_tokens(["a red circle"]), "noise": noise}, 1, None)
    (file,) = outputs["png_bytes"].numpy()
    assert opened(file).shape == (16, 64, 3)
    assert np.abs(drawings.opened([file], model.image_shape).astype(int) - clip).max() <= 1


@pytest.mark.parametrize("program", ["mobile", "onnx"])
def test_a_program_draws_without_the_package(model, phone, web, program, tmp_path):
    path = {"mobile": phone, "onnx": web}[program][0]

    def ran(*words):
        command = [sys.executable, str(PROGRAMS / program / "run.py"), str(path), *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    assert ran("A blue circle", "5").stdout == "drawn.png\n"
    drawn = opened(Path(tmp_path / "drawn.png").read_bytes())
    assert np.abs(drawn.astype(int) - model.draw("a blue circle", seed=5)[0]).max() <= 1
    done = ran("a green circle")
    assert (done.returncode, done.stdout, "unknown words" in done.stderr) == (1, "", True)


def test_texts_that_a_graph_cannot_cut_are_taken_as_ids(model, monkeypatch):
    monkeypatch.setattr(drawings._strings, "reads_ids", lambda model: True)
    serve = drawings.signatures(model)["serving_default"]
    tokens = [[2, 5, 6, 0, 0, 0, 0], [2, 1, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0], [2, 5, 5, 5, 5, 5, 0]]
    outputs = serve(tf.constant(tokens, tf.int32), tf.constant([1, 1, 1, 1], tf.int64))
    assert outputs["ok"].numpy().tolist() == [True, False, False, False], "unknown, empty, too long"


@pytest.mark.slow
def test_texts_of_a_published_tokenizer_are_tried_as_ids(tmp_path):
    pytest.importorskip("tokenizers")
    from text_rules import published

    model = made(vocabulary=published("bytes")[1], max_length=6)
    assert export.saved_model(model, tmp_path / "1").ok
    assert (tmp_path / "1/assets.extra/tokenizer.json").is_file()


def test_what_cannot_be_exported_is_refused_before_any_work(model, tmp_path):
    for settings in ({"form": "split"}, {"beams": 2}, {"max_length": 3}, {"prompt": "a"}):
        with pytest.raises(ValueError, match="generator writes no captions"):
            export.litert(model, tmp_path / "model.tflite", **settings)
    with pytest.raises(ValueError, match="writes no captions"):
        export.saved_model(model, tmp_path / "1", beams=2)
    with pytest.raises(ValueError, match="no image encoder"):
        export.litert(model, tmp_path / "model.tflite", quantize="int8_encoder")
    with pytest.raises(ValueError, match="moves the outlines"):
        export.onnx(model, tmp_path / "model.onnx", quantize="int4")
    with pytest.raises(ValueError, match="no text that the model reads whole"):
        export.onnx(model, tmp_path / "model.onnx", verify_data=[{"caption": "a green circle"}])
    assert list(tmp_path.iterdir()) == []


def test_a_generator_of_mixed_precision_is_exported_in_float32(tmp_path):
    mixed = made("concat_mlp_generator", dtype="mixed_bfloat16")
    report = export.onnx(mixed, tmp_path / "model.onnx", verify_data=ROWS)
    assert (report.identical, report.n) == (3, 3)
    assert mixed.spec["dtype"] == "mixed_bfloat16"
    opened = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (image,) = opened.run(None, given(mixed, ["a red circle"]))
    assert np.abs(image.astype(int) - mixed.draw("a red circle", seed=5)).mean() < 2


def test_drawings_are_compared_by_levels(model):
    tried = verify.load_examples(model, ROWS)
    wanted = verify.expected(model, tried)["image"].clip(20, 230)
    cost = {"load_s": np.array(0.1), "ms": np.ones(3), "peak_megabytes": np.array(1.0)}
    about = {"path": Path("x"), "format": "litert", "form": "one", "megabytes": 1.0}

    def report(levels, **more):
        found = wanted.copy()
        found[0] += np.uint8(levels)
        return verify.compare(model, tried, {"image": wanted}, {"image": found, **cost}, **about, **more)

    for levels, quantize, identical, ok in ((2, None, 3, True), (3, None, 2, False), (3, "int8", 2, True)):
        one = report(levels, quantize=quantize)
        assert (one.identical, one.ok, one.difference) == (identical, ok, levels)
    assert not report(9, quantize="int8").ok
    assert report(9, quantize="int8", share=0.6).ok


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_generator_becomes_every_file(name, tmp_path):
    model = made(name)
    for format, path in (("litert", "model.tflite"), ("onnx", "web/model.onnx"), ("saved_model", "1")):
        report = getattr(export, format)(model, tmp_path / path, verify_data=ROWS)
        assert report.identical == report.n == 3
    for format, path in (("litert", "model.tflite"), ("onnx", "web/model.onnx")):
        for quantize in ("float16", "int8"):
            assert getattr(export, format)(model, tmp_path / path, quantize=quantize, verify_data=ROWS).ok
    assert export.saved_model(model, tmp_path / "2", jit_compile=True, verify_data=ROWS).identical == 3
