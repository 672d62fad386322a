"""What is released: each model has the figures and the outputs of its card."""

from __future__ import annotations

import importlib
import json
import sys

import keras
import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from toys import vtx

from vtx_keras import export, zoo
from vtx_keras.checkpoints._folder import CONFIG, WEIGHTS, facts
from vtx_keras.evaluate._run import _weights_hash

FOLDERS = sorted(path.parent for path in ROOT.glob(f"zoo/*/*/{CONFIG}") if path.parts[-3] != "encoders")
NAMES = [f"{folder.parent.name}/{folder.name}" for folder in FOLDERS]
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the recipes read tf.data")


def recipe_of(name: str):
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module(f"zoo.{name.replace('/', '.')}.recipe")
    finally:
        sys.path.remove(str(ROOT))


@pytest.mark.parametrize("name", NAMES)
def test_a_released_model_is_the_evaluated_one_and_has_the_outputs_of_its_card(name):
    from recipes import cards, steps

    release = recipe_of(name).RELEASE
    results = cards.read_results(release.folder)
    assert (release.folder / "README.md").read_text(encoding="utf-8") == cards.card_of(release)
    model = zoo.build(release.name, weights=release.folder.name)
    assert {split["weights_sha256"] for split in results["splits"].values()} == {_weights_hash(model)}
    assert results["parameters"] == model.count_params()
    on_gpu = "hardware" in results["training"]
    assert results["training"]["epochs"] == (release.epochs_on_gpu if on_gpu else release.epochs)
    if hasattr(model, "draw"):
        drawn = model.draw([example["words"] for example in results["examples"]])
        stored = [np.array(Image.open(release.folder / example["picture"])) for example in results["examples"]]
        assert np.abs(drawn.astype(int) - np.stack(stored)).max() <= 2
        return
    names = [example.get("caption", "") for example in results["examples"]]
    for example in results["examples"]:
        picture = release.folder / example["picture"]
        assert picture.is_file()
        if len(model.image_shape) == 3:  # a clip's card shows its first frame
            assert steps.output_of(model, picture, example, names) == example["said"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_int8_file_of_a_released_model_keeps_what_its_card_says(name, tmp_path):
    """Exported anew on the bundled sample: `NotEqual` is raised where too little is the same."""
    model = zoo.build(name.split("/")[0], weights=name.split("/")[1])
    report = export.litert(model, tmp_path / "model.tflite", quantize="int8")
    stored = json.loads((ROOT / "zoo" / name / "results.json").read_text())["exports"]
    (on_card,) = [one for one in stored if (one["format"], one["quantize"]) == ("litert", "int8")]
    assert report.megabytes == pytest.approx(on_card["megabytes"], rel=0.02)


def test_all_of_the_zoo_is_small_and_its_encoders_are_stored_once():
    assert sum(path.stat().st_size for path in (ROOT / "zoo").rglob("*") if path.is_file()) < 100e6
    for folder in FOLDERS:
        config = json.loads((folder / CONFIG).read_text())
        if "image_encoder" in config["overrides"] and "image_encoder" not in config:
            assert (folder / WEIGHTS).stat().st_size < 3e6, "an encoder of its own has to be small"


@pytest.mark.parametrize("name", sorted({name.split("/")[0] for name in NAMES}))
def test_a_name_with_released_weights_has_a_default_among_them(name):
    assert zoo.MODELS[name].default in zoo.describe(name)["released"]


def test_the_page_of_the_zoo_has_the_stored_figures():
    recipe_of(NAMES[0])
    from recipes import page

    assert page.PAGE.read_text(encoding="utf-8") == page.page()
    for name in NAMES:
        assert name.replace("/", "` / `") in page.page()


def test_vtx_list_shows_size_data_a_figure_and_the_licence():
    run = vtx("list", "cross_attn_captioner")
    stored = facts("cross_attn_captioner", "emoji")
    assert f"exact match {stored['headline']['value']:.3f}" in run.stdout
    assert all(stored[name] in run.stdout for name in ("data", "licence"))
    assert f"{stored['megabytes']:.1f} MB" in run.stdout
    listed = json.loads(vtx("list", "cross_attn_captioner", "--json").stdout)
    assert listed[0]["facts"]["emoji"] == stored
