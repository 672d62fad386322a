"""Trains and releases `cross_attn_vqa/easy_vqa`: python -m zoo.cross_attn_vqa.easy_vqa.recipe"""

from recipes.families import shapes
from recipes.steps import main

RELEASE = shapes.answerer(__file__, "every word attends to the picture by cross-attention")

if __name__ == "__main__":
    main(RELEASE)
