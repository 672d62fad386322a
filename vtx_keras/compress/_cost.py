"""Count what a model computes, and tell what this machine needs for it at least: a roofline.

A processor multiplies matrices at most so fast, and reads what it multiplies at most so fast; a part of a model takes
no less than the longer of the two (Williams et al. 2009, https://doi.org/10.1145/1498765.1498785).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from vtx_keras.compress._units import watched
from vtx_keras.inputs.text import START
from vtx_keras.models._base import VisionText, leaves
from vtx_keras.models._methods import Captioner
from vtx_keras.models.blocks import Attention
from vtx_keras.models.concepts import Concepts

__all__ = ["Machine", "Part", "flops", "least_ms", "machine", "parts_of"]
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
MEASURE = """
import json, sys, time
import numpy as np
try:
    import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
except ImportError:
    tf = None

def best(run, seconds=0.5):
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)

def fastest(one, other):
    plain = best(lambda: one @ other)
    if tf is None:
        return plain
    ours, theirs = tf.constant(one), tf.constant(other)
    return min(plain, best(lambda: tf.matmul(ours, theirs).numpy()))

side = 1024
square = np.ones((side, side), "float32")
long = np.ones((max(1, int(sys.argv[1]) // 4096), 1024), "float32")
print(json.dumps([2 * side**3 / fastest(square, square), long.nbytes / fastest(long, long[:1].T.copy())]))
"""


def flops(model: VisionText, length: int | None = None) -> dict[str, int]:
    """Return what a model computes for one picture: "encode", the image encoder, and "text", all else.

    A multiplication and an addition count as two; what is not a matrix product or a convolution (norms, activations,
    softmax, recurrent layers), and what keras-hub's own attention multiplies, does not count. The text has `length`
    tokens, by default as many as the model reads at most. A captioner also has "word": what each further word costs at
    that length, beside those before it.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> counts = flops(model, 8)
    >>> sorted(counts), counts["encode"] > 2 * 32 * 32 * 3 * 32
    (['encode', 'text', 'word'], True)
    """
    if not isinstance(model, VisionText) or "image" not in model.input:
        raise TypeError(f"expected a model of the zoo that sees, not a {type(model).__name__}")
    length = length or model.options["max_length"]
    if length < 1:
        raise ValueError(f"length={length}: expected at least 1")
    counts = _counted(model, length)
    if isinstance(model, Captioner) and length > 1:
        counts["word"] = counts["text"] - _counted(model, length - 1)["text"]
    return counts


def _counted(model: VisionText, length: int) -> dict[str, int]:
    """Run one picture and a text eagerly, and count what each layer computes."""
    seeing = [model.get_layer("image_encoder")] if model.has_layer("image_encoder") else []
    encoder = {id(leaf) for one in seeing for leaf in leaves(one)}
    counts = {"encode": 0, "text": 0}

    def seen(layer: Any, output: Any, *inputs: Any) -> None:
        counts["encode" if id(layer) in encoder else "text"] += _of(layer, output, *inputs)

    def attended(layer: Any, output: Any, x: Any, keys: Any, *others: Any) -> None:
        del output, others
        part = "encode" if any(id(leaf) in encoder for leaf in leaves(layer)) else "text"
        counts[part] += 4 * layer.heads * layer.width * x.shape[1] * keys.shape[-1] * x.shape[0]

    attentions = [one for one in leaves(model, stop_at=Attention) if isinstance(one, Attention)]
    image = np.zeros((1, *model.image_shape), "float32")
    inputs = {"image": image, "tokens": np.full((1, length), START, "int32")}
    with contextlib.ExitStack() as watching:
        watching.enter_context(watched(leaves(model), seen))
        watching.enter_context(watched(attentions, attended, "attend"))
        watching.enter_context(warnings.catch_warnings(action="ignore"))  # Keras wonders at a softmax over one token
        model({name: inputs[name] for name in model.input}, training=False)
    return counts


def _of(layer: Any, output: Any, *inputs: Any) -> int:
    """Return what one call of a layer computes."""
    of: dict[type, Callable[[], int]] = {
        keras.layers.DepthwiseConv2D: lambda: 2 * math.prod(output.shape) * math.prod(layer.kernel.shape[:2]),
        keras.layers.Conv2D: lambda: 2 * math.prod(output.shape) * math.prod(layer.kernel.shape[:3]),
        keras.layers.Dense: lambda: 2 * math.prod(output.shape) * layer.kernel.shape[0],
        keras.layers.EinsumDense: lambda: 2 * math.prod(inputs[0].shape[:2]) * math.prod(layer.kernel.shape),
        Concepts: lambda: 2 * sum(math.prod(one.shape) for one in layer.weights if len(one.shape) == 2),
    }  # fmt: skip
    if isinstance(layer, keras.layers.ReversibleEmbedding):
        words = output.shape[-1] == layer.input_dim and inputs[0].shape[-1] == layer.output_dim
        return 2 * math.prod(output.shape) * layer.output_dim if words else 0
    return next((count() for kind, count in of.items() if isinstance(layer, kind)), 0)


# --- what a machine needs at least


@dataclass(frozen=True)
class Machine:
    """What one thread of a machine does at most in a second, in float32."""

    flops: float  # of a product of two matrices of 1024 × 1024
    bytes: float  # read by a product of a matrix and a vector, the matrix as large as was asked


@dataclass(frozen=True)
class Part:
    """A part of a model: what it computes and reads, and how often it runs for a picture."""

    flops: int
    bytes: int
    times: float = 1

    def seconds(self, machine: Machine) -> float:
        """Return what all its runs take at least."""
        return self.times * max(self.flops / machine.flops, self.bytes / machine.bytes)


def machine(read: int = 2**24) -> Machine:
    """Measure this machine on one thread, in a process of its own; weights of `read` bytes are read again and again.

    Smaller ones stay in a cache, so the size matters. The faster of NumPy and TensorFlow counts. It takes five seconds.

    >>> machine().flops > 1e8
    True
    """
    threads = dict.fromkeys(THREADS, "1")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(read)],
        capture_output=True, text=True, check=True, env={**os.environ, **threads, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    return Machine(*json.loads(done.stdout.splitlines()[-1]))


def parts_of(model: VisionText, words: float = 0, beams: int = 1) -> dict[str, Part]:
    """Return the parts that run for one picture: "encode" and "text", or of a captioner "encode", "once" and "word".

    A captioner's "word" runs `words` times, by default as often as its longest text; "once" is what is computed of the
    picture before the first word. In float32, whatever a word's two operations multiply is read from memory once:
    weights, and keys and values of words before. Beams read the same weights.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> [(name, part.times) for name, part in parts_of(model, words=9).items()]
    [('encode', 1), ('once', 1), ('word', 9)]
    """
    counts: dict[str, Any] = flops(model, 2)
    encoder = model.get_layer("image_encoder").count_params() if model.has_layer("image_encoder") else 0
    stored, seen = 4 * (model.count_params() - encoder), Part(counts["encode"], 4 * encoder)
    if "word" not in counts:
        whole = flops(model)
        return {"encode": seen, "text": Part(whole["text"], stored)}
    words = words or model.options["max_length"] - 1
    each = flops(model, max(2, round(words / 2)))["word"]  # of one in the middle
    once = max(0, counts["text"] - 2 * counts["word"])
    return {"encode": seen, "once": Part(once, min(2 * once, stored)), "word": Part(beams * each, 2 * each, words)}


def least_ms(model: VisionText, words: float = 0, beams: int = 1) -> float:
    """Return how long a picture takes at least on one thread of this machine, in float32."""
    parts = parts_of(model, words, beams)
    here = machine(parts["word" if "word" in parts else "text"].bytes)
    return 1000 * sum(part.seconds(here) for part in parts.values())
