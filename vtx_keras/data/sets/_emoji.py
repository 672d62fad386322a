"""Build the emoji data sets: emoji (four artists), emoji_more (five more) and emoji_video (animated)."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from vtx_keras._files import read_archive
from vtx_keras.data import sets
from vtx_keras.data.sets import concepts
from vtx_keras.data.sets._builder import WORD, Builder
from vtx_keras.inputs import media

SIDE = 128  # largest width and height of an image
FRAMES, CLIP_SIDE = 16, 96
IMAGES = {  # by artist: the archive and its image files
    "noto": (sets.NOTO, "package/img/google/64/*.png"),
    "twemoji": (sets.TWEMOJI, "package/img/twitter/64/*.png"),
    "openmoji": (sets.OPENMOJI, "package/color/svg/*.svg"),
    "fluent": (sets.FLUENT, "package/assets/*.webp"),
}
ICONS = {  # by artist: an iconify archive, which is one JSON file of named SVG icons
    "emojione": sets.EMOJIONE,
    "emojione-v1": sets.EMOJIONE_V1,
    "fxemoji": sets.FXEMOJI,
    "noto-v1": sets.NOTO_V1,
    "streamline": sets.STREAMLINE,
}
ONE_TONE = ("emojione-v1", "fxemoji", "streamline")  # draw skin in one natural tone where other artists use yellow
MEDIUM_LIGHT, MEDIUM = "\U0001f3fc", "\U0001f3fd"
GROUPS = (
    "Activities", "Animals & Nature", "Component", "Flags", "Food & Drink", "Objects", "People & Body",
    "Smileys & Emotion", "Symbols", "Travel & Places",
)  # fmt: skip


class _Emoji(Builder, skip_registration=True):  # type: ignore[call-arg]  # tfds has no types
    """Labels that all emoji sets share."""

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
        """Map each emoji (without variation selectors) to its text fields."""
        names, texts = _annotations(self.archive, "en"), _annotations(self.archive, language)
        labels = {}
        for row in self.table():
            for variant in (row, *row.get("skin_variations", {}).values()):
                key = _emoji_of(variant["unified"])
                if key not in names or key not in texts:
                    continue
                caption, keywords = texts[key]
                labels[key] = {
                    "emoji": key,
                    "caption": caption,
                    "keywords": keywords,
                    "name": names[key][0],
                    "concept": concepts.concept(names[key][0]),
                    "group": row["category"],
                    "subgroup": row["subcategory"],
                }
        return labels

    def table(self) -> list[dict]:
        """Read the table of all emoji with their Unicode names and short names."""
        return json.loads(next(data for _, data in read_archive(self.archive(sets.NOTO), "package/emoji.json")))


class _EmojiPictures(_Emoji, skip_registration=True):  # type: ignore[call-arg]  # tfds has no types
    """Sets of still images: `image` is drawn on white, and `alpha` allows another background."""

    FEATURES: ClassVar[dict[str, Any]] = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "alpha": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
        "vendor": WORD(),
        **_Emoji.LABELS,
    }

    def example(self, vendor: str, labels: dict, picture: Image.Image) -> tuple[str, dict]:
        """Return (key, example) for one artist's image."""
        key = f"{vendor}-{'-'.join(f'{ord(letter):x}' for letter in labels['emoji'])}"
        pixels = {"image": _png(media.read(picture)), "alpha": _png(np.asarray(picture.getchannel("A")))}
        return key, {"id": key, "vendor": vendor, **pixels, **labels}


class Emoji(_EmojiPictures):
    """Emoji images by four artists."""

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
        for vendor, (archive, pattern) in IMAGES.items():
            images: dict[str, Image.Image] = {}
            for name, data in read_archive(self.archive(archive), pattern):
                key = _emoji_of(Path(name).stem)
                if key in labels and key not in images:  # Fluent contains some twice
                    images[key] = _render(data, vendor == "openmoji")
            if vendor == "fluent":
                lighter_first(images)
            for key, picture in images.items():
                split = split_of(vendor, labels[key]["name"])
                if split:
                    yield split, *self.example(vendor, labels[key], picture)


class EmojiMore(_EmojiPictures):
    """Emoji images by five more artists, matched to emoji by the icons' names."""

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        labels = self.labels("en")
        emoji_of, with_tones = {_slug(row["name"]): code for code, row in labels.items()}, set()
        for row in self.table():
            code = _emoji_of(row["unified"])
            if "skin_variations" in row:
                with_tones.add(code)
            for name in (row["name"] or "", *row["short_names"]):
                if code in labels:
                    emoji_of.setdefault(_slug(name), code)
        for vendor, archive in ICONS.items():
            icons = json.loads(next(data for _, data in read_archive(self.archive(archive), "package/icons.json")))
            done = set()
            for name, icon in icons["icons"].items():
                key = emoji_of.get(_slug(name))
                if key is None or key in done or (vendor in ONE_TONE and key in with_tones):
                    continue  # not an emoji, a second image of it, or a skin tone that the name does not mention
                done.add(key)
                width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
                svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
                picture = _render(svg.encode(), svg=True)
                yield concepts.split_of(labels[key]["name"]), *self.example(vendor, labels[key], picture)


