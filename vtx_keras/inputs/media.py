"""Reading of images and clips: one rule for orientation, channels, size limits and frames.

A picture is a path, encoded bytes, a PIL image, or an array of 0-255: (h, w, 3), (h, w, 1), (h, w) or (h, w, 4).
A clip is an animated file, a folder of pictures, a list of pictures, an array (frames, h, w, c), or one picture.

The rule: the header is checked before anything is decoded; EXIF orientation is applied, and transparency is composited
on white; grey, palette, CMYK, 16-bit and 1-bit become 8-bit RGB; an animation read as a picture is its first frame.
"""

import contextlib
import io
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

__all__ = [
    "PIXEL_LIMIT", "SUFFIXES", "BadItems", "BadPicture", "batch", "check_on_error", "frame_places", "or_white",
    "prepare", "read", "read_clip", "resize", "settle",
]  # fmt: skip
PIXEL_LIMIT = 50_000_000  # assign media.PIXEL_LIMIT to change it everywhere
FILE_LIMIT = 200_000_000  # bytes of a file: a decoder may read a part of any length at once
CLIP_LIMIT = 6  # pixel limits for a whole animation: to read a late frame, all frames before it are decoded
FRAME_LIMIT = 0.25  # pixel limits for one of several frames: a decoder holds more than one
NOT_PICTURES = {b"<": "HTML or XML", b"%PDF": "a PDF", b"PK": "a ZIP archive", b"\x1f\x8b": "a gzip archive"}
# Pillow opens many more formats, but some start other programs or hide a large image behind a small header.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM")
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # further images in a JPEG or TIFF are not frames
SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".heic", ".heif",
)  # fmt: skip
HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")  # brands of files that Pillow cannot read
# By EXIF orientation, 2 to 8: mirror, rotate by 180°, flip, transpose, rotate right, transverse, rotate left.
UPRIGHT = dict(zip(range(2, 9), map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), strict=True))
PATH, FILE = (str, os.PathLike), (str, os.PathLike, bytes, bytearray, Image.Image)
FITS = ("pad", "crop", "stretch", "shortest")
FILTERS = {
    "": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS,
}  # fmt: skip
EXPECTED = "a path, encoded bytes, a PIL image or an array of numbers 0-255: (h, w, 3), (h, w, 1), (h, w), (h, w, 4)"


class BadPicture(ValueError):
    """Raised for a picture or clip that cannot be used, with the reason."""


class BadItems(ValueError):
    """Raised if some items are bad: `errors` holds the reasons by index, `results` the results, None for bad items."""

    def __init__(self, errors: dict[int, str], results: list):
        super().__init__(errors, results)
        self.errors, self.results = errors, results

    def __str__(self) -> str:
        lines = [f"{len(self.errors)} of {len(self.results)} items could not be used:"]
        lines += [f"item {index}: {reason}" for index, reason in list(self.errors.items())[:10]]
        lines += [f"... and {len(self.errors) - 10} more"] * (len(self.errors) > 10)
        return "\n  ".join([*lines, 'Good results are in error.results; on_error="none" gives None for a bad item.'])


def read(picture: Any, *, pixel_limit: int | None = None) -> np.ndarray:
    """Return a picture as a new uint8 array (h, w, 3); an array of floats becomes float32.

    >>> read(np.full((2, 3, 3), 7))[0, 0].tolist()
    [7, 7, 7]
    """
    return np.array(_load(picture, pixel_limit or PIXEL_LIMIT))


def read_clip(clip: Any, frames: int, *, pixel_limit: int | None = None) -> list[np.ndarray]:
    """Return `frames` evenly picked frames: the i-th is frame floor((i + 0.5) * t / frames) of t; a short clip repeats.

    The files of a folder are sorted by name as text: number them 09, 10 and not 9, 10.

    >>> clip = [np.full((4, 4, 3), t) for t in range(8)]
    >>> [int(frame[0, 0, 0]) for frame in read_clip(clip, 4)]
    [1, 3, 5, 7]
    """
    if not isinstance(frames, int) or frames < 1:
        raise ValueError(f"frames={frames!r}: expected a whole number of at least 1")
    return [np.array(frame) for frame in frames_of(clip, frames, pixel_limit or PIXEL_LIMIT)]


