"""Weights in a model of other classes, another size, or another vocabulary."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from toys import WORDS, outputs, toy

from vtx_keras import zoo
from vtx_keras.checkpoints._folder import BadWeights, by_path


def test_other_classes_keep_all_but_the_head_with_a_warning(saved):
    folder, x, _ = saved
    with pytest.warns(UserWarning, match="head is new"):
        model = zoo.build("gated_vqa", weights=folder, classes=7)
    old = zoo.build("gated_vqa", weights=folder)
    assert outputs(model, x).shape == (4, 7)
    for before, after in zip(old.get_layer("fusion_0").weights, model.get_layer("fusion_0").weights, strict=True):
        if "seed" not in before.path:
            np.testing.assert_array_equal(np.array(before), np.array(after))


def test_a_model_of_longer_texts_keeps_the_positions_of_shorter_ones(tmp_path):
    model = toy("gated_captioner", max_length=6)
    zoo.save(model, tmp_path / "saved")
    with pytest.warns(UserWarning, match="texts have 9 positions"):
        longer = zoo.build("gated_captioner", weights=tmp_path / "saved", max_length=9)
    before, after = (np.array(one.get_layer("positions").weights[0]) for one in (model, longer))
    np.testing.assert_array_equal(after[:6], before)
    np.testing.assert_array_equal(after[6:], np.repeat(before[-1:], 3, axis=0))
    picture = np.full((1, *model.image_shape), 90.0)
    assert longer.generate(picture, max_length=6) == model.generate(picture)
    with pytest.warns(UserWarning, match="texts have 4 positions"):
        shorter = zoo.build("gated_captioner", weights=tmp_path / "saved", max_length=4)
    np.testing.assert_array_equal(np.array(shorter.get_layer("positions").weights[0]), before[:4])


def test_a_misfit_names_layer_expected_and_found(saved):
    with pytest.raises(BadWeights, match=r"image_encoder/vit/positions/axis_0: expected \(2, 64\), found \(2, 32\)"):
        zoo.build("gated_vqa", weights=saved[0], dim=64)
    with pytest.raises(BadWeights, match=r"fusion_1/.*found nothing"):
        zoo.build("gated_vqa", weights=saved[0], depth=2)


def test_a_users_own_text_encoder_refuses_another_vocabulary(tmp_path):
    tokens = keras.Input((None,), dtype="int32")
    reader = keras.Model(tokens, keras.layers.Embedding(64, 32)(tokens))
    folder = zoo.save(toy("cross_attn_vqa", text_encoder=reader), tmp_path / "a")
    with pytest.raises(BadWeights, match="cannot be matched to another vocabulary"):
        zoo.build("cross_attn_vqa", weights=folder, vocabulary=WORDS[::-1])


def test_positions_are_interpolated_to_another_size_with_a_warning(tmp_path):
    model = toy("cross_attn_captioner", image_shape=(64, 64, 3))
    zoo.save(model, tmp_path / "mine")
    with pytest.warns(UserWarning, match="positions are interpolated to the new size"):
        larger = zoo.build("cross_attn_captioner", weights=tmp_path / "mine", image_shape=(128, 64, 3))
    before = np.array(model.get_layer("vision").space.axes[0])
    after = np.array(larger.get_layer("vision").space.axes[0])
    assert after.shape == (8, 32)
    np.testing.assert_allclose(after[0], before[0], atol=1e-6)
    np.testing.assert_allclose(after[3], 0.25 * before[2] * 1 + 0.75 * before[1], atol=1e-6)
    np.testing.assert_array_equal(larger.get_layer("vision").space.axes[1], model.get_layer("vision").space.axes[1])
    assert len(larger.generate(np.zeros((1, 128, 64, 3)), max_length=3)) == 1


@pytest.mark.parametrize("name", ["cross_attn_captioner", "gated_matcher"])
def test_embeddings_are_matched_by_piece_with_a_warning(name, tmp_path):
    options = {"mlm": True} if "matcher" in name else {}
    model = toy(name, **options)
    zoo.save(model, tmp_path / "mine")
    other = ["new", *reversed(WORDS[:20])]
    with pytest.warns(UserWarning, match="25 of 26 pieces keep their embeddings, the rest start new"):
        again = zoo.build(name, weights=tmp_path / "mine", vocabulary=other)
    have, given = (dict(by_path(one)) for one in (model, again))
    path = next(path for path in have if path.endswith("words/embeddings"))
    for piece in ("[END]", "w0", "w19"):
        row, old = again.vocabulary.index(piece), model.vocabulary.index(piece)
        np.testing.assert_array_equal(given[path][row], have[path][old])
        if options:
            np.testing.assert_array_equal(given["words_head/kernel"][:, row], have["words_head/kernel"][:, old])
    assert again.vocabulary[5] == "new"


def test_what_cannot_be_adapted_is_still_an_error(tmp_path):
    zoo.save(toy("gated_vqa"), tmp_path / "mine")
    with pytest.raises(BadWeights, match="do not fit the options given"):
        zoo.build("gated_vqa", weights=tmp_path / "mine", dim=64)
