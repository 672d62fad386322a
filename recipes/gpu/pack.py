"""Pack what the models of photographs learn from, for a GPU machine without TensorFlow (`recipes.gpu.tune`).

    python -m recipes.gpu.pack              # writes runs/photographs; after the two `vtx convert` of `recipes.gpu.tune`

Pictures stay JPEG files at the sides that they are stored at; texts become ids of the photograph captioner's words.
"""

from __future__ import annotations

import argparse
import io
import itertools
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from recipes import word_vectors
from recipes.families import photos
from recipes.gpu.loop import CAPTIONS, ENCODER, FOLDER, PARTS, SPLITS
from vtx_keras import data, text, zoo
from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.data import _behind as behind
from vtx_keras.inputs import media

LENGTH = photos.DECODER["max_length"] + 1
SENTENCES = 300_000  # draws of sentences without pictures
WIDTH = 192  # main directions of MiniLM's vectors that are kept


def pack(folder: Path = FOLDER) -> None:
    """Write pictures, captions, sentences, questions and vectors of captions."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = ENCODER["image_encoder"]
    shutil.copytree(published.find(encoder), folder / "encoders" / encoder, dirs_exist_ok=True)
    vocabulary = photos.vocabulary()
    rows = {split: list(photos.plainly(photos.examples(split)).encoded.as_numpy_iterator()) for split in SPLITS}
    files = [_at_its_side(row["image"]) for split in SPLITS for row in rows[split]]
    for part in range(PARTS):
        chosen = files[part::PARTS]
        sizes = np.array([len(file) for file in chosen], "int32")
        np.savez(folder / f"pictures-{part}.npz", sizes=sizes, content=np.frombuffer(b"".join(chosen), "uint8"))
    captions = {split: [[c.decode() for c in row["captions"]] for row in rows[split]] for split in SPLITS}
    texts = {f"{split}_ids": ids_of(captions[split], vocabulary) for split in SPLITS}
    texts["train_sided"] = np.array([[_sided(one) for one in _five(several)] for several in captions["train"]])
    texts["train_count"] = np.array([len(several) for several in captions["train"]], "int32")
    texts |= sentences(vocabulary) | questions(rows, vocabulary)
    np.savez_compressed(folder / "texts.npz", vocabulary=np.array(vocabulary), **texts)
    model = zoo.build("retriever", weights=None, vocabulary=vocabulary, image_shape=(32, 32, 3), dim=256)
    word_vectors.give(model)
    words = np.asarray(next(one for one in model.get_layer("text_encoder").layers if one.name == "words").embeddings)
    vectors = vectors_of([one for several in captions["train"] for one in _five(several)])
    np.savez_compressed(folder / "vectors.npz", words=words.astype("float16"), captions=_as_bytes(vectors))


def ids_of(captions: Sequence[Sequence[str]], vocabulary: Sequence[str]) -> np.ndarray:
    """Return (pictures, CAPTIONS, LENGTH) ids with START and END; captions are repeated where there are fewer."""
    flat = [one for several in captions for one in _five(several)]
    ids = text.Vocabulary(vocabulary).encode(flat, LENGTH - 1, start=True, end=True)
    ids = np.pad(ids, [[0, 0], [0, LENGTH - ids.shape[1]]])
    return ids.reshape(len(captions), CAPTIONS, LENGTH).astype("int16")


def sentences(vocabulary: Sequence[str]) -> dict[str, np.ndarray]:
    """Draw sentences without pictures, with the concepts that are told of them, as training on a CPU does."""
    model = zoo.build("gated_captioner", weights=None, vocabulary=vocabulary, dim=32, depth=1, concepts=5,
                      max_length=LENGTH - 1, image_encoder="mobilenet_v2", image_shape=(64, 64, 3))  # fmt: skip
    prepared = behind.prepared(data.sentences(photos.sentences()), model)
    size = 2_000
    draw = tf.function(behind.drawing(prepared, size, (1, 1, 1)))
    parts = [draw(LENGTH, tf.constant(number, tf.int64)) for number in range(SENTENCES // size)]
    seen = np.concatenate([inputs["seen"].numpy() for inputs, _, _ in parts])[:, 1:]  # without (0, 0): no picture
    ids = np.concatenate([np.concatenate([i["tokens"], labels[:, -1:]], axis=1) for i, labels, _ in parts])
    return {"text_ids": ids.astype("int16"), "text_words": seen[..., 0].astype("int16"),
            "text_chances": seen[..., 1].astype("float16")}  # fmt: skip


def questions(rows: dict, vocabulary: Sequence[str]) -> dict[str, np.ndarray]:
    """Return picture numbers, ids of questions and numbers of answers of `flickr8k_qa`, with the answers' names."""
    number_of, answers = {}, []
    for number, row in enumerate(itertools.chain(*rows.values())):
        number_of[row["image_id"]] = number
    made: dict[str, np.ndarray] = {}
    for split in ("train", "validation"):
        part = list(data.load("flickr8k_qa", split).encoded.as_numpy_iterator())
        if split == "train":
            answers = sorted({row["answer"].decode() for row in part})
        part = [row for row in part if row["answer"].decode() in answers and row["image_id"] in number_of]
        asked = [row["question"].decode() for row in part]
        made[f"{split}_questions"] = text.Vocabulary(vocabulary).encode(asked, LENGTH - 1, start=True).astype("int16")
        made[f"{split}_asked_of"] = np.array([number_of[row["image_id"]] for row in part], "int32")
        made[f"{split}_answers"] = np.array([answers.index(row["answer"].decode()) for row in part], "int32")
    return {**made, "answers": np.array(answers)}


