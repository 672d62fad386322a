"""Models: names and options, layers, blocks, fusions, encoders, language models, concepts, decoding, and the tasks."""

__all__ = [
    "adversarial",
    "blocks",
    "concepts",
    "construct",
    "decode",
    "encoders",
    "fusion",
    "generator",
    "language",
    "layers",
    "maps",
    "objectives",
    "options",
    "rewards",
    "tasks",
]
