"""`vtx export` and `vtx bench`: files and their figures, and mistakes in a line."""

from __future__ import annotations

import json

import keras
import pytest
from toys import decisive, vtx, vtx_process

from vtx_keras import data, zoo
from vtx_keras.cli import _export as bench

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")


@pytest.fixture(scope="module")
def captioner():
    return decisive("cross_attn_captioner")


def test_files_are_measured_side_by_side(captioner):
    (report,) = bench.side_by_side(captioner, ["litert"], ["float32"], pictures=3, rounds=2)
    assert (report.format, report.identical, report.n) == ("litert", 3, 3)
    assert 0 < report.ms_p50 <= report.ms_p95
    header, line = bench.table([report], least=0.5 * report.ms_p50).splitlines()
    assert "faster" in header
    assert (header.endswith("of limit"), line.endswith(" 50%")) == (True, True)
    assert line.startswith("litert float32")


def test_a_picture_takes_no_less_than_the_machine_allows(captioner):
    words, more = (bench.limit_of(captioner, 3, max_length=length) for length in (1, 8))
    assert 0 < words < more
    assert bench.limit_of(zoo.build("retriever", weights=None, dim=32, image_shape=(32, 32, 3)), 3) is None


@pytest.mark.slow
def test_vtx_bench_measures_keras_and_files_in_processes_of_their_own(captioner, tmp_path):
    zoo.save(captioner, tmp_path / "mine.keras")
    few = ("--pictures", 3, "--rounds", 2, "--json")
    done = vtx_process("bench", tmp_path / "mine.keras", "--to", "keras,litert", "--quant", "float32", *few)
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout)
    assert (ours["format"], theirs["format"]) == ("keras", "litert")
    for report in (ours, theirs):
        assert (report["identical"], report["n"]) == (3, 3)
        assert 0 < report["ms_p50"] <= report["ms_p95"]
        assert min(report["load_s"], report["megabytes"]) > 0
    assert ours["peak_megabytes"] > theirs["peak_megabytes"], "one process measured for both"
    done = vtx_process("bench", tmp_path / "mine.keras", "--to", "tflite")
    assert (done.returncode, "expected some of keras, savedmodel, litert, onnx" in done.stderr) == (2, True)


def test_vtx_export_writes_tries_and_tells(captioner, tmp_path):
    zoo.save(captioner, tmp_path / "mine.keras")
    (tmp_path / "tried.csv").write_text(f"photo,title\n{data.sample('photos/cat.jpg')},w1 w2\n")
    tried = ("--verify-data", tmp_path / "tried.csv", "--columns", "image=photo,caption=title", "--allow-outside")
    common = ("--out", tmp_path / "out", *tried)
    done = vtx_process("export", tmp_path / "mine.keras", "--to", "onnx", *common)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1/1") == 1
    assert "next" in done.stdout
    assert (tmp_path / "out/onnx/model.onnx").is_file()
    done = vtx("export", tmp_path / "mine.keras", "--to", "tflite", *common)
    assert (done.exit_code, "expected some of savedmodel, litert, onnx" in done.stderr) == (2, True)


def test_vtx_export_looks_for_data_in_the_folder_that_is_named(captioner, tmp_path):
    zoo.save(captioner, tmp_path / "mine.keras")
    where = ("--folder", tmp_path / "elsewhere")
    for tried, told in ((("--verify-data", "vqa_rad"), str(where[1])), ((), "--verify-data is required here")):
        done = vtx("export", tmp_path / "mine.keras", *tried, *where)
        assert (done.exit_code, told in done.stderr) == (2, True), done.output


@pytest.mark.slow
def test_vtx_export_writes_several_formats_at_once(captioner, tmp_path):
    zoo.save(captioner, tmp_path / "mine.keras")
    done = vtx_process("export", tmp_path / "mine.keras", "--to", "litert,onnx", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/model.tflite").is_file()
    assert (tmp_path / "out/onnx/model.onnx").is_file()
    done = vtx_process("export", tmp_path / "none.keras", "--out", tmp_path / "out")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
