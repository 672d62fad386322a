"""What every recipe of this folder does: a run on kept features, judging, exports, the card.

    python -m zoo.cross_attn_captioner.emoji.recipe            # trains, judges, exports, writes the card
    python -m zoo.cross_attn_captioner.emoji.recipe card       # only the last of: train, judge, export, card

A recipe is a `Release` and its examples. Training runs lie in `runs/`, and begun ones go on; what is released is
written beside the recipe: weights as float16, `results.json`, example pictures and the card. Every figure on a card
comes from `results.json`, and is that of the released file.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from vtx_keras import data, evaluate, export, train
from vtx_keras.inputs import media, text
from vtx_keras.checkpoints import _folder as weights
from vtx_keras import zoo as models
from vtx_keras._files import write
from recipes import cards, augment as copies

STEPS = ("train", "judge", "export", "card")
EMOJI_EYE = {"image_encoder": "mobilenet_v2_emoji", "image_shape": (97, 97, 3)}


@dataclass(frozen=True)
class Release:
    """One released model: what it is made of and how. `judged` says what each split shows, by its name.

    `examples(split)` gives what `data.load` would: pictures, texts, answers.
    """

    recipe: str
    about: str
    expect: str
    sets: tuple[str, ...]
    examples: Callable[[str], tf.data.Dataset]
    judged: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    eye: Callable[[], keras.Model] | None = None  # an encoder that is not a published one
    vocabulary_size: int | None = 2000  # None: the bundled English words
    prepared: Callable[[keras.Model], None] | None = None  # what is done to the model before its training
    begins_as: str | None = None  # the release whose words it has, and whose weights where it has the same layers
    copies: int = 1
    epochs: int = 10
    far_epochs: int | None = None  # with a GPU, where every picture is changed each time: `zoo.far`
    learning_rate: float = 1e-3
    batch_size: int = 64
    baselines: tuple[str, ...] = ("most_frequent", "question_alone", "nearest_neighbour", "chance")
    formats: tuple[tuple[str, str | None], ...] = (("litert", "int8"),)
    licence: str = "CC-BY-SA-4.0"  # as some of the pictures are
    taught: Callable[[str], str] = lambda split: "train"  # what the baselines of a judged split learn from
    baselines_of: str | None = None  # the release that was judged on the same rows, so that its baselines hold here
    eval_data: str | None = None  # what `vtx eval --data` is told; "{part}" is what follows a split's name
    shown: str | None = None  # the split of the example pictures: the first that is judged
    besides: Callable[[keras.Model], cards.Table] | None = None  # what else is measured

    @property
    def folder(self) -> Path:
        """Where it is released."""
        return Path(self.recipe).parent

    @property
    def name(self) -> str:
        """The model's name in the zoo."""
        return self.folder.parent.name

    @property
    def epochs_there(self) -> int:
        """With a GPU: as many steps as with copies, if not said otherwise."""
        return self.far_epochs or self.epochs * self.copies

    @property
    def run(self) -> Path:
        """Where it is trained."""
        return Path("runs") / f"{self.name}-{self.folder.name}"


def main(release: Release) -> None:
    """Does all steps, or those that are asked for."""
    parser = argparse.ArgumentParser(description=release.about)
    parser.add_argument("steps", nargs="*", choices=[*STEPS, []], help=f"some of {', '.join(STEPS)}; all by default")
    parser.add_argument("--new", action="store_true", help="train again from nothing")
    given = parser.parse_args()
    for step in given.steps or STEPS:
        if step == "train":
            trained(release, given.new)
        else:
            {"judge": judged, "export": exported, "card": card}[step](release)


def trained(release: Release, new: bool = False) -> None:
    """Trains behind the frozen encoder, and writes the released weights."""
    cpu, examples = time.process_time(), release.examples("train")
    model = begun(release, examples)
    model.freeze("image")
    if release.copies > 1:
        examples = copies.with_copies(examples, model.image_shape, release.copies)
    if new and release.run.exists():
        release.run.rename(release.run.with_name(f"{release.run.name}.{int(time.time())}"))
    done = (release.run / "last").is_dir()
    history = train.run(
        model, examples, release.run, epochs=release.epochs, batch_size=release.batch_size, ema=0.99, samples=0,
        learning_rate=release.learning_rate,
    )  # fmt: skip
    minutes = round((time.process_time() - cpu) / 60, 1)
    for file in models.save(models.load(history.folder / "last"), release.run / "released", half=True).iterdir():
        shutil.copy2(file, release.folder / file.name)
    told = {"rows": count(examples), "epochs": release.epochs}
    if not done:
        remember(release, training={"cpu_minutes": minutes, **told})
    elif told.items() - cards.results_of(release.folder).get("training", {}).items():  # killed, then gone on with
        seconds = json.loads((release.run / "run.json").read_text(encoding="utf-8"))["seconds"]
        remember(release, training={"minutes": round(seconds / 60, 1), **told})


