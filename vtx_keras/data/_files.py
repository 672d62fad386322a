"""Read a user's own images from a CSV or a folder, and check every row before training.

Rows that cannot be used are listed with the reason in `bad_rows.csv` beside the data; too many of them are an error.
Images that occur in more than one split raise a warning.
"""

from __future__ import annotations

import contextlib
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
from vtx_keras.data._source import Examples, adapted, mapped
from vtx_keras.inputs import media, text
from vtx_keras.models.options import did_you_mean

LONGEST_TEXT, LONGEST_CELL = 100_000, 20_000_000  # letters of a text, and of a cell that can be read at all
OUTSIDE = "outside the folder of the data, so it was not read: allow_outside=True (--allow-outside) reads it"
COLUMNS = {  # our name: accepted column names
    "path": ("path", "image", "image_path", "file", "filename", "file_name", "picture", "video"),
    "caption": ("caption", "text", "sentence", "title", "description"),
    "question": ("question",),
    "answer": ("answer",),
    "label": ("label", "class", "category"),
    "split": ("split",),
}
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}  # accepted name: our name


def from_csv(
    file: str | os.PathLike,
    split: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    images: str | os.PathLike | None = None,
    most_bad: float = 0.01,
    allow_outside: bool = False,
) -> Examples:
    """Read examples from a CSV with a header: an image path with a caption, a question and answer, or a text and label.

    Columns are recognised by name (`image` or `path`; `caption` or `text`; `question`, `answer`, `label`, `split`);
    others are ignored. `columns={"image": "photo"}` maps one of these names to another one. Paths are relative to
    `images`, or by default to the CSV's folder, and lead out of neither, not by a link either, unless `allow_outside`.
    With a `split` column, pass the `split` to read. Rows of one image are one example with several "captions". It is an
    error if the share of bad rows exceeds `most_bad`.

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
    not_utf8 = 0
    with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines, _long_cells():
        reader = _reader(lines)
        header = _renamed([_replace_invalid(cell) for cell in _next(reader, file)], columns or {}, file)
        index_of = _columns(header, file)
        rows: list[dict[str, Any]] = []
        while cells := _next(reader, file):
            if any(cell.strip() for cell in cells):
                decoded = [_replace_invalid(cell) for cell in cells]
                read = (cells[index] for index in index_of.values() if index < len(cells))
                if long := [len(cell) for cell in read if len(cell) > LONGEST_TEXT and "\n" in cell]:
                    where = f"{file}, line {reader.line_num}"
                    raise BadData(f"{where}: a cell of {long[0]:,d} letters, of several lines: is a quote left open?")
                not_utf8 += decoded != cells
                row = {name: decoded[index].strip() if index < len(cells) else "" for name, index in index_of.items()}
                if any(cell.strip() for cell in cells[len(header) :]):
                    row["reason"] = f"{len(cells)} cells under {len(header)} names: put a text with commas in quotes"
                if "\n" in row["path"]:
                    row["reason"] = "a path of several lines: is a quote left open?"
                rows.append({"row": reader.line_num, **row})
    _warn_of_not_utf8(not_utf8, f"rows of {file}")
    _warn_of_long_texts(rows, file)
    for row in rows:
        row["path"] = str(Path(images or file.parent) / row["path"]) if row["path"] else ""
    if not allow_outside:
        _refuse_outside(rows, file.parent, images or file.parent)
    return _checked_examples(rows, split, file.with_name("bad_rows.csv"), most_bad)


def from_folder(
    folder: str | os.PathLike,
    split: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    most_bad: float = 0.01,
    allow_outside: bool = False,
) -> Examples:
    """Read examples from a folder: images beside a .txt of the same name, or images in folders named by label.

    Top-level folders named train, validation, val or test are splits: pass the `split` to read. With labels, `text` is
    empty; a classifier built with `allow_empty=True` reads the image alone. A folder that contains `captions.csv` is
    read as that table, and `columns` applies to it. Links that lead out of the folder are followed if `allow_outside`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadData(f"there is no folder {str(folder)!r}")
    if (folder / "captions.csv").is_file():
        if not allow_outside and _is_outside(folder / "captions.csv", (folder,)):
            raise BadData(f"{folder / 'captions.csv'} is {OUTSIDE}")
        return from_csv(folder / "captions.csv", split, columns=columns, most_bad=most_bad, allow_outside=allow_outside)
    if columns:
        raise BadData(f"columns {dict(columns)}: {folder} is a folder of pictures, which has no columns")
    rows, not_utf8 = [], 0
    paths = [
        Path(root, name)
        for root, folders, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in media.SUFFIXES
        and not any(part.startswith(".") for part in Path(root, name).relative_to(folder).parts)
    ]
    for number, path in enumerate(sorted(paths), start=1):
        parts = path.relative_to(folder).parts[:-1]
        row: dict[str, Any] = {"row": number, "path": str(path)}
        if parts and parts[0].lower() in SPLITS:
            row["split"], parts = SPLITS[parts[0].lower()], parts[1:]
        text_file = path.with_suffix(".txt")
        if outside := not allow_outside and any(_is_outside(one, (folder,)) for one in (path, text_file)):
            row["reason"] = OUTSIDE
        if text_file.is_file():
            content = "" if outside else text_file.read_bytes().decode("utf-8-sig", "surrogateescape")
            row["caption"] = _replace_invalid(content).strip()
            not_utf8 += _replace_invalid(content) != content
        elif parts:
            row["text"], row["label"] = "", parts[0]
        else:
            row["caption"] = ""
        rows.append(row)
    _warn_of_not_utf8(not_utf8, f"texts in {folder}")
    kinds = Counter("caption" if "caption" in row else "label" for row in rows)
    if len(kinds) > 1:
        raise BadData(
            f"{folder} mixes {kinds['caption']} pictures with captions (or none) and {kinds['label']} in folders "
            "named by label: keep one of the two, or write a CSV and use from_csv"
        )
    return _checked_examples(rows, split, folder / "bad_rows.csv", most_bad)


