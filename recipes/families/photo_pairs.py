"""Two models of a photograph and a text: answers to questions, and whether a sentence fits. They train behind the
encoder of `photos`, and begin with what others know: the text side of `retriever/photos`, the rest of
`cross_attn_captioner/photos`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from recipes.families import photos
from recipes.families.examples import split_and_part, without
from recipes.release import Release, Table
from recipes.steps import copy_weights
from vtx_keras import data, evaluate, text, train, zoo
from vtx_keras.data.sets import _flickr8k_qa as rules
from vtx_keras.evaluate._measures import intervals, mean

OPTIONS = {**photos.ENCODER, **photos.DECODER, "text_depth": 1, "dropout": 0.3}
FEATURES = "runs/features"
BATCH = 128
WORDS = 2_000  # that a model of questions reads
CANDIDATES = 10  # of the retriever's, which the matcher ranks
ASKED_AT_ONCE = 64  # searches whose candidates are ranked together
NEAR = 40  # pictures and texts nearest to a pair, among which is what it is mistaken for
ASKED = {  # of the bundled photographs
    "cat.jpg": (("what is looking to the side?", "cat"), ("how many cats are there?", "one")),
    "coffee.jpg": (("what is the colour of the saucer?", "red"), ("what is on the saucer?", "cup")),
    "rocket.jpg": (("what is the colour of the rocket?", "white"),),
    "astronaut.jpg": (("what is the colour of the suit?", "orange"), ("how many people are there?", "one")),
    "pagoda.jpg": (("where is the tower?", "hill"),),
    "dahlia.jpg": (("what is the colour of the flower?", "orange"),),
    "raccoon.jpg": (("where is the animal?", "tree"),),
    "dogs.jpg": (("what is the colour of the dogs?", "brown"), ("how many dogs are there?", "two")),
    "fig.jpg": (("what is the colour of the bowl?", "red"),),
}


def answerer(recipe: str, fusion: str) -> Release:
    """Return the release of a model that answers questions; `fusion` says how image and words are combined."""
    return Release(
        recipe,
        about="Answers a question about a photograph with one of 138 words: what someone holds or rides, how many "
        "there are, what colour something has, where someone is. The image, at 224 × 224 px, is encoded by "
        f"EfficientNet-Lite2, the question by one layer, and in two blocks of width 256 {fusion}. "
        "**The questions were made from captions by rules**, as those of COCO-QA were.",
        expect="It knows people, dogs and things outdoors, and the questions' few forms: other wordings and yes or no "
        "are not among them. The answers are thinned out so that the question alone tells little.",
        sets=("flickr8k_qa",),
        sources=photos.SOURCES,
        examples=questions,
        eval_splits={
            "test": "questions about the photographs of Flickr8k's official test split",
            "test without picture": "the same questions about a blank picture, which shows how much it uses it",
        },
        eval_data="flickr8k_qa",
        example_split="sample",
        words=words_of_questions,
        prepare=begin,
        options=OPTIONS,
        trained=train_on_questions,
        rows=photos.VIEWS * 13_631,
        epochs=4,
        batch_size=BATCH,
        kept_features=True,
        baselines=("most_frequent", "question_alone"),
        besides=by_kind,
        licence="research and education: see the data sets",
        formats=(("litert", None), ("litert", "int8"), ("onnx", None)),
    )


def matcher(recipe: str, fusion: str) -> Release:
    """Return the release of a matcher; `fusion` says how image and words are combined."""
    return Release(
        recipe,
        about="Predicts how well a sentence fits a photograph. The image, at 224 × 224 px, is encoded by "
        f"EfficientNet-Lite2, the sentence by one layer, and in two blocks of width 256 {fusion}. It learned from "
        "pairs that the retriever takes for right and that are wrong.",
        expect="Rank the ten best of `retriever/photos` by it (below). It knows people, dogs, sports and rooms.",
        sets=("flickr8k",),
        sources=photos.SOURCES,
        examples=photos.examples,
        eval_splits={
            "test": "Flickr8k's official test split, each photograph with a caption of its own and one of another",
        },
        eval_data="flickr8k",
        example_split="sample",
        words=photos.vocabulary,
        prepare=begin,
        options=OPTIONS,
        trained=train_on_pairs,
        rows=photos.VIEWS * 36_000,
        epochs=2,
        batch_size=BATCH,
        kept_features=True,
        besides=reranked,
        licence="research and education: see the data sets",
        formats=(("litert", None), ("litert", "int8"), ("onnx", None)),
    )


def begin(model: Any) -> None:
    """Give a new model what the releases know: the captioner's vision and fusion, the retriever's text side."""
    captioner = zoo.build("cross_attn_captioner", weights="photos", vocabulary=model.vocabulary)
    searcher = zoo.build("retriever", weights="photos", vocabulary=model.vocabulary)
    copy_weights(captioner, model)
    read = {variable.path: variable for variable in searcher.get_layer("text_encoder").weights}
    for variable in model.get_layer("text_encoder").weights:
        variable.assign(read[variable.path])


# --- questions


def questions(split: str) -> data.Examples:
    """Load a split of `flickr8k_qa`, perhaps "without picture", or questions about the bundled photographs."""
    if split == "sample":
        folder = data.sample("photos/captions.csv").parent
        rows = [(str(folder / name), *pair) for name, asked in ASKED.items() for pair in asked]
        columns = dict(zip(("path", "question", "answer"), map(list, zip(*rows, strict=True)), strict=True))
        sample = tf.data.Dataset.from_tensor_slices(columns)
        return data.Examples(sample.map(lambda row: {**row, "image": tf.io.read_file(row["path"])}))
    name, part = split_and_part(split)
    return without(data.load("flickr8k_qa", name), part)


def words_of_questions() -> tuple[str, ...]:
    """Return the WORDS most frequent words about photographs, and those of the questions."""
    asked = [row["question"].decode() for row in questions("train").encoded.map(without_image).as_numpy_iterator()]
    return text.extended(photos.vocabulary()[:WORDS], asked, least=1)


def more_questions() -> data.Examples:
    """Return questions about all views of the training photographs: also what one caption of five answers alone.

    They are thinned out as the set is, and have its answers.
    """
    pictures = photos.views(photos.flickr8k("train"))
    said: dict[str, list[str]] = {}
    for row in photos.flickr8k("train").encoded.map(without_image).as_numpy_iterator():
        said[row["image_id"].decode()] = [caption.decode() for caption in row["captions"]]
    made = {
        name: list(dict.fromkeys([*rules.pairs(captions), *(pair for one in captions for pair in rules.pairs([one]))]))
        for name, captions in said.items()
    }
    asked = rules.balanced(made, set(made))
    known = {row["answer"] for row in questions("train").encoded.map(without_image).as_numpy_iterator()}

    def rows() -> Iterator[dict]:
        for row in pictures.encoded.as_numpy_iterator():
            for pair in asked[row["image_id"].decode()]:
                if pair.answer.encode() in known:
                    yield {"image": row["image"], "question": pair.question, "answer": pair.answer}

    count = photos.VIEWS * sum(pair.answer.encode() in known for found in asked.values() for pair in found)
    words = tf.TensorSpec((), tf.string)
    return photos.as_examples(rows, count, {"image": words, "question": words, "answer": words})


def without_image(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without its image."""
    return {name: value for name, value in row.items() if name != "image"}


