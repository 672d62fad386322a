"""What the recipes of this folder share: changed copies of pictures, a run on kept features, judging, exports, cards.

    python -m zoo.cross_attn_captioner.emoji.recipe            # trains, judges, exports, writes the card
    python -m zoo.cross_attn_captioner.emoji.recipe card       # only the last: train, judge, export, card

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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from vtx_keras import data, evaluate, export, media, text, train, weights
from vtx_keras import zoo as models
from vtx_keras.data.reading import adapted
from vtx_keras.data.sets import SETS
from vtx_keras.published import PUBLISHED

STEPS = ("train", "judge", "export", "card")
EMOJI_EYE = {"image_encoder": "mobilenet_v2_emoji", "image_shape": (97, 97, 3)}
NAMES = {"litert": "LiteRT", "onnx": "ONNX", "saved_model": "SavedModel"}
# The metrics that cards tell, by kind of result; the first is the one that lists tell.
TOLD = {
    "captions": ("exact_match", "word_f1", "cider", "bleu_4"),
    "answers": ("accuracy",),
    "label": ("accuracy", "f1_macro"),
    "labels": ("f1_micro", "mean_average_precision"),
    "matches": ("accuracy", "average_precision"),
    "search": ("image_to_text_recall_1", "image_to_text_recall_5", "text_to_image_recall_1", "text_to_image_recall_5"),
}


EMOJI_SPLITS = {
    "vendor": "an artist never trained on (Fluent 3D), concepts of the training split",
    "composition": "people whose job, gender and skin tone were each trained on, but never together",
    "test": "concepts never trained on, four artists",
}


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
    eye: Callable[[], keras.Model] | None = None  # an encoder of its own, which is trained too
    vocabulary_size: int | None = 2000  # None: the bundled English words
    prepared: Callable[[keras.Model], None] | None = None  # what is done to the model before its training
    copies: int = 1
    epochs: int = 10
    learning_rate: float = 1e-3
    batch_size: int = 64
    baselines: tuple[str, ...] = ("most_frequent", "question_alone", "nearest_neighbour", "chance")
    formats: tuple[tuple[str, str | None], ...] = (("litert", "int8"),)
    licence: str = "CC-BY-SA-4.0"  # as some of the pictures are
    baselines_of: str | None = None  # the release that was judged on the same rows, so that its baselines hold here
    eval_data: str | None = None  # what `vtx eval --data` is told, where that is the same
    shown: str | None = None  # the split of the example pictures: the first that is judged

    @property
    def folder(self) -> Path:
        """Where it is released."""
        return Path(self.recipe).parent

    @property
    def name(self) -> str:
        """The model's name in the zoo."""
        return self.folder.parent.name

    @property
    def run(self) -> Path:
        """Where it is trained."""
        return Path("runs") / f"{self.name}-{self.folder.name}"


def captioner(recipe: str, how: str, **changes: Any) -> Release:
    """A captioner of emoji; they differ in how the picture gets into the words."""
    about = (
        "Says the English name of an emoji's picture, or of a drawing. MobileNetV2, trained on to see emoji, reads it "
        f"at 97 × 97 px; in three decoder blocks of width 192 {how}."
    )
    expect = (
        "It names what it has learned, also in the hand of an artist it never saw, though the skin tone there is often "
        "the next lighter or darker one. What it never saw it calls by the nearest name it knows. It knows nothing of "
        "photographs: train on your own pictures for those."
    )
    settings = {
        "sets": ("emoji", "word_cards"),
        "examples": emoji_names,
        "judged": EMOJI_SPLITS,
        "eval_data": "emoji",
        "copies": 4,
        "epochs": 3,
        "baselines_of": "cross_attn_captioner/emoji",
    }
    return Release(recipe, about, expect, **{**settings, **changes})


