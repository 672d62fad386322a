"""Questions about clips, by rules: their answers hold, and neither their words nor the first frame tell the order."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from paths import ROOT

KINDS = ("person", "hand", "animal", "vehicle")


@pytest.fixture
def rules(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from recipes.systems import video_questions

    return video_questions


@pytest.fixture
def scenes(rules):
    """Three clips of each kind, and one of none; a frame's number divided by FRAMES is its clip's."""
    of = [kind for kind in KINDS for _ in range(3)] + [""]
    return [
        rules.Scene(f"thing {at}", kind, tuple(range(at * rules.FRAMES, (at + 1) * rules.FRAMES)))
        for at, kind in enumerate(of)
    ]


def asked(rules, scenes, rounds=60):
    found = defaultdict(list)
    for row in rules.several_scenes(scenes, rounds, np.random.default_rng(0)):
        found[row.kind].append(row)
    return found


def kinds_in(rules, scenes, row):
    """The kinds of a clip's scenes, in their order."""
    assert len(row.frames) == rules.FRAMES
    return list(dict.fromkeys(scenes[frame // rules.FRAMES].kind for frame in row.frames))


def test_answers_about_joined_clips_are_what_the_frames_show(rules, scenes):
    found = asked(rules, scenes)
    assert set(found) == {"how many scenes", *rules.ORDER}
    for row in found["how many scenes"]:
        assert rules.COUNTS.index(row.answer) + 1 == len(kinds_in(rules, scenes, row))
    for row in found["which comes first"]:
        kinds = kinds_in(rules, scenes, row)
        named = [kind for kind in kinds if kind in row.question]
        assert named == kinds[1:], "the first frame is of neither"
        assert row.answer == named[0]
    for row in found["what comes after"]:
        kinds = kinds_in(rules, scenes, row)
        at = next(at for at, kind in enumerate(kinds) if kind in row.question)
        assert row.answer == kinds[at + 1]
    for row in found["what comes last"]:
        kinds = kinds_in(rules, scenes, row)
        assert row.answer == kinds[-1] != kinds[0]


def test_two_kinds_are_named_in_both_orders_and_counts_are_equally_frequent(rules, scenes):
    found = asked(rules, scenes)
    pairs = found["which comes first"]
    for one, other in zip(pairs[::2], pairs[1::2], strict=True):
        assert (one.frames, one.answer) == (other.frames, other.answer)
        assert one.question != other.question
        assert sorted(one.question) == sorted(other.question)
    assert len(set(Counter(row.answer for row in found["how many scenes"]).values())) == 1


def test_a_frozen_clip_is_its_first_frame_and_a_slow_one_is_left_out(rules, scenes):
    slow = scenes[0]._replace(change=rules.MOVES / 2)
    moving, still = rules.does_it_move([slow, scenes[1]])
    assert (moving.answer, moving.frames) == ("yes", scenes[1].frames)
    assert still.answer == "no"
    assert still.frames == scenes[1].frames[:1] * rules.FRAMES
    assert [row.answer for row in rules.what_is_seen(scenes)] == [kind for kind in KINDS for _ in range(3)]


def test_a_change_of_pixels_is_told_from_stillness(rules):
    still = np.full((4, 6, 6, 3), 200, "uint8")
    moving = still.copy()
    moving[1::2, :, :3] = 0
    assert rules.change(still) == 0
    assert rules.change(moving) == pytest.approx(200 / 255 / 2, abs=1e-6)


def test_exercises_are_asked_for_frequent_answers_alone(rules, scenes):
    labels = [{"body part": "back", "equipment": f"rope {at}", "target": "lats"} for at in range(rules.LEAST)]
    answers = rules.frequent(labels)
    assert answers == {"body part": {"back"}, "equipment": set(), "target": {"lats"}}
    rows = list(rules.about_exercises([(scenes[0], labels[0])], answers))
    assert [(row.kind, row.answer) for row in rows] == [("body part", "back"), ("target", "lats")]
