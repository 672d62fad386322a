"""How soon `fit` begins, and a step after it, by the zoo's Adam and by Keras' own, on TensorFlow without XLA.

Keras' Adam makes some forty operations per variable; the zoo's is TensorFlow's kernel, one. A model is built anew for
each measurement, for what is measured is the tracing of its first step; sides in turns, one thread, CPU time.

    python benchmarks/first_step.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time

from common import one_thread, store

BATCH, STEPS = 8, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    one_thread()
    import keras
    import numpy as np

    from vtx_keras import data, tuning, zoo

    pictures = np.random.default_rng(0).uniform(0, 255, (BATCH, 96, 96, 3)).astype("float32")
    words = ["a cat on a mat"] * BATCH
    rate = keras.optimizers.schedules.CosineDecay(0.0, 950, warmup_target=3e-4, warmup_steps=50)  # as train.run's
    rows = []
    for name, options in {
        "cross_attn_captioner": {"image_encoder": "vit"},
        "gated_vqa": {"image_encoder": "vit", "classes": ["no", "yes"]},
    }.items():
        makers = {"vtx_keras": tuning.PacedAdamW, "keras": keras.optimizers.AdamW}
        found: dict[str, dict[str, list[float]]] = {side: {"first_ms": [], "step_ms": []} for side in makers}
        for turn in range(rounds + 1):
            for side, make in makers.items():
                model = zoo.build(name, weights=None, size="tiny", image_shape=(96, 96, 3), **options)
                model.compile(make(rate, weight_decay=0.05, global_clipnorm=1.0), loss=model.loss, jit_compile=False)
                labels = ["yes", "no"] * (BATCH // 2) if "classes" in options else None
                batch = data.arrays(model, pictures, words, labels, batch_size=BATCH)[0]
                times = []
                for _ in range(STEPS):
                    start = time.process_time()
                    model.train_on_batch(*batch)
                    times.append(1000 * (time.process_time() - start))
                keras.backend.clear_session()
                if turn:  # the first has TensorFlow's own beginnings in it
                    found[side]["first_ms"].append(times[0])
                    found[side]["step_ms"].append(statistics.median(times[2:]))
        medians = {
            side: {what: round(statistics.median(values), 1) for what, values in times.items()}
            for side, times in found.items()
        }
        ratios = {
            f"{what}_ratio": round(medians["keras"][f"{what}_ms"] / medians["vtx_keras"][f"{what}_ms"], 2)
            for what in ("first", "step")
        }
        rows.append({"model": f"{name} tiny", "batch": BATCH, **medians, **ratios})
    store("first_step", rows)


if __name__ == "__main__":
    main()
