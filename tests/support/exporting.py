"""What the tests of exports share."""

from __future__ import annotations

import keras
import numpy as np
from toys import decisive, pictures, toy


def few(model, count=6):
    """A few examples for `verify_data`."""
    images = pictures(model, count).astype("uint8")
    keys = {"caption": "w1 w2", "question": "w1 w3", "answer": "no"}
    return [{"image": image, **keys} for image in images]


def convolving():
    """A model whose image encoder is a depthwise convolution and one across channels, and the weights of both."""
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = keras.layers.DepthwiseConv2D(7, depth_multiplier=8)(image)
    encoder = keras.Model(image, keras.layers.Conv2D(64, 5, 8)(x), name="small")
    model = toy("cross_attn_captioner", image_encoder=encoder)
    return model, [np.array(weight) for weight in model.get_layer("image_encoder").weights if len(weight.shape) == 4]


def as_bytes(kernel):
    """int8 weights with a scale for each channel, the first axis."""
    return np.rint(kernel * (127 / np.abs(kernel).max(axis=(1, 2, 3), keepdims=True))).astype("int8")


def assert_near(found, model, image):
    """Within the error of 8-bit weights; rounding the activations too would double it."""
    expected = np.array(model.get_layer("image_encoder")(image.astype("float32")))
    assert 0 < np.abs(found - expected).max() < 0.007 * np.abs(expected).max()


def made(name):
    return decisive(name) if name.endswith("captioner") else toy(name)
