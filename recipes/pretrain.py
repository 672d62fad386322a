"""Pretrain on pictures and their names, with one objective or with all of them in turn.

    python -m recipes.pretrain --objective all --sample             # bundled pictures, a small model: about a minute
    python -m recipes.pretrain --objective contrastive --epochs 30  # emoji and word cards; needs a GPU

contrastive   two towers: the embeddings of a picture and its name are close (retriever)
matching      does this name fit this picture? the negatives are names of other pictures (matcher)
mlm           which word is masked, given the picture? (matcher with a head for words)
captioning    write the name (captioner)
all           contrastive; then matching and mlm together; then captioning with a contrastive loss (CoCa)

Each stage is a run of its own in OUT/STAGE, and starts from the weights of every layer that it shares with the one
before. So can your own model: see `questions.py` beside this file.
"""

from __future__ import annotations

import argparse

import keras

from vtx_keras import data, text, train, zoo

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
    """Train the stages, and print their folders."""
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
    previous = None
    for stage in ALL if args.objective == "all" else (args.objective,):
        name, options = STAGES[stage]
        takes = zoo.describe(name)["options"]
        sizes = {key: value for key, value in SMALL.items() if key in takes} if args.sample else {"size": args.size}
        model = zoo.build(name, weights=None, vocabulary=vocabulary, max_length=16, **sizes, **options)
        if previous is not None:
            print(f"{stage} begins with {', '.join(hand_on(previous, model))}")
        splits = [true_pairs(split) if stage == "mlm" else split for split in (train_split, validation)]
        if stage == "mlm":  # every name is the picture's own, so there is no matching to learn
            model.compile(model.optimizer, loss=model.loss, loss_weights={"logits": 0.0, "words": 1.0})
        folder = f"{args.out}/{stage}"
        train.run(
            model, splits[0], folder, validation=splits[1], epochs=args.epochs, batch_size=args.batch_size,
            augment={"flip": False, "rotation": 0}, learning_rate=1e-3 if args.sample else 3e-4,
        )  # fmt: skip
        previous = model
        print(f"{stage}: {folder}")


def pairs(split: str, sample: bool) -> data.Examples:
    """Load pictures and their names. Emoji and word cards are split by the same concepts."""
    first, *others = [
        data.load(name, split, columns=lambda row: {"image": row["image"], "caption": row["caption"]}).encoded
        for name in ("emoji", "word_cards")
    ] if not sample else [data.load("sample", split).encoded]  # fmt: skip
    for other in others:
        first = first.concatenate(other)
    return data.Examples(first)


def true_pairs(examples: data.Examples) -> data.Examples:
    """Label every pair as true, so that no negatives are made from other pictures' names."""
    return data.Examples(examples.encoded.map(lambda row: {**row, "label": 1}))


def hand_on(source: keras.Model, target: keras.Model) -> list[str]:
    """Copy the weights of every layer that `target` shares with `source`, by name and shapes; return the names."""
    layers, copied = {layer.name: layer for layer in source.layers}, []
    for layer in target.layers:
        weights = layers[layer.name].get_weights() if layer.name in layers else []
        if weights and [array.shape for array in weights] == [tuple(weight.shape) for weight in layer.weights]:
            layer.set_weights(weights)
            copied.append(layer.name)
    return copied


if __name__ == "__main__":
    main()
