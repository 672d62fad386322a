"""Trains and releases `cross_attn_captioner/photos`: python -m zoo.cross_attn_captioner.photos.recipe"""

from recipes.families import photos
from recipes.steps import main

RELEASE = photos.captioner(__file__, "every word attends to the image and to the concepts by cross-attention")

if __name__ == "__main__":
    main(RELEASE)
