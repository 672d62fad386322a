"""What enters a model: pictures and clips (`media`), strings (`text`)."""

__all__ = ["media", "text"]