def frame_places(total: Any, frames: int) -> Any:
    """Return which frames of `total` (a number, or an int32 tensor) `read_clip` picks.

    >>> frame_places(8, 4).tolist()
    [1, 3, 5, 7]
    """
    return (2 * np.arange(frames, dtype="int32") + 1) * total // (2 * frames)


def resize(picture: Any, size: Sequence[int], fit: str = "pad", window: Sequence[float] | None = None) -> np.ndarray:
    """Return a picture as uint8 at `size` (height, width): antialiased, half-pixel centres, rounded.

    `fit` is "pad" (keep the aspect, white borders, centred), "crop" (fill, then crop the centre), "stretch" or
    "shortest": CLIP's, which fills as well, but scales to whole pixels and then crops whole pixels. The filter is
    bilinear, or what ends the name: "crop-bicubic", "pad-lanczos".
    `window` crops first: (y, x, height, width) as fractions of the sides. It is meant for training: a large JPEG is
    decoded only in as much detail as the crop needs, so pixels differ slightly from a crop of the whole image.

    >>> resize(np.zeros((20, 40, 3)), (4, 4))[:, 0, 0].tolist()
    [255, 0, 0, 255]
    >>> resize(np.arange(3)[None, :, None] * np.ones((3, 3, 3)), (1, 1), window=(0, 2 / 3, 1, 1 / 3))[0, 0, 0]
    np.uint8(2)
    """
    height, width, _ = _checked((*size, 3), fit)
    loaded = _load(picture, PIXEL_LIMIT) if window is None else _part(picture, height, width, window)
    sized = _sized(loaded, height, width, fit)
    return sized if sized.dtype == "uint8" else np.rint(sized).astype("uint8")


def prepare(picture: Any, shape: Sequence[int], fit: str = "pad") -> np.ndarray:
    """Return a picture as float32 (h, w, 3), or a clip as (frames, h, w, 3), at `shape`.

    Pictures that already have that size are not resized, so that exact floats reach the model.

    >>> prepare(np.full((2, 2, 3), 100.25), (2, 2, 3))[0, 0].tolist()
    [100.25, 100.25, 100.25]
    """
    *frames, height, width, _ = _checked(shape, fit)
    pictures = frames_of(picture, frames[0], PIXEL_LIMIT) if frames else [_load(picture, PIXEL_LIMIT)]
    sized = [_sized(picture, height, width, fit) for picture in pictures]
    return np.asarray(sized if frames else sized[0], "float32")


def batch(items: Any, shape: Sequence[int], fit: str = "pad") -> tuple[np.ndarray, list[int], dict[int, str]]:
    """Prepare one item or many: return float32 `(good items, *shape)`, the indices of good items, errors by index.

    A path, bytes or a PIL image is one item, and so is an array of rank len(shape) or less. An array with one more axis
    is many items, and so is a list (a tuple, a column of paths); for a video model, each of its members is a clip.

    >>> pixels, good, errors = batch([np.zeros((4, 4, 3)), b"<html>"], (8, 8, 3))
    >>> pixels.shape, good, list(errors)
    ((1, 8, 8, 3), [0], [1])
    """
    many, shape = _many(items, len(shape)), _checked(shape, fit)
    if len(many) == 0:
        raise ValueError("there are no items: expected at least one picture or clip")
    pixels = np.empty((len(many), *shape), "float32")
    good, errors = list[int](), dict[int, str]()
    for index, item in enumerate(many):
        try:
            pixels[len(good)] = prepare(item, shape, fit)
            good.append(index)
        except (BadPicture, OSError) as error:
            errors[index] = str(error)
    return pixels[: len(good)], good, errors


def or_white(items: Any, rank: int) -> Any:
    """Return items with a white picture, or clip, for each that is None: models learn a missing picture as white.

    >>> or_white([None, "cat.png"], 3)[0].shape
    (8, 8, 3)
    """
    many, white = [None] if items is None else items, np.full((1,) * (rank - 3) + (8, 8, 3), 255, "uint8")
    return [white if one is None else one for one in many] if isinstance(many, (list, tuple)) else many


