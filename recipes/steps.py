"""The steps that all models' recipes share: train, evaluate, export, write the card.

    python -m zoo.cross_attn_captioner.emoji.recipe            # all steps: train, judge, export, card
    python -m zoo.cross_attn_captioner.emoji.recipe card       # only some of them

A recipe is a `Release`. Training runs are kept in `runs/`, and an interrupted one is resumed. The release is written
beside the recipe: weights as float16, `results.json`, example pictures and the card. Every figure on a card comes from
`results.json` and was measured on the released file.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from recipes import cards, copies
from recipes.release import TRAINING, Release
from vtx_keras import data, evaluate, explain, export, media, text, train, zoo
from vtx_keras.checkpoints._folder import WEIGHTS
from vtx_keras.data._examples import expected, image_of
from vtx_keras.evaluate import _pages as pages
from vtx_keras.evaluate._run import _weights_hash as weights_hash
from vtx_keras.inputs.text import TEXT_FIELDS

SHEET = 8  # pictures of each text on a generator's sheet
STEPS = ("train", "judge", "export", "card")
EMOJI_ENCODER = {"image_encoder": "mobilenet_v2_emoji", "image_shape": (97, 97, 3)}
TEXTS = ("prompt", "caption", "question", "answer", "text")  # the fields of an example that a card shows
EXPORT_FIGURES = (
    "format", "form", "quantize", "n", "identical", "metric", "metric_model", "metric_artifact", "megabytes", "ms_p50",
    "peak_megabytes",
)  # fmt: skip


def main(release: Release) -> None:
    """Run the steps that the command line names, or all of them."""
    parser = argparse.ArgumentParser(description=release.about)
    parser.add_argument("steps", nargs="*", choices=[*STEPS, []], help=f"some of {', '.join(STEPS)}; all by default")
    parser.add_argument("--new", action="store_true", help="train from scratch, even if there is a run")
    args = parser.parse_args()
    for step in args.steps or STEPS:
        if step == "train":
            train_release(release, args.new)
        else:
            {"judge": evaluate_release, "export": export_release, "card": write_card}[step](release)


def train_release(release: Release, new: bool = False) -> None:
    """Train the model behind its frozen encoder, and write the released weights."""
    cpu, examples = time.process_time(), release.examples("train")
    model = initial_model(release, examples)
    if model.has_layer("image_encoder"):
        model.freeze("image")
    if release.copies > 1:
        examples = copies.with_copies(examples, model.image_shape, release.copies)
    if new and release.run.exists():
        release.run.rename(release.run.with_name(f"{release.run.name}.{int(time.time())}"))
    resumed = (release.run / "last").is_dir()
    if release.trained is not None:
        best = release.trained(model, release.run)
    else:
        history = train.run(
            model, examples, release.run, epochs=release.epochs, batch_size=release.batch_size, ema=0.99, samples=0,
            learning_rate=release.learning_rate,
        )  # fmt: skip
        best = history.folder / "last"
    minutes = round((time.process_time() - cpu) / 60, 1)
    for file in zoo.save(zoo.load(best), release.run / "released", half=True).iterdir():
        shutil.copy2(file, release.folder / file.name)
    training = {"rows": release.rows or count(examples), "epochs": release.epochs}
    elsewhere = release.run / TRAINING
    if elsewhere.exists():
        told = json.loads(elsewhere.read_text(encoding="utf-8"))
        cards.update_results(release.folder, training={**told, **training})
    elif not resumed:
        cards.update_results(release.folder, training={"cpu_minutes": minutes, **training})
    elif training.items() - cards.read_results(release.folder).get("training", {}).items():  # it was interrupted
        seconds = json.loads((release.run / "run.json").read_text(encoding="utf-8"))["seconds"]
        cards.update_results(release.folder, training={"minutes": round(seconds / 60, 1), **training})


def initial_model(release: Release, examples: data.Examples, pretrained: bool = True) -> Any:
    """Build the release's model as it is before training."""
    keras.utils.set_random_seed(0)
    options = {**release.options, **({"image_encoder": release.encoder()} if release.encoder else {})}
    start = None
    if release.start_from is not None:
        name, tag = release.start_from.split("/")
        start = zoo.build(name, weights=tag)
    words = release.words() if release.words else release.vocabulary_size if start is None else start.vocabulary
    model = build_model(release.name, examples, options, words=words, pretrained=pretrained)
    if start is not None:
        copy_weights(start, model)
    if release.prepare is not None:
        release.prepare(model)
    return model


