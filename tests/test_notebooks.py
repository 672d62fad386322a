"""The notebooks: small files without outputs whose code is plain Python, and which run from a folder of their own."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vtx_keras

ROOT = Path(vtx_keras.__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 600  # a cell's limit; alone on two cores a whole notebook takes less than a minute


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code_of(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code"]


def test_there_are_the_four_that_the_page_of_guides_names():
    named = set(re.findall(r"\(\.\./notebooks/(\w+)\.ipynb\)", (ROOT / "docs/README.md").read_text(encoding="utf-8")))
    assert {path.stem for path in NOTEBOOKS} == named == {"captioning", "fine_tuning", "export", "your_own_fusion"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_has_no_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", one) for one in ids)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), "clear all outputs before committing"
    assert path.stat().st_size < 20_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_code_of_a_notebook_parses_and_names_what_exists(path):
    tree = ast.parse("\n".join(code_of(path)))  # magics and `!` lines would not: the only one is in a comment
    source = "\n".join("".join(cell["source"]) for cell in cells(path))
    for name in re.findall(r"photos/(\w+\.jpg)", source):
        assert (ROOT / "vtx_keras/sample/photos" / name).is_file()
    for listed in [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "names"
    ]:
        for name in ast.literal_eval(listed.value):
            assert (ROOT / f"vtx_keras/sample/photos/{name}.jpg").is_file()
    for name in re.findall(r"`((?:vtx_keras|recipes|export|tests|docs)/[\w./]*)`", source):
        assert (ROOT / name).exists(), name


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    """In a kernel of Jupyter where nbclient and ipykernel are installed, else cell by cell in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("KERAS_BACKEND", None)
    if all(importlib.util.find_spec(name) for name in ("nbclient", "ipykernel", "nbformat")):
        program = (
            "import sys, nbformat, nbclient\n"
            "notebook = nbformat.read(sys.argv[1], 4)\n"
            "nbformat.validate(notebook)\n"
            f"nbclient.NotebookClient(notebook, timeout={SECONDS}, kernel_name='python3').execute()\n"
            "pictures = [data for cell in notebook.cells for out in cell.get('outputs', [])"
            " for data in out.get('data', {}) if data == 'image/png']\n"
            "assert pictures, 'no cell drew a picture'\n"
        )
        environment.pop("MPLBACKEND")  # that of the kernel draws into the page
        arguments = [str(path)]
    else:
        program = "import json, sys\nscope = {}\nfor cell in json.load(open(sys.argv[1])):\n    exec(cell, scope)\n"
        (tmp_path / "cells.json").write_text(json.dumps(code_of(path)), encoding="utf-8")
        arguments = [str(tmp_path / "cells.json")]
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=2 * SECONDS,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
