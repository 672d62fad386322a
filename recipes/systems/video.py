"""Questions about clips, and names of exercises from clips: whole, from the first frame, shuffled, and without a clip.

python -m recipes.systems.video              # an hour on two cores
python -m recipes.systems.video questions    # one of the two: questions or captions

Every frame of emoji_video and exercises is encoded once. A clip of the questions is eight of these frames, so a joined,
frozen or shuffled one costs nothing more: the encoder sees each frame by itself.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from recipes.systems import trials
from recipes.systems import video_questions as rules
from recipes.systems.video_questions import FRAMES, Asked, Frames, Scene
from vtx_keras import data, metrics, text, train, zoo
from vtx_keras.evaluate import _baselines as baseline
from vtx_keras.evaluate._outcomes import Outcome, Row

SHARED = {"image_encoder": "efficientnet_lite0", "image_shape": (FRAMES, 96, 96, 3), "dim": 128, "depth": 2}
READER = {**SHARED, "text_depth": 1, "max_length": 12, "dropout": 0.2}
WRITER = {**SHARED, "max_length": 16, "dropout": 0.3}
SETTINGS = {"epochs": 10, "batch_size": 64, "learning_rate": 1e-3}
WRITING = {**SETTINGS, "epochs": 24, "batch_size": 32, "ema": 0.99, "jit_compile": False, "save_every": 1000}
ROUNDS = {"train": 1000, "validation": 100, "test": 200}  # of questions about joined clips
BLANK = (0,) * FRAMES  # the first frame of the table is white
SPLITS = ("train", "validation", "test")
PIECES = 1500


class Table(NamedTuple):
    """Features of all frames (frames, h, w, width), and the scenes of each split with their labels."""

    frames: np.ndarray
    emoji: dict[str, list[Scene]]
    exercises: dict[str, list[tuple[Scene, dict[str, str]]]]


@functools.cache
def table() -> Table:
    """Encode each frame once, and number it."""
    model = frozen()
    blank = {"id": "blank", "image": np.full((FRAMES, 96, 96, 3), 255, "uint8")}
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
        places = rules.media.frame_places(len(row["image"]), FRAMES)
        yield rules.change(row["image"][places])


@functools.cache
def questions(split: str) -> list[Asked]:
    """Return all questions of a split, with the frequent answers thinned out."""
    rng, scenes, exercises = np.random.default_rng(SPLITS.index(split)), table().emoji[split], table().exercises[split]
    seen = rules.balanced(rules.what_is_seen(scenes))
    shown = {row.frames for row in seen}
    moving = [scene for scene in scenes if scene.frames in shown] + [scene for scene, _ in exercises[::3]]
    answers = rules.frequent([labels for _, labels in table().exercises["train"]])
    return [
        *seen,
        *rules.does_it_move(moving, rng),
        *rules.several_scenes(scenes, ROUNDS[split], rng),
        *rules.balanced(rules.about_exercises(exercises, answers)),
    ]


CHANGES: dict[str, Callable[[Asked, int], Frames]] = {  # what a trial sees of a clip; the number is the row's
    "whole": lambda row, number: row.frames,
    "first frame": lambda row, number: row.frames[:1] * FRAMES,
    "shuffled": lambda row, number: rules.shuffled(row.frames, number),
    "question alone": lambda row, number: BLANK,
}


class Batches(keras.utils.PyDataset):
    """Batches of clips and questions; with a seed, in another order every epoch."""

    def __init__(self, model: Any, split: str, sees: str, seed: int | None = None):
        super().__init__()
        rows = questions(split)
        self.frames = np.array([CHANGES[sees](row, number) for number, row in enumerate(rows)])
        self.tokens = model.tokens_of([row.question for row in rows])
        names = {name: at for at, name in enumerate(model.class_names)}
        self.classes = np.array([names[row.answer] for row in rows])
        self.rng = None if seed is None else np.random.default_rng(seed)
        self.order = np.arange(len(rows))
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self.order) // SETTINGS["batch_size"])

    def __getitem__(self, at: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        rows = self.order[at * SETTINGS["batch_size"] :][: SETTINGS["batch_size"]]
        features = table().frames[self.frames[rows]].astype("float32")
        return {"image": features, "tokens": self.tokens[rows]}, self.classes[rows]

    def on_epoch_end(self) -> None:
        if self.rng is not None:
            self.rng.shuffle(self.order)


def reader(fusion: str = "cross_attn", temporal: str = "positions") -> Any:
    """Build a model whose vocabulary is that of the training questions."""
    asked = questions("train")
    vocabulary = text.vocabulary([row.question for row in asked], size=PIECES)
    names = sorted({row.answer for row in asked})
    options = {**READER, "temporal": temporal, "vocabulary": vocabulary, "classes": names}
    return zoo.build(f"{fusion}_video_vqa", weights="encoders", **options)


@functools.cache
def frozen() -> Any:
    """Return a model whose frozen image encoder is that of all."""
    vocabulary = text.vocabulary(["what is seen?"])
    model = zoo.build("cross_attn_video_vqa", weights="encoders", vocabulary=vocabulary, **READER)
    model.freeze("image")
    return model


def learned(sees: str, seed: int, **options: Any) -> tuple[Outcome, int, float]:
    """Train on what a trial sees, keep the epoch that is best on validation; return its answers, size and seconds."""
    keras.utils.set_random_seed(seed)
    model = reader(**options)
    model.freeze("image")
    part, start = model.behind_encoder(), time.monotonic()
    batches, epochs = Batches(model, "train", sees, seed), SETTINGS["epochs"]
    optimizer = train.adamw(part, epochs * len(batches), learning_rate=SETTINGS["learning_rate"])
    part.compile(optimizer, loss=part.loss, weighted_metrics=["accuracy"], jit_compile=False)
    best = keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=epochs, restore_best_weights=True)
    held_out = Batches(model, "validation", sees)
    part.fit(batches, validation_data=held_out, epochs=epochs, callbacks=[best], verbose=VERBOSE)
    seconds = time.monotonic() - start
    logits = part.predict(Batches(model, "test", sees), verbose=0)
    rows = tuple(
        Row(number, str(number), asked.group, asked.question, (asked.answer,), model.class_names[row.argmax()])
        for number, (asked, row) in enumerate(zip(questions("test"), logits, strict=True))
    )
    size = sum(int(np.prod(weight.shape)) for weight in part.trainable_weights)
    return Outcome("label", rows, {}), size, seconds


VERBOSE = 0
TRIALS: dict[str, tuple[dict[str, str], Sequence[int]]] = {  # what is seen and how it is fused, and the seeds
    "whole clip": ({"sees": "whole"}, trials.SEEDS),
    "whole clip, gru": ({"sees": "whole", "temporal": "gru"}, trials.SEEDS),
    "shuffled frames": ({"sees": "shuffled"}, trials.SEEDS),
    "first frame": ({"sees": "first frame"}, trials.SEEDS),
    "question alone": ({"sees": "question alone"}, trials.SEEDS),
    "merged_attn": ({"sees": "whole", "fusion": "merged_attn"}, (0,)),
    "gated, gru": ({"sees": "whole", "fusion": "gated", "temporal": "gru"}, (0,)),
}
