"""What an export tells of itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


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
