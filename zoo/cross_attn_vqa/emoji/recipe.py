"""Trains and releases `cross_attn_vqa/emoji`: python -m zoo.cross_attn_vqa.emoji.recipe"""

from recipes.families import drawings, emoji_questions
from recipes.release import Release
from recipes.steps import main

RELEASE = Release(
    __file__,
    about="Answers questions about an emoji: what kind of thing it is, its skin tone, man or woman, how many people, "
    "and whether it is about something. **The questions are templates**, filled from Unicode's names, groups and "
    "keywords.",
    expect="It was not trained on any wording but its templates. Whether an emoji is *about* something is decided by "
    "Unicode's keywords.",
    sets=("emoji", "emoji_more"),
    examples=emoji_questions.questions,
    eval_splits={
        "vendor": drawings.EMOJI_SPLITS["vendor"],
        "test": drawings.EMOJI_SPLITS["test"],
        "test without picture": "the same questions about a blank picture, which shows how much it uses the picture",
    },
    options={"depth": 2, "text_depth": 1},
    vocabulary_size=3000,
    epochs=4,
    batch_size=128,
    baselines=("most_frequent", "question_alone"),
)

if __name__ == "__main__":
    main(RELEASE)
