"""The fused Adam: rows of a table stay rows, and its numbers are those of Adam with dense momenta."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from vtx_keras import tuning

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the kernel is TensorFlow's")

ROWS, WIDTH, RATE = 1000, 4, 0.1


def lookup(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((3,), dtype="int32"), keras.layers.Embedding(ROWS, WIDTH, name="table")])


def stepped(optimizer: keras.optimizers.Optimizer, ids: object = ((1, 1, 2), (5, 1, 7)), steps: int = 3) -> np.ndarray:
    """The table after some steps on these ids."""
    import tensorflow as tf

    model = lookup()
    optimizer.build(model.trainable_variables)
    ids = tf.constant(ids)
    for _ in range(steps):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(ids) ** 2)
        (gradient,) = tape.gradient(loss, model.trainable_variables)
        assert isinstance(gradient, tf.IndexedSlices)
        optimizer.apply_gradients([(gradient, model.trainable_variables[0])])
    return np.array(model.get_weights()[0])


def by_hand(clip: float | None, decay: float, steps: int = 3) -> np.ndarray:
    """Adam as published, on the dense gradient."""
    table = np.array(lookup().get_weights()[0], "float64")
    momentum, velocity = np.zeros_like(table), np.zeros_like(table)
    counts = np.zeros(ROWS)
    np.add.at(counts, [1, 1, 2, 5, 1, 7], 1)
    for step in range(1, steps + 1):
        gradient = 2 * table * counts[:, None]
        if clip:
            gradient *= clip / max(clip, np.linalg.norm(gradient))
        momentum = 0.9 * momentum + 0.1 * gradient
        velocity = 0.999 * velocity + 0.001 * gradient**2
        table -= table * RATE * decay
        rate = RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        table -= rate * momentum / (np.sqrt(velocity) + 1e-7)
    return table


@pytest.mark.parametrize(("clip", "decay"), [(None, 0.0), (0.05, 0.0), (0.05, 0.1)])
def test_rows_that_repeat_count_as_their_sum(clip, decay):
    optimizer = tuning.PacedAdamW(RATE, weight_decay=decay, global_clipnorm=clip)
    np.testing.assert_allclose(stepped(optimizer), by_hand(clip, decay), rtol=2e-4, atol=2e-5)


def test_where_no_row_repeats_the_numbers_are_those_of_keras():
    """Of a row that repeats Keras squares each occurrence by itself, which is not the gradient's square."""
    ids = ((1, 3, 2), (5, 9, 7))
    ours, keras_own = stepped(tuning.PacedAdam(RATE), ids), stepped(keras.optimizers.Adam(RATE), ids)
    np.testing.assert_allclose(ours, keras_own, rtol=2e-4, atol=2e-5)


def test_no_dense_gradient_of_a_table_is_made():
    import tensorflow as tf

    model, optimizer = lookup(), tuning.PacedAdam(RATE, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)

    def learn(ids: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(ids) ** 2)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )

    traced = tf.function(learn).get_concrete_function(tf.TensorSpec((2, 3), tf.int32))
    operations = traced.graph.get_operations()
    assert "ResourceApplyAdam" not in {one.type for one in operations}, "the kernel reads dense gradients"
    gradients = [one for one in operations if one.type in ("UnsortedSegmentSum", "ScatterNd", "TensorScatterAdd")]
    assert all(one.outputs[0].shape[:1].as_list() != [ROWS] for one in gradients)
