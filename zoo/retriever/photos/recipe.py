"""Releases `retriever/photos`, which learned on a GPU: python -m zoo.retriever.photos.recipe (`recipes.gpu` first)"""

from recipes.families import photos
from recipes.steps import main

RELEASE = photos.searcher(__file__)

if __name__ == "__main__":
    main(RELEASE)
