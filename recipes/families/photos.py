"""What the releases for photographs share: their data, encoder and vocabulary.

The data lie in the manual folder of tfds (docs/data.md): `flickr8k/`, and beside it `coco_sample/` (1,441 photographs
of COCO with a caption each) and `captions.txt.gz` (sentences that people wrote about photographs).

    python -m recipes.families.photos      # what the encoder sees: the chances in vtx_keras/data/_behind.py
"""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from recipes.gpu.loop import give
from recipes.release import TRAINING, Release, Table
from vtx_keras import data, media, text, train, zoo
from vtx_keras.evaluate._measures import intervals, mean
from vtx_keras.models import concepts, decode

ENCODER = {"image_encoder": "efficientnet_lite2_photos", "image_shape": (224, 224, 3), "resize": "stretch"}
DECODER = {"dim": 256, "depth": 2, "heads": 4, "concepts": 5, "max_length": 22, "dropout": 0.15}
SOURCES = (
    (
        "coco_sample: 942 photographs of COCO with a caption each",
        "captions CC-BY-4.0 (COCO Consortium); each photograph has its maker's Creative Commons licence",
    ),
    (
        "captions: 224,821 sentences of Flickr30k, COCO and Flickr8k, without their photographs",
        "their writers', collected for research and education; those of COCO CC-BY-4.0",
    ),
)
SPLITS = {
    "test": "Flickr8k's official test split, five references, beams 4",
    "coco, sample": "499 photographs of kitchens, streets, animals and food, one reference each, beams 4",
}
SEARCHED = {
    "test": "Flickr8k's official test split, 1,000 photographs, five captions each",
    "coco, sample": "499 photographs of kitchens, streets, animals and food, one caption each",
}
VIEWS = 3  # of each photograph, in an epoch: as it is, mirrored, a part of it
SIDES = {"left", "right", "lefthand", "righthand"}
LEAST = 16  # a word occurs so often at least; others are unknown
BATCH = 64
EPOCHS = (5, 9, 1)  # of the stages: words, words with more dropout, reward
FEATURES = "runs/features"
LEARNED = Path("runs/photographs/out")  # what `recipes.gpu` trained
COMMANDS = (
    "vtx convert efficientnet_lite2 && vtx convert minilm_l6    # once",
    "python -m recipes.gpu.pack",
    "KERAS_BACKEND=jax python -m recipes.gpu.tune --seconds 220 --judged 4    # on a GPU, with a copy of that folder",
    "python -m zoo.encoders.efficientnet_lite2_photos.recipe    # after copying its `out` back",
)


def captioner(recipe: str, fusion: str, **changes: Any) -> Release:
    """Return the release of a captioner of photographs; `fusion` says how image and words are combined."""
    about = (
        "Writes a sentence about a photograph. The image, at 224 × 224 px, is encoded by EfficientNet-Lite2, whose "
        "ImageNet head also gives five concept words; in two decoder blocks of width 256 " + fusion + ". It learned "
        "from 6,942 captioned photographs and from 255,000 sentences without pictures."
    )
    expect = (
        "People, dogs, sports outdoors, vehicles, animals, rooms and food are mostly recognized; their colours, number "
        "and doings often not, and what nobody in these sets photographed (a rocket, a flower from near) becomes "
        "people or dogs. It is a start for fine-tuning. The released weights were not made by these commands alone: "
        "their words were learned before, behind the published EfficientNet-Lite2, in an hour and a half on two cores "
        "(mirrored photographs kept captions that name a side). Then the encoder was trained further, and behind it "
        "the words on the reward of whole captions."
    )
    settings = {
        "sets": ("flickr8k",),
        "sources": SOURCES,
        "examples": examples,
        "eval_splits": SPLITS,
        "example_split": "sample",
        "options": {**ENCODER, **DECODER},
        "words": vocabulary,
        "prepare": larger_words,
        "trained": train_in_stages,
        "epochs": EPOCHS[2],
        "rows": VIEWS * 6_000,
        "batch_size": BATCH,
        "beams": 4,
        "shown": ("cider", "bleu_4", "rouge_l"),
        "kept_features": True,
        "baselines": ("nearest_neighbour", "consensus", "human"),
        "eval_data": "flickr8k",
        "licence": "research and education: see the data sets",
        "formats": (("litert", None), ("litert", "int8"), ("onnx", None), ("onnx", "int8"), ("saved_model", None)),
        "commands": (*COMMANDS, f"python -m zoo.{Path(recipe).parent.parent.name}.photos.recipe"),
    }
    return Release(recipe, **{"about": about, "expect": expect, **settings, **changes})


