"""Inputs of models: images and clips (`media`), texts (`text`)."""

__all__ = ["media", "text"]
