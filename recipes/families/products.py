"""Releases for products: gender, type and colour from picture and title; search by words and pictures.

They are the models of `recipes.systems.products` and `recipes.systems.search`, whose seed 0 is released.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from recipes.families import photos
from recipes.release import TRAINING, Release
from recipes.systems import products, search, trials
from recipes.systems.trials import Trial
from vtx_keras import data
from vtx_keras._files import write

LICENCE = "research and education: see the data sets"
SAMPLE = {  # drawings by one artist of `emoji`: the photographs of `fashion` may not be shown
    "t-shirt": "men, tshirts, blue",
    "jeans": "men, jeans, blue",
    "dress": "women, dresses, green",
    "running shoe": "men, sports shoes, white",
    "high-heeled shoe": "women, heels, red",
    "handbag": "women, handbags, brown",
    "sunglasses": "men, sunglasses, black",
    "watch": "men, watches, brown",
    "necktie": "men, ties, blue",
    "backpack": "unisex, backpacks, red",
    "billed cap": "unisex, caps, blue",
    "lipstick": "women, lipstick, red",
}
SOURCES = (("the pictures of this card: Noto Emoji, of the data set `emoji`", "Apache-2.0, Google"),)
DRAWN = "The pictures below are emoji (Noto): the photographs it learned from may not be shown."


def labeller(recipe: str) -> Release:
    """Return the release of a classifier of products."""
    return Release(
        recipe,
        about="Names gender, type and colour of a product from its studio photograph and its title, or from either "
        "alone. The photograph, at 160 × 160 px, is encoded by a frozen EfficientNet-Lite0; the title is read by one "
        f"layer. {DRAWN}",
        expect="With a title nearly all is right; by the photograph alone kind and gender are often right, colours "
        "seldom. Where it is unsure of an attribute it names none, or two. It knows what one Indian shop sold: "
        "clothes, shoes, bags, watches, cosmetics, photographed in front of white. Colours are the shop's own words "
        "(navy blue, blue). Gender is whom the shop sells to.",
        sets=("fashion",),
        sources=SOURCES,
        examples=labelled,
        eval_splits={
            "test": "titles never trained on; accuracies of each attribute: docs/systems.md",
            "test without words": "the same, by the photograph alone",
            "test without picture": "the same, by the title alone",
        },
        example_split="sample",
        options={**products.READER},
        words=lambda: products.reader().vocabulary,
        trained=lambda model, folder: best(products.attributes_trial(), "attributes-both-0", folder),
        rows=7_499 * 5 // 3,
        epochs=6,
        batch_size=64,
        kept_features=True,
        shown=("exact", "f1_micro"),
        baselines=("most_frequent",),
        licence=LICENCE,
        formats=(("litert", None), ("litert", "int8"), ("onnx", None)),
    )


def searcher(recipe: str) -> Release:
    """Return the release of a retriever of products."""
    return Release(
        recipe,
        about="Finds products by words, and products like a picture: two towers. The photograph, at 160 × 160 px, is "
        "encoded by a frozen EfficientNet-Lite0, a title by two layers. Embeddings can be added: a picture and "
        f'"blue" find what is like it, but blue (`like` in recipes/systems/search.py). {DRAWN}',
        expect="It knows what one Indian shop sold, in front of white, and the shop's words. Type and colour are "
        "mostly right among the first results; brands only where the title says them.",
        sets=("fashion",),
        sources=SOURCES,
        examples=captioned,
        eval_splits={"test": "titles never trained on; more searches: docs/systems.md"},
        example_split="sample",
        options={**search.OPTIONS},
        words=lambda: search.model().vocabulary,
        trained=lambda model, folder: best(search.trial(), "search-0", folder),
        rows=7_499,
        epochs=search.SETTINGS["epochs"],
        batch_size=search.SETTINGS["batch_size"],
        kept_features=True,
        shown=tuple(f"{way}_recall_{most}" for way in ("image_to_text", "text_to_image") for most in (1, 10)),
        licence=LICENCE,
        formats=(("litert", None), ("litert", "int8"), ("onnx", None)),
    )


def captioned(split: str) -> data.Examples:
    """Load products with titles, or drawings of some with their names ("sample")."""
    return sample({"caption": ""}) if split == "sample" else search.products(split)


def best(trial: Trial, name: str, folder: Path) -> Path:
    """Return the best weights of a trial's run with seed 0, trained where it was not yet; tell in `folder` how long."""
    _, seconds = trials.trained(trial, trials.RUNS / name)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / TRAINING, json.dumps({"wall_minutes": round(seconds / 60, 1)}))
    return trials.RUNS / name / "best"


def labelled(split: str) -> data.Examples:
    """Load products with labels, or drawings of some ("sample")."""
    return sample({"text": "", "label": [""]}) if split == "sample" else products.labelled(split)


def sample(fields: Mapping[str, Any]) -> data.Examples:
    """Return drawings of products with these fields: a text is the drawing's name, a caption its colour and type."""

    def rows() -> Iterator[dict]:
        for name, labels in SAMPLE.items():
            label = labels.split(", ")
            words = f"{label[2]} {label[1]}"  # as the shop calls it
            found = {"text": name, "caption": words, "label": label}
            yield {"image": pictures[name], "name": name, **{field: found[field] for field in fields}}

    pictures = {
        row["caption"].decode(): row["image"]
        for split in ("train", "validation", "test")
        for row in data.load("emoji", split, where=lambda row: row["vendor"] == "noto").encoded.as_numpy_iterator()
    }
    form = {name: tf.TensorSpec((None,) if name == "label" else (), tf.string) for name in ("image", "name", *fields)}
    return photos.as_examples(rows, len(SAMPLE), form)
