"""How well a captioner learns from few pictures: 20, 100, 400 of flowers or fashion, fine-tuned as `vtx train` does.

Beside it, on the same held-out pictures: the untouched model, the caption of the nearest training picture, and the
consensus of the nearest ones. CIDEr with the mean over draws of the training pictures, each draw other pictures.

    TFDS_DATA_DIR=... python benchmarks/few.py flowers --draws 2     # photographs in the manual folder: docs/data.md
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import store

TAG = "photos"
HELD_OUT = 300  # pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=("flowers", "fashion"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 100, 400])
    parser.add_argument("--draws", type=int, default=2)
    args = parser.parse_args()
    rows = {split: rows_of(args.set, split) for split in ("train", "test")}
    test = chosen(rows["test"], HELD_OUT, 0)
    results = []
    for size in args.sizes:
        found = [one_draw(chosen(rows["train"], size, draw + 1), test) for draw in range(args.draws)]
        row = {"set": args.set, "pictures": size, "draws": args.draws}
        for name in found[0]:
            values = [one[name] for one in found]
            row[name] = round(float(np.mean(values)), 4)
            row[f"{name}_spread"] = round(float(np.ptp(values)), 4)
        results.append(row)
        print(json.dumps(row), flush=True)
    store(f"few_{args.set}", results)


def rows_of(name: str, split: str) -> list[dict[str, str]]:
    """Return the rows {"path", "caption"} of a split of a set in the manual folder."""
    from vtx_keras import data

    folder = data.sets.archive_dir()
    at, table, images, text = {
        "flowers": ("flowers102", "captions.csv", "jpg", "caption"),
        "fashion": ("fashion", "products.csv", "images", "title"),
    }[name]
    with (folder / at / table).open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == split]
    return [{"path": str(folder / at / images / Path(row["image"]).name), "caption": row[text]} for row in rows]


def chosen(rows: list[dict], count: int, seed: int) -> list[dict]:
    """Return `count` rows at random."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return [rows[place] for place in order[:count]]


def one_draw(train_rows: list[dict], test_rows: list[dict]) -> dict[str, float]:
    """Fine-tune on rows as `vtx train` does, and return CIDEr of the model and of the baselines on others."""
    from vtx_keras import data, evaluate, train, zoo
    from vtx_keras.inputs import text
    from vtx_keras.train._settings import by_rows

    def examples(rows: list[dict]) -> Any:
        import tensorflow as tf

        return data.Examples(tf.data.Dataset.from_tensor_slices({key: [row[key] for row in rows] for key in rows[0]}))

    cache = "runs/features"
    start = zoo.build("cross_attn_captioner", weights=TAG)
    start.freeze("image")
    pairs, held_out = examples(train_rows), examples(test_rows)
    kept = [data.features(one, start, cache) for one in (pairs, held_out)]
    names = ("nearest_neighbour", "consensus")
    untouched = evaluate.run(start.behind_encoder(), kept[1], train=kept[0], baselines=names, draws=20)
    words = text.extended(start.vocabulary, [row["caption"] for row in train_rows])
    model = zoo.build("cross_attn_captioner", weights=TAG, vocabulary=words)
    model.freeze("image")
    cpu = time.process_time()
    folder = Path("runs") / f"few-{time.time_ns()}"  # beside the kept features
    settings = {**by_rows(len(train_rows)), "samples": 0, "verbose": False, "jit_compile": False}
    train.run(model, pairs, folder, **settings)
    shutil.rmtree(folder)
    cpu = time.process_time() - cpu
    tuned = evaluate.run(model.behind_encoder(), kept[1], baselines=(), draws=20)
    figures = {"untouched": untouched.metrics, "fine_tuned": tuned.metrics, **untouched.baselines}
    return {**{name: values["cider"]["value"] for name, values in figures.items()}, "cpu_s": cpu}


if __name__ == "__main__":
    main()
