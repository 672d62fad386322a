"""Systems learn from few examples and compose queries, on made-up vectors."""

from __future__ import annotations

import numpy as np
import pytest

from recipes.systems import few, search


def clusters(rows=40, classes=5, width=16, noise=1.2, seed=0):
    """Return vectors about a centre for each class, and their class numbers."""
    random = np.random.default_rng(seed)
    centres, numbers = np.random.default_rng(9).normal(size=(classes, width)), np.repeat(np.arange(classes), rows)
    return centres[numbers] + noise * random.normal(size=(len(numbers), width)), numbers


def points(seed):
    vectors, numbers = clusters(seed=seed)
    return few.Points(few.unit(vectors), numbers, [str(at) for at in range(len(numbers))], {})


@pytest.mark.parametrize("shots", [1, 2, 5])
def test_a_draw_has_as_many_of_each_class_and_is_reproducible(shots):
    numbers = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [5, 9, 30]))
    places = few.drawn(numbers, shots, seed=1)
    assert np.bincount(numbers[places]).tolist() == [shots] * 3
    assert len(set(places)) == len(places)
    np.testing.assert_array_equal(places, few.drawn(numbers, shots, seed=1))
    assert set(places) != set(few.drawn(numbers, shots, seed=2))
    assert set(few.drawn(numbers, 1, seed=1)) <= set(places)


def test_a_draw_of_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="class 1 has 2 examples: expected at least 3"):
        few.drawn([0, 0, 0, 1, 1], 3)


def test_prototypes_are_right_where_neighbours_are_noisy():
    pool, tested = points(1), points(2)
    learned = few.chosen(pool, few.drawn(pool.classes, 10))
    right = {
        name: (predict(learned, tested) == tested.classes).mean()
        for name, predict in {"prototypes": few.by_prototypes, "neighbour": few.by_neighbour}.items()
    }
    assert right["prototypes"] > right["neighbour"] > 0.5
    centres = few.prototypes(learned.vectors, learned.classes)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-6)


def test_one_example_is_its_own_prototype():
    pool, tested = points(1), points(2)
    learned = few.chosen(pool, few.drawn(pool.classes, 1))
    np.testing.assert_array_equal(few.by_prototypes(learned, tested), few.by_neighbour(learned, tested))


def test_a_linear_probe_learns_from_few():
    pool, tested = points(1), points(2)
    learned = few.chosen(pool, few.drawn(pool.classes, 5))
    assert (few.by_probe(learned, tested) == tested.classes).mean() > 0.7


def test_a_picture_with_another_word_is_between_both():
    kinds, colours = np.eye(8)[:4], np.eye(8)[4:]
    products = few.unit(kinds[:, None] + colours[None])  # (kinds, colours, 8)
    candidates = products.reshape(-1, 8)
    asked = search.like(products[1, 0][None], colours[3][None], colours[0][None])
    np.testing.assert_allclose(np.linalg.norm(asked, axis=1), 1, rtol=1e-6)
    assert (asked @ candidates.T).argmax() == 4 * 1 + 3
    np.testing.assert_allclose(search.like(candidates, colours[:1], weight=0.0), candidates)


def test_copies_of_the_query_are_no_results():
    vectors = few.unit(np.random.default_rng(0).normal(size=(30, 6)))
    titles = np.array([f"title {at // 2}" for at in range(30)])  # each twice
    results = search.found(vectors, vectors, titles, titles)
    assert results.shape == (30, search.TOP)
    assert not (titles[results] == titles[:, None]).any()
    near = vectors @ vectors.T
    for at, row in enumerate(results):
        others = [place for place in np.argsort(-near[at], kind="stable") if place // 2 != at // 2]
        assert row.tolist() == others[: search.TOP]


def test_a_colour_is_asked_that_enough_products_have():
    kinds = ["shirts"] * 40 + ["socks"] * 3
    colours = [*np.repeat(["red", "blue", "grey"], [20, 15, 5]), "red", "blue", "blue"]
    of = {"type": np.array(kinds), "colour": np.array(colours), "gender": np.array(["men"] * 43)}
    products = search.Catalogue(*[np.zeros((43, 2))] * 3, [""] * 43, of)
    wish = search.wishes(products, products)
    assert set(wish.places) == set(range(40))
    assert all(asked != colours[at] and asked in ("red", "blue") for at, asked in zip(*wish, strict=True))
    np.testing.assert_array_equal(wish.colours, search.wishes(products, products).colours)
