"""Trains and releases `co_attn_vqa/easy_vqa`: python -m zoo.co_attn_vqa.easy_vqa.recipe"""

from recipes.families import shapes
from recipes.steps import main

RELEASE = shapes.answerer(__file__, "picture and words attend to each other")

if __name__ == "__main__":
    main(RELEASE)
