"""What `vtx predict` takes to a caption, and for a folder, by Keras and by the files that it makes once.

Each is a process of its own, in turns; CPU seconds and peak memory are the process's. The words must be the same.

    python benchmarks/start.py      # 5 minutes, two cores
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import processor, store

PICTURES = Path(__file__).parents[1] / "zoo" / "cross_attn_captioner" / "photos"
RUNTIMES = ("keras", "litert", "onnx")
MANY, ROUNDS = 96, 5


def main() -> None:
    photos = sorted(PICTURES.glob("*.png"))
    with tempfile.TemporaryDirectory() as home:
        os.environ["VTX_KERAS_CACHE"] = f"{home}/kept"
        folder = Path(home) / "photos"
        folder.mkdir()
        for number in range(MANY):
            shutil.copy(photos[number % len(photos)], folder / f"{number}.png")
        for runtime in RUNTIMES:  # makes the files
            run(runtime, photos[0])
        rows = []
        for what, given, rounds in (("one picture", photos[0], ROUNDS), (f"{MANY} pictures", folder, 3)):
            taken: dict[str, list[dict[str, Any]]] = {runtime: [] for runtime in RUNTIMES}
            for _ in range(rounds):
                for runtime, found in taken.items():
                    found.append(run(runtime, given))
            said = {found[0]["said"] for found in taken.values()}
            for runtime, found in taken.items():
                row = {"what": what, "runtime": runtime, "same_words": len(said) == 1}
                for name in ("seconds", "cpu_seconds", "peak_megabytes"):
                    row[name] = round(statistics.median(one[name] for one in found), 2)
                rows.append(row)
    store("start", rows, hardware=f"{processor()}, two cores", command="python benchmarks/start.py")


def run(runtime: str, given: Path) -> dict[str, Any]:
    """Run the command once."""
    command = [str(Path(sys.executable).with_name("vtx")), "predict", "cross_attn_captioner", str(given)]
    start = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([*command, "--runtime", runtime], stdout=out, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        assert status == 0, f"{command}: {status}"
        out.seek(0)
        said = out.read().decode()
    cpu = used.ru_utime + used.ru_stime
    return {"said": said, "seconds": seconds, "cpu_seconds": cpu, "peak_megabytes": used.ru_maxrss / 1e3}


if __name__ == "__main__":
    main()
