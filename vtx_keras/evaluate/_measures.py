"""Measures over many rows, with bootstrap intervals: of labels, answers and retrieval."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from math import comb
from typing import Any, NamedTuple, TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)


class Measure(NamedTuple):
    """A measure over many rows. `of(weights)` is its value when row i counts weights[i] times.

    `rows` are the scores of single rows, NaN if a row has none. `whole` is the value of a measure that `of` cannot
    compute.

    >>> mean([0.0, 1.0]).value, mean([0.0, 1.0]).of(np.array([1, 3]))
    (0.5, 0.75)
    """

    of: Callable[[np.ndarray], float]
    rows: np.ndarray
    whole: float | None = None

    @property
    def value(self) -> float:
        return self.of(np.ones(len(self.rows))) if self.whole is None else self.whole


def mean(rows: Any, sizes: Any = None) -> Measure:
    """Return the measure that is the mean of the rows' scores, weighted by `sizes`; NaN rows are left out.

    >>> mean([1.0, np.nan, 0.0]).value, mean([1.0, 0.0], sizes=[3, 1]).value
    (0.5, 0.75)
    """
    rows = np.asarray(rows, float)
    sizes = np.where(np.isfinite(rows), 1.0 if sizes is None else np.asarray(sizes, float), 0.0)
    sums = np.where(sizes > 0, rows, 0.0) * sizes
    return Measure(lambda weights: _share(float(weights @ sums), float(weights @ sizes)), rows)


def draws(groups: Sequence[Hashable], count: int = 1000, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield bootstrap weights: groups are drawn with replacement, and all rows of a group with it.

    Several questions about one image are not independent observations, so the rows of an image are drawn together.

    >>> [weights.tolist() for weights in draws(["a", "a", "b"], 2, seed=1)]
    [[1.0, 1.0, 1.0], [0.0, 0.0, 2.0]]
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    which, random = np.array([numbers[group] for group in groups]), np.random.default_rng(seed)
    for _ in range(count):
        drawn = random.integers(0, len(numbers), len(numbers))
        yield np.bincount(drawn, minlength=len(numbers))[which].astype(float)


def intervals(
    measures: Mapping[Name, Measure], groups: Sequence[Hashable], *, count: int = 1000, seed: int = 0
) -> dict[Name, tuple[float, float, float]]:
    """Return the value and the ends of the 95 % bootstrap interval by name; the ends are NaN for a single group.

    >>> value, low, high = intervals({"exact": mean([0, 1] * 50)}, range(100))["exact"]
    >>> value, 0.35 < low < 0.45, 0.55 < high < 0.65
    (0.5, True, True)
    """
    values: dict[Name, list[float]] = {name: [] for name in measures}
    if len(set(groups)) > 1:
        for weights in draws(groups, count, seed):
            for name, measure in measures.items():
                values[name].append(measure.of(weights))
    result = {}
    for name, measure in measures.items():
        samples = np.array(values[name], float)
        samples = samples[np.isfinite(samples)]
        ends = np.quantile(samples, (0.025, 0.975)) if samples.size else (np.nan, np.nan)
        result[name] = (float(measure.value), float(ends[0]), float(ends[1]))
    return result


def _share(part: float, total: float) -> float:
    return part / total if total else float("nan")


def one_label(said: Any, truth: Any) -> dict[str, Measure]:
    """Measure one label per row (numbers or names): accuracy, and macro-averaged precision, recall and F1.

    Macro averages run over the classes that occur in the truth or in the predictions; a class never predicted has
    precision 0. (Micro-averaged precision, recall and F1 all equal the accuracy.)
    F1 over 1000 bootstrap draws takes a hundredth of the time of scikit-learn's `f1_score` (119 ×, by
    `python benchmarks/by_hand.py labels`).

    >>> measures = one_label(["cat", "dog", "cat"], ["cat", "cat", "cat"])
    >>> {name: round(measure.value, 3) for name, measure in measures.items()}
    {'accuracy': 0.667, 'precision_macro': 0.5, 'recall_macro': 0.333, 'f1_macro': 0.4}
    """
    said, truth = np.asarray(said), np.asarray(truth)
    _, numbers = np.unique(np.concatenate([said, truth]), return_inverse=True)
    said, truth = numbers[: len(said)], numbers[len(said) :]
    classes = int(numbers.max(initial=-1)) + 1
    hit = (said == truth).astype(float)

    def counts(weights: np.ndarray) -> tuple:
        right = np.bincount(truth, weights * hit, classes)
        return right, np.bincount(said, weights, classes), np.bincount(truth, weights, classes)

    return {"accuracy": mean(hit), **_averaged(counts, hit, ("macro",))}


def many_labels(scores: Any, truth: Any, threshold: float = 0.0) -> dict[str, Measure]:
    """Measure several labels per row: exact sets, precision, recall, F1 (micro and macro), average precision, AUROC.

    `scores` (rows, classes) are logits, and a label is predicted above `threshold`; `truth` holds zeros and ones. Micro
    averages run over all labels, macro averages over the classes that occur, `map` over the classes that are ever
    true, and `auroc_macro` over those that are true in some rows and false in others; `auroc` measures one of them.

    >>> measures = many_labels([[1.0, -1.0], [0.5, 2.0]], [[1, 0], [0, 1]])
    >>> measures["exact"].value, round(measures["f1_micro"].value, 3), measures["map"].value
    (0.5, 0.8, 1.0)
    """
    scores, truth = np.asarray(scores, float), np.asarray(truth) > 0.5
    said = scores > threshold
    hits, predicted, true = ((said & truth).astype(float), said.astype(float), truth.astype(float))

    def counts(weights: np.ndarray) -> tuple:
        return weights @ hits, weights @ predicted, weights @ true

    row_hits = hits.sum(axis=1)
    rows = 2 * row_hits / np.maximum(predicted.sum(axis=1) + true.sum(axis=1), 1)
    rows[~(said | truth).any(axis=1)] = 1.0  # no true label, and none predicted
    return {
        "exact": mean((said == truth).all(axis=1)),
        **_averaged(counts, rows, ("micro", "macro")),
        "map": Measure(_mean_over_classes(_average_precision, scores, true), rows),
        "auroc_macro": Measure(_mean_over_classes(_area, scores, true), rows),
    }


def yes_or_no(scores: Any, truth: Any) -> dict[str, Measure]:
    """Measure accuracy, precision, recall and F1 of "yes", average precision and AUROC; `scores` are logits.

    >>> measures = yes_or_no([2.0, 1.0, -1.0], [1, 0, 0])
    >>> {name: round(measure.value, 3) for name, measure in measures.items()}
    {'accuracy': 0.667, 'precision': 0.5, 'recall': 1.0, 'f1': 0.667, 'average_precision': 1.0, 'auroc': 1.0}
    """
    scores, truth = np.asarray(scores, float).reshape(-1, 1), np.asarray(truth, float).reshape(-1, 1)
    measures = many_labels(scores, truth)
    names = {"exact": "accuracy", "precision_micro": "precision", "recall_micro": "recall", "f1_micro": "f1"}
    names |= {"map": "average_precision", "auroc_macro": "auroc"}
    hit = measures["exact"].rows
    return {name: Measure(measures[label_name].of, hit) for label_name, name in names.items()}


def auroc(scores: Any, truth: Any) -> Measure:
    """Measure the area under the ROC curve of one class: how often a true row scores above a false one, ties half.

    It does not depend on a threshold, and 0.5 is chance. It is NaN without a true row, or without a false one.

    >>> measure = auroc([2.0, 1.0, 1.0], [1, 1, 0])
    >>> measure.value, measure.of(np.array([0, 1, 1])), measure.of(np.array([1, 1, 0]))
    (0.75, 0.5, nan)
    """
    scores, truth = np.asarray(scores, float), np.asarray(truth) > 0.5
    of = _mean_over_classes(_area, scores[:, None], truth[:, None].astype(float))
    return Measure(of, np.full(len(scores), np.nan))


def calibration(probabilities: Any, truth: Any, bins: int = 15) -> Measure:
    """Measure the expected calibration error: how far probabilities are from how often they come true; 0 is best.

    `probabilities` and `truth` (zeros and ones) are (rows,), or (rows, classes), where each class counts as an event.
    Events are sorted into `bins` of equal size by their probability. Bins are fixed on all rows, whatever the weights
    (equal probabilities share one), and the error is the weighted mean over bins of |mean probability - share that came
    true|. As chance alone makes it positive, compare errors only for about the same number of rows and the same `bins`.

    >>> round(calibration([0.9, 0.9, 0.9, 0.9], [1, 1, 1, 0]).value, 3), calibration([0.0, 1.0], [0, 1]).value
    (0.15, 0.0)
    """
    probabilities, truth = np.asarray(probabilities, float), np.asarray(truth, float)
    if probabilities.shape != truth.shape or bins < 1:
        raise ValueError(f"probabilities {probabilities.shape}, truth {truth.shape}, bins={bins}: expected one shape")
    events = probabilities.reshape(len(probabilities), -1)
    gaps = events - truth.reshape(events.shape)
    edges = np.quantile(events, np.arange(1, bins) / bins) if events.size else np.zeros(0)
    bin_of = np.searchsorted(edges, events, "right")
    sums = np.stack([np.where(bin_of == one, gaps, 0.0).sum(axis=1) for one in range(bins)], axis=1)
    count = events.shape[1]
    return Measure(
        lambda weights: _share(float(np.abs(weights @ sums).sum()), float(weights.sum()) * count),
        np.abs(gaps).mean(axis=1),
    )


def _averaged(counts: Callable, rows: np.ndarray, averages: tuple[str, ...]) -> dict[str, Measure]:
    """Return averaged precision, recall and F1; `counts(weights)` are hits, predictions and true labels per class."""

    def figure(kind: str, average: str) -> Callable[[np.ndarray], float]:
        def of(weights: np.ndarray) -> float:
            right, predicted, true = counts(weights)
            if average == "micro":
                right, predicted, true = (part.sum(keepdims=True) for part in (right, predicted, true))
            occurs = (predicted + true) > 0
            denominator = {"precision": predicted, "recall": true, "f1": (predicted + true) / 2}[kind]
            shares = right / np.where(denominator > 0, denominator, 1.0)
            return float(shares[occurs].mean()) if occurs.any() else float("nan")

        return of

    return {
        f"{kind}_{average}": Measure(figure(kind, average), rows)
        for average in averages
        for kind in ("precision", "recall", "f1")
    }


def _mean_over_classes(figure: Callable, scores: np.ndarray, truth: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return the function from weights to the mean of `figure(right, all)` over classes, without those where it is NaN.

    `right` and `all` are the weights of the true rows, and of all rows, that score at least each of the scores.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked, true = np.take_along_axis(scores, order, 0), np.take_along_axis(truth, order, 0)
    last = np.vstack([ranked[1:] != ranked[:-1], np.ones((1, ranked.shape[1]), bool)])  # equal scores are one step

    def of(weights: np.ndarray) -> float:
        weighted = weights[order]
        right, ranked_above = np.cumsum(weighted * true, axis=0), np.cumsum(weighted, axis=0)
        figures = [figure(right[steps, c], ranked_above[steps, c]) for c, steps in enumerate(last.T)]
        figures = [one for one in figures if not np.isnan(one)]
        return float(np.mean(figures)) if figures else float("nan")

    return of


def _average_precision(right: np.ndarray, ranked_above: np.ndarray) -> float:
    return _share(float((np.diff(right, prepend=0.0) * right / np.maximum(ranked_above, 1e-12)).sum()), right[-1])


def _area(right: np.ndarray, ranked_above: np.ndarray) -> float:
    wrong = ranked_above - right
    below = wrong[-1] - wrong + np.diff(wrong, prepend=0.0) / 2  # false rows below a score, and half of those that tie
    return _share(float(np.diff(right, prepend=0.0) @ below), right[-1] * wrong[-1])


CUTOFFS = (1, 5, 10)


def ranks(scores: Any, right: Any) -> np.ndarray:
    """Rank, for each row of `scores` (queries, candidates), the best candidate in the mask `right`, starting at 1.

    A wrong candidate with the same score ranks before a right one, so that constant scores get no credit. A row without
    a right candidate has rank infinity; NaN is the lowest score.

    >>> ranks([[0.1, 0.9, 0.5], [0.5, 0.5, 0.5]], [[True, False, True], [True, False, False]]).tolist()
    [2.0, 3.0]
    """
    scores, right = np.asarray(scores, float), np.asarray(right, bool)
    if scores.shape != right.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and right {right.shape}: expected one shape, (queries, candidates)")
    scores = np.where(np.isnan(scores), -np.inf, scores)
    best = np.where(right, scores, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
    before = ((scores >= best) & ~right).sum(axis=1)
    return np.where(right.any(axis=1), before + 1.0, np.inf)


def retrieval(images: Any, texts: Any, text_of: Any, image_of: Any, *, block: int = 1024) -> dict[str, Measure]:
    """Measure recall@1, 5, 10 and median rank of embeddings (n, dim), image to text and text to image.

    `image_of[i]` and `text_of[i]` are rows of `images` and `texts` that belong together. An image may have several
    texts and a text several images, of which the best ranked counts. The measures' rows are the images, then the texts.

    >>> measures = retrieval(np.eye(3), np.eye(3)[[0, 2, 1]], text_of=[0, 2, 1], image_of=[0, 1, 2])
    >>> measures["image_to_text_recall_1"].value, measures["text_to_image_median_rank"].value
    (1.0, 1.0)
    """
    images, texts = np.asarray(images), np.asarray(texts)
    directions = {
        "image_to_text": (images, texts, np.asarray(image_of), np.asarray(text_of)),
        "text_to_image": (texts, images, np.asarray(text_of), np.asarray(image_of)),
    }
    measures, total = {}, len(images) + len(texts)
    for direction, (queries, candidates, query_of, candidate_of) in directions.items():
        block_ranks = []
        for start in range(0, len(queries), block):
            rows = queries[start : start + block]
            inside = (query_of >= start) & (query_of < start + len(rows))
            right = np.zeros((len(rows), len(candidates)), bool)
            right[query_of[inside] - start, candidate_of[inside]] = True
            block_ranks.append(ranks(rows @ candidates.T, right))
        rank = np.full(total, np.nan)
        first = 0 if direction == "image_to_text" else len(images)
        rank[first : first + len(queries)] = np.concatenate(block_ranks)
        for cutoff in CUTOFFS:
            hit = np.where(np.isnan(rank), np.nan, rank <= cutoff)
            measures[f"{direction}_recall_{cutoff}"] = mean(hit)
        measures[f"{direction}_median_rank"] = median(rank)
    return measures


def median(rows: Any) -> Measure:
    """Return the measure that is the median of the rows' scores; NaN rows are left out, and infinity is a score.

    >>> median([1, 5, 2, np.nan]).value, median([1, 5, 2, np.nan]).of(np.array([1, 3, 1, 1]))
    (2.0, 5.0)
    """
    rows = np.asarray(rows, float)
    order = np.argsort(rows)[: int((~np.isnan(rows)).sum())]

    def of(weights: np.ndarray) -> float:
        reached = np.cumsum(weights[order])
        if not len(reached) or not reached[-1]:
            return float("nan")
        low, high = np.searchsorted(reached, (reached[-1] / 2, reached[-1] / 2 + 1e-9))
        return float(rows[order[low]] + rows[order[high]]) / 2

    return Measure(of, rows)


def chance(candidates: int, right: Mapping[int, int]) -> dict[str, float]:
    """Return the expected recall@1, 5, 10 of a random ranking; `right` maps a number of right candidates to queries.

    >>> chance(10, {1: 4})
    {'recall_1': 0.1, 'recall_5': 0.5, 'recall_10': 1.0}
    """
    recalls = {}
    for cutoff in CUTOFFS:
        top = min(cutoff, candidates)
        missed = sum(count * comb(candidates - n, top) / comb(candidates, top) for n, count in right.items())
        recalls[f"recall_{cutoff}"] = round(1 - missed / sum(right.values()), 12)
    return recalls


PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = ("a", "an", "the")
NUMBERS = "zero one two three four five six seven eight nine ten"
DIGITS = {"none": "0", **{word: str(digit) for digit, word in enumerate(NUMBERS.split())}}
# Words that are often written without the apostrophe; not "its", "were", "well" and "ill", which are words themselves.
APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll let's ma'am mightn't mightn't've might've mustn't must've needn't
    not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll you'd you'd've you'll you're you've
"""
CONTRACTIONS = {word.replace("'", ""): word for word in APOSTROPHES.split()}


