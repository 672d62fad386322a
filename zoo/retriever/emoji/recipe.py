"""Trains and releases `retriever/emoji`: python -m zoo.retriever.emoji.recipe

Its word vectors come from MiniLM: run `vtx convert minilm_l6` once, before.
"""

from recipes import word_vectors
from recipes.families import drawings, retrieval
from recipes.release import Release
from recipes.steps import main

RELEASE = Release(
    __file__,
    about="Finds the picture for a name and the name for a picture, among emoji and other drawings: two towers. Its "
    "word vectors are the main directions of MiniLM's and stay frozen, so it also finds things that it was not trained "
    "on if they resemble what it was.",
    expect="It finds what it was trained on. Of anything else it finds the kind of thing rather than the thing itself. "
    "It was not trained on photographs.",
    sets=("emoji", "emoji_more", "word_cards"),
    examples=retrieval.pairs,
    eval_splits={
        "vendor": drawings.EMOJI_SPLITS["vendor"],
        "vendor, one name each": retrieval.one_name_each("vendor"),
        "test": drawings.EMOJI_SPLITS["test"],
        "test, one name each": retrieval.one_name_each("test"),
    },
    eval_data="emoji",
    options={"text_depth": 2},
    vocabulary_size=None,
    prepare=word_vectors.give,
    copies=2,
    epochs=6,
    batch_size=256,
    example_split="vendor",
)

if __name__ == "__main__":
    main(RELEASE)
