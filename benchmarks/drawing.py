"""Which fusion learns to draw what the words say? Three generators at equal steps on `shapes`, three seeds each.

Pictures are 32 px here, so that a run takes minutes; what is drawn is read by the rule of the data set, beside real
pictures of that size, which the rule does not always read either.

    TFDS_DATA_DIR=... python benchmarks/drawing.py --epochs 14
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time

import keras
import numpy as np
from common import processor, store

FUSIONS = ("concat_mlp", "gated", "cross_attn")
SHOWN = ("colour_right", "size_right", "shape_right", "frechet_mobilenet_v2", "diversity")
SIDE, RATE_OF_AVERAGE = 32, 0.99


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    rows = []
    for seed in range(args.seeds):  # in turns, so that all have the same machine
        for fusion in FUSIONS:
            rows.append(one_run(fusion, seed, args.epochs))
            print(json.dumps(rows[-1]), flush=True)
    results = []
    for fusion in FUSIONS:
        own = [row for row in rows if row["fusion"] == fusion]
        seconds = round(float(np.mean([row["seconds"] for row in own])))
        about = {"fusion": fusion, "runs": len(own), "parameters": own[0]["parameters"], "seconds": seconds}
        results.append(about | averaged([row["figures"]["model"] for row in own]))
    results.append({"fusion": "real", "runs": len(rows)} | averaged([row["figures"]["real"] for row in rows]))
    command = f"python benchmarks/drawing.py --epochs {args.epochs} --seeds {args.seeds}"
    store("drawing", results, hardware=f"{processor()}, all cores", command=command)


def averaged(found: list[dict]) -> dict[str, float]:
    """Return the mean of each figure over runs, and how far the runs lie apart."""
    values = {name: [one[name] for one in found] for name in SHOWN}
    means = {name: round(float(np.mean(one)), 4) for name, one in values.items()}
    return means | {f"{name}_spread": round(float(np.ptp(one)), 4) for name, one in values.items()}


def one_run(fusion: str, seed: int, epochs: int) -> dict:
    """Train one generator, and return what the rule reads in its drawings of the validation split's texts."""
    from vtx_keras import data, evaluate, train, zoo
    from vtx_keras.data._load import judges

    def enlarged(read):
        return lambda pictures: read(np.repeat(np.repeat(pictures, 64 // SIDE, axis=1), 64 // SIDE, axis=2))

    examples, held_out = data.load("shapes", "train"), data.load("shapes", "validation")
    keras.utils.set_random_seed(seed)
    texts = sorted({one.decode() for row in examples.encoded.as_numpy_iterator() for one in row["captions"]})
    model = zoo.build(
        f"{fusion}_generator", weights=None, vocabulary=texts, dtype="mixed_bfloat16", max_length=16,
        image_shape=(SIDE, SIDE, 3), changes="shift",
    )  # fmt: skip
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        train.run(
            model, examples, f"{folder}/run", epochs=epochs, seed=seed, ema=RATE_OF_AVERAGE, samples=0, verbose=False,
            save_every=10_000,
        )  # fmt: skip
        seconds = round(time.monotonic() - start)
        model = zoo.build(model.spec["name"], weights=f"{folder}/run/last", dtype="float32")
    rules = {name: enlarged(read) for name, read in judges("shapes").items()}
    found = evaluate.run(model, held_out, judges=rules, draws=2, seed=seed)
    sets = {"model": found.metrics, "real": found.baselines["real"]}
    figures = {name: {key: figure["value"] for key, figure in one.items()} for name, one in sets.items()}
    generator = model.count_params() - model.get_layer("discriminator").count_params()
    return {"fusion": fusion, "seed": seed, "seconds": seconds, "parameters": generator, "figures": figures}


if __name__ == "__main__":
    main()
