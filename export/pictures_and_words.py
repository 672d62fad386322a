"""Prepare images and texts for an exported model, and turn its ids into words.

Shared by the programs in mobile/ and onnx/. Needs NumPy and Pillow. Each model brings its description (`about`, from
model.json) and its vocabulary: in a zip at the end of a .tflite, beside an .onnx.
"""

import hashlib
import json
import mmap
import re
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 50_000_000
MAX_TEXT = 10_000  # bytes
MAX_FILES = 64_000_000  # bytes of a description and a vocabulary
HASHED = b"\x72\x4a\x0a\x06sha256\x12\x40"  # before the sha256 at the end of an .onnx
IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def companions(path: Path) -> tuple[dict, list[str]]:
    """Return a model's description and its vocabulary, after checking the hashes in them."""
    names, end = ("model.json", "vocabulary.txt"), 0
    try:
        if path.suffix == ".tflite":
            with zipfile.ZipFile(path) as archive:
                end = min(one.header_offset for one in archive.infolist())
                size = sum(archive.getinfo(name).file_size for name in names)
                contents = [archive.read(name) for name in names if size <= MAX_FILES]
        else:
            size = sum(path.with_name(name).stat().st_size for name in names)
            contents = [path.with_name(name).read_bytes() for name in names if size <= MAX_FILES]
        if size > MAX_FILES:
            raise ValueError(f"its description has {size:,d} bytes, expected {MAX_FILES:,d} at most")
        check_hashes(path, *contents, end)
        about, pieces = (content.decode("utf-8") for content in contents)
        about, vocabulary = json.loads(about), pieces.removesuffix("\n").split("\n")
        if not pieces.endswith("\n") or len(vocabulary) != about["pieces"]:
            raise ValueError(f"its vocabulary has {len(vocabulary)} pieces, expected {about['pieces']}")
    except Exception as error:  # a damaged zip, text and JSON raise different errors
        message = f"not a complete model ({error}): copy or export it again, with all files beside it"
        raise ValueError(message) from error
    return about, vocabulary


def check_hashes(path: Path, about: bytes, pieces: bytes, end: int = 0) -> None:
    """Raise ValueError if a description, a vocabulary or, up to `end`, a .tflite is not what was exported.

    A description without hashes is of a file that was made before there were any.
    """
    if not (wanted := json.loads(about).get("sha256")):
        return
    whole = about.replace(wanted["model.json"].encode(), b"0" * 64)  # as it was before its hash was put in
    found = {"model.json": hashlib.sha256(whole), "vocabulary.txt": hashlib.sha256(pieces)}
    if end:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found["model"] = hashlib.sha256(memoryview(data)[:end])
    for name, sha256 in found.items():
        if sha256.hexdigest() != wanted[name]:
            raise ValueError(f"{name} is damaged, or of another file: its sha256 is not the one in model.json")


def check_onnx(path: Path) -> Path:
    """Return the path of an .onnx, after checking the sha256 at its end, of the file and the weights beside it."""
    about, weights = path.with_name("model.json").read_bytes(), path.with_name(f"{path.name}.data")
    last = len(HASHED) + 64
    if "sha256" not in json.loads(about):  # made before there were hashes
        return path
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        sha256 = hashlib.sha256(memoryview(data)[: max(0, len(data) - last)])
        if weights.is_file():
            with weights.open("rb") as more:
                hashlib.file_digest(more, lambda: sha256)
        if data[-last:] != HASHED + sha256.hexdigest().encode():
            raise ValueError(f"{path.name} is damaged: its sha256 is not the one at its end. Copy or export it again")
        if data.find(about) < 0:
            raise ValueError(f"{path.name} and the model.json beside it are of two exports: copy or export both again")
    return path


