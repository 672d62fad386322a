"""Small archives in the layout of the published ones, so that the real builders run without a network."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from vtx_keras import _files as archives
from vtx_keras._files import file_hash
from vtx_keras.data import sets
from vtx_keras.data.sets import _emoji as builders
from vtx_keras.data.sets import concepts as emoji

# Emoji, English name, group: of all splits.
EMOJI = [
    ("\U0001f353", "strawberry", "Food & Drink"),
    ("\U0001f40c", "snail", "Animals & Nature"),
    ("\U0001f511", "key", "Objects"),
    ("\U0001f39f", "admission tickets", "Activities"),  # test
    ("\U0001f98e", "lizard", "Animals & Nature"),
    ("\U0001f469\U0001f3fe‍\U0001f692", "woman firefighter: medium-dark skin tone", "People & Body"),
    ("\U0001f468\U0001f3fe‍\U0001f692", "man firefighter: medium-dark skin tone", "People & Body"),
    ("\U0001f1f2\U0001f1fd", "flag: Mexico", "Flags"),
]
QUESTIONS = [["what color is the shape?", "blue", 0], ["is there a circle?", "no", 0], ["what is it?", "triangle", 1]]


def picture(seed: int, size: int = 64, mode: str = "RGBA") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 4), dtype="uint8")
    return Image.fromarray(pixels, "RGBA").resize((size, size)).convert(mode)


def encoded(seed: int, kind: str = "PNG", size: int = 64, **options) -> bytes:
    file = io.BytesIO()
    picture(seed, size, "RGB" if kind == "JPEG" else "RGBA").save(file, kind, **options)
    return file.getvalue()


def codes(letters: str) -> str:
    return "-".join(f"{ord(letter):x}" for letter in letters)


def write(folder: Path, monkeypatch) -> None:
    """Puts the archives of all sets but vqa_rad into a manual directory and pins their hashes instead of the real."""
    folder.mkdir(parents=True)
    table: list[dict] = [
        {
            "unified": codes(letters).upper(), "category": group, "subcategory": "some",
            "name": f"OLD {name.upper()}", "short_names": [],
        }
        for letters, name, group in EMOJI
    ]  # fmt: skip
    table[-2]["skin_variations"] = {}
    pictures = {
        "NOTO": {f"package/img/google/64/{codes(e)}.png": encoded(i) for i, (e, *_) in enumerate(EMOJI)},
        "TWEMOJI": {f"package/img/twitter/64/{codes(e)}.png": encoded(i + 20) for i, (e, *_) in enumerate(EMOJI)},
        "OPENMOJI": {
            f"package/color/svg/{codes(e).upper()}.svg": b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">'
            b'<circle cx="36" cy="36" r="%d" fill="red"/></svg>' % (10 + i)
            for i, (e, *_) in enumerate(EMOJI)
        },
        "FLUENT": {f"package/assets/{codes(e)}.webp": encoded(i + 40, "WEBP", 256) for i, (e, *_) in enumerate(EMOJI)},
    }
    pictures["NOTO"]["package/emoji.json"] = json.dumps(table).encode()
    for name, files in pictures.items():
        _pin(name, getattr(sets, name), files, folder, monkeypatch)
    monkeypatch.setattr(
        builders,
        "IMAGES",
        {vendor: (getattr(sets, vendor.upper()), p) for vendor, (_, p) in builders.IMAGES.items()},
    )

    body = '<circle cx="8" cy="8" r="8" fill="red"/>'
    for number, vendor in enumerate(builders.ICONS):  # each has all, and something that is no emoji
        names = [name.replace(" ", "-").replace(":", "").lower() for _, name, _ in EMOJI]
        icons = {name if number else f"old-{name}": {"body": body} for name in (*names, "letter-q")}
        icons["key"] = {"body": body, "width": 8}
        packed = {"package/icons.json": json.dumps({"icons": icons, "width": 16, "height": 16}).encode()}
        _pin(vendor.upper().replace("-", "_"), builders.ICONS[vendor], packed, folder, monkeypatch)
    icons = {vendor: getattr(sets, vendor.upper().replace("-", "_")) for vendor in builders.ICONS}
    monkeypatch.setattr(builders, "ICONS", icons)

    def annotations(key: str, part: list) -> dict[str, bytes]:
        rows = {letters: {"tts": [name], "default": ["thing", name.split()[0]]} for letters, name, _ in part}
        other = {letters: {"tts": [f"de {name}"], "default": ["Ding"]} for letters, name, _ in part}
        return {
            f"package/{key}/{language}/annotations.json": json.dumps({key: {"annotations": found}}).encode()
            for language, found in (("en", rows), ("de", other))
        }

    cldr = [
        _tar(sets.CLDR[0], annotations("annotations", EMOJI[:5]), folder),
        _tar(sets.CLDR[1], annotations("annotationsDerived", EMOJI[5:]), folder),
    ]
    monkeypatch.setattr(sets, "CLDR", tuple(cldr))

    frames = [picture(seed, 256) for seed in range(3)]
    clips = [{}, {}, {}, {}]
    for number, (letters, *_) in enumerate(EMOJI):
        moves = {"save_all": True, "append_images": frames, "duration": 50} if number % 2 == 0 else {}
        clips[number % 4][f"package/assets/{codes(letters)}.webp"] = encoded(number, "WEBP", 256, **moves)
    monkeypatch.setattr(
        sets, "ANIMATED", tuple(_tar(a, files, folder) for a, files in zip(sets.ANIMATED, clips, strict=True))
    )

    wheel = {}
    for part in ("train", "test"):
        wheel[f"easy_vqa/data/{part}/questions.json"] = json.dumps(QUESTIONS).encode()
        for number in (0, 1):
            wheel[f"easy_vqa/data/{part}/images/{number}.png"] = encoded(number)
    path = folder / sets.EASY_VQA.file
    with zipfile.ZipFile(path, "w") as file:
        for name, data in wheel.items():
            file.writestr(name, data)
    monkeypatch.setattr(sets, "EASY_VQA", sets.EASY_VQA._replace(sha256=file_hash(path)))

    cards = {f"./usr/share/art4apps/animals/{word}.jpg": encoded(i, "JPEG", 200) for i, word in enumerate(CARDS)}
    for path in ("jobs/teacher.jpg", "actions/teach.jpg"):  # one drawing for both
        cards[f"./usr/share/art4apps/{path}"] = encoded(9, "JPEG", 200)
    packed = io.BytesIO()
    _write_tar(packed, cards, "w:xz")
    data = packed.getvalue()
    header = b"%-16s%-12s%-6s%-6s%-8s%-10d`\n"
    path = folder / sets.ART4APPS.file
    path.write_bytes(
        b"!<arch>\n"
        + header % (b"debian-binary", b"0", b"0", b"0", b"100644", 3) + b"2.0\n"  # odd, so padded
        + header % (b"data.tar.xz", b"0", b"0", b"0", b"100644", len(data)) + data
    )  # fmt: skip
    monkeypatch.setattr(sets, "ART4APPS", sets.ART4APPS._replace(sha256=file_hash(path)))
    for name, archives_of in {
        "emoji": (sets.NOTO, sets.TWEMOJI, sets.OPENMOJI, sets.FLUENT, *sets.CLDR),
        "emoji_more": (*icons.values(), *sets.CLDR, sets.NOTO),
        "emoji_video": (*sets.ANIMATED, *sets.CLDR, sets.NOTO),
        "easy_vqa": (sets.EASY_VQA,),
        "word_cards": (sets.ART4APPS,),
    }.items():
        monkeypatch.setitem(sets.SETS, name, sets.SETS[name]._replace(archives=archives_of))


CARDS = ["snail", "baby_rabbit", "zebra", "lizard"]
assert emoji.split_of("snail") == "train"


def _pin(name: str, archive: archives.Archive, files: dict[str, bytes], folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(sets, name, _tar(archive, files, folder))


def _tar(archive: archives.Archive, files: dict[str, bytes], folder: Path) -> archives.Archive:
    with (folder / archive.file).open("wb") as file:
        _write_tar(file, files, "w:gz")
    return archive._replace(sha256=file_hash(folder / archive.file))


def _write_tar(file, files: dict[str, bytes], mode: str) -> None:
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
