"""Make `vtx_keras/sample/`: a few emoji by four artists and ten photographs, with captions and questions.

    python tools/sample.py     # reads the data set `emoji`: run `vtx data build emoji` before

Only concepts of the training split of `emoji` are taken, so that training on the sample spoils no other split.
"""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image

from vtx_keras import media
from vtx_keras.data import load

SAMPLE = Path(__file__).parents[1] / "vtx_keras" / "sample"
SIDE = 64
NAMES = """tulip;sunflower;four leaf clover;maple leaf;mushroom;whale;snail;snake;octopus;honeybee;turtle;penguin
frog;panda;spider;crab;owl;fox;zebra;pizza;taco;hot dog;sandwich;bread;grapes;strawberry;pear;cherries;tomato;broccoli
kiwi fruit;watermelon;red apple;green apple;egg;candy;lollipop;popcorn;hot beverage;bacon;cheese wedge;violin;crown
glasses;key;hammer;scissors;pencil;candle;telescope;books;airplane;bus;tractor;train;castle;volcano;rainbow;soccer ball
baseball;kite;balloon;red heart;blue heart;skull;robot""".replace("\n", ";").split(";")
KINDS = {
    "Animals & Nature": "animal or plant",
    "Food & Drink": "food",
    "Objects": "object",
    "Travel & Places": "place or vehicle",
    "Activities": "game",
    "Smileys & Emotion": "face",
}


def pictures() -> list[dict]:
    """Return the chosen emoji, ordered by name and artist."""
    chosen = {}
    for split in ("train", "vendor"):
        for example in load("emoji", split).as_numpy_iterator():
            name, vendor = example["name"].decode(), example["vendor"].decode()
            if name in NAMES:
                chosen[name, vendor] = {**example, "name": name, "vendor": vendor, "group": example["group"].decode()}
    return [chosen[key] for key in sorted(chosen)]


def main() -> None:
    """Write pictures, captions.csv and questions.csv."""
    (SAMPLE / "emoji").mkdir(parents=True, exist_ok=True)
    captions, questions = [], []
    chosen = pictures()
    for row in chosen:
        file = f"emoji/{row['name'].replace(' ', '-')}-{row['vendor']}.png"
        picture = Image.fromarray(media.resize(row["image"], (SIDE, SIDE)))
        picture.quantize(128, dither=Image.Dither.NONE).convert("RGB").save(SAMPLE / file, optimize=True)
        split = "validation" if row["vendor"] == "fluent" else "train"
        captions.append((file, row["name"], split))
        kind = KINDS[row["group"]]
        questions += [
            (file, "what is it?", kind, split),
            (file, "is it food?", "yes" if kind == "food" else "no", split),
        ]
    with (SAMPLE / "photos" / "captions.csv").open(encoding="utf-8") as lines:
        captions += [(f"photos/{row['image']}", row["text"], "photos") for row in csv.DictReader(lines)]
    for name, header, rows in (
        ("captions.csv", ("image", "caption", "split"), captions),
        ("questions.csv", ("image", "question", "answer", "split"), questions),
    ):
        with (SAMPLE / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])
    missing = set(NAMES) - {row["name"] for row in chosen}
    print(f"{len(chosen)} emoji, {len(captions)} captions, {len(questions)} questions; not found: {sorted(missing)}")


if __name__ == "__main__":
    main()
