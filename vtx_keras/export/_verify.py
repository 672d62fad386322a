"""Run each exported file in its own runtime, in a fresh process, on real images, before it gets its name.

`write_verified` writes an artifact to a temporary folder, runs it there, compares its results with the model's, and
moves it to its path only if they agree. A `Report` with the figures is stored beside it.
"""

from __future__ import annotations

import csv
import json
import operator
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

from vtx_keras._files import exchange
from vtx_keras.evaluate._captions import word_f1
from vtx_keras.export import _drawings
from vtx_keras.inputs import text
from vtx_keras.models._base import VisionText
from vtx_keras.models._drawing import Generator
from vtx_keras.models._methods import Answerer, Captioner, Matcher, Retriever
from vtx_keras.models.decode import run_in_batches


class NotEqual(ValueError):
    """An artifact gives other results than its model; `report` has the figures."""

    def __init__(self, report: Report):
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        report = self.report
        advice = 'try quantize="float16", or None' if report.quantize else "please report it with this table"
        return (
            f"{report.path} gives other results than the model, so it was kept as {Path(report.path).name}.failed: "
            f"{advice}; or accept fewer identical results with share=, which is {report.share:g}.\n{report}"
        )


@dataclass(frozen=True)
class Report:
    """How an artifact compares with its model, and what it costs; `print` shows a table.

    `identical` counts the results (captions, answers, decisions, nearest texts) that are the same, or drawings that
    differ by at most 2 levels. `difference` is the greatest absolute difference of the outputs named by
    `difference_of`. `ok` says whether the limits were met.
    """

    path: str
    model: str
    format: str  # savedmodel, litert, onnx
    form: str  # one, split, towers
    quantize: str | None
    n: int
    identical: int
    share: float  # required to be identical
    difference: float
    difference_of: str
    metric: str | None
    metric_model: float | None
    metric_artifact: float | None
    megabytes: float
    weights_megabytes: float  # of the model, in float32
    load_s: float
    ms_p50: float  # per image
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
        """Return all fields as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


RUNNER = Path(__file__).with_name("_runner.py")
SHARE = {True: 1.0, False: 0.95}  # of results that must be identical, by whether the file is exact (float32)
METRIC_LOSS = 0.01  # relative loss of the metric that a quantized file may have where fewer results are identical


class Examples(NamedTuple):
    """The examples that an artifact is verified on. `truth` is None where they have none that fits the model."""

    sources: list[Any]  # images as they were given: paths, encoded bytes or arrays
    images: np.ndarray  # uint8, at the model's size
    texts: list[str] | None
    tokens: np.ndarray | None
    truth: list[Any] | None
    noise: np.ndarray | None = None  # of a generator, which takes no images

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what graphs take."""
        found = {"image": self.images if self.noise is None else None, "tokens": self.tokens, "noise": self.noise}
        return {name: array for name, array in found.items() if array is not None}


