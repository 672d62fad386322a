"""Questions about clips, and names of exercises from clips: whole, from the first frame, shuffled, and without a clip.

python -m recipes.systems.video              # an hour on two cores
python -m recipes.systems.video questions    # one of the two: questions or captions

Every frame of emoji_video and exercises is encoded once, as one token: the mean of its features. A clip of the
questions is eight of these frames, so a joined, frozen or shuffled one costs nothing more.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from recipes.systems import trials
from recipes.systems import video_questions as rules
from recipes.systems.video_questions import FRAMES, Asked, Scene
from vtx_keras import data, encoders, media, metrics, text, train, zoo
from vtx_keras.evaluate import _baselines as baseline
from vtx_keras.evaluate._outcomes import Outcome, Row

SHAPE = (96, 96, 3)
SHARED = {"image_shape": (FRAMES, *SHAPE), "dim": 128, "depth": 2}
READER = {**SHARED, "text_depth": 1, "max_length": 11, "dropout": 0.2}
WRITER = {**SHARED, "max_length": 18, "dropout": 0.3}
SETTINGS = {"epochs": 8, "batch_size": 128, "learning_rate": 2e-3}
WRITING = {
    "epochs": 24, "batch_size": 32, "learning_rate": 1e-3, "ema": 0.99, "jit_compile": False, "save_every": 1000,
    "monitor": "val_accuracy",
}  # fmt: skip
ROUNDS = {"train": 800, "validation": 100, "test": 200}  # of questions about joined clips
ASKED_AGAIN = 3  # times that training asks what is seen: else what comes after and last, of the same kinds, drown it
SPLITS = ("train", "validation", "test")
PIECES = 1500


class Table(NamedTuple):
    """Features of all frames (frames, 1, 1, width), and the scenes of each split with their labels."""

    frames: np.ndarray
    emoji: dict[str, list[Scene]]
    exercises: dict[str, list[tuple[Scene, dict[str, str]]]]


@functools.cache
def encoder() -> keras.Model:
    """Return EfficientNet-Lite0 with the mean of its features at the end, as a grid of one place."""
    network = encoders.load("efficientnet_lite0", image_shape=SHAPE)
    means = keras.layers.AveragePooling2D(network.output.shape[1:3], name="mean")(network.output)
    return keras.Model(network.input, means, name="efficientnet_lite0_mean")


@functools.cache
def table() -> Table:
    """Encode each frame once, and number it."""
    model = frozen()
    blank = {"id": "blank", "image": np.full((FRAMES, *SHAPE), 255, "uint8")}
    white = data.features(tf.data.Dataset.from_tensors(blank), model, trials.FEATURES)
    parts = [next(white.as_numpy_iterator())["image"][:1]]
    at, found = 1, Table(np.zeros(0), defaultdict(list), defaultdict(list))
    for name in ("emoji_video", "exercises"):
        for split in SPLITS:
            rows = data.load(name, split)
            pairs = zip(data.features(rows, model, trials.FEATURES).as_numpy_iterator(), changes(rows), strict=True)
            for row, change in pairs:
                parts.append(row["image"])
                frames = tuple(range(at, at := at + FRAMES))
                concept = row["concept"].decode()
                if name == "emoji_video":
                    scene = Scene(concept, rules.kind_of(row["subgroup"].decode()), frames, change)
                    found.emoji[split].append(scene)
                else:
                    labels = {kind: row[kind.replace(" ", "_")].decode() for kind in rules.EXERCISES}
                    found.exercises[split].append((Scene(concept, "", frames, change), labels))
    return found._replace(frames=np.concatenate(parts))


def changes(rows: data.Examples) -> Iterator[float]:
    """Yield how much the frames of each clip differ that a model reads."""
    for row in rows.encoded.as_numpy_iterator():
        yield rules.change(row["image"][media.frame_places(len(row["image"]), FRAMES)])


@functools.cache
def questions(split: str) -> list[Asked]:
    """Return all questions of a split, with the frequent answers thinned out."""
    rng, scenes, exercises = np.random.default_rng(SPLITS.index(split)), table().emoji[split], table().exercises[split]
    seen = rules.balanced(rules.what_is_seen(scenes))
    shown = {row.frames for row in seen}
    moving = [scene for scene in scenes if scene.frames in shown] + [scene for scene, _ in exercises[::3]]
    answers = rules.frequent([labels for _, labels in table().exercises["train"]])
    return [
        *seen * (ASKED_AGAIN if split == "train" else 1),
        *rules.does_it_move(moving),
        *rules.several_scenes(scenes, ROUNDS[split], rng),
        *rules.balanced(rules.about_exercises(exercises, answers)),
    ]


def seen(model: Any, split: str, sees: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return a split as a trial sees it: features and questions, and the numbers of the answers."""
    rows, names = questions(split), {name: at for at, name in enumerate(model.class_names)}
    frames = np.array([rules.SEES[sees](row, number) for number, row in enumerate(rows)])
    tokens = model.tokens_of([row.question for row in rows])
    return {"image": table().frames[frames], "tokens": tokens}, np.array([names[row.answer] for row in rows])


