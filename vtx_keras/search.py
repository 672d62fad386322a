"""Search a folder of pictures by words, by a picture, or by both, with a retriever's embeddings, kept on disk.

index = search.Index("photos.index", search.towers(zoo.build("retriever")))
index.update("holiday")                               # reads what is new or changed, forgets what is gone
index.find("two dogs in the snow")                    # hits, best first
index.find("in the snow", like="dog.jpg")             # like this picture, but …
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtx_keras._files import file_hash, new_folder, progress
from vtx_keras.inputs import media

__all__ = ["Hit", "Index", "Towers", "towers"]
AT_ONCE = 64  # pictures that are read together
SAVED_EVERY = 2048  # new pictures, so that an interrupted update loses little
ROWS_AT_ONCE = 65_536  # of vectors that are compared at once
BLOCK = 256  # pictures that are compared with those
ALIKE = 0.985  # cosine from which two pictures count as the same scene
THE_SAME = 0.9995  # and as the same picture, which is not found again when others like it are asked for
MANY = 100_000  # pictures from which a graph of neighbours (HNSW) finds candidates, where usearch is installed
LOOKS = 512  # places of the graph that a search visits at least (benchmarks/search.py measures what it misses)
VECTORS, ROWS, GRAPH = "vectors.npy", "rows.json", "graph.usearch"
ROW = ("path", "size", "time", "sha256")  # what a row has, besides an error


class Towers(NamedTuple):
    """What embeds pictures and texts as unit vectors (n, dim), and a name that changes with the weights."""

    pictures: Callable[[list], tuple[np.ndarray, dict[int, str]]]  # vectors of the good ones, errors by index
    texts: Callable[[Sequence[str]], np.ndarray]
    name: str


class Hit(NamedTuple):
    """A picture that was found, its cosine similarity, and others that show nearly the same."""

    path: str
    score: float
    alike: tuple[str, ...] = ()


def towers(model: Any) -> Towers:
    """Return the two towers of a retriever, named by the hash of its weights.

    >>> from vtx_keras import zoo
    >>> two = towers(zoo.build("retriever", weights=None, dim=32, image_shape=(32, 32, 3)))
    >>> two.texts(["a cat", "a dog"]).shape
    (2, 32)
    """
    from vtx_keras.checkpoints._folder import digest
    from vtx_keras.models._methods import Retriever

    if not isinstance(model, Retriever):
        raise TypeError(f"expected a retriever, which embeds pictures and texts, not a {type(model).__name__}")

    def pictures(items: list) -> tuple[np.ndarray, dict[int, str]]:
        pixels, _, errors = model.prepare(items)
        if not len(pixels):
            return np.zeros((0, model.options["dim"]), "float32"), errors
        return np.asarray(model.in_batches(model.tower("image"), {"image": pixels}, 32)), errors

    def texts(lines: Sequence[str]) -> np.ndarray:
        return np.asarray(model.in_batches(model.tower("text"), {"tokens": model.tokens_of(list(lines))}, 32))

    return Towers(pictures, texts, digest(model))


class Index:
    """Vectors of the pictures of some folders, in a folder of their own.

    A picture that was moved, renamed or touched is not read again: its content counts. A file that is no picture is
    remembered with the reason. Vectors are mapped from disk. The search is exact up to MANY pictures; beyond, if
    usearch is installed, a graph proposes candidates, whose vectors are compared.

    >>> import tempfile
    >>> from PIL import Image
    >>> from vtx_keras import zoo
    >>> home = Path(tempfile.mkdtemp())
    >>> for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
    ...     Image.new("RGB", (40, 40), colour).save(home / f"{name}.png")
    >>> index = Index(home / "index", towers(zoo.build("retriever", weights=None, dim=32, image_shape=(32, 32, 3))))
    >>> index.update(home)
    {'pictures': 2, 'new': 2, 'gone': 0, 'unreadable': 0}
    >>> Path(index.find(home / "red.png")[0].path).name
    'red.png'
    """

    def __init__(self, folder: str | os.PathLike, of: Towers):
        self.folder, self.of = Path(folder), of
        self._hold([], np.zeros((0, 0), "float32"))
        if (self.folder / ROWS).is_file():
            self._load()
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} holds something that is not an index: choose another place")

    def _hold(self, rows: list[dict[str, Any]], vectors: np.ndarray) -> None:
        self.rows = rows  # path, size, time, hash; and "error", or the next vector
        self.vectors = vectors
        self._paths = [row["path"] for row in rows if "error" not in row]
        self._graph: tuple[Any, np.ndarray, np.ndarray] | None = None  # with its keys, sorted, and their places

    def __len__(self) -> int:
        return len(self.vectors)

    def _load(self) -> None:
        try:
            stored = json.loads((self.folder / ROWS).read_text("utf-8"))
            vectors = np.load(self.folder / VECTORS, mmap_mode="r")
            if sum("error" not in row for row in stored["rows"]) != len(vectors):
                raise ValueError("its rows and vectors differ in number")
            if vectors.ndim != 2 or vectors.dtype != "float32":
                raise ValueError(f"its vectors are {vectors.dtype} of shape {vectors.shape}")
            model, rows = stored["model"], [{**row, **{key: row[key] for key in ROW}} for row in stored["rows"]]
        except Exception as error:  # NumPy raises many for a damaged header
            raise ValueError(f"{self.folder} is a damaged index ({error}): delete it, and index anew") from error
        if model != self.of.name:
            raise ValueError(
                f"{self.folder} was made with another model, whose vectors cannot be compared with this one's: choose "
                "another place, or delete it"
            )
        self._hold(rows, vectors)

    def update(self, *folders: str | os.PathLike) -> dict[str, int]:
        """Read what is new or changed in folders (and folders in them), forget what is gone, and save.

        Pictures of other folders stay in the index. Returns how many pictures it now has, and what changed.
        """
        roots = [Path(folder).resolve() for folder in folders]
        for root in roots:
            if not root.is_dir():
                raise ValueError(f"{root} is no folder: expected one with pictures")
        by_path = {row["path"]: (row, vector) for row, vector in self._pairs()}
        by_hash = {row["sha256"]: (row, vector) for row, vector in by_path.values() if row["sha256"]}
        elsewhere = [pair for path, pair in by_path.items() if not any(_within(path, root) for root in roots)]
        paths = sorted({path for root in roots for path in _pictures_in(root, self.folder.resolve())})
        kept, waiting = list(elsewhere), list[dict[str, Any]]()
        counts = {"pictures": 0, "new": 0, "gone": 0, "unreadable": 0}
        with progress("pictures", len(paths)) as told:
            for number, path in enumerate(paths):
                row = _about(path)
                known = by_path.get(path)
                if known and (known[0]["size"], known[0]["time"]) == (row["size"], row["time"]):
                    kept.append(known)
                elif same := by_hash.get(row.setdefault("sha256", _hash(path))):
                    kept.append((same[0] | row, same[1]))
                else:
                    waiting.append(row)
                if len(waiting) == AT_ONCE or (waiting and number + 1 == len(paths)):
                    kept += self._read(waiting)
                    counts["new"] += len(waiting)
                    waiting = []
                    if counts["new"] // SAVED_EVERY > (counts["new"] - AT_ONCE) // SAVED_EVERY:
                        self._save(kept)
                told(number + 1)
        here = set(paths)
        counts["gone"] = sum(path not in here and any(_within(path, root) for root in roots) for path in by_path)
        self._save(kept, whole=True)
        counts["pictures"], counts["unreadable"] = len(self), len(self.rows) - len(self)
        return counts

    def _pairs(self) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:
        """Yield each row and its vector, None of one that is no picture."""
        vectors = iter(self.vectors)
        for row in self.rows:
            yield row, None if "error" in row else next(vectors)

    def _read(self, rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:
        found, errors = self.of.pictures([Path(row["path"]) for row in rows])
        vectors = iter(found)
        for index, row in enumerate(rows):
            yield (row | {"error": errors[index]}, None) if index in errors else (row, next(vectors).astype("float32"))

    def _save(self, pairs: list[tuple[dict[str, Any], np.ndarray | None]], whole: bool = False) -> None:
        pairs = sorted(pairs, key=lambda pair: pair[0]["path"])
        vectors = [vector for _, vector in pairs if vector is not None]
        array = np.stack(vectors) if vectors else np.zeros((0, 0), "float32")
        rows = [row for row, _ in pairs]
        with new_folder(self.folder) as target:
            np.save(target / VECTORS, array)
            content = json.dumps({"model": self.of.name, "rows": rows}, indent=0, ensure_ascii=False)
            (target / ROWS).write_text(content + "\n", "utf-8")
            if whole and len(array) > MANY and _has_usearch():
                _write_graph(target / GRAPH, self.folder / GRAPH, _keys_of(rows), array)
        self._hold(rows, np.load(self.folder / VECTORS, mmap_mode="r"))

    def find(
        self, query: Any = None, *, like: Any = None, count: int = 10, words: float = 0.5, exact: bool = False
    ) -> list[Hit]:
        """Return the best pictures for a query, best first, those that show nearly the same under the best of them.

        `query` is a text, or a picture: a `Path`, bytes, an array or a PIL image. With `like`, a picture, a text says
        what should be otherwise ("like this, but in the snow"), with a weight `words` beside the picture's. The picture
        itself is not found. `exact` compares all vectors, however many.
        """
        if query is None and like is None:
            raise ValueError("find: expected a text, a picture, or both")
        if not 0 <= words <= 1 or count < 1:
            raise ValueError(f"words={words}, count={count}: expected a share, and at least 1")
        parts = []
        if isinstance(query, str):
            parts.append((self.of.texts([query])[0], words if like is not None else 1.0))
        elif query is not None:
            parts.append((self._seen(query), 1.0 if like is None else words))
        if like is not None:
            parts.append((self._seen(like), 1.0 if query is None else 1 - words))
        if not len(self):
            return []
        itself = None if like is None else parts[-1][0].astype("float32")
        vector = sum(weight * part.astype("float32") for part, weight in parts)
        vector /= max(float(np.linalg.norm(vector)), 1e-9)
        places = None if exact else self._candidates(vector, 8 * count + 32)
        scores = self._products(vector, places)
        if itself is not None:
            scores = np.where(self._products(itself, places) > THE_SAME, -2.0, scores)
        return self._grouped(scores, count, np.arange(len(self)) if places is None else places)

    def duplicates(self, alike: float = ALIKE) -> list[list[str]]:
        """Return groups of pictures that show nearly the same: each is alike, by its cosine, to another of its own."""
        group = np.arange(len(self))
        with progress("pictures compared", len(self)) as told:
            for start in range(0, len(self), BLOCK):
                rows = self.vectors[start : start + BLOCK]
                for at in range(start, len(self), ROWS_AT_ONCE):
                    near = rows @ self.vectors[at : at + ROWS_AT_ONCE].T > alike
                    for one in np.flatnonzero(near.any(axis=1)):
                        groups = np.unique([group[start + one], *group[at + np.flatnonzero(near[one])]])
                        if len(groups) > 1:
                            group[np.isin(group, groups)] = groups[0]
                told(min(len(self), start + BLOCK))
        found: dict[int, list[str]] = {}
        for number, path in zip(group, self._paths, strict=True):
            found.setdefault(int(number), []).append(path)
        return [paths for paths in found.values() if len(paths) > 1]

    def _candidates(self, vector: np.ndarray, count: int) -> np.ndarray | None:
        """Return the places of vectors that the graph finds near one, or None where there is none: compare all."""
        if len(self) <= MANY or not (self.folder / GRAPH).is_file() or not _has_usearch():
            return None
        if self._graph is None:
            from usearch.index import Index as Graph

            keys = _keys_of(self.rows)
            order = np.argsort(keys, kind="stable")
            graph = Graph.restore(str(self.folder / GRAPH), view=True)
            whole = graph is not None and len(graph) == len(np.unique(keys))  # else an update was cut off
            self._graph = graph if whole else None, keys[order], order
        graph, keys, order = self._graph
        if graph is None:
            return None
        setattr(graph, "expansion_search", max(LOOKS, count))  # noqa: B010 (its type says that it is fixed)
        found = graph.search(vector, count).keys
        ranges = zip(np.searchsorted(keys, found, "left"), np.searchsorted(keys, found, "right"), strict=True)
        return order[np.concatenate([np.arange(first, last) for first, last in ranges])]  # copies share a key

    def _products(self, vector: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
        """Return the products of vectors, or of those at places, with one, a part of them in memory at a time."""
        if places is not None:
            return self.vectors[places] @ vector
        starts = range(0, len(self), ROWS_AT_ONCE)
        return np.concatenate([self.vectors[at : at + ROWS_AT_ONCE] @ vector for at in starts])

    def _seen(self, picture: Any) -> np.ndarray:
        picture = Path(picture) if isinstance(picture, str) else picture
        vectors, errors = self.of.pictures([picture])
        if errors:
            raise media.BadPicture(errors[0])
        return vectors[0]

    def _grouped(self, scores: np.ndarray, count: int, places: np.ndarray) -> list[Hit]:
        """Return hits from the scores of vectors at places, each with worse ones that show nearly the same."""
        groups: list[tuple[int, list[int]]] = []
        said: list[float] = []
        most = min(len(scores), 8 * count + 32)
        best = np.argpartition(-scores, most - 1)[:most]
        for index in best[np.argsort(-scores[best], kind="stable")]:
            if scores[index] < -1:  # the picture that was asked with
                break
            place = int(places[index])
            vector = self.vectors[place]
            near = next((g for g in groups if float(self.vectors[g[0]] @ vector) > ALIKE), None)
            if near:
                near[1].append(place)
            elif len(groups) < count:
                groups.append((place, []))
                said.append(round(float(scores[index]), 4))
        return [
            Hit(self._paths[first], score, tuple(self._paths[one] for one in others))
            for (first, others), score in zip(groups, said, strict=True)
        ]


def _about(path: str) -> dict[str, Any]:
    """Return what tells that a file changed; zeros of one that is gone since it was listed."""
    try:
        status = os.stat(path)
    except OSError:
        return {"path": path, "size": 0, "time": 0}
    return {"path": path, "size": status.st_size, "time": status.st_mtime_ns}


def _hash(path: str) -> str:
    """Return a file's hash, "" if it cannot be read; that is said when it is read as a picture."""
    try:
        return file_hash(Path(path))
    except OSError:
        return ""