def load_examples(
    model: VisionText, verify_data: Iterable[Mapping[str, Any]] | None = None, limit: int = 300
) -> Examples:
    """Return at most `limit` examples for `model`, from `verify_data` or the bundled sample.

    `verify_data` is what `data.load` and `data.from_csv` return, or dicts: {"image" or "path", "caption", ...}.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, depth=1, image_shape=(32, 32, 3))
    >>> examples = load_examples(model, limit=3)
    >>> examples.images.shape, examples.images.dtype, len(examples.texts)
    ((3, 32, 32, 3), dtype('uint8'), 3)
    """
    rows = rows_of(model, verify_data, limit)
    if not rows:
        raise ValueError("verify_data is empty: expected examples such as those of data.load")
    if isinstance(model, Generator):
        words, tokens = _drawings.sentences(model, None if verify_data is None else rows)
        noise = np.array(_drawings.noise_of_seeds(np.arange(len(words)), model.options["noise"]))
        return Examples([], np.zeros(0, "uint8"), words, tokens, None, noise)
    if not {"image", "path"} & set(rows[0]):
        raise ValueError(f'verify_data has {sorted(rows[0])}: expected "image" (or "path") and a text')
    sources = [row["path"] if "path" in row else row["image"] for row in rows]
    pixels, _, errors = model.prepare(sources)
    if errors:
        raise ValueError(f"verify_data: picture {next(iter(errors))} cannot be read: {next(iter(errors.values()))}")
    images = np.rint(pixels).astype("uint8")
    if isinstance(model, Captioner):
        captions: list[Any] = [row.get("captions", row.get("caption", row.get("text"))) for row in rows]
        missing = any(references is None for references in captions)
        truth = None if missing else [np.atleast_1d(references).tolist() for references in captions]
        return Examples(sources, images, None, None, truth)
    texts = [next((row[key] for key in ("question", "text", "caption", "captions") if key in row), "") for row in rows]
    texts = [str(np.atleast_1d(words)[0]) for words in texts]
    truth = None
    if isinstance(model, Matcher):  # every other image gets its neighbour's text
        candidates = [texts[(i + 1) % len(texts)] if i % 2 else texts[i] for i in range(len(texts))]
        texts, truth = candidates, [candidate == own for candidate, own in zip(candidates, texts, strict=True)]
    elif isinstance(model, Answerer) and not model.options["multi_label"]:
        answers = [str(row.get("answer", row.get("label", ""))) for row in rows]
        truth = answers if set(answers) <= set(model.class_names) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about truncated texts: both sides truncate them alike
        tokens = model.tokens_of(texts, allow_empty=True)
    if isinstance(model, Retriever):  # texts of the same ids count as one: rounding would decide which is nearest
        ids = [row.tobytes() for row in tokens]
        truth = texts = [texts[ids.index(row)] for row in ids]
    return Examples(sources, images, texts, tokens, truth)


def rows_of(model: VisionText, verify_data: Iterable[Mapping[str, Any]] | None, limit: int) -> list[dict]:
    """Return examples as dicts of Python strings, paths, bytes and arrays; of the sample, evenly spaced ones."""
    if verify_data is None:
        from vtx_keras import data
        from vtx_keras.data._load import SAMPLE

        name = "questions" if isinstance(model, Answerer) else "captions"
        with open(SAMPLE / f"{name}.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        rows = [rows[i * len(rows) // limit] for i in range(limit)] if len(rows) > limit else rows
        return [{**row, "path": str(data.sample(row["image"]))} for row in rows]
    verify_data = getattr(verify_data, "encoded", verify_data)
    verify_data = verify_data.as_numpy_iterator() if hasattr(verify_data, "as_numpy_iterator") else verify_data
    return [{key: _plain(value, key) for key, value in row.items()} for row in islice(verify_data, limit)]


def _plain(value: Any, key: str) -> Any:
    if key == "image":
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (np.ndarray, list, tuple)):
        return [_plain(item, key) for item in value]
    return value


def expected(model: VisionText, examples: Examples, **settings: Any) -> dict[str, np.ndarray]:
    """Return the model's own outputs for the examples, under the names that artifacts use.

    A captioner gives `ids` and `score`, a retriever `image_embedding` and `text_embedding`, a generator `image`, the
    others `logits`. `settings` are those of the exporters: beams, max_length, prompt.
    """
    if isinstance(model, Generator):
        return {"image": model.painted(examples.arrays(), 16, None)}
    images = examples.images.astype("float32")
    if isinstance(model, Captioner):
        import tensorflow as tf

        from vtx_keras.export._graphs import decoding_options

        options = decoding_options(model, **settings)
        generate = model.cached(  # traced once for all formats
            ("export", *sorted(settings.items())),
            lambda: tf.function(lambda image: model.generate_ids(image, **options), autograph=False),
        )
        ids, score = run_in_batches(lambda batch: generate(tf.constant(batch)), images, 16)
        return {"ids": ids, "score": score}
    assert examples.tokens is not None  # only a captioner's examples have none
    if isinstance(model, Retriever):
        return {
            "image_embedding": model.in_batches(model.tower("image"), {"image": images}, 16),
            "text_embedding": model.in_batches(model.tower("text"), {"tokens": examples.tokens}, 16),
        }
    outputs = model.in_batches(model, {"image": images, "tokens": examples.tokens}, 16)
    return {"logits": outputs["logits"] if isinstance(outputs, dict) else outputs}


