"""What `search.Index` takes to find ten of many: exact search over random unit vectors of width 256, mapped from disk.

python benchmarks/search.py      # 2 minutes, 1 GB of disk
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from common import processor, store

WIDTH, QUERIES = 256, 9


def main() -> None:
    from vtx_keras import search

    rows = []
    for count in (10_000, 100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home) / "index"
            folder.mkdir()
            draws = np.random.default_rng(0)
            vectors = np.lib.format.open_memmap(folder / search.VECTORS, "w+", "float32", (count, WIDTH))
            for start in range(0, count, 50_000):
                part = draws.standard_normal((min(50_000, count - start), WIDTH), "float32")
                vectors[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
            vectors.flush()
            about = [{"path": f"/{number}.jpg", "size": 0, "time": 0, "sha256": str(number)} for number in range(count)]
            (folder / search.ROWS).write_text(json.dumps({"model": "random", "rows": about}))

            def texts(lines, draws=draws):
                vector = draws.standard_normal((len(lines), WIDTH), "float32")
                return vector / np.linalg.norm(vector, axis=1, keepdims=True)

            start = time.monotonic()
            index = search.Index(folder, search.Towers(lambda items: (np.zeros((0, WIDTH)), {}), texts, "random"))
            opened, times = time.monotonic() - start, []
            for _ in range(QUERIES):
                start = time.monotonic()
                assert len(index.find("words")) == 10
                times.append(1000 * (time.monotonic() - start))
            size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
            rows.append({"pictures": count, "open_s": round(opened, 2), "find_ms": round(statistics.median(times), 1),
                         "megabytes": round(size, 1)})  # fmt: skip
    store("search", rows, hardware=f"{processor()}, two cores", command="python benchmarks/search.py")


if __name__ == "__main__":
    main()
