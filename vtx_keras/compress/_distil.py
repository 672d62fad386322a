"""Train a model to say what another says: distillation (Hinton et al. 2015, https://arxiv.org/abs/1503.02531)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from vtx_keras.inputs.text import PAD
from vtx_keras.models._base import VisionText, cut, leaves
from vtx_keras.models._methods import Answerer, Captioner, Matcher, Retriever
from vtx_keras.models.layers import register
from vtx_keras.models.objectives import PacedAdam, clipping

__all__ = ["distil", "together"]
FEATURES = {"image": ("vision", "input"), "tokens": ("norm", "output")}  # what can be matched, and where it is


def distil(
    teacher: VisionText,
    student: VisionText,
    data: Any,
    *,
    epochs: int = 1,
    weight: float = 0.5,
    temperature: float = 2.0,
    features: Sequence[str] = (),
    learning_rate: float = 3e-4,
    **fit: Any,
) -> VisionText:
    """Train `student` in place on the labels of `data` and on what `teacher` says of it, and return it.

    Both have one task and the same words or classes; they may differ in all else. `data` are batches as `fit` takes
    them, and `fit` what else it takes (`validation_data`, `callbacks`, `verbose`). The loss is `weight` times the
    divergence from the teacher's probabilities at a `temperature`, and the rest of the weight times the task's own. Of
    retrievers, embeddings are compared, and the contrastive loss keeps its own weight. `features` are matched besides:
    "image", what the image encoder gives, and "tokens", what the head reads, where their shapes are the same. The rate
    falls to zero along a cosine.

    If both have the same frozen image encoder, this is much faster behind it: `teacher.behind_encoder()`,
    `student.behind_encoder()`, and batches of `data.features`. Where the encoders differ, `together` puts the features
    of either beside each other. To teach whole captions (sequence distillation), let
    the student learn `teacher.generate(images, beams=4)`.

    >>> import numpy as np
    >>> from vtx_keras import data as d, zoo
    >>> how = {"weights": None, "dim": 32, "vision_depth": 1, "image_shape": (32, 32, 3)}
    >>> teacher, student = (zoo.build("gated_captioner", depth=depth, **how) for depth in (2, 1))
    >>> batches = d.arrays(student, np.zeros((4, 32, 32, 3)), ["a cat", "a dog", "two birds", "a tree"])
    >>> distil(teacher, student, batches, epochs=1, verbose=0) is student
    True
    """
    own_picture = "teacher_image" in (getattr(data, "element_spec", None) or ({},))[0]
    check_pair(teacher, student, features, weight, temperature, own_picture)
    taught = joined(teacher, student, features, own_picture)
    steps = len(data) * epochs
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, max(1, steps))
    kind = {Answerer: "labels", Matcher: "chances", Retriever: "embeddings", Captioner: "words"}
    task = next(name for of, name in kind.items() if isinstance(student, of))
    if task == "labels" and student.options["multi_label"]:
        task = "chances"
    taught.compile(
        PacedAdam(rate, **clipping(taught.trainable_variables, 1.0)),
        loss=Distilled(task, weight, temperature, len(features)),
    )
    taught.fit(data, epochs=epochs, **{"shuffle": False, **fit})  # batches come in an order of their own
    return student


def check_pair(
    teacher: VisionText,
    student: VisionText,
    features: Sequence[str],
    weight: float,
    temperature: float,
    own_picture: bool,
) -> None:
    """Raise an error for two models that cannot be teacher and student, and for settings out of range."""
    for model in (teacher, student):
        if not isinstance(model, (Answerer, Captioner, Matcher, Retriever)):
            raise TypeError(f"expected a captioner, answerer, matcher or retriever, not a {type(model).__name__}")
        if not hasattr(model.output, "shape"):
            raise ValueError("a model with mlm=True has two outputs: distil one that was built without")
    for what, one, other in (
        ("task", teacher.name, student.name),
        ("vocabulary", list(teacher.vocabulary), list(student.vocabulary)),
        ("classes", teacher.options.get("classes"), student.options.get("classes")),
        ("number of labels", teacher.options.get("multi_label"), student.options.get("multi_label")),
        *([] if own_picture else [("image shape", teacher.image_shape, student.image_shape)]),
        *([] if own_picture else [("resize", teacher.options["resize"], student.options["resize"])]),
    ):
        if one != other:
            short = "" if what == "vocabulary" else f": {one} and {other}"
            raise ValueError(f"teacher and student differ in {what}{short}; expected the same")
    longest, read = student.options["max_length"], teacher.options["max_length"]
    if longest > read:
        raise ValueError(f"the student has max_length={longest}, and the teacher reads {read} tokens: expected no more")
    unknown = [name for name in features if name not in FEATURES]
    if unknown:
        raise ValueError(f"features={unknown[0]!r}: expected some of {', '.join(FEATURES)}")
    if not 0 <= weight <= 1 or not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"weight={weight}, temperature={temperature}: expected a share, and a number above 0")
    for name in features:
        layer, end = FEATURES[name]
        shapes = [getattr(model.get_layer(layer), end).shape[1:] for model in (teacher, student)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"features={name!r}: the teacher's are {shapes[0]}, the student's {shapes[1]}")


def together(data: Any, theirs: Any) -> Any:
    """Return batches for `distil` with the teacher's picture or features beside the student's.

    Both are what `data.batches` made of the same examples with the same seed, for the student and for the teacher.
    """
    if not hasattr(data, "zip"):
        raise TypeError("expected batches of data.batches, for the student and for the teacher")

    from vtx_keras.data._tensors import beside

    return data.zip(data, theirs).map(beside)


def taught_to_see(student: VisionText, data: Any, *, epochs: int = 1, learning_rate: float = 2e-4) -> VisionText:
    """Train the image encoder of `student` in place to give the features beside its pictures, and return the student.

    `data` are `together` of its batches and of the teacher's behind its encoder. What the batch norms measured stays.
    """
    encoder = student.get_layer("image_encoder")
    encoder.trainable = True
    for leaf in leaves(encoder):
        leaf.trainable = not isinstance(leaf, keras.layers.BatchNormalization)
    image = keras.Input(student.image_shape)
    network = keras.Model(image, encoder(image))
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, max(1, len(data) * epochs))
    network.compile(PacedAdam(rate, clipnorm=1.0), loss=lambda wanted, seen: _distance(seen, wanted))
    pairs = data.map(lambda inputs, *others: (inputs["image"], inputs["teacher_image"]))
    network.fit(pairs, epochs=epochs, shuffle=False, verbose=0)
    return student


def joined(teacher: VisionText, student: VisionText, features: Sequence[str], own_picture: bool = False) -> keras.Model:
    """Return a model from inputs to rows of the student's outputs, then the teacher's, then distances of features.

    With `own_picture` the teacher looks at "teacher_image".
    """
    inputs = {name: keras.Input(one.shape[1:], dtype=one.dtype, name=name) for name, one in student.input.items()}
    theirs = dict(inputs)
    if own_picture:
        inputs["teacher_image"] = keras.Input(teacher.image_shape, name="teacher_image")
        theirs["image"] = inputs["teacher_image"]
    said, *seen = keras.tree.flatten(_with_features(student, features)({name: inputs[name] for name in student.input}))
    wanted, *expected = Teacher(_with_features(teacher, features), name="teacher")(theirs)
    distances = [_spread(_distance(one, other), said) for one, other in zip(seen, expected, strict=True)]
    rows = keras.layers.Concatenate(dtype="float32", name="both")([said, wanted, *distances])
    return keras.Model(inputs, rows, name="taught")


def _with_features(model: VisionText, features: Sequence[str]) -> keras.Model:
    ends = [getattr(model.get_layer(layer), end) for layer, end in (FEATURES[name] for name in features)]
    return cut(model, model.input, [model.output, *ends], name="student")


def _distance(one: Any, other: Any) -> Any:
    """Return the squared distance of features, as a share of the teacher's square, for each example (batch,)."""
    axes = tuple(range(1, len(one.shape)))
    one, other = ops.cast(one, "float32"), ops.cast(other, "float32")
    return ops.sum(ops.square(one - other), axis=axes) / (ops.sum(ops.square(other), axis=axes) + 1e-6)


