"""Questions about emoji, made by templates from Unicode's names, groups and keywords."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from recipes.families.drawings import emoji
from recipes.families.examples import split_and_part, without
from vtx_keras.data import Examples

TONE = re.compile(r": .*?\b(light|medium-light|medium|medium-dark|dark) skin tone")


def questions(split: str) -> Examples:
    """Load the emoji of a split with all their questions and answers; flags are left out."""
    name, part = split_and_part(split)
    rows = [row for row in emoji(name).encoded.as_numpy_iterator() if b"flag" not in row["concept"]]
    keywords = sorted({word.decode() for row in rows for word in row["keywords"] if b"skin tone" not in word})
    pairs = [(row, *pair) for row in rows for pair in questions_about(row, keywords)]
    columns = {key: np.array([row[key] for row, _, _ in pairs]) for key in ("image", "id", "concept")}
    columns["image"] = np.array([row["image"] for row, _, _ in pairs], object)
    texts = {"question": np.array([q for _, q, _ in pairs]), "answer": np.array([a for _, _, a in pairs])}
    return without(Examples(tf.data.Dataset.from_tensor_slices({**columns, **texts})), part)


def questions_about(row: dict, keywords: list[str]) -> Iterator[tuple[str, str]]:
    """Yield questions and answers about one emoji; `keywords` are those of all emoji, for questions answered by no.

    >>> row = {"caption": b"woman: dark skin tone", "group": b"People & Body", "keywords": [b"adult"], "id": b"1"}
    >>> dict(questions_about(row, ["adult", "boat", "cat"]))["what skin tone is it?"]
    'dark'
    """
    name, own = row["caption"].decode(), [word.decode() for word in row["keywords"] if b"skin tone" not in word]
    yield "what kind of thing is it?", row["group"].decode()
    if name.count("skin tone") == 1 and (tone := TONE.search(name)):
        yield "what skin tone is it?", tone[1]
    if gender := re.match(r"(man|woman)\b", name):
        yield "is it a man or a woman?", gender[1]
    if name.startswith("family: "):
        yield "how many people are there?", str(name.count(",") + 1)
    elif re.match(r"(man|woman|person)\b(?!.*(holding hands|with bunny|wrestling))", name):
        yield "how many people are there?", "1"
    elif re.match(r"(men|women|people|couple|kiss:)", name):
        yield "how many people are there?", "2"
    draw = int(hashlib.sha256(row["id"]).hexdigest()[:8], 16)
    others = [word for word in (keywords[(draw + k * 7919) % len(keywords)] for k in range(40)) if word not in own]
    for k in range(2 if own else 0):
        yield f"is it about {own[(draw + k) % len(own)]}?", "yes"
        yield f"is it about {others[k]}?", "no"
