"""Adam's update on TensorFlow as one operation per variable, where Keras' own makes some forty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def fits(optimizer: Any) -> bool:
    """Whether `step` does all that `optimizer` does; 1 - beta would be nothing in half precision."""
    whole = all(variable.dtype == "float32" for variable in optimizer._trainable_variables)
    return whole and not optimizer.amsgrad and not tf.distribute.has_strategy()  # where gradients are summed first


def clipped(gradients: Sequence[Any], norm: float) -> list[Any]:
    """The gradients made shorter all together, so that their common length is at most `norm`; not finite, all are NaN.

    >>> [float(one) for one in clipped([tf.constant(3.0), tf.constant(4.0)], 1.0)]
    [0.6000000238418579, 0.800000011920929]
    """
    found = [tf.convert_to_tensor(one) for one in gradients]  # rows of a table arrive apart
    length = tf.sqrt(2 * tf.add_n([tf.nn.l2_loss(one) for one in found]))
    shrink = norm / tf.maximum(length, norm) + (length - length)
    return [one * shrink for one in found]


def step(optimizer: Any, gradients: Sequence[Any], places: Sequence[int], rate: Any) -> None:
    """What `optimizer` does with `gradients`, each of the variable at its place: decay, momenta, the step.

    The kernel's numbers are Keras' but for rounding. What all variables share is worked out once.
    """
    count, rate = tf.cast(optimizer.iterations + 1, tf.float32), tf.cast(rate, tf.float32)
    shared = {
        "beta1_power": tf.pow(optimizer.beta_1, count),
        "beta2_power": tf.pow(optimizer.beta_2, count),
        "beta1": tf.constant(optimizer.beta_1),
        "beta2": tf.constant(optimizer.beta_2),
        "epsilon": tf.constant(optimizer.epsilon),
    }
    decay = None if optimizer.weight_decay is None else rate * optimizer.weight_decay
    for gradient, place in zip(gradients, places, strict=True):
        known = optimizer._trainable_variables[place]
        variable, pace = known.value, getattr(known, "pace", 1.0)
        if decay is not None and optimizer._use_weight_decay(known):
            variable.assign_sub(variable * decay)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=optimizer._momentums[place].value.handle,
            v=optimizer._velocities[place].value.handle,
            lr=rate if pace == 1 else rate * pace,
            grad=tf.convert_to_tensor(gradient),  # rows of a table arrive apart
            **shared,
        )
