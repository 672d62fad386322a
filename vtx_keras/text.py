"""The public name of `vtx_keras.inputs.text` (texts and vocabularies): importing either gives the same module."""

import sys

from vtx_keras.inputs import text

sys.modules[__name__] = text