def check_on_error(on_error: str) -> None:
    """Raise ValueError for another value than "raise" or "none".

    >>> check_on_error("none")
    """
    if on_error not in ("raise", "none"):
        raise ValueError(f'on_error={on_error!r}: expected "raise" or "none"')


def settle(results: Sequence, good: Sequence[int], errors: dict[int, str], total: int, on_error: str) -> list:
    """Return a list of length `total` with the results of good items at their indices, and None elsewhere.

    If there are errors, `on_error="raise"` raises `BadItems`, and "none" returns the list.

    >>> settle(["a cat"], [1], {0: "empty"}, 2, "none")
    [None, 'a cat']
    """
    check_on_error(on_error)
    by_index = dict(zip(good, results, strict=True))
    placed = [by_index.get(index) for index in range(total)]
    if errors and on_error == "raise":
        raise BadItems(errors, placed)
    return placed


def _checked(shape: Sequence[int], fit: str) -> tuple[int, ...]:
    """Return `shape` as a tuple, after checking it and `fit`."""
    kind, dash, name = fit.partition("-")
    if kind not in FITS or name not in FILTERS or bool(dash) != bool(name):
        more = '"shortest", each also with "-bicubic" or "-lanczos"'
        raise ValueError(f'fit={fit!r}: expected "pad", "crop" or "stretch", or {more}')
    if len(shape) not in (3, 4) or shape[-1] != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"shape {tuple(shape)}: expected (height, width, 3) or (frames, height, width, 3)")
    return tuple(shape)


def _check_size(width: int, height: int, limit: int, frames: int = 1) -> None:
    one, every = (FRAME_LIMIT * limit, CLIP_LIMIT * limit) if frames > 1 else (limit, limit)
    if not 0 < width * height <= one or frames * width * height > every:
        most = f"expected 1 to {one / 1e6:g} million" + f", {every / 1e6:g} in all frames" * (frames > 1)
        advice = "Make it smaller, or set vtx_keras.media.PIXEL_LIMIT, or read it with a greater pixel_limit"
        raise BadPicture(f"{width} x {height} pixels{f' x {frames} frames' * (frames > 1)}: {most}. {advice}")


def _many(items: Any, rank: int) -> Sequence:
    """Return the members of a list, an iterator, a table's column or an array of rank above `rank`; else [items]."""
    axes, kind = len(getattr(items, "shape", ())), getattr(getattr(items, "dtype", None), "kind", "")
    if isinstance(items, (list, tuple, Iterator)) or (axes == 1 and kind in ("O", "U")):
        return list(items)
    return items if axes > rank else [items]


def _load(picture: Any, pixel_limit: int) -> Image.Image | np.ndarray:
    """Return a picture as an RGB image; an array of floats as a float32 array (h, w, 3)."""
    if isinstance(picture, FILE):
        with _opened(picture) as image:
            return _from_image(image, pixel_limit)
    try:
        array = np.asarray(picture)
    except Exception as error:  # from a tensor, or for lists of unequal lengths
        raise BadPicture(f"{type(picture).__name__} ({error}): expected {EXPECTED}") from error
    description = f"{type(picture).__name__} of shape {array.shape} and type {array.dtype}"
    array = array[..., None] if array.ndim == 2 else array
    if array.dtype.kind not in "uif" or array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise BadPicture(f"{description}: expected {EXPECTED}")
    _check_size(array.shape[1], array.shape[0], pixel_limit)
    low, high = (0, 255) if array.dtype == "uint8" else (array.min(), array.max())
    if not (low >= 0 and high <= 255):  # NaN fails both
        raise BadPicture(f"{description} with values from {low:g} to {high:g}: expected finite numbers, 0 to 255")
    exact = array.dtype.kind == "f"
    # The warnings contain no numbers, so that Python shows each once and not for every picture.
    if exact and 0 < high <= 1:
        warnings.warn("a float picture of 0-1 at most: it looks scaled, but 0-255 is expected", stacklevel=2)
    if array.shape[-1] == 1:
        warnings.warn("a grey array became RGB: its channel was repeated", stacklevel=2)
        array = np.repeat(array, 3, axis=-1)
    if array.shape[-1] == 4:
        warnings.warn("the fourth channel of an array was taken as alpha, and it was laid on white", stacklevel=2)
        array = 255 + (array[..., :3] - np.float32(255)) * (array[..., 3:] / np.float32(255))
        array = array if exact else np.rint(array)
    return array.astype("float32") if exact else Image.fromarray(array.astype("uint8", copy=False))


