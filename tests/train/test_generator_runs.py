"""Runs of generators: what they keep, show and say."""

from __future__ import annotations

import csv

import keras
import numpy as np
import pytest
from runs import pairs
from toys import WORDS, eager, toy

from vtx_keras import data, train, zoo
from vtx_keras.train._report import samples_writer
from vtx_keras.train._settings import Settings, optimizer_of


def test_a_run_keeps_averaged_weights_and_shows_drawings_of_the_same_texts(tmp_path, capsys):
    model = eager(toy("cross_attn_generator"))
    examples = [{"image": np.full((20, 20, 3), 9 * n, "uint8"), "caption": f"{WORDS[n]} w3"} for n in range(8)]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        columns = {key: [row[key] for row in examples] for key in examples[0]}
        source = held_out = data.Examples(tf.data.Dataset.from_tensor_slices(columns))
    else:
        source, held_out = pairs(model), None
    history = train.run(model, source, tmp_path / "run", validation=held_out, epochs=2, batch_size=4, ema=0.5)
    with (tmp_path / "run" / "results.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert {"loss", "real_seen", "drawn_seen", "spread", "drawn_found"} <= set(rows[0])
    assert len(history.history["loss"]) == 2
    best, last = (zoo.load(tmp_path / "run" / name).draw("w1", seed=1) for name in ("best", "last"))
    np.testing.assert_array_equal(best, last)  # the latest epoch is the best
    assert np.abs(last.astype(int) - model.draw("w1", seed=1)).max() <= 1, "both have the averaged weights"
    if held_out is not None:
        page = (tmp_path / "run" / "samples.html").read_text()
        assert page.count('class="card"') == 8
        assert "two drawings, then the real one" in page
    capsys.readouterr()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="examples are tf.data")
def test_a_page_of_samples_leaves_out_texts_that_cannot_be_drawn(tmp_path):
    import tensorflow as tf

    columns = {"image": np.zeros((2, 16, 16, 3), "uint8"), "caption": ["zebra", "giraffe"]}
    examples = data.Examples(tf.data.Dataset.from_tensor_slices(columns))
    samples_writer(toy("gated_generator"), examples, 2)(tmp_path / "samples.html")
    assert 'class="card"' not in (tmp_path / "samples.html").read_text()


def test_the_optimizer_of_both_halves_has_no_momentum_and_a_rate_that_stays():
    model = toy("gated_generator")
    optimizer = optimizer_of(model, 100, Settings(learning_rate=1e-3))
    assert (optimizer.beta_1, optimizer.use_ema, optimizer.ema_momentum) == (0.0, True, 0.999)
    assert float(optimizer.learning_rate) == pytest.approx(1e-3)
    assert optimizer_of(model, 100, Settings(ema=0.9)).ema_momentum == 0.9
    with pytest.raises(ValueError, match="learn from every batch"):
        optimizer_of(model, 100, Settings(accumulate=2))