def _spread(value: Any, like: Any) -> Any:
    """Give a number for each example (batch,) the axes of `like`, with one column."""
    value = ops.reshape(value, (-1, *[1] * (len(like.shape) - 1)))
    return value + ops.zeros_like(ops.cast(like[..., :1], "float32"))


class Teacher(keras.layers.Layer):
    """Applies a model that does not learn. Keras does not track it, so it is neither trained nor saved."""

    def __init__(self, model: keras.Model, **kwargs: Any):
        super().__init__(**kwargs)
        self.__dict__["model"] = model

    def compute_output_shape(self, shapes: Any) -> Any:
        del shapes
        return [one.shape for one in self.model.outputs]

    def call(self, inputs: Any) -> Any:
        return [ops.stop_gradient(one) for one in keras.tree.flatten(self.model(inputs, training=False))]


@register
class Distilled(keras.losses.Loss):
    """Divergence from the teacher beside the task's own loss; rows are those of `joined`.

    `task` says what is compared: "words" and "labels" are logits of one choice, "chances" logits of yes and no, and
    "embeddings" pairs of unit vectors.
    """

    def __init__(self, task: str, weight: float, temperature: float, features: int = 0, name: str = "distilled"):
        super().__init__(name=name, reduction="mean_with_sample_weight")
        self.task, self.weight, self.temperature, self.features = task, weight, temperature, features

    def call(self, y_true: Any, rows: Any) -> Any:
        width = (rows.shape[-1] - self.features) // 2
        said, wanted = rows[..., :width], rows[..., width : 2 * width]
        loss = self.between(y_true, said, wanted)
        apart = ops.sum(rows[..., 2 * width :], axis=-1)
        return loss + (apart if len(apart.shape) == len(loss.shape) else apart[:, 0])

    def between(self, y_true: Any, said: Any, wanted: Any) -> Any:
        """Return the loss of each word, or of each example."""
        t = self.temperature
        if self.task == "embeddings":  # (batch, 2, dim); the layer Contrastive adds the task's own loss
            return self.weight * ops.mean(ops.sum(ops.square(said - wanted), axis=-1), axis=-1)
        if self.task == "chances":
            own = ops.mean(ops.binary_crossentropy(ops.cast(y_true, "float32"), said, from_logits=True), axis=-1)
            soft = ops.binary_crossentropy(ops.sigmoid(wanted / t), said / t, from_logits=True)
            return (1 - self.weight) * own + self.weight * t**2 * ops.mean(soft, axis=-1)
        labels = ops.cast(y_true, "int32")
        labels = labels[..., 0] if len(labels.shape) == len(said.shape) else labels
        own = ops.sparse_categorical_crossentropy(labels, said, from_logits=True)
        logs = ops.log_softmax(wanted / t)
        soft = ops.sum(ops.exp(logs) * (logs - ops.log_softmax(said / t)), axis=-1)
        loss = (1 - self.weight) * own + self.weight * t**2 * soft
        return ops.where(labels != PAD, loss, 0.0) if self.task == "words" else loss

    def get_config(self) -> dict:
        own = {"task": self.task, "weight": self.weight, "temperature": self.temperature, "features": self.features}
        return {**own, "name": self.name}