def _is_outside(path: str | os.PathLike, folders: Iterable[str | os.PathLike]) -> bool:
    """Return whether a path, with all its links followed, lies in none of these folders."""
    real = Path(os.path.realpath(path))
    return not any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)


def _refuse_outside(rows: Iterable[dict], *folders: str | os.PathLike) -> None:
    """Mark rows whose picture lies in none of these folders: who wrote a table need not see all that its reader may."""
    roots = {os.path.realpath(folder) for folder in folders}
    for row in rows:
        if row["path"] and "reason" not in row and _is_outside(row["path"], roots):
            row["reason"] = OUTSIDE


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Let `csv` read cells of up to LONGEST_CELL letters, a limit of the whole process that is put back afterwards."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _replace_invalid(raw: str) -> str:
    """Replace each byte that is not UTF-8 (read with "surrogateescape") by U+FFFD."""
    return raw.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _next(reader: Any, file: Path) -> list[str]:
    """Return the next row that has cells, or [] at the end."""
    try:
        return next((cells for cells in reader if cells), [])
    except csv.Error as error:
        raise BadData(f"{file}, line {reader.line_num}: {error}: is a quote left open?") from error


def _warn_of_long_texts(rows: Sequence[dict], file: Path) -> None:
    """Warn of texts with several lines: they may be intended, or a quote was not closed."""
    long = [(row["row"], key) for row in rows for key in ("caption", "text", "question") if "\n" in row.get(key, "")]
    if long:
        row, key = long[0]
        warnings.warn(
            f"{len(long):,d} texts of {file} have several lines, such as the {key} that ends in line {row}: if that is "
            "not meant, a quote is left open",
            stacklevel=3,
        )


def _warn_of_not_utf8(count: int, what: str) -> None:
    if count:
        warnings.warn(
            f"{count:,d} {what} are not UTF-8: letters are lost there. Save as UTF-8, and read again",
            stacklevel=3,
        )


def _reader(lines: TextIO) -> Any:
    """Return a reader of rows, with the delimiter that the header uses most: a comma, tab or semicolon.

    >>> import io
    >>> list(_reader(io.StringIO("image\\ttext\\na.png\\tone, two\\n")))
    [['image', 'text'], ['a.png', 'one, two']]
    """
    header = lines.readline()
    lines.seek(0)
    return csv.reader(lines, delimiter=max(",\t;", key=header.count))


