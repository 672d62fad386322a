"""Questions about clips, by rules from labels: what is seen, whether it moves, how many scenes follow one another.

A clip is eight numbers of frames in a table of all frames: it is joined, frozen and shuffled by its numbers alone. No
question about the order can be answered from its words or from the first frame.
"""

from __future__ import annotations

import hashlib
import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vtx_keras.inputs import media

FRAMES, SHORTEST = 8, 2  # of a clip, of a scene
KINDS = {  # of emoji, by how Unicode's sub-group begins
    "person": ("person", "family"), "hand": ("hand",), "animal": ("animal",), "face": ("face",),
    "vehicle": ("transport",),
}  # fmt: skip
NEITHER = ("person-symbol",)  # footprints, silhouettes and speaking heads
COUNTS = ("one", "two", "three")
MOVES = 0.01  # mean change of a pixel from frame to frame, of its range, from which on a clip is said to move
LEAST = 20  # training clips of an answer about exercises
EXERCISES = {
    "body part": "which body part is trained?",
    "equipment": "what equipment is used?",
    "target": "which muscle is the target?",
}
STILL = ("what is seen", *EXERCISES)  # what one frame can tell
ORDER = ("which comes first", "what comes after", "what comes last")  # what frames in another order cannot tell
IN_TIME = ("does it move", "how many scenes", *ORDER)  # what one frame cannot tell
Frames = tuple[int, ...]
BLANK: Frames = (0,) * FRAMES  # the first frame of the table is white


class Scene(NamedTuple):
    """One clip of a data set: its concept, its kind ("" for none), its frames, and how much they differ."""

    concept: str
    kind: str
    frames: Frames
    change: float = 1.0


class Asked(NamedTuple):
    """A question about a clip; `group` is the concept that the clip was made for."""

    kind: str
    question: str
    answer: str
    frames: Frames
    group: str


def kind_of(subgroup: str) -> str:
    """Return what an emoji's Unicode sub-group is called in questions, or "".

    >>> kind_of("person-role"), kind_of("animal-bird"), kind_of("sky & weather")
    ('person', 'animal', '')
    """
    if subgroup in NEITHER:
        return ""
    return next((kind for kind, begins in KINDS.items() if subgroup.startswith(begins)), "")


def change(frames: np.ndarray) -> float:
    """Return the mean change of a pixel from frame to frame (frames, h, w, 3), as a share of its range.

    >>> change(np.array([0, 0, 51], "uint8").reshape(3, 1, 1, 1))
    0.1
    """
    return round(float(np.abs(np.diff(frames.astype("float32"), axis=0)).mean() / 255), 6)


def joined(scenes: Sequence[Frames], lengths: Sequence[int]) -> Frames:
    """Return a clip of so many frames of each scene, evenly picked.

    >>> joined([(1, 2, 3, 4), (5, 6, 7, 8)], (1, 2))
    (3, 6, 8)
    """
    picked = [[scene[at] for at in media.frame_places(len(scene), n)] for scene, n in zip(scenes, lengths, strict=True)]
    return tuple(itertools.chain(*picked))


def cuts(scenes: int) -> list[tuple[int, ...]]:
    """Return all lengths of so many scenes that make up a clip.

    >>> cuts(2)
    [(2, 6), (3, 5), (4, 4), (5, 3), (6, 2)]
    """
    sizes = itertools.product(range(SHORTEST, FRAMES + 1), repeat=scenes)
    return [lengths for lengths in sizes if sum(lengths) == FRAMES]


def shuffled(frames: Frames, seed: int) -> Frames:
    """Return the frames in another order.

    >>> sorted(shuffled((1, 2, 3), 0))
    [1, 2, 3]
    """
    return tuple(frames[at] for at in np.random.default_rng(seed).permutation(len(frames)))


SEES: dict[str, Callable[[Asked, int], Frames]] = {  # what a model sees of a clip; the number is the row's
    "whole": lambda row, number: row.frames,
    "first frame": lambda row, number: row.frames[:1] * FRAMES,
    "shuffled": lambda row, number: shuffled(row.frames, number),
    "question alone": lambda row, number: BLANK,
}


