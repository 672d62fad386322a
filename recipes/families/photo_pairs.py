"""Two models of a photograph and a text: answers to questions, and whether a sentence fits. They train behind the
encoder of `photos`, and begin with what others know: the words and first text layer of `retriever/photos`, the rest of
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
BATCH = 128
EPOCHS = {"vqa": 4, "matcher": 1}
WORDS = 2_000  # pieces, that a model of questions reads
CANDIDATES = 10  # of the retriever's, which the matcher ranks
ASKED_AT_ONCE = 64  # searches whose candidates are ranked together
NEAR = 40  # texts nearest to a picture, and pictures to a text, from which wrong ones are drawn
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
        rows=photos.VIEWS * 10_798,
        epochs=EPOCHS["vqa"],
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
        "captions that fit, and from texts and photographs that the retriever finds near and that do not.",
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
        epochs=EPOCHS["matcher"],
        batch_size=BATCH,
        kept_features=True,
        besides=reranked,
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
        model, more_questions(), folder, validation=questions("validation"), epochs=EPOCHS["vqa"], batch_size=BATCH,
        learning_rate=5e-4, weight_decay=0.05, ema=0.995, monitor="val_accuracy", samples=0, jit_compile=False,
        buckets=(8, 10, 12),
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


class Searched(NamedTuple):
    """Photographs, their captions, and how near the retriever finds each text to each picture."""

    pictures: list[bytes]  # their image_ids
    captions: list[str]
    of: np.ndarray  # (captions,): the number of each caption's picture
    similarity: np.ndarray  # (pictures, captions)


def searched(photographs: data.Examples) -> Searched:
    """Compare all captions with all pictures by the released retriever."""
    searcher = zoo.build("retriever", weights="photos")
    rows = list(features_of(photographs, searcher).as_numpy_iterator())
    of = np.repeat(np.arange(len(rows)), [len(row["captions"]) for row in rows])
    captions = [caption.decode() for row in rows for caption in row["captions"]]
    names, features = [row["image_id"] for row in rows], np.stack([row["image"] for row in rows])
    del rows
    similarity = searcher.behind_encoder().similarity(features, captions, batch_size=256)
    return Searched(names, captions, of, similarity.astype("float32"))


def mistaken(found: Searched) -> tuple[np.ndarray, np.ndarray]:
    """Return the NEAR captions of others nearest to each picture, and the NEAR other pictures nearest to each caption.

    Both are ordered by number. A text that several pictures have is wrong for none of them.
    """
    wrong = found.similarity.copy()
    places: dict[str, list[int]] = {}
    for place, caption in enumerate(found.captions):
        places.setdefault(photos.plain(caption), []).append(place)
    for same in places.values():
        wrong[np.ix_(found.of[same], same)] = -np.inf

    def nearest(table: np.ndarray) -> np.ndarray:
        return np.stack([np.sort(np.argpartition(-row, NEAR)[:NEAR]).astype("int32") for row in table])

    return nearest(wrong), nearest(wrong.T)


def taught_pairs(split: str) -> data.Examples:
    """Return two captions that fit each photograph (1), and for each a wrong text and a wrong picture (0).

    Of the training split it returns all views. Half of the texts end with a full stop.
    """
    found = searched(photos.flickr8k(split))
    wrong_texts, wrong_pictures = mistaken(found)
    captions = [photos.plain(caption) for caption in found.captions]
    number = {name: place for place, name in enumerate(found.pictures)}
    place_of = {(found.pictures[picture], captions[place]): place for place, picture in enumerate(found.of)}
    del found
    views = photos.views if split == "train" else photos.plainly
    stored = list(views(photos.flickr8k(split)).encoded.as_numpy_iterator())

    def rows() -> Iterator[dict]:
        random = np.random.default_rng(0)
        for at in range(0, len(stored), len(number)):  # a view of all photographs
            view = stored[at : at + len(number)]
            images = {number[row["image_id"]]: row["image"] for row in view}
            for row in view:
                for chosen in random.choice(len(row["captions"]), min(2, len(row["captions"])), replace=False):
                    own = row["captions"][chosen].decode()
                    wrong = captions[random.choice(wrong_texts[number[row["image_id"]]])]
                    other = images[random.choice(wrong_pictures[place_of[row["image_id"], own]])]
                    own, wrong = (f"{words} ." if random.random() < 0.5 else words for words in (own, wrong))
                    yield {"image": row["image"], "caption": own, "label": 1}
                    yield {"image": row["image"], "caption": wrong, "label": 0}
                    yield {"image": other, "caption": own, "label": 0}

    count = sum(3 * min(2, len(row["captions"])) for row in stored)
    words = tf.TensorSpec((), tf.string)
    return photos.as_examples(rows, count, {"image": words, "caption": words, "label": tf.TensorSpec((), tf.int32)})


def train_on_pairs(model: Any, folder: Path) -> Path:
    """Train on pairs of all views; the best epoch is chosen by accuracy on validation."""
    model.freeze("image")
    history = train.run(
        model, taught_pairs("train"), folder, validation=taught_pairs("validation"), epochs=EPOCHS["matcher"],
        batch_size=BATCH, learning_rate=5e-4, weight_decay=0.05, ema=0.995, monitor="val_accuracy", samples=0,
        jit_compile=False, buckets=(8, 10, 12, 14, 17),
    )  # fmt: skip
    return history.folder / "best"


def reranked(model: Any, split: str = "test") -> Table:
    """Measure recall 1 both ways: by the retriever alone, and with its best ranked by the matcher."""
    found = searched(photos.flickr8k(split))
    stored = {row["image_id"]: row["image"] for row in features_of(photos.flickr8k(split), model).as_numpy_iterator()}
    pixels, behind, rows = np.stack([stored[name] for name in found.pictures]), behind_encoder(model), []
    fits = found.of == np.arange(len(pixels))[:, None]  # (pictures, captions)

    def texts_ranked(pictures: np.ndarray, texts: np.ndarray) -> list[float]:
        said = [found.captions[place] for place in texts]
        return behind.match(pixels[pictures], said, batch_size=320)

    for way, table, right, groups, scores_of in (
        ("caption for picture", found.similarity, fits, found.pictures, texts_ranked),
        ("picture for caption", found.similarity.T, fits.T, found.of, lambda a, b: texts_ranked(b, a)),
    ):
        best = np.argsort(-table, axis=1, kind="stable")[:, :CANDIDATES]
        asked = np.indices(best.shape)[0]
        scores: list[float] = []
        for at in range(0, len(best), ASKED_AT_ONCE):
            part = slice(at, at + ASKED_AT_ONCE)
            scores += scores_of(asked[part].ravel(), best[part].ravel())
        order = np.argsort(-np.reshape(scores, best.shape), axis=1, kind="stable")
        hits = np.take_along_axis(right, best, axis=1).astype(float)
        before, after = hits[:, 0], np.take_along_axis(hits, order, axis=1)[:, 0]
        measures = {"retriever": before, "retriever, then matcher": after, "the gain, paired": after - before}
        for ranking, values in intervals({name: mean(one) for name, one in measures.items()}, groups).items():
            rows.append([way, ranking, "{:.3f} [{:.3f}, {:.3f}]".format(*values)])
    about = f"On the {split} split: the retriever's {CANDIDATES} best in its own order, and in the matcher's."
    return Table("Reranking the retriever's results", about, ["search", "ranked by", "recall 1"], rows)


# --- features


def behind_encoder(model: Any) -> Any:
    """Return a model behind its frozen encoder."""
    model.freeze("image")
    return model.behind_encoder()


def features_of(photographs: data.Examples, model: Any) -> tf.data.Dataset:
    """Return examples with the features of the shared encoder, made once."""
    model.freeze("image")
    return data.features(photographs, model, photos.FEATURES)