def header_of(lines: TextIO, file: Path, columns: str | None) -> list[str]:
    """Return the header of a table, renamed by `columns` ("image=photo,caption=title")."""
    return _renamed(_next(_reader(lines), file), pairs(columns), file)


def pairs(columns: str | None) -> dict[str, str]:
    """Parse "image=photo,caption=title" into a dict."""
    pairs = [pair.split("=") for pair in (columns or "").split(",") if pair]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise BadData(f"--columns {columns}: expected ours=theirs with commas, such as image=photo,caption=title")
    return {name.strip(): column.strip() for name, column in pairs}


def _renamed(header: list[str], columns: Mapping[str, str], file: Path) -> list[str]:
    """Return the header with our names for the mapped columns; other accepted names of those are masked."""
    header = [cell.strip() for cell in header]
    key_of = {name: next((key for key, names in COLUMNS.items() if name in (key, *names)), None) for name in columns}
    for name, column in columns.items():
        if key_of[name] is None:
            raise BadData(f"columns: {name!r} is no column of ours{did_you_mean(name, COLUMNS)}: {', '.join(COLUMNS)}")
        if column not in header:
            raise BadData(f"{file}: columns says that {name!r} is {column!r}, but the header is {', '.join(header)}")
    name_of = {column: name for name, column in columns.items()}
    masked = {cell for key in key_of.values() if key for cell in COLUMNS[key]}
    return [name_of.get(cell, f"(not {cell})" if cell.lower() in masked else cell) for cell in header]


def overlap(first: Examples | tf.data.Dataset, second: Examples | tf.data.Dataset) -> list[tuple[str, str]]:
    """Return pairs of ids (or row numbers) of examples whose images are equal in both sets, pixel for pixel.

    >>> ones = tf.data.Dataset.from_tensors({"image": np.ones((2, 2, 3), "uint8"), "caption": "ones"})
    >>> overlap(ones, ones)
    [('0', '0')]
    """
    names_of = defaultdict(list)
    for name, digest in _digests(first):
        names_of[digest].append(name)
    return [(other, name) for name, digest in _digests(second) for other in names_of[digest]]


def _digests(ds: Examples | tf.data.Dataset) -> Iterator[tuple[str, bytes]]:
    for number, example in enumerate(ds):
        name = next((example[key].numpy().decode() for key in ("id", "path") if key in example), str(number))
        yield name, _digest(example["image"].numpy())


def _digest(pixels: np.ndarray) -> bytes:
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()


def _columns(header: Sequence[str], file: Path) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    index_of = {
        key: next(names.index(name) for name in accepted if name in names)
        for key, accepted in COLUMNS.items()
        if set(accepted) & set(names)
    }
    if "path" not in index_of or not {"caption", "question"} & set(index_of):
        all_accepted = [name for accepted in COLUMNS.values() for name in accepted]
        hints = "".join(did_you_mean(name, all_accepted) for name in names if name not in all_accepted)
        raise BadData(
            f"{file} has the columns {header}{hints}: expected a picture's path ({', '.join(COLUMNS['path'])}) and a "
            f"text ({', '.join(COLUMNS['caption'])}) or a question, in a header line"
        )
    if "label" in index_of and "caption" in index_of:
        index_of["text"] = index_of.pop("caption")
    return index_of