def searcher(recipe: str) -> Release:
    """Return the release of the retriever of photographs, which the tuned encoder learned with."""
    return Release(
        recipe,
        about="Finds the photograph for a sentence and the sentence for a photograph: two towers. The image side is "
        "EfficientNet-Lite2, trained further with captions; the text side, two layers of width 256, began with the "
        "main directions of MiniLM's word vectors and was held to its vectors of whole captions. Behind the frozen "
        "encoder it then learned for ten minutes on two cores from captions with and without a full stop.",
        expect="It finds photographs of people, dogs, sports and rooms by what happens in them, in English. It was "
        "trained in minutes on 6,942 photographs: of what they never show it finds the kind of thing, if anything.",
        sets=("flickr8k",),
        sources=(*SOURCES, ("word vectors, and vectors of the training captions: all-MiniLM-L6-v2", "Apache-2.0")),
        examples=examples,
        eval_splits=SEARCHED,
        eval_data="flickr8k",
        example_split="sample",
        options={**ENCODER, "dim": 256, "heads": 4, "max_length": 22, "dropout": 0.2, "text_depth": 2},
        words=vocabulary,
        trained=train_for_search,
        epochs=24,
        batch_size=128,
        shown=tuple(f"{way}_recall_{most}" for way in ("image_to_text", "text_to_image") for most in (1, 5, 10)),
        besides=ranked_again,
        licence="research and education: see the data sets",
        formats=(("litert", None), ("litert", "int8"), ("onnx", None)),
        commands=(*COMMANDS, "python -m zoo.retriever.photos.recipe"),
    )


def larger_words(model: Any) -> None:
    """Begin with embeddings of length one, of which concepts, which share them, are made."""
    words = model.get_layer("words").embeddings
    words.assign(words * (DECODER["dim"] ** -0.5 / 0.02))


def train_in_stages(model: Any, folder: Path) -> Path:
    """Train on words, then on the reward, behind the tuned encoder; return the best by validation.

    What `recipes.gpu.behind` trained is taken as it is. Words are learned first fast, then with more dropout and fewer
    sentences.
    """
    model.freeze("image")
    if (LEARNED / f"{model.spec['name']}.npz").exists():
        return trained_on_gpu(model, folder)
    steps = math.ceil(VIEWS * len(examples("train")) / BATCH)
    fast = train.adamw(model, 14 * steps, learning_rate=1e-3)  # it stops early, where validation no longer gains
    best = train_on_words(model, folder.with_name(f"{folder.name}-1"), EPOCHS[0], optimizer=fast)
    model = zoo.build(model.spec["name"], weights=best, dropout=0.25)
    second = folder.with_name(f"{folder.name}-2")
    best = train_on_words(model, second, EPOCHS[1], learning_rate=7e-4, ema=0.998, texts=0.25)
    return train_on_reward(zoo.load(best), folder)


def trained_on_gpu(model: Any, folder: Path) -> Path:
    """Return the weights that `recipes.gpu` trained, and store how beside them."""
    learned = LEARNED / f"{model.spec['name']}.npz"
    give(learned, model.behind_encoder(told="concepts" in model.options))
    beside = learned.with_suffix(".json")
    told = json.loads((beside if beside.exists() else LEARNED / "encoder.json").read_text(encoding="utf-8"))
    best = zoo.save(model, folder / "best")
    training = {"hardware": told["hardware"], "wall_minutes": round(told["seconds"] / 60, 1)}
    (folder / TRAINING).write_text(json.dumps(training), encoding="utf-8")
    return best


def train_for_search(model: Any, folder: Path, epochs: int = 4, batch_size: int = 256) -> Path:
    """Go on from what `recipes.gpu` trained, behind the frozen encoder: captions end with a full stop, or do not.

    Each epoch begins with the mean of the weights of the one before, as `fit` leaves them.
    """
    trained_on_gpu(model, folder)
    model.freeze("image")
    behind = model.behind_encoder()
    pictures = data.features(with_full_stops(views(flickr8k("train"))), model, FEATURES)
    batches = data.batches(pictures, behind, batch_size=batch_size, training=True, buckets=(10, 12, 14, 17))
    behind.compile(train.adamw(behind, epochs * len(batches), learning_rate=2e-4, ema=0.98))
    for _ in range(epochs):
        behind.fit(batches, verbose=2)
    return zoo.save(model, folder / "best")