def train_on_questions(model: Any, folder: Path) -> Path:
    """Train on the questions of all views; the best epoch is chosen by accuracy on validation."""
    model.freeze("image")
    history = train.run(
        model, more_questions(), folder, validation=questions("validation"), epochs=4, batch_size=BATCH,
        learning_rate=5e-4, weight_decay=0.05, ema=0.995, monitor="val_accuracy", samples=0, jit_compile=False,
    )  # fmt: skip
    return history.folder / "best"


def by_kind(model: Any) -> Table:
    """Measure the accuracy for each kind of question, beside that of the question alone."""
    behind = behind_encoder(model)
    rows = []
    for kind in rules.KINDS:
        asked, taught = (
            data.Examples(questions(split).encoded.filter(lambda row, kind=kind: row["kind"] == kind))
            for split in ("test", "train")
        )
        report = evaluate.run(
            behind, features_of(asked, model), train=features_of(taught, model), baselines=("question_alone",)
        )
        measured = report.metrics["accuracy"]
        alone = report.baselines["question_alone"]["accuracy"]["value"]
        interval = f"{measured['value']:.3f} [{measured['low']:.3f}, {measured['high']:.3f}]"
        rows.append([kind, f"{report.rows:,d}", interval, f"{alone:.3f}"])
    return Table("By kind of question", "Accuracy on the test split.", ["kind", "questions", "model", "alone"], rows)


# --- pairs


class Hard(NamedTuple):
    """Photographs and their captions, and what the retriever takes for right of each."""

    pictures: list[bytes]  # their image_ids
    captions: list[str]
    of: np.ndarray  # (captions,): numbers of pictures
    texts: np.ndarray  # (pictures, NEAR): captions of others that are near
    others: np.ndarray  # (captions, NEAR): other pictures that are near
    similarity: np.ndarray  # (pictures, captions)


def hard_pairs(photographs: data.Examples) -> Hard:
    """Return which texts and pictures the released retriever finds near each other, wrongly."""
    searcher = zoo.build("retriever", weights="photos")
    rows = list(features_of(photographs, searcher).as_numpy_iterator())
    of = np.repeat(np.arange(len(rows)), [len(row["captions"]) for row in rows])
    captions = [photos.plain(caption.decode()) for row in rows for caption in row["captions"]]
    features = np.stack([row["image"] for row in rows])
    similarity = searcher.behind_encoder().similarity(features, captions, batch_size=256)
    similarity = similarity.astype("float32")
    wrong = np.where(of == np.arange(len(rows))[:, None], -np.inf, similarity)
    near = [np.argpartition(-table, NEAR, axis=1)[:, :NEAR] for table in (wrong, wrong.T)]
    return Hard([row["image_id"] for row in rows], captions, of, *near, similarity)


