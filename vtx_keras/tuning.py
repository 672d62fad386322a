"""The public name of `vtx_keras.models.objectives` (losses, optimizers): importing either gives the same module."""

import sys

from vtx_keras.models import objectives

sys.modules[__name__] = objectives
