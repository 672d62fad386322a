"""What a retriever finds, ranked again by a captioner."""

from __future__ import annotations

import numpy as np
import pytest
from toys import pictures, texts, toy

from vtx_keras.models.decode import reranked

FEATURES_OF = 5  # pictures


@pytest.fixture(scope="module")
def captioner():
    return toy("cross_attn_captioner")


def setting(captioner):
    x = pictures(captioner, FEATURES_OF)
    x[:] = np.random.default_rng(0).integers(0, 256, x.shape)
    return x, texts(3), np.random.default_rng(1).uniform(-1, 1, (FEATURES_OF, 3))


def test_images_near_a_text_are_ordered_by_how_well_it_tells_them(captioner):
    x, told, near = setting(captioner)
    found = reranked(captioner, near, x, told, best=3, weight=0.0)
    plain = reranked(captioner, near, x, told, best=3, weight=1e6)
    for column, text in enumerate(told):
        nearest = np.argsort(-near[:, column])[:3]
        likelihood = np.array(captioner.likelihood(x[nearest], text))
        order = nearest[np.argsort(-likelihood)]
        assert list(np.argsort(-found[:, column])[:3]) == list(order)
        assert list(np.argsort(-found[:, column])[3:]) == list(np.argsort(-near[:, column])[3:])
        assert list(np.argsort(-plain[:, column])) == list(np.argsort(-near[:, column]))


def test_texts_near_an_image_are_ordered_by_how_much_better_they_tell_it(captioner):
    x, told, near = setting(captioner)
    found = reranked(captioner, near, x, told, find="text", best=2, weight=2.0)
    for row in range(len(x)):
        nearest = np.argsort(-near[row])[:2]
        expected = []
        for column in nearest:
            others = np.argsort(-near[:, column])[:2]
            usual = np.mean(captioner.likelihood(x[others], told[column]))
            expected.append(2.0 * near[row, column] + captioner.likelihood(x[row], told[column])[0] - usual)
        np.testing.assert_allclose(found[row, nearest], expected, atol=1e-3)
        assert np.delete(found[row], nearest).max() < min(expected)
    behind, encoder = captioner.behind_encoder(), captioner.get_layer("image_encoder")
    again = reranked(behind, near, encoder.predict_on_batch(x), told, find="text", best=2, weight=2.0)
    np.testing.assert_allclose(again, found, atol=1e-3)


def test_only_the_nearest_images_are_read_and_unreadable_ones_come_last(captioner):
    x, told, near = setting(captioner)
    near[2] = np.nan  # as similarity(on_error="none") returns for what is no image
    near[4] = -5.0  # far from all texts
    images = [*x[:2], b"no picture", x[3], b"neither"]
    found = reranked(captioner, near, images, told, best=3)
    assert (found[2] == -np.inf).all()
    assert (np.argsort(-found, axis=0)[3] == 4).all()
    whole = reranked(captioner, np.delete(near, [2, 4], axis=0), x[[0, 1, 3]], told, best=3)
    np.testing.assert_allclose(found[[0, 1, 3]], whole, atol=1e-3)


def test_what_cannot_be_ranked_is_named(captioner):
    x, told, near = setting(captioner)
    with pytest.raises(ValueError, match=r"similarity \(5, 2\) of 5 images and 3 texts"):
        reranked(captioner, near[:, :2], x, told)
    with pytest.raises(ValueError, match="no image could be read"):
        reranked(captioner, np.where(near > -2, np.nan, near), x, told)
    with pytest.raises(ValueError, match=r"cannot be read: \[\(4, .*JPEG"):
        reranked(captioner, near, [*x[:4], b"no picture"], told, best=5)
    with pytest.raises(ValueError, match="find='picture'"):
        reranked(captioner, near, x, told, find="picture")
