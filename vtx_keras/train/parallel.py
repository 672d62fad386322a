"""Train on several devices or hosts.

with train.parallel.over("data"):
    model = zoo.build("cross_attn_captioner", weights=None)
    train.run(model, ds)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def over(kind: str = "data", devices: list[str] | None = None) -> Iterator[None]:
    """Spread over this host's devices: "data" splits each batch, "model" splits the wide matrices.

    On the TensorFlow backend "data" is `MirroredStrategy`; on JAX it is `keras.distribution.DataParallel`, over all
    hosts after `join`, and "model" is `ModelParallel`. Build and train inside; the batch must divide by the devices.

    `MirroredStrategy` takes the mean over words and clips gradients on each device separately, so words count slightly
    differently if the devices have different numbers of words. On JAX both apply to the whole batch.

    >>> with over("data"):
    ...     _ = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    """
    if kind not in ("data", "model"):
        raise ValueError(f'{kind!r}: expected "data" or "model"')
    if keras.backend.backend() == "tensorflow":
        if kind == "model":
            raise ValueError(
                "ModelParallel needs the JAX backend (KERAS_BACKEND=jax): on TensorFlow only the batch can be spread"
            )
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(devices).scope():
            yield
        return
    devices = devices or keras.distribution.list_devices()
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(_data(devices) if kind == "data" else _model(devices))
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def join(coordinator: str, processes: int, process: int) -> None:
    """Join a group of processes, one per host, that all run the same command with their own `process` number.

    `coordinator` is the address:port of process 0, which all must reach. Call this before anything is built.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            "many hosts need the JAX backend: with TensorFlow, MultiWorkerMirroredStrategy and Keras 3's fit do not "
            "work together. Set KERAS_BACKEND=jax and start the same command on each host"
        )
    if not 0 <= process < processes:
        raise ValueError(f"process {process} of {processes}: expected a number from 0 to {processes - 1}")
    keras.distribution.initialize(coordinator, processes, process)


def _data(devices: list[str]) -> keras.distribution.Distribution:
    return keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)


def _model(devices: list[str]) -> keras.distribution.Distribution:
    """Split matrices that widen by their outputs, and those that narrow by their inputs."""
    mesh = keras.distribution.DeviceMesh((1, len(devices)), ["batch", "model"], devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*(query|key_value|up|gates|candidate|from_text|from_image)/kernel"] = (None, "model")
    layout[".*(output|down|joined)/kernel"] = ("model", None)
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch", auto_shard_dataset=False)