def results_of(model: VisionText, outputs: Mapping[str, np.ndarray], texts: Sequence[str] | None = None) -> list[Any]:
    """Return the result that a user sees for each row: a caption, answer, decision, drawing, or the nearest text."""
    if isinstance(model, Generator):
        return list(outputs["image"])
    if isinstance(model, Captioner):
        captions = outputs.get("caption")
        return text.decode(outputs["ids"], model.vocabulary) if captions is None else [str(one) for one in captions]
    if isinstance(model, Retriever):
        assert texts is not None
        nearest = np.argmax(outputs["image_embedding"] @ outputs["text_embedding"].T, axis=1)
        return [texts[i] for i in nearest]
    if "answer" in outputs:
        return [str(answer) for answer in outputs["answer"]]
    if isinstance(model, Matcher):
        return [bool(row[0] > 0) for row in outputs["logits"]]
    if model.options["multi_label"]:
        return [", ".join(model.class_names[i] for i in np.flatnonzero(row > 0)) for row in outputs["logits"]]
    return [model.class_names[i] for i in outputs["logits"].argmax(axis=-1)]


def metric(model: VisionText, results: Sequence[Any], truth: Sequence[Any] | None) -> tuple[str | None, float | None]:
    """Return the task's metric by name and value: word F1 of captions, accuracy, recall@1; or None without truth."""
    if truth is None:
        return None, None
    if isinstance(model, Captioner):
        scores = [word_f1(result, references) for result, references in zip(results, truth, strict=True)]
        return "word F1", float(np.mean(scores))
    name = "recall@1" if isinstance(model, Retriever) else "accuracy"
    return name, float(np.mean([result == wanted for result, wanted in zip(results, truth, strict=True)]))


