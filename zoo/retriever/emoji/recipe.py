"""Trains and releases `retriever/emoji`: python -m zoo.retriever.emoji.recipe"""

from zoo import making

RELEASE = making.Release(
    __file__,
    about="Finds the picture of a name and the name of a picture, among emoji and drawings: two towers.",
    expect="It knows the words of the concepts it was trained on; among unseen names it goes by shared words. "
    "Photographs are not what it was trained on.",
    sets=("emoji", "word_cards"),
    examples=making.emoji_names,
    judged={split: what for split, what in making.EMOJI_SPLITS.items() if split != "composition"},
    eval_data="emoji",
    copies=4,
    epochs=6,
    batch_size=256,
    shown="vendor",
)

if __name__ == "__main__":
    making.main(RELEASE)
