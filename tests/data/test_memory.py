"""Batches from memory."""

from __future__ import annotations

import numpy as np
import pytest
from toys import pictures, texts, toy

from vtx_keras import data


def test_data_arrays_names_what_does_not_fit():
    model = toy("gated_vqa")
    x = pictures(model, 2)
    with pytest.raises(ValueError, match="did you mean yes"):
        data.arrays(model, x, texts(2), ["no", "yess"])
    with pytest.raises(ValueError, match="label 1 is 3"):
        data.arrays(model, x, texts(2), [0, 3])
    with pytest.raises(ValueError, match="1 texts"):
        data.arrays(model, x, texts(1), [0, 1])
    with pytest.raises(ValueError, match="pass labels="):
        data.arrays(model, x, texts(2))
    with pytest.raises(ValueError, match=r"1 .* or 0"):
        data.arrays(toy("gated_matcher"), x, texts(2), [1, 2])


def test_a_matcher_makes_its_negatives_from_its_neighbours():
    model = toy("gated_matcher")
    x, y, _ = data.arrays(model, pictures(model, 3), ["w1 w2", "w3", "w3"], batch_size=3)[0]
    assert y[:, 0].tolist() == [1, 1, 1, 0, 0, 1]  # the last rolled text is its picture's own
    assert 0 <= model.match(x["image"][:1], ["w1"])[0] <= 1


def test_several_labels_may_be_columns_of_zeros_and_ones():
    model = toy("gated_classifier", multi_label=True)
    columns = np.eye(3, dtype="int64")[[2, 0]]
    for given in (columns, columns.astype("bool"), [[2], [0]], [["maybe"], ["no"]]):
        np.testing.assert_array_equal(data.targets(model, given, 2), columns)
    for wrong in (columns[:, :2], columns + 1, [[0, 0, 1]], [[False, False, True]]):
        with pytest.raises(ValueError, match="expected"):
            data.targets(model, wrong, len(wrong))
