"""Train a captioner for photographs on COCO captions: English beside pictures, the encoder, the reward.

    python -m recipes.coco_captions      # needs a GPU, and `vtx convert efficientnet_lite2` once; tfds fetches 25 GB
    python -m recipes.coco_captions --mock --epochs 1     # tries everything but the data: random pictures and letters

The splits of tfds are those of Karpathy, which papers report: 113,287 photographs to train, 5,000 to choose the epoch,
5,000 to test. Three stages, each a run that resumes: words beside sentences, with the image encoder frozen and
its features kept (14 GB); the encoder's last layers too, at a tenth of the rate; the reward of whole captions.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from recipes.families.photos import plainly
from vtx_keras import data, evaluate, text, train, zoo

LEAST = 5  # a word occurs so often at least; others are unknown


def main() -> None:
    """Train in stages into folders of --out, test the last one, and print a few captions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="of the first stage; the others have a quarter each")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--encoder", default="efficientnet_lite2", help="one with ImageNet's head: docs/encoders.md")
    parser.add_argument("--size", default="small", choices=("tiny", "small", "base"))
    parser.add_argument("--sentences", help="a file of more sentences, one a line")
    parser.add_argument("--out", default="runs/coco")
    parser.add_argument("--mock", action="store_true", help="random data instead of COCO, and a new encoder")
    args = parser.parse_args()

    with tfds.testing.mock_data(num_examples=2 * args.batch_size) if args.mock else contextlib.nullcontext():
        photographs, validation, test = (
            plainly(data.load("coco_captions", split)) for split in ("train+restval", "val", "test")
        )
        rows = photographs.encoded.map(lambda row: row["captions"]).as_numpy_iterator()
        captions = [caption.decode() for several in rows for caption in several]
        counts = Counter(word for caption in captions for word in caption.split())
        model = zoo.build(
            "cross_attn_captioner",
            size=args.size,
            weights=None if args.mock else "encoders",
            image_encoder=args.encoder,
            image_shape=(64, 64, 3) if args.mock else (224, 224, 3),
            vocabulary=text.vocabulary([word for word, count in counts.most_common() if count >= LEAST or args.mock]),
            max_length=22,
            concepts=5,
        )
        data.preview(photographs.take(24), "coco.png")
        more = Path(args.sentences).read_text(encoding="utf-8").splitlines() if args.sentences else []
        sentences = data.sentences([*more, *captions])
        common: dict[str, Any] = {
            "validation": validation.take(1000), "batch_size": args.batch_size, "scores": 500, "monitor": "val_cider",
            "samples": 0,
        }  # fmt: skip
        model.freeze("image")
        words = {"text": sentences, "texts": 0.25, "buckets": (10, 12, 14, 17), "learning_rate": 1e-3}
        best = train.run(model, photographs, f"{args.out}/words", epochs=args.epochs, **words, **common).folder / "best"

        shorter = max(1, args.epochs // 4)
        model = zoo.load(best)
        model.freeze("image", but_last=8)
        augment = {"crop": 0.3, "flip": True, "rotation": 0}
        run = train.run(
            model, photographs, f"{args.out}/encoder", epochs=shorter, learning_rate=1e-4, augment=augment, **common
        )  # fmt: skip
        model = zoo.load(run.folder / "best")
        model.freeze("image")
        run = train.run(
            model, photographs, f"{args.out}/reward", epochs=shorter, objective="cider", learning_rate=1e-4, **common
        )  # fmt: skip

        model = zoo.load(run.folder / "best")
        print(evaluate.run(model, test.take(8) if args.mock else test, beams=4, folder=args.out).table())
        for example in validation.take(5):
            print(model.generate(example["image"].numpy(), beams=4)[0], "|", example["captions"][0].numpy().decode())


if __name__ == "__main__":
    main()
