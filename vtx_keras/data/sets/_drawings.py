"""Emoji and word cards, as tfds builders: drawings whose names say which split they belong to."""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from vtx_keras import _files as archives
from vtx_keras.data import sets
from vtx_keras.data.sets import concepts as emoji
from vtx_keras.data.sets._builder import WORD, Builder
from vtx_keras.inputs import media

SIDE = 128  # of emoji pictures, at most
FRAMES, CLIP_SIDE = 16, 96
PICTURES = {  # archive, which of its files, and by which artist
    "noto": (sets.NOTO, "package/img/google/64/*.png"),
    "twemoji": (sets.TWEMOJI, "package/img/twitter/64/*.png"),
    "openmoji": (sets.OPENMOJI, "package/color/svg/*.svg"),
    "fluent": (sets.FLUENT, "package/assets/*.webp"),
}
ICONS = {  # the same of what iconify packs: one file, icons by name
    "emojione": sets.EMOJIONE,
    "emojione-v1": sets.EMOJIONE_V1,
    "fxemoji": sets.FXEMOJI,
    "noto-v1": sets.NOTO_V1,
    "streamline": sets.STREAMLINE,
}
ROSY = ("emojione-v1", "fxemoji", "streamline")  # of one skin colour, where others are yellow unless a tone is named
MEDIUM_LIGHT, MEDIUM = "\U0001f3fc", "\U0001f3fd"
GROUPS = (
    "Activities", "Animals & Nature", "Component", "Flags", "Food & Drink", "Objects", "People & Body",
    "Smileys & Emotion", "Symbols", "Travel & Places",
)  # fmt: skip
CARD_GROUPS = (
    "actions", "animals", "body", "clothes_n_accessories", "construction", "food", "fruit_n_veg", "jobs", "nature",
    "people", "sport", "transport",
)  # fmt: skip


class _Emoji(Builder, skip_registration=True):  # type: ignore[call-arg]  # as above
    """What the two emoji sets share."""

    LABELS: ClassVar[dict[str, Any]] = {
        "id": WORD(),
        "emoji": WORD(),
        "caption": WORD(),
        "keywords": tfds.features.Sequence(WORD()),
        "name": WORD(),
        "concept": WORD(),
        "group": tfds.features.ClassLabel(names=list(GROUPS)),
        "subgroup": WORD(),
    }

    def labels(self, language: str) -> dict[str, dict]:
        """Emoji (without variation selectors) to all that is known of it but the picture."""
        names, texts = _annotations(self.archive, "en"), _annotations(self.archive, language)
        found = {}
        for row in self.table():
            for one in (row, *row.get("skin_variations", {}).values()):
                key = _emoji_of(one["unified"])
                if key not in names or key not in texts:
                    continue
                caption, keywords = texts[key]
                found[key] = {
                    "emoji": key,
                    "caption": caption,
                    "keywords": keywords,
                    "name": names[key][0],
                    "concept": emoji.concept(names[key][0]),
                    "group": row["category"],
                    "subgroup": row["subcategory"],
                }
        return found

    def table(self) -> list[dict]:
        """All emoji, with the names that Unicode gives them and the short ones that people type."""
        return json.loads(
            next(data for _, data in archives.read_archive(self.archive(sets.NOTO), "package/emoji.json"))
        )


class _EmojiPictures(_Emoji, skip_registration=True):  # type: ignore[call-arg]  # as above
    """`image` lies on white, and `alpha` allows any other ground."""

    FEATURES: ClassVar[dict[str, Any]] = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "alpha": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
        "vendor": WORD(),
        **_Emoji.LABELS,
    }

    def example(self, vendor: str, labels: dict, picture: Image.Image) -> tuple[str, dict]:
        """(key, example) of one artist's picture."""
        key = f"{vendor}-{'-'.join(f'{ord(letter):x}' for letter in labels['emoji'])}"
        pixels = {"image": _png(media.read(picture)), "alpha": _png(np.asarray(picture.getchannel("A")))}
        return key, {"id": key, "vendor": vendor, **pixels, **labels}