def build_model(
    name: str,
    examples: data.Examples,
    options: Mapping[str, Any],
    *,
    words: int | Sequence[str] | None = 2000,
    seed: int = 0,
    pretrained: bool = True,
) -> Any:
    """Build a model whose classes come from the examples. `words`: a vocabulary, or the size of one to learn."""
    keras.utils.set_random_seed(seed)
    rows = list(examples.encoded.as_numpy_iterator())
    texts = [row[name].decode() for row in rows for name in ("prompt", "caption", "question", "text") if name in row]
    texts += [one.decode() for row in rows for one in row.get("captions", ())]
    sees = "image_encoder" in zoo.describe(name)["options"]
    options = {**(EMOJI_ENCODER if sees else {}), "max_length": 24, "dropout": 0.1, **options}
    if zoo.describe(name)["task"] in ("vqa", "classifier"):
        labels = (label for row in rows for label in np.atleast_1d(row["answer" if "answer" in row else "label"]))
        options["classes"] = sorted({label.decode() for label in labels})
    published = isinstance(options.get("image_encoder"), str) and pretrained
    vocabulary = text.vocabulary(texts, size=words) if isinstance(words, int) else text.vocabulary(words)
    return zoo.build(name, weights="encoders" if published else None, vocabulary=vocabulary, **options)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy every weight of `source` that `target` has too, under the same path and in the same shape."""
    weights = {variable.path: variable for layer in source.layers for variable in layer.weights}
    for variable in (variable for layer in target.layers for variable in layer.weights):
        if variable.path in weights and weights[variable.path].shape == variable.shape:
            variable.assign(weights[variable.path])


def count(examples: data.Examples | tf.data.Dataset) -> int:
    """Return how many examples there are."""
    return int(getattr(examples, "encoded", examples).cardinality())


def evaluate_release(release: Release) -> None:
    """Evaluate the released weights and the baselines on every split, and store figures and examples."""
    model = zoo.build(release.name, weights=release.folder)
    other = None if release.baselines_from is None else release.folder.parents[1] / release.baselines_from
    stored = {} if other in (None, release.folder) else cards.read_results(other).get("splits", {})
    splits, judged, examples = {}, model, release.examples
    if release.kept_features:
        model.freeze("image")
        judged = model.behind_encoder()

        def examples(split: str) -> Any:
            return data.features(release.examples(split), model, "runs/features")

    for split, description in release.eval_splits.items():
        baselines = () if stored.get(split, {}).get("baselines") else release.baselines
        report = evaluate.run(
            judged,
            examples(split),
            train=examples(release.train_split(split)) if baselines else None,
            baselines=baselines,
            **({"beams": release.beams} if release.beams > 1 else {}),
            **({} if release.judges is None else {"judges": release.judges()}),
        )
        print(f"{split}\n{report.table()}", flush=True)
        figures = report.as_dict()
        splits[split] = {
            "what": description,
            **({"shown": list(release.shown)} if release.shown else {}),
            **{key: figures[key] for key in ("kind", "rows", "groups", "metrics")},
            "weights_sha256": weights_hash(model),
            "baselines": figures["baselines"] or stored[split]["baselines"],
        }
    cards.update_results(
        release.folder,
        model=release.name,
        data=", ".join(release.sets),
        licence=release.licence,
        parameters=model.count_params(),
        megabytes=round((release.folder / WEIGHTS).stat().st_size / 1e6, 2),
        splits=splits,
        examples=example_rows(release, model),
        **({} if release.besides is None else {"besides": release.besides(model)._asdict()}),
    )


def example_rows(release: Release, model: keras.Model, most: int = 12) -> list[dict[str, Any]]:
    """Take every n-th example of a split, right or wrong, and store its picture beside the weights."""
    for old in release.folder.glob("*.png"):
        old.unlink()
    rows = list(release.examples(release.shown_split).encoded.as_numpy_iterator())
    if hasattr(model, "draw"):
        return example_drawings(release, model, rows[:: max(1, len(rows) // most)][:most])
    examples, inputs = [], []
    for number, row in enumerate(rows[:: max(1, len(rows) // most)][:most]):
        clip = len(model.image_shape) == 4
        stored = image_of(row)
        picture = media.read_clip(stored, model.image_shape[0])[0] if clip else media.read(stored)
        texts = {name: row[name].decode() for name in TEXTS if name in row}
        if np.ndim(row.get("label")) == 1:
            texts["label"] = ", ".join(name.decode() for name in row["label"])
        title = row["name"].decode() if "name" in row else texts.get("caption", f"example {number}")
        file = re.sub(r"\W+", "-", title).strip("-").lower()[:60] + ".png"
        if release.kept_features:  # a photograph, whose shape the model is used to
            small = Image.fromarray(picture)
            small.thumbnail((224, 224))
        else:
            small = Image.fromarray(media.resize(picture, (128, 128)))
        small.save(release.folder / file, optimize=True)
        inputs.append(stored if clip else release.folder / file)
        examples.append({"picture": file, **texts})
    names = [row.get("caption", "") for row in examples]
    for row, image in zip(examples, inputs, strict=True):
        row["said"] = output_of(model, image, row, names)
    if "caption" in examples[0] and "prompt" not in examples[0] and hasattr(model, "generate"):
        draw_strip(release.folder, examples)
    return examples


def example_drawings(release: Release, model: Any, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Draw the texts of rows, and the release's sheet; store both, each drawing beside the real picture."""
    texts = [expected(row, TEXT_FIELDS)[0] for row in rows]
    examples = []
    for place, (row, words, drawn) in enumerate(zip(rows, texts, model.draw(texts), strict=True)):
        real = image_of(row)
        if drawn.ndim == 4:
            drawn, real = drawn[0], media.read_clip(real, len(drawn))[0]
        files = {"picture": f"drawn-{place}.png", "real": f"real-{place}.png"}
        for file, pixels in zip(files.values(), (drawn, media.read(real)), strict=True):
            Image.fromarray(pixels.astype("uint8")).save(release.folder / file, optimize=True)
        examples.append({**files, "words": words})
    drawn = model.draw([words for words in release.sheet for _ in range(SHEET)])
    rows_of_sheet = [(words, drawn[i * SHEET : (i + 1) * SHEET]) for i, words in enumerate(release.sheet)]
    pages.sheet(rows_of_sheet)[0].save(release.folder / "strip.png", optimize=True)
    if release.sheet and release.name.startswith("cross_attn"):
        explain.drawing(model, release.sheet[0]).save(release.folder / "words.png")
    return examples


