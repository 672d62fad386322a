"""Trains and releases `cross_attn_classifier/fashion`: python -m zoo.cross_attn_classifier.fashion.recipe"""

from recipes.families import products
from recipes.steps import main

RELEASE = products.labeller(__file__)

if __name__ == "__main__":
    main(RELEASE)
