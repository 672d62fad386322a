"""Trains and releases `cross_attn_matcher/photos`: python -m zoo.cross_attn_matcher.photos.recipe"""

from recipes.families import photo_pairs
from recipes.steps import main

RELEASE = photo_pairs.matcher(__file__, "every word attends to the image and to the concepts by cross-attention")

if __name__ == "__main__":
    main(RELEASE)