class Emoji(_EmojiPictures):
    """Emoji pictures of four artists."""

    VERSION = tfds.core.Version("1.0.1")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.1": "Fluent's medium and medium-light skin, which its package swaps."
    }
    BUILDER_CONFIGS: ClassVar[list] = [
        tfds.core.BuilderConfig(name=language, description=f"Names and keywords in {language}.")
        for language in sets.LANGUAGES
    ]

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        labels = self.labels(self.builder_config.name)
        for vendor, (archive, pattern) in PICTURES.items():
            drawn: dict[str, Image.Image] = {}
            for name, data in archives.read_archive(self.archive(archive), pattern):
                key = _emoji_of(Path(name).stem)
                if key in labels and key not in drawn:  # Fluent draws some twice
                    drawn[key] = _drawn(data, vendor == "openmoji")
            if vendor == "fluent":
                lighter_first(drawn)
            for key, picture in drawn.items():
                split = split_of(vendor, labels[key]["name"])
                if split:
                    yield split, *self.example(vendor, labels[key], picture)


class EmojiMore(_EmojiPictures):
    """Emoji pictures of five more artists, as icons that bear names."""

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        labels = self.labels("en")
        called, toned = {_slug(row["name"]): key for key, row in labels.items()}, set()
        for row in self.table():
            key = _emoji_of(row["unified"])
            if "skin_variations" in row:
                toned.add(key)
            for name in (row["name"] or "", *row["short_names"]):
                if key in labels:
                    called.setdefault(_slug(name), key)
        for vendor, archive in ICONS.items():
            icons = json.loads(
                next(data for _, data in archives.read_archive(self.archive(archive), "package/icons.json"))
            )
            done = set()
            for name, icon in icons["icons"].items():
                found = called.get(_slug(name))
                if found is None or found in done or (vendor in ROSY and found in toned):
                    continue  # no emoji, its second drawing, or skin of which the name says nothing
                done.add(found)
                wide, high = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
                svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}">{icon["body"]}</svg>'
                picture = _drawn(svg.encode(), svg=True)
                yield emoji.split_of(labels[found]["name"]), *self.example(vendor, labels[found], picture)


def lighter_first(drawn: dict[str, Image.Image]) -> None:
    """Of two pictures that differ in medium-light and medium skin the lighter becomes that of medium-light skin.

    Fluent's package calls most of them (288 of 304) the other way round; its animations, and blond hair, tell.

    >>> dark, light = (Image.new("RGBA", (2, 2), (shade, shade, shade, 255)) for shade in (100, 200))
    >>> hands = {"\U0001f44d" + MEDIUM_LIGHT: dark, "\U0001f44d" + MEDIUM: light}
    >>> lighter_first(hands)
    >>> hands["\U0001f44d" + MEDIUM_LIGHT] is light
    True
    """
    for key in drawn:
        other = key.replace(MEDIUM_LIGHT, MEDIUM)
        pair = MEDIUM_LIGHT in key and MEDIUM not in key and other in drawn
        if pair and _lightness(drawn[key]) < _lightness(drawn[other]):
            drawn[key], drawn[other] = drawn[other], drawn[key]


def _lightness(picture: Image.Image) -> float:
    """The mean of what is not clear."""
    return float(np.asarray(picture.convert("L"))[np.asarray(picture.getchannel("A")) > 200].mean())


def split_of(vendor: str, name: str) -> str | None:
    """The split of one artist's picture: Fluent 3D serves `vendor` and `test` alone, and nothing tunes on it.

    >>> split_of("fluent", "strawberry"), split_of("noto", "strawberry")
    ('vendor', 'train')
    """
    split = emoji.split_of(name)
    if vendor != "fluent":
        return split
    return {"train": "vendor", "test": "test", "flags": "flags"}.get(split)


