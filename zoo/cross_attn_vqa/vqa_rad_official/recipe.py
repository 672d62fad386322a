"""Trains and releases `cross_attn_vqa/vqa_rad_official`: python -m zoo.cross_attn_vqa.vqa_rad_official.recipe"""

from recipes.families import radiology
from recipes.steps import main

RELEASE = radiology.answerer(__file__, "official")

if __name__ == "__main__":
    main(RELEASE)
