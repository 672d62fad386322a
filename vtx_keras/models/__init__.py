"""Models: names and options, layers, fusions, encoders, concepts, decoding, and the five tasks."""

__all__ = [
    "concepts",
    "decode",
    "encoders",
    "fusion",
    "layers",
    "objectives",
    "options",
    "rewards",
    "tasks",
]
