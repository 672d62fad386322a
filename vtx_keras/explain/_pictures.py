"""Draw heat over images: from the model's grid back to the original image, and a sheet with a panel per word."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vtx_keras._files import whole
from vtx_keras.inputs import media
from vtx_keras.models.options import did_you_mean

TILE, FRAME, MARGIN, LINE, COLUMNS = 168, 104, 10, 18, 6
# From cold to hot, with growing lightness, so that a print in grey can be read as well.
COLOURS = np.array([(0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191)], "float32")


@dataclass(frozen=True, eq=False)
class Explanation:
    """Heat maps of one image (or clip), one per word.

    `maps` (words, rows, columns), for a clip (words, frames, rows, columns), are on the model's own grid: attention
    weights, or with Grad-CAM how much each place contributes to the target. `picture` is the image as it was given,
    `seen` as it was resized for the model; of a clip, the frames. `said` is the model's result.

    >>> explanation = Explanation(
    ...     ["cat"], np.eye(2)[None], np.zeros((20, 40, 3), "uint8"), np.zeros((8, 8, 3), "uint8"), "pad"
    ... )
    >>> explanation.heat("cat").shape, round(float(explanation.heat("cat")[0, 0]), 2)
    ((20, 40), 0.98)
    """

    words: list[str]
    maps: np.ndarray
    picture: np.ndarray | list[np.ndarray]
    seen: np.ndarray
    fit: str
    about: str = ""
    said: str = ""

    def heat(
        self, word: str | int | None = None, *, seen: bool = False, size: tuple[int, int] | None = None
    ) -> np.ndarray | list[np.ndarray]:
        """Return the map of a word (or of the word at an index; by default the mean of all) at the image's size.

        `size` is another (height, width). Parts that were cropped away before the model have no heat. With `seen` the
        map is for the image as it was resized for the model. Of a clip, return a list with a map for each frame.
        """
        grid = self._map(word)
        frames = self.seen if self.clip else [self.seen]
        targets = frames if seen else (self.picture if self.clip else [self.picture])
        grids = grid if self.clip else [grid]
        heats = [
            spread(grid, frame.shape[:2], image.shape[:2], "stretch" if seen else self.fit, size)
            for grid, frame, image in zip(grids, frames, targets, strict=True)
        ]
        return heats if self.clip else heats[0]

    @property
    def clip(self) -> bool:
        """Whether this explains a clip, whose maps have frames."""
        return self.maps.ndim == 4

    def _map(self, word: str | int | None) -> np.ndarray:
        if word is None:
            return self.maps.mean(axis=0) if len(self.maps) else np.zeros(self.maps.shape[1:], self.maps.dtype)
        if isinstance(word, str):
            wanted = word.strip().lower()
            places = [place for place, one in enumerate(self.words) if one.lower() == wanted]
            if not places:
                hint = did_you_mean(wanted, self.words)
                raise ValueError(f"there is no map of {word!r}{hint}: there are {', '.join(map(repr, self.words))}")
            return self.maps[places].mean(axis=0)
        if not -len(self.words) <= word < len(self.words):
            raise ValueError(f"there is no word {word}: there are {len(self.words)}, counted from 0")
        return self.maps[word]

    def save(self, path: str | os.PathLike, words: list[str] | None = None) -> Path:
        """Draw a PNG at `path`: the image, then a panel with heat for each word (or each of `words`).

        A clip has a row of frames for each word. Every panel has its own scale, from zero to its greatest heat.
        """
        chosen: list[str | int] = list(range(len(self.words))) if words is None else list(words)
        named = [self.words[one] if isinstance(one, int) else one for one in chosen]
        panels = [(self._tiles(None), "")] + [(self._tiles(one), name) for one, name in zip(chosen, named, strict=True)]
        return _sheet(
            panels, [line for line in (self.about, self.said) if line], Path(path), 1 if self.clip else COLUMNS
        )

    def _tiles(self, word: str | int | None) -> list[np.ndarray]:
        """Return the image, or the frames of a clip, scaled down, with the heat of a word over them."""
        side = FRAME if self.clip else TILE
        images: Any = self.picture if self.clip else [self.picture]
        sizes = [_scaled(image.shape[:2], side) for image in images]
        small = [media.resize(image, size, "stretch") for image, size in zip(images, sizes, strict=True)]
        if word is None:
            return small
        grid = self._map(word)
        frames, grids = (self.seen, grid) if self.clip else ([self.seen], [grid])
        top = float(grid.max())
        heats = [
            spread(grid, frame.shape[:2], image.shape[:2], self.fit, size)
            for grid, frame, image, size in zip(grids, frames, images, sizes, strict=True)
        ]
        return [overlay(image, heat, top=top) for image, heat in zip(small, heats, strict=True)]


def spread(
    grid: np.ndarray,
    model_size: tuple[int, int],
    picture_size: tuple[int, int],
    fit: str,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Map a grid over the model's input to heat over the image that was fitted to it by a fit of `media.resize`.

    Cells are equal parts of the input; heat is interpolated linearly between their centres. `size` is that of the
    result (float32), by default the image's.

    >>> spread(np.array([[1.0, 0.0]]), (4, 4), (2, 8), "crop").round(2)[0].tolist()
    [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """
    size, fit = picture_size if size is None else size, fit.partition("-")[0]  # without the filter
    scales = [model / side for model, side in zip(model_size, picture_size, strict=True)]
    sides = []
    for axis in (0, 1):
        model, side, cells = model_size[axis], picture_size[axis], grid.shape[axis]
        # Where the image's side starts on the model's input and how long it is there, by the rule of `media.resize`.
        if fit == "stretch":
            start, extent = 0.0, float(model)
        elif fit == "pad":
            extent = max(1, int(side * min(scales) + 0.5))
            start = (model - extent) // 2
        else:
            extent = side * max(scales)
            start = (model - extent) / 2
        points = start + (np.arange(size[axis]) + 0.5) / size[axis] * extent
        centres = (np.arange(cells) + 0.5) * model / cells
        weights = np.stack([np.interp(points, centres, one) for one in np.eye(cells)], axis=1)
        sides.append(weights * ((points >= 0) & (points <= model))[:, None])
    return (sides[0] @ grid @ sides[1].T).astype("float32")


