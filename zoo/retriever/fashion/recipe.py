"""Trains and releases `retriever/fashion`: python -m zoo.retriever.fashion.recipe"""

from recipes.families import products
from recipes.steps import main

RELEASE = products.searcher(__file__)

if __name__ == "__main__":
    main(RELEASE)