def taught_pairs(split: str) -> data.Examples:
    """Return, for each photograph, two captions that fit (1), and for each a wrong text and a wrong picture (0).

    Of the training split it returns all views.
    """
    hard = hard_pairs(photos.flickr8k(split))
    plain = photos.plainly(photos.flickr8k(split))
    views = photos.views(photos.flickr8k(split)) if split == "train" else plain
    stored = list(views.encoded.as_numpy_iterator())
    number = {name: place for place, name in enumerate(hard.pictures)}
    caption_of = {caption: place for place, caption in enumerate(hard.captions)}

    def rows() -> Iterator[dict]:
        random = np.random.default_rng(0)
        for begin in range(0, len(stored), len(number)):  # a view of all photographs
            view = stored[begin : begin + len(number)]
            images = {number[row["image_id"]]: row["image"] for row in view}
            for row in view:
                for caption in random.choice(row["captions"], min(2, len(row["captions"])), replace=False):
                    wrong = random.choice(hard.texts[number[row["image_id"]]])
                    other = random.choice(hard.others[caption_of[caption.decode()]])
                    yield {"image": row["image"], "caption": caption, "label": 1}
                    yield {"image": row["image"], "caption": hard.captions[wrong], "label": 0}
                    yield {"image": images[other], "caption": caption, "label": 0}

    count = sum(3 * min(2, len(row["captions"])) for row in stored)
    words = tf.TensorSpec((), tf.string)
    return photos.as_examples(rows, count, {"image": words, "caption": words, "label": tf.TensorSpec((), tf.int32)})


def train_on_pairs(model: Any, folder: Path) -> Path:
    """Train on pairs of all views; the best epoch is chosen by accuracy on validation."""
    model.freeze("image")
    history = train.run(
        model, taught_pairs("train"), folder, validation=taught_pairs("validation"), epochs=2, batch_size=BATCH,
        learning_rate=5e-4, weight_decay=0.05, ema=0.995, monitor="val_accuracy", samples=0, jit_compile=False,
        buckets=(8, 10, 12, 14, 17),
    )  # fmt: skip
    return history.folder / "best"


def reranked(model: Any, split: str = "test") -> Table:
    """Measure recall 1 both ways: by the retriever alone, and with its best ranked by the matcher."""
    hard = hard_pairs(photos.flickr8k(split))
    features = {row["image_id"]: row["image"] for row in features_of(photos.flickr8k(split), model).as_numpy_iterator()}
    pixels = np.stack([features[name] for name in hard.pictures])
    right = hard.of == np.arange(len(pixels))[:, None]  # (pictures, captions)
    behind, rows = behind_encoder(model), []
    for way, near, fits in (
        ("caption for picture", hard.similarity, right),
        ("picture for caption", hard.similarity.T, right.T),
    ):
        best = np.argsort(-near, axis=1, kind="stable")[:, :CANDIDATES]
        scores = []
        for at in range(0, len(best), ASKED_AT_ONCE):
            rows_of, found = np.indices(best[at : at + ASKED_AT_ONCE].shape)[0] + at, best[at : at + ASKED_AT_ONCE]
            pictures, texts = (rows_of, found) if near is hard.similarity else (found, rows_of)
            said = [hard.captions[place] for place in texts.ravel()]
            scores += behind.match(pixels[pictures.ravel()], said, batch_size=320)
        order = np.argsort(-np.reshape(scores, best.shape), axis=1, kind="stable")
        found = np.take_along_axis(fits, best, axis=1)
        before, after = found[:, 0].astype(float), np.take_along_axis(found, order, axis=1)[:, 0].astype(float)
        measures = {"retriever": before, "retriever, then matcher": after, "gain, paired": after - before}
        groups = hard.pictures if near is hard.similarity else hard.of
        for ranking, values in intervals({name: mean(one) for name, one in measures.items()}, groups).items():
            rows.append([way, ranking, "{:.3f} [{:.3f}, {:.3f}]".format(*values)])
    about = f"Recall 1 on the {split} split: the retriever's {CANDIDATES} best in its own order, and in the matcher's."
    return Table("Reranking the retriever's results", about, ["search", "ranked by", "recall 1"], rows)


# --- features


def behind_encoder(model: Any) -> Any:
    """Return a model behind its frozen encoder."""
    model.freeze("image")
    return model.behind_encoder()


def features_of(photographs: data.Examples, model: Any) -> tf.data.Dataset:
    """Return examples with the features of the shared encoder, made once."""
    model.freeze("image")
    return data.features(photographs, model, FEATURES)