class EmojiVideo(_Emoji):
    """Clips of animated emoji; the clip is the field `image`, as in every model of the zoo."""

    FEATURES: ClassVar[dict[str, Any]] = {
        "image": tfds.features.Video(shape=(FRAMES, CLIP_SIDE, CLIP_SIDE, 3), encoding_format="png"),
        **_Emoji.LABELS,
    }

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        labels, done = self.labels("en"), set()
        for archive in sets.ANIMATED:
            for name, data in read_archive(self.archive(archive), "package/assets/*.webp"):
                key = _emoji_of(Path(name).stem)
                if key not in labels or key in done:
                    continue
                clip = media.read_clip(data, FRAMES)
                if all((frame == clip[0]).all() for frame in clip):
                    continue  # not animated
                done.add(key)
                pngs = [_png(media.resize(frame, (CLIP_SIDE, CLIP_SIDE))) for frame in clip]
                example_id = f"anim-{'-'.join(f'{ord(letter):x}' for letter in key)}"
                yield (
                    concepts.split_of(labels[key]["name"]),
                    example_id,
                    {"id": example_id, "image": pngs, **labels[key]},
                )


def split_of(vendor: str, name: str) -> str | None:
    """Return the split of one artist's image; Fluent 3D is in no split that models are trained or tuned on.

    >>> split_of("fluent", "strawberry"), split_of("noto", "strawberry")
    ('vendor', 'train')
    """
    split = concepts.split_of(name)
    if vendor != "fluent":
        return split
    return {"train": "vendor", "test": "test", "flags": "flags"}.get(split)


def lighter_first(images: dict[str, Image.Image]) -> None:
    """Swap pairs of medium-light and medium skin tone where the medium-light image is the darker one.

    Fluent's package mislabels most of them (288 of 304), as its animations and its blond-haired people show.

    >>> dark, light = (Image.new("RGBA", (2, 2), (shade, shade, shade, 255)) for shade in (100, 200))
    >>> hands = {"\U0001f44d" + MEDIUM_LIGHT: dark, "\U0001f44d" + MEDIUM: light}
    >>> lighter_first(hands)
    >>> hands["\U0001f44d" + MEDIUM_LIGHT] is light
    True
    """
    for key in images:
        other = key.replace(MEDIUM_LIGHT, MEDIUM)
        pair = MEDIUM_LIGHT in key and MEDIUM not in key and other in images
        if pair and _lightness(images[key]) < _lightness(images[other]):
            images[key], images[other] = images[other], images[key]


def _lightness(picture: Image.Image) -> float:
    """Return the mean grey value of opaque pixels."""
    return float(np.asarray(picture.convert("L"))[np.asarray(picture.getchannel("A")) > 200].mean())


def _emoji_of(codes: str) -> str:
    """Decode hexadecimal code points to an emoji without variation selectors; "" for any other name."""
    if not re.fullmatch(r"[0-9a-f]{2,6}(-[0-9a-f]{2,6})*", codes.lower()):
        return ""
    return "".join(chr(int(code, 16)) for code in codes.split("-") if code.lower() != "fe0f")


def _slug(name: str) -> str:
    """Reduce a name to its letters and digits, so that icon names and Unicode names compare equal.

    >>> _slug("woman’s hat: medium-light") == _slug("womans-hat-medium-light")
    True
    """
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _annotations(archive: Any, language: str) -> dict[str, tuple[str, list[str]]]:
    """Map each emoji (without variation selectors) to its CLDR name and keywords."""
    annotations = {}
    for source, key in zip(sets.CLDR, ("annotations", "annotationsDerived"), strict=True):
        file = f"package/{key}/{language}/annotations.json"
        table = json.loads(next(data for _, data in read_archive(archive(source), file)))[key]["annotations"]
        for letters, row in table.items():
            if "tts" in row:
                annotations[letters.replace("\ufe0f", "")] = (row["tts"][0], row.get("default", []))
    return annotations


def _render(data: bytes, svg: bool) -> Image.Image:
    """Decode or render an emoji as RGBA, at most SIDE pixels wide and high."""
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
    """Encode as PNG at once: tfds collects all splits before it writes the first, and pixels would fill the memory."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
