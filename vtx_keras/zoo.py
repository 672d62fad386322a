"""Models by name: list, describe, build, load and save them.

>>> from vtx_keras import zoo
>>> model = zoo.build("gated_vqa", weights=None, dim=32, depth=1, image_shape=(32, 32, 3), classes=["no", "yes"])
>>> model.output_shape
(None, 2)
"""

from vtx_keras.checkpoints._folder import describe, list_models
from vtx_keras.checkpoints._restore import build, is_saved, load, named, push, save
from vtx_keras.models.options import MODELS, lookup

__all__ = ["MODELS", "build", "describe", "is_saved", "list_models", "load", "lookup", "named", "push", "save"]
