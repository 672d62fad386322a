"""ONNX: every task and fusion in one file, run in onnxruntime at any batch size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from exporting import as_bytes, assert_near, convolving, few, made
from onnx import TensorProto, helper, numpy_helper
from paths import PROGRAMS
from toys import decisive, pictures, toy

from vtx_keras import data, export, zoo
from vtx_keras.export import _graphs as graphs
from vtx_keras.export import _onnx as onnx_graph
from vtx_keras.export import _weights
from vtx_keras.inputs import text

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")
RUN = PROGRAMS / "onnx/run.py"
QUICK = {"gated_vqa", "merged_attn_video_captioner"}  # those below try the other tasks
NAMES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in zoo.list_models()]
NAMES = [one for one in NAMES if not one.values[0].endswith("generator")]  # test_generator_files.py has them


@pytest.fixture(scope="module")
def captioner():
    return decisive("cross_attn_captioner")


@pytest.fixture(scope="module")
def exported(captioner, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "model.onnx"
    return path, export.onnx(captioner, path, verify_data=few(captioner))


@pytest.fixture(scope="module")
def halves(captioner, tmp_path_factory):
    path = tmp_path_factory.mktemp("halves") / "model.onnx"
    return path, export.onnx(captioner, path, form="split", verify_data=few(captioner))


def session(path):
    file = path if isinstance(path, bytes) else str(path)
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", NAMES)
def test_every_model_gives_the_same_results_from_its_file(name, tmp_path):
    model = made(name)
    report = export.onnx(model, tmp_path / "model.onnx", verify_data=few(model))
    assert report.ok
    assert report.identical == report.n == 6
    assert report.difference < 1e-4


def test_the_contract_of_the_file(captioner, exported):
    path, report = exported
    opened = session(path)
    assert [(one.name, one.type, one.shape) for one in opened.get_inputs()] == [
        ("image", "tensor(uint8)", ["batch", 32, 32, 3])
    ]
    assert opened.get_outputs()[0].name == "ids"
    for batch in (1, 3, 5):
        image = pictures(captioner, batch).astype("uint8")
        ids, score = opened.run(None, {"image": image})
        expected, expected_score = captioner.generate_ids(image)
        assert ids.dtype == np.int32
        np.testing.assert_array_equal(ids, np.array(expected))
        np.testing.assert_allclose(score, np.array(expected_score), atol=1e-4)
    for wrong in (image[:, :16], image[0], image.astype("float32")):
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            opened.run(None, {"image": wrong})
    vocabulary = path.with_name("vocabulary.txt").read_text().rstrip("\n").split("\n")
    assert tuple(vocabulary) == captioner.vocabulary
    assert json.loads(path.with_name("model.json").read_text())["max_length"] == 8
    assert json.loads(Path(f"{path}.report.json").read_text())["identical"] == 6
    assert report.settings["opset"] == 17
    assert sorted(one.name for one in path.parent.iterdir()) == [
        "model.json", "model.onnx", "model.onnx.report.json", "tokenizer.json", "vocabulary.txt",
    ]  # fmt: skip


def test_the_tokenizer_beside_it_loads_in_tokenizers_of_hugging_face(exported, captioner):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(exported[0].with_name("tokenizer.json")))
    ids = text.encode(["W1, w2 w99"], captioner.vocabulary, 9)[0]
    assert tokenizer.encode("W1, w2 w99").ids == ids[ids > 0].tolist()


@pytest.mark.parametrize(
    "settings", [{"beams": 3, "opset": 18}, pytest.param({"max_length": 4}, marks=pytest.mark.slow)]
)
def test_beams_lengths_and_opsets(captioner, settings, tmp_path):
    report = export.onnx(captioner, tmp_path / "model.onnx", verify_data=few(captioner), **settings)
    assert report.identical == 6
    assert report.difference < 1e-4


def test_the_split_form_takes_many_images_at_once(captioner, halves):
    path, report = halves
    assert report.identical == 6
    assert not path.exists()
    encode, step = (session(path.with_name(f"model.{part}.onnx")) for part in ("encode", "decode_step"))
    image = pictures(captioner, 3).astype("uint8")
    states = dict(zip([one.name for one in encode.get_outputs()], encode.run(None, {"image": image}), strict=True))
    shapes = {one.name: (3, *one.shape[1:]) for one in step.get_inputs() if one.name.startswith("cache_")}
    caches = {name: np.zeros(shape, "float32") for name, shape in shapes.items()}
    given = {"token": np.full((3, 1), text.START, "int32"), "index": np.array(0, "int32"), **caches, **states}
    logits = step.run(["logits"], given)[0]
    expected = np.array(captioner({"image": image.astype("float32"), "tokens": np.full((3, 1), text.START)}))[:, 0]
    np.testing.assert_allclose(logits[:, text.MASK + 1 :], expected[:, text.MASK + 1 :], atol=1e-4)
    assert (logits[:, [text.PAD, text.UNK, text.START, text.MASK]] < -1e8).all()


@pytest.mark.parametrize(
    ("quantize", "forms"),
    [
        ("int8", ["one"]),
        pytest.param("float16", ["one"], marks=pytest.mark.slow),
        pytest.param("int8", ["split"], marks=pytest.mark.slow),
    ],
)
def test_quantized_files_stay_near(quantize, forms, tmp_path):
    keras.utils.set_random_seed(0)
    model = toy("cross_attn_captioner", dim=64, vocabulary=[f"w{i}" for i in range(4000)], max_length=4)
    rows = few(model)
    inputs = {"image": np.stack([row["image"] for row in rows]), "tokens": np.array([[2, 6, 7]] * len(rows))}
    model.optimizer.learning_rate = 0.01
    for _ in range(40):  # the words of random weights tie: any rounding changes them
        model.train_on_batch(inputs, np.array([[6, 7, 3]] * len(rows)))
    sizes = {}
    for form in forms:
        path = tmp_path / form / "model.onnx"
        small = export.onnx(model, path, form=form, quantize=quantize, verify_data=rows, share=0.3)
        assert small.identical == small.n
        sizes[form] = small.megabytes / small.weights_megabytes
        assert small.difference < 0.5
    assert max(sizes.values()) < 0.95, sizes  # of a model so small, half is not weights


def test_only_the_weights_of_convolutions_are_rounded():
    model, (depthwise, kernel) = convolving()
    file = onnx_graph.convert_graph(graphs.image_encoder(model), "int8", 17).SerializeToString()
    by_channel = np.transpose(kernel, (3, 2, 0, 1))
    assert as_bytes(by_channel).tobytes() in file
    assert np.transpose(depthwise, (2, 3, 0, 1)).astype("float16").tobytes() in file
    assert by_channel.tobytes() not in file
    image = pictures(model, 3).astype("uint8")
    (found,) = session(file).run(None, {"image": image})
    assert_near(found, model, image)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_weights_that_no_file_holds_stand_beside_it(captioner, tmp_path, monkeypatch, quantize):
    monkeypatch.setattr(_weights, "MAX_BYTES", 1_000)
    monkeypatch.setattr(onnx_graph, "LARGE", 100)
    path, beside = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    report = export.onnx(
        captioner, path, quantize=quantize, verify_data=few(captioner), share=0.0 if quantize else None
    )
    assert beside.stat().st_size > path.stat().st_size / 4
    assert report.megabytes == pytest.approx((beside.stat().st_size + path.stat().st_size) / 1e6, abs=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_large_weights_join_the_graph_after_it_is_converted(name, tmp_path, monkeypatch):
    model = made(name)
    usual = export.onnx(model, tmp_path / "usual.onnx", verify_data=few(model))
    monkeypatch.setattr(onnx_graph, "LARGE", 100)
    report = export.onnx(model, tmp_path / "model.onnx", verify_data=few(model))
    assert report.identical == report.n == 6
    assert report.difference < 1e-4
    assert report.megabytes < usual.megabytes + 0.02


def test_what_is_made_of_weights_alone_is_computed():
    table = np.arange(2**18, dtype="float32").reshape(512, 512)
    turned = helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0])
    product = helper.make_node("MatMul", ["x", "turned"], ["y"])
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 512]) for name in ("x", "y")]
    graph = helper.make_graph([turned, product], "g", given[:1], given[1:], [numpy_helper.from_array(table, "table")])
    onnx_graph.fold_weights(graph)
    assert [node.op_type for node in graph.node] == ["MatMul"]
    (kept,) = graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(kept), table.T)


@pytest.mark.slow
def test_the_words_are_stored_once(tmp_path):
    model = toy("cross_attn_captioner", dim=64, vocabulary=[f"w{i}" for i in range(4000)], max_length=4)
    report = export.onnx(model, tmp_path / "model.onnx", verify_data=few(model, 2))
    table = 4 * 4005 * 64 / 1e6
    assert report.megabytes < report.weights_megabytes + table / 2


def test_another_models_vocabulary_is_not_overwritten(captioner, exported):
    other = toy("gated_vqa", vocabulary=["a", "b"])
    with pytest.raises(FileExistsError, match=r"another model.json"):
        export.onnx(other, exported[0].with_name("other.onnx"), verify_data=few(other))


def test_another_models_labels_are_not_overwritten(tmp_path):
    first, other = toy("gated_vqa", classes=["a", "b", "c"]), toy("gated_vqa", classes=["x", "y", "z"])
    (tmp_path / "first.onnx").touch()
    (tmp_path / "model.json").write_text(graphs.companion_files(first, "one")["model.json"])
    with pytest.raises(FileExistsError, match=r"first.onnx with another model.json"):
        export.onnx(other, tmp_path / "other.onnx", verify_data=few(other))
    (tmp_path / "model.json").unlink()
    (tmp_path / "vocabulary.txt").write_text("another\n")
    with pytest.raises(FileExistsError, match=r"first.onnx with another vocabulary.txt"):
        export.onnx(other, tmp_path / "other.onnx", verify_data=few(other))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"quantize": "int8_encoder"}, "expected None, 'float16'"),
        ({"opset": 21}, "17 or 18"),
        ({"beams": 2, "form": "split"}, "word by word"),
    ],
)
def test_contradictory_settings_are_refused_before_any_work(captioner, settings, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        export.onnx(captioner, tmp_path / "m.onnx", verify_data=few(captioner), **settings)
    with pytest.raises(ValueError, match=r"ends in \.onnx"):
        export.onnx(captioner, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def ran(*arguments):
    return subprocess.run([sys.executable, str(RUN), *map(str, arguments)], capture_output=True, text=True)


def test_the_program_captions_and_streams(captioner, exported, halves):
    photo = data.sample("photos/cat.jpg")
    for path, _ in (exported, halves):
        done = ran(path, photo)
        assert done.returncode == 0, done.stderr
        assert done.stdout.replace("\r", "\n").strip().split("\n")[-1].strip() == captioner.generate(photo)[0]


def test_the_program_compares_a_picture_with_a_text(tmp_path):
    model = toy("retriever")
    export.onnx(model, tmp_path / "m.onnx", verify_data=few(model))
    photo = data.sample("photos/cat.jpg")
    done = ran(tmp_path / "m.onnx", photo, "w1 w2")
    assert done.stdout == f"similarity {model.similarity(photo, 'w1 w2')[0, 0]:.3f}\n"


def test_the_program_reports_a_broken_image_or_file(exported, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    done = ran(exported[0], tmp_path / "bad.png")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    for companion in ("model.json", "vocabulary.txt"):
        (tmp_path / companion).write_bytes(exported[0].with_name(companion).read_bytes())
    whole = exported[0].read_bytes()
    for damaged in (b"", whole[:2000], whole[:-1]):
        (tmp_path / "model.onnx").write_bytes(damaged)
        done = ran(tmp_path / "model.onnx", data.sample("photos/cat.jpg"))
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.strip().splitlines()) == 1


def test_the_program_leaves_nothing_in_the_home(exported, tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, str(RUN), str(exported[0]), str(data.sample("photos/cat.jpg"))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.slow
def test_the_released_captioner_in_every_precision(tmp_path):
    model = zoo.build("cross_attn_captioner", weights="emoji")
    for quantize, most in ((None, 1.05), ("float16", 0.55), ("int8", 0.36)):
        report = export.onnx(model, tmp_path / "m.onnx", quantize=quantize)
        assert report.n >= 60
        assert report.megabytes <= most * report.weights_megabytes