def pixels(file: Path | str, about: dict) -> np.ndarray:
    """Return an image as uint8 (1, height, width, 3), or (1, frames, height, width, 3) for a video model."""
    *frames, height, width, _ = about["image_shape"]
    with warnings.catch_warnings(action="ignore"):  # Pillow warns of many pixels, which are limited below
        opened = Image.open(file)
    with opened as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{file}: {image.width} x {image.height} pixels are too many")
        total, resized = getattr(image, "n_frames", 1), []
        for i in range(frames[0] if frames else 1):
            image.seek((2 * i + 1) * total // (2 * frames[0]) if frames else 0)
            resized.append(_resized(_upright_rgb(image), width, height, about["resize"]))
    return np.stack(resized)[None] if frames else resized[0][None]


def _upright_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip
        image = Image.fromarray(((np.asarray(image).astype("uint32") + 128) // 257).astype("uint8"))
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _resized(image: Image.Image, width: int, height: int, fit: str) -> np.ndarray:
    fit, _, name = fit.partition("-")  # "stretch-bicubic"
    smooth = Image.Resampling[name.upper() or "BILINEAR"]
    if fit == "shortest":  # as CLIP: the shortest side fits, then the centre is taken
        sides = int(height * image.width / image.height), int(width * image.height / image.width)
        image = image.resize((max(width, sides[0]), max(height, sides[1])), smooth)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return np.asarray(image.crop((left, top, left + width, top + height)))
    if fit == "stretch":
        return np.asarray(image.resize((width, height), smooth))
    if fit == "crop":
        return np.asarray(ImageOps.fit(image, (width, height), smooth))
    scale = min(width / image.width, height / image.height)
    inner = image.resize([max(1, int(side * scale + 0.5)) for side in image.size], smooth)
    padded = Image.new("RGB", (width, height), "white")
    padded.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return np.asarray(padded)


def words(ids: np.ndarray, about: dict, vocabulary: list[str]) -> str:
    """Return the ids before the first end or padding as a text."""
    special = about["special_ids"]
    ids = list(map(int, ids))
    stop = next((at for at, one in enumerate(ids) if one in (special["end"], special["pad"])), len(ids))
    pieces = [vocabulary[one] for one in ids[:stop] if one >= len(special)]
    if about.get("spelling"):  # pieces of GPT-2 or CLIP, whose characters stand for bytes
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in plain]
        table = {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
        ends = about["spelling"]["word_end"] or " "
        joined = "".join(pieces).replace(ends, "\u0120")  # which stands for a space
        return bytes(table[one] for one in joined if one in table).decode("utf-8", "replace").strip()
    text = " ".join(pieces)
    for pattern, rewrite in about["join_rules"]:
        text = re.sub(pattern, rewrite, text)
    return text


def normalized(text: str, about: dict) -> str:
    """Return a text in lower case, in one form of each letter, without what is not seen."""
    text = re.sub(about["gaps"], " ", re.sub(about["unseen"], "", text))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return re.sub(about["gaps"], " ", text).strip(" ")


def tokens(text: str, about: dict, vocabulary: list[str]) -> np.ndarray:
    """Return a text as int32 ids (1, length): the start, then each word's longest matching pieces, then padding."""
    special, id_of = about["special_ids"], {piece: i for i, piece in enumerate(vocabulary)}
    if len(text.encode("utf-8", "replace")) > MAX_TEXT:
        raise ValueError(f"the text has more than {MAX_TEXT:,} bytes")
    ids = [special["start"]]
    for word in "".join(map(_separated, normalized(text, about))).split(" "):
        pieces, at = [], 0
        while at < len(word) and len(word.encode()) <= 100:
            part = ("##" if at else "") + word[at:]
            while part.removeprefix("##" if at else "") and part not in id_of:
                part = part[:-1]
            if part not in id_of:
                break
            pieces.append(id_of[part])
            at += len(part) - 2 * bool(at)
        ids += ([special["unk"]] if at < len(word) else pieces) if word else []
    if len(ids) == 1 and not about["allow_empty"]:
        raise ValueError("the text has no words")
    if about["task"] == "generator" and (special["unk"] in ids or len(ids) > about["max_length"]):
        raise ValueError(f"the text has unknown words, or more than {about['max_length'] - 1} pieces")
    ids = ids[: about["max_length"]]
    return np.array([ids + [special["pad"]] * (about["max_length"] - len(ids))], "int32")


def stream(step: Callable[..., dict], states: dict, caches: dict, about: dict) -> Iterator[int]:
    """Yield the most likely id of each step; the cache that a step returns is passed to the next."""
    newest = about["special_ids"]["start"]
    for index in range(about["max_length"]):
        outputs = step(token=np.array([[newest]], "int32"), index=np.array(index, "int32"), **caches, **states)
        newest = int(outputs["logits"][0].argmax())
        if newest == about["special_ids"]["end"]:
            return
        yield newest
        caches = {name: outputs[f"next_{name}"] for name in caches}


def draw(run: Callable[..., dict], text: str, seed: str, about: dict, vocabulary: list[str]) -> Path:
    """Draw a picture, or the frames of a clip side by side, write it as drawn.png and return the file's path."""
    number = int.from_bytes(hashlib.sha256(normalized(text, about).encode()).digest()[:8], "big")
    noise = np.random.default_rng([int(seed), 0, number]).standard_normal((1, about["noise"])).astype("float32")
    image = run(tokens=tokens(text, about, vocabulary), noise=noise)["image"][0]
    path = Path("drawn.png")
    Image.fromarray(np.concatenate(image, axis=1) if image.ndim == 4 else image).save(path)
    return path


def show(ids: Iterable[int], about: dict, vocabulary: list[str]) -> None:
    """Print the text on one line, growing as ids come."""
    shown: list[int] = []
    for new in ids:
        shown.append(new)
        print(words(shown, about, vocabulary), end="\r", flush=True)
    print()


def _separated(character: str) -> str:
    """Put spaces around punctuation and ideographs, and replace control and format characters by a space."""
    kind = unicodedata.category(character)
    alone = kind[0] == "P" or ("!" <= character <= "~" and not character.isalnum())
    alone = alone or any(first <= ord(character) <= last for first, last in IDEOGRAPHS)
    return f" {character} " if alone else " " if kind in ("Cc", "Cf") else character


def result(outputs: dict, about: dict, vocabulary: list[str]) -> str:
    """Return a model's outputs as text: a caption, an answer or a probability."""
    if "ids" in outputs:
        return words(outputs["ids"][0], about, vocabulary)
    logits = outputs["logits"][0]
    if about["task"] == "matcher":
        return f"fits with probability {1 / (1 + np.exp(-logits[0])):.3f}"
    if about["multi_label"]:
        return ", ".join(label for label, logit in zip(about["labels"], logits, strict=True) if logit > 0) or "nothing"
    return about["labels"][int(np.argmax(logits))]
