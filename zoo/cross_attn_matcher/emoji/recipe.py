"""Trains and releases `cross_attn_matcher/emoji`: python -m zoo.cross_attn_matcher.emoji.recipe"""

from zoo import families, making

RELEASE = making.Release(
    __file__,
    about="Says how well a name fits an emoji's picture or a drawing: a judge of what the retriever found.",
    expect="It was taught with names of other pictures drawn at random, so names that differ in one word (a tone, a "
    "gender) are the hard ones.",
    sets=("emoji", "emoji_more", "word_cards"),
    examples=families.emoji_names,
    judged={split: what for split, what in families.EMOJI_SPLITS.items() if split != "composition"},
    eval_data="emoji",
    options={"depth": 2},
    copies=2,
    epochs=6,
)

if __name__ == "__main__":
    making.main(RELEASE)
