"""An exported file is believed once it has run: in its own runtime, in a fresh process, on real pictures.

`settle` has an artifact written in a temporary place, runs it there, compares what it says with what the model says,
and gives it its name only if they agree. The `Report` tells the figures and is kept beside the artifact.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtx_keras.evaluate._captions import word_f1
from vtx_keras.inputs import text
from vtx_keras.models._base import VisionText, in_pieces
from vtx_keras.models._captioner import Captioner
from vtx_keras.models._readers import Answerer, Matcher, Retriever


class NotEqual(ValueError):
    """An artifact that does not say what its model says; `report` has the figures."""

    def __init__(self, report: Report):
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        about = self.report
        cure = 'try quantize="float16", or None' if about.quantize else "please report it with this table"
        return (
            f"{about.path} does not say what the model says, so it was kept as {Path(about.path).name}.failed: {cure}; "
            f"or accept fewer identical results with share=, which is {about.share:g}.\n{about}"
        )


@dataclass(frozen=True)
class Report:
    """How an artifact compares with its model, and what it costs; `print` shows a table.

    `identical` counts the results (captions, answers, decisions, nearest texts) that are the same. `difference` is the
    greatest between numbers, which are named by `difference_of`. `ok` says whether the limits were kept.
    """

    path: str
    model: str
    format: str  # savedmodel, litert, onnx
    form: str  # one, split, towers
    quantize: str | None
    n: int
    identical: int
    share: float  # that had to be identical
    difference: float
    difference_of: str
    metric: str | None
    metric_model: float | None
    metric_artifact: float | None
    megabytes: float
    weights_megabytes: float  # of the model's own, in float32
    load_s: float
    ms_p50: float  # per picture
    ms_p95: float
    peak_megabytes: float  # of the whole process
    ok: bool
    settings: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    next_command: str = ""

    def __str__(self) -> str:
        rows = [
            ("file", self.path),
            ("model", f"{self.model} to {self.format}, form {self.form}, {self.quantize or 'float32'}"),
            ("identical", f"{self.identical}/{self.n} (at least {self.share:.0%} wanted)"),
            (f"max |Δ {self.difference_of}|", f"{self.difference:.2g}"),
            ("size", f"{self.megabytes:.2f} MB ({self.megabytes / self.weights_megabytes:.2f} × the float32 weights)"),
            ("load", f"{self.load_s:.2f} s"),
            ("per picture", f"{self.ms_p50:.1f} ms (p95 {self.ms_p95:.1f}), one thread"),
            ("peak memory", f"{self.peak_megabytes:.0f} MB"),
            *(("note", note) for note in self.notes),
            ("verdict", ("equal" if self.identical == self.n else "near enough") if self.ok else "NOT EQUAL"),
        ]
        if self.metric:
            rows.insert(4, (self.metric, f"{self.metric_artifact:.4f} (model {self.metric_model:.4f})"))
        rows += [("next", self.next_command)] * bool(self.next_command)
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}s}  {value}" for name, value in rows)

    def to_json(self) -> str:
        """All fields, as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


RUNNER = Path(__file__).with_name("_runner.py")
SHARE = {True: 1.0, False: 0.95}  # of results that must be identical, by whether the file is exact (float32)
METRIC_LOSS = 0.01  # of the metric's value, which a smaller file may lose where fewer are identical


class Examples(NamedTuple):
    """What an artifact is tried on. `truth` is None where the examples have none that fits the model."""

    sources: list[Any]  # pictures as they came: paths, encoded bytes or arrays
    images: np.ndarray  # uint8, at the model's size
    texts: list[str] | None
    tokens: np.ndarray | None
    truth: list[Any] | None


def examples(model: VisionText, verify_data: Iterable[Mapping[str, Any]] | None = None, limit: int = 300) -> Examples:
    """At most `limit` examples for `model`: of `verify_data` ({"image" or "path", "caption", ...}), or the sample.

    Examples are what `data.load` and `data.from_csv` give, or a list of dicts.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, depth=1, image_shape=(32, 32, 3))
    >>> found = examples(model, limit=3)
    >>> found.images.shape, found.images.dtype, len(found.texts)
    ((3, 32, 32, 3), dtype('uint8'), 3)
    """
    rows = rows_of(model, verify_data, limit)
    if not rows:
        raise ValueError("verify_data is empty: expected examples such as those of data.load")
    if not {"image", "path"} & set(rows[0]):
        raise ValueError(f'verify_data has {sorted(rows[0])}: expected "image" (or "path") and a text')
    sources = [row["path"] if "path" in row else row["image"] for row in rows]
    pixels, _, errors = model.prepare(sources)
    if errors:
        raise ValueError(f"verify_data: picture {next(iter(errors))} cannot be read: {next(iter(errors.values()))}")
    images = np.rint(pixels).astype("uint8")
    if isinstance(model, Captioner):
        captions: list[Any] = [row.get("captions", row.get("caption", row.get("text"))) for row in rows]
        truth = None if any(said is None for said in captions) else [np.atleast_1d(said).tolist() for said in captions]
        return Examples(sources, images, None, None, truth)
    texts = [next((row[key] for key in ("question", "text", "caption", "captions") if key in row), "") for row in rows]
    texts = [str(np.atleast_1d(one)[0]) for one in texts]
    truth = None
    if isinstance(model, Matcher):  # every other picture with a text of its neighbour
        shown = [texts[(i + 1) % len(texts)] if i % 2 else texts[i] for i in range(len(texts))]
        texts, truth = shown, [said == own for said, own in zip(shown, texts, strict=True)]
    elif isinstance(model, Answerer) and not model.options["multi_label"]:
        answers = [str(row.get("answer", row.get("label", ""))) for row in rows]
        truth = answers if set(answers) <= set(model.class_names) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that texts are cut: they are cut alike on both sides
        tokens = model.tokens_of(texts, allow_empty=True)
    if isinstance(model, Retriever):  # texts of the same ids are one text: which is nearest is for rounding to say
        ids = [row.tobytes() for row in tokens]
        truth = texts = [texts[ids.index(one)] for one in ids]
    return Examples(sources, images, texts, tokens, truth)


