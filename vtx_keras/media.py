"""The public name of `vtx_keras.inputs.media` (images and clips): importing either gives the same module."""

import sys

from vtx_keras.inputs import media

sys.modules[__name__] = media
