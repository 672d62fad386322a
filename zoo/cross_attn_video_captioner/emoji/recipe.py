"""Trains and releases `cross_attn_video_captioner/emoji`: python -m zoo.cross_attn_video_captioner.emoji.recipe"""

from recipes.families import drawings
from recipes.release import Release
from recipes.steps import main

RELEASE = Release(
    __file__,
    about="Writes the name of an animated emoji, from eight frames of 97 × 97 px.",
    expect="It starts from [cross_attn_captioner](../../cross_attn_captioner/emoji/README.md), and was trained on some "
    "1,400 clips by one artist. A concept that it was not trained on gets the nearest name it was trained on.",
    sets=("emoji_video", "emoji", "emoji_more", "word_cards"),
    examples=drawings.clips,
    eval_splits={"test": "concepts never trained on", "composition": drawings.EMOJI_SPLITS["composition"]},
    eval_data="emoji_video",
    options={"image_shape": (8, 97, 97, 3)},
    start_from="cross_attn_captioner/emoji",
    copies=4,
    epochs=12,
    learning_rate=5e-4,
    batch_size=32,
)

if __name__ == "__main__":
    main(RELEASE)
