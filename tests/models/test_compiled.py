"""Decoding in its runtimes: under XLA, as LiteRT builtins, as ONNX, on the JAX backend."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from paths import SUPPORT
from toys import batches, decisive, inputs, other_backend, outputs, pictures, toy

from vtx_keras import _compat, zoo
from vtx_keras.models import objectives as tuning
from vtx_keras.models.fusion import FUSIONS

CAPTIONERS = [name for name in zoo.list_models("*_captioner") if "video" not in name]
GREEDY_AND_BEAMS = [(name, 3) for name in CAPTIONERS] + [("cross_attn_captioner", 1)]
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own compilers")


def frozen(model, batch: int | None, **settings):
    """`generate_ids` as a TensorFlow graph whose weights are constants."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((batch, *model.image_shape), tf.float32, "image")], autograph=False)
    def caption(image):
        ids, scores = model.generate_ids(image, **settings)
        return tf.identity(ids, "ids"), tf.identity(scores, "scores")

    return _compat.frozen_function(caption.get_concrete_function())


@on_tensorflow
@pytest.mark.parametrize(("name", "beams"), GREEDY_AND_BEAMS)
def test_the_whole_loop_runs_as_litert_builtins(name, beams, tmp_path):
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    model = decisive(name)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen(model, 1, beams=beams)])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    path = tmp_path / "model.tflite"
    path.write_bytes(converter.convert())
    assert path.stat().st_size > 2 * model.count_params(), "the weights were left out"
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    x = pictures(model, 3)
    expected = np.array(model.generate_ids(x, beams=beams)[0])
    for row in range(3):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[row : row + 1])
        interpreter.invoke()
        found = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
        ids = next(array for array in found if array.dtype == np.int32)
        np.testing.assert_array_equal(ids[0], expected[row])


@on_tensorflow
@pytest.mark.parametrize(
    ("name", "beams"),
    [
        ("cross_attn_captioner", 3),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in GREEDY_AND_BEAMS if one != ("cross_attn_captioner", 3)),
    ],
)
def test_the_whole_loop_runs_in_onnxruntime_at_any_batch_size(name, beams):
    import onnxruntime
    import tf2onnx

    model = decisive(name)
    graph = frozen(model, None, beams=beams)
    onnx, _ = tf2onnx.convert.from_graph_def(
        graph.graph.as_graph_def(),
        input_names=["image:0"],
        output_names=[tensor.name for tensor in graph.outputs],
        opset=17,
    )
    session = onnxruntime.InferenceSession(onnx.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = pictures(model, batch)
        ids, scores = session.run(None, {"image:0": x})
        expected, expected_scores = model.generate_ids(x, beams=beams)
        np.testing.assert_array_equal(ids, np.array(expected))
        np.testing.assert_allclose(scores, np.array(expected_scores), atol=1e-4)


@on_tensorflow
@pytest.mark.parametrize("beams", [1, 3])
def test_xla_writes_the_same_captions(beams):
    import tensorflow as tf

    model = decisive("cross_attn_captioner")
    x = pictures(model)
    ids, scores = tf.function(lambda image: model.generate_ids(image, beams=beams), jit_compile=True)(x)
    expected, expected_scores = model.generate_ids(x, beams=beams)
    np.testing.assert_array_equal(np.array(ids), np.array(expected))
    np.testing.assert_allclose(np.array(scores), np.array(expected_scores), atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "cross_attn_captioner",
        *(pytest.param(f"{fusion}_vqa", marks=pytest.mark.slow) for fusion in FUSIONS),
        *(pytest.param(name, marks=pytest.mark.slow) for name in CAPTIONERS if name != "cross_attn_captioner"),
        pytest.param("retriever", marks=pytest.mark.slow),
        pytest.param("cross_attn_video_captioner", marks=pytest.mark.slow),
    ],
)
def test_fit_compiles_under_xla(name):
    model = toy(name)
    model.compile(
        tuning.Adam(3e-3),
        loss=model.loss,
        weighted_metrics=["accuracy"] if model.loss else None,
        jit_compile=True,
    )
    losses = model.fit(batches(model), epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@on_tensorflow
def test_fit_traces_its_step_once(monkeypatch):
    model, traced = toy("gated_vqa"), []
    step = model.train_step
    monkeypatch.setattr(model, "train_step", lambda data: traced.append(data) or step(data))
    model.fit(batches(model), epochs=2, verbose=0)
    assert len(traced) == 1


@on_tensorflow
@pytest.mark.parametrize(
    "names",
    [
        ["cross_attn_captioner"],
        pytest.param(
            ["merged_attn_captioner", "gated_video_captioner", "co_attn_vqa", "concat_mlp_matcher", "retriever"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_jax_backend_gives_the_same_numbers_from_the_same_weights(tmp_path, names):
    """A second process on JAX loads what this one saved, compares, fits, and sends weights back."""
    for name in names:
        model = decisive(name) if name.endswith("captioner") else toy(name)
        zoo.save(model, tmp_path / name)
        zoo.save(model, tmp_path / f"{name}.keras")
        x = inputs(model)
        expected = {"outputs": outputs(model, x)}
        if name.endswith("captioner"):
            for beams in (1, 3):
                expected[f"ids_{beams}"] = np.array(model.generate_ids(x["image"], beams=beams)[0])
        np.savez(tmp_path / f"{name}.npz", **expected, **{f"x_{key}": value for key, value in x.items()})
    script = SUPPORT / "on_jax.py"
    run = subprocess.run(
        [sys.executable, script, tmp_path, json.dumps(names)], env=other_backend(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for name in names:
        returned = zoo.build(name, weights=tmp_path / f"{name}-from-jax")
        stored = np.load(tmp_path / f"{name}-from-jax.npz")
        x = {"image": stored["image"], "tokens": stored["tokens"]}
        np.testing.assert_allclose(outputs(returned, x), stored["outputs"], atol=1e-4)
