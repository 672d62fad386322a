"""Trains and releases `cross_attn_captioner/languages`: python -m zoo.cross_attn_captioner.languages.recipe"""

import tensorflow as tf

from vtx_keras import data
from vtx_keras.data._load import adapted
from vtx_keras.data.sets import LANGUAGES
from recipes import families, release as making

ALL = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "zh": "Chinese", "ja": "Japanese"}
ALL |= {"ar": "Arabic", "hi": "Hindi"}


def named(split: str) -> tf.data.Dataset:
    """Emoji and their names, the language as the prompt: "vendor, de" is one language, "train" all of them."""
    part, _, language = split.partition(", ")
    return families.joined(*(prompted(part, each) for each in ([language] if language else LANGUAGES)))


def prompted(part: str, language: str) -> tf.data.Dataset:
    """Names in one language."""
    rows = data.load(f"emoji/{language}", part).encoded
    return adapted(rows.map(lambda row: {**row, "prompt": f"{language}:"}))


RELEASE = families.captioner(
    __file__,
    "every word looks at the picture by cross-attention",
    about="Says the name of an emoji's picture in the language that the prompt asks for: "
    f'`generate(picture, prompt="de:")`; {", ".join(f"`{code}:` {name}" for code, name in ALL.items())}. '
    "MobileNetV2, trained on to see emoji, reads it at 97 × 97 px; in three decoder blocks of width 192 every word "
    "looks at the picture by cross-attention.",
    expect="It writes the language's code first, then the name. It names what it has learned, also in the hand of an "
    "artist it never saw, though skin tones there are often told wrong. It learned from `emoji` alone; the English "
    "captioner, which knows five more artists, is better in English. Chinese and Japanese names are one word to the "
    "word metrics: go by the exact match.",
    sets=("emoji",),
    examples=named,
    judged={f"vendor, {each}": f"an artist never trained on, names in {ALL[each]}" for each in LANGUAGES},
    vocabulary_size=8000,
    copies=2,
    epochs=2,
    far_epochs=20,
    batch_size=256,
    baselines_of=None,
    baselines=("most_frequent", "nearest_neighbour"),
    taught=lambda split: (
        f"train, {split.partition(', ')[2]}"
    ),  # what is most frequent in the language that is asked for
    eval_data='emoji/{part} --prompt "{part}:"',
    shown="vendor",
)

if __name__ == "__main__":
    making.main(RELEASE)
