"""Models: names and options, layers, fusions, encoders, decoding, and the five tasks."""

__all__ = ["decode", "encoders", "fusion", "layers", "objectives", "options", "tasks"]