def _part(picture: Any, height: int, width: int, window: Sequence[float]) -> Image.Image:
    """Return the `window` of a picture, decoded with enough detail for (height, width)."""
    y, x, h, w = window
    if isinstance(picture, FILE):
        with _opened(picture) as image:
            _check_size(image.width, image.height, PIXEL_LIMIT)
            # `draft` decodes at 1/2, 1/4 or 1/8, in a fraction of the time. It changes the image, so not a caller's.
            # EXIF may swap the sides, so with EXIF both sides use the larger scale.
            if image is not picture:
                least = max(height / h, width / w) if image.format == "JPEG" and "exif" in image.info else 0
                image.draft(None, (math.ceil(least or width / w), math.ceil(least or height / h)))
            whole = _from_image(image, PIXEL_LIMIT)
    else:
        loaded = _load(picture, PIXEL_LIMIT)
        whole = loaded if isinstance(loaded, Image.Image) else Image.fromarray(np.rint(loaded).astype("uint8"))
    left, top = int(x * whole.width), int(y * whole.height)
    return whole.crop((left, top, left + max(1, round(w * whole.width)), top + max(1, round(h * whole.height))))


def _sized(picture: Image.Image | np.ndarray, height: int, width: int, fit: str) -> np.ndarray:
    if isinstance(picture, np.ndarray):
        if picture.shape[:2] == (height, width):
            return picture
        picture = Image.fromarray(np.rint(picture).astype("uint8"))
    kind, _, name = fit.partition("-")
    if kind in ("crop", "stretch"):
        resized = ImageOps.fit if kind == "crop" else Image.Image.resize
        return np.array(resized(picture, (width, height), FILTERS[name]))
    if kind == "shortest":
        wide = max(width, int(height * picture.width / picture.height))
        high = max(height, int(width * picture.height / picture.width))
        _check_size(wide, high, PIXEL_LIMIT)
        left, top = (wide - width) // 2, (high - height) // 2
        whole = picture.resize((wide, high), FILTERS[name])
        return np.array(whole.crop((left, top, left + width, top + height)))
    scale = min(width / picture.width, height / picture.height)
    inner = picture.resize([max(1, int(side * scale + 0.5)) for side in picture.size], FILTERS[name])
    whole = Image.new("RGB", (width, height), "white")
    whole.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return np.array(whole)


def frames_of(clip: Any, frames: int, pixel_limit: int) -> Iterator[Image.Image | np.ndarray]:
    """Yield the picked frames one by one, so that a long clip is never in memory as a whole."""
    if isinstance(clip, PATH) and os.path.isdir(clip):
        names = [name for name in os.listdir(clip) if name.lower().endswith(SUFFIXES) and name[0] != "."]
        clip = [os.path.join(clip, name) for name in sorted(names)]
    if not isinstance(clip, FILE):
        members = _many(clip, rank=3)
        for index, times in _picks(len(members), frames):
            yield from [_load(members[index], pixel_limit)] * times
        return
    with _opened(clip) as image:
        animated = image.format in ANIMATED and getattr(image, "is_animated", False)
        cover = animated and bool(image.info.get("default_image"))  # a still that viewers without animation show
        total, shown = getattr(image, "n_frames", 1) - cover if animated else 1, image.tell()
        _check_size(image.width, image.height, pixel_limit, total)
        for index, times in _picks(total, frames):
            if animated:
                image.seek(index + cover)
            yield from [_from_image(image, pixel_limit)] * times
        image.seek(shown)  # the image may belong to the caller


def _picks(total: int, frames: int) -> list[tuple[int, int]]:
    """Return pairs of a frame of `total` and how many times it is used."""
    if not total:
        raise BadPicture("a clip without pictures: expected at least one")
    return list(Counter(map(int, frame_places(total, frames))).items())