def _checked_examples(rows: list[dict], split: str | None, listing: Path, most_bad: float) -> Examples:
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
    _write_bad_rows(bad, listing)
    _warn_of_overlap(rows, verdicts)
    if len(bad) > most_bad * len(rows) or len(bad) == len(rows):
        common = "; ".join(f"row {row['row']}: {row['reason']}" for row in bad[:5])
        raise BadData(
            f"{len(bad)} of {len(rows)} rows cannot be used, more than {most_bad:.0%}: {common}. All are in {listing}. "
            "Fix them, or allow more with most_bad="
        )
    good = [{**row, "digest": digest} for row, (reason, digest) in zip(rows, verdicts, strict=True) if not reason]
    if split is not None:
        good = [row for row in good if row.get("split") == split]
    if not good:
        raise BadData(f"no row is left of {len(rows)} ({len(bad)} bad, listed in {listing})")
    if bad:
        warnings.warn(f"{len(bad)} of {len(rows)} rows are left out, see {listing}", stacklevel=3)
    keys = [key for key in ("path", "caption", "question", "answer", "text", "label") if key in good[0]]
    if keys == ["path", "caption"]:
        good = _by_picture(good)
        keys = ["path", "captions"] if any(len(row["captions"]) > 1 for row in good) else keys
    columns = {key: tf.ragged.constant([row[key] for row in good]) for key in keys}
    slices = tf.data.Dataset.from_tensor_slices(columns)
    return adapted(mapped(slices, lambda row: {key: tf.convert_to_tensor(value) for key, value in row.items()}))


def _by_picture(rows: Sequence[dict]) -> list[dict]:
    """Join rows of the same pixels: their captions, each once, are references of one example."""
    joined: dict[bytes, dict] = {}
    for row in rows:
        first = joined.setdefault(row["digest"], {**row, "captions": []})
        first["captions"] += [row["caption"]] * (row["caption"] not in first["captions"])
    return list(joined.values())


def _verdicts(rows: Sequence[dict]) -> list[tuple[str, bytes]]:
    """Return for each row why it is bad (or "") and its image's digest; each image is decoded once."""
    paths = list(dict.fromkeys(row["path"] for row in rows if "reason" not in row))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        verdict_of = dict(zip(paths, _with_progress(pool.map(_image_verdict, paths), len(paths)), strict=True))
    given = [(row["reason"], b"") if "reason" in row else verdict_of[row["path"]] for row in rows]
    return [(reason or _text_verdict(row), digest) for row, (reason, digest) in zip(rows, given, strict=True)]


def _image_verdict(path: str) -> tuple[str, bytes]:
    if not path or path != path.encode("utf-8", "replace").decode():
        return "a name that is not UTF-8: rename the file" if path else "no path", b""
    try:
        return "", _digest(media.read(path))
    except (media.BadPicture, OSError) as error:
        return str(error), b""


def _text_verdict(row: dict) -> str:
    for key in ("caption", "question"):
        if len(row.get(key, "")) > LONGEST_TEXT:
            return f"a {key} of {len(row[key]):,d} letters: expected at most {LONGEST_TEXT:,d}"
        if key in row and not text.normalize(row[key]):
            return f"an empty {key}"
    return next((f"an empty {key}" for key in ("answer", "label") if key in row and not row[key]), "")


def _with_progress(results: Iterable, total: int) -> Iterator:
    """Pass results on, showing a progress bar in a terminal."""
    with progress("reading pictures", total) as update:
        for done, result in enumerate(results, start=1):
            update(done)
            yield result


def _write_bad_rows(bad: list[dict], listing: Path) -> None:
    if not bad:
        return
    try:
        with whole(listing) as part, part.open("w", newline="", encoding="utf-8", errors="replace") as file:
            writer = csv.writer(file)
            writer.writerow(["row", "path", "reason"])
            writer.writerows([row["row"], row["path"], row["reason"]] for row in bad)
    except OSError as error:
        warnings.warn(f"{listing} could not be written ({error.strerror}): {bad[0]['reason']} ...", stacklevel=4)


def _warn_of_overlap(rows: Sequence[dict], verdicts: Sequence[tuple[str, bytes]]) -> None:
    paths_by_split: defaultdict[bytes, dict[str, str]] = defaultdict(dict)
    for row, (reason, digest) in zip(rows, verdicts, strict=True):
        if not reason and "split" in row:
            paths_by_split[digest].setdefault(row["split"], row["path"])
    shared = [paths for paths in paths_by_split.values() if len(paths) > 1]
    if shared:
        pair = " and ".join(f"{path} ({split})" for split, path in list(shared[0].items())[:2])
        warnings.warn(
            f"{len(shared)} pictures occur in more than one split, so scores will be inflated: {pair}", stacklevel=5
        )
