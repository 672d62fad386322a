"""Models that answer questions about radiology images (`vqa_rad`), one for each of the data set's two splits."""

from __future__ import annotations

from recipes.families.examples import split_and_part, without
from recipes.release import Release
from vtx_keras import data

SPLITS = {
    "official": "the published test questions; their images also occur in training",
    "disjoint": "questions about images that occur nowhere else",
}


def answerer(recipe: str, kind: str) -> Release:
    """Return the release of a model for one kind of split."""
    about = (
        "Answers clinicians' questions about radiology images with one of the answers it was trained on. **For "
        "research, not for diagnosis.** The image, at 193 × 193 px, is encoded by a frozen MobileNetV2 that was "
        "trained on photographs."
    )
    expect = (
        "This is a small model without medical pretraining: the figures for a blank picture and for the question alone "
        "show how little it uses the image. It cannot give an answer that is not in the training split; such questions "
        "count as wrong."
    )
    splits = {
        "test": SPLITS[kind],
        "test, closed": "those answered by yes, no or a choice",
        "test, open": "the others",
        "test without picture": "the same questions about a blank picture",
    }

    def questions(split: str) -> data.Examples:
        name, part = split_and_part(split)
        name, _, answers = name.partition(", ")
        examples = data.load(f"vqa_rad/{kind}", name)
        if answers:
            examples = data.Examples(examples.encoded.filter(lambda row: row["answer_type"] == answers))
        return without(examples, part)

    return Release(
        recipe,
        about,
        expect,
        ("vqa_rad",),
        questions,
        splits,
        options={
            "image_encoder": "mobilenet_v2",
            "image_shape": (193, 193, 3),
            "dim": 128,
            "depth": 2,
            "text_depth": 1,
            "dropout": 0.3,
        },
        licence="Apache-2.0",
        epochs=12,
        batch_size=32,
        eval_data=f"vqa_rad/{kind}",
    )
