"""Pictures per second of `vtx predict --runner`, by engine and number of workers, and what a kill in the middle loses.

python benchmarks/many.py      # 8 minutes; in an environment with vtx_keras[beam,spark,ray], and Java
"""

from __future__ import annotations

import collections
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import processor, store

COUNT, BAD = 1000, 50
NEEDS = {"here": "keras", "direct": "apache_beam", "spark": "pyspark", "ray": "ray"}
FROM = Path(__file__).parents[1] / "vtx_keras" / "sample" / "photos"


def pictures(folder: Path) -> None:
    """Make pictures of the bundled photographs, each cropped otherwise, and some files that are none."""
    from PIL import Image

    photos = [Image.open(path).convert("RGB") for path in sorted(FROM.glob("*.jpg"))]
    for number in range(COUNT - BAD):
        one = photos[number % len(photos)]
        left, top = number % 61, number % 47
        one.crop((left, top, one.width, one.height)).resize((480, 360)).save(folder / f"{number:04}.jpg")
    for number in range(BAD):
        (folder / f"bad {number}.jpg").write_bytes(os.urandom(100 * number))


def command(folder: Path, out: Path, runner: str, workers: int, runtime: str) -> list[str]:
    script = "from vtx_keras.cli import main; main()"
    arguments = ["cross_attn_captioner", folder, "--runner", runner, "--workers", workers, "--out", out]
    return [sys.executable, "-c", script, "predict", *map(str, arguments), "--runtime", runtime]


def checked(out: Path) -> dict[str, int]:
    """Return how many pictures are lost or there twice, and how many are bad."""
    from vtx_keras import batch

    found = list(batch.rows(out))
    seen = collections.Counter(row["picture"] for row in found)
    return {"lost": COUNT - len(seen), "twice": sum(count > 1 for count in seen.values()),
            "bad": sum("error" in row for row in found)}  # fmt: skip


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "in"
        folder.mkdir()
        pictures(folder)
        sides = [(name, workers, "keras") for name in NEEDS for workers in (1, 2)] + [("here", 1, "litert")]
        for runner, workers, runtime in sides:
            if importlib.util.find_spec(NEEDS[runner]) is None:
                print(f"{runner}: not tried, {NEEDS[runner]} is not installed")
                continue
            out = Path(home) / f"{runner}-{workers}-{runtime}"
            if runtime == "litert":  # the file is made before
                once = [*command(folder, out, runner, workers, runtime)[:4], "cross_attn_captioner"]
                made = [*once, str(folder / "0000.jpg"), "--runtime", runtime]
                subprocess.run(made, check=True, capture_output=True)
            start = time.monotonic()
            run = subprocess.run(command(folder, out, runner, workers, runtime), capture_output=True, text=True)
            took = time.monotonic() - start
            assert run.returncode == 1, run.stderr[-2000:]
            rows.append({"runner": runner, "workers": workers, "runtime": runtime, "seconds": round(took, 1),
                         "a_second": round(COUNT / took, 1), **checked(out)})  # fmt: skip
        for runner in ("here", "spark"):
            if importlib.util.find_spec(NEEDS[runner]) is None:
                continue
            out = Path(home) / f"{runner}-killed"
            with subprocess.Popen(
                command(folder, out, runner, 2, "keras"), stderr=subprocess.DEVNULL, start_new_session=True
            ) as first:
                try:
                    while first.poll() is None and len(list(out.glob("part-*"))) < 3:
                        time.sleep(0.01)
                finally:
                    os.killpg(first.pid, signal.SIGKILL)
            kept = len(list(out.glob("part-*")))
            again = subprocess.run(command(folder, out, runner, 2, "keras"), capture_output=True, text=True)
            new = int(re.search(r"([\d,]+) new", again.stderr)[1].replace(",", ""))
            rows.append({"runner": runner, "workers": 2, "runtime": "keras", "killed_after_parts": kept,
                         "done_again": new, **checked(out)})  # fmt: skip
    store("many", rows, hardware=f"{processor()}, {os.cpu_count()} cores", command="python benchmarks/many.py")


if __name__ == "__main__":
    main()
