"""Trains and releases `concat_mlp_vqa/easy_vqa`: python -m zoo.concat_mlp_vqa.easy_vqa.recipe"""

from recipes.families import shapes
from recipes.steps import main

RELEASE = shapes.answerer(__file__, "an MLP mixes the picture's mean into every word")

if __name__ == "__main__":
    main(RELEASE)