def what_is_seen(scenes: Iterable[Scene]) -> Iterator[Asked]:
    """Ask of each clip what kind of thing it shows."""
    for scene in scenes:
        if scene.kind:
            yield Asked("what is seen", "what is seen?", scene.kind, scene.frames, scene.concept)


def does_it_move(scenes: Iterable[Scene]) -> Iterator[Asked]:
    """Ask it of each clip that clearly moves, and of its first frame, which stands still."""
    for scene in scenes:
        if scene.change >= MOVES:
            for answer, frames in (("yes", scene.frames), ("no", scene.frames[:1] * FRAMES)):
                yield Asked("does it move", "does it move?", answer, frames, scene.concept)


def several_scenes(scenes: Iterable[Scene], rounds: int, rng: np.random.Generator) -> Iterator[Asked]:
    """Ask about clips joined from scenes of several kinds, each concept as often as another.

    In every round it is asked how many scenes there are, which of two kinds comes first, what comes after a kind, and
    what comes last. The first scene is not among the two that are compared, which are named in both orders.
    """
    pool: dict[str, dict[str, list[Scene]]] = defaultdict(lambda: defaultdict(list))
    for scene in scenes:
        if scene.kind:
            pool[scene.kind][scene.concept].append(scene)

    def drawn(count: int) -> tuple[list[Scene], Frames]:
        kinds, cut = rng.permutation(list(pool))[:count], cuts(count)
        found = []
        for concepts in (pool[kind] for kind in kinds):
            clips = concepts[list(concepts)[rng.integers(len(concepts))]]
            found.append(clips[rng.integers(len(clips))])
        return found, joined([scene.frames for scene in found], cut[rng.integers(len(cut))])

    for turn in range(rounds):
        count = turn % len(COUNTS)
        parts, frames = drawn(count + 1)
        yield Asked("how many scenes", "how many scenes are there?", COUNTS[count], frames, parts[0].concept)
        (_, one, other), frames = drawn(3)
        for first, second in ((one, other), (other, one)):
            question = f"which comes first, the {first.kind} or the {second.kind}?"
            yield Asked("which comes first", question, one.kind, frames, one.concept)
        parts, frames = drawn(3)
        at = rng.integers(2)
        question = f"what comes after the {parts[at].kind}?"
        yield Asked("what comes after", question, parts[at + 1].kind, frames, parts[at].concept)
        parts, frames = drawn(2 + turn % 2)
        yield Asked("what comes last", "what comes last?", parts[-1].kind, frames, parts[-1].concept)


def about_exercises(rows: Iterable[tuple[Scene, Mapping[str, str]]], answers: Mapping[str, set[str]]) -> Iterator:
    """Ask for what the labels of an exercise say, where it is among the `answers` of such questions."""
    for scene, labels in rows:
        for kind, question in EXERCISES.items():
            if labels[kind] in answers[kind]:
                yield Asked(kind, question, labels[kind], scene.frames, scene.concept)


def frequent(labels: Sequence[Mapping[str, str]]) -> dict[str, set[str]]:
    """Return the answers about exercises that at least LEAST training clips have."""
    counts = {kind: Counter(row[kind] for row in labels) for kind in EXERCISES}
    return {kind: {answer for answer, n in found.items() if n >= LEAST} for kind, found in counts.items()}


def balanced(rows: Iterable[Asked]) -> list[Asked]:
    """Thin out the frequent answers to each kind of question to the median count of its answers, by a hash.

    >>> rows = [Asked("k", "q", answer, (i,), "") for i, answer in enumerate("aaaaabbc")]
    >>> "".join(sorted(row.answer for row in balanced(rows)))
    'aabbc'
    """
    found: dict[str, dict[str, list[Asked]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row.kind][row.answer].append(row)
    kept = []
    for answers in found.values():
        most = int(statistics.median(map(len, answers.values())))
        for few in answers.values():
            kept += sorted(few, key=_by_hash)[:most]
    return kept


def _by_hash(row: Asked) -> str:
    return hashlib.sha256(f"{row.group} {row.frames}".encode()).hexdigest()
