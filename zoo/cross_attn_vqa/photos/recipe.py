"""Trains and releases `cross_attn_vqa/photos`: python -m zoo.cross_attn_vqa.photos.recipe"""

from recipes.families import photo_questions
from recipes.steps import main

RELEASE = photo_questions.answerer(__file__, "every word attends to the image and to the concepts by cross-attention")

if __name__ == "__main__":
    main(RELEASE)
