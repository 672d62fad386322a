"""The time to the first step of `fit`, and of a later step, with the zoo's layers and Adam and with Keras' own.

TensorFlow without XLA. Keras' Adam traces some forty operations per variable; the zoo's is TensorFlow's fused kernel,
one operation. The zoo's dense layer and layer norm compute what Keras' do with fewer operations. Every measurement
builds a new model, because tracing its first step is what is measured. Sides in turns, one thread, CPU time.

    python benchmarks/first_step.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from common import one_thread, store

BATCH, STEPS = 8, 12


@contextmanager
def keras_calls(active: bool) -> Iterator[None]:
    """Make the zoo's dense layers and layer norms call the Keras layers that they inherit from, if `active`."""
    from vtx_keras.models.layers import RowDense, RowNorm

    calls = {layer: layer.call for layer in (RowDense, RowNorm) if active}
    for layer in calls:
        layer.call = layer.__base__.call
    try:
        yield
    finally:
        for layer, call in calls.items():
            layer.call = call


def times(name: str, options: dict, make: type) -> tuple[float, float]:
    """Return milliseconds from calling `fit` on a new model to the end of its first step, and of a later step."""
    import keras
    import numpy as np

    from vtx_keras import data, zoo

    rate = keras.optimizers.schedules.CosineDecay(0.0, 950, warmup_target=3e-4, warmup_steps=50)  # as train.run's
    model = zoo.build(name, weights=None, size="tiny", image_shape=(96, 96, 3), image_encoder="vit", **options)
    model.compile(make(rate, weight_decay=0.05, global_clipnorm=1.0), loss=model.loss, jit_compile=False)
    pictures = np.random.default_rng(0).uniform(0, 255, (BATCH * STEPS, 96, 96, 3)).astype("float32")
    labels = ["yes", "no"] * (len(pictures) // 2) if "classes" in options else None
    pairs = data.arrays(model, pictures, ["a cat on a mat"] * len(pictures), labels, batch_size=BATCH)
    ends = [time.process_time()]
    clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(time.process_time()))
    model.fit(pairs, verbose=0, callbacks=[clock])
    keras.backend.clear_session()
    steps = [1000 * (end - start) for start, end in pairwise(ends)]
    return steps[0], statistics.median(steps[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    one_thread()
    import keras

    from vtx_keras import tuning

    sides = {
        "vtx_keras": (tuning.PacedAdamW, False),
        "keras_layers": (tuning.PacedAdamW, True),
        "keras": (keras.optimizers.AdamW, True),
    }
    rows = []
    for name, options in {"cross_attn_captioner": {}, "gated_vqa": {"classes": ["no", "yes"]}}.items():
        measured: dict[str, dict[str, list[float]]] = {side: {"first_ms": [], "step_ms": []} for side in sides}
        for turn in range(rounds + 1):
            for side, (make, layers_of_keras) in sides.items():
                with keras_calls(layers_of_keras):
                    first, later = times(name, options, make)
                if turn:  # the first turn includes TensorFlow's initialization
                    measured[side]["first_ms"].append(first)
                    measured[side]["step_ms"].append(later)
        medians = {
            side: {what: round(statistics.median(values), 1) for what, values in figures.items()}
            for side, figures in measured.items()
        }
        ratios = {
            f"{what}_ratio": round(medians["keras"][f"{what}_ms"] / medians["vtx_keras"][f"{what}_ms"], 2)
            for what in ("first", "step")
        }
        rows.append({"model": f"{name} tiny", "batch": BATCH, **medians, **ratios})
    store("first_step", rows)


if __name__ == "__main__":
    main()
