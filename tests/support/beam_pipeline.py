"""A user's own pipeline: `python beam_pipeline.py MODEL FOLDER OUT` writes what `RunInference` yields, by picture."""

import json
import sys
from pathlib import Path

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from vtx_keras import batch

model, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])


def keep(results: list) -> None:
    out.write_text(json.dumps({str(result.example): result.inference for result in results}))


if __name__ == "__main__":
    paths = [path for path in folder.rglob("*") if path.suffix in (".png", ".jpg")]
    with beam.Pipeline() as pipeline:
        _ = (
            pipeline
            | beam.Create(paths)
            | RunInference(batch.handler(batch.work(model)))
            | beam.combiners.ToList()
            | beam.Map(keep)
        )
