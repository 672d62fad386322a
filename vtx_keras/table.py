"""The table of names: what each model of the zoo is, without loading Keras.

>>> lookup("gated_vqa").fusion
'gated'
"""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass

from vtx_keras import weights
from vtx_keras.options import ABOUT, CO_ATTN_NEEDS_THE_WHOLE_TEXT, did_you_mean, options_of, resolve


@dataclass(frozen=True)
class Entry:
    """A name of the zoo: its task, its fusion, whether it sees video, and the released tag that is its default."""

    task: str
    fusion: str | None
    video: bool = False
    default: str | None = None


MODELS = {
    "concat_mlp_captioner": Entry("captioner", "concat_mlp", default="emoji"),
    "gated_captioner": Entry("captioner", "gated", default="emoji"),
    "cross_attn_captioner": Entry("captioner", "cross_attn", default="emoji"),
    "merged_attn_captioner": Entry("captioner", "merged_attn", default="emoji"),
    "concat_mlp_video_captioner": Entry("captioner", "concat_mlp", video=True),
    "gated_video_captioner": Entry("captioner", "gated", video=True),
    "cross_attn_video_captioner": Entry("captioner", "cross_attn", video=True, default="emoji"),
    "merged_attn_video_captioner": Entry("captioner", "merged_attn", video=True),
    "concat_mlp_vqa": Entry("vqa", "concat_mlp", default="easy_vqa"),
    "gated_vqa": Entry("vqa", "gated", default="easy_vqa"),
    "cross_attn_vqa": Entry("vqa", "cross_attn", default="emoji"),
    "co_attn_vqa": Entry("vqa", "co_attn", default="easy_vqa"),
    "merged_attn_vqa": Entry("vqa", "merged_attn", default="easy_vqa"),
    "concat_mlp_video_vqa": Entry("vqa", "concat_mlp", video=True),
    "gated_video_vqa": Entry("vqa", "gated", video=True),
    "cross_attn_video_vqa": Entry("vqa", "cross_attn", video=True),
    "co_attn_video_vqa": Entry("vqa", "co_attn", video=True),
    "merged_attn_video_vqa": Entry("vqa", "merged_attn", video=True),
    "concat_mlp_classifier": Entry("classifier", "concat_mlp"),
    "gated_classifier": Entry("classifier", "gated"),
    "cross_attn_classifier": Entry("classifier", "cross_attn", default="emoji"),
    "co_attn_classifier": Entry("classifier", "co_attn"),
    "merged_attn_classifier": Entry("classifier", "merged_attn"),
    "concat_mlp_matcher": Entry("matcher", "concat_mlp"),
    "gated_matcher": Entry("matcher", "gated"),
    "cross_attn_matcher": Entry("matcher", "cross_attn", default="emoji"),
    "co_attn_matcher": Entry("matcher", "co_attn"),
    "merged_attn_matcher": Entry("matcher", "merged_attn"),
    "retriever": Entry("retriever", None, default="emoji"),
    "video_retriever": Entry("retriever", None, video=True),
}


def list_models(pattern: str = "*", released: bool | None = None) -> list[str]:
    """Every name that matches; `released=True` those that come with weights, False those that do not yet.

    >>> list_models("co_attn_*_vqa")
    ['co_attn_video_vqa']
    """
    names = fnmatch.filter(MODELS, pattern)
    return [name for name in names if released is None or bool(weights.released_tags(name)) == released]


def describe(name: str) -> dict:
    """What a name stands for: task, fusion, inputs, released tags, and its options with their defaults.

    >>> describe("gated_vqa")["fusion"]
    'gated'
    """
    entry = lookup(name)
    defaults = resolve(entry.task, entry.video, {})
    return {
        "name": name,
        "task": entry.task,
        "fusion": entry.fusion,
        "video": entry.video,
        "about": ABOUT[entry.task],
        "released": weights.released_tags(name),
        "options": {
            option: {"default": defaults[option], "about": row.about, "takes": row.takes}
            for option, row in options_of(entry.task).items()
        },
    }


def facts(name: str, tag: str) -> dict:
    """What a released model is known by: parameters, megabytes, data, licence, and its first figure with its interval.

    >>> facts("cross_attn_captioner", "emoji")["data"]
    'emoji, emoji_more, word_cards'
    """
    path = weights.released_root() / name / tag / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "headline" not in results:  # it has not been judged yet
        return {}
    return {key: results[key] for key in ("parameters", "megabytes", "data", "licence", "headline")}


def lookup(name: str) -> Entry:
    """The table's row, or an error that names what is close."""
    if name not in MODELS:
        if name in ("co_attn_captioner", "co_attn_video_captioner"):
            raise ValueError(f"there is no {name!r}: {CO_ATTN_NEEDS_THE_WHOLE_TEXT}")
        raise ValueError(f"no model is called {name!r}{did_you_mean(name, MODELS)}; zoo.list_models() names them all")
    return MODELS[name]
