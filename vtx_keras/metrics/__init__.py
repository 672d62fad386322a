"""The field's own scorers, with intervals: of captions, answers, labels and search, and for `compile` and `fit`.

metrics.caption_scores(said, references)         # BLEU, ROUGE-L, CIDEr as the papers have them
model.compile(..., weighted_metrics=[metrics.Perplexity()])
model.fit(..., callbacks=[metrics.Scores(examples)])
"""

import importlib
from typing import Any

_ROOM_OF = {
    "Measure": "measures",
    "mean": "measures",
    "intervals": "measures",
    "caption_scores": "captions",
    "exact": "captions",
    "word_f1": "captions",
    "tokens": "captions",
    "penn": "captions",
    "vqa_accuracy": "answers",
    "vqa_normalize": "answers",
    "ranks": "ranking",
    "retrieval": "ranking",
    "one_label": "labels",
    "many_labels": "labels",
    "yes_or_no": "labels",
    "said_of": "outcomes",
    "measures_of": "outcomes",
    "Perplexity": "training",
    "SSIM": "training",
    "ssim": "training",
    "Scores": "callback",
}
__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> Any:
    if name in _ROOM_OF:
        return getattr(importlib.import_module(f"vtx_keras.metrics.{_ROOM_OF[name]}"), name)
    raise AttributeError(f"module 'vtx_keras.metrics' has no attribute {name!r}")
