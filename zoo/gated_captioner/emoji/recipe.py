"""Trains and releases `gated_captioner/emoji`: python -m zoo.gated_captioner.emoji.recipe"""

from recipes.families import drawings
from recipes.steps import main

RELEASE = drawings.captioner(__file__, "a gate like a GRU's mixes the picture into every word")

if __name__ == "__main__":
    main(RELEASE)
