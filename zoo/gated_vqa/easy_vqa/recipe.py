"""Trains and releases `gated_vqa/easy_vqa`: python -m zoo.gated_vqa.easy_vqa.recipe"""

from recipes.families import shapes
from recipes.steps import main

RELEASE = shapes.answerer(__file__, "a gate like a GRU's mixes the picture into every word")

if __name__ == "__main__":
    main(RELEASE)
