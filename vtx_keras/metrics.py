"""Standard metrics with intervals, for captions, answers, labels and search; metrics and callbacks for `fit`.

metrics.caption_scores(captions, references)     # BLEU, ROUGE-L, CIDEr as in the papers
model.compile(..., weighted_metrics=[metrics.Perplexity()])
model.fit(..., callbacks=[metrics.Scores(examples)])
"""

import importlib
from typing import Any

_MODULE_OF = {
    "Measure": "evaluate._measures",
    "mean": "evaluate._measures",
    "intervals": "evaluate._measures",
    "caption_scores": "evaluate._captions",
    "exact": "evaluate._captions",
    "word_f1": "evaluate._captions",
    "tokens": "inputs.text",
    "penn": "evaluate._captions",
    "vqa_accuracy": "evaluate._measures",
    "vqa_normalize": "evaluate._measures",
    "ranks": "evaluate._measures",
    "retrieval": "evaluate._measures",
    "one_label": "evaluate._measures",
    "many_labels": "evaluate._measures",
    "yes_or_no": "evaluate._measures",
    "auroc": "evaluate._measures",
    "calibration": "evaluate._measures",
    "consistency": "evaluate._consistency",
    "said_of": "evaluate._outcomes",
    "measures_of": "evaluate._outcomes",
    "Perplexity": "models.objectives",
    "SSIM": "models.objectives",
    "ssim": "models.objectives",
    "Perceptual": "evaluate._drawn",
    "perceptual": "evaluate._drawn",
    "Scores": "evaluate._run",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"vtx_keras.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'vtx_keras.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