def overlay(picture: np.ndarray, heat: np.ndarray, *, top: float | None = None) -> np.ndarray:
    """Return an image (h, w, 3) of 0–255 with heat drawn over it, as uint8.

    Heat is at least 0; `top` is the value drawn as hottest, by default the greatest one. Images drawn with the same
    `top` can be compared. Heat of another size is interpolated to the image's, as a grid over all of it.

    >>> overlay(np.full((4, 6, 3), 255, "uint8"), np.eye(2)).shape
    (4, 6, 3)
    """
    picture, heat = np.asarray(picture, "float32"), np.asarray(heat, "float32")
    if picture.ndim != 3 or picture.shape[-1] != 3 or heat.ndim != 2:
        raise ValueError(
            f"a picture of shape {picture.shape} and heat of shape {heat.shape}: expected (h, w, 3) and (h, w). "
            "Of a clip, lay each frame's heat over that frame"
        )
    if heat.shape != picture.shape[:2]:
        heat = spread(heat, picture.shape[:2], picture.shape[:2], "stretch")
    top = float(heat.max()) if top is None else top
    level = np.clip(heat / top, 0, 1) if top > 0 else np.zeros_like(heat)
    steps = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(level, steps, channel) for channel in COLOURS.T], axis=-1)
    grey = picture @ np.array([0.299, 0.587, 0.114], "float32")
    return np.rint(0.45 * grey[..., None] + 0.55 * colour).astype("uint8")


def _scaled(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the size with its longer side scaled to `side`."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _sheet(panels: list[tuple[list[np.ndarray], str]], title: list[str], path: Path, columns: int) -> Path:
    """Draw panels of equal size in rows under a title, each a strip of tiles with its word below."""
    font, bold = ImageFont.load_default(size=13), ImageFont.load_default(size=15)
    strips = [np.concatenate(_same_height(tiles), axis=1) for tiles, _ in panels]
    width, height = max(strip.shape[1] for strip in strips), max(strip.shape[0] for strip in strips)
    columns = min(columns, len(panels))
    labels = [_wrap(word, font, width) for _, word in panels]
    lines = max(label.count("\n") + 1 for label in labels)
    cell = (width + MARGIN, height + lines * LINE + MARGIN)
    least = max([int(bold.getlength(line)) for line in title] or [0])
    total = max(columns * cell[0] + MARGIN, min(least + 2 * MARGIN, 2 * TILE * COLUMNS))
    heading = [_wrap(line, bold, total - 2 * MARGIN) for line in title]
    above = MARGIN + (LINE + 2) * sum(line.count("\n") + 1 for line in heading) + MARGIN * bool(heading)
    sheet = Image.new("RGB", (total, above + math.ceil(len(panels) / columns) * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((MARGIN, MARGIN), "\n".join(heading), "black", bold, spacing=5)
    for number, (strip, label) in enumerate(zip(strips, labels, strict=True)):
        row, column = divmod(number, columns)
        x, y = MARGIN + column * cell[0], above + row * cell[1]
        inside = (x + (width - strip.shape[1]) // 2, y + (height - strip.shape[0]) // 2)
        sheet.paste(Image.fromarray(strip), inside)
        draw.multiline_text((x + width // 2, y + height + 3), label, "black", font, anchor="ma", align="center")
    with whole(path) as part:
        sheet.save(part, "PNG")
    return path


def _same_height(tiles: list[np.ndarray]) -> list[np.ndarray]:
    """Pad tiles with white to one height, and with a narrow gap between them."""
    height = max(tile.shape[0] for tile in tiles)
    gap = 4 if len(tiles) > 1 else 0
    padded = []
    for tile in tiles:
        above = (height - tile.shape[0]) // 2
        edges = ((above, height - tile.shape[0] - above), (0, gap), (0, 0))
        padded.append(np.pad(tile, edges, constant_values=255))
    return padded


def _wrap(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Break a text into lines no wider than `width`; a word that is wider by itself is cut off."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    for place, line in enumerate(lines):
        while font.getlength(line) > width:
            line = line[:-2] + "…"
        lines[place] = line
    return "\n".join(lines)