def rows_of(model: VisionText, verify_data: Iterable[Mapping[str, Any]] | None, limit: int) -> list[dict]:
    """Examples as dicts of Python strings, paths, bytes and arrays; of the sample, evenly chosen ones."""
    if verify_data is None:
        from vtx_keras import data
        from vtx_keras.data._load import SAMPLE

        name = "questions" if isinstance(model, Answerer) else "captions"
        with open(SAMPLE / f"{name}.csv", encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
        found = [found[i * len(found) // limit] for i in range(limit)] if len(found) > limit else found
        return [{**row, "path": str(data.sample(row["image"]))} for row in found]
    verify_data = getattr(verify_data, "encoded", verify_data)
    verify_data = verify_data.as_numpy_iterator() if hasattr(verify_data, "as_numpy_iterator") else verify_data
    return [{key: _plain(value, key) for key, value in row.items()} for row in islice(verify_data, limit)]


def _plain(value: Any, key: str) -> Any:
    if key == "image":
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (np.ndarray, list, tuple)):
        return [_plain(one, key) for one in value]
    return value


def expected(model: VisionText, found: Examples, **settings: Any) -> dict[str, np.ndarray]:
    """What the model itself makes of the examples, with the names that artifacts use.

    A captioner gives `ids` and `score`, a retriever `image_embedding` and `text_embedding`, the others `logits`.
    `settings` are those of the exporters: beams, max_length, prompt.
    """
    pictures = found.images.astype("float32")
    if isinstance(model, Captioner):
        import tensorflow as tf

        from vtx_keras.export._graphs import decoding

        how = decoding(model, **settings)
        generate = model.kept(  # traced once for all formats
            ("export", *sorted(settings.items())),
            lambda: tf.function(lambda image: model.generate_ids(image, **how), autograph=False),
        )
        ids, score = in_pieces(lambda images: generate(tf.constant(images)), pictures, 16)
        return {"ids": ids, "score": score}
    assert found.tokens is not None  # all but a captioner read texts
    if isinstance(model, Retriever):
        return {
            "image_embedding": model.in_batches(model.tower("image"), {"image": pictures}, 16),
            "text_embedding": model.in_batches(model.tower("text"), {"tokens": found.tokens}, 16),
        }
    outputs = model.in_batches(model, {"image": pictures, "tokens": found.tokens}, 16)
    return {"logits": outputs["logits"] if isinstance(outputs, dict) else outputs}


def said(model: VisionText, outputs: Mapping[str, np.ndarray], texts: Sequence[str] | None = None) -> list[Any]:
    """The results a user would see, row by row: captions, answers, decisions, or the nearest of `texts`."""
    if isinstance(model, Captioner):
        captions = outputs.get("caption")
        return text.decode(outputs["ids"], model.vocabulary) if captions is None else [str(one) for one in captions]
    if isinstance(model, Retriever):
        assert texts is not None
        nearest = np.argmax(outputs["image_embedding"] @ outputs["text_embedding"].T, axis=1)
        return [texts[i] for i in nearest]
    if "answer" in outputs:
        return [str(one) for one in outputs["answer"]]
    if isinstance(model, Matcher):
        return [bool(row[0] > 0) for row in outputs["logits"]]
    if model.options["multi_label"]:
        return [", ".join(model.class_names[i] for i in np.flatnonzero(row > 0)) for row in outputs["logits"]]
    return [model.class_names[i] for i in outputs["logits"].argmax(axis=-1)]


def metric(model: VisionText, results: Sequence[Any], truth: Sequence[Any] | None) -> tuple[str | None, float | None]:
    """The task's metric, by name and value: word F1 of captions, accuracy, recall@1; or None without truth."""
    if truth is None:
        return None, None
    if isinstance(model, Captioner):
        return "word F1", float(np.mean([word_f1(result, many) for result, many in zip(results, truth, strict=True)]))
    name = "recall@1" if isinstance(model, Retriever) else "accuracy"
    return name, float(np.mean([result == one for result, one in zip(results, truth, strict=True)]))


def run(format: str, artifact: Path, inputs: Mapping[str, Any], *options: str) -> dict[str, np.ndarray]:
    """Run an artifact in a fresh process by `_runner.py`: what came out, by name, and what it cost.

    A runner reads the inputs from one .npz and writes outputs to another, with `load_s`, `ms` (per example) and
    `peak_megabytes`. Encoded pictures and texts (lists of bytes or str) travel as `name.bytes` and `name.ends`.
    """
    packed: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, (list, tuple)):
            parts = [part.encode() if isinstance(part, str) else bytes(part) for part in value]
            packed[f"{name}.bytes"] = np.frombuffer(b"".join(parts), "uint8")
            packed[f"{name}.ends"] = np.cumsum([len(part) for part in parts])
        else:
            packed[name] = value
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(given, **packed)
        command = [sys.executable, "-P", str(RUNNER), format, str(artifact), str(given), str(made), *options]
        # Not this process's module path: an artifact must run where there is no vtx_keras.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode or not made.is_file():
            end = "\n".join(done.stderr.strip().splitlines()[-12:])
            raise RuntimeError(
                f"{artifact.name} does not run (in {format}, which ended with {done.returncode}):\n{end}"
            )
        with np.load(made) as stored:
            return {name: stored[name] for name in stored.files}


def compare(
    model: VisionText,
    tried: Examples,
    wanted: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    *,
    path: Path,
    share: float | None = None,
    quantize: str | None = None,
    **about: Any,
) -> Report:
    """The report on `found`, the outputs of an artifact, where the model itself gave `wanted`."""
    share = SHARE[quantize is None] if share is None else share
    ours, theirs = said(model, wanted, tried.texts), said(model, found, tried.texts)
    identical = sum(one == other for one, other in zip(ours, theirs, strict=True))
    numbers = [name for name in wanted if name in found and wanted[name].dtype.kind == "f"]
    differences = [float(np.max(np.abs(wanted[name] - found[name].reshape(wanted[name].shape)))) for name in numbers]
    difference = max(differences) if differences else 0.0
    name, of_model = metric(model, ours, tried.truth)
    _, of_artifact = metric(model, theirs, tried.truth)
    enough = identical >= share * len(ours)
    if quantize and not enough and of_model and of_artifact is not None:
        enough = of_artifact >= (1 - METRIC_LOSS) * of_model
    if quantize:
        held = (
            f"{quantize} rounds the weights, so {share:.0%} identical, or a metric within {METRIC_LOSS:.0%}, is enough"
        )
        about["notes"] = (*about.get("notes", ()), held)
    return Report(
        path=str(path),
        model=model.spec["name"],
        quantize=quantize,
        n=len(ours),
        identical=identical,
        share=share,
        difference=difference,
        difference_of=" and ".join(name.replace("_", " ") for name in numbers) or "nothing",
        metric=name,
        metric_model=of_model,
        metric_artifact=of_artifact,
        weights_megabytes=sum(4 * int(np.prod(weight.shape)) for weight in model.weights) / 1e6,
        load_s=float(found["load_s"]),
        ms_p50=float(np.percentile(found["ms"], 50)),
        ms_p95=float(np.percentile(found["ms"], 95)),
        peak_megabytes=float(found["peak_megabytes"]),
        ok=bool(enough and np.isfinite(difference)),
        **about,
    )


def settle(path: str | os.PathLike, write: Callable[[Path], None], judge: Callable[[Path], Report]) -> Report:
    """Write, judge, and only then give the name.

    `write(target)` makes the artifact (a file, several of one stem, or a folder) at `target`, in an empty folder where
    it may put companions too; `judge(target)` runs it and reports, with `path` as its path. The report is stored as
    `<path>.report.json`. Where it is not `ok`, the artifact is kept as `<path>.failed` and `NotEqual` is raised.
    """
    path = Path(path)
    check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        target = Path(folder) / "new" / path.name
        target.parent.mkdir()
        write(target)
        report = judge(target)
        for made in sorted(target.parent.iterdir()):
            artifact = made.name.startswith(path.stem) and made.suffix == path.suffix
            if report.ok or artifact:
                _rename(made, path.parent / (made.name if report.ok else f"{made.name}.failed"), Path(folder) / "old")
        told = target.parent / "report.json"
        told.write_text(report.to_json() + "\n", encoding="utf-8")
        os.replace(told, path.with_name(f"{path.name}{'' if report.ok else '.failed'}.report.json"))
    if not report.ok:
        raise NotEqual(report)
    return report


def check_place(path: Path) -> None:
    """Refuse a path whose replacement would lose something else than an earlier export."""
    if not path.name:
        raise ValueError(f"{str(path)!r} names no file: expected, for example, out/model.tflite")
    if path.is_dir() and any(path.iterdir()) and not (path / "saved_model.pb").is_file():
        raise FileExistsError(f"{path} is a folder that holds other things: choose a new name")
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(f"{path.parent} is a file, so nothing can be written in it: choose another place")


def _rename(made: Path, final: Path, aside: Path) -> None:
    if final.is_dir():  # a folder cannot take the place of a full one
        final.rename(aside)
    os.replace(made, final)


def size_of(path: Path) -> float:
    """Megabytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6
