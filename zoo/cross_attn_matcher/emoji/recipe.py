"""Trains and releases `cross_attn_matcher/emoji`: python -m zoo.cross_attn_matcher.emoji.recipe"""

from recipes.families import drawings, retrieval
from recipes.release import Release
from recipes.steps import main

RELEASE = Release(
    __file__,
    about="Predicts how well a name fits the picture of an emoji or of another drawing.",
    expect="Its negative examples were names of other pictures drawn at random, so names that differ in one word (a "
    "tone, a gender) are hard for it: do not use it to order search results.",
    sets=("emoji", "emoji_more", "word_cards"),
    examples=drawings.emoji_names,
    eval_splits={split: drawings.EMOJI_SPLITS[split] for split in ("vendor", "test")},
    eval_data="emoji",
    options={"depth": 2},
    copies=2,
    epochs=4,
    besides=retrieval.reranked,
)

if __name__ == "__main__":
    main(RELEASE)
