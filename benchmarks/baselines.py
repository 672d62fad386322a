"""Baselines without training, on the splits that the models are evaluated on: figures that a model must beat.

    python benchmarks/baselines.py [--folder DATA]     # vqa_rad only if its files were put there by hand

Emoji: the mean of a frozen EfficientNet-Lite0's features at 160 px. The name or concept of the nearest training picture
is copied; for retrieval, ridge regression from features to MiniLM's embedding of the name (one name per concept, the
shortest; strength tuned on validation). Questions: the most frequent training answer to the same words.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from common import store

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parents[1]
SIDE = 160
SPLITS = ("train", "validation", "test", "vendor", "composition")


def features(folder: str | None) -> dict[str, dict[str, np.ndarray]]:
    """Return by split: features (unit length), names, concepts and vendors."""
    import tensorflow as tf

    from vtx_keras import data
    from vtx_keras.checkpoints.published import _encoders as published
    from vtx_keras.data import _tensors as tensors

    encoder = published.load("efficientnet_lite0", image_shape=(SIDE, SIDE, 3))
    splits = {}
    for split in SPLITS:
        rows = defaultdict(list)
        ds = data.load("emoji", split, folder=folder).encoded
        ds = ds.map(lambda row: {key: row[key] for key in ("image", "name", "concept", "vendor")})
        for batch in ds.batch(64):
            pictures = tensors.fitted(batch["image"], (SIDE, SIDE, 3), "pad")
            maps = encoder.predict_on_batch(tf.cast(pictures, tf.float32))
            rows["features"].append(maps.mean(axis=(1, 2)))
            for key in ("name", "concept", "vendor"):
                rows[key] += [value.decode() for value in batch[key].numpy()]
        points = np.concatenate(rows.pop("features"))
        splits[split] = {key: np.array(value) for key, value in rows.items()}
        splits[split]["features"] = points / np.linalg.norm(points, axis=1, keepdims=True)
        print(f"{split}: {len(points)} pictures", flush=True)
    return splits


def interval(hits: np.ndarray) -> list[float]:
    """Return the mean with its 95 % bootstrap interval."""
    random = np.random.default_rng(0)
    means = [random.choice(hits, len(hits)).mean() for _ in range(1000)]
    return [round(float(x), 3) for x in (hits.mean(), *np.quantile(means, (0.025, 0.975)))]


def nearest(splits: dict, split: str, without: tuple[str, ...] = ()) -> dict:
    """Measure how often name and concept of the nearest training picture are right."""
    train, rows = splits["train"], splits[split]
    used = ~np.isin(train["vendor"], without)
    index = (rows["features"] @ train["features"][used].T).argmax(axis=1)
    hits = {key: (train[key][used][index] == rows[key]).astype(float) for key in ("name", "concept")}
    return {
        "what": f"emoji {split}: copy of the nearest training picture"
        + f", without {', '.join(without)}" * bool(without),
        "pictures": len(index),
        **{f"exact_{key}": interval(value) for key, value in hits.items()},
    }


def embeddings(splits: dict, folder: Path) -> dict[str, np.ndarray]:
    """Return MiniLM's sentence embedding of every name."""
    sys.path.insert(0, str(ROOT))
    from recipes import word_vectors
    from vtx_keras.checkpoints.published import _encoders as published

    home = folder / "minilm_l6"
    if not (home / "config.json").is_file():
        published.convert("minilm_l6", home, folder)
    names = sorted({name for rows in splits.values() for name in rows["name"]})
    return dict(zip(names, word_vectors.of(names, folder=home), strict=True))


def retrieval(splits: dict, vectors: dict[str, np.ndarray]) -> list[dict]:
    """Measure the recall of ridge regression, from a picture to the name of its concept among all of the split."""
    train = splits["train"]
    targets = np.stack([vectors[name] for name in train["name"]])
    centre, mean = train["features"].mean(axis=0), targets.mean(axis=0)
    x = train["features"] - centre
    gram, cross = x.T @ x, x.T @ (targets - mean)

    def recalls(split: str, strength: float) -> tuple[np.ndarray, np.ndarray, int]:
        rows = splits[split]
        shortest = {}
        for name, concept in zip(rows["name"], rows["concept"], strict=True):
            shortest[concept] = min(name, shortest.get(concept, name), key=lambda name: (len(name), name))
        pool = sorted(shortest.values())
        queries = np.isin(rows["name"], pool)
        weights = np.linalg.solve(gram + strength * np.eye(len(gram)), cross)
        guesses = (rows["features"][queries] - centre) @ weights + mean
        scores = guesses @ np.stack([vectors[name] for name in pool]).T
        right = np.array([pool.index(name) for name in rows["name"][queries]])
        rank = (scores > scores[np.arange(len(right)), right][:, None]).sum(axis=1)
        return (rank < 1).astype(float), (rank < 5).astype(float), len(pool)

    strengths = (0.1, 0.3, 1, 3, 10, 30)
    best = max(strengths, key=lambda strength: recalls("validation", strength)[1].mean())
    rows = []
    for split in ("test", "vendor"):
        one, five, pool = recalls(split, best)
        rows.append(
            {
                "what": f"emoji {split}: ridge from picture to MiniLM text, strength {best}",
                "pictures": len(one),
                "pool": pool,
                "recall@1": interval(one),
                "recall@5": interval(five),
            }
        )
    return rows


def questions(name: str, folder: str | None) -> list[dict]:
    """Measure the most frequent training answer to the same words, else of all questions, without the picture."""
    from vtx_keras import data

    by_question, overall = defaultdict(Counter), Counter()
    for row in data.load(name, "train+validation", folder=folder).as_numpy_iterator():
        by_question[row["question"].lower()][row["answer"]] += 1
        overall[row["answer"]] += 1
    hits = defaultdict(list)
    for row in data.load(name, "test", folder=folder).as_numpy_iterator():
        guess = (by_question[row["question"].lower()] or overall).most_common(1)[0][0]
        for kind in {"all", row["answer_type"].decode() if "answer_type" in row else "all"}:
            hits[kind].append(float(guess == row["answer"]))
    return [
        {"what": f"{name} test, {kind}: question alone", "questions": len(right), "exact": interval(np.array(right))}
        for kind, right in hits.items()
    ]


def main() -> None:
    """Measure all baselines, and store them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="the folder of the data, as for vtx data")
    folder = parser.parse_args().folder
    from vtx_keras.data import sets

    splits = features(folder)
    rows = [nearest(splits, split) for split in ("vendor", "test", "composition")]
    rows.append(nearest(splits, "vendor", without=("openmoji",)))
    rows += retrieval(splits, embeddings(splits, sets.archive_dir(folder)))
    rows += questions("easy_vqa", folder)
    if (sets.archive_dir(folder) / "vqa_rad").is_dir():
        rows += questions("vqa_rad/official", folder) + questions("vqa_rad/disjoint", folder)
    store(Path(__file__).stem, rows)


if __name__ == "__main__":
    main()