def reader(fusion: str = "cross_attn", temporal: str = "positions", scale: float = 1.0) -> Any:
    """Build a model whose vocabulary is that of the training questions; its frames' positions begin with this scale.

    A new model's begin at 0.02, a fiftieth of what a frame's features are: then the order is learned late or never.
    """
    asked = questions("train")
    vocabulary = text.vocabulary([row.question for row in asked], size=PIECES)
    names = sorted({row.answer for row in asked})
    options = {**READER, "temporal": temporal, "vocabulary": vocabulary, "classes": names}
    model = zoo.build(f"{fusion}_video_vqa", weights=None, image_encoder=encoder(), **options)
    if temporal == "positions":
        (positions,) = model.get_layer("vision").time.axes
        positions.assign(np.random.default_rng(0).normal(0.0, scale, positions.shape))
    return model


@functools.cache
def frozen() -> Any:
    """Return a model whose frozen image encoder is that of all."""
    vocabulary = text.vocabulary(["what is seen?"])
    model = zoo.build("cross_attn_video_vqa", weights=None, image_encoder=encoder(), vocabulary=vocabulary, **READER)
    model.freeze("image")
    return model


def learned(sees: str, seed: int, **options: Any) -> tuple[Outcome, int, float]:
    """Train on what a trial sees, keep the epoch that is best on validation; return its answers, size and seconds."""
    keras.utils.set_random_seed(seed)
    model = reader(**options)
    model.freeze("image")
    part, start = model.behind_encoder(), time.monotonic()
    (inputs, classes), epochs = seen(model, "train", sees), SETTINGS["epochs"]
    steps = epochs * -(-len(classes) // SETTINGS["batch_size"])
    optimizer = train.adamw(part, steps, learning_rate=SETTINGS["learning_rate"])
    part.compile(optimizer, loss=part.loss, weighted_metrics=["accuracy"], jit_compile=False)
    best = keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=epochs, restore_best_weights=True)
    part.fit(
        inputs, classes, validation_data=seen(model, "validation", sees), batch_size=SETTINGS["batch_size"],
        epochs=epochs, callbacks=[best], verbose=0,
    )  # fmt: skip
    seconds = time.monotonic() - start
    logits = part.predict(seen(model, "test", sees)[0], batch_size=256, verbose=0)
    rows = tuple(
        Row(number, str(number), asked.group, asked.question, (asked.answer,), model.class_names[row.argmax()])
        for number, (asked, row) in enumerate(zip(questions("test"), logits, strict=True))
    )
    size = sum(int(np.prod(weight.shape)) for weight in part.trainable_weights)
    return Outcome("label", rows, {}), size, seconds


TRIALS: dict[str, tuple[dict[str, Any], Sequence[int]]] = {  # what is seen and how it is fused, and the seeds
    "whole clip": ({"sees": "whole"}, trials.SEEDS),
    "shuffled frames": ({"sees": "shuffled"}, trials.SEEDS),
    "first frame": ({"sees": "first frame"}, trials.SEEDS),
    "question alone": ({"sees": "question alone"}, trials.SEEDS),
    "whole clip, gru": ({"sees": "whole", "temporal": "gru"}, (0,)),
    "whole clip, small positions": ({"sees": "whole", "scale": 0.02}, (0,)),
    "merged_attn": ({"sees": "whole", "fusion": "merged_attn"}, (0,)),
}


def by_kind(outcome: Outcome) -> dict[str, metrics.Measure]:
    """Return the accuracy of all questions, of those about time and of the others, and of each kind."""
    kinds = np.array([row.kind for row in questions("test")])
    right = np.array([row.said in row.expected for row in outcome.rows], float)
    parts = {"all": tuple(kinds), "in one frame": rules.STILL, "over time": rules.IN_TIME}
    parts |= {kind: (kind,) for kind in dict.fromkeys(kinds.tolist())}
    return {name: metrics.mean(np.where(np.isin(kinds, of), right, np.nan)) for name, of in parts.items()}


