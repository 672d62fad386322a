"""Findings from a chest image and its record: both, each alone, the note with and without the words that tell it.

    vtx convert minilm_l6                   # once
    python -m recipes.systems.diagnosis     # ten minutes on two cores

**For research, not for diagnosis.** The published test split has 57 images of 29 patients, too few for an area under a
curve. So all patients are tested, in five parts: each by a model that learned from the patients of the other four. What
is fixed before (SETTINGS) was chosen on other data, and no epoch is picked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from recipes.families.examples import without
from recipes.systems import arrays, trials
from vtx_keras import data, metrics, train, zoo
from vtx_keras.metrics import Measure

FINDINGS = ("COVID-19", "No Finding", "Pneumocystis", "ARDS", "SARS", "Streptococcus")  # those of five patients or more
OPTIONS = {
    "image_encoder": "efficientnet_lite0", "image_shape": (224, 224, 3), "text_encoder": "minilm_l6", "dim": 128,
    "depth": 1, "dropout": 0.4, "max_length": 64, "classes": list(FINDINGS), "multi_label": True, "allow_empty": True,
}  # fmt: skip
SETTINGS = {"epochs": 8, "batch_size": 32, "learning_rate": 5e-4}
PARTS = 5
SPLITS = "train+validation+test"
TRIALS = {
    "image and masked note": ("masked", ""),
    "image alone": ("masked", "words"),
    "masked note alone": ("masked", "picture"),
    "image and whole note": ("notes", ""),
    "whole note alone": ("notes", "picture"),
}


def cases(notes: str, part: str = "") -> data.Examples:
    """Load all cases: the record is sex, age and note; "picture" or "words" can be left out."""

    def plain(row: dict) -> dict:
        record = tf.strings.reduce_join([row["sex"], row["age"], row["text"]], separator=" ")
        return {"image": row["image"], "image_id": row["image_id"], "text": record, "label": row["findings"]}

    return without(data.Examples(data.load(f"chest_xray/{notes}", SPLITS).encoded.map(plain)), part)


def model() -> Any:
    """Build a classifier of several findings between two frozen encoders."""
    built = zoo.build("cross_attn_classifier", weights="encoders", **OPTIONS)
    built.freeze("image", "text")
    return built


def part_of(patient: str) -> int:
    """Return the part in which a patient is tested.

    >>> sorted({part_of(str(number)) for number in range(100)})
    [0, 1, 2, 3, 4]
    """
    return int(hashlib.sha256(f"chest_xray {patient}".encode()).hexdigest(), 16) % PARTS


def folds(patients: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield which cases a model learns from, and which it is tested on, for each part."""
    where = np.array([part_of(patient) for patient in patients])
    for part in range(PARTS):
        yield where != part, where == part


def logits(kept: arrays.Kept, seed: int) -> np.ndarray:
    """Return logits (cases, findings), each of a model that has not seen the patient."""
    result = np.zeros(kept.classes.shape)
    for learned, tested in folds([row.group for row in kept.rows]):
        keras.utils.set_random_seed(seed)
        built = arrays.behind(model())
        inputs = {name: value[learned] for name, value in kept.inputs.items()}
        steps = SETTINGS["epochs"] * -(-int(learned.sum()) // SETTINGS["batch_size"])
        optimizer = train.adamw(built, steps, learning_rate=SETTINGS["learning_rate"])
        built.compile(optimizer, loss=built.loss, jit_compile=False)
        how = {"batch_size": SETTINGS["batch_size"], "epochs": SETTINGS["epochs"], "verbose": 0}
        built.fit(inputs, kept.classes[learned], **how)
        result[tested] = built.predict({name: value[tested] for name, value in kept.inputs.items()}, verbose=0)
    return result


def measured(scores: np.ndarray, kept: arrays.Kept) -> dict[str, Measure]:
    """Return the area under the ROC curve of each finding and their mean, and the calibration error."""
    parts = np.array([part_of(row.group) for row in kept.rows])
    areas = {name: within(scores[:, at], kept.classes[:, at], parts) for at, name in enumerate(FINDINGS)}
    mean = Measure(lambda weights: float(np.nanmean([one.of(weights) for one in areas.values()])), scores[:, 0])
    chances = 1 / (1 + np.exp(-scores))
    return {"mean AUROC": mean, **areas, "calibration error": metrics.calibration(chances, kept.classes)}


def within(scores: np.ndarray, truth: np.ndarray, parts: np.ndarray) -> Measure:
    """Return the area under the ROC curve among the cases of one part, in the mean by the number of pairs.

    Cases of two parts were judged by two models: where a finding is frequent in a part, it is rarer among the patients
    that its model learned from, so that scores across parts would tell the parts apart.

    >>> scores, truth, parts = np.array([2.0, 1.0, 0.1, 0.0]), np.array([1, 0, 1, 0]), np.array([0, 0, 1, 1])
    >>> within(scores, truth, parts).value
    1.0
    """
    chosen = [parts == part for part in np.unique(parts)]
    areas = [metrics.auroc(scores[one], truth[one]) for one in chosen]

    def of(weights: np.ndarray) -> float:
        values = np.array([area.of(weights[one]) for area, one in zip(areas, chosen, strict=True)])
        counts = [(weights[one] * truth[one]).sum() * (weights[one] * (1 - truth[one])).sum() for one in chosen]
        known = np.isfinite(values)
        total = np.array(counts)[known].sum()
        return float((values[known] * np.array(counts)[known]).sum() / total) if total else float("nan")

    return Measure(of, np.full(len(scores), np.nan))


def main() -> None:
    """Run all trials and store the figures."""
    rows: dict[str, list[dict[str, Measure]]] = {}
    for name, (notes, part) in TRIALS.items():
        kept = arrays.kept(model(), cases(notes, part))
        rows[name] = [measured(logits(kept, seed), kept) for seed in trials.SEEDS]
        print(name, *(f"{one['mean AUROC'].value:.3f}" for one in rows[name]), flush=True)
    frequent = measured(prior(kept), kept)
    rows["how often, among the others"] = [{"calibration error": frequent["calibration error"]}]
    groups = [row.group for row in kept.rows]
    names = ("mean AUROC", *FINDINGS, "calibration error")
    pairs = [("image and masked note", other) for other in ("image alone", "masked note alone")]
    pairs += [("image and whole note", other) for other in ("whole note alone", "image and masked note")]
    counts = {name: int(kept.classes[:, at].sum()) for at, name in enumerate(FINDINGS)}
    found = trials.compared(rows, names, groups, pairs)
    trials.store("diagnosis", rows=len(groups), patients=len(set(groups)), counts=counts, **found)


def prior(kept: arrays.Kept) -> np.ndarray:
    """Return as logits how often each finding is among the patients of the other parts."""
    where = np.array([part_of(row.group) for row in kept.rows])
    shares = np.stack([kept.classes[where != part].mean(axis=0) for part in range(PARTS)])[where]
    return np.log(shares / (1 - shares))


if __name__ == "__main__":
    main()
