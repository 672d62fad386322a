"""Pretraining on pictures and their names, by one objective or by all of them in turn.

    python recipes/pretrain.py --objective all --sample             # bundled pictures, a small model: about a minute
    python recipes/pretrain.py --objective contrastive --epochs 30  # emoji and word cards; a GPU wanted

contrastive   two towers: a picture and its name lie close (retriever)
matching      does this name fit this picture, told from those of others (matcher)
mlm           what is the hidden word, given the picture (matcher with a head for words)
captioning    write the name (captioner)
all           contrastive; then matching and mlm together; then captioning beside a contrastive loss (CoCa)

Each stage is a run of its own in OUT/STAGE, and begins with every layer that it shares with the one before. Begin yours
with them too: `questions.py` beside this file does.
"""

from __future__ import annotations

import argparse

import keras
import tensorflow as tf

from vtx_keras import data, train, zoo
from vtx_keras.inputs import text
from vtx_keras.data._load import adapted

STAGES = {
    "contrastive": ("retriever", {}),
    "matching": ("cross_attn_matcher", {}),
    "mlm": ("cross_attn_matcher", {"mlm": True}),
    "matching-mlm": ("cross_attn_matcher", {"mlm": True}),
    "captioning": ("cross_attn_captioner", {}),
    "captioning-contrastive": ("cross_attn_captioner", {"contrastive": 0.3}),
}
ALL = ("contrastive", "matching-mlm", "captioning-contrastive")
SMALL = {"dim": 64, "depth": 1, "vision_depth": 2, "text_depth": 1, "image_shape": (64, 64, 3), "dropout": 0.0}


def main() -> None:
    """Trains the stages and says where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", default="all", choices=("captioning", "contrastive", "matching", "mlm", "all"))
    parser.add_argument("--epochs", type=int, default=5, help="of each stage")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", default="tiny", choices=("tiny", "small", "base"))
    parser.add_argument("--out", default="runs/pretrained")
    parser.add_argument("--sample", action="store_true", help="the bundled pictures and a small model")
    args = parser.parse_args()

    keras.utils.set_random_seed(0)
    train_split, validation = (pairs(split, args.sample) for split in ("train", "validation"))
    names = [name.decode() for name in train_split.encoded.map(lambda row: row["caption"]).as_numpy_iterator()]
    vocabulary = text.vocabulary(names, size=4000)
    before = None
    for stage in ALL if args.objective == "all" else (args.objective,):
        name, options = STAGES[stage]
        known = zoo.describe(name)["options"]
        sizes = {key: value for key, value in SMALL.items() if key in known} if args.sample else {"size": args.size}
        model = zoo.build(name, weights=None, vocabulary=vocabulary, max_length=16, **sizes, **options)
        if before is not None:
            print(f"{stage} begins with {', '.join(hand_on(before, model))}")
        told = [true_pairs(each) if stage == "mlm" else each for each in (train_split, validation)]
        if stage == "mlm":  # every name is the picture's own, so whether it fits is nothing to learn
            model.compile(model.optimizer, loss=model.loss, loss_weights={"logits": 0.0, "words": 1.0})
        folder = f"{args.out}/{stage}"
        train.run(
            model, told[0], folder, validation=told[1], epochs=args.epochs, batch_size=args.batch_size,
            augment={"flip": False, "rotation": 0}, learning_rate=1e-3 if args.sample else 3e-4,
        )  # fmt: skip
        before = model
        print(f"{stage}: {folder}")


def pairs(split: str, sample: bool) -> tf.data.Dataset:
    """Pictures and their names. Splits go by concept, and those of emoji and word cards agree."""
    found = [
        data.load(name, split, columns=lambda row: {"image": row["image"], "caption": row["caption"]}).encoded
        for name in ("emoji", "word_cards")
    ] if not sample else [data.load("sample", split).encoded]  # fmt: skip
    together = found[0]
    for each in found[1:]:
        together = together.concatenate(each)
    return adapted(together)


def true_pairs(examples: tf.data.Dataset) -> tf.data.Dataset:
    """Labels that say so, in place of pairs made up from other pictures' names."""
    return adapted(examples.encoded.map(lambda row: {**row, "label": 1}))


def hand_on(source: keras.Model, target: keras.Model) -> list[str]:
    """Gives `target` the weights of every layer that it shares with `source`, by name and shapes; says which."""
    given, taken = {layer.name: layer for layer in source.layers}, []
    for layer in target.layers:
        weights = given[layer.name].get_weights() if layer.name in given else []
        if weights and [one.shape for one in weights] == [tuple(one.shape) for one in layer.weights]:
            layer.set_weights(weights)
            taken.append(layer.name)
    return taken


if __name__ == "__main__":
    main()