def begun(release: Release, examples: tf.data.Dataset, pretrained: bool = True) -> Any:
    """The release's model before its training."""
    keras.utils.set_random_seed(0)
    options = {**release.options, **({"image_encoder": release.eye()} if release.eye else {})}
    first = None
    if release.begins_as is not None:
        name, tag = release.begins_as.split("/")
        first = models.build(name, weights=tag)
    words = release.vocabulary_size if first is None else first.vocabulary
    model = built(release.name, examples, options, words=words, pretrained=pretrained)
    if first is not None:
        begin(model, first)
    if release.prepared is not None:
        release.prepared(model)
    return model


def built(
    name: str,
    examples: tf.data.Dataset,
    options: Mapping[str, Any],
    *,
    words: int | Sequence[str] | None = 2000,
    seed: int = 0,
    pretrained: bool = True,
) -> Any:
    """A model before its training, its words those given, or so many of the examples."""
    keras.utils.set_random_seed(seed)
    rows = list(examples.encoded.as_numpy_iterator())
    told = [row[name].decode() for row in rows for name in ("prompt", "caption", "question", "text") if name in row]
    options = {**EMOJI_EYE, "max_length": 24, "dropout": 0.1, **options}
    if models.describe(name)["task"] in ("vqa", "classifier"):
        named = (label for row in rows for label in np.atleast_1d(row["answer" if "answer" in row else "label"]))
        options["classes"] = sorted({label.decode() for label in named})
    published = isinstance(options["image_encoder"], str) and pretrained
    vocabulary = text.vocabulary(told, size=words) if isinstance(words, int) else text.vocabulary(words)
    return models.build(name, weights="encoders" if published else None, vocabulary=vocabulary, **options)


def begin(model: keras.Model, first: keras.Model) -> None:
    """Every weight that `first` has too is its own."""
    known = {variable.path: variable for layer in first.layers for variable in layer.weights}
    for variable in (variable for layer in model.layers for variable in layer.weights):
        if variable.path in known and known[variable.path].shape == variable.shape:
            variable.assign(known[variable.path])


def count(examples: tf.data.Dataset) -> int:
    """How many examples there are."""
    return int(getattr(examples, "encoded", examples).cardinality())


def judged(release: Release) -> None:
    """Figures of the released weights on every judged split, beside baselines; and a few examples."""
    model = models.build(release.name, weights=release.folder)
    beside = None if release.baselines_of is None else release.folder.parents[1] / release.baselines_of
    known = {} if beside in (None, release.folder) else cards.results_of(beside).get("splits", {})
    splits = {}
    for split, what in release.judged.items():
        wanted = () if known.get(split, {}).get("baselines") else release.baselines
        found = evaluate.run(
            model,
            release.examples(split),
            train=release.examples(release.taught(split)) if wanted else None,
            baselines=wanted,
        )
        print(f"{split}\n{found.table()}", flush=True)
        told = found.as_dict()
        splits[split] = {
            "what": what,
            **{key: told[key] for key in ("kind", "rows", "groups", "metrics", "weights_sha256")},
            "baselines": told["baselines"] or known[split]["baselines"],
        }
    parameters = model.count_params()
    remember(
        release,
        model=release.name,
        data=", ".join(release.sets),
        licence=release.licence,
        parameters=parameters,
        megabytes=round((release.folder / weights.WEIGHTS).stat().st_size / 1e6, 2),
        splits=splits,
        examples=shown(release, model),
        **({} if release.besides is None else {"besides": release.besides(model)._asdict()}),
    )


