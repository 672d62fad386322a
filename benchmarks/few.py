"""How well a captioner learns from few pictures of Flickr8k (validation), flowers or fashion, as `vtx train` does.

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
from common import processor, store

TAG = "photos"
HELD_OUT = 300  # pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=("flickr8k", "flowers", "fashion"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 100, 400])
    parser.add_argument("--draws", type=int, default=2)
    args = parser.parse_args()
    train_rows, test_rows = rows_of(args.set)
    test = chosen(test_rows, HELD_OUT, 0)
    results = []
    for size in args.sizes:
        found = [one_draw(chosen(train_rows, size, draw + 1), test) for draw in range(args.draws)]
        row = {"set": args.set, "pictures": size, "draws": args.draws}
        for name in found[0]:
            values = [one[name] for one in found]
            row[name] = round(float(np.mean(values)), 4)
            row[f"{name}_spread"] = round(float(np.ptp(values)), 4)
        results.append(row)
        print(json.dumps(row), flush=True)
    sizes = " ".join(map(str, args.sizes))
    command = f"python benchmarks/few.py {args.set} --sizes {sizes} --draws {args.draws}"
    store(f"few_{args.set}", results, hardware=f"{processor()}, all cores", command=command)


def rows_of(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows {"path", "captions"} to learn from and those that are held out, of a set in the manual folder.

    Of Flickr8k both are of the validation split: the released captioner was not trained on it, but its epoch was chosen
    by some of these pictures.
    """
    from vtx_keras import data

    folder = data.sets.archive_dir()
    if name == "flickr8k":
        return _halves_of_flickr8k(folder / "flickr8k")
    at, table, images, text = {
        "flowers": ("flowers102", "captions.csv", "jpg", "caption"),
        "fashion": ("fashion", "products.csv", "images", "title"),
    }[name]
    with (folder / at / table).open(encoding="utf-8", newline="") as lines:
        table_rows = list(csv.DictReader(lines))
    captions: dict[tuple[str, str], list[str]] = {}
    for row in table_rows:
        captions.setdefault((row["split"], Path(row["image"]).name), []).append(row[text])
    found: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for (split, image), texts in captions.items():
        if split in found:
            found[split].append({"path": str(folder / at / images / image), "captions": texts})
    return found["train"], found["test"]


def _halves_of_flickr8k(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    captions: dict[str, list[str]] = {}
    for line in (folder / "Flickr8k_text" / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        name, caption = line.split("\t")
        captions.setdefault(name.split("#")[0], []).append(caption)
    names = (folder / "Flickr8k_text" / "Flickr_8k.devImages.txt").read_text(encoding="utf-8").split()
    rows = [{"path": str(folder / "Flicker8k_Dataset" / name), "captions": captions[name]} for name in names]
    return rows[HELD_OUT:], rows[:HELD_OUT]


def chosen(rows: list[dict], count: int, seed: int) -> list[dict]:
    """Return `count` rows at random."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return [rows[place] for place in order[:count]]


def one_draw(train_rows: list[dict], test_rows: list[dict]) -> dict[str, float]:
    """Fine-tune on rows as `vtx train` does, and return CIDEr of the model and of the baselines on others."""
    from vtx_keras import data, evaluate, train, zoo
    from vtx_keras.inputs import text

    def examples(rows: list[dict]) -> Any:
        import tensorflow as tf

        form = {"path": tf.TensorSpec((), tf.string), "captions": tf.TensorSpec((None,), tf.string)}
        source = tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=form)
        return data.Examples(source.apply(tf.data.experimental.assert_cardinality(len(rows))))

    cache = "runs/features"
    start = zoo.build("cross_attn_captioner", weights=TAG)
    start.freeze("image")
    pairs, held_out = examples(train_rows), examples(test_rows)
    kept = [data.features(one, start, cache) for one in (pairs, held_out)]
    names = ("nearest_neighbour", "consensus")
    untouched = evaluate.run(start.behind_encoder(), kept[1], train=kept[0], baselines=names, draws=20)
    words = text.extended(start.vocabulary, [caption for row in train_rows for caption in row["captions"]])
    model = zoo.build("cross_attn_captioner", weights=TAG, vocabulary=words)
    model.freeze("image")
    cpu = time.process_time()
    folder = Path("runs") / f"few-{time.time_ns()}"  # beside the kept features
    settings = train.suited(model, pairs)
    train.run(model, pairs, folder, samples=0, verbose=False, jit_compile=False, **settings)
    shutil.rmtree(folder)
    cpu = time.process_time() - cpu
    tuned = evaluate.run(model.behind_encoder(), kept[1], baselines=(), draws=20)
    figures = {"untouched": untouched.metrics, "fine_tuned": tuned.metrics, **untouched.baselines}
    return {**{name: values["cider"]["value"] for name, values in figures.items()}, "cpu_s": cpu}


if __name__ == "__main__":
    main()
