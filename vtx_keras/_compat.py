"""Every private or internal name of another package that this one uses, and nothing else.

Each entry says why the public interface is not enough, and what happens where the name is gone: `CHECKS` lists them,
`missing()` says which are not there, and an upgrade of Keras or TensorFlow that breaks one breaks this file alone.
TensorFlow and LiteRT's schema are imported when an entry that needs them is used.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras

# --- the names, checked

CHECKS: dict[str, tuple[str, str, str]] = {  # entry: (module, dotted attribute, what is lost without it)
    "keras history": ("keras", "KerasTensor", "a model that was cut could not be saved any more"),
    "Layer._layers": ("keras.layers", "Layer", "freezing and LoRA would not reach inside composite layers"),
    "Dense._kernel": ("keras.layers", "Dense.kernel", "a frozen layer's LoRA additions could not learn"),
    "Optimizer._backend_update_step": ("keras.optimizers", "Optimizer._backend_update_step", "the fused Adam"),
    "Optimizer._clip_gradients": ("keras.optimizers", "Optimizer._clip_gradients", "the fused Adam"),
    "Optimizer._apply_weight_decay": ("keras.optimizers", "Optimizer._apply_weight_decay", "the fused Adam"),
    "Optimizer._get_variable_index": ("keras.optimizers", "Optimizer._get_variable_index", "rates by layer"),
    "Optimizer._use_weight_decay": ("keras.optimizers", "Optimizer._use_weight_decay", "the fused Adam"),
    "Trainer._symbolic_build": ("keras", "Model._symbolic_build", "exact resume"),
}


def missing(names: Iterable[str] | None = None) -> list[str]:
    """What is not there, in words; all of `CHECKS` by default.

    >>> missing()
    []
    """
    found = []
    for name in CHECKS if names is None else names:
        module, dotted, lost = CHECKS[name]
        thing: Any = importlib.import_module(module)
        try:
            for part in dotted.split("."):
                thing = getattr(thing, part)
        except AttributeError:
            found.append(f"keras {keras.__version__} has no {name} ({module}.{dotted}), without which {lost} is lost")
    return found


_FUSED = tuple(name for name in CHECKS if name.startswith("Optimizer."))
_ABSENT = missing()
if _ABSENT:
    warnings.warn(f"vtx_keras was tried with another Keras: {'; '.join(_ABSENT)}", stacklevel=2)


# --- Keras: graphs and layers


def history_of(tensors: Sequence[Any]) -> list[tuple[Any, Any]]:
    """The marks by which Keras knows where tensors come from, to be put back by `restore_history`.

    `keras.Model(inputs, outputs)` marks its inputs anew, even where they belong to another model, which then cannot be
    saved as `.keras`. No public call cuts a graph without that.
    """
    return [(tensor, getattr(tensor, "_keras_history", None)) for tensor in tensors]


def restore_history(marks: Sequence[tuple[Any, Any]]) -> None:
    """Undo what a cut did to the marks that `history_of` returned."""
    for tensor, mark in marks:
        if mark is not None:
            tensor._keras_history = mark


def input_gradients(function: Any, inputs: Sequence[Any]) -> Sequence[Any]:
    """The gradients of a number with respect to the inputs that it is computed from, through which others may pass.

    Keras has no operation for it; TensorFlow and JAX each have their own.

    >>> [round(float(one), 1) for one in input_gradients(lambda x: keras.ops.sum(x[0] ** 2), (keras.ops.array(3.0),))]
    [6.0]
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function)(tuple(inputs))
    if keras.backend.backend() != "tensorflow":
        backend = keras.backend.backend()
        raise NotImplementedError(f"gradients of inputs need TensorFlow or JAX, not {backend}: set KERAS_BACKEND")
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        result = function(inputs)
    return tape.gradient(result, inputs)


def sublayers(layer: Any) -> list[Any]:
    """The layers inside a layer. Models have a public `layers`, composite layers only `_layers`."""
    return list(getattr(layer, "layers", None) or getattr(layer, "_layers", None) or [])


def own_kernel(layer: keras.layers.Dense) -> Any:
    """A layer's own matrix: with LoRA the public `kernel` is its sum with the low-rank additions."""
    return layer._kernel


def freeze_kernel(layer: keras.layers.Dense) -> None:
    """Freeze a layer's own matrix but not its low-rank additions."""
    own_kernel(layer).trainable = False


def train_additions(layer: keras.layers.Dense) -> None:
    """Let a layer's low-rank additions be trained, whether or not the layer is. Only their names tell them."""
    for weight in layer.weights:
        weight.trainable = weight.trainable or "lora_" in weight.name


