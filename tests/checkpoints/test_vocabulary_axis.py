"""Another vocabulary: the axis that counts pieces is known by the weight's name, not by its size."""

from __future__ import annotations

import numpy as np
import pytest
from toys import WORDS, toy

from vtx_keras import zoo

NAMES = ("words/embeddings", "words_head/kernel", "words_head/bias")


def weights_of_words(model) -> dict[str, np.ndarray]:
    found = {}
    for layer in (model.get_layer("text_encoder").get_layer("words"), model.get_layer("words_head")):
        found |= {"/".join(weight.path.split("/")[-2:]): np.array(weight) for weight in layer.weights}
    return {name: found[name] for name in NAMES}


def test_a_model_as_wide_as_its_vocabulary_moves_the_right_rows(tmp_path):
    """dim is 64 and so is the number of pieces: by size, the words head's first axis would have been taken."""
    model = toy("gated_vqa", mlm=True, dim=64)
    assert len(model.vocabulary) == 64
    random = np.random.default_rng(0)
    for layer in (model.get_layer("text_encoder").get_layer("words"), model.get_layer("words_head")):
        layer.set_weights([random.normal(size=weight.shape) for weight in layer.weights])
    zoo.save(model, tmp_path / "mine")
    turned = list(reversed(WORDS))
    with pytest.warns(UserWarning, match="64 of 64 pieces keep their embeddings"):
        other = zoo.build("gated_vqa", weights=tmp_path / "mine", vocabulary=turned)
    before, after = weights_of_words(model), weights_of_words(other)
    rows = [model.vocabulary.index(piece) for piece in other.vocabulary]
    np.testing.assert_array_equal(after["words/embeddings"], before["words/embeddings"][rows])
    np.testing.assert_array_equal(after["words_head/kernel"], before["words_head/kernel"][:, rows])
    np.testing.assert_array_equal(after["words_head/bias"], before["words_head/bias"][rows])
