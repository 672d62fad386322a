"""RowDense and RowNorm compute what Keras' own layers do, in fewer operations."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from vtx_keras.models.layers import RowDense, RowNorm

TF = keras.backend.backend() == "tensorflow"
POLICIES = ["float32", "mixed_bfloat16", "mixed_float16"]


def twins(ours: type, theirs: type, width: int, **kwargs) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """One layer of each kind, with the same weights, none of them zero or one."""
    pair = ours(**kwargs), theirs(**kwargs)
    random = np.random.default_rng(0)
    for layer in pair:
        layer.build((None, None, width))
    pair[0].set_weights([random.normal(size=weight.shape) for weight in pair[0].weights])
    pair[1].set_weights(pair[0].get_weights())
    return pair


def operations(layer: keras.layers.Layer, *shape: int | None) -> int:
    """Count the operations of a traced call and its gradients."""
    import tensorflow as tf

    def learn(x: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return tape.gradient(y, [x, *layer.trainable_variables])

    traced = tf.function(learn).get_concrete_function(tf.TensorSpec(shape))
    return len(traced.graph.get_operations())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("shape", [(4, 8), (4, 3, 8), (4, 2, 3, 8)], ids=str)
def test_row_dense_equals_keras(policy, shape):
    ours, theirs = twins(RowDense, keras.layers.Dense, 8, units=5, activation="gelu", dtype=policy)
    x = np.random.default_rng(1).normal(size=shape).astype("float32")
    assert ours(x).dtype == theirs(x).dtype
    assert ours(x).shape == (*shape[:-1], 5)
    same = {"rtol": 1e-6, "atol": 1e-6} if policy == "float32" else {"rtol": 1e-2, "atol": 1e-2}
    np.testing.assert_allclose(*(keras.ops.cast(layer(x), "float32") for layer in (ours, theirs)), **same)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("far", [0.0, 100.0], ids=["near zero", "far from it"])
def test_row_norm_equals_keras(policy, far):
    ours, theirs = twins(RowNorm, keras.layers.LayerNormalization, 8, epsilon=1e-6, dtype=policy)
    x = np.random.default_rng(1).normal(far, size=(4, 3, 8)).astype("float32")
    assert ours(x).dtype == theirs(x).dtype
    same = {"rtol": 1e-4, "atol": 1e-4} if policy == "float32" else {"rtol": 2e-2, "atol": 2e-2}
    np.testing.assert_allclose(*(keras.ops.cast(layer(x), "float32") for layer in (ours, theirs)), **same)


@pytest.mark.skipif(not TF, reason="counts operations of a TensorFlow graph")
@pytest.mark.parametrize("shape", [(None, 9, 8), (None, None, 8)], ids=["pictures", "texts of any length"])
def test_they_take_fewer_operations(shape):
    dense = [operations(layer, *shape) for layer in twins(RowDense, keras.layers.Dense, 8, units=5)]
    norms = twins(RowNorm, keras.layers.LayerNormalization, 8)
    norm = [operations(layer, *shape) for layer in norms]
    assert dense[0] < dense[1] * (1 if shape[1] is None else 2 / 3)
    assert norm[0] < norm[1] * 2 / 3
