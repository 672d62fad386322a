"""Trains and releases `cross_attn_captioner/emoji`: python -m zoo.cross_attn_captioner.emoji.recipe"""

from recipes.families import drawings
from recipes.steps import main

RELEASE = drawings.captioner(
    __file__,
    "every word attends to the picture by cross-attention",
    epochs=5,
    besides=drawings.accuracy_by_tone,
    formats=(("litert", None), ("litert", "int8"), ("onnx", None), ("onnx", "int8"), ("saved_model", None)),
)

if __name__ == "__main__":
    main(RELEASE)