def clear_lora(layer: keras.layers.Dense) -> None:
    """Zero a layer's low-rank additions. Keras names them only by attributes of the layer."""
    layer.lora_kernel_b.assign(keras.ops.zeros(layer.lora_kernel_b.shape))


def set_direction(metric: keras.metrics.Metric, direction: str) -> None:
    """Say whether "up" or "down" is better. Keras' "auto" modes read it, and offer no public way to set it."""
    metric._direction = direction


# --- Keras: training


def build_training(model: keras.Model, batch: Any) -> None:
    """Make the variables of the optimizer and metrics, without a step, so that a state can be read into them.

    The public way is a step of training, which changes weights and draws dropout seeds.
    """
    model._symbolic_build(data_batch=batch)


def sync_jax(model: keras.Model) -> None:
    """On the JAX backend `fit` keeps the weights elsewhere while it runs: write them back to the variables."""
    sync = getattr(model, "jax_state_sync", None)
    if sync is not None:
        sync()


def averages_of(optimizer: Any) -> list[tuple[Any, Any]]:
    """(variable, moving average) pairs of an optimizer with `use_ema`, under loss scaling too.

    Keras' own swap (`SwapEMAWeights`) overwrites the trained weights at the end of `fit`.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not optimizer.use_ema:
        return []
    return list(zip(optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True))


def schedule_of(optimizer: Any) -> Any:
    """The schedule of an optimizer's learning rate; the public `learning_rate` is its value at the present step."""
    return optimizer._learning_rate


# --- Keras and TensorFlow: Adam as one operation per variable


class FusedUpdate(keras.optimizers.Adam):
    """Adam whose variables may learn at a `pace` of their own, one kernel per variable on TensorFlow.

    Keras' update is some forty operations per variable, six in ten of a traced training step; no public hook replaces
    it. Where a name is missing, weights are not float32, or a strategy spreads the batch, Keras' own update runs.
    It computes Adam as published, with dense momenta: every row of a table decays at every step, as with Keras. Sparse
    gradients (rows of an embedding) stay sparse, and a row that occurs several times is summed first. There the numbers
    are not those of Keras, which squares each occurrence by itself.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        known = self._trainable_variables[self._get_variable_index(variable)]  # TensorFlow passes its own variable
        super().update_step(gradient, variable, learning_rate * getattr(known, "pace", 1.0))

    def _fused(self) -> bool:
        if keras.backend.backend() != "tensorflow" or type(self).update_step is not FusedUpdate.update_step:
            return False
        if self.amsgrad or missing(_FUSED):
            return False
        import tensorflow as tf

        whole = all(variable.dtype == "float32" for variable in self._trainable_variables)
        return whole and not tf.distribute.has_strategy()  # where gradients are summed first

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        if self._fused() and (self.global_clipnorm or 0) > 0:  # Keras allows one limit
            return clipped(grads, self.global_clipnorm)
        return super()._clip_gradients(grads)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        if not self._fused():  # the fused step decays too: Keras computes the schedule again for each variable
            super()._apply_weight_decay(variables)

    def _backend_update_step(self, grads: Sequence[Any], trainable_variables: Sequence[Any], rate: Any) -> None:
        if self._fused():
            _fused_step(self, grads, [self._get_variable_index(one) for one in trainable_variables], rate)
        else:
            super()._backend_update_step(grads, trainable_variables, rate)


def clipped(gradients: Sequence[Any], norm: float) -> list[Any]:
    """The gradients scaled down together, so that their common length is at most `norm`; not finite, all are NaN.

    >>> import tensorflow as tf
    >>> [float(one) for one in clipped([tf.constant(3.0), tf.constant(4.0)], 1.0)]
    [0.6000000238418579, 0.800000011920929]
    """
    import tensorflow as tf

    found = [_unique_rows(one) if isinstance(one, tf.IndexedSlices) else tf.convert_to_tensor(one) for one in gradients]
    parts = [one.values if isinstance(one, tf.IndexedSlices) else one for one in found]
    length = tf.sqrt(2 * tf.add_n([tf.nn.l2_loss(one) for one in parts]))
    shrink = norm / tf.maximum(length, norm) + (length - length)
    return [
        tf.IndexedSlices(one.values * shrink, one.indices, one.dense_shape)
        if isinstance(one, tf.IndexedSlices)
        else one * shrink
        for one in found
    ]


def _unique_rows(gradient: Any) -> Any:
    """The same sparse gradient with each row once."""
    import tensorflow as tf

    rows, place = tf.unique(gradient.indices)
    summed = tf.math.unsorted_segment_sum(gradient.values, place, tf.size(rows))
    return tf.IndexedSlices(summed, rows, gradient.dense_shape)


def _fused_step(optimizer: Any, gradients: Sequence[Any], places: Sequence[int], rate: Any) -> None:
    """What `optimizer` does with `gradients`, each of the variable at its place: decay, momenta, the step."""
    import tensorflow as tf

    count, rate = tf.cast(optimizer.iterations + 1, tf.float32), tf.cast(rate, tf.float32)
    beta1, beta2, epsilon = optimizer.beta_1, optimizer.beta_2, optimizer.epsilon
    shared = {
        "beta1_power": tf.pow(beta1, count),
        "beta2_power": tf.pow(beta2, count),
        "beta1": tf.constant(beta1),
        "beta2": tf.constant(beta2),
        "epsilon": tf.constant(epsilon),
    }
    bias = tf.sqrt(1 - shared["beta2_power"]) / (1 - shared["beta1_power"])
    decay = None if optimizer.weight_decay is None else rate * optimizer.weight_decay
    for gradient, place in zip(gradients, places, strict=True):
        known = optimizer._trainable_variables[place]
        variable, pace = known.value, getattr(known, "pace", 1.0)
        momentum, velocity = optimizer._momentums[place].value, optimizer._velocities[place].value
        if decay is not None and optimizer._use_weight_decay(known):
            variable.assign_sub(variable * decay)
        own_rate = rate if pace == 1 else rate * pace
        if isinstance(gradient, tf.IndexedSlices):  # rows of a table: no dense gradient is made
            rows = _unique_rows(gradient)
            momentum.assign(momentum * beta1)
            momentum.scatter_add(tf.IndexedSlices((1 - beta1) * rows.values, rows.indices))
            velocity.assign(velocity * beta2)
            velocity.scatter_add(tf.IndexedSlices((1 - beta2) * tf.square(rows.values), rows.indices))
            variable.assign_sub(own_rate * bias * momentum / (tf.sqrt(velocity) + epsilon))
            continue
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=momentum.handle,
            v=velocity.handle,
            lr=own_rate,
            grad=tf.convert_to_tensor(gradient),
            **shared,
        )


# --- TensorFlow: graphs


def frozen_function(function: Any) -> Any:
    """A traced function without variables, its loops kept as loops, which LiteRT and ONNX read best.

    `tf.lite` and `tf.saved_model` lower loops to v1 control flow or keep variables.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function, lower_control_flow=False)


