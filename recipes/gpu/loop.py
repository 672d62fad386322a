"""What the stages of photographs on a GPU share: the packed data, one training loop, and how weights are kept.

It runs on JAX without TensorFlow. How long a stage takes is told in seconds: the learning rate falls with the clock.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from PIL import Image

from recipes.encoder import hardware
from vtx_keras._compat import sublayers

FOLDER = Path("runs/photographs")
ENCODER: dict[str, Any] = {"image_encoder": "efficientnet_lite2", "image_shape": (224, 224, 3), "resize": "stretch"}
BEHIND: dict[str, Any] = {"dim": 256, "heads": 4, "max_length": 22}
SPLITS = ("train", "validation", "coco")
PARTS = 4  # files of pictures
VIEWS = 6  # of each picture, whose features are kept
CAPTIONS = 5  # of each picture
WARM_UP = 50  # steps


def arguments(about: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every stage."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="what recipes.gpu.pack wrote")
    parser.add_argument("--out", type=Path, default=FOLDER / "out", help="for trained weights")
    parser.add_argument("--features", type=Path, default=FOLDER / "features", help="a gigabyte for each view")
    parser.add_argument("--views", type=int, default=VIEWS)
    parser.add_argument("--batch", type=int, default=128, help="pictures of a step")
    parser.add_argument("--judged", type=int, default=6, help="times that a stage is judged on validation")
    parser.add_argument("--most", type=int, help="steps of a stage, in place of seconds")
    return parser


def begun(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line; published encoders come from the packed folder."""
    args = parser.parse_args()
    os.environ.setdefault("VTX_KERAS_CACHE", str(args.folder / "encoders"))
    keras.utils.set_random_seed(0)
    return args


# --- data


class Packed(NamedTuple):
    """Pictures (n, side, side, 3) uint8, where each split begins and ends, and the arrays of texts."""

    pictures: np.ndarray
    places: dict[str, slice]
    texts: dict[str, np.ndarray]


def read(folder: Path, pictures: bool = True) -> Packed:
    """Read the packed files; the parts of the pictures in turn."""
    texts: dict[str, np.ndarray] = {}
    for name in ("texts.npz", "vectors.npz"):
        with np.load(folder / name) as packed:
            texts |= {key: packed[key] for key in packed}
    ends = np.cumsum([len(texts[f"{split}_ids"]) for split in SPLITS])
    places = {split: slice(end - len(texts[f"{split}_ids"]), end) for split, end in zip(SPLITS, ends, strict=True)}
    decoded = np.zeros((ends[-1] if pictures else 0, *ENCODER["image_shape"]), "uint8")
    with ThreadPoolExecutor(16) as threads:
        for part in range(PARTS if pictures else 0):
            with np.load(folder / f"pictures-{part}.npz") as packed:
                content, stops = packed["content"].tobytes(), np.cumsum(packed["sizes"])
            files = [content[a:b] for a, b in zip([0, *stops], stops, strict=False)]
            decoded[part::PARTS] = list(threads.map(_decoded, files))
    return Packed(decoded, places, texts)


