"""Commands on published checkpoints: a folder of transformers is named like any model, tags are listed and shown."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import keras
import pytest
import toys

from vtx_keras import data, zoo

BLIP = Path(__file__).parents[1] / "fixtures/published/blip"


def vtx(*arguments: object, code: int = 0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = toys.vtx(*arguments)
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def test_published_checkpoints_are_listed_and_shown():
    listed = json.loads(vtx("list", "*_matcher", "--published", "--json").stdout)
    assert {"blip_itm_coco", "blip_itm_flickr"} <= {one["tag"] for one in listed}
    assert "BSD-3-Clause" in vtx("list", "--published").stdout
    shown = vtx("show", "blip_base").stdout
    for word in (
        "Salesforce/blip-image-captioning-base",
        "licence: BSD-3-Clause",
        "cross_attn_captioner",
        "revision: ",
    ):
        assert word in shown


def test_a_folder_is_predicted_with_evaluated_trained_on_and_exported(tmp_path):
    photo = tmp_path / "cat.jpg"
    photo.write_bytes(Path(str(data.sample("photos/cat.jpg"))).read_bytes())
    said = vtx("predict", BLIP, photo, "--beams", 3, "--max-length", 6).stdout.strip()
    assert said.endswith(zoo.named(BLIP).generate(str(photo), beams=3, max_length=6)[0])
    table = tmp_path / "mine.csv"
    table.write_text(f"image,caption\n{photo},a red cat\n{photo},a cat on grass\n")
    found = vtx("eval", BLIP, "--data", table, "--no-baselines", "--out", tmp_path / "judged").output
    assert "bleu" in found.lower()
    assert json.dumps(str(BLIP)) in (tmp_path / "judged/results.json").read_text(encoding="utf-8")
    run = ["--out", tmp_path / "run", "--epochs", 1, "--batch-size", 2, "--freeze", "image"]
    vtx("train", "cross_attn_captioner", "--weights", BLIP, "--data", table, *run)
    tuned = zoo.load(tmp_path / "run")
    assert tuned.spec["published"]["origin"]["weights"] == str(BLIP)
    assert tuned.vocabulary == zoo.named(BLIP).vocabulary
    if keras.backend.backend() == "tensorflow":  # exports are made by it
        vtx("export", tmp_path / "run/best", "--to", "litert", "--out", tmp_path / "files", "--verify-data", table)
        assert list((tmp_path / "files").rglob("*.tflite"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "blip_basee", "photo.png"], "no model is called 'blip_basee'"),
        (["predict", "hf://owner", "photo.png"], "expected hf://owner/name"),
        (["predict", BLIP, "photo.png", "--weights", "emoji"], "is a saved model"),
        (["push", "nowhere", "hf://me/mine"], "not a weights folder"),
        (["push", BLIP, "me/mine"], "expected hf://owner/name"),
    ],
)
def test_mistakes_are_told(arguments, message):
    result = vtx(*arguments, code=2)
    assert message in result.output
