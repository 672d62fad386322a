"""Trains and releases `cross_attn_video_captioner/emoji`: python -m zoo.cross_attn_video_captioner.emoji.recipe"""

import tensorflow as tf

from vtx_keras import data
from recipes import families, release as making


def clips(split: str) -> tf.data.Dataset:
    """Emoji that move, and their names."""
    return data.load("emoji_video", split)


RELEASE = making.Release(
    __file__,
    about="Says what an animated emoji shows, from eight frames of 97 × 97 px.",
    expect="It began as [cross_attn_captioner](../../cross_attn_captioner/emoji/README.md), and has seen some 1,400 "
    "clips by one artist. Of concepts it never saw it says the nearest name it knows.",
    sets=("emoji_video", "emoji", "emoji_more", "word_cards"),
    examples=clips,
    judged={"test": "concepts never trained on", "composition": families.EMOJI_SPLITS["composition"]},
    eval_data="emoji_video",
    options={"image_shape": (8, 97, 97, 3)},
    begins_as="cross_attn_captioner/emoji",
    copies=4,
    epochs=12,
    learning_rate=5e-4,
    batch_size=32,
)

if __name__ == "__main__":
    making.main(RELEASE)
