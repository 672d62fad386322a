"""What `search.Index` takes to find ten of many, exactly and by the graph, and what the graph misses.

python benchmarks/search.py      # 15 minutes, 2 GB of disk

Vectors of pictures lie near few directions: here 32 random ones in a space of 256, with noise (a product of two random
vectors is 0 +- 0.17, as of two photographs by the released retriever).
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from common import processor, store

WIDTH, DIRECTIONS, NOISE, QUERIES = 256, 32, 1.5, 50


def vectors_of(count: int, draws: np.random.Generator, basis: np.ndarray) -> np.ndarray:
    rows = draws.standard_normal((count, DIRECTIONS), "float32") @ basis
    rows += NOISE * draws.standard_normal((count, WIDTH), "float32")
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def timed(find, queries: list[str]) -> tuple[float, list[set[str]]]:
    """Return the median milliseconds of a search, and the ten paths that each finds."""
    times, found = [], []
    for query in queries:
        start = time.monotonic()
        hits = find(query)
        times.append(1000 * (time.monotonic() - start))
        found.append({path for hit in hits for path in (hit.path, *hit.alike)})
    return round(statistics.median(times), 1), found


def main() -> None:
    from vtx_keras import search

    rows = []
    for count in (10_000, 100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home) / "index"
            folder.mkdir()
            draws = np.random.default_rng(0)
            basis = draws.standard_normal((DIRECTIONS, WIDTH), "float32")
            vectors = np.lib.format.open_memmap(folder / search.VECTORS, "w+", "float32", (count, WIDTH))
            for start in range(0, count, 50_000):
                part = vectors_of(min(50_000, count - start), draws, basis)
                vectors[start : start + len(part)] = part
            vectors.flush()
            about = [
                {"path": f"/{number}.jpg", "size": 0, "time": 0, "sha256": f"{number:015x}"} for number in range(count)
            ]
            (folder / search.ROWS).write_text(json.dumps({"model": "random", "rows": about}))
            asked = vectors_of(QUERIES, draws, basis)

            def texts(lines, asked=asked):
                return asked[[int(line) for line in lines]]

            row = {"pictures": count}
            if count > search.MANY:
                start = time.monotonic()
                search._write_graph(folder / search.GRAPH, folder / search.GRAPH, search._keys_of(about), vectors)
                row |= {"build_s": round(time.monotonic() - start, 1),
                        "graph_megabytes": round((folder / search.GRAPH).stat().st_size / 1e6, 1)}  # fmt: skip
            start = time.monotonic()
            index = search.Index(folder, search.Towers(lambda items: (np.zeros((0, WIDTH)), {}), texts, "random"))
            row["open_s"] = round(time.monotonic() - start, 2)
            queries = [str(number) for number in range(QUERIES)]
            row["exact_ms"], best = timed(lambda query, index=index: index.find(query, exact=True), queries)
            if count > search.MANY:
                start = time.monotonic()
                index.find("0")
                row["first_ms"] = round(1000 * (time.monotonic() - start), 1)
                row["find_ms"], found = timed(lambda query, index=index: index.find(query), queries)
                row["recall_10"] = round(
                    sum(len(a & b) / len(a) for a, b in zip(best, found, strict=True)) / QUERIES, 3
                )
            row["megabytes"] = round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 1)
            rows.append(row)
    store("search", rows, hardware=f"{processor()}, {os.cpu_count()} cores", command="python benchmarks/search.py")


if __name__ == "__main__":
    main()