class EmojiVideo(_Emoji):
    """Clips of emoji that move; a clip bears the name `image`, as in every model of the zoo."""

    FEATURES: ClassVar[dict[str, Any]] = {
        "image": tfds.features.Video(shape=(FRAMES, CLIP_SIDE, CLIP_SIDE, 3), encoding_format="png"),
        **_Emoji.LABELS,
    }

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        labels, done = self.labels("en"), set()
        for archive in sets.ANIMATED:
            for name, data in archives.read_archive(self.archive(archive), "package/assets/*.webp"):
                key = _emoji_of(Path(name).stem)
                if key not in labels or key in done:
                    continue
                clip = media.read_clip(data, FRAMES)
                if all((frame == clip[0]).all() for frame in clip):
                    continue  # a still
                done.add(key)
                pngs = [_png(media.resize(frame, (CLIP_SIDE, CLIP_SIDE))) for frame in clip]
                example_id = f"anim-{'-'.join(f'{ord(letter):x}' for letter in key)}"
                yield emoji.split_of(labels[key]["name"]), example_id, {"id": example_id, "image": pngs, **labels[key]}


class WordCards(Builder):
    """Drawings for words."""

    FEATURES: ClassVar[dict[str, Any]] = {
        "id": WORD(),
        "image": tfds.features.Image(shape=(200, 200, 3), encoding_format="png"),
        "caption": WORD(),
        "concept": WORD(),
        "group": tfds.features.ClassLabel(names=list(CARD_GROUPS)),
        "attribution": WORD(),
    }

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        cards = dict(archives.read_archive(self.archive(sets.ART4APPS), "*/art4apps/*/*.jpg"))
        drawn: dict[bytes, set[str]] = defaultdict(set)
        for name, data in cards.items():
            drawn[data].add(emoji.split_of(Path(name).stem.replace("_", " ")))
        for name, data in cards.items():
            group, word = Path(name).parts[-2], Path(name).stem.replace("_", " ")
            split = emoji.split_of(word)
            # A word whose drawing an unseen word shares is left out: it could be in neither split.
            if split != next(one for one in ("test", "validation", "train") if one in drawn[data]):
                continue
            example = {"image": media.read(data), "caption": word, "concept": emoji.concept(word), "group": group}
            example_id = f"card-{Path(name).stem}"
            yield split, example_id, {"id": example_id, **example, "attribution": sets.describe("word_cards").licence}


def _emoji_of(codes: str) -> str:
    """Code points in hexadecimal to an emoji without variation selectors; "" for a name that is none."""
    if not re.fullmatch(r"[0-9a-f]{2,6}(-[0-9a-f]{2,6})*", codes.lower()):
        return ""
    return "".join(chr(int(code, 16)) for code in codes.split("-") if code.lower() != "fe0f")


def _slug(name: str) -> str:
    """A name as the makers of icons write it: without blanks and signs.

    >>> _slug("woman’s hat: medium-light") == _slug("womans-hat-medium-light")
    True
    """
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _annotations(archive: Any, language: str) -> dict[str, tuple[str, list[str]]]:
    """Emoji (without variation selectors) to its name and keywords."""
    found = {}
    for source, key in zip(sets.CLDR, ("annotations", "annotationsDerived"), strict=True):
        file = f"package/{key}/{language}/annotations.json"
        table = json.loads(next(data for _, data in archives.read_archive(archive(source), file)))[key]["annotations"]
        for letters, row in table.items():
            if "tts" in row:
                found[letters.replace("\ufe0f", "")] = (row["tts"][0], row.get("default", []))
    return found


def _drawn(data: bytes, svg: bool) -> Image.Image:
    """An emoji with its transparency, at most SIDE pixels wide and high."""
    if svg:
        try:
            import resvg_py
        except ImportError as error:
            raise ImportError('they are drawn from SVG: pip install "vtx_keras[data]" (resvg-py)') from error
        data = bytes(resvg_py.svg_to_bytes(svg_string=data.decode(), width=SIDE, height=SIDE))
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    return picture


def _png(pixels: np.ndarray) -> bytes:
    """Encoded at once: tfds asks for all splits before it writes the first, and pixels would fill the memory."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
