"""Trains and releases `cross_attn_vqa/emoji`: python -m zoo.cross_attn_vqa.emoji.recipe"""

import hashlib
import re
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from vtx_keras.data._load import adapted
from recipes import families, release as making

TONE = re.compile(r": .*?\b(light|medium-light|medium|medium-dark|dark) skin tone")


def asked(row: dict, words: list[str]) -> Iterator[tuple[str, str]]:
    """Questions and answers about one emoji, made by templates from its name, its group and its keywords."""
    name, own = row["caption"].decode(), [word.decode() for word in row["keywords"] if b"skin tone" not in word]
    yield "what kind of thing is it?", row["group"].decode()
    if name.count("skin tone") == 1 and (tone := TONE.search(name)):
        yield "what skin tone is it?", tone[1]
    if one := re.match(r"(man|woman)\b", name):
        yield "is it a man or a woman?", one[1]
    if name.startswith("family: "):
        yield "how many people are there?", str(name.count(",") + 1)
    elif re.match(r"(man|woman|person)\b(?!.*(holding hands|with bunny|wrestling))", name):
        yield "how many people are there?", "1"
    elif re.match(r"(men|women|people|couple|kiss:)", name):
        yield "how many people are there?", "2"
    draw = int(hashlib.sha256(row["id"]).hexdigest()[:8], 16)
    others = [word for word in (words[(draw + step * 7919) % len(words)] for step in range(40)) if word not in own]
    for step in range(2 if own else 0):
        yield f"is it about {own[(draw + step) % len(own)]}?", "yes"
        yield f"is it about {others[step]}?", "no"


def questions(split: str) -> tf.data.Dataset:
    """Templated questions about the emoji of a split."""
    name, part = families.split_and_part(split)
    rows = [row for row in families.emoji(name).encoded.as_numpy_iterator() if b"flag" not in row["concept"]]
    known = sorted({word.decode() for row in rows for word in row["keywords"] if b"skin tone" not in word})
    told = [(row, *pair) for row in rows for pair in asked(row, known)]
    columns = {key: np.array([row[key] for row, _, _ in told]) for key in ("image", "id", "concept")}
    columns["image"] = np.array([row["image"] for row, _, _ in told], object)
    pairs = {"question": np.array([q for _, q, _ in told]), "answer": np.array([a for _, _, a in told])}
    found = adapted(tf.data.Dataset.from_tensor_slices({**columns, **pairs}))
    return families.without(found, part) if part else found


RELEASE = making.Release(
    __file__,
    about="Answers questions about an emoji: what kind of thing it is, its skin tone, man or woman, how many people, "
    "and whether it is about something. **The questions are templates**, filled from Unicode's names, groups and "
    "keywords.",
    expect="Other wordings than its templates it was never asked. Whether an emoji is *about* something is what the "
    "keywords of Unicode say.",
    sets=("emoji", "emoji_more"),
    examples=questions,
    judged={
        "vendor": families.EMOJI_SPLITS["vendor"],
        "test": families.EMOJI_SPLITS["test"],
        "test without picture": "the same questions about a blank picture, which shows how much it looks",
    },
    options={"depth": 2, "text_depth": 1},
    vocabulary_size=3000,
    epochs=4,
    batch_size=128,
    baselines=("most_frequent", "question_alone"),
)

if __name__ == "__main__":
    making.main(RELEASE)
