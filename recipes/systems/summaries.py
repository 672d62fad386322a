"""Several descriptions to one: the captions of four people and the photograph in, what the fifth wrote out.

    python -m recipes.systems.summaries     # half an hour on two cores

The captioner of photographs reads the four captions as its prompt. It is trained with the photograph and with a blank
picture in its place, and judged by the fifth caption of Flickr8k's test photographs, beside one of the four.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from recipes.families import photos
from recipes.families.examples import split_and_part, without
from recipes.systems import trials
from vtx_keras import data, metrics, zoo

ASK = "/"  # ends the four captions
LENGTH = 80
ROWS = 1  # of a training photograph, each with another caption to be written
SETTINGS = {
    "epochs": 4, "batch_size": 64, "learning_rate": 3e-4, "ema": 0.99, "jit_compile": False, "save_every": 1000,
    "buckets": (56, 64, 72),
}  # fmt: skip
NAMES = ("cider", "rouge_l", "bleu_4", "word_f1")


def described(split: str) -> data.Examples:
    """Load Flickr8k with four captions as the prompt and the fifth as the caption; perhaps "without picture"."""
    name, part = split_and_part(split)
    photographs = photos.flickr8k(name)
    if name == "validation":
        photographs = photographs.take(400)
    turns = range(ROWS) if name == "train" else (0,)

    def rows() -> Iterator[dict]:
        for turn in turns:
            for row in photographs.encoded.as_numpy_iterator():
                *read, written = rotated([photos.plain(one.decode()) for one in row["captions"]], turn)
                prompt = f"{' . '.join(read)} {ASK}"
                yield {"image": row["image"], "image_id": row["image_id"], "prompt": prompt, "caption": written}

    words = tf.TensorSpec((), tf.string)
    form = dict.fromkeys(("image", "image_id", "prompt", "caption"), words)
    return without(photos.as_examples(rows, len(turns) * len(photographs), form), part)


def rotated(captions: list[str], turn: int) -> list[str]:
    """Return the captions so that another one comes last in each turn.

    >>> rotated(["a", "b", "c"], 1)
    ['c', 'a', 'b']
    """
    return captions[len(captions) - turn :] + captions[: len(captions) - turn]


def writer() -> Any:
    """Return the captioner of photographs, with room for the four captions; only the words are learned further."""
    return zoo.build("cross_attn_captioner", weights="photos", max_length=LENGTH)


def centroid(captions: list[str]) -> str:
    """Return the caption that has most in common with the others, by F1 of their words.

    >>> centroid(["a dog runs", "a brown dog runs", "two cats"])
    'a dog runs'
    """

    def common(one: str) -> float:
        return sum(metrics.word_f1(one, (other,)) for other in captions)

    return max(captions, key=common)


def main() -> None:
    """Run all trials and store the figures."""
    parts = {"captions and picture": "", "captions alone": " without picture"}
    plans = {}
    for name, part in parts.items():
        split = {one: described(f"{one}{part}") for one in ("train", "validation", "test")}
        plans[name] = trials.Trial(writer, split["train"], split["validation"], {"": split["test"]}, SETTINGS)
    judged = trials.run("summaries", plans)
    rows = {name: trials.measures(one.outcomes[""]) for name, one in judged.items()}
    like = judged["captions and picture"].outcomes[""][0]
    read = [
        row["prompt"].decode().removesuffix(ASK).split(" . ") for row in described("test").encoded.as_numpy_iterator()
    ]
    read = [[one.strip() for one in captions] for captions in read]
    others = {
        "first of the four": trials.saying(like, [captions[0] for captions in read]),
        "most central of the four": trials.saying(like, [centroid(captions) for captions in read]),
        "picture alone": alone(),
    }
    rows |= {name: trials.measures([outcome]) for name, outcome in others.items()}
    pairs = [("captions and picture", other) for other in rows if other != "captions and picture"]
    found = trials.compared(rows, NAMES, trials.groups_of(like), pairs)
    training = {name: {"parameters": one.parameters, "seconds": round(one.seconds)} for name, one in judged.items()}
    said = {name: one.outcomes[""][0].rows for name, one in judged.items()}
    examples = [
        {"fifth": row.expected[0], "four": read[row.place], **{name: rows[at].said for name, rows in said.items()}}
        for at, row in list(enumerate(like.rows))[:: len(like.rows) // 8][:8]
    ]
    trials.store("summaries", rows=len(like.rows), training=training, examples=examples, **found)


def alone() -> Any:
    """Return what the released captioner writes without the captions."""
    model = zoo.build("cross_attn_captioner", weights="photos")
    model.freeze("image")
    test = data.Examples(described("test").encoded.map(lambda row: {k: row[k] for k in row if k != "prompt"}))
    return trials.outcome_of(model, test)


if __name__ == "__main__":
    main()