def forget_graph_seed() -> None:
    """Let `Dataset.shuffle` take a tensor as its seed inside a graph: with a global seed it accepts numbers only."""
    import tensorflow as tf

    tf.compat.v1.get_default_graph().seed = None


def counted(ds: Any, count: int | None) -> Any:
    """A tf.data that reports `count` as its cardinality, though an epoch that was begun before has fewer batches.

    Keras reads the length of every epoch from `cardinality()` of the first; `assert_cardinality` would fail the short
    one, and tf.data has no public wrapper that only reports.
    """
    if count is None:
        return ds
    length = count
    import tensorflow as tf

    class Counted(tf.data.Dataset):
        def __init__(self, inner: Any):
            self._inner = inner
            super().__init__(inner._variant_tensor)

        def _inputs(self) -> list[Any]:
            return [self._inner]

        @property
        def element_spec(self) -> Any:
            return self._inner.element_spec

        def cardinality(self) -> Any:
            return tf.constant(length, tf.int64)

        def __len__(self) -> int:
            return length

    return Counted(ds)


def warp(images: Any, transforms: Any, size: tuple[int, int], fill: float) -> Any:
    """Pictures (n, h, w, c) under projective transforms (n, 8), bilinear, filled outside.

    The operation behind `keras.ops.image.affine_transform`, which has no fill value of one's own inside tf.data.
    """
    import tensorflow as tf

    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=size,
        fill_value=fill,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def saved_model_proto() -> Any:
    """The class of the protobuf in `saved_model.pb`. TensorFlow publishes the format, and no module for it."""
    from tensorflow.core.protobuf import saved_model_pb2

    return saved_model_pb2.SavedModel


def litert_schema() -> Any:
    """The flatbuffer classes of `.tflite` files, generated from LiteRT's schema and shipped inside TensorFlow."""
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


def litert_operations(interpreter: Any) -> set[str]:
    """The kinds of operations in an opened `.tflite` file, which its interpreter lists only to itself."""
    return {one["op_name"] for one in interpreter._get_ops_details()}
