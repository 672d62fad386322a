"""Your own pictures: a CSV or a folder, every row read once before it is believed.

A row that cannot be used is listed with its reason in `bad_rows.csv` beside the data; if they are many, that is an
error. Pictures that occur in two splits are told.
"""

from __future__ import annotations

import csv
import hashlib
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import tensorflow as tf

from vtx_keras._files import progress, whole
from vtx_keras.data._plan import BadData
from vtx_keras.data._source import Examples, adapted
from vtx_keras.inputs import media, text
from vtx_keras.models.options import did_you_mean

COLUMNS = {  # ours, and what people call it
    "path": ("path", "image", "image_path", "file", "filename", "file_name", "picture", "video"),
    "caption": ("caption", "text", "sentence", "title", "description"),
    "question": ("question",),
    "answer": ("answer",),
    "label": ("label", "class", "category"),
    "split": ("split",),
}
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}  # as people name them


def from_csv(
    file: str | os.PathLike,
    split: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    images: str | os.PathLike | None = None,
    most_bad: float = 0.01,
) -> Examples:
    """Examples from a CSV with a header: a picture's path, and a caption, or question and answer, or text and label.

    Columns are known by name (`image` or `path`; `caption` or `text`; `question`, `answer`, `label`, `split`), the rest
    is left alone; `columns={"image": "photo"}` says that another name means one of these. Paths are relative to
    `images`, else to the CSV. With a `split` column, name the split you want. A picture's rows may be many. More than
    the share `most_bad` of bad rows is an error.

    >>> from PIL import Image
    >>> folder = getfixture("tmp_path") if "getfixture" in globals() else Path(__import__("tempfile").mkdtemp())
    >>> Image.new("RGB", (8, 8), "red").save(folder / "red.png")
    >>> _ = (folder / "captions.csv").write_text("image,text\\nred.png,a red square\\n")
    >>> [example["caption"].numpy() for example in from_csv(folder / "captions.csv")]
    [b'a red square']
    """
    file = Path(file)
    if not file.is_file():
        raise BadData(f"there is no file {str(file)!r}")
    foreign = 0
    with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
        reader = _reader(lines)
        header = _renamed([_mended(cell) for cell in _next(reader, file)], columns or {}, file)
        places = _columns(header, file)
        rows: list[dict[str, Any]] = []
        while cells := _next(reader, file):
            if any(cell.strip() for cell in cells):
                mended = [_mended(cell) for cell in cells]
                foreign += mended != cells
                row = {ours: mended[at].strip() if at < len(cells) else "" for ours, at in places.items()}
                if any(cell.strip() for cell in cells[len(header) :]):
                    row["reason"] = f"{len(cells)} cells under {len(header)} names: put a text with commas in quotes"
                if "\n" in row["path"]:
                    row["reason"] = "a path of several lines: is a quote left open?"
                rows.append({"row": reader.line_num, **row})
    _tell_foreign(foreign, f"rows of {file}")
    _tell_long(rows, file)
    for row in rows:
        row["path"] = str(Path(images or file.parent) / row["path"]) if row["path"] else ""
    return _examples(rows, split, file.with_name("bad_rows.csv"), most_bad)