def vqa_normalize(answer: str) -> str:
    """Normalise an answer as the VQA challenge does: lower case, digits for number words, no articles or punctuation.

    Punctuation beside a space is removed, other punctuation becomes a space; a point before a digit stays.

    >>> vqa_normalize("The two-story house."), vqa_normalize("Dont know!"), vqa_normalize("2.5, or none")
    ('2 story house', "don't know", '2.5 or 0')
    """
    answer = " ".join(answer.split())
    thousands = re.search(r"\d,\d", answer)  # as in the challenge, "1,000" also removes all other punctuation
    for mark in PUNCTUATION:
        if mark in answer:
            beside_space = f"{mark} " in answer or f" {mark}" in answer
            answer = answer.replace(mark, "" if beside_space or thousands else " ")
    answer = re.sub(r"\.(?!\d)", "", answer).lower()
    words = [DIGITS.get(word, word) for word in answer.split() if word not in ARTICLES]
    return " ".join(CONTRACTIONS.get(word, word) for word in words)


def vqa_accuracy(said: str, answers: Sequence[str]) -> float:
    """Return the accuracy of an answer as the VQA challenge defines it, given the answers of (ten) people.

    Each person is left out in turn: the answer scores min(1, n / 3) if n of the others gave it, and the result is the
    mean. As in the challenge, texts are normalised only if people differ. With three people or fewer this says little:
    use `exact` for a single reference.

    >>> round(vqa_accuracy("yes", ["yes"] * 3 + ["no"] * 7), 2), vqa_accuracy("A cat", ["cat"] * 9 + ["kitten"])
    (0.9, 1.0)
    """
    if len(answers) < 2:
        raise ValueError(f"{len(answers)} answers: the accuracy of the VQA challenge leaves one out, so give 2 or more")
    said, answers = said.replace("\n", " ").replace("\t", " ").strip(), list(answers)
    if len(set(answers)) > 1:
        said, answers = vqa_normalize(said), [vqa_normalize(answer) for answer in answers]
    same = answers.count(said)
    # Leaving out a person who gave the answer leaves same - 1 others who did.
    left_out = [min(1, (same - (answer == said)) / 3) for answer in answers]
    return sum(left_out) / len(left_out)
