"""Optimizers and metrics of training: Adam against Keras', perplexity, SSIM."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import toys

from vtx_keras import _compat, metrics, train, zoo
from vtx_keras.models import objectives as tuning

TF = keras.backend.backend() == "tensorflow"
SCHEDULE = keras.optimizers.schedules.CosineDecay(1e-2, 4)
SETTINGS = {
    "plain": {},
    "limited together": {"global_clipnorm": 0.01},
    "limited one by one": {"clipnorm": 0.01},
    "a schedule, decay, averages": {"learning_rate": SCHEDULE, "weight_decay": 0.1, "use_ema": True},
    "two batches a step": {"gradient_accumulation_steps": 2, "weight_decay": 0.1},
    "other betas": {"beta_1": 0.5, "beta_2": 0.7, "epsilon": 1e-3},
    "amsgrad": {"amsgrad": True},
}


def reader(table: bool, dtype: str = "float32") -> keras.Model:
    """Two matrices and a bias. The first is an embedding, whose gradients are rows, or an equal dense layer."""
    keras.utils.set_random_seed(0)
    spread = keras.initializers.RandomNormal(seed=1)
    if table:
        words, inputs = keras.layers.Embedding(9, 4, embeddings_initializer=spread), keras.Input((5,), dtype="int32")
        x = words(inputs)
    else:
        words, inputs = keras.layers.Dense(4, use_bias=False, kernel_initializer=spread), keras.Input((5, 9))
        x = words(inputs)
    x = keras.layers.GlobalAveragePooling1D(dtype=dtype)(x)
    return keras.Model(inputs, keras.layers.Dense(3, dtype=dtype)(x))


def learned(optimizer: keras.optimizers.Optimizer, table: bool = False, dtype: str = "float32", **how) -> list:
    """Weights and optimizer state after five steps."""
    model, random = reader(table, dtype), np.random.default_rng(0)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, loss="mse", **how)
    for _ in range(5):
        ids, wanted = random.integers(0, 9, (4, 5)), random.normal(size=(4, 3))
        model.train_on_batch(ids if table else np.eye(9)[ids], wanted)
    return [np.array(variable, "float32") for variable in (*model.trainable_variables, *optimizer.variables)]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_adam_moves_as_keras_own(settings):
    settings = {"learning_rate": 1e-2, **settings}
    ours, theirs = learned(tuning.Adam(**settings)), learned(keras.optimizers.Adam(**settings))
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": True}], ids=["eager", "XLA"])
def test_paced_adamw_moves_as_keras_own(how):
    settings = {"learning_rate": SCHEDULE, "weight_decay": 0.1}
    ours, theirs = learned(tuning.PacedAdamW(**settings), **how), learned(keras.optimizers.AdamW(**settings), **how)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_word_that_comes_twice_moves_by_the_sum_of_its_gradients():
    """On TensorFlow, Keras' own Adam squares the gradients of a table's rows one by one and then adds them."""
    for one, other in zip(learned(tuning.Adam(1e-2), table=True), learned(tuning.Adam(1e-2)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_half_precision_weights_move_as_keras_own():
    ours, theirs = (learned(make(1e-2), dtype="bfloat16") for make in (tuning.Adam, keras.optimizers.Adam))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_subclass_may_override_update_step():
    class Still(tuning.Adam):
        def update_step(self, gradient, variable, learning_rate):
            pass

    before = [np.array(variable) for variable in reader(table=False).trainable_variables]
    for one, other in zip(learned(Still(1.0)), before, strict=False):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not TF, reason="counts operations of a TensorFlow graph")
def test_a_traced_step_has_one_operation_of_adam_per_variable():
    import tensorflow as tf

    def operations(optimizer: keras.optimizers.Optimizer) -> list[str]:
        model = reader(table=False)
        variables = model.trainable_variables
        optimizer.build(variables)
        step = tf.function(lambda gradients: optimizer.apply(gradients, variables))
        graph = step.get_concrete_function([tf.TensorSpec(one.shape) for one in variables]).graph
        return [operation.type for operation in graph.get_operations()]

    model = reader(table=False)
    optimizer = train.adamw(model, 100)
    ours, theirs = (
        operations(optimizer),
        operations(keras.optimizers.AdamW(_compat.schedule_of(optimizer), global_clipnorm=1.0)),
    )
    assert ours.count("ResourceApplyAdam") == len(model.trainable_variables)
    assert ours.count("StatelessIf") == 1, "the schedule is computed more than once"
    assert len(ours) < len(theirs) / 2


def test_perplexity_counts_words_by_weight_and_is_saved_with_the_model(tmp_path):
    model = toys.toy("cross_attn_captioner")
    model.compile(loss=model.loss, optimizer="adam", weighted_metrics=[metrics.Perplexity()])
    inputs, words, weight = toys.batches(model)[0]
    weight[1] *= 0.5
    found = model.test_on_batch(inputs, words, weight, return_dict=True)["perplexity"]
    logits = toys.outputs(model, inputs).astype("float64")
    losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, words[..., None], -1)[..., 0]
    assert float(found) == pytest.approx(np.exp((losses * weight).sum() / weight.sum()), rel=1e-4)
    loaded = zoo.load(zoo.save(model, tmp_path / "model.keras"))
    again = loaded.test_on_batch(inputs, words, weight, return_dict=True)["perplexity"]
    assert float(again) == pytest.approx(float(found), rel=1e-5)
    metric = metrics.Perplexity()
    metric.update_state([[3, 0]], np.array([[[0, 0, 0, 0.0], [np.inf, 0, 0, 0]]], "float32"))
    assert float(metric.result()) == pytest.approx(4)


def test_ssim_equals_tensorflow():
    tf = pytest.importorskip("tensorflow")
    random = np.random.default_rng(0)
    first = random.integers(0, 256, (3, 24, 31, 3)).astype("float32")
    second = np.clip(first + random.normal(0, 20, first.shape), 0, 255).astype("float32")
    wanted = tf.image.ssim(first, second, 255.0).numpy()
    np.testing.assert_allclose(np.array(metrics.ssim(first, second)), wanted, atol=2e-5)
    metric = metrics.SSIM()
    metric.update_state(first, second)
    assert float(metric.result()) == pytest.approx(float(wanted.mean()), abs=2e-5)
    with pytest.raises(ValueError, match="at least 11 px"):
        metrics.ssim(np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 3)))