def _within(path: str, root: Path) -> bool:
    return Path(path).is_relative_to(root)


def _pictures_in(root: Path, but: Path) -> Iterator[str]:
    """Yield the files below a folder that may be pictures, by their names; hidden ones and the index are none."""
    for home, folders, names in os.walk(root):
        folders[:] = sorted(one for one in folders if one[0] != "." and Path(home, one) != but)
        yield from (
            os.path.join(home, name) for name in names if name[0] != "." and name.lower().endswith(media.SUFFIXES)
        )


# --- the graph of neighbours


def _has_usearch() -> bool:
    return importlib.util.find_spec("usearch") is not None


def _keys_of(rows: list[dict[str, Any]]) -> np.ndarray:
    """Return the graph's keys of pictures: numbers from their hashes, which stay when files move."""
    return np.array([int(row["sha256"][:15], 16) for row in rows if "error" not in row], "uint64")


def _write_graph(path: Path, old: Path, keys: np.ndarray, vectors: np.ndarray) -> None:
    """Write the graph of an index: the old one, without what is gone, with what is new."""
    from usearch.index import Index as Graph

    graph = Graph.restore(str(old)) if old.is_file() else None
    if graph is None or graph.ndim != vectors.shape[1]:
        graph = Graph(ndim=vectors.shape[1], metric="ip", dtype="i8", expansion_add=64)
    unique, first = np.unique(keys, return_index=True)
    has = np.array(graph.keys, "uint64")
    for key in np.setdiff1d(has, unique):
        graph.remove(key)
    new = first[~np.isin(unique, has)]
    with progress("neighbours", len(new)) as told:
        for start in range(0, len(new), ROWS_AT_ONCE):
            part = new[start : start + ROWS_AT_ONCE]
            graph.add(keys[part], np.asarray(vectors[part]))
            told(start + len(part))
    graph.save(str(path))
