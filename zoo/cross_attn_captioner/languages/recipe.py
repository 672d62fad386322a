"""Trains and releases `cross_attn_captioner/languages`: python -m zoo.cross_attn_captioner.languages.recipe"""

from recipes.families import drawings
from recipes.steps import main

LANGUAGES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "zh": "Chinese", "ja": "Japanese"}
LANGUAGES |= {"ar": "Arabic", "hi": "Hindi"}

RELEASE = drawings.captioner(
    __file__,
    "every word attends to the picture by cross-attention",
    about="Writes the name of an emoji in the language that the prompt names: "
    f'`generate(picture, prompt="de:")`; {", ".join(f"`{code}:` {name}" for code, name in LANGUAGES.items())}. '
    "The picture, at 97 × 97 px, is encoded by a MobileNetV2 that was trained further on emoji; in three decoder "
    "blocks of width 192 every word attends to the picture by cross-attention.",
    expect="It writes the language's code first, then the name. It names what it was trained on, also as drawn by an "
    "artist it was not trained on, though skin tones are then often wrong. It was trained on `emoji` alone; the "
    "English captioner, trained on five more artists, is better in English. The word metrics count a Chinese or "
    "Japanese name as one word: use the exact match for those.",
    sets=("emoji",),
    examples=drawings.names_by_language,
    eval_splits={f"vendor, {code}": f"an artist never trained on, names in {name}" for code, name in LANGUAGES.items()},
    vocabulary_size=8000,
    copies=2,
    epochs=2,
    gpu_epochs=20,
    batch_size=256,
    baselines_from=None,
    baselines=("most_frequent", "nearest_neighbour"),
    train_split=lambda split: f"train, {split.partition(', ')[2]}",  # the most frequent name in the same language
    eval_data='emoji/{part} --prompt "{part}:"',
    example_split="vendor",
)

if __name__ == "__main__":
    main(RELEASE)
