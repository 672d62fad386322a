"""The inputs of the references and of the encoders: ten photographs, and sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
PHOTOS = sorted((HERE.parents[2] / "vtx_keras/sample/photos").glob("*.jpg"))
SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
SIZES |= {"mobilenet_v2": 224, "resnet50": 224}
ODD = (97, 131)  # a size that no padding rule meets by accident
SENTENCES = [
    "A cat looks to the side.",
    "a tabby kitten, looking away",
    "The rocket stands on its launch pad at dusk; four masts keep the lightning off it.",
    "Espresso!",
]


def pixels(height: int, width: int, count: int = 10) -> np.ndarray:
    """The first photographs as float32 (count, height, width, 3), 0-255."""
    assert len(PHOTOS) == 10, PHOTOS
    opened = [Image.open(path).convert("RGB") for path in PHOTOS[:count]]
    return np.stack([np.asarray(image.resize((width, height), Image.BICUBIC), "float32") for image in opened])
