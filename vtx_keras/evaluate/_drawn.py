"""Judge pictures that a model drew: how far they are from real ones, how varied they are, what they copy.

A distance here is between features of an encoder of ours, so it carries that encoder's name ("frechet_mobilenet_v2").
It is never FID or KID, which are defined on InceptionV3, and says nothing beside a figure of another encoder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import combinations
from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.evaluate._measures import Measure, mean
from vtx_keras.models import objectives
from vtx_keras.models._base import graph
from vtx_keras.models.decode import run_in_batches
from vtx_keras.models.encoders import backbone_of
from vtx_keras.models.layers import register

SIDE = 96  # pixels at which pictures are embedded
BLOCK = 1024  # rows whose distances are in memory
SMALLEST = 32  # pixels: MobileNetV2 halves the sides five times
# The last map of each resolution of MobileNetV2, after its activation.
MAPS = (*(f"block_{number}_expand_relu" for number in (1, 3, 6, 13)), "top_relu")


def embedded(images: Any, encoder: str = "mobilenet_v2", batch_size: int = 64, size: int = SIDE) -> np.ndarray:
    """Return pooled features (n, d) of pictures 0-255 (n, h, w, 3), resized to `size`, by an encoder in zoo/encoders.

    A clip (n, frames, h, w, 3) has the mean of its frames' features. Name every distance on these features after the
    encoder, and never FID: two encoders, or two sizes, give figures that cannot be compared. Weights that need no
    network: mobilenet_v2, mobilenet_v2_emoji, efficientnet_lite0, efficientnet_lite2_photos.

    >>> embedded(np.zeros((2, 64, 64, 3), "uint8")).shape
    (2, 1280)
    """
    pictures = _pictures(images)
    frames = pictures.reshape(-1, *pictures.shape[-3:])
    network = _network(encoder, size)

    def run(batch: np.ndarray) -> np.ndarray:
        pixels = ops.image.resize(ops.convert_to_tensor(batch, "float32"), (size, size), antialias=True)
        return np.asarray(network.predict_on_batch(pixels))

    features = run_in_batches(run, frames, batch_size)
    return features.reshape(len(pictures), -1, features.shape[-1]).mean(axis=1)


def _pictures(images: Any) -> np.ndarray:
    pictures = np.asarray(images)
    if pictures.ndim not in (4, 5) or pictures.shape[-1] != 3 or not pictures.size:
        raise ValueError(f"pictures {pictures.shape}: expected (n, h, w, 3), or clips (n, frames, h, w, 3)")
    if pictures.dtype.kind == "f" and 0 < np.abs(pictures).max() <= 1:
        raise ValueError("pictures from -1 or 0 to 1: expected pixels from 0 to 255")
    return pictures


def _in_float32(load: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
    """Load a network in float32: what judges must not depend on the precision in which a model is trained."""

    def run(*args: Any) -> keras.Model:
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("float32")
        try:
            return load(*args)
        finally:
            keras.config.set_dtype_policy(policy)

    return run


@functools.lru_cache(maxsize=4)  # traced once per process
@_in_float32
def _network(encoder: str, size: int) -> keras.Model:
    if backbone_of(encoder).modality != "image":
        raise ValueError(f"{encoder} reads texts: give an encoder of images")
    network = published.load(encoder, image_shape=(size, size, 3))
    return graph(network.input, keras.layers.GlobalAveragePooling2D()(network.output), name=f"{encoder}_pooled")


@functools.cache
@_in_float32
def _maps() -> keras.Model:
    any_size: Any = (None, None, 3)
    network = published.load("mobilenet_v2", image_shape=any_size)
    network.trainable = False
    return graph(network.input, [network.get_layer(name).output for name in MAPS], name="maps")


def perceptual(first: Any, second: Any) -> Any:
    """Return the perceptual distance (n,) of pictures 0-255 (n, h, w, 3) or clips; 0 is equal, 2 is the most.

    Five maps of the bundled MobileNetV2, from half the sides to a thirty-second; at each place the channels have unit
    length, and the squared difference is averaged over places, then over maps (and frames). LPIPS does so with other
    networks and with weights learned from people; these are unweighted, so the figures differ. Pictures are compared
    at their own size, of at least 32 px.

    >>> pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3))
    >>> bool(np.array(perceptual(pictures, pictures)).max() < 1e-6)
    True
    """
    first, second = ops.cast(first, "float32"), ops.cast(second, "float32")
    for shape in (tuple(first.shape), tuple(second.shape)):
        if len(shape) not in (4, 5) or shape[-1] != 3 or min(side or SMALLEST for side in shape[-3:-1]) < SMALLEST:
            raise ValueError(f"pictures {shape}: expected (n, h, w, 3) or (n, frames, h, w, 3), at least {SMALLEST} px")
    *clips, height, width, channels = ops.shape(first)
    both = ops.reshape(ops.stack([first, second]), (-1, height, width, channels))  # all of the first, then the second
    distances = _apart(_maps()(both, training=False))
    return ops.mean(ops.reshape(distances, clips), axis=1) if len(first.shape) == 5 else distances


def _apart(maps: Sequence[Any]) -> Any:
    """Return the distance of the first half of the rows of all maps from the second half."""
    distances = []
    for features in maps:  # (2 n, rows, columns, channels)
        unit = features * ops.rsqrt(ops.sum(ops.square(features), axis=-1, keepdims=True) + 1e-8)
        half = ops.shape(unit)[0] // 2
        distances.append(ops.mean(ops.sum(ops.square(unit[:half] - unit[half:]), axis=-1), axis=(1, 2)))
    return sum(distances) / len(distances)


@register
class Perceptual(keras.metrics.Mean):
    """Mean perceptual distance of pictures 0-255 (batch, h, w, 3) or clips, as `perceptual` measures it.

    >>> metric = Perceptual()
    >>> metric.update_state(np.zeros((1, 32, 32, 3)), np.zeros((1, 32, 32, 3)))
    >>> round(float(metric.result()), 6)
    0.0
    """

    def __init__(self, name: str = "perceptual", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        objectives.set_direction(self, "down")
        _maps()  # weights are loaded here, not in a traced step

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        super().update_state(perceptual(y_true, y_pred), sample_weight)


def frechet(a: Any, b: Any) -> float:
    """Return the Fréchet distance of the Gaussians fitted to features (n, d) and (m, d), squared as in FID.

    The trace of the covariances' joint root is the sum of singular values of the product of the centred rows, so no
    root of a singular matrix is taken where n < d. Its bias falls with the number of rows and is large where n < d:
    compare only figures of equal n and m.

    >>> line = np.array([[-1.0], [1.0]])
    >>> round(frechet(line, 2 * line + 3), 6)  # 3² + (2 - 1)² × variance
    11.0
    """
    a, b = _checked(a, b)
    first, second = _root(a), _root(b)
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    joint = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    return float(max(shift + np.square(first).sum() + np.square(second).sum() - 2 * joint, 0.0))


def _root(rows: np.ndarray) -> np.ndarray:
    """Return R with Rᵀ R = the covariance of the rows, and no more rows than columns unless there were fewer."""
    centred = (rows - rows.mean(axis=0)) / np.sqrt(len(rows) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(rows) > rows.shape[1] else centred


def kernel_distance(a: Any, b: Any) -> float:
    """Return the squared maximum mean discrepancy of features (n, d) and (m, d), kernel (x·y / d + 1)³, as in KID.

    This is the unbiased estimate: its expectation does not depend on n and m, and is 0 for equal distributions. So it
    can be below 0, and it compares sets of different sizes, which `frechet` does not.

    >>> round(kernel_distance([[0.0], [0.0]], [[1.0], [1.0]]), 6)  # 1 + 8 - 2 × 1
    7.0
    """
    a, b = _checked(a, b)

    def total(first: np.ndarray, second: np.ndarray) -> float:
        return sum(float(np.power(block @ second.T / a.shape[1] + 1, 3).sum()) for _, block in _blocks(first))

    def within(rows: np.ndarray) -> float:  # without the pairs of a row with itself
        own = float(np.power(np.square(rows).sum(axis=1) / a.shape[1] + 1, 3).sum())
        return (total(rows, rows) - own) / (len(rows) * (len(rows) - 1))

    return within(a) + within(b) - 2 * total(a, b) / (len(a) * len(b))


def precision_recall(real: Any, drawn: Any, k: int = 3) -> dict[str, Measure]:
    """Measure precision and recall (Kynkäänniemi et al., 2019), density and coverage (Naeem et al., 2020) of features.

    A ball around each row reaches to its k-th nearest neighbour in its own set. Precision is the share of drawn rows
    in a ball of a real one, recall the share of real rows in a ball of a drawn one; density is the mean number of real
    balls around a drawn row, divided by k, and coverage the share of real balls with a drawn row inside. The rows of
    precision and density are the drawn ones, those of recall and coverage the real ones. The ball of one unusual real
    picture is large, so white pictures can have precision 1: read it beside density and recall.

    >>> real = np.arange(10.0)[:, None]
    >>> measures = precision_recall(real, real[:5] + 0.1, k=1)
    >>> {name: measure.value for name, measure in measures.items()}
    {'precision': 1.0, 'density': 2.0, 'recall': 0.6, 'coverage': 0.6}
    """
    real, drawn = _checked(real, drawn, k + 1)
    reach, drawn_reach = _reach(real, k), _reach(drawn, k)
    balls, recall, coverage = np.zeros(len(drawn)), [], []
    for start, block in _blocks(real):
        distances = _squared(block, drawn)  # (real, drawn)
        inside = distances <= reach[start : start + len(block), None]
        balls += inside.sum(axis=0)
        coverage.append(inside.any(axis=1))
        recall.append((distances <= drawn_reach).any(axis=1))
    of_real = {"recall": mean(np.concatenate(recall)), "coverage": mean(np.concatenate(coverage))}
    return {"precision": mean(balls > 0), "density": mean(balls / k), **of_real}


def nearest(drawn: Any, training: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of the nearest training features for each row of `drawn`, and the distance; 0 is a copy.

    >>> nearest([[0.0], [5.0]], [[4.0], [0.0], [9.0]])
    (array([1, 0]), array([0., 1.]))
    """
    drawn, training = _checked(drawn, training, 1)
    index, best = np.zeros(len(drawn), int), np.full(len(drawn), np.inf)
    for start, rows in _blocks(drawn):
        part = slice(start, start + len(rows))
        for offset, candidates in _blocks(training):
            distances = _squared(rows, candidates)
            found = distances.argmin(axis=1)
            least = distances[np.arange(len(rows)), found]
            closer = least < best[part]
            index[part][closer], best[part][closer] = found[closer] + offset, least[closer]
    exact = [np.linalg.norm(rows - training[index[start : start + BLOCK]], axis=1) for start, rows in _blocks(drawn)]
    return index, np.concatenate(exact)


