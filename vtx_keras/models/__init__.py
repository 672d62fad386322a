"""Models: names and options, layers, blocks, fusions, encoders, language models, concepts, decoding, and the tasks."""

__all__ = [
    "blocks",
    "concepts",
    "decode",
    "encoders",
    "fusion",
    "language",
    "layers",
    "objectives",
    "options",
    "rewards",
    "tasks",
]
