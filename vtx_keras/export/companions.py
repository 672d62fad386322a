"""What travels with an exported model: how pictures are prepared, the vocabulary, the labels, how pieces are joined.

All of it is plain JSON and text, so that a phone or a browser needs nothing of ours.
"""

from __future__ import annotations

import json
from typing import Any

from vtx_keras import text
from vtx_keras.models import Answerer, Captioner
from vtx_keras.vision_text import VisionText


def about(
    model: VisionText, form: str, *, beams: int = 1, max_length: int | None = None, prompt: str | None = None
) -> dict[str, Any]:
    """What a program must know besides the vocabulary.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, depth=1, image_shape=(32, 32, 3), classes=["no", "yes"])
    >>> found = about(model, "one")
    >>> found["image_shape"], found["resize"], found["labels"]
    ([32, 32, 3], 'pad', ['no', 'yes'])
    """
    captions = isinstance(model, Captioner)
    return {
        "format": 1,  # of this description
        "name": model.spec["name"],
        "task": model.name,
        "form": form,
        "image_shape": list(model.image_shape),
        "resize": model.options["resize"],
        "max_length": model.check_length(max_length) if captions else model.options["max_length"],
        "beams": beams,
        "prompt": prompt or "",
        "labels": model.class_names if isinstance(model, Answerer) else [],
        "multi_label": bool(model.options.get("multi_label", False)),
        "allow_empty": bool(model.options.get("allow_empty", False)),
        "pieces": len(model.vocabulary),
        "special_ids": {name.strip("[]").lower(): i for i, name in enumerate(text.SPECIALS)},
        "unseen": text.UNSEEN,
        "gaps": text.GAPS,
        "join_rules": [list(rule) for rule in text.JOIN_RULES],
    }


def files(model: VisionText, form: str, **settings: Any) -> dict[str, str]:
    """The companions by file name: model.json, vocabulary.txt (a piece per line), tokenizer.json."""
    return {
        "model.json": json.dumps(about(model, form, **settings), indent=1, ensure_ascii=False),
        "vocabulary.txt": "\n".join(model.vocabulary) + "\n",
        "tokenizer.json": json.dumps(tokenizer(model.vocabulary), ensure_ascii=False),
    }


# Where words part, as KerasHub's WordPieceTokenizer parts them: spaces go; punctuation and ideographs stand alone.
SPACES = r"[ \t\n\r\f]|\p{Cc}|\p{Cf}"
ALONE = (
    r"[!-/]|[:-@]|[\[-`]|[{-~]|\p{P}|[\x{4E00}-\x{9FFF}]|[\x{3400}-\x{4DBF}]|[\x{20000}-\x{2A6DF}]|[\x{2A700}-\x{2B73F}]"
    r"|[\x{2B740}-\x{2B81F}]|[\x{2B820}-\x{2CEAF}]|[\x{F900}-\x{FAFF}]|[\x{2F800}-\x{2FA1F}]"
)
FINAL_SIGMA = r"(?<=[\p{L}\p{Mn}])\x{03A3}(?!\p{Mn}*\p{L})"  # Lowercase looks at one letter at a time


def tokenizer(vocabulary: tuple[str, ...]) -> dict[str, Any]:
    """A tokenizer.json for Hugging Face's `tokenizers`, with the ids of `text.encode`.

    >>> list(tokenizer(text.vocabulary(["cat"]))["model"]["vocab"])[-1]
    'cat'
    """

    def replaced(pattern: str, content: str) -> dict:
        return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}

    def cut(pattern: str, behavior: str) -> dict:
        return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}

    normal = [replaced(text.UNSEEN, ""), replaced(text.GAPS, " "), {"type": "NFKC"}, replaced(FINAL_SIGMA, "\u03c2")]
    normal += [{"type": "Lowercase"}, {"type": "NFKC"}, replaced(text.GAPS, " ")]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],  # a special piece spelled out in a text is ordinary characters
        "normalizer": {"type": "Sequence", "normalizers": normal},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut(SPACES, "Removed"), cut(ALONE, "Isolated")]},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": text.SPECIALS[text.UNK],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {piece: i for i, piece in enumerate(vocabulary)},
        },
    }
