"""Inputs of models: images and clips (`media`), texts (`text`), the words of ImageNet's classes (`concepts`)."""

__all__ = ["concepts", "media", "text"]
