"""Trains and releases `cross_attn_captioner/emoji_small`: python -m zoo.cross_attn_captioner.emoji_small.recipe

It was trained on a GPU, by `zoo.far`.
"""

from zoo import families, making

RELEASE = families.captioner(
    __file__,
    about="Says the English name of an emoji's picture, or of a drawing. EfficientNet-Lite2, trained on to see emoji, "
    "reads it at 128 × 128 px; in three decoder blocks of width 192 every word looks at it by cross-attention.",
    how="",
    options={"image_encoder": "efficientnet_lite2_emoji", "image_shape": (128, 128, 3)},
    batch_size=128,
    far_epochs=60,
    formats=(("litert", None), ("litert", "int8"), ("onnx", None), ("onnx", "int8"), ("saved_model", None)),
)

if __name__ == "__main__":
    making.main(RELEASE)