def from_folder(
    folder: str | os.PathLike,
    split: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    most_bad: float = 0.01,
) -> Examples:
    """Examples from a folder: pictures each beside a .txt of the same name, or pictures in folders named by label.

    Folders named train, validation, val or test at the top are splits: name the one you want. With labels, `text` is
    empty; a classifier built with `allow_empty=True` reads the picture alone. A folder with a `captions.csv` is read as
    that table, of which `columns` may tell.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadData(f"there is no folder {str(folder)!r}")
    if (folder / "captions.csv").is_file():
        return from_csv(folder / "captions.csv", split, columns=columns, most_bad=most_bad)
    if columns:
        raise BadData(f"columns {dict(columns)}: {folder} is a folder of pictures, which has no columns")
    rows, foreign = [], 0
    paths = [
        Path(inner, name)
        for inner, folders, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in media.SUFFIXES
        and not any(part.startswith(".") for part in Path(inner, name).relative_to(folder).parts)
    ]
    for number, path in enumerate(sorted(paths), start=1):
        inner = path.relative_to(folder).parts[:-1]
        row: dict[str, Any] = {"row": number, "path": str(path)}
        if inner and inner[0].lower() in SPLITS:
            row["split"], inner = SPLITS[inner[0].lower()], inner[1:]
        words = path.with_suffix(".txt")
        if words.is_file():
            said = words.read_bytes().decode("utf-8-sig", "surrogateescape")
            row["caption"] = _mended(said).strip()
            foreign += _mended(said) != said
        elif inner:
            row["text"], row["label"] = "", inner[0]
        else:
            row["caption"] = ""
        rows.append(row)
    _tell_foreign(foreign, f"texts in {folder}")
    kinds = Counter("caption" if "caption" in row else "label" for row in rows)
    if len(kinds) > 1:
        raise BadData(
            f"{folder} mixes {kinds['caption']} pictures with captions (or none) and {kinds['label']} in folders "
            "named by label: keep one of the two, or write a CSV and use from_csv"
        )
    return _examples(rows, split, folder / "bad_rows.csv", most_bad)


def _mended(said: str) -> str:
    """A text with a mark for each byte that is not UTF-8, which "surrogateescape" read."""
    return said.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _next(reader: Any, file: Path) -> list[str]:
    """The next row that has cells; none at the end."""
    try:
        return next((cells for cells in reader if cells), [])
    except csv.Error as error:
        raise BadData(f"{file}, line {reader.line_num}: {error}: is a quote left open?") from error


def _tell_long(rows: Sequence[dict], file: Path) -> None:
    """Texts of several lines may be meant, or a quote is open and has swallowed what follows."""
    long = [(row["row"], key) for row in rows for key in ("caption", "text", "question") if "\n" in row.get(key, "")]
    if long:
        row, key = long[0]
        warnings.warn(
            f"{len(long):,d} texts of {file} have several lines, such as the {key} that ends in line {row}: if that is "
            "not meant, a quote is left open",
            stacklevel=3,
        )


def _tell_foreign(count: int, what: str) -> None:
    if count:
        warnings.warn(
            f"{count:,d} {what} are not UTF-8: letters are lost there. Save as UTF-8, and read again",
            stacklevel=3,
        )


def _reader(lines: TextIO) -> Any:
    """Rows of cells, parted as the header is: by commas, tabs or semicolons.

    >>> import io
    >>> list(_reader(io.StringIO("image\\ttext\\na.png\\tone, two\\n")))
    [['image', 'text'], ['a.png', 'one, two']]
    """
    header = lines.readline()
    lines.seek(0)
    return csv.reader(lines, delimiter=max(",\t;", key=header.count))


def header_of(lines: TextIO, file: Path, columns: str | None) -> list[str]:
    """The header of a table, with our names in place of those that `columns` tells of."""
    return _renamed(_next(_reader(lines), file), pairs(columns), file)


def pairs(columns: str | None) -> dict[str, str]:
    """ "image=photo,caption=title" as a dict."""
    pairs = [pair.split("=") for pair in (columns or "").split(",") if pair]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise BadData(f"--columns {columns}: expected ours=theirs with commas, such as image=photo,caption=title")
    return {ours.strip(): theirs.strip() for ours, theirs in pairs}


def _renamed(header: list[str], columns: Mapping[str, str], file: Path) -> list[str]:
    """The header with our names in place of theirs; what else would have meant the same means nothing then."""
    header = [name.strip() for name in header]
    meant = {ours: next((key for key, names in COLUMNS.items() if ours in (key, *names)), None) for ours in columns}
    for ours, theirs in columns.items():
        if meant[ours] is None:
            raise BadData(f"columns: {ours!r} is no column of ours{did_you_mean(ours, COLUMNS)}: {', '.join(COLUMNS)}")
        if theirs not in header:
            raise BadData(f"{file}: columns says that {ours!r} is {theirs!r}, but the header is {', '.join(header)}")
    ours_of = {theirs: ours for ours, theirs in columns.items()}
    taken = {name for key in meant.values() if key for name in COLUMNS[key]}
    return [ours_of.get(name, f"(not {name})" if name.lower() in taken else name) for name in header]


def overlap(first: Examples | tf.data.Dataset, second: Examples | tf.data.Dataset) -> list[tuple[str, str]]:
    """Pairs of names (or row numbers) of examples whose pictures are the same in both sets, pixel for pixel.

    >>> ones = tf.data.Dataset.from_tensors({"image": np.ones((2, 2, 3), "uint8"), "caption": "ones"})
    >>> overlap(ones, ones)
    [('0', '0')]
    """
    seen = defaultdict(list)
    for name, digest in _digests(first):
        seen[digest].append(name)
    return [(other, name) for name, digest in _digests(second) for other in seen[digest]]


def _digests(ds: Examples | tf.data.Dataset) -> Iterator[tuple[str, bytes]]:
    for number, example in enumerate(ds):
        name = next((example[key].numpy().decode() for key in ("id", "path") if key in example), str(number))
        yield name, _digest(example["image"].numpy())


def _digest(pixels: np.ndarray) -> bytes:
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()


def _columns(header: Sequence[str], file: Path) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    places = {
        ours: next(names.index(name) for name in theirs if name in names)
        for ours, theirs in COLUMNS.items()
        if set(theirs) & set(names)
    }
    if "path" not in places or not {"caption", "question"} & set(places):
        known = [name for theirs in COLUMNS.values() for name in theirs]
        hints = "".join(did_you_mean(name, known) for name in names if name not in known)
        raise BadData(
            f"{file} has the columns {header}{hints}: expected a picture's path ({', '.join(COLUMNS['path'])}) and a "
            f"text ({', '.join(COLUMNS['caption'])}) or a question, in a header line"
        )
    if "label" in places and "caption" in places:
        places["text"] = places.pop("caption")
    return places


def _examples(rows: list[dict], split: str | None, listing: Path, most_bad: float) -> Examples:
    if not rows:
        raise BadData(f"{listing.parent} has no picture, or its table no row")
    for row in rows:
        if "split" in row:
            row["split"] = SPLITS.get(row["split"].lower(), row["split"])
    split = None if split is None else SPLITS.get(split, split)
    splits = Counter(row.get("split", "") for row in rows)
    if split is not None and split not in splits:
        raise BadData(f"there is no split {split!r}{did_you_mean(split, splits)}: {dict(splits)}")
    if split is not None and splits[""]:
        warnings.warn(f"{splits['']} of {len(rows)} rows belong to no split: they are left out", stacklevel=3)
    verdicts = _verdicts(rows)
    bad = [{**row, "reason": reason} for row, (reason, _) in zip(rows, verdicts, strict=True) if reason]
    _list(bad, listing)
    _tell_overlap(rows, verdicts)
    if len(bad) > most_bad * len(rows) or len(bad) == len(rows):
        common = "; ".join(f"row {row['row']}: {row['reason']}" for row in bad[:5])
        raise BadData(
            f"{len(bad)} of {len(rows)} rows cannot be used, more than {most_bad:.0%}: {common}. All are in {listing}. "
            "Mend them, or allow more with most_bad="
        )
    good = [row for row, (reason, _) in zip(rows, verdicts, strict=True) if not reason]
    if split is not None:
        good = [row for row in good if row.get("split") == split]
    if not good:
        raise BadData(f"no row is left of {len(rows)} ({len(bad)} bad, listed in {listing})")
    if bad:
        warnings.warn(f"{len(bad)} of {len(rows)} rows are left out, see {listing}", stacklevel=3)
    keys = [key for key in ("path", "caption", "question", "answer", "text", "label") if key in good[0]]
    columns = {key: tf.constant([row[key] for row in good]) for key in keys}
    return adapted(tf.data.Dataset.from_tensor_slices(columns))


def _verdicts(rows: Sequence[dict]) -> list[tuple[str, bytes]]:
    """For each row why it is bad (or ""), and its picture's digest; each picture is decoded once."""
    paths = list(dict.fromkeys(row["path"] for row in rows))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(paths, _shown(pool.map(_picture_verdict, paths), len(paths)), strict=True))
    return [(row.get("reason") or found[row["path"]][0] or _text_verdict(row), found[row["path"]][1]) for row in rows]


