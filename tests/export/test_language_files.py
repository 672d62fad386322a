"""Captioners with a language model, exported whole: every fusion, every kind of attention, in every runtime."""

from __future__ import annotations

import languages
import numpy as np
import pytest
from languages import IMAGES

from vtx_keras import export, zoo
from vtx_keras.export import _weights

ROWS = [{"image": one.astype("uint8"), "caption": "a dog"} for one in IMAGES]


@pytest.mark.parametrize(
    ("kind", "fusion", "write"),
    [
        ("llama", "merged_attn", "litert"),
        ("gemma3", "gated", "onnx"),
        ("qwen3", "cross_attn", "saved_model"),
        ("gpt2", "concat_mlp", "litert"),
        ("llama", "concat_mlp", "onnx"),
    ],
)
def test_the_file_writes_what_the_model_writes(tmp_path, kind, fusion, write):
    model = languages.opened(languages.captioner(kind, fusion, max_length=8))
    ends = {"litert": "m.tflite", "onnx": "m.onnx", "saved_model": "m"}
    report = getattr(export, write)(model, tmp_path / ends[write], verify_data=ROWS)
    assert report.identical == report.n == 3


def test_a_file_in_two_parts_carries_the_caches_of_blocks_alone(tmp_path):
    model = languages.opened(languages.captioner("llama", "gated", max_length=6))
    report = export.litert(model, tmp_path / "m.tflite", form="split", verify_data=ROWS)
    assert report.identical == report.n == 3


def test_four_bits_in_blocks_are_near_and_small(tmp_path, monkeypatch):
    """The head and the table of words, which are one, are stored once."""
    monkeypatch.setattr(_weights, "MIN_INT4_SIZE", 2**10)
    model = languages.opened(languages.captioner("llama_untied", "gated", max_length=6))
    sizes = {}
    for quantize in (None, "int8", "int4"):
        path = tmp_path / str(quantize) / "m.onnx"
        export.onnx(model, path, quantize=quantize, verify_data=ROWS, share=0.0)
        sizes[quantize] = path.stat().st_size
    assert sizes["int4"] < sizes["int8"] < sizes[None]


def test_four_bits_of_a_matrix_are_within_half_a_step():
    from onnx import numpy_helper

    matrix = np.random.default_rng(0).normal(size=(96, 5)).astype("float32")
    blocks, scales, zeros = (numpy_helper.to_array(one) for one in _weights.in_blocks(matrix, "w"))
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(5, 3, 32).astype("float32")
    zeros = np.stack([zeros & 15, zeros >> 4], axis=-1).reshape(5, 4)[:, :3].astype("float32")
    found = ((codes - zeros[..., None]) * scales[..., None]).reshape(5, 96).T
    step = np.repeat(scales.T, 32, axis=0)
    assert (np.abs(found - matrix) <= step * 1.01).all()
    assert np.abs(found - matrix).mean() < step.mean() / 3


def test_four_bits_go_with_concepts_and_other_gathers(tmp_path):
    model = zoo.build(
        "cross_attn_captioner",
        weights="encoders",
        image_encoder="efficientnet_lite0",
        image_shape=(64, 64, 3),
        concepts=3,
        dim=64,
        depth=1,
    )
    rows = [{"image": np.zeros((64, 64, 3), "uint8"), "caption": "a dog"}]
    report = export.onnx(model, tmp_path / "m.onnx", quantize="int4", max_length=4, verify_data=rows, share=0.0)
    assert report.megabytes < 10