def ranked_again(searcher: Any, splits: tuple[str, ...] = tuple(SEARCHED)) -> Table:
    """Measure recall 1 of the retriever alone, and with its ten best ranked again by the captioner, in both ways."""
    captioner, rows = zoo.build("cross_attn_captioner", weights="photos"), []
    searcher.freeze("image")
    for split in splits:
        kept = list(data.features(plainly(examples(split)), searcher, FEATURES).as_numpy_iterator())
        features = np.stack([row["image"] for row in kept]).astype("float32")
        texts = [caption.decode() for row in kept for caption in row["captions"]]
        of = np.repeat(np.arange(len(kept)), [len(row["captions"]) for row in kept])  # each text's picture
        near = searcher.behind_encoder().similarity(features, texts, batch_size=256)
        for find, name in (("text", "caption for picture"), ("image", "picture for caption")):
            again = decode.reranked(captioner.behind_encoder(), near, features, texts, find=find)
            first, then = (_found(scores, of, find) for scores in (near, again))
            measures = {"alone": mean(first), "again": mean(then), "gain": mean(then - first)}
            found = intervals(measures, list(range(len(kept))) if find == "text" else of.tolist())
            figures = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in found.values()]
            rows.append([split, name, *figures])
    about = (
        "Recall 1: the retriever's ten best in its own order, and ranked again by `cross_attn_captioner/photos` "
        "(`vtx_keras.models.decode`: how much likelier it makes the caption for this picture than for the ten "
        "nearest to the caption). Its weight beside the similarity was chosen on Flickr8k's validation split. "
        "Intervals by bootstrap over pictures."
    )
    return Table(
        "Ranked again by the captioner", about, ["split", "search", "retriever", "then captioner", "gain"], rows
    )


def _found(scores: np.ndarray, of: np.ndarray, find: str) -> np.ndarray:
    """Return whether the best of each picture's texts, or each text's pictures, is right."""
    return (
        of[scores.argmax(axis=1)] == np.arange(len(scores)) if find == "text" else scores.argmax(axis=0) == of
    ) * 1.0


def with_full_stops(photographs: data.Examples) -> data.Examples:
    """Return examples with each caption once more, with a full stop."""

    def rows() -> Iterator[dict]:
        for row in photographs.encoded.as_numpy_iterator():
            yield {**row, "captions": [one + ending for one in row["captions"] for ending in (b"", b" .")]}

    return as_examples(rows, len(photographs), photographs.encoded.element_spec)


def train_on_words(model: Any, folder: Path, epochs: int, **how: Any) -> Path:
    """Train on photographs beside sentences without pictures; the best epoch is chosen by CIDEr on validation."""
    model.freeze("image")
    settings = {"epochs": epochs, "batch_size": BATCH, "buckets": (10, 12, 14, 17), "texts": 0.5, **how}
    history = train.run(
        model, views(examples("train")), folder, validation=plainly(flickr8k("validation").take(400)),
        text=data.sentences(sentences()), scores=300, monitor="val_cider", samples=0, jit_compile=False, **settings,
    )  # fmt: skip
    return history.folder / "best"


def train_on_reward(model: Any, folder: Path) -> Path:
    """Raise the CIDEr-D of sampled captions of Flickr8k; the photographs of COCO have one caption, soon learned."""
    model.freeze("image")
    history = train.run(
        model, views(flickr8k("train")), folder, validation=plainly(flickr8k("validation").take(400)),
        objective="cider", epochs=EPOCHS[2], batch_size=BATCH, learning_rate=2e-4, weight_decay=0.0, ema=0.98,
        scores=300, monitor="val_cider", samples=0, jit_compile=False,
    )  # fmt: skip
    return history.folder / "best"


def folder() -> Path:
    """Return the folder that the photographs lie in."""
    return data.sets.archive_dir()


def flickr8k(split: str) -> data.Examples:
    """Return Flickr8k's official split: {"id", "image", "image_id", "captions"}."""
    return data.load("flickr8k", split)


def coco_sample(split: str) -> data.Examples:
    """Return photographs of kitchens, streets, animals and food, in the form of `flickr8k`."""
    with (folder() / "coco_sample" / "captions.csv").open(encoding="utf-8", newline="") as lines:
        table = [row for row in csv.DictReader(lines) if row["split"] == split]

    def rows() -> Iterator[dict]:
        for row in table:
            image = (folder() / "coco_sample" / "images" / row["image"]).read_bytes()
            yield {"id": row["coco_id"], "image": image, "image_id": row["coco_id"], "captions": [row["caption"]]}

    return as_examples(rows, len(table), flickr8k("validation").encoded.element_spec)


def examples(split: str) -> data.Examples:
    """Return the photographs that a captioner learns from ("train"), or a split of Flickr8k or of `coco_sample`."""
    if split == "sample":  # Flickr8k's photographs may not be shown
        return data.from_csv(data.sample("photos/captions.csv"))
    if split.startswith("coco"):
        return coco_sample("validation")
    if split != "train":
        return flickr8k(split)
    return flickr8k("train").concatenate(coco_sample("train"))


