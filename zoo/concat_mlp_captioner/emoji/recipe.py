"""Trains and releases `concat_mlp_captioner/emoji`: python -m zoo.concat_mlp_captioner.emoji.recipe"""

from recipes.families import drawings
from recipes.steps import main

RELEASE = drawings.captioner(__file__, "an MLP mixes the picture's mean into every word")

if __name__ == "__main__":
    main(RELEASE)