def run(format: str, artifact: Path, inputs: Mapping[str, Any], *options: str) -> dict[str, np.ndarray]:
    """Run an artifact in a fresh process by `_runner.py`, and return its outputs and costs by name.

    The runner reads the inputs from one .npz and writes the outputs to another, with `load_s`, `ms` (per example) and
    `peak_megabytes`. Encoded images and texts (lists of bytes or str) are passed as `name.bytes` and `name.ends`.
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
        inputs_file, outputs_file = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(inputs_file, **packed)
        files = [str(artifact), str(inputs_file), str(outputs_file)]
        # Without this process's module path: an artifact must run where there is no vtx_keras.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        process = subprocess.run(
            [sys.executable, "-P", str(RUNNER), format, *files, *options],
            capture_output=True,
            text=True,
            env=environment,
        )
        if process.returncode or not outputs_file.is_file():
            end = "\n".join(process.stderr.strip().splitlines()[-12:])
            raise RuntimeError(
                f"{artifact.name} does not run (in {format}, which ended with {process.returncode}):\n{end}"
            )
        with np.load(outputs_file) as outputs:
            return {name: outputs[name] for name in outputs.files}


def compare(
    model: VisionText,
    examples: Examples,
    wanted: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    *,
    path: Path,
    share: float | None = None,
    quantize: str | None = None,
    **fields: Any,
) -> Report:
    """Report how an artifact's `outputs` compare with `wanted`, the model's. `fields` are its other fields."""
    share = SHARE[quantize is None] if share is None else share
    of_model, of_artifact = (results_of(model, each, examples.texts) for each in (wanted, outputs))
    same = _drawings.alike if isinstance(model, Generator) else operator.eq
    identical = sum(same(one, other) for one, other in zip(of_model, of_artifact, strict=True))
    numbers = [name for name in wanted if name in outputs and wanted[name].dtype.kind in "fu"]
    pairs = [(wanted[name], outputs[name].reshape(wanted[name].shape)) for name in numbers]
    difference = max((float(np.max(np.abs(np.subtract(*pair, dtype="float32")))) for pair in pairs), default=0.0)
    name, metric_model = metric(model, of_model, examples.truth)
    _, metric_artifact = metric(model, of_artifact, examples.truth)
    enough = identical >= share * len(of_model)
    if quantize and not enough and metric_model and metric_artifact is not None:
        enough = metric_artifact >= (1 - METRIC_LOSS) * metric_model
    limits = f"{quantize} rounds the weights, so {share:.0%} identical, or a metric within {METRIC_LOSS:.0%}, is enough"
    notes: tuple[str, ...] = (limits,) if quantize else ()
    if isinstance(model, Generator):
        near, notes = _drawings.judged(of_model, of_artifact, quantize, share)
        enough |= near
    fields["notes"] = (*fields.get("notes", ()), *notes)
    return Report(
        path=str(path),
        model=model.spec["name"],
        quantize=quantize,
        n=len(of_model),
        identical=identical,
        share=share,
        difference=difference,
        difference_of=" and ".join(name.replace("_", " ") for name in numbers) or "nothing",
        metric=name,
        metric_model=metric_model,
        metric_artifact=metric_artifact,
        weights_megabytes=sum(4 * int(np.prod(one.shape)) for one in _drawings.part_of(model).weights) / 1e6,
        load_s=float(outputs["load_s"]),
        ms_p50=float(np.percentile(outputs["ms"], 50)),
        ms_p95=float(np.percentile(outputs["ms"], 95)),
        peak_megabytes=float(outputs["peak_megabytes"]),
        ok=bool(enough and np.isfinite(difference)),
        **fields,
    )


def write_verified(path: str | os.PathLike, write: Callable[[Path], None], compare: Callable[[Path], Report]) -> Report:
    """Write an artifact, run and compare it, and give it its name only if the report is `ok`.

    `write(target)` writes it (a file, several of one stem, or a folder) at `target`, in an empty folder that may hold
    companion files too; `compare(target)` runs it and returns the report, with `path` as its path. The report is
    stored as `<path>.report.json`. If it is not `ok`, the artifact is kept as `<path>.failed` and `NotEqual` is raised.
    """
    path = Path(path)
    check_destination(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        target = Path(folder) / "new" / path.name
        target.parent.mkdir()
        write(target)
        report = compare(target)
        for file in sorted(target.parent.iterdir()):
            artifact = file.name.startswith(path.stem) and file.suffix == path.suffix
            if report.ok or artifact:
                name = path.parent / (file.name if report.ok else f"{file.name}.failed")
                if name.is_dir():  # `os.replace` cannot replace a folder with content
                    exchange(file, name)
                else:
                    os.replace(file, name)
        report_file = target.parent / "report.json"
        report_file.write_text(report.to_json() + "\n", encoding="utf-8")
        os.replace(report_file, path.with_name(f"{path.name}{'' if report.ok else '.failed'}.report.json"))
    if not report.ok:
        raise NotEqual(report)
    return report


def check_destination(path: Path) -> None:
    """Refuse a path where writing would replace something other than an earlier export."""
    if not path.name:
        raise ValueError(f"{str(path)!r} names no file: expected, for example, out/model.tflite")
    if path.is_dir() and any(path.iterdir()) and not (path / "saved_model.pb").is_file():
        raise FileExistsError(f"{path} is a folder that holds other things: choose a new name")
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(f"{path.parent} is a file, so nothing can be written in it: choose another place")


def size_of(path: Path) -> float:
    """Return the megabytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6
