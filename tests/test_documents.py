"""The documents: their Python runs, their links lead somewhere, their figures are the stored ones."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path

import keras
import pytest

import vtx_keras

ROOT = Path(vtx_keras.__file__).parents[1]
ON_JAX = os.environ.get("KERAS_BACKEND") == "jax"
NEEDS = {"docs/logging.md": ("wandb", "mlflow")}  # packages that are in no extra which the tests ask for


PAGES = [
    path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))) if "```python" in path.read_text("utf-8")
]


@pytest.mark.parametrize("page", [str(path.relative_to(ROOT)) for path in PAGES])
def test_the_python_blocks_of_the_documents_run(page, tmp_path, monkeypatch, request):
    if ON_JAX and page != "docs/accelerators.md":
        pytest.skip("once is enough, and exports are made by TensorFlow")
    from vtx_keras.models import fusion, options

    for package in NEEDS.get(page, ()):
        pytest.importorskip(package, reason=f"{package} is not installed, so {page} was not run")
        warnings.simplefilter("ignore", DeprecationWarning)  # its own
    if page != "README.md":  # where a released model is tried on the whole sample
        request.getfixturevalue("few_tried")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo").symlink_to(ROOT / "zoo")
    for name, known in (("film", fusion.FUSIONS), ("film_captioner", options.MODELS)):  # what a page adds
        monkeypatch.setitem(known, name, None)
    scope: dict = {}
    keras.utils.set_random_seed(0)  # new models are exported, whatever ran before
    for block in blocks:
        exec(block, scope)


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs"])
def test_links_of_the_documents_lead_somewhere(page):
    path = ROOT / page
    for file in sorted(path.glob("*.md")) if path.is_dir() else [path]:
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text(encoding="utf-8")):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_readme_tells_the_stored_figures():
    from tools import readme

    assert readme.filled(page("README.md")) == page("README.md"), "python tools/readme.py writes them"


def test_the_page_on_checkpoints_tells_the_catalogue_and_the_stored_figures():
    from tools import readme

    told = page("docs/checkpoints.md")
    assert readme.filled(told, readme.CHECKPOINTS) == told, "python tools/readme.py writes them"


def test_the_page_on_language_models_tells_the_stored_figures():
    from tools import readme

    told = page("docs/language.md")
    assert readme.filled(told, readme.LANGUAGE) == told, "python tools/readme.py writes them"


@pytest.mark.parametrize("name", ["drawing", "systems", "compress", "search", "speed", "web", "serve", "batch"])
def test_guides_tell_the_stored_figures(name):
    from tools import readme

    told = page(f"docs/{name}.md")
    assert readme.filled(told, getattr(readme, name.upper())) == told, "python tools/readme.py writes them"


@pytest.mark.parametrize("name", ["decode", "train_step"])
def test_the_page_on_speed_tells_the_stored_figures(name):
    for row in json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["rows"]:
        ours, peer = row["vtx_keras"]["median_ms"], row["peer"]["median_ms"]
        assert f"| {ours:.0f} ms | {peer:.0f} ms | {peer / ours:.1f} × |" in page("docs/speed.md")


def test_the_page_on_speed_tells_the_stored_first_steps():
    for row in json.loads((ROOT / "benchmarks/results/first_step.json").read_text())["rows"]:
        layers, ours, keras_own = (row[side]["first_ms"] / 1000 for side in ("keras_layers", "vtx_keras", "keras"))
        told = f"| {layers:.1f} s | {ours:.1f} s | {keras_own:.1f} s | {row['first_ratio']:.1f} × |"
        assert f"{told} {row['step_ratio']:.2f} × |" in page("docs/speed.md")


def test_the_page_on_speed_tells_how_fast_input_is():
    for row in json.loads((ROOT / "benchmarks/results/input.json").read_text())["rows"]:
        assert f"| {row['ratio']:.1f} × |" in page("docs/speed.md"), row


def test_the_page_on_encoders_tells_their_figures():
    told = page("docs/encoders.md")
    for path in sorted((ROOT / "zoo" / "encoders").glob("*/results.json")):
        row = json.loads(path.read_text())
        assert f"| `{path.parent.name}` | {row['parameters'] / 1e6:.1f} M | {row['megabytes_float16']:.1f} MB |" in told
        assert f"| {row['ms']:.1f} |" in told


def test_the_page_on_data_tells_the_stored_baselines():
    told = page("docs/data.md")
    for row in json.loads((ROOT / "benchmarks/results/baselines.json").read_text())["rows"]:
        figures = [row[key] for key in ("exact_concept", "recall@1", "exact") if key in row]
        if not any(
            part in row["what"]
            for part in ("test: copy", "without", "rad/official test, all", "rad/disjoint test, all")
        ):
            assert any("{:.3f} [{:.3f}, {:.3f}]".format(*figure) in told for figure in figures), row


def test_the_page_on_exports_tells_the_memory_that_was_measured():
    told = " ".join(page("docs/export.md").split())
    peaks = {
        row["format"]: row["peak_gb"]
        for row in json.loads((ROOT / "benchmarks/results/memory.json").read_text())["rows"]
    }
    for name, called in (
        ("litert", "for LiteRT"),
        ("litert int8", "for its int8, 5"),
        ("onnx", "for ONNX"),
        ("onnx int8", "for its int8 and"),
        ("saved_model", "for a SavedModel"),
    ):
        assert f"{peaks[name]:.1f} GB {called}" in told


def test_the_page_on_your_pictures_tells_what_few_pictures_change():
    told = page("docs/your-pictures.md")
    for name, called in (("flowers", "flowers"), ("fashion", "products"), ("flickr8k", "people and dogs")):
        for row in json.loads((ROOT / f"benchmarks/results/few_{name}.json").read_text())["rows"]:
            before, after, nearest, consensus = (
                f"{row[one]:.2f}" for one in ("untouched", "fine_tuned", "nearest_neighbour", "consensus")
            )
            assert f"| {called} | {row['pictures']} | {before} | **{after}** | {nearest} | {consensus} |" in told