def frequent(like: Outcome) -> Outcome:
    """Answer each question with what is most often right in training."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for row in questions("train"):
        counts[row.question][row.answer] += 1
    return trials.saying(like, [counts[row.read].most_common(1)[0][0] for row in like.rows])


def ask() -> None:
    """Run all trials of questions and store the figures."""
    rows, said, training, like = {}, {}, {}, None
    for name, (options, seeds) in TRIALS.items():
        runs = [learned(seed=seed, **options) for seed in seeds]
        like = runs[0][0]
        rows[name], said[name] = [by_kind(outcome) for outcome, _, _ in runs], like.rows
        seconds = statistics.mean(took for _, _, took in runs)
        training[name] = {"parameters": runs[0][1], "seconds": round(seconds), "seeds": len(seeds)}
        figures = (f"{kind} {statistics.mean(one[kind].value for one in rows[name]):.3f}" for kind in rows[name][0])
        print(f"{name}, {seconds:.0f} s: {', '.join(figures)}", flush=True)
    rows["most frequent answer"] = [by_kind(frequent(like))]
    names = tuple(rows["whole clip"][0])
    pairs = [("whole clip", other) for other in ("question alone", "first frame", "shuffled frames")]
    pairs += [(other, "whole clip") for other in rows if other.startswith("whole clip, ")]
    found = trials.compared(rows, names, trials.groups_of(like), pairs)
    counts = {split: dict(Counter(row.kind for row in questions(split))) for split in SPLITS}
    about = {"rows": len(like.rows), "counts": counts, "training": training, "examples": examples(said)}
    trials.store("video", "video questions", **about, **found)


def examples(said: dict[str, Sequence[Row]]) -> list[dict[str, str]]:
    """Return some questions of each kind with what the models answer, by the trial's name."""
    chosen: dict[str, list[int]] = defaultdict(list)
    for number in np.random.default_rng(0).permutation(len(questions("test"))):
        chosen[questions("test")[number].kind].append(number)
    return [
        {
            "kind": kind, "question": questions("test")[number].question, "answer": questions("test")[number].answer,
            **{name: said[name][number].said for name in ("whole clip", "first frame", "question alone")},
        }
        for kind, numbers in chosen.items() for number in numbers[:2]
    ]  # fmt: skip


def exercises(split: str, sees: str = "whole") -> data.Examples:
    """Load clips of exercises with their names, whole or as their first frame."""

    def named(row: dict) -> dict:
        clip = row["image"] if sees == "whole" else tf.repeat(row["image"][:1], FRAMES, axis=0)
        labels = {kind: row[kind.replace(" ", "_")] for kind in rules.EXERCISES}
        return {**labels, **{key: row[key] for key in ("id", "caption", "concept")}, "image": clip}

    return data.Examples(data.load("exercises", split).encoded.map(named))


def writer() -> Any:
    """Build a captioner whose vocabulary is that of the training names."""
    names = [row["caption"].decode() for row in data.load("exercises", "train").encoded.as_numpy_iterator()]
    options = {**WRITER, "image_encoder": encoder(), "vocabulary": text.vocabulary(names, size=PIECES)}
    return zoo.build("cross_attn_video_captioner", weights=None, **options)


def describe() -> None:
    """Write the names of exercises, and store the figures."""
    plans = {
        trial: trials.Trial(
            writer, exercises("train", sees), exercises("validation", sees), {"": exercises("test", sees)}, WRITING
        )
        for trial, sees in {"whole clip": "whole", "first frame": "first frame"}.items()
    }
    judged = trials.run("video_captions", plans, seeds=(0,))
    rows = {trial: trials.measures(one.outcomes[""]) for trial, one in judged.items()}
    like = judged["whole clip"].outcomes[""][0]
    tested = list(exercises("test").encoded.map(lambda row: {**row, "image": ""}).as_numpy_iterator())
    template = [b" ".join(row[kind] for kind in ("equipment", "body part")).decode() + " exercise" for row in tested]
    taught = baseline.training_texts(writer(), exercises("train"))
    others = {
        "template of the labels": trials.saying(like, template),
        "nearest neighbour": baseline.nearest_neighbour(like, taught, (), (vectors("train"), vectors("test"))),
        "most frequent": baseline.most_frequent(like, taught, ()),
    }
    rows |= {trial: trials.measures([outcome]) for trial, outcome in others.items()}
    pairs = [("whole clip", other) for other in rows if other != "whole clip"]
    found = trials.compared(rows, ("cider", "word_f1", "bleu_4", "exact_match"), trials.groups_of(like), pairs)
    training = {one: {"parameters": each.parameters, "seconds": round(each.seconds)} for one, each in judged.items()}
    said = {trial: one.outcomes[""][0].rows for trial, one in judged.items()}
    said |= {trial: outcome.rows for trial, outcome in others.items()}
    written = [
        {"name": row.expected[0], **{trial: rows[at].said for trial, rows in said.items()}}
        for at, row in list(enumerate(like.rows))[:: len(like.rows) // 12][:12]
    ]
    about = {"rows": len(like.rows), "training": training, "examples": written}
    trials.store("video_captions", "video captions", **about, **found)


def vectors(split: str) -> np.ndarray:
    """Return the mean features of the clips, at length one."""
    kept = data.features(exercises(split), frozen(), trials.FEATURES)
    points = np.stack([row["image"].mean(axis=(0, 1, 2), dtype="float32") for row in kept.as_numpy_iterator()])
    return points / np.linalg.norm(points, axis=1, keepdims=True)


PARTS = {"questions": ask, "captions": describe}


def main(parts: Sequence[str]) -> None:
    """Run the parts that are named, or all."""
    for part in parts or PARTS:
        PARTS[part]()


if __name__ == "__main__":
    main(sys.argv[1:])
