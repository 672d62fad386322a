"""How features become tokens: what time needs is built for clips alone."""

from __future__ import annotations

import pytest
from toys import toy


@pytest.mark.parametrize(("name", "recurrent"), [("gated_vqa", False), ("gated_video_vqa", True)])
def test_a_gru_over_frames_is_built_only_where_there_are_frames(name, recurrent):
    vision = toy(name, temporal="gru").get_layer("vision")
    assert any("memory" in weight.path for weight in vision.weights) is recurrent
