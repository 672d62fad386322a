"""The names of the zoo, and the options of each task with their defaults and checks. Imports no Keras.

>>> lookup("gated_vqa").fusion
'gated'
"""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

__all__ = [
    "ABOUT", "CO_ATTN_NEEDS_THE_WHOLE_TEXT", "FRAMES", "HEAD_WIDTH", "MODELS", "OPTIONS", "SIZES", "TASKS", "Entry",
    "Option", "did_you_mean", "lookup", "options_of", "resolve", "shape_of", "sizes_of",
]  # fmt: skip
ABOUT = {
    "captioner": "writes a sentence about an image or clip",
    "vqa": "answers a question about an image or clip with one of its classes",
    "classifier": "labels an image and a text together, with one class or several",
    "retriever": "measures how close images and texts are, for search",
    "matcher": "predicts whether a text fits an image",
    "generator": "draws an image or clip from a sentence",
}
TASKS = tuple(ABOUT)
SEEING = tuple(task for task in TASKS if task != "generator")  # with an encoder of images
# `base` is the size at which others report results: ViT-S/16 at 224 px, then six blocks of width 384.
SIZES = {
    "tiny": {"dim": 192, "depth": 3, "vision_depth": 6, "text_depth": 2, "image_shape": (128, 128, 3)},
    "small": {"dim": 384, "depth": 4, "vision_depth": 8, "text_depth": 2, "image_shape": (160, 160, 3)},
    "base": {"dim": 384, "depth": 6, "vision_depth": 12, "text_depth": 4, "image_shape": (224, 224, 3)},
}
DRAWING_SIZES = {
    "tiny": {"dim": 128, "width": 16, "text_depth": 1, "image_shape": (64, 64, 3)},
    "small": {"dim": 192, "width": 24, "text_depth": 1, "image_shape": (64, 64, 3)},
    "base": {"dim": 256, "width": 32, "text_depth": 2, "image_shape": (128, 128, 3)},
}
FRAMES = 8  # of a clip, by default
CO_ATTN_NEEDS_THE_WHOLE_TEXT = (
    "co_attn cannot write captions: it re-expresses the image by the whole text and reads that back, so in a "
    "left-to-right captioner text would see its own future. Use cross_attn, gated, concat_mlp or merged_attn."
)
HEAD_WIDTH = 64  # of attention heads, by default


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean …?)", or "" if no name is close.

    >>> did_you_mean("dept", ["dim", "depth"])
    ' (did you mean depth?)'
    """
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


@dataclass(frozen=True)
class Option:
    """One option: its purpose, its default (None: see `SIZES`), its values in words, a check, and its tasks."""

    about: str
    default: Any
    takes: str
    accepts: Callable[[Any], bool]
    tasks: tuple[str, ...] = TASKS


MOST, MOST_BLOCKS, LONGEST = 65_536, 96, 4_096  # of what is counted, of blocks and layers, and of a side in pixels


def _whole_number(least: int, most: int = MOST) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most


def _one_of(*choices: Any) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, type(choices[0])) and value in choices


def _shape(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list))
        and len(value) in (3, 4)
        and all(_whole_number(1, LONGEST)(side) for side in value)
        and value[-1] == 3
    )


def _classes(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return len(value) >= 2 and all(isinstance(n, str) and n for n in value) and len(set(value)) == len(value)
    return _whole_number(2, 1_000_000)(value)


SHAPES = ("heads", "fusion_heads", "hidden", "channels", "ranks")  # of one block


def _shapes(value: Any) -> bool:
    """Accept {block: {shape: number}}; the ranks of matrices are {matrix: number} themselves."""

    small = _whole_number(1)

    def fits(key: Any, shape: Any) -> bool:
        if key == "ranks":
            return isinstance(shape, dict) and all(isinstance(k, str) and small(rank) for k, rank in shape.items())
        return key in SHAPES and small(shape)

    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(row, dict) and all(fits(*pair) for pair in row.items())
        for name, row in value.items()
    )


def _encoder(value: Any) -> bool:
    """Accept a name, a `keras.Model`, or the config of a saved one."""
    return bool(value) and (isinstance(value, (str, dict)) or hasattr(value, "get_config"))


FUSED = ("vqa", "classifier", "matcher")
READERS = (*FUSED, "retriever", "generator")
DRAWING = ("generator",)
LABELLERS = ("vqa", "classifier")
WHOLE, FLAG = f"a whole number from 1 to {MOST:,d}", "True or False"
BLOCKS = f"a whole number from 1 to {MOST_BLOCKS}"
OPTIONS = {
    "size": Option("widths and depths that go together", "tiny", "tiny, small or base", _one_of(*SIZES)),
    "image_shape": Option(
        "(h, w, 3), or (frames, h, w, 3) for video",
        None,
        f"(h, w, 3) or (frames, h, w, 3), whole numbers up to {LONGEST:,d}",
        _shape,
    ),
    "dim": Option("width of the tokens", None, WHOLE, _whole_number(1)),
    "depth": Option("number of fusion blocks", None, BLOCKS, _whole_number(1, MOST_BLOCKS), ("captioner", *FUSED)),
    "heads": Option(f"attention heads; by default one per {HEAD_WIDTH} of dim", None, WHOLE, _whole_number(1)),
    "image_encoder": Option(
        "encoder of images",
        "vit",
        "vit, a published one (efficientnet_lite0), a keras.applications name, a keras-hub preset or a keras.Model",
        _encoder,
        SEEING,
    ),
    "vision_depth": Option("blocks of the vit", None, BLOCKS, _whole_number(1, MOST_BLOCKS), SEEING),
    "patch": Option("side of a patch of the vit, in pixels", 16, WHOLE, _whole_number(1), SEEING),
    "concepts": Option(
        "words that the encoder's ImageNet head sees, read beside the image; 0 for none",
        0,
        "a whole number from 0 to 20",
        _whole_number(0, 20),
        ("captioner", *FUSED),
    ),
    "temporal": Option(
        "encoding of time in clips", "positions", "positions or gru", _one_of("positions", "gru"), SEEING
    ),
    "text_encoder": Option(
        "encoder of texts",
        "transformer",
        "transformer, lstm, gru, minilm_l6, a keras-hub preset or a keras.Model",
        _encoder,
        READERS,
    ),
    "text_depth": Option("layers of the text encoder", None, BLOCKS, _whole_number(1, MOST_BLOCKS), READERS),
    "max_length": Option(
        "greatest number of tokens of a text", 32, f"a whole number from 2 to {MOST:,d}", _whole_number(2)
    ),
    "dropout": Option(
        "share of activations dropped in training",
        0.1,
        "a number from 0 up to, not including, 1",
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1,
    ),
    "resize": Option(
        "how an image of another shape is fitted",
        "pad",
        "pad, crop, stretch or shortest, or one of them with -bicubic or -lanczos",
        _one_of(*(fit + end for fit in ("pad", "crop", "stretch", "shortest") for end in ("", "-bicubic", "-lanczos"))),
    ),
    "classes": Option(
        "the answers or labels", 2, "a number of at least 2, or a list of distinct names", _classes, LABELLERS
    ),
    "multi_label": Option("whether several labels can hold at once", False, FLAG, _one_of(False, True), LABELLERS),
    "allow_empty": Option("whether text or image may be missing", False, FLAG, _one_of(False, True), LABELLERS),
    "mlm": Option(
        "adds a masked-language head; outputs become {logits, words}", False, FLAG, _one_of(False, True), FUSED
    ),
    "contrastive": Option(
        "weight of a contrastive loss beside captioning (CoCa); adds a text-only block",
        0.0,
        "a number of at least 0",
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0,
        ("captioner",),
    ),
    "text_decoder": Option(
        "the language model that writes; by default blocks of this model's own",
        "blocks",
        "blocks, a published one (smollm2_135m), hf://owner/name, a .gguf file, or a folder of transformers",
        lambda value: (bool(value) and isinstance(value, (str, dict))) or hasattr(value, "__fspath__"),
        ("captioner",),
    ),
    "fuse_every": Option(
        "a fusion after every so many blocks of a language model; 0 for a sixth of them",
        0,
        "a whole number",
        _whole_number(0),
        ("captioner",),
    ),
    "image_words": Option(
        "tokens that stand for the image before a language model's text; 0 for 16, or 8 of concat_mlp",
        0,
        "a whole number; but for concat_mlp a square (1, 4, 9, 16 …)",
        _whole_number(0),
        ("captioner",),
    ),
    "width": Option("channels of the last feature map; smaller maps have more", None, WHOLE, _whole_number(1), DRAWING),
    "noise": Option("random numbers that a picture is drawn from", 64, WHOLE, _whole_number(1), DRAWING),
    "changes": Option(
        "changes of real and drawn pictures alike, against few data: what the discriminator sees (DiffAugment)",
        "none",
        "none, shift, shift+cutout or shift+cutout+colour",
        _one_of("none", "shift", "shift+cutout", "shift+cutout+colour"),
        DRAWING,
    ),
    "contrast": Option(
        "weight of finding a picture's own text among those of the batch (XMC-GAN)",
        1.0,
        "a number of at least 0",
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0,
        DRAWING,
    ),
    "penalty": Option(
        "weight of the matching-aware gradient penalty",
        2.0,
        "a number of at least 0",
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0,
        DRAWING,
    ),
    "shapes": Option(
        "smaller shapes of single blocks, which `compress` leaves",
        {},
        '{"fusion_0": {"heads": 2, "hidden": 300}, …} with ' + ", ".join(SHAPES),
        _shapes,
        SEEING,
    ),
    "loss": Option(
        "form of the contrastive loss", "softmax", "softmax or sigmoid", _one_of("softmax", "sigmoid"), ("retriever",)
    ),
}


def options_of(task: str) -> dict[str, Option]:
    """Return the options of a task, by name."""
    return {name: option for name, option in OPTIONS.items() if task in option.tasks}


def sizes_of(task: str) -> dict[str, dict[str, Any]]:
    """Return the widths, depths and shapes that each `size` of a task stands for."""
    return DRAWING_SIZES if task == "generator" else SIZES


def resolve(task: str, video: bool, given: dict[str, Any]) -> dict[str, Any]:
    """Return all options of a task: those given, checked, and the defaults of the rest.

    >>> resolve("captioner", False, {"dim": 128})["heads"]
    2
    >>> resolve("captioner", False, {"dept": 2})
    Traceback (most recent call last):
    ValueError: captioner has no option 'dept' (did you mean depth?)
    """
    available = options_of(task)
    for name, value in given.items():
        if name not in available:
            elsewhere = f"; it belongs to {', '.join(OPTIONS[name].tasks)}" if name in OPTIONS else ""
            hint = "" if elsewhere else did_you_mean(name, (*available, "vocabulary", "dtype", "weights"))
            raise ValueError(f"{task} has no option {name!r}{elsewhere}{hint}")
        if not available[name].accepts(value):
            hint = did_you_mean(value, re.split(r", | or ", available[name].takes)) if isinstance(value, str) else ""
            raise ValueError(f"{name}={value!r}: expected {available[name].takes}{hint}")
    size = sizes_of(task)[given.get("size", OPTIONS["size"].default)]
    options = {name: given.get(name, size.get(name, option.default)) for name, option in available.items()}
    options = {  # NumPy integers become Python's, as JSON needs
        name: int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value
        for name, value in options.items()
    }
    options["image_shape"] = tuple(int(side) for side in options["image_shape"])
    if "shapes" in options:  # NumPy integers, as above
        options["shapes"] = json.loads(json.dumps(options["shapes"], default=int))
    sides = options["image_shape"][-3:-1]
    if task == "generator" and any(side not in (16, 32, 64, 128, 256) for side in sides):
        raise ValueError(
            f"image_shape={options['image_shape']}: a picture grows by doubling a small map, so expected sides of 16, "
            "32, 64, 128 or 256"
        )
    if video and len(options["image_shape"]) == 3:
        if "image_shape" in given:
            raise ValueError(
                f"image_shape={given['image_shape']!r}: a video model needs (frames, h, w, 3), "
                f"for example {(FRAMES, *options['image_shape'])}"
            )
        options["image_shape"] = (FRAMES, *options["image_shape"])
    if options["heads"] is None:
        limit = max(1, options["dim"] // HEAD_WIDTH)
        options["heads"] = next(heads for heads in range(limit, 0, -1) if options["dim"] % heads == 0)
    if options["dim"] % options["heads"]:
        raise ValueError(f"dim={options['dim']} does not divide by heads={options['heads']}")
    return options


def shape_of(
    shapes: Mapping[str, Mapping[str, Any]], block: str, dim: int, heads: int, crossed: bool = False
) -> dict[str, Any]:
    """Return the arguments of a `Block` of this name: its heads, and what else `shapes` says of it.

    Only one that is `crossed` has heads of cross-attention.

    >>> shape_of({"fusion_0": {"heads": 3}}, "fusion_0", 256, 4)
    {'heads': 3, 'head_dim': 64}
    """
    takes = {*SHAPES} - {"channels"} - (set() if crossed else {"fusion_heads"})
    row = {name: value for name, value in shapes.get(block, {}).items() if name in takes}
    narrower = {"head_dim": dim // heads} if {"heads", "fusion_heads"} & set(row) else {}
    return {"heads": heads, **row, **narrower}


@dataclass(frozen=True)
class Entry:
    """A name of the zoo: its task, its fusion, whether it takes video, and the tag of its default weights."""

    task: str
    fusion: str | None
    video: bool = False
    default: str | None = None


MODELS = {
    "concat_mlp_captioner": Entry("captioner", "concat_mlp"),
    "gated_captioner": Entry("captioner", "gated"),
    "cross_attn_captioner": Entry("captioner", "cross_attn", default="photos"),
    "merged_attn_captioner": Entry("captioner", "merged_attn"),
    "concat_mlp_video_captioner": Entry("captioner", "concat_mlp", video=True),
    "gated_video_captioner": Entry("captioner", "gated", video=True),
    "cross_attn_video_captioner": Entry("captioner", "cross_attn", video=True, default="emoji"),
    "merged_attn_video_captioner": Entry("captioner", "merged_attn", video=True),
    "concat_mlp_vqa": Entry("vqa", "concat_mlp", default="easy_vqa"),
    "gated_vqa": Entry("vqa", "gated", default="easy_vqa"),
    "cross_attn_vqa": Entry("vqa", "cross_attn", default="photos"),
    "co_attn_vqa": Entry("vqa", "co_attn", default="easy_vqa"),
    "merged_attn_vqa": Entry("vqa", "merged_attn", default="easy_vqa"),
    "concat_mlp_video_vqa": Entry("vqa", "concat_mlp", video=True),
    "gated_video_vqa": Entry("vqa", "gated", video=True),
    "cross_attn_video_vqa": Entry("vqa", "cross_attn", video=True),
    "co_attn_video_vqa": Entry("vqa", "co_attn", video=True),
    "merged_attn_video_vqa": Entry("vqa", "merged_attn", video=True),
    "concat_mlp_classifier": Entry("classifier", "concat_mlp"),
    "gated_classifier": Entry("classifier", "gated"),
    "cross_attn_classifier": Entry("classifier", "cross_attn", default="fashion"),
    "co_attn_classifier": Entry("classifier", "co_attn"),
    "merged_attn_classifier": Entry("classifier", "merged_attn"),
    "concat_mlp_matcher": Entry("matcher", "concat_mlp"),
    "gated_matcher": Entry("matcher", "gated"),
    "cross_attn_matcher": Entry("matcher", "cross_attn", default="emoji"),
    "co_attn_matcher": Entry("matcher", "co_attn"),
    "merged_attn_matcher": Entry("matcher", "merged_attn"),
    "retriever": Entry("retriever", None, default="photos"),
    "video_retriever": Entry("retriever", None, video=True),
    "concat_mlp_generator": Entry("generator", "concat_mlp"),
    "gated_generator": Entry("generator", "gated"),
    "cross_attn_generator": Entry("generator", "cross_attn", default="shapes"),
    "cross_attn_video_generator": Entry("generator", "cross_attn", video=True),
}


def lookup(name: str) -> Entry:
    """Return the entry of a name, or raise an error that suggests a close one.

    A name that is not known may be that of an installed package: its entry points in the group "vtx_keras" are loaded.
    """
    if name not in MODELS:
        for plugin in importlib.metadata.entry_points(group="vtx_keras"):
            plugin.load()
    if name not in MODELS:
        if name in ("co_attn_captioner", "co_attn_video_captioner"):
            raise ValueError(f"there is no {name!r}: {CO_ATTN_NEEDS_THE_WHOLE_TEXT}")
        raise ValueError(f"no model is called {name!r}{did_you_mean(name, MODELS)}; zoo.list_models() names them all")
    return MODELS[name]
