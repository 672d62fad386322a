"""Move vectors of pictures into a database of vectors: LanceDB or Qdrant, on this machine.

vtx predict retriever photos --runner here --parquet --out vectors
python -m recipes.elsewhere vectors --to lancedb photos.lance
python -m recipes.elsewhere vectors --to qdrant photos.qdrant --find "two dogs in the snow"

Needs the database's own package (pip install lancedb, or qdrant-client). With --find it searches what is there.
"""

from __future__ import annotations

import argparse
import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

AT_ONCE = 1000
NAME = "pictures"


def groups(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a folder of `vtx predict --runner` in groups; bad pictures have no vector."""
    from vtx_keras import batch

    found = (row for row in batch.rows(folder) if "error" not in row)
    while group := list(itertools.islice(found, AT_ONCE)):
        if not isinstance(group[0]["result"], list) or not isinstance(group[0]["result"][0], float):
            raise SystemExit(f"{folder} holds no vectors: make them with a retriever, without --text")
        yield group


def to_lancedb(folder: Path, place: Path) -> int:
    """Write a table with the columns `picture` and `vector`, instead of what was there."""
    import lancedb

    database, table = lancedb.connect(str(place)), None
    for group in groups(folder):
        rows = [{"picture": row["picture"], "vector": row["result"]} for row in group]
        if table is None:
            table = database.create_table(NAME, rows, mode="overwrite")
        else:
            table.add(rows)
    return table.count_rows() if table else 0


def to_qdrant(folder: Path, place: Path) -> int:
    """Write a collection; a picture keeps its number, so that moving it again replaces it."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(place))
    for group in groups(folder):
        if not client.collection_exists(NAME):
            size = len(group[0]["result"])
            client.create_collection(NAME, models.VectorParams(size=size, distance=models.Distance.COSINE))
        client.upsert(
            NAME,
            [
                models.PointStruct(
                    id=str(uuid.uuid5(uuid.NAMESPACE_URL, row["picture"])),
                    vector=row["result"],
                    payload={"picture": row["picture"]},
                )
                for row in group
            ],
        )
    count = client.count(NAME).count
    client.close()
    return count


def found(place: Path, to: str, vector: list[float], count: int = 5) -> list[str]:
    """Return the pictures whose vectors are nearest."""
    if to == "lancedb":
        import lancedb

        table = lancedb.connect(str(place)).open_table(NAME)
        return [row["picture"] for row in table.search(vector).distance_type("cosine").limit(count).to_list()]
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(place))
    points = client.query_points(NAME, query=vector, limit=count).points
    client.close()
    return [point.payload["picture"] for point in points]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Move vectors of pictures into a database.")
    parser.add_argument("folder", type=Path, help="written by vtx predict --runner")
    parser.add_argument("place", type=Path, help="of the database")
    parser.add_argument("--to", choices=["lancedb", "qdrant"], required=True)
    parser.add_argument("--find", help="words to search for, with the released retriever")
    args = parser.parse_args(arguments)
    count = (to_lancedb if args.to == "lancedb" else to_qdrant)(args.folder, args.place)
    print(f"{count:,} pictures in {args.place}")
    if args.find:
        from vtx_keras import search, zoo

        vector = search.towers(zoo.build("retriever")).texts([args.find])[0].tolist()
        print(*found(args.place, args.to, vector), sep="\n")


if __name__ == "__main__":
    main()