def plainly(photographs: data.Examples) -> data.Examples:
    """Return examples with `plain` captions."""

    def rows() -> Iterator[dict]:
        for row in photographs.encoded.as_numpy_iterator():
            yield {**row, "captions": [plain(caption.decode()) for caption in row["captions"]]}

    return as_examples(rows, len(photographs), photographs.encoded.element_spec)


def views(photographs: data.Examples) -> data.Examples:
    """Return each photograph with `plain` captions in VIEWS ways, each time in another order: as it is, mirrored, part.

    The encoder is frozen and its features are kept, so these few changes take the place of an endless augmentation.
    """

    stored, rows = list(plainly(photographs).encoded.as_numpy_iterator()), []
    for view in range(VIEWS):
        random = np.random.default_rng(view)
        rows += [_seen_otherwise(stored[number], view, random) for number in random.permutation(len(stored))]
    return as_examples(lambda: iter(rows), len(rows), photographs.encoded.element_spec)


def _seen_otherwise(row: dict, view: int, random: np.random.Generator) -> dict:
    """Return a row as it is (view 0), mirrored (1), or a part of it that may be mirrored (2)."""
    captions = [caption for caption in row["captions"] if not SIDES & set(caption.decode().split())]
    mirrored = bool(captions) and (view == 1 or (view == 2 and random.random() < 0.5))
    if not mirrored and view < 2:
        return row
    height, width = random.uniform(0.8, 1.0, 2) if view == 2 else (1.0, 1.0)
    y, x = random.random(2) * (1 - np.array([height, width]))
    side = ENCODER["image_shape"][0]
    pixels = media.resize(row["image"], (side, side), ENCODER["resize"], (y, x, height, width))
    file = io.BytesIO()
    Image.fromarray(pixels[:, ::-1] if mirrored else pixels).save(file, "JPEG", quality=95)
    return {**row, "image": file.getvalue(), "captions": captions if mirrored else row["captions"]}


@functools.lru_cache(maxsize=1)
def sentences() -> tuple[str, ...]:
    """Return the sentences without pictures, and the captions of the training photographs, all `plain`."""
    lines = gzip.decompress((folder() / "captions.txt.gz").read_bytes()).decode().split("\n")
    rows = flickr8k("train").concatenate(coco_sample("train")).encoded.map(lambda row: row["captions"])
    captions = [caption.decode() for several in rows.as_numpy_iterator() for caption in several]
    return tuple(line for line in map(plain, [*lines, *captions]) if line)


def vocabulary() -> tuple[str, ...]:
    """Return the words that occur at least LEAST times in the sentences, the most frequent first."""
    counts = Counter(word for line in sentences() for word in re.findall(r"\w+|[^\w\s]", line))
    return text.vocabulary([word for word, count in counts.most_common() if count >= LEAST])


@functools.cache
def plain(caption: str) -> str:
    """Return a caption's words without punctuation, as it is scored: the decoder need not learn full stops.

    >>> plain("A man's dog runs .")
    "a man's dog runs"
    """
    return " ".join(text.tokens(caption)).replace(" '", "'").replace(" n't", "n't")


def as_examples(rows: Callable[[], Iterator[Mapping[str, Any]]], count: int, form: Any) -> data.Examples:
    """Return rows of this form as examples."""
    source = tf.data.Dataset.from_generator(tf.autograph.experimental.do_not_convert(rows), output_signature=form)
    return data.Examples(source.apply(tf.data.experimental.assert_cardinality(count)))


def chances_of_concepts(images: int = 2000) -> None:
    """Print the deciles of the chances that the encoder gives to words that the captions mention, and to others."""
    model = zoo.build("gated_captioner", weights="encoders", vocabulary=["a"], dim=32, depth=1, concepts=5,
                      **{**ENCODER, "image_encoder": "efficientnet_lite2"})  # fmt: skip
    model.freeze("image")
    rows = data.features(flickr8k("train").take(images), model, FEATURES, seen=True)
    chances: dict[bool, list[float]] = {True: [], False: []}
    for row in rows.map(lambda row: {"seen": row["seen"], "captions": row["captions"]}).as_numpy_iterator():
        said = {number for caption in row["captions"] for number in concepts.mentioned(caption.decode())}
        for number, chance in row["seen"][1:]:
            if chance > 0:
                chances[int(number) in said].append(chance)
    for right, values in chances.items():
        deciles = ", ".join(f"{one:.2f}" for one in np.quantile(values, np.arange(11) / 10))
        print(f"{'mentioned' if right else 'others'}: {len(values) / images:.2f} an image, deciles {deciles}")


if __name__ == "__main__":
    chances_of_concepts()
