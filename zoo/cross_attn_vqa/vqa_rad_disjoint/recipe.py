"""Trains and releases `cross_attn_vqa/vqa_rad_disjoint`: python -m zoo.cross_attn_vqa.vqa_rad_disjoint.recipe"""

from recipes.families import radiology
from recipes.steps import main

RELEASE = radiology.answerer(__file__, "disjoint")

if __name__ == "__main__":
    main(RELEASE)