def shape_eye() -> keras.Model:
    """A few convolutions for plain shapes: 64 × 64 pixels to 8 × 8 places."""
    pixels = keras.Input((64, 64, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    for width, stride in ((16, 2), (32, 2), (64, 2), (64, 1)):
        x = keras.layers.Conv2D(width, 3, strides=stride, padding="same", activation="relu")(x)
    return keras.Model(pixels, x, name="shape_eye")


def shape_answerer(recipe: str, how: str) -> Release:
    """A model that answers questions about a shape; they differ in how picture and question meet."""
    about = (
        "Answers questions about one coloured shape: its colour, its shape, yes or no. Four convolutions of its own "
        f"read the picture, one layer the question, and in two blocks of width 128 {how}; one of 13 answers comes out."
    )
    expect = "It knows one shape on a plain ground, and the questions of this set, which were made from templates."
    splits = {"test": "the official test; no picture of it was trained on"}
    settings = {
        "options": {
            "image_shape": (64, 64, 3),
            "dim": 128,
            "depth": 2,
            "text_depth": 1,
            "max_length": 16,
            "dropout": 0.0,
        },
        "eye": shape_eye,
        "licence": "Apache-2.0",
        "eval_data": "easy_vqa",
        "epochs": 8,
        "learning_rate": 5e-4,  # and small batches: at larger rates it is slow to learn whether word and shape agree
        "batch_size": 32,
        "baselines_of": "cross_attn_vqa/easy_vqa",
    }
    return Release(recipe, about, expect, ("easy_vqa",), shapes, splits, **settings)


def radiology(recipe: str, kind: str) -> Release:
    """A model that answers clinicians' questions about radiology images, by one of the data set's two splits."""
    about = (
        "Answers clinicians' questions about radiology images with one of the answers it was trained on. **For "
        "research, not for diagnosis.** A frozen MobileNetV2, trained on photographs, reads the image at 193 × 193 px."
    )
    expect = (
        "A small model, without medical pretraining: compare the blank picture and the question alone to see how "
        "little it looks. Answers that training never had it cannot give, and they count as wrong."
    )
    shows = {
        "official": "the published test questions; their images also occur in training",
        "disjoint": "questions about images that occur nowhere else",
    }
    splits = {
        "test": shows[kind],
        "test, closed": "of these, the questions that yes, no or a choice answers",
        "test, open": "the others",
        "test without picture": "the same questions about a blank picture",
    }
    options = {"image_encoder": "mobilenet_v2", "image_shape": (193, 193, 3), "dim": 128, "depth": 2, "text_depth": 1}

    def questions(split: str) -> tf.data.Dataset:
        name, part = split_and_part(split)
        name, _, answers = name.partition(", ")
        found = data.load(f"vqa_rad/{kind}", name)
        if answers:
            found = adapted(found.encoded.filter(lambda row: row["answer_type"] == answers))
        return without(found, part) if part else found

    settings = {"options": {**options, "dropout": 0.3}, "licence": "Apache-2.0", "epochs": 12, "batch_size": 32}
    settings["eval_data"] = f"vqa_rad/{kind}"
    return Release(recipe, about, expect, ("vqa_rad",), questions, splits, **settings)


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


# --- examples


def emoji_names(split: str) -> tf.data.Dataset:
    """Emoji and their names; to train on, word cards too."""
    if split in ("train", "validation"):
        return joined(data.load("emoji", split), data.load("word_cards", split))
    return data.load("emoji", split)


def shapes(split: str) -> tf.data.Dataset:
    """Questions about a shape."""
    return data.load("easy_vqa", split)


def joined(*sets: tf.data.Dataset) -> tf.data.Dataset:
    """Several sets of examples as one, with the fields that all of them have."""
    shared = set.intersection(*(set(one.encoded.element_spec) for one in sets)) | {"image"}
    found = [one.encoded.map(lambda row: {name: row[name] for name in shared}) for one in sets]
    together = found[0]
    for each in found[1:]:
        together = together.concatenate(each)
    return adapted(together)


def without(examples: tf.data.Dataset, part: str) -> tf.data.Dataset:
    """The same examples with a blank "picture", or with no "words"."""
    blank = tf.io.encode_png(tf.fill((8, 8, 3), tf.constant(255, tf.uint8)))
    if part == "picture":
        return adapted(examples.encoded.map(lambda row: {**row, "image": blank}))
    return adapted(examples.encoded.map(lambda row: {**row, "text": ""}))


def split_and_part(split: str) -> tuple[str, str]:
    """What a judged split leaves out, if anything.

    >>> split_and_part("test without picture"), split_and_part("test")
    (('test', 'picture'), ('test', ''))
    """
    name, _, part = split.partition(" without ")
    return name, part


def with_copies(examples: tf.data.Dataset, side: int, copies: int, seed: int = 0) -> tf.data.Dataset:
    """Every picture `copies` times: as it is, and changed; all of them ready, as arrays."""
    rows = list(examples.encoded.as_numpy_iterator())
    pictures = np.stack([with_clearness(row, side) for row in rows])
    tf.random.set_seed(seed)
    shown = [pictures[..., :3]]
    for _ in range(copies - 1):
        parts = [changed(pictures[at : at + 256]) for at in range(0, len(pictures), 256)]
        shown.append(np.rint(np.concatenate([part.numpy() for part in parts])).astype("uint8"))
    kept = [
        name for name in rows[0] if name not in ("image", "alpha") and len({np.shape(row[name]) for row in rows}) == 1
    ]
    columns = {name: np.concatenate([np.array([row[name] for row in rows])] * copies) for name in kept}
    return tf.data.Dataset.from_tensor_slices({"image": np.concatenate(shown), **columns})


def with_clearness(row: Mapping[str, Any], side: int) -> np.ndarray:
    """An example's picture on white, and how clear each pixel was: (side, side, 4)."""
    clear = np.zeros((side, side), "uint8")
    if "alpha" in row:
        clear = media.resize(np.repeat(255 - media.read(row["alpha"])[..., :1], 3, -1), (side, side))[..., 0]
    return np.dstack([media.resize(media.read(row["image"]), (side, side)), clear])


def changed(rgba: tf.Tensor) -> tf.Tensor:
    """A batch of pictures (with their clearness) as other artists, grounds and lamps would have them."""
    n, side = tf.shape(rgba)[0], rgba.shape[1]

    def draw(low: float, high: float, *shape: int) -> tf.Tensor:
        return tf.random.uniform((n, *shape), low, high)

    def hills(steps: int, height: float) -> tf.Tensor:
        return tf.image.resize(tf.random.normal((n, steps, steps, 1)) * height, (side, side))

    x = 255 - tf.cast(rgba, tf.float32)  # ink and cover: what comes in from outside is 0, blank
    scale, aspect = tf.exp(draw(-0.1, 0.5)), tf.exp(draw(-0.15, 0.15))
    angle, shear = draw(-0.35, 0.35), draw(-0.15, 0.15)
    a, b = scale * aspect * tf.cos(angle), shear - scale * tf.sin(angle)
    d, e = scale * tf.sin(angle), scale / aspect * tf.cos(angle)
    centre, room = (side - 1) / 2, 0.4 * side * tf.maximum(scale - 1, 0.1)
    right, down = centre * (1 - a - b) + draw(-1, 1) * room, centre * (1 - d - e) + draw(-1, 1) * room
    lean = [draw(-0.0012, 0.0012), draw(-0.0012, 0.0012)]
    x = tf.raw_ops.ImageProjectiveTransformV3(
        images=x,
        transforms=tf.stack([a, b, right, d, e, down, *lean], axis=1),
        output_shape=(side, side),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    cover = x[..., 3:]
    drawn = cover - x[..., :3]  # without its ground
    lit = tf.cast(draw(0, 1, 1, 1, 1) < 0.6, tf.float32)
    drawn = drawn * tf.exp(lit * hills(3, 0.1)) + lit * cover * tf.nn.relu(hills(5, 0.1) - 0.08)
    ground = tf.where(draw(0, 1, 1, 1, 1) < 0.5, draw(0, 255, 1, 1, 3) + hills(2, 20.0), 255.0)
    x = drawn + ground * (255 - cover) / 255
    mean = tf.reduce_mean(x, (1, 2, 3), keepdims=True)
    x = (x - mean) * draw(0.85, 1.15, 1, 1, 1) + mean * draw(0.92, 1.08, 1, 1, 1)
    grey = tf.reduce_sum(x * [0.299, 0.587, 0.114], -1, keepdims=True)
    x = (grey + (x - grey) * draw(0.85, 1.15, 1, 1, 1)) * draw(0.98, 1.02, 1, 1, 3)
    x += (tf.nn.avg_pool2d(x, 3, 1, "SAME") - x) * draw(-0.8, 1.0, 1, 1, 1)  # sharper or softer
    return tf.clip_by_value(x + tf.random.normal(tf.shape(x)) * draw(0, 6, 1, 1, 1), 0, 255)


# --- the steps


def trained(release: Release, new: bool = False) -> None:
    """Trains, behind a frozen encoder unless the release has one of its own, and writes the released weights."""
    examples = release.examples("train")
    keras.utils.set_random_seed(0)
    options = {**release.options, **({"image_encoder": release.eye()} if release.eye else {})}
    model = built(release.name, examples, options, words=release.vocabulary_size)
    if release.prepared is not None:
        release.prepared(model)
    if release.eye is None:
        model.freeze("image")
    if release.copies > 1:
        examples = with_copies(examples, model.image_shape[-2], release.copies)
    done, cpu = (release.run / "last").is_dir() and not new, time.process_time()
    history = train.run(
        model, examples, release.run, epochs=release.epochs, batch_size=release.batch_size, ema=0.99, samples=0,
        learning_rate=release.learning_rate, new=new,
    )  # fmt: skip
    minutes = round((time.process_time() - cpu) / 60, 1)
    for file in models.save(models.load(history.folder / "last"), release.run / "released", half=True).iterdir():
        shutil.copy2(file, release.folder / file.name)
    if not done:  # what was finished or begun before took its minutes then
        remember(release, training={"cpu_minutes": minutes, "rows": count(examples), "epochs": release.epochs})


def built(
    name: str, examples: tf.data.Dataset, options: Mapping[str, Any], *, words: int | None = 2000, seed: int = 0
) -> Any:
    """A model before its training, its words those of the examples."""
    keras.utils.set_random_seed(seed)
    rows = list(examples.encoded.as_numpy_iterator())
    told = [row[name].decode() for row in rows for name in ("prompt", "caption", "question", "text") if name in row]
    options = {**EMOJI_EYE, "max_length": 24, "dropout": 0.1, **options}
    if models.describe(name)["task"] in ("vqa", "classifier"):
        named = (label for row in rows for label in np.atleast_1d(row["answer" if "answer" in row else "label"]))
        options["classes"] = sorted({label.decode() for label in named})
    published = isinstance(options["image_encoder"], str)
    vocabulary = text.vocabulary() if words is None else text.vocabulary(told, size=words)
    return models.build(name, weights="encoders" if published else None, vocabulary=vocabulary, **options)


def count(examples: tf.data.Dataset) -> int:
    """How many examples there are."""
    return int(getattr(examples, "encoded", examples).cardinality())


def judged(release: Release) -> None:
    """Figures of the released weights on every judged split, beside baselines; and a few examples."""
    model = models.build(release.name, weights=release.folder)
    beside = release.folder if release.baselines_of is None else release.folder.parents[1] / release.baselines_of
    known = results_of(beside).get("splits", {})
    splits = {}
    for split, what in release.judged.items():
        wanted = () if known.get(split, {}).get("baselines") else release.baselines
        found = evaluate.run(
            model, release.examples(split), train=release.examples("train") if wanted else None, baselines=wanted
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
    )


def telling(split: Mapping[str, Any]) -> list[str]:
    """The metrics that a card tells of a split."""
    return [name for name in TOLD[split["kind"]] if name in split["metrics"]] or list(split["metrics"])[:1]


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
    found = []
    for format, quantize in release.formats:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / {"litert": "model.tflite", "onnx": "model.onnx", "saved_model": "1"}[format]
            how = {} if format == "saved_model" else {"quantize": quantize}
            report = getattr(export, format)(model, path, verify_data=rows, share=0.0, **how)
        for one in report if isinstance(report, (list, tuple)) else [report]:
            told = json.loads(one.to_json())
            keys = ("format", "form", "quantize", "n", "identical", "metric", "metric_model", "metric_artifact")
            found.append({key: told[key] for key in (*keys, "megabytes", "ms_p50", "peak_megabytes")})
            print(f"{format} {quantize}: {told['identical']}/{told['n']}, {told['megabytes']:.1f} MB", flush=True)
    remember(release, exports=found)


# --- results and card


def results_of(folder: Path) -> dict[str, Any]:
    """What is known of a release so far."""
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def remember(release: Release, **found: Any) -> None:
    """Adds to what is known."""
    path = release.folder / "results.json"
    part = path.with_name(".results.json")
    part.write_text(
        json.dumps({**results_of(release.folder), **found}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    part.replace(path)


def card(release: Release) -> None:
    """Writes the model's README, from its results, and notes the figure that lists tell."""
    split, found = next(iter(results_of(release.folder)["splits"].items()))
    told = telling(found)
    metric = next((name for name in told if found["metrics"][name]["value"] > 0), told[0])
    remember(release, headline={"split": split, "metric": metric, **found["metrics"][metric]})
    (release.folder / "README.md").write_text(card_of(release), encoding="utf-8")


def card_of(release: Release) -> str:
    """The card's text."""
    results = results_of(release.folder)
    config = json.loads((release.folder / weights.CONFIG).read_text(encoding="utf-8"))
    encoder = config.get("image_encoder", {}).get("name")
    parts = [
        f"# {release.name} / {release.folder.name}\n\n{release.about}",
        f"{results['parameters'] / 1e6:.1f} M parameters. {results['megabytes']:.1f} MB, stored as float16"
        + (f"; its encoder is [{encoder}](../../encoders/{encoder}/README.md), stored there." if encoder else "."),
        f"    from vtx_keras import zoo\n    model = zoo.build({release.name!r}, weights={release.folder.name!r})",
        f"## What it says\n\nEvery n-th row of `{release.shown or next(iter(release.judged))}`, good and bad alike"
        + (", among whose names it chooses:" if release.name.endswith("retriever") else ":"),
        table(["picture", *asked(results), "the model says"], strip(results)),
        "## How well\n\nIntervals are 95 %, bootstrapped over concepts or pictures. Greedy decoding, released float16 "
        "weights. Each split was evaluated once the recipe was fixed.",
        table(["split", "n", "metric", "model", "interval", "baselines"], figures(results)),
        f"## What to expect\n\n{release.expect}",
        "## Exported\n\nRun in its own runtime on validation rows, one thread.",
        table(["file", "same as the model", "metric", "MB", "ms per row"], files(results)),
        "## Data and licences",
        table(["what", "licence"], licences(release, encoder)),
        f"## Again\n\n    python -m zoo.{release.name}.{release.folder.name}.recipe\n\nIt took "
        f"{results['training']['cpu_minutes']} CPU minutes ({results['training']['epochs']} epochs of "
        f"{results['training']['rows']:,d} rows) on two cores, without a GPU."
        + (f" The figures:\n\n{commands(release)}" if release.eval_data else ""),
    ]
    return "\n\n".join(parts) + "\n"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    header = list(header)
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def asked(results: Mapping[str, Any]) -> list[str]:
    """Which fields the example rows have beside picture and what is said."""
    return [name for name in results["examples"][0] if name not in ("picture", "said")]


def strip(results: Mapping[str, Any]) -> list[list[str]]:
    """A row for each example."""
    return [
        [f"![]({row['picture']})", *(row[name] for name in asked(results)), row["said"]] for row in results["examples"]
    ]


def figures(results: Mapping[str, Any]) -> list[list[str]]:
    """A row for each split and metric."""
    rows = []
    for split, found in results["splits"].items():
        for name in telling(found):
            figure = found["metrics"][name]
            others = [
                f"{who.replace('_', ' ')} {other[name]['value']:.3f}"
                for who, other in found["baselines"].items()
                if other.get(name, {}).get("value") is not None
            ]
            interval = "" if figure["low"] is None else f"{figure['low']:.3f} to {figure['high']:.3f}"
            told = f"{split}: {found['what']}" if name == telling(found)[0] else ""
            named = name.replace("_", " ")
            rows.append([told, f"{found['rows']:,d}", named, f"**{figure['value']:.3f}**", interval, ", ".join(others)])
    return rows


def files(results: Mapping[str, Any]) -> list[list[str]]:
    """A row for each exported file."""
    rows = []
    for one in results.get("exports", []):
        metric = (
            f"{one['metric']} {one['metric_artifact']:.3f} (model {one['metric_model']:.3f})" if one["metric"] else ""
        )
        name = f"{NAMES.get(one['format'], 'SavedModel')} {one['quantize'] or 'float32'}"
        rows.append([name, f"{one['identical']}/{one['n']}", metric, f"{one['megabytes']:.1f}", f"{one['ms_p50']:.1f}"])
    return rows


def licences(release: Release, encoder: str | None) -> list[list[str]]:
    """What it was made of, and under which licence."""
    rows = [[f"data set `{name}`: {SETS[name].about}", SETS[name].licence] for name in release.sets]
    if encoder:
        rows.append([f"encoder `{encoder}`: {PUBLISHED[encoder].about}", PUBLISHED[encoder].licence])
    return [*rows, ["these weights", f"{release.licence}; [notices](../../NOTICE.md)"]]


def commands(release: Release) -> str:
    """How to have the figures again."""
    lines = [
        f"    vtx eval {release.name} --weights {release.folder.name} --data {release.eval_data} --split {split}"
        for split in release.judged
        if split.isidentifier()  # parts of a split are the recipe's own
    ]
    return "\n".join(lines)
