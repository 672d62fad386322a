"""What judges drawn pictures: distances of features, manifolds, copies, variety, and the perceptual distance."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image, ImageFilter

import vtx_keras
from vtx_keras import metrics
from vtx_keras.evaluate import _drawn as drawn

SAMPLE = sorted((Path(vtx_keras.__file__).parent / "sample").rglob("*.png"))


def pictures(count: int = 4, side: int = 64) -> np.ndarray:
    opened = (Image.open(path).convert("RGBA") for path in SAMPLE[:count])
    white = [Image.alpha_composite(Image.new("RGBA", one.size, "white"), one).convert("RGB") for one in opened]
    return np.stack([np.array(one.resize((side, side))) for one in white])


# --- distances of features


def test_frechet_of_known_gaussians():
    random = np.random.default_rng(0)
    a = random.normal(size=(20_000, 4))
    mix = np.array([[2.0, 0.3, 0, 0], [0, 1.0, 0.5, 0], [0, 0, 0.5, 0], [0, 0, 0, 1.5]])
    b = random.normal(size=(20_000, 4)) @ mix + [1, 0, 0, 2]
    roots = np.sqrt(np.linalg.eigvalsh(mix.T @ mix))  # of N(0, 1) and N(m, C): |m|² + tr(1 + C - 2 √C)
    assert drawn.frechet(a, b) == pytest.approx(5 + np.square(1 - roots).sum(), rel=0.03)
    assert drawn.frechet(a, b) == pytest.approx(drawn.frechet(b, a))
    assert drawn.frechet(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("n", "m", "width"), [(40, 50, 8), (12, 9, 30), (50, 9, 20)])
def test_frechet_equals_the_root_of_the_covariances(n, m, width):
    random = np.random.default_rng(n)
    a, b = random.normal(size=(n, width)) * random.random(width), random.normal(size=(m, width)) + 1
    values, vectors = np.linalg.eigh(np.cov(a.T))
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    joint = np.sqrt(np.linalg.eigvalsh(root @ np.cov(b.T) @ root).clip(0)).sum()
    wanted = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * joint
    assert drawn.frechet(a, b) == pytest.approx(wanted, rel=1e-6)
    assert drawn.frechet(a, a + 1) == pytest.approx(width)


def test_the_kernel_distance_is_by_definition_in_blocks_and_unbiased(monkeypatch):
    monkeypatch.setattr(drawn, "BLOCK", 7)
    random = np.random.default_rng(0)
    a, b = random.normal(size=(20, 5)), random.normal(size=(30, 5))

    def kernel(x, y):
        return (x @ y / 5 + 1) ** 3

    within = [np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    across = np.mean([kernel(x, y) for x in a for y in b])
    assert drawn.kernel_distance(a, b) == pytest.approx(sum(within) - 2 * across)
    # The mean over many small samples of one distribution is 0; with a shift it is not.
    many = [random.normal(size=(2, 10, 5)) for _ in range(400)]
    equal, shifted = ([drawn.kernel_distance(x, y + by) for x, y in many] for by in (0.0, 1.0))
    assert abs(np.mean(equal)) < 3 * np.std(equal) / 20 < np.mean(shifted)
    assert min(equal) < 0
    with pytest.raises(ValueError, match="1 and 30 rows"):
        drawn.kernel_distance(a[:1], b)


# --- manifolds and copies


def test_precision_and_recall_of_a_subset_a_collapse_and_another_place(monkeypatch):
    monkeypatch.setattr(drawn, "BLOCK", 16)
    random = np.random.default_rng(0)
    real = random.normal(size=(100, 4))

    def values(rows):
        return {name: measure.value for name, measure in drawn.precision_recall(real, rows).items()}

    same = values(real)
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    assert values(real[:30])["precision"] == 1
    collapsed = values(real[[0] * 50] + random.normal(size=(50, 4)) * 1e-3)
    assert collapsed["precision"] == 1
    assert collapsed["recall"] <= 0.01
    assert collapsed["coverage"] < 0.2
    assert set(values(real + 50).values()) == {0}
    measures = drawn.precision_recall(real, real[:30])
    assert [len(measures[name].rows) for name in ("precision", "density", "recall", "coverage")] == [30, 30, 100, 100]
    # Five equal pictures have no distance from each other, and a copy lies among them.
    assert drawn.precision_recall(np.ones((5, 300)) / 3, np.ones((5, 300)) / 3)["precision"].value == 1
    with pytest.raises(ValueError, match="expected 4 or more"):
        drawn.precision_recall(real, real[:3])


def test_precision_and_recall_equal_their_definition():
    random = np.random.default_rng(1)
    real, other, k = random.normal(size=(40, 3)), random.normal(size=(30, 3)) * 0.7 + 0.5, 3

    def ball(rows):
        return [sorted(np.linalg.norm(rows - row, axis=1))[k] for row in rows]

    inside = np.linalg.norm(real[:, None] - other, axis=-1) <= np.array(ball(real))[:, None]
    within = np.linalg.norm(real[:, None] - other, axis=-1) <= ball(other)
    wanted = {
        "precision": inside.any(0).mean(),
        "density": inside.sum() / k / 30,
        "recall": within.any(1).mean(),
        "coverage": inside.any(1).mean(),
    }
    found = {name: measure.value for name, measure in drawn.precision_recall(real, other, k).items()}
    assert found == pytest.approx(wanted)


def test_nearest_finds_copies_across_blocks(monkeypatch):
    monkeypatch.setattr(drawn, "BLOCK", 8)
    training = np.random.default_rng(0).normal(size=(50, 6)) + 100
    index, distance = drawn.nearest(training[[31, 2, 49] * 5], training)
    assert index.tolist() == [31, 2, 49] * 5
    assert distance.max() == 0
    others = np.random.default_rng(1).normal(size=(20, 6)) + 100
    index, distance = drawn.nearest(others, training)
    wanted = np.linalg.norm(others[:, None] - training, axis=-1)
    assert (index == wanted.argmin(1)).all()
    np.testing.assert_allclose(distance, wanted.min(1))


# --- words and prompts


def test_r_precision_ranks_the_own_text_among_others():
    random = np.random.default_rng(0)
    similarity = random.normal(size=(600, 200))
    own = np.arange(600) % 200
    assert drawn.r_precision(similarity, own, candidates=10).value == pytest.approx(0.1, abs=0.04)
    similarity[np.arange(600), own] = 9
    assert drawn.r_precision(similarity, own).value == 1
    assert drawn.r_precision(np.ones((5, 200)), np.arange(5)).value == 0
    # Two columns have one text: they are no rivals, though their scores are equal.
    twice = np.tile(np.eye(4), 2)
    assert drawn.r_precision(twice, [0, 1, 2, 3], 4, texts=list("abcdabcd")).value == 1
    assert drawn.r_precision(twice, [0, 1, 2, 3], 8).value == 0
    with pytest.raises(ValueError, match="3 other texts"):
        drawn.r_precision(np.eye(4), range(4))


def test_diversity_compares_pictures_of_one_prompt():
    places = np.array([0.0, 2.0, 4.0, 7.0, 7.0, 9.0])
    matrix = abs(places[:, None] - places)
    measure = drawn.diversity(matrix, ["a", "a", "a", "b", "b", "c"])
    assert measure.rows.tolist() == pytest.approx([8 / 3, 0])
    many = drawn.diversity(lambda i, j: np.abs(i - j) + 0.0, ["a"] * 40, pairs=300)
    assert many.value == pytest.approx(41 / 3, rel=0.1)
    with pytest.raises(ValueError, match="no group has two"):
        drawn.diversity(matrix, range(6))


# --- the perceptual distance


def test_the_perceptual_distance_rises_with_blur_noise_and_shift():
    given = pictures()
    random = np.random.default_rng(0).normal(size=given.shape)

    def blurred(radius):
        return np.stack([np.array(Image.fromarray(one).filter(ImageFilter.GaussianBlur(radius))) for one in given])

    changes = {
        "blur": [blurred(radius) for radius in (0.5, 1, 2, 4)],
        "noise": [(given + sigma * random).clip(0, 255) for sigma in (4, 8, 16, 32, 64)],
        "shift": [np.roll(given, by, axis=2) for by in (1, 2, 4, 8)],
    }
    for change, steps in changes.items():
        distances = np.array([metrics.perceptual(given, step) for step in steps])  # (steps, pictures)
        assert (np.diff(distances.mean(axis=1)) > 0).all(), (change, distances.mean(axis=1))
        assert distances.min() > 0
        assert distances.max() < 2
    assert np.array(metrics.perceptual(given, given)).max() < 1e-6
    there, back = metrics.perceptual(given, given[::-1]), metrics.perceptual(given[::-1], given)
    np.testing.assert_allclose(np.array(there), np.array(back), rtol=1e-4)
    clip = np.stack([given, given[::-1]], axis=1)  # two frames
    np.testing.assert_allclose(
        np.array(metrics.perceptual(clip, clip[:, ::-1])), (np.array(there) + np.array(back)) / 2, rtol=1e-4
    )
    with pytest.raises(ValueError, match="at least 32 px"):
        metrics.perceptual(given[:, :16], given[:, :16])


def test_the_metric_is_the_mean_in_fit_and_in_any_precision():
    given = pictures().astype("float32")
    wanted = float(np.mean(np.array(metrics.perceptual(given, given * 0.5))))
    model = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Rescaling(0.5)])
    model.compile(loss="mse", metrics=[metrics.Perceptual()], jit_compile=False)
    assert model.evaluate(given, given, batch_size=2, verbose=0, return_dict=True)["perceptual"] == pytest.approx(
        wanted, rel=1e-3
    )
    drawn._maps.cache_clear()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert float(np.mean(np.array(metrics.perceptual(given, given * 0.5)))) == pytest.approx(wanted, rel=1e-5)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")


# --- pictures


def test_features_are_of_frames_and_of_any_size_and_batch():
    given = pictures(6, 48)
    features = drawn.embedded(given)
    assert features.shape == (6, 1280)
    assert features.dtype == "float32"
    np.testing.assert_allclose(drawn.embedded(given.astype("float32"), batch_size=4), features, atol=1e-4)
    clip = drawn.embedded(given.reshape(3, 2, 48, 48, 3))
    np.testing.assert_allclose(clip, features.reshape(3, 2, -1).mean(axis=1), atol=1e-4)
    with pytest.raises(ValueError, match="0 to 255"):
        drawn.embedded(given / 255)
    with pytest.raises(ValueError, match="reads texts"):
        drawn.embedded(given, "minilm_l6")


def test_the_figures_are_the_same_on_every_backend():
    given = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), "uint8")
    np.testing.assert_allclose(drawn.embedded(given).mean(axis=1), [0.39884, 0.37889], atol=1e-4)
    np.testing.assert_allclose(np.array(metrics.perceptual(given, given[::-1] // 2)), [0.82206, 0.68611], atol=1e-4)