def shown(release: Release, model: keras.Model, most: int = 12) -> list[dict[str, Any]]:
    """Every n-th example of a judged split, its picture stored beside the weights: good and bad alike."""
    for old in release.folder.glob("*.png"):
        old.unlink()
    split = release.shown or next(iter(release.judged))
    rows = list(release.examples(split).encoded.as_numpy_iterator())
    found = []
    for number, row in enumerate(rows[:: max(1, len(rows) // most)][:most]):
        clip = len(model.image_shape) == 4
        picture = media.read_clip(row["image"], model.image_shape[0])[0] if clip else media.read(row["image"])
        told = ("prompt", "caption", "question", "answer", "text")
        words = {name: row[name].decode() for name in told if name in row}
        if np.ndim(row.get("label")) == 1:
            words["label"] = ", ".join(name.decode() for name in row["label"])
        called = row["name"].decode() if "name" in row else words.get("caption", f"example {number}")
        file = re.sub(r"\W+", "-", called).strip("-").lower()[:60] + ".png"
        Image.fromarray(media.resize(picture, (128, 128))).save(release.folder / file, optimize=True)
        seen = row["image"] if clip else release.folder / file
        found.append({"picture": file, **words, "seen": seen})
    names = [row.get("caption", "") for row in found]
    for row in found:
        row["said"] = said(model, row.pop("seen"), row, names)
    if "caption" in found[0] and "prompt" not in found[0] and hasattr(model, "generate"):
        draw_strip(release.folder, found)
    return found


def draw_strip(folder: Path, examples: list[dict[str, Any]]) -> None:
    """The examples on one sheet: what is said, and the right name where that is another."""
    rows = [
        {
            "image": np.asarray(Image.open(folder / row["picture"])),
            "caption": row["said"] if row["said"] == row["caption"].lower() else f"{row['said']} [{row['caption']}]",
        }
        for row in examples
    ]
    columns = {name: np.stack([row[name] for row in rows]) for name in ("image", "caption")}
    data.preview(tf.data.Dataset.from_tensor_slices(columns), folder / "strip.png", count=len(rows))


def said(model: keras.Model, picture: Any, words: Mapping[str, str], names: list[str]) -> str:
    """What the model says of a picture; a retriever, which of the names is nearest."""
    if hasattr(model, "generate"):
        return model.generate(picture, words.get("prompt"))[0]
    read = words.get("question") or words.get("text") or words.get("caption", "")
    if hasattr(model, "answer"):
        answer = model.answer(picture, read)[0]
        return ", ".join(answer) if isinstance(answer, list) else answer
    if hasattr(model, "match"):
        return f"{float(model.match(picture, read)[0]):.2f}"
    return names[int(model.similarity(picture, names)[0].argmax())]


def exported(release: Release) -> None:
    """What becomes of the model in other runtimes: size, speed, and whether it says the same."""
    model = models.build(release.name, weights=release.folder)
    rows = list(release.examples("validation").encoded.take(200).as_numpy_iterator())
    how, found = {}, []
    if "prompt" in rows[0]:  # a file has one
        how["prompt"] = rows[0]["prompt"].decode()
        rows = [{**row, "caption": row["prompt"] + b" " + row["caption"]} for row in rows]
        rows = [row for row in rows if row["prompt"] == rows[0]["prompt"]]
    for format, quantize in release.formats:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / {"litert": "model.tflite", "onnx": "model.onnx", "saved_model": "1"}[format]
            smaller = {} if format == "saved_model" else {"quantize": quantize}
            report = getattr(export, format)(model, path, verify_data=rows, share=0.0, **how, **smaller)
        for one in report if isinstance(report, (list, tuple)) else [report]:
            told = json.loads(one.to_json())
            keys = ("format", "form", "quantize", "n", "identical", "metric", "metric_model", "metric_artifact")
            found.append({key: told[key] for key in (*keys, "megabytes", "ms_p50", "peak_megabytes")})
            print(f"{format} {quantize}: {told['identical']}/{told['n']}, {told['megabytes']:.1f} MB", flush=True)
    remember(release, exports=found)


def remember(release: Release, **found: Any) -> None:
    """Adds to what is known."""
    told = {**cards.results_of(release.folder), **found}
    write(release.folder / "results.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def card(release: Release) -> None:
    """Writes the model's README, from its results, and notes the figure that lists tell."""
    split, found = next(iter(cards.results_of(release.folder)["splits"].items()))
    told = cards.telling(found)
    metric = next((name for name in told if found["metrics"][name]["value"] > 0), told[0])
    remember(release, headline={"split": split, "metric": metric, **found["metrics"][metric]})
    (release.folder / "README.md").write_text(cards.card_of(release), encoding="utf-8")
