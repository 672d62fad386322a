"""`vtx eval`: results of a CSV in a folder, and mistakes in a line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import keras
import toys
from PIL import Image

from vtx_keras import zoo
from vtx_keras.checkpoints import _folder as weights


def test_vtx_eval_scores_a_csv_and_writes_results(tmp_path):
    model = toys.eager(toys.toy("gated_vqa"))
    saved = zoo.save(model, tmp_path / "mine")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "question", "answer", "split"])
        for number, picture in enumerate(toys.pictures(model, 8).astype("uint8")):
            Image.fromarray(picture).save(tmp_path / f"{number}.png")
            for question in ("w1", "w2"):
                table.writerow([f"{number}.png", question, "no", "train" if number % 2 else "test"])
    run = toys.vtx("eval", saved, "--data", tmp_path / "rows.csv", "--out", tmp_path / "out", "--limit", 6)
    assert run.exit_code == 0, run.output
    assert "accuracy" in run.output
    assert "most frequent" in run.output
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (kept["rows"], kept["about"]["split"], kept["groups"] < 6) == (6, "test", True)
    assert kept["about"]["command"].startswith("vtx eval ")
    assert " --limit 6 " in kept["about"]["command"]
    assert len(kept["about"]["sha256"]) == len(kept["about"]["weights_file_sha256"]) == 64
    run = toys.vtx("eval", saved, "--data", tmp_path / "rows.csv", "--no-baselines", "--json")
    assert json.loads(run.stdout)["baselines"] == {}
    run = toys.vtx("eval", saved, "--data", tmp_path / "rows.csv", "--baseline", "most_frequent", "--json")
    assert list(json.loads(run.stdout)["baselines"]) == ["most_frequent"]
    run = toys.vtx("eval", saved, "--data", tmp_path / "rows.csv", "--consistency", "--out", tmp_path / "out")
    assert "consistency mirrored" in run.output
    assert "consistency: 8 of 8 rows mirrored" in (tmp_path / "out" / "results.html").read_text()


def test_the_text_after_a_prompt_is_scored(tmp_path):
    keras.utils.set_random_seed(0)  # of some weights a caption ends with its prompt
    model = toys.eager(toys.decisive("cross_attn_captioner"))
    pictures = toys.pictures(model, 3).astype("uint8")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption"])
        for number, (picture, said) in enumerate(zip(pictures, model.generate(pictures, "w5"), strict=True)):
            Image.fromarray(picture).save(tmp_path / f"{number}.png")
            assert said.startswith("w5 ")
            table.writerow([f"{number}.png", said.removeprefix("w5 ")])
    saved = zoo.save(model, tmp_path / "mine")
    for prompt, exact in ((["--prompt", "w5"], True), ([], False)):
        run = toys.vtx("eval", saved, "--data", tmp_path / "rows.csv", *prompt, "--json")
        assert run.exit_code == 0, run.output
        assert (json.loads(run.stdout)["metrics"]["exact_match"]["value"] == 1) == exact


def test_vtx_eval_reports_a_mistake_in_a_line(tmp_path):
    (tmp_path / "a file").touch()
    (zoo.save(toys.toy("gated_vqa"), tmp_path / "cut") / weights.WEIGHTS).unlink()
    for arguments, told in (
        ((tmp_path / "cut", "--data", "sample/questions"), "is missing"),
        (("gated_vqq", "--data", "sample"), "did you mean gated_vqa"),
        (("gated_classifier", "--data", "sample"), "no default weights"),
        (("cross_attn_captioner", "--data", tmp_path / "none.csv"), "there is no file"),
        (("cross_attn_captioner", "--data", "sampel"), "did you mean sample"),
        (("cross_attn_captioner", "--data", "sample", "--split", "tset"), "there is no split"),
        (("cross_attn_captioner", "--data", "sample", "--scorer", "ciderr"), "there is no scorer 'ciderr'"),
        (("cross_attn_captioner", "--data", "sample", "--baseline", "humane"), "there is no baseline 'humane'"),
        (("retriever", "--data", "sample", "--baseline", "human", "--no-baselines"), "leave one of them out"),
        (("retriever", "--data", "sample", "--beams", "3"), "leave out beams, scorers and tokenizer"),
        (("retriever", "--data", "sample", "--consistency"), "answers nothing"),
        (("retriever", "--data", "sample", "--out", tmp_path / "a file"), "File exists"),
    ):
        run = toys.vtx("eval", *arguments)
        assert run.exit_code == 2
        assert told in run.output
        assert run.output.startswith("vtx: ")
        assert run.output.count("\n") == 1


def test_the_help_of_vtx_eval_loads_neither_keras_nor_numpy():
    script = (
        "import sys\nfrom vtx_keras.cli._evaluate import evaluate\ntry:\n    evaluate(['--help'])\nexcept SystemExit:\n"
        "    pass\nassert not {'keras', 'numpy', 'tensorflow', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
