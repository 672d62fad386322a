"""Trains and releases `cross_attn_captioner/emoji`: python -m zoo.cross_attn_captioner.emoji.recipe"""

from recipes import families, release as making

RELEASE = families.captioner(
    __file__,
    "every word looks at the picture by cross-attention",
    epochs=5,
    besides=families.by_tone,
    formats=(("litert", None), ("litert", "int8"), ("onnx", None), ("onnx", "int8"), ("saved_model", None)),
)

if __name__ == "__main__":
    making.main(RELEASE)