def vectors_of(texts: Sequence[str], reader: str = "minilm_l6") -> np.ndarray:
    """Return the main directions of a published text encoder's sentence vectors (texts, WIDTH), of length one."""
    vocabulary = tuple(published.words_of(reader))
    begin, end = (vocabulary.index(special) for special in ("[CLS]", "[SEP]"))
    rows = [
        [begin, *(int(piece) for piece in row[:30]), end] for row in text.tokenizer(vocabulary).tokenize(list(texts))
    ]
    model, vectors = published.load(reader, head=True), np.zeros((len(rows), 384), "float32")
    order = np.argsort([len(row) for row in rows], kind="stable")  # texts of about one length together
    for places in np.array_split(order, max(1, len(rows) // 256)):
        length = 4 * -(-max(len(rows[place]) for place in places) // 4)
        vectors[places] = model.predict_on_batch(np.array([rows[p] + [0] * (length - len(rows[p])) for p in places]))
    vectors -= vectors.mean(axis=0)
    vectors = vectors @ np.linalg.eigh(vectors.T @ vectors)[1][:, ::-1][:, :WIDTH]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _as_bytes(vectors: np.ndarray) -> np.ndarray:
    """Return vectors as whole numbers, each scaled to its greatest; only their directions count."""
    return np.round(127 * vectors / np.abs(vectors).max(axis=1, keepdims=True)).astype("int8")


def _at_its_side(file: bytes) -> bytes:
    """Return a JPEG file of the encoder's side, the same bytes if it has it."""
    side = ENCODER["image_shape"][0]
    with Image.open(io.BytesIO(file)) as picture:
        if picture.size == (side, side) and picture.format == "JPEG":
            return file
    stored = io.BytesIO()
    Image.fromarray(media.resize(file, (side, side), ENCODER["resize"])).save(stored, "JPEG", quality=80)
    return stored.getvalue()


def _sided(caption: str) -> bool:
    return bool(photos.SIDES & set(caption.split()))


def _five(captions: Sequence[str]) -> Iterable[str]:
    return itertools.islice(itertools.cycle(captions), CAPTIONS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    pack(parser.parse_args().folder)
