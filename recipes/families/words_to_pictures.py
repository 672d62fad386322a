"""Generators: pictures from words, trained with a discriminator by `train.run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recipes.release import Release
from vtx_keras import data, train, zoo
from vtx_keras.data._load import judges as rules


def generator(
    recipe: str,
    about: str,
    expect: str,
    sets_used: tuple[str, ...],
    examples: Callable[[str], data.Examples],
    *,
    epochs: int,
    sheet: tuple[str, ...],
    judges: Callable[[], Mapping[str, Any]] | None = None,
    options: Mapping[str, Any] = {},
    **more: Any,
) -> Release:
    """Return the release of a generator of 64 px; its weights are the averaged ones of the last epoch."""

    def trained(model: Any, folder: Path) -> Path:
        train.run(
            model, examples("train"), folder, validation=examples("validation"), epochs=epochs, batch_size=32,
            samples=16, save_every=1000, learning_rate=2e-4,
        )  # fmt: skip
        plain = zoo.build(model.spec["name"], weights=folder / "last", dtype="float32")
        return zoo.save(plain, folder / "float32")

    return Release(
        recipe, about, expect, sets_used, examples, {"test": "the official test split, whose texts are drawn"},
        options={"dtype": "mixed_bfloat16", **options}, trained=trained, epochs=epochs, sheet=sheet, judges=judges,
        batch_size=32, learning_rate=2e-4, **more,
    )  # fmt: skip


def shapes(recipe: str, epochs: int) -> Release:
    """Return the release that draws one coloured shape."""

    def judges() -> dict[str, Any]:
        asked = zoo.build("merged_attn_vqa")  # the released one, which has seen no drawing

        def answers(question: str) -> Callable[[Any], list[str]]:
            return lambda pictures: asked.answer(list(pictures), [question] * len(pictures))

        by_rule = rules("shapes")
        return {
            **by_rule,
            "colour_by_vqa": ("colour", answers("what color is the shape?")),
            "shape_by_vqa": ("shape", answers("what shape is in the image?")),
        }

    return generator(
        recipe,
        "Draws one shape (circle, rectangle, triangle) in one of eight colours, small or large, at 64 × 64 px. The "
        "text is read by one transformer block; noise and sentence become a map that is doubled four times, scaled and "
        "shifted by both at every step, and whose cells attend to the words at 8 × 8 and 16 × 16.",
        "It draws what its sentences say: size, colour, shape. Other words are an error. The ground is pale, and "
        "where the shape lies is chance. A sentence that leaves the shape open gets one in between.",
        ("shapes",),
        lambda split: data.load("shapes", split),
        epochs=epochs,
        sheet=(
            "a small red triangle", "a large blue circle", "a large yellow rectangle", "a small green circle",
            "a large black triangle", "a small teal rectangle", "a brown shape", "the shape is gray",
        ),
        judges=judges,
        options={"max_length": 16, "changes": "shift"},
        licence="Apache-2.0",
        eval_data="shapes",
        formats=(("litert", "int8"), ("litert", "float16"), ("onnx", "float16")),
    )  # fmt: skip