def _picture_verdict(path: str) -> tuple[str, bytes]:
    if not path:
        return "no path", b""
    try:
        return "", _digest(media.read(path))
    except (media.BadPicture, OSError) as error:
        return str(error), b""


def _text_verdict(row: dict) -> str:
    for key in ("caption", "question"):
        if key in row and not text.normalize(row[key]):
            return f"an empty {key}"
    return next((f"an empty {key}" for key in ("answer", "label") if key in row and not row[key]), "")


def _shown(results: Iterable, total: int) -> Iterator:
    """The same results, with a line of progress where a person waits longer than two seconds."""
    with progress("reading pictures", total) as tell:
        for done, result in enumerate(results, start=1):
            tell(done)
            yield result


def _list(bad: list[dict], listing: Path) -> None:
    if not bad:
        return
    try:
        with whole(listing) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["row", "path", "reason"])
            writer.writerows([row["row"], row["path"], row["reason"]] for row in bad)
    except OSError as error:
        warnings.warn(f"{listing} could not be written ({error.strerror}): {bad[0]['reason']} ...", stacklevel=4)


def _tell_overlap(rows: Sequence[dict], verdicts: Sequence[tuple[str, bytes]]) -> None:
    where: defaultdict[bytes, dict[str, str]] = defaultdict(dict)
    for row, (reason, digest) in zip(rows, verdicts, strict=True):
        if not reason and "split" in row:
            where[digest].setdefault(row["split"], row["path"])
    shared = [places for places in where.values() if len(places) > 1]
    if shared:
        pair = " and ".join(f"{path} ({split})" for split, path in list(shared[0].items())[:2])
        warnings.warn(
            f"{len(shared)} pictures occur in more than one split, so scores will be inflated: {pair}", stacklevel=5
        )
