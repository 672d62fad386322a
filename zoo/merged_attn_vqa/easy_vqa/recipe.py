"""Trains and releases `merged_attn_vqa/easy_vqa`: python -m zoo.merged_attn_vqa.easy_vqa.recipe"""

from recipes.families import shapes
from recipes.steps import main

RELEASE = shapes.answerer(__file__, "picture and words are one sequence under self-attention")

if __name__ == "__main__":
    main(RELEASE)
