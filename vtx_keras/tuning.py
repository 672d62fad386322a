"""How what learns moves: Adam in few operations, slower layers for what was learned elsewhere, limits.

tuning.pace(model, "image", rate=0.1, decay=0.9)
model.compile(tuning.PacedAdamW(3e-4), loss=model.loss, weighted_metrics=...)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from vtx_keras.layers import register
from vtx_keras.vision_text import VisionText, leaves


def pace(model: VisionText, part: str = "image", *, rate: float = 0.1, decay: float = 1.0) -> None:
    """The last layer of the "image" or "text" encoder learns at `rate` times the optimizer's rate, the others slower.

    Each layer learns at `decay` times the rate of the next. `Adam` and `PacedAdamW` of this room heed it, Keras' own do
    not; a loaded model is told anew.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3))
    >>> pace(model, "image", rate=0.1)
    >>> {variable.pace for variable in model.get_layer("image_encoder").trainable_variables}
    {0.1}
    """
    if not model.has_layer(f"{part}_encoder"):
        raise ValueError(f"pace(model, {part!r}): this model has no such encoder")
    if not 0 <= rate <= 1 or not 0 < decay <= 1:
        raise ValueError(f"rate={rate}, decay={decay}: expected shares, 0 to 1")
    layers = [layer for layer in leaves(model.get_layer(f"{part}_encoder")) if layer.weights]
    for steps, layer in enumerate(reversed(layers)):
        for variable in layer.weights:
            variable.pace = rate * decay**steps


def clipping(variables: Sequence[Any], norm: float) -> dict[str, float]:
    """How an optimizer limits gradients: all together, or one by one where their types differ and cannot be summed.

    >>> clipping(keras.layers.Dense(1).trainable_variables, 1.0)
    {'global_clipnorm': 1.0}
    """
    return {"clipnorm" if len({variable.dtype for variable in variables}) > 1 else "global_clipnorm": norm}


@register
class Adam(keras.optimizers.Adam):
    """Keras' own, which heeds `pace` and is one operation per variable on TensorFlow, where Keras makes some forty.

    Six in ten operations of a traced training step were Keras' update: `fit` begins sooner without them, and a step is
    shorter. The kernel's numbers are Keras' but for rounding.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's step, at its own pace."""
        known = self._trainable_variables[self._get_variable_index(variable)]  # TensorFlow passes its own variable
        super().update_step(gradient, variable, learning_rate * getattr(known, "pace", 1.0))

    def _kernel(self) -> Any:
        """The room with TensorFlow's kernel, where that does all that is asked for."""
        if keras.backend.backend() != "tensorflow" or type(self).update_step is not Adam.update_step:
            return None
        from vtx_keras.train import adam

        return adam if adam.fits(self) else None

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        kernel = self._kernel()
        if kernel and (self.global_clipnorm or 0) > 0:  # Keras allows one limit
            return kernel.clipped(grads, self.global_clipnorm)
        return super()._clip_gradients(grads)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        if not self._kernel():  # which decays too: Keras works out the schedule for each variable again
            super()._apply_weight_decay(variables)

    def _backend_update_step(self, grads: Sequence[Any], trainable_variables: Sequence[Any], rate: Any) -> None:
        kernel = self._kernel()
        if kernel:
            kernel.step(self, grads, [self._get_variable_index(one) for one in trainable_variables], rate)
        else:
            super()._backend_update_step(grads, trainable_variables, rate)


@register
class PacedAdamW(Adam, keras.optimizers.AdamW):
    """AdamW that heeds `pace`. Its weight decay is not slowed."""
