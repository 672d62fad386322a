"""Captioners whose words are SmolLM2-135M, frozen, one for each fusion, at equal steps on Flickr8k (official splits).

What learns stands between: projection, adapters or image tokens. Features of the frozen image encoder are kept. CIDEr
and BLEU-4 are of the official test split, written greedily, with 95 % intervals; beside them stands the released
captioner, which learned its English from scratch, from the same image features. Weights are not averaged: in so few
steps an average still holds much of the closed gates.

    vtx convert smollm2_135m
    TFDS_DATA_DIR=... python benchmarks/language.py cross_attn gated concat_mlp merged_attn     # 40 minutes, two cores
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import RESULTS, processor, store

FUSIONS = ("cross_attn", "gated", "concat_mlp", "merged_attn")
OPTIONS = {"image_encoder": "efficientnet_lite2_photos", "image_shape": (224, 224, 3), "resize": "stretch"}
RELEASED = "released cross_attn_captioner/photos"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fusions", nargs="+", choices=FUSIONS)
    parser.add_argument("--epochs", type=int, default=2, help="times that each picture is shown, with one caption each")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--folder", type=Path, default=Path("runs/language"))
    args = parser.parse_args()
    path = RESULTS / "language.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for fusion in args.fusions:
        name = f"{fusion}, {args.epochs} epochs"
        rows = [row for row in rows if row["model"] != name] + [{"model": name, **one(fusion, args)}]
        rows = rows if any(row["model"] == RELEASED for row in rows) else [released(), *rows]
        command = f"python benchmarks/language.py {' '.join(FUSIONS)} --epochs {args.epochs} --rate {args.rate}"
        store("language", rows, hardware=f"{processor()}, two cores", command=command)


def one(fusion: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train one captioner, save it, and measure it."""
    from vtx_keras import data, train, tuning, zoo

    keras.utils.set_random_seed(0)
    model = zoo.build(
        f"{fusion}_captioner", weights="encoders", text_decoder="smollm2_135m", max_length=24, dropout=0.1, **OPTIONS
    )
    model.freeze("image", "words")
    behind = model.behind_encoder()
    sets = {
        split: data.features(data.load("flickr8k", split), model, args.folder / "features")
        for split in ("train", "validation")
    }
    batches = data.batches(sets["train"], behind, batch_size=64, training=True, buckets=(12, 15, 18, 24))
    held_out = data.batches(sets["validation"].take(300), behind, batch_size=64)
    if "gates" in tuning.parts(model):
        tuning.pace(model, "gates", rate=10.0)
    steps = args.epochs * len(batches)
    optimizer = train.adamw(behind, steps, learning_rate=args.rate)
    behind.compile(optimizer, loss=behind.loss, jit_compile=False)
    start = time.process_time()
    history = behind.fit(batches, validation_data=held_out, epochs=args.epochs, verbose=2)
    trained = round((time.process_time() - start) / 60, 1)
    zoo.save(model, args.folder / f"{fusion}-{args.epochs}")
    learned = sum(int(np.prod(one.shape)) for one in behind.trainable_variables)
    found = measured(model)
    return {
        **found,
        "trainable_million": round(learned / 1e6, 2),
        "steps": steps,
        "cpu_minutes": trained,
        "validation_loss": round(history.history["val_loss"][-1], 4),
    }


def released() -> dict[str, Any]:
    """Measure the captioner that learned its English from scratch."""
    from vtx_keras import zoo

    return {"model": RELEASED, **measured(zoo.build("cross_attn_captioner", weights="photos"))}


def measured(model: Any) -> dict[str, Any]:
    """Return figures of the official test split, and examples."""
    from vtx_keras import data, evaluate

    ds, start = data.load("flickr8k", "test"), time.process_time()
    results = evaluate.run(model, ds)
    row: dict[str, Any] = {"test_cpu_minutes": round((time.process_time() - start) / 60, 1)}
    for name in ("cider", "bleu_4"):
        figure = results.metrics[name]
        row[name] = round(figure["value"], 4)
        row[f"{name}_interval"] = [round(figure["low"], 4), round(figure["high"], 4)]
    return row


if __name__ == "__main__":
    main()
