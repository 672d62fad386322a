"""Trains and releases `merged_attn_captioner/emoji`: python -m zoo.merged_attn_captioner.emoji.recipe"""

from recipes.families import drawings
from recipes.steps import main

RELEASE = drawings.captioner(__file__, "picture and words are one sequence under self-attention")

if __name__ == "__main__":
    main(RELEASE)
