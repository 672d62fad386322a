"""How fast this machine can be at most, and so what a model's caption takes at least: a roofline.

A processor multiplies matrices at most so fast, and reads what it multiplies at most so fast; a part of a model takes
no less than the longer of the two (Williams et al. 2009, https://doi.org/10.1145/1498765.1498785).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from vtx_keras.compress._cost import flops
from vtx_keras.models._base import VisionText

__all__ = ["Machine", "Part", "least_ms", "machine", "parts_of"]
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
MEASURE = """
import json, sys, time
import numpy as np
import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)

def best(run, seconds=0.5):
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)

def fastest(one, other):
    ours, theirs = tf.constant(one), tf.constant(other)
    return min(best(lambda: one @ other), best(lambda: tf.matmul(ours, theirs).numpy()))

side = 1024
square = np.ones((side, side), "float32")
long = np.ones((max(1, int(sys.argv[1]) // 4096), 1024), "float32")
print(json.dumps([2 * side**3 / fastest(square, square), long.nbytes / fastest(long, long[:1].T.copy())]))
"""


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
