"""Caption pictures on the page in Chromium, and with caption.mjs in Node: the same words as the model's own?

The released captioner is exported with attention, served by `export/web/serve.mjs`, and given the photographs of the
bundled sample and 21 forms of one of them: turned by EXIF, in four colours, in 16 bits, transparent, progressive,
large, small. It needs Chromium, Node and `npm install` in export/web. The pictures of docs/web.md are made, too.

    python benchmarks/page.py
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import processor, store
from PIL import Image

ROOT = Path(__file__).parents[1]
WEB, PHOTOS, DOCS = ROOT / "export/web", ROOT / "vtx_keras/sample/photos", ROOT / "docs"


def main() -> None:
    from vtx_keras import export, zoo

    model = zoo.build("cross_attn_captioner")
    with tempfile.TemporaryDirectory() as folder:
        file, pictures = Path(folder) / "model/model.onnx", sorted(PHOTOS.glob("*.jpg"))
        export.onnx(model, file, attention=True)
        pictures += forms(Image.open(PHOTOS / "dogs.jpg"), Path(folder))
        expected = model.generate(pictures)
        with serving(file) as address:
            start = time.perf_counter()
            page = on_page(address, *pictures)
            seconds = time.perf_counter() - start
            offline = on_page(address, pictures[0], "--offline")
            picture_of_the_page(address, Path(folder))
        node = [in_node(file, picture) for picture in pictures]
        ms = [float(row["figures"].split()[0]) for row in page]
        cost = {"ms": float(np.median(ms)), "where": page[0]["state"], "seconds_in_all": round(seconds, 1)}
        rows = [
            row_of("page in Chromium", expected, [row["said"] for row in page], pictures) | cost,
            row_of("page in Chromium, offline", expected[:1], [row["said"] for row in offline], pictures),
            row_of("caption.mjs in Node", expected, node, pictures),
        ]
    store("page", rows, hardware=f"{processor()}, two cores")


def row_of(side: str, expected: list[str], said: list[str], pictures: list[Path]) -> dict:
    """Return how many captions are the same, and which are not."""
    others = [path.name for path, one, other in zip(pictures, expected, said, strict=False) if one != other]
    return {"side": side, "pictures": len(said), "same": len(said) - len(others), "other": others}


def forms(image: Image.Image, folder: Path) -> list[Path]:
    """Write a photograph in many forms and return their paths."""
    image = image.convert("RGB")
    paths = [folder / f"exif-{turn}.jpg" for turn in range(1, 9)]
    for turn, path in enumerate(paths, 1):
        exif = Image.Exif()
        exif[0x0112] = turn
        image.save(path, exif=exif, quality=92)
    part = np.array(image.convert("RGBA"))
    part[:, : part.shape[1] // 3, 3] = 0
    half = np.array(image.convert("RGBA"))
    half[..., 3] = 128
    gray = np.array(image.convert("L"))
    others = {
        "gray.png": image.convert("L"),
        "palette.png": image.convert("P"),
        "four-colours.jpg": image.convert("CMYK"),
        "transparent.png": Image.fromarray(part),
        "half-transparent.png": Image.fromarray(half),
        "16-bits.png": Image.fromarray(gray.astype("uint16") * 257),
        "one.webp": image,
        "one.gif": image,
        "large.jpg": image.resize((2400, 1600), Image.Resampling.BICUBIC),
        "small.png": image.resize((50, 40)),
        "wide.png": image.crop((0, 0, 200, 20)),
        "all-colours.jpg": image,
    }
    for name, one in others.items():
        how = {"quality": 90} if name.endswith((".jpg", ".webp")) else {}
        one.save(folder / name, **how, **({"subsampling": 0} if name == "all-colours.jpg" else {}))
    image.save(folder / "progressive.jpg", progressive=True, quality=85)
    return [*paths, *(folder / name for name in others), folder / "progressive.jpg"]


@contextlib.contextmanager
def serving(file: Path) -> Iterator[str]:
    """Serve the page with a model while the block runs; its value is the address."""
    command = ["node", "serve.mjs", str(file), "--port", "0"]
    with subprocess.Popen(command, cwd=WEB, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def on_page(address: str, *words: object) -> list[dict]:
    """Return what the page says of pictures; words may be options of `browser.mjs`."""
    command = ["node", "browser.mjs", address, *map(str, words)]
    done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def in_node(file: Path, picture: Path) -> str:
    """Return what caption.mjs says of a picture."""
    command = ["node", "caption.mjs", str(file), str(picture)]
    return subprocess.run(command, cwd=WEB, capture_output=True, text=True, check=True).stdout.strip()


def picture_of_the_page(address: str, folder: Path) -> None:
    """Write the pictures of docs/web.md: the page, word by word, and in the dark."""
    film = folder / "film"
    film.mkdir()
    on_page(address, PHOTOS / "raccoon.jpg", "--film", film)
    frames = [small(Image.open(path)) for path in sorted(film.glob("*.png"))]
    frames[0].save(DOCS / "page.gif", save_all=True, append_images=frames[1:], duration=900, loop=0, optimize=True)
    on_page(address, PHOTOS / "dogs.jpg", "--dark", "--word", 2, "--shot", folder / "dark.png")
    small(Image.open(folder / "dark.png")).save(DOCS / "page-dark.png", optimize=True)


def small(shot: Image.Image) -> Image.Image:
    shot = shot.convert("RGB").resize((550, 360), Image.Resampling.LANCZOS)
    return shot.quantize(48, dither=Image.Dither.NONE)


if __name__ == "__main__":
    main()