def draw_strip(folder: Path, examples: list[dict[str, Any]]) -> None:
    """Draw the examples on one sheet with their captions, and in brackets the right name where that differs."""
    rows = [
        {
            "image": media.resize(np.asarray(Image.open(folder / row["picture"])), (128, 128)),
            "caption": row["said"] if row["said"] == row["caption"].lower() else f"{row['said']} [{row['caption']}]",
        }
        for row in examples
    ]
    columns = {name: np.stack([row[name] for row in rows]) for name in ("image", "caption")}
    data.preview(tf.data.Dataset.from_tensor_slices(columns), folder / "strip.png", count=len(rows))


def output_of(model: keras.Model, image: Any, texts: Mapping[str, str], names: list[str]) -> str:
    """Return the model's output for an image as text; for a retriever, the nearest of the `names`."""
    if hasattr(model, "generate"):
        return model.generate(image, texts.get("prompt"))[0]
    question = texts.get("question") or texts.get("text") or texts.get("caption", "")
    if hasattr(model, "answer"):
        answer = model.answer(image, question)[0]
        return ", ".join(answer) if isinstance(answer, list) else answer
    if hasattr(model, "match"):
        return f"{float(model.match(image, question)[0]):.2f}"
    return names[int(model.similarity(image, names)[0].argmax())]


def export_release(release: Release) -> None:
    """Export the model and store size, speed, and how many results are identical to the model's."""
    model = zoo.build(release.name, weights=release.folder)
    rows = list(release.examples("validation").encoded.take(200).as_numpy_iterator())
    options, exports = {}, []
    if "prompt" in rows[0]:  # an exported file has one prompt
        options["prompt"] = rows[0]["prompt"].decode()
        rows = [{**row, "caption": row["prompt"] + b" " + row["caption"]} for row in rows]
        rows = [row for row in rows if row["prompt"] == rows[0]["prompt"]]
    for format, quantize in release.formats:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / {"litert": "model.tflite", "onnx": "model.onnx", "saved_model": "1"}[format]
            precision = {} if format == "saved_model" else {"quantize": quantize}
            report = getattr(export, format)(model, path, verify_data=rows, share=0.0, **options, **precision)
        for file in report if isinstance(report, (list, tuple)) else [report]:
            figures = json.loads(file.to_json())
            exports.append({key: figures[key] for key in EXPORT_FIGURES})
            if hasattr(model, "draw"):
                exports[-1]["notes"] = [note for note in figures["notes"] if "in the mean" in note]
            identical = f"{figures['identical']}/{figures['n']}"
            print(f"{format} {quantize}: {identical}, {figures['megabytes']:.1f} MB", flush=True)
    cards.update_results(release.folder, exports=exports)


def write_card(release: Release) -> None:
    """Write the model's README from its results, and store the headline figure that lists show."""
    split, figures = next(iter(cards.read_results(release.folder)["splits"].items()))
    metrics = cards.metrics_shown(figures)
    metric = next((name for name in metrics if figures["metrics"][name]["value"] > 0), metrics[0])
    cards.update_results(release.folder, headline={"split": split, "metric": metric, **figures["metrics"][metric]})
    (release.folder / "README.md").write_text(cards.card_of(release), encoding="utf-8")