@contextlib.contextmanager
def _opened(source: Any) -> Iterator[Image.Image]:
    """Open a path, bytes or PIL image as a PIL image; raise any failure inside the block as `BadPicture`."""
    name = repr(os.fspath(source)) if isinstance(source, PATH) else type(source).__name__
    try:
        if isinstance(source, Image.Image):
            yield source
        elif not isinstance(source, PATH):
            yield _identified(io.BytesIO(source))
        elif os.path.isfile(source):  # `open` would block on a pipe
            if (size := os.path.getsize(source)) > FILE_LIMIT:
                raise BadPicture(f"{size:,d} bytes: expected {FILE_LIMIT:,d} at most. Make it smaller")
            with open(source, "rb") as file:
                yield _identified(file)
        else:
            found = ["no such file", "a pipe or device", "a folder"][os.path.exists(source) + os.path.isdir(source)]
            raise BadPicture(f"{found}: expected a picture's file")
    except BadPicture as error:
        raise BadPicture(f"{name}: {error}") from error
    except Exception as error:
        why = f"{type(error).__name__}: {str(error).partition(': ')[0]}"  # behind a colon, Pillow quotes the file
        raise BadPicture(f"{name}: cut off or damaged ({why}): expected a whole picture. Fetch it anew") from error


def _identified(file: Any) -> Image.Image:
    """Read only the header. `Image.open` would also apply Pillow's pixel limit, which holds for the whole process."""
    Image.init()
    head = file.read(32)
    brands = {head[at : at + 4] for at in range(8, len(head), 4)} if head[4:8] == b"ftyp" else set()
    if head[8:12] in HEIF and brands and not brands & {b"avif", b"avis"}:  # Pillow takes "mif1" for AVIF
        file.seek(0)
        return _heif(file)
    for factory, accepts in filter(None, map(Image.OPEN.get, FORMATS)):
        if head and accepts and accepts(head) is True:
            file.seek(0)
            return factory(file, "")
    raise BadPicture(f"{_kind(head)}: expected {', '.join(FORMATS)}. Convert it, or fetch it anew")


def _heif(file: Any) -> Image.Image:
    """Open a HEIF picture, as phones make them, by pillow-heif."""
    try:
        import pillow_heif
    except ImportError as error:
        raise BadPicture("a HEIC picture: pip install pillow-heif reads it, or convert it to JPEG") from error
    pillow_heif.register_heif_opener()
    return Image.OPEN["HEIF"][0](file, "")


def _kind(head: bytes) -> str:
    """Say what a file is by its first bytes, which are not quoted: a table may name files that are no pictures.

    >>> _kind(b" <!DOCTYPE html>"), _kind(b"root:x:0:0"), _kind(b"")
    ('HTML or XML', 'text', 'empty')
    """
    if not head:
        return "empty"
    text = head.isascii() and head.decode("ascii").replace("\n", "").isprintable()
    kinds = [kind for start, kind in NOT_PICTURES.items() if head.lstrip().startswith(start)]
    return [*kinds, "text" if text else "no known format"][0]


def _from_image(image: Image.Image, pixel_limit: int) -> Image.Image:
    """Decode a PIL image: upright, on white, 8-bit RGB."""
    _check_size(image.width, image.height, pixel_limit)
    image.load()
    turn = None
    with contextlib.suppress(Exception):  # broken EXIF data is ignored
        turn = UPRIGHT.get(image.getexif().get(0x0112, 1))
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        deep = np.asarray(image).astype("uint32")
        grey = ((deep + 128) // 257).astype("uint8")  # Pillow would clip to 255
        grey[deep == image.info.get("transparency", -1)] = 255
        image = Image.fromarray(grey)
    elif image.mode in ("I", "F"):
        raise BadPicture("32 bits per pixel, of unknown range: expected 8 or 16. Scale it to 0-255")
    elif image.has_transparency_data:
        clear, image = image.convert("RGBA"), Image.new("RGB", image.size, "white")
        image.paste(clear, mask=clear.getchannel("A"))
    image = image if turn is None else image.transpose(turn)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy
