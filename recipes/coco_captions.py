"""Train a captioner for photographs on COCO captions, with a pretrained image encoder.

    python -m recipes.coco_captions --epochs 5            # needs a GPU; tfds fetches 25 GB
    python -m recipes.coco_captions --mock --epochs 1     # tries everything but the data: random pictures and letters

The encoder stays frozen for half of the epochs, then the whole model is trained at a tenth of the learning rate. It is
tuned on the 2014 validation split: its figures are not those of the Karpathy split, which papers report.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools

import keras
import tensorflow_datasets as tfds

from vtx_keras import data, text, zoo


def main() -> None:
    """Train, save into the folder --out, and print a few captions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--encoder", default="EfficientNetV2B0", help="any image_encoder of zoo.build")
    parser.add_argument("--size", default="small", choices=("tiny", "small", "base"))
    parser.add_argument("--out", default="runs/coco")
    parser.add_argument("--mock", action="store_true", help="random data instead of COCO, and a small new encoder")
    args = parser.parse_args()

    with tfds.testing.mock_data(num_examples=2 * args.batch_size) if args.mock else contextlib.nullcontext():
        train, validation = data.load("coco_captions", "train"), data.load("coco_captions", "val")
        rows = itertools.islice(train.encoded.map(lambda row: row["captions"]).as_numpy_iterator(), 50_000)
        vocabulary = text.vocabulary([caption for captions in rows for caption in captions], size=8000)
        model = zoo.build(
            "cross_attn_captioner",
            size=args.size,
            weights=None if args.mock else "encoders",
            image_encoder="vit" if args.mock else args.encoder,
            vocabulary=vocabulary,
            max_length=32,
            resize="crop",
        )
        augment = {"crop": 0.4, "flip": True, "rotation": 0, "words": 0.05}
        batches = data.batches(train, model, batch_size=args.batch_size, training=True, augment=augment, static=True)
        validation_batches = data.batches(validation, model, batch_size=args.batch_size)
        data.preview(batches, "coco.png", model)

        save = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: zoo.save(model, args.out))
        for frozen, epochs, rate in ((True, args.epochs // 2, 1e-3), (False, args.epochs - args.epochs // 2, 1e-4)):
            model.freeze("image", frozen=frozen)
            model.optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(rate, max(1, epochs * len(batches)))
            model.fit(batches, validation_data=validation_batches, epochs=epochs, callbacks=[save])
        for example in validation.take(5):
            print(model.generate(example["image"].numpy(), beams=4)[0], "|", example["captions"][0].numpy().decode())


if __name__ == "__main__":
    main()
