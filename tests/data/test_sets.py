"""Any set of tfds through `fit`, the bundled sample, and previews."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tensorflow_datasets as tfds
import toys

from vtx_keras import data, zoo
from vtx_keras.data._load import SAMPLE
from vtx_keras.data.sets import concepts


@pytest.mark.parametrize("name", ["coco_captions", "ref_coco", "clevr", "covr", "ai2dcaption", "webvid"])
def test_sets_of_tfds_reach_fit(name, tmp_path):
    video = name in ("covr", "webvid")
    task = "vqa" if name in ("clevr", "covr") else "captioner"
    with tfds.testing.mock_data(num_examples=3):
        ds = data.load(name, "train", folder=tmp_path).take(4)
        example = next(iter(ds))
        assert example["image"].shape[-1] == 3
        assert {"question", "answer"} <= set(example) if task == "vqa" else {"caption", "captions"} & set(example)
        options = {"vocabulary": [*"abcdefghij", *("##" + letter for letter in "abcdefghij")]}
        if task == "vqa":
            options["classes"] = sorted({row["answer"].decode() for row in ds.as_numpy_iterator()})
        model = toys.toy(f"gated_{'video_' * video}{task}", **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # random texts are too long
            found = data.batches(ds, model, batch_size=2, training=True, augment=True)
        assert np.isfinite(toys.fit(model, found).history["loss"]).all()


def test_columns_adapt_a_set_of_tfds(tmp_path):
    with tfds.testing.mock_data(num_examples=3):
        ds = data.load("ai2dcaption", columns={"caption": "image_filename"}, folder=tmp_path)
        assert set(next(iter(ds))) == {"image", "caption"}
        with pytest.raises(ValueError, match=r"'caption' maps to 'captoin': no such feature \(did you mean caption"):
            data.load("ai2dcaption", columns={"caption": "captoin"}, folder=tmp_path)


def test_an_unknown_set_is_an_error_with_a_suggestion():
    with pytest.raises(ValueError, match=r"no data set 'emojii' \(did you mean emoji\?\)"):
        data.load("emojii")


def test_the_sample_is_whole_captioned_and_licensed():
    counts = {split: len(data.load("sample", split)) for split in ("train", "validation", "photos")}
    assert counts == {"train": 198, "validation": 66, "photos": 10}
    for row in data.load("sample", "photos").as_numpy_iterator():
        assert max(row["image"].shape) <= 320
        assert len(row["caption"].split()) >= 4
    assert len(data.load("sample/questions", "train")) == 396
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 3_000_000
    licences = (SAMPLE / "photos" / "LICENCES.md").read_text(encoding="utf-8")
    assert all(f"| {path.name} |" in licences for path in (SAMPLE / "photos").glob("*.jpg"))
    assert {path.stem.rsplit("-", 1)[1] for path in (SAMPLE / "emoji").glob("*")} == {
        "noto", "twemoji", "openmoji", "fluent",
    }  # fmt: skip


def test_the_sample_holds_no_held_out_concept():
    names = {row["caption"].decode() for row in data.load("sample", "train").as_numpy_iterator()}
    assert {concepts.split_of(name) for name in names} == {"train"}


def test_a_tfds_set_goes_through_fit_and_keras_file(tmp_path):
    model = toys.toy("cross_attn_captioner", vocabulary=None)
    train = data.load("sample", "train")
    toys.fit(model, data.batches(train, model, batch_size=32, training=True))
    zoo.save(model, tmp_path / "model.keras")
    again = zoo.load(tmp_path / "model.keras")
    pictures = [row["image"] for row in data.load("sample", "photos").take(2).as_numpy_iterator()]
    assert again.generate(pictures) == model.generate(pictures)
