"""Questions about photographs: a model behind the encoder of `photos` that begins with what others know.

It has the words and the first text layer of `retriever/photos`, the rest of `cross_attn_captioner/photos`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from recipes.families import photos
from recipes.families.examples import split_and_part, without
from recipes.release import Release, Table
from recipes.steps import copy_weights
from vtx_keras import data, evaluate, text, train, zoo
from vtx_keras.data.sets import _flickr8k_qa as rules

OPTIONS = {**photos.ENCODER, **photos.DECODER, "text_depth": 1, "dropout": 0.3}
BATCH = 128
EPOCHS = 4
WORDS = 2_000  # pieces that a model reads, and those of the questions
ASKED = {  # of the bundled photographs
    "cat.jpg": (("what is looking to the side?", "cat"), ("how many cats are there?", "one")),
    "coffee.jpg": (("what is the colour of the plate?", "red"),),
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
        "are not among them. The answers are thinned out so that the question alone tells little. A fifth of the "
        "questions that it learned from are what a single caption answers; the baseline did not read them.",
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
        rows=photos.VIEWS * 10_798,
        epochs=EPOCHS,
        batch_size=BATCH,
        kept_features=True,
        baselines=("most_frequent", "question_alone"),
        besides=by_kind,
        licence="research and education: see the data sets",
        formats=(("litert", None), ("litert", "int8"), ("onnx", None)),
    )


def begin(model: Any) -> None:
    """Give a new model what the releases know: the captioner's vision and fusion, the retriever's first text layer."""
    captioner = zoo.build("cross_attn_captioner", weights="photos", vocabulary=model.vocabulary)
    searcher = zoo.build("retriever", weights="photos", vocabulary=model.vocabulary)
    copy_weights(captioner, model)
    read = {variable.path: variable for variable in searcher.get_layer("text_encoder").weights}
    for variable in model.get_layer("text_encoder").weights:
        if not variable.path.startswith("norm/"):  # it stands after another layer
            variable.assign(read[variable.path])


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
    """Return questions about all views of the training photographs: those of the set, and what one caption answers.

    Of the latter are left out those that the captions answer differently. They are thinned out as the set is, and have
    its answers.
    """
    pictures = photos.views(photos.flickr8k("train"))
    made = {}
    for row in photos.flickr8k("train").encoded.map(without_image).as_numpy_iterator():
        captions = [caption.decode() for caption in row["captions"]]
        made[f"{row['image_id'].decode()}.jpg"] = [*rules.pairs(captions), *_of_one_caption(captions)]
    asked = rules.balanced({name: list(dict.fromkeys(found)) for name, found in made.items()}, set(made))
    known = {row["answer"].decode() for row in questions("train").encoded.map(without_image).as_numpy_iterator()}
    kept = {name: [pair for pair in found if pair.answer in known] for name, found in asked.items()}

    def rows() -> Iterator[dict]:
        for row in pictures.encoded.as_numpy_iterator():
            for pair in kept[f"{row['image_id'].decode()}.jpg"]:
                yield {"image": row["image"], "question": pair.question, "answer": pair.answer}

    words = tf.TensorSpec((), tf.string)
    form = {"image": words, "question": words, "answer": words}
    return photos.as_examples(rows, photos.VIEWS * sum(map(len, kept.values())), form)


def _of_one_caption(captions: list[str]) -> Iterator[rules.Pair]:
    """Yield what a caption answers alone, where no other answers it differently."""
    said = [pair for caption in captions for pair in rules.pairs([caption])]
    for pair in said:
        if len({other.answer for other in said if (other.kind, other.about) == (pair.kind, pair.about)}) == 1:
            yield pair


def without_image(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without its image."""
    return {name: value for name, value in row.items() if name != "image"}


def train_on_questions(model: Any, folder: Path) -> Path:
    """Train on the questions of all views; the best epoch is chosen by accuracy on validation."""
    model.freeze("image")
    history = train.run(
        model, more_questions(), folder, validation=questions("validation"), epochs=EPOCHS, batch_size=BATCH,
        learning_rate=5e-4, weight_decay=0.05, ema=0.995, monitor="val_accuracy", samples=0, jit_compile=False,
        buckets=(8, 10, 12),
    )  # fmt: skip
    return history.folder / "best"


def by_kind(model: Any) -> Table:
    """Measure the accuracy for each kind of question, beside that of the question alone."""
    model.freeze("image")
    behind, rows = model.behind_encoder(), []
    for kind in rules.KINDS:
        asked, taught = (
            data.Examples(questions(split).encoded.filter(lambda row, kind=kind: row["kind"] == kind))
            for split in ("test", "train")
        )
        features = data.features(asked, model, photos.FEATURES)
        report = evaluate.run(behind, features, train=taught, baselines=("question_alone",))
        measured = report.metrics["accuracy"]
        alone = report.baselines["question_alone"]["accuracy"]["value"]
        interval = f"{measured['value']:.3f} [{measured['low']:.3f}, {measured['high']:.3f}]"
        rows.append([kind, f"{report.rows:,d}", interval, f"{alone:.3f}"])
    return Table("By kind of question", "Accuracy on the test split.", ["kind", "questions", "model", "alone"], rows)
