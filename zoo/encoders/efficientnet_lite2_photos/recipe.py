"""Releases the encoder `efficientnet_lite2_photos`: python -m zoo.encoders.efficientnet_lite2_photos.recipe

`recipes.gpu.pack` and `recipes.gpu.tune` come before: they train it, on a GPU.
"""

import sys
from pathlib import Path

from recipes.gpu.release import release

if __name__ == "__main__":
    release(Path(__file__).parent, sys.argv[1:])