def _decoded(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def in_turn(count: int, size: int, beside: int = 0, of: int = 1) -> Iterator[tuple]:
    """Yield `size` numbers below `count`, each once an epoch, and `beside` random numbers below `of`.

    >>> rows, others = next(in_turn(4, 2, 3, 9))
    >>> len(rows), len(others), bool(max(rows) < 4)
    (2, 3, True)
    """
    random = np.random.default_rng(0)
    while True:
        order = random.permutation(count)
        for at in range(0, count - size + 1, size):
            yield order[at : at + size], random.integers(0, of, beside)


# --- training


def trained(
    loss: Callable[[dict, tuple, Any], tuple[Any, dict]],
    variables: Sequence[Any],
    modules: Sequence[Any],
    store: dict,
    batches: Iterator[tuple],
    *,
    seconds: float,
    rate: float,
    paces: Sequence[float] | None = None,
    decay: float = 1e-4,
    ema: float = 0.995,
    judge: Callable[[], dict[str, float]] | None = None,
    judged: int = 6,
    most: int | None = None,
    name: str = "",
) -> list[dict[str, float]]:
    """Lower `loss(store, batch, key) -> (loss, figures)`, and leave an exponential mean of the variables in them.

    `modules` are the layers that `loss` calls; `store` lies on the GPU. `paces` scale the learning rate of each
    variable. With `judge` that mean is judged several times, and the one with the best "score" is kept. Return the
    judgements, each with the steps until then.
    """
    import jax

    paces = paces or [1.0] * len(variables)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=decay, global_clipnorm=1.0)
    optimizer.build(variables)
    of_rate = next(place for place, one in enumerate(optimizer.variables) if one.path.endswith("learning_rate"))
    inside = {id(one): one for module in modules for one in module.variables}
    seeds = [one for one in inside.values() if "seed_generator_state" in one.path]
    learned = {id(one) for one in (*variables, *seeds)}
    others = [one for number, one in inside.items() if number not in learned]

    def of_values(values: list, fixed: list, store: dict, batch: tuple, key: Any) -> tuple:
        keys = jax.random.split(key, len(seeds) + 1)
        drawn = [jax.random.bits(own, (2,), "uint32") for own in keys[1:]]
        pairs = zip([*variables, *others, *seeds], [*values, *fixed, *drawn], strict=True)
        with keras.StatelessScope(state_mapping=list(pairs)):
            return loss(store, batch, keys[0])

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(
        values: list, states: list, mean: list, fixed: list, store: dict, batch: tuple, key: Any, rate: Any
    ) -> Any:
        (_, figures), gradients = jax.value_and_grad(of_values, has_aux=True)(values, fixed, store, batch, key)
        states = [rate if place == of_rate else one for place, one in enumerate(states)]
        after, states = optimizer.stateless_apply(states, gradients, values)
        values = [old + pace * (new - old) for old, new, pace in zip(values, after, paces, strict=True)]
        mean = [ema * old + (1 - ema) * new for old, new in zip(mean, values, strict=True)]
        return values, states, mean, figures

    def copies(of: Sequence[Any]) -> list:  # a step takes the memory of what it is given
        return [jax.numpy.array(getattr(one, "value", one), copy=True) for one in of]

    values, mean, states = copies(variables), copies(variables), copies(optimizer.variables)
    fixed, key = [one.value for one in others], jax.random.key(0)
    judgements: list[dict[str, float]] = []
    kept, best, start, steps, share, next_judged = copies(mean), -math.inf, time.monotonic(), 0, 0.0, 1 / judged
    while share < 1:
        key, own = jax.random.split(key)
        now = rate * min(1.0, (steps + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * share))
        batch = next(batches)
        values, states, mean, figures = step(values, states, mean, fixed, store, batch, own, np.float32(now))
        steps += 1
        if steps == 1:
            jax.block_until_ready(values)
            say(name, f"compiled in {time.monotonic() - start:.0f} s")
            start = time.monotonic()
        if steps % 16 == 0:
            jax.block_until_ready(values)  # otherwise the clock runs ahead of the GPU
        share = steps / most if most else (time.monotonic() - start) / seconds
        if judge and (share >= next_judged or share >= 1):
            next_judged, pause = next_judged + 1 / judged, time.monotonic()
            _assign(variables, copies(mean))
            found = {label: round(value, 4) for label, value in judge().items()}
            told = {label: round(float(value), 4) for label, value in figures.items()}
            start += time.monotonic() - pause  # judging, and compiling for it, takes none of the seconds
            say(name, f"{steps} steps, {time.monotonic() - start:.0f} s: {told}, validation {found}")
            if found["score"] > best:
                kept, best = copies(mean), found["score"]
            judgements.append({"steps": steps, **found})
    _assign(variables, kept if judge else mean)
    return judgements


def _assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def inner(layer: Any) -> list:
    """Return a layer and all layers in it."""
    return [layer, *(one for part in sublayers(layer) for one in inner(part))]


def say(name: str, words: str) -> None:
    """Print a line at once, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {name}: {words}", flush=True)


# --- weights


def keep(path: Path, model: Any, **training: Any) -> None:
    """Store the weights of a model in their order, matrices as float16, and how they were trained."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = [np.asarray(one.value) for one in model.weights]
    small = [value.astype("float16") if value.ndim > 1 else value for value in values]
    with path.open("wb") as file:
        np.savez_compressed(file, **{f"{number:04d}": value for number, value in enumerate(small)})
    if training:
        path.with_suffix(".json").write_text(json.dumps({"hardware": hardware(), **training}, indent=1) + "\n")
    say("kept", f"{path}, {path.stat().st_size / 1e6:.1f} MB")


def give(path: Path, model: Any) -> None:
    """Set the weights of a model to what `keep` stored."""
    with np.load(path) as stored:
        _assign(model.weights, [stored[name].astype("float32") for name in sorted(stored)])