def _checked(a: Any, b: Any, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features {a.shape} and {b.shape}: expected (n, d) and (m, d)")
    if min(len(a), len(b)) < least:
        raise ValueError(f"{len(a)} and {len(b)} rows: expected {least} or more of each")
    return a, b


def _blocks(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(rows), BLOCK):
        yield start, rows[start : start + BLOCK]


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return squared distances (a, b). What is within rounding of float32 features is 0, so that copies are equal."""
    lengths = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)
    squared = lengths - 2 * (a @ b.T)
    return np.where(squared < 1e-11 * lengths, 0.0, squared)


def _reach(rows: np.ndarray, k: int) -> np.ndarray:
    """Return the squared distance of each row from its k-th nearest other row."""
    return np.concatenate([np.partition(_squared(block, rows), k, axis=1)[:, k] for _, block in _blocks(rows)])


def r_precision(
    similarity: Any, own: Any, candidates: int = 100, seed: int = 0, texts: Sequence[Hashable] | None = None
) -> Measure:
    """Measure the share of pictures whose own text ranks first among itself and `candidates - 1` others at random.

    `similarity` is (pictures, texts), and `own[i]` the column of picture i's text. Give `texts`, the columns' texts,
    where one may occur twice: columns equal to a picture's own are never among the others. An equal score of another
    text counts as a miss, so that constant scores get no credit. Chance is 1 / candidates.

    >>> r_precision(np.eye(4), [0, 1, 2, 0], candidates=3).value
    0.75
    """
    similarity, own = np.asarray(similarity, float), np.asarray(own, int)
    names = range(similarity.shape[-1]) if texts is None else texts
    if similarity.shape != (len(own), len(names)) or candidates < 2:
        raise ValueError(f"similarity {similarity.shape}, {len(own)} own, {len(names)} texts, {candidates} candidates")
    numbers = {text: number for number, text in enumerate(names)}
    text_of = np.array([numbers[text] for text in names])  # equal texts have equal numbers
    random, hits = np.random.default_rng(seed), []
    for scores, column in zip(similarity, own, strict=True):
        others = np.flatnonzero(text_of != text_of[column])
        if len(others) < candidates - 1:
            raise ValueError(f"{len(others)} other texts: expected {candidates - 1}, so give fewer `candidates`")
        rivals = random.choice(others, candidates - 1, replace=False)
        hits.append(bool(scores[column] > scores[rivals].max()))  # NaN is a miss
    return mean(hits)


def diversity(distance: Any, groups: Sequence[Hashable], pairs: int = 10, seed: int = 0) -> Measure:
    """Measure the mean distance of two pictures of one group (a prompt); the measure's rows are the groups.

    `distance` is a matrix (n, n), or a function from two arrays of indices to the distances of those pairs. At most
    `pairs` of a group, drawn at random, are compared. Groups of a single picture are left out.

    >>> places = np.array([0.0, 1.0, 5.0, 8.0, 3.0])
    >>> diversity(lambda i, j: abs(places[i] - places[j]), ["cat", "cat", "dog", "dog", "owl"]).value
    2.0
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    random, chosen = np.random.default_rng(seed), []
    for number, rows in enumerate(rows for rows in members.values() if len(rows) > 1):
        possible = list(combinations(rows, 2))
        chosen += [(number, *possible[one]) for one in random.permutation(len(possible))[:pairs]]
    if not chosen:
        raise ValueError("no group has two pictures: diversity compares pictures of the same prompt")
    of, i, j = np.array(chosen).T
    values = np.asarray(distance(i, j) if callable(distance) else np.asarray(distance)[i, j], float)
    return mean(np.bincount(of, values) / np.bincount(of))


def perceptual_of(pictures: np.ndarray, batch_size: int = 32) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function from two arrays of indices to the perceptual distances of those pictures, in batches.

    Pictures that are too small for the network are enlarged, pixel by pixel.
    """
    frames = pictures.reshape(len(pictures), -1, *pictures.shape[-3:])
    times = -(-SMALLEST // min(frames.shape[2:4]))
    frames = frames.repeat(times, axis=2).repeat(times, axis=3) if times > 1 else frames

    def run(pairs: np.ndarray) -> np.ndarray:  # (batch, 2)
        first, second = (frames[pairs[:, side]].reshape(-1, *frames.shape[2:]) for side in (0, 1))
        distances = _apart(_maps().predict_on_batch(np.concatenate([first, second]).astype("float32")))
        return np.asarray(distances).reshape(len(pairs), -1).mean(axis=1)

    return lambda i, j: run_in_batches(run, np.stack([i, j], axis=1), max(1, batch_size // frames.shape[1]))
