"""Any tfds set as examples `{"image", "caption" | "question" and "answer" | "text" and "label"}`.

An adapter is a plain function from an example of tfds to one of ours, or to a `tf.data.Dataset` of ours where one
picture carries many. Your own set needs one line:

    data.load("my_set", "train", columns={"image": "photo", "caption": "title"})
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from vtx_keras.data import builders, pixels, sets
from vtx_keras.data.tracing import mapped, plainly
from vtx_keras.options import did_you_mean

assert builders.Emoji is not None  # importing the room is what makes tfds know its builders
SAMPLE = Path(__file__).parents[1] / "sample"
SAMPLES = {"sample": "captions.csv", "sample/questions": "questions.csv"}


def load(
    name: str,
    split: str = "train",
    *,
    columns: Mapping[str, str] | Callable[[dict], Any] | None = None,
    where: Callable[[dict], tf.Tensor] | None = None,
    folder: str | os.PathLike | None = None,
) -> tf.data.Dataset:
    """A tfds set as `{"image": uint8 (h, w, 3), "caption": ..., ...}`, made first where it is not there yet.

    `name` may carry a config ("emoji/de"), `split` is what tfds takes ("train+validation", "test[:10%]"). `columns`
    says which features are meant, by our name (`{"text": "keywords", "label": "group"}`: a list of texts is joined,
    a class is named), or is a function from a tfds example to ours. `where` keeps the examples of the set that it is
    true for, whatever columns are taken of them: `where=lambda example: example["vendor"] != "openmoji"`.

        data.load("sample")                       # bundled: a few emoji (train, validation) and photos
        data.load("sample/questions")
        data.load("emoji", "test")
        data.load("coco_captions", "val")
    """
    if name in SAMPLES:
        from vtx_keras.data.files import from_csv

        found = from_csv(SAMPLE / SAMPLES[name], split).encoded
        return adapted(found, columns, where)
    try:
        builder = tfds.builder(name, data_dir=str(sets.data_dir(folder)))
    except tfds.core.DatasetNotFoundError as error:
        known = [*SAMPLES, *sets.SETS, *ADAPTERS]
        raise ValueError(
            f"there is no data set {name!r}{did_you_mean(name, known)}: ours are sample, {', '.join(sets.SETS)}; and "
            f"any of tfds ({', '.join(ADAPTERS)} need no columns=)"
        ) from error
    with contextlib.redirect_stdout(sys.stderr):  # what is asked for, such as JSON, stays alone on standard output
        builder.download_and_prepare()
    features = builder.info.features
    pictures = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    # Pictures stay encoded, for `batches` may need but a part of one. Where there are no files, tfds is in its
    # `mock_data`, which can only make pixels.
    encoded = dict.fromkeys(pictures, tfds.decode.SkipDecoding()) if os.path.exists(builder.data_dir) else None
    return adapted(
        mapped(builder.as_dataset(split=split, decoders=encoded), _naming(features)),
        columns if columns is not None else ADAPTERS.get(builder.name),
        where,
    )


def sample(name: str) -> Path:
    """A file of the bundled sample.

    >>> sample("photos/cat.jpg").is_file()
    True
    """
    path = SAMPLE / name
    if not path.is_file():
        raise FileNotFoundError(f"the sample has no {name}: it has emoji/ and photos/, listed in captions.csv")
    return path


def adapted(
    encoded: tf.data.Dataset,
    columns: Mapping[str, str] | Callable[[dict], Any] | None = None,
    where: Callable[[dict], tf.Tensor] | None = None,
) -> tf.data.Dataset:
    """Examples with encoded pictures as our examples with pixels; what `load` does after reading.

    The result remembers its encoded form as `.encoded`, from which `batches` decodes no more than it needs.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (4, 2), "red").save(file, "PNG")
    >>> raw = tf.data.Dataset.from_tensors({"photo": file.getvalue(), "title": "a red thing"})
    >>> example = next(iter(adapted(raw, {"image": "photo", "caption": "title"})))
    >>> example["image"].shape, example["caption"].numpy()
    (TensorShape([2, 4, 3]), b'a red thing')
    """
    if where is not None:
        encoded = encoded.filter(where)
    if columns is not None:
        adapter = columns if callable(columns) else plainly(_renaming(columns, encoded.element_spec))
        found = encoded.map(adapter, tf.data.AUTOTUNE)
        encoded = encoded.flat_map(adapter) if isinstance(found.element_spec, tf.data.DatasetSpec) else found
    decoded = mapped(encoded, _with_pixels)
    decoded.encoded = encoded
    return decoded


def _with_pixels(example: dict) -> dict:
    picture = example["image"] if "image" in example else tf.io.read_file(example["path"])
    if picture.dtype != tf.string:
        return example
    rest = {key: value for key, value in example.items() if key != "image"}
    if "alpha" in rest and rest["alpha"].dtype == tf.string:
        rest["alpha"] = tf.io.decode_png(rest["alpha"], channels=1)
    return {"image": pixels.read(picture), **rest}


def _naming(features: tfds.features.FeaturesDict) -> Callable[[dict], dict]:
    names = {key: feature.names for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)}

    def name(example: dict) -> dict:
        # tfds says -1 where a label is not known: "" stands first.
        told = {key: tf.gather(tf.constant(["", *names[key]]), example[key] + 1) for key in names}
        return {**example, **told}

    return name


def _renaming(columns: Mapping[str, str], spec: dict) -> Callable[[dict], dict]:
    for ours, theirs in columns.items():
        if theirs not in spec:
            raise ValueError(
                f"columns: {ours!r} is to be {theirs!r}: no such feature{did_you_mean(theirs, spec)} in {sorted(spec)}"
            )

    def rename(example: dict) -> dict:
        chosen = {}
        for ours, theirs in columns.items():
            value = example[theirs]
            joined = value.dtype == tf.string and value.shape.rank == 1 and ours in ("text", "caption", "question")
            chosen[ours] = tf.strings.reduce_join(value, separator=", ") if joined else value
        kept = {key: value for key, value in example.items() if key in ("id", "image", "path", "alpha", "keywords")}
        return {**kept, **chosen}

    return rename


def coco_captions(example: dict) -> dict:
    """COCO: a photograph and five captions."""
    return {"id": example["image/filename"], "image": example["image"], "captions": example["captions"]["text"]}


def ai2dcaption(example: dict) -> dict:
    """AI2D-Caption: a diagram and its caption."""
    return {"id": example["image_filename"], "image": example["image"], "caption": example["caption"]}


def webvid(example: dict) -> dict:
    """WebVid: a clip and its caption."""
    return {"id": example["id"], "image": example["video"], "caption": example["caption"]}


def covr(example: dict) -> dict:
    """COVR: a question about several pictures, which a video model takes as frames."""
    return {"image": example["images"], "question": example["utterance"], "answer": example["label"]}


def clevr(example: dict) -> tf.data.Dataset:
    """CLEVR: one example for each question about the scene."""
    pairs = example["question_answer"]
    rows = tf.data.Dataset.zip(*(tf.data.Dataset.from_tensor_slices(pairs[key]) for key in ("question", "answer")))
    common = {"id": example["file_name"], "image": example["image"]}
    return rows.map(lambda question, answer: {**common, "question": question, "answer": answer})


def ref_coco(example: dict) -> tf.data.Dataset:
    """RefCOCO: one example for each object that people referred to: its part of the photograph, and what they said."""
    photo, objects = example["image"], example["objects"]
    photo = pixels.read(photo) if photo.dtype == tf.string else photo
    boxes = tf.data.Dataset.from_tensor_slices(objects["bbox"])
    said = tf.data.Dataset.from_tensor_slices(objects["refexp"]["raw"])

    def part(box: tf.Tensor, captions: tf.Tensor) -> dict:
        sides = tf.shape(photo)[:2]
        corners = tf.cast(tf.round(tf.reshape(box, (2, 2)) * tf.cast(sides, tf.float32)), tf.int32)
        first = tf.clip_by_value(corners[0], 0, sides - 1)
        last = tf.clip_by_value(corners[1], first + 1, sides)
        return {"image": photo[first[0] : last[0], first[1] : last[1]], "captions": captions}

    return tf.data.Dataset.zip(boxes, said).map(part)


ADAPTERS = {
    adapter.__name__: plainly(adapter) for adapter in (coco_captions, ref_coco, clevr, covr, ai2dcaption, webvid)
}
