"""Trains and releases `cross_attn_generator/shapes`: python -m zoo.cross_attn_generator.shapes.recipe"""

from recipes.families import words_to_pictures
from recipes.steps import main

RELEASE = words_to_pictures.shapes(__file__, epochs=92)

if __name__ == "__main__":
    main(RELEASE)
