"""Train a model that answers questions about pictures, starting from the weights of a pretraining.

    python -m recipes.pretrain --sample                                            # first
    python -m recipes.questions --begin runs/pretrained/matching-mlm --sample
    python -m recipes.questions --begin runs/pretrained/matching-mlm --data easy_vqa --epochs 20

A vqa model shares its encoders and its fusion with a matcher, and its image encoder with every model. Sizes and
vocabulary are those of the pretrained model; layers that it does not have are new.
"""

from __future__ import annotations

import argparse

import keras

from recipes.pretrain import hand_on
from vtx_keras import data, train, zoo

SHARED = ("size", "dim", "heads", "depth", "vision_depth", "text_depth", "patch", "image_encoder", "text_encoder")


def main() -> None:
    """Train into the folder --out, and print the metrics of the last epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--begin", required=True, help="a folder written by pretrain.py")
    parser.add_argument("--data", default="sample/questions")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", default="runs/questions")
    parser.add_argument("--sample", action="store_true", help="the bundled questions")
    args = parser.parse_args()

    name = "sample/questions" if args.sample else args.data
    examples, validation = data.load(name, "train"), data.load(name, "test" if name == "easy_vqa" else "validation")
    answers = sorted({row["answer"].decode() for row in examples.encoded.as_numpy_iterator()})
    keras.utils.set_random_seed(0)
    pretrained = zoo.load(args.begin)
    options = {key: value for key, value in pretrained.options.items() if key in SHARED}
    model = zoo.build(
        "cross_attn_vqa", weights=None, vocabulary=pretrained.vocabulary, classes=answers, max_length=16,
        image_shape=pretrained.image_shape, resize=pretrained.options["resize"], **options,
    )  # fmt: skip
    print(f"begins with {', '.join(hand_on(pretrained, model))}")
    history = train.run(
        model, examples, args.out, validation=validation, epochs=args.epochs, batch_size=args.batch_size
    ).history
    print(f"{args.out}: {', '.join(f'{key} {values[-1]:.3f}' for key, values in history.items())}")


if __name__ == "__main__":
    main()
