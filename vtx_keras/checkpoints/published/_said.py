"""What a transformers folder says of its model besides the weights: widths, pieces of text, how pictures are prepared.

Nothing is assumed: a config without a key that the graph needs is an error. (The class of BLIP's config has 8 heads by
default, its checkpoints have 12, and weights do not tell.)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtx_keras.checkpoints._folder import BadWeights
from vtx_keras.inputs.text import SPECIALS
from vtx_keras.models.decode import whole_number

ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu",
    "relu": "relu", "silu": "silu", "swish": "silu",
}  # fmt: skip
# Of a processor whose file does not say it.
RESAMPLE = {"Blip": 3, "CLIP": 3, "Siglip": 3, "ViT": 2, "Vilt": 3, "Deit": 3}
FILTERS = {1: "-lanczos", 2: "", 3: "-bicubic"}  # by Pillow's numbers; no suffix is bilinear


class Said(NamedTuple):
    """A part of a config.json, with the name it has in errors."""

    values: Mapping[str, Any]
    where: str

    def __call__(self, key: str) -> Any:
        """Return a value by its name."""
        if self.values.get(key) is not None:
            return self.values[key]
        raise BadWeights(
            f"{self.where} has no {key!r}, and weights do not tell: take a newer revision of the checkpoint"
        )

    def part(self, key: str) -> Said:
        """Return a config inside the config."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise BadWeights(f"{self.where} has no {key!r}: it is the config of another architecture")
        return Said(value, f"{key} of {self.where}")

    def activation(self, key: str = "hidden_act") -> str:
        """Return the name that an activation has here."""
        name = self(key)
        if not isinstance(name, str) or name not in ACTIVATIONS:
            raise BadWeights(f"{self.where} has {key} {name!r}: expected one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[name]


def read(folder: Path, name: str) -> Said:
    """Read a JSON file of a folder."""
    path = folder / name
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise BadWeights(f"{folder} has no {name}: expected the whole folder of a transformers model") from error
    except (ValueError, OSError, RecursionError) as error:
        raise BadWeights(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise BadWeights(f"{path} holds a {type(values).__name__}: expected names and values")
    return Said(values, str(path))


def block_options(part: Said) -> dict[str, Any]:
    """Return what all blocks of a transformer have in common."""
    return {
        "dim": part("hidden_size"),
        "heads": part("num_attention_heads"),
        "hidden": part("intermediate_size"),
        "epsilon": part("layer_norm_eps"),
        "activation": part.activation(),
    }


def text_layout(t: Said) -> dict[str, Any]:
    """Return the text's part of a layout, of which an architecture says more."""
    return {**block_options(t), "depth": t("num_hidden_layers"), "positions": t("max_position_embeddings")}


def vision_layout(v: Said, folder: Path) -> tuple[dict[str, Any], str]:
    """Return the image encoder's part of a layout, and how pictures are fitted."""
    scaling, fit = pixels(folder, v("image_size"))
    sizes = {"size": v("image_size"), "patch": v("patch_size"), "depth": v("num_hidden_layers")}
    return {**block_options(v), **sizes, **scaling}, fit


def licence(folder: Path) -> str:
    """Return the licence that the card of a checkpoint names, or "" if there is no card or it names none."""
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace")[:20_000] if card.is_file() else ""
    found = re.search(r"(?m)\A---\n(?:.*\n)*?license: *([\w.+-]+)", head)
    return found[1] if found else ""


# --- pictures


def pixels(folder: Path, size: int) -> tuple[dict[str, list[float]], str]:
    """Return the mean and std of pixels, and how a picture is fitted, from preprocessor_config.json."""
    said = read(folder, "preprocessor_config.json")
    for key in ("do_resize", "do_rescale"):
        if said.values.get(key) is False:
            raise BadWeights(f"{said.where} has {key} false, and pictures of any size with values 0-255 come here")
    mean, std = (numbers(said, key) for key in ("image_mean", "image_std"))
    if said.values.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    factor = said.values.get("rescale_factor") or 1 / 255
    if not isinstance(factor, (int, float)) or abs(factor - 1 / 255) > 1e-6:
        raise BadWeights(f"{said.where} has a rescale_factor of {factor!r}: expected 1/255")
    kind = str(said.values.get("image_processor_type") or said.values.get("feature_extractor_type") or "")
    number = said.values.get("resample", next((one for name, one in RESAMPLE.items() if kind.startswith(name)), None))
    if not isinstance(number, int) or number not in FILTERS:
        raise BadWeights(f"{said.where} has resample {number}: expected {', '.join(map(str, FILTERS))}")
    crops = bool(said.values.get("do_center_crop", False))
    sides, edge = side_of(said("crop_size" if crops else "size")), side_of(said("size"))
    if sides is None and kind.startswith("Vilt"):
        sides = edge = (size, size)
    if sides != (size, size):
        raise BadWeights(
            f"{said.where} prepares pictures of {sides or said('size')}, and the model reads {size} × {size}"
        )
    if crops and (edge or (said("size").get("shortest_edge"),) * 2) != (size, size):
        raise BadWeights(f"{said.where} fits pictures to {said('size')} and crops to {size}: expected {size} for both")
    return {"mean": mean, "std": std}, f"{'shortest' if crops else 'stretch'}{FILTERS[number]}"


def numbers(said: Said, key: str) -> list[float]:
    """Return three numbers, of the channels; a std is above 0."""
    values = said(key)
    good = isinstance(values, list) and len(values) == 3 and all(isinstance(one, (int, float)) for one in values)
    if not good or not all(math.isfinite(one) and (one > 0 or key != "image_std") for one in values):
        raise BadWeights(f"{said.where} has {key} {values!r:.60}: expected three numbers, of a std above 0")
    return [float(one) for one in values]


def side_of(size: Any) -> tuple[int, int] | None:
    """Return the sides that a processor's size means: a number, or sides by name; None for the shortest edge alone."""
    if isinstance(size, int):
        return size, size
    if not isinstance(size, dict):
        raise BadWeights(f"a preprocessor's size is {size!r:.60}: expected a number, or height and width")
    return (size["height"], size["width"]) if {"height", "width"} <= set(size) else None


# --- texts


def pieces(folder: Path, size: int) -> list[str]:
    """Return the checkpoint's pieces by id, `size` of them: rows that no piece has are called so."""
    if (folder / "tokenizer.json").is_file():
        ids = _from_json(read(folder, "tokenizer.json"))
    elif (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
        ids = {piece: i for i, piece in enumerate(lines)}
        if len(ids) < len(lines):
            twice = next(piece for i, piece in enumerate(lines) if piece in lines[:i])
            raise BadWeights(f"{folder / 'vocab.txt'} has {twice!r} twice: a piece has one id")
    elif (folder / "spiece.model").is_file():
        raise BadWeights(f"{folder} has its pieces in spiece.model alone, which is not read: expected tokenizer.json")
    else:
        found = sorted(path.name for path in folder.iterdir())
        raise BadWeights(f"{folder} has neither tokenizer.json nor vocab.txt: found {', '.join(found[:12])}")
    if (folder / "added_tokens.json").is_file():
        ids = {**ids, **read(folder, "added_tokens.json").values}
    return by_id(ids, size, str(folder))


def pieces_of(content: Said, size: int) -> list[str]:
    """Return the pieces by id of the content of a tokenizer.json, `size` of them."""
    return by_id(_from_json(content), size, content.where)


def by_id(ids: Mapping[str, Any], size: int, where: str) -> list[str]:
    """Return pieces in the order of their ids, after checking them."""
    wrong = [one for one in ids.items() if not isinstance(one[0], str) or not whole_number(one[1]) or one[1] < 0]
    if wrong or not any(ids):
        came = str(wrong[0]) if wrong else "no pieces"
        raise BadWeights(f"{where}: its tokenizer has {came}: expected pieces with ids from 0 on")
    if max(ids.values()) >= size:
        raise BadWeights(f"{where}: its tokenizer has {max(ids.values()) + 1} pieces, and its word table {size} rows")
    if len(set(ids.values())) < len(ids):
        raise BadWeights(f"{where}: two pieces of its tokenizer have the same id")
    names = [f"[row {i}]" for i in range(size)]
    for piece, i in ids.items():
        names[i] = piece
    return names


def _from_json(said: Said) -> dict[str, int]:
    """Return the ids of the pieces in a tokenizer.json."""
    try:
        vocab: Any = said.values["model"]["vocab"]
        ids = {one[0]: i for i, one in enumerate(vocab)} if isinstance(vocab, list) else {**vocab}
        return ids | {one["content"]: one["id"] for one in said.values.get("added_tokens") or ()}
    except (TypeError, KeyError, IndexError) as error:
        raise BadWeights(f"{said.where} has no vocab, or added_tokens of another form: {error!r}") from error


def rule(folder: Path, end: bool = False) -> dict[str, Any]:
    """Return how texts are cut, for `inputs.text.Vocabulary`: BERT's rule, or that of tokenizer.json."""
    said = read(folder, "tokenizer.json") if (folder / "tokenizer.json").is_file() else None
    kind = said.part("model").values.get("type") if said else "WordPiece"
    if kind not in (None, "WordPiece") and said:
        return {"kind": "tokenizers", "json": dict(said.values), "end": end}
    told = read(folder, "tokenizer_config.json").values if (folder / "tokenizer_config.json").is_file() else {}
    lower, accents = told.get("do_lower_case"), told.get("strip_accents")
    if not {type(lower), type(accents)} <= {bool, type(None)}:
        raise BadWeights(f"{folder}: do_lower_case {lower!r}, strip_accents {accents!r}: expected true, false or null")
    lower = True if lower is None else lower
    return {"kind": "bert", "lowercase": lower, "strip_accents": lower if accents is None else accents, "end": end}


class Order(NamedTuple):
    """The checkpoint's ids in our order: padding, unknown, start, end, mask, then all others as they were.

    -1 is a row that the checkpoint lacks. A token that serves twice, as GPT-2's does, has two rows.
    """

    ids: list[int]

    def rows(self, table: np.ndarray) -> np.ndarray:
        """Return the rows of a word table, or the numbers of a bias, in our order; zeros where there are none."""
        empty = np.zeros_like(table[:1])
        return np.concatenate([table, empty])[self.ids]

    def columns(self, kernel: np.ndarray) -> np.ndarray:
        """Return a head's matrix (words, dim) as (dim, words in our order)."""
        return self.rows(kernel).T

    def vocabulary(self, names: Sequence[str]) -> list[str]:
        """Return the pieces in our order, with the zoo's special pieces in front."""
        return [*SPECIALS, *(names[i] for i in self.ids[len(SPECIALS) :])]

    @property
    def absent(self) -> list[int]:
        """Our ids that the model must never write: rows it lacks, and the first of two rows of one token."""
        first = self.ids[: len(SPECIALS)]
        return [place for place, i in enumerate(first) if i == -1 or i in first[place + 1 :]]


def special(names: Sequence[str], piece: str) -> int:
    """Return the id of a special piece.

    >>> special(["[PAD]", "[CLS]"], "[CLS]")
    1
    """
    if piece not in names:
        raise BadWeights(f"the tokenizer has no {piece}: it is that of another architecture")
    return names.index(piece)


def order(
    names: Sequence[str],
    start: int,
    end: int,
    pad: int | None,
    unknown: str = "",
    mask: str = "",
    *,
    padding_is_read: bool = False,
) -> Order:
    """Return the order of a checkpoint whose special tokens these are, -1 for one that it does not use.

    A padding token that has a use is no padding, unless the model attends to its padding: then it has two rows.

    >>> order(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"], 2, 3, 0, "[UNK]", "[MASK]").ids
    [0, 1, 2, 3, 4, 5]
    >>> order(["a", "b", "<end>"], 2, 2, 2).ids, order(["a", "b", "<end>"], 2, 2, 2).absent
    ([-1, -1, 2, 2, -1, 0, 1], [0, 1, 2, 4])
    >>> order(["a", "b", "<end>"], -1, 2, 2, padding_is_read=True).ids
    [2, -1, -1, 2, -1, 0, 1]
    """
    places = {name: i for i, name in enumerate(names)}
    padding = -1 if pad is None or (pad in (start, end) and not padding_is_read) else pad
    first = [padding, places.get(unknown, -1), start, end, places.get(mask, -1)]
    if not all(whole_number(i) and -1 <= i < len(names) for i in first) or (end < 0 and start < 0):
        raise BadWeights(f"special tokens {first}: expected ids below {len(names)}, the rows of the word table")
    return Order([*first, *(i for i in range(len(names)) if i not in first)])
