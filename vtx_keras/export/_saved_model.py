"""A model as a SavedModel for stock TensorFlow Serving: encoded pictures and strings in, sentences and numbers out.

    task                  serving_default takes     and gives, with ok
    captioner             image_bytes               caption, score
    vqa, classifier       image_bytes, question     answer, score, scores
    matcher               image_bytes, text         score
    retriever             image_bytes               image_embedding; signature `text`: text to text_embedding

`pixels` takes uint8 `image` (n, h, w, 3) in place of `image_bytes`. A clip is several pictures: `image_bytes` (n, t),
`image` (n, t, h, w, 3).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from vtx_keras._compat import saved_model_proto
from vtx_keras.export import _graphs as companions
from vtx_keras.export import _graphs as graphs
from vtx_keras.export import _pictures as pictures
from vtx_keras.export import _strings as strings
from vtx_keras.export import _verify as verify
from vtx_keras.inputs import media
from vtx_keras.models._base import VisionText
from vtx_keras.models._captioner import Captioner
from vtx_keras.models._readers import Answerer, Matcher, Retriever


def saved_model(
    model: VisionText,
    path: str | os.PathLike,
    *,
    beams: int = 1,
    max_length: int | None = None,
    prompt: str | None = None,
    jit_compile: bool = False,
    verify_data: Iterable[Mapping[str, Any]] | None = None,
    share: float | None = None,
) -> verify.Report:
    """Write `model` as a SavedModel folder, run it in a process that has TensorFlow alone, and report how it compares.

    Strings enter and leave; batches are of any size; core operations of TensorFlow do all of it. A row whose picture
    (or text) cannot be read has `ok` false, empty strings and zeros, and the others are what they are. `score` is a
    caption's log-probability per word, or the probability of an answer or a match. Beams, length and prompt are fixed
    here; by default they are those of `generate`. `jit_compile` adds the signature `xla`, like `serving_default` but
    compiled by XLA for every size of batch that comes. What the model is, its labels too, is in
    `assets.extra/model.json`. `share` of the results must be identical to the model's: by default all.

        report = export.saved_model(model, "out/captions/1")    # a server wants a number as the folder's name

    >>> import tempfile
    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, depth=1, text_depth=1, image_shape=(32, 32, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = saved_model(model, f"{folder}/1")
    >>> report.identical == report.n
    True
    """
    graphs.check(model, "one", beams, max_length, prompt)
    verify.check_place(Path(path))
    settings = {"beams": beams, "max_length": max_length, "prompt": prompt} if isinstance(model, Captioner) else {}
    made = signatures(model, jit_compile=jit_compile, **settings)
    tried = verify.examples(model, verify_data)
    inputs = encoded(model, tried)

    def write(target: Path) -> None:
        save(model, made, target)
        about = companions.files(model, "one", **settings)["model.json"]
        (target / "assets.extra").mkdir()
        (target / "assets.extra" / "model.json").write_text(about, encoding="utf-8")

    def judge(target: Path) -> verify.Report:
        found = verify.run("savedmodel", target, inputs, *(name for name in made if name != "pixels"))
        cost = {name: found[name] for name in ("load_s", "ms", "peak_megabytes")}
        first = outputs_of(found, "serving_default") | outputs_of(found, "text")
        notes = [f"{len(operations(target))} kinds of operations, all of TensorFlow's core"]
        refused = int((~found["serving_default.ok"]).sum())
        notes += [f"{refused} pictures or texts could not be read: their ok is false"] * (refused > 0)
        if jit_compile:
            compiled = verify.said(model, first | outputs_of(found, "xla"), tried.texts)
            same = sum(map(np.array_equal, verify.said(model, first, tried.texts), compiled))
            notes.append(f"{same}/{len(compiled)} the same by the signature xla")
        return verify.compare(
            model,
            tried,
            with_probabilities(model, verify.expected(model, tried, **settings)),
            first | cost,
            path=Path(path),
            share=share,
            format="savedmodel",
            form="towers" if isinstance(model, Retriever) else "one",
            megabytes=verify.size_of(target),
            settings={**settings, "jit_compile": jit_compile},
            versions={"tensorflow": version("tensorflow")},
            notes=tuple(notes),
        )

    return verify.settle(path, write, judge)


def save(model: VisionText, made: Mapping[str, Any], folder: Path) -> None:
    """Write signatures over `model`'s weights as a SavedModel."""
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]  # what is not held here is not saved
    tf.saved_model.save(module, str(folder), signatures=made)
    slim(folder)


# --- the graphs


def signatures(model: VisionText, *, jit_compile: bool = False, **settings: Any) -> dict[str, Any]:
    """Functions by name: `serving_default`, `pixels`, for a retriever `text`, and with `jit_compile` also `xla`.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("retriever", weights=None, dim=32, text_depth=1, image_shape=(32, 32, 3))
    >>> sorted(signatures(model))
    ['pixels', 'serving_default', 'text']
    """
    shape, fit = model.image_shape, model.options["resize"]
    axes = [None] * (len(shape) - 2)  # a batch of pictures, or of clips with their frames
    encoded = tf.TensorSpec(axes, tf.string, "image_bytes")
    arrays = tf.TensorSpec([*axes, None, None, 3], tf.uint8, "image")
    name = "question" if isinstance(model, Answerer) else "text"
    texts = [] if isinstance(model, (Captioner, Retriever)) else [tf.TensorSpec([None], tf.string, name)]
    see = function(lambda image_bytes: pictures.batch(image_bytes, shape, fit), encoded)
    tell = teller(model, jit_compile=False, **settings)

    def from_bytes(tell: Callable) -> Any:
        return function(lambda image_bytes, *texts: tell(*see(image_bytes), *texts), encoded, *texts)

    def from_arrays(image: tf.Tensor, *texts: tf.Tensor) -> dict:
        pixels = pictures.fitted(image, shape, fit)
        return tell(pixels, tf.ones(tf.shape(pixels)[:1], tf.bool), *texts)

    made = {"serving_default": from_bytes(tell), "pixels": function(from_arrays, arrays, *texts)}
    if isinstance(model, Retriever):
        made["text"] = function(text_teller(model), tf.TensorSpec([None], tf.string, "text"))
    if jit_compile:
        made["xla"] = from_bytes(teller(model, jit_compile=True, **settings))
    return made


def function(body: Callable, *specs: tf.TensorSpec, **options: Any) -> Any:
    """A function traced once for these inputs, so that signatures which use it share it."""
    return tf.function(body, input_signature=specs, autograph=False, **options)


def teller(model: VisionText, *, jit_compile: bool, **settings: Any) -> Callable[..., dict]:
    """From uint8 pixels, whether they are good, and texts, to a signature's outputs. XLA compiles all but strings."""
    image = tf.TensorSpec((None, *model.image_shape), tf.uint8)
    tokens = tf.TensorSpec((None, model.options["max_length"]), tf.int32)
    floats = lambda pixels: ops.cast(pixels, "float32")  # noqa: E731

    if isinstance(model, Captioner):
        how = graphs.decoding(model, **settings)
        write = function(lambda image: model.generate_ids(floats(image), **how), image, jit_compile=jit_compile)
        say = function(lambda ids: strings.sentences(ids, model.vocabulary), tf.TensorSpec((None, None), tf.int32))

        def caption(pixels: tf.Tensor, ok: tf.Tensor) -> dict:
            ids, score = write(pixels)
            return only_good(ok, caption=say(ids), score=score)

        return caption
    if isinstance(model, Retriever):
        tower = model.tower("image")
        embed = function(lambda image: tower({"image": floats(image)}), image, jit_compile=jit_compile)
        return lambda pixels, ok: only_good(ok, image_embedding=embed(pixels))

    def logits(image: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
        outputs = model({"image": floats(image), "tokens": tokens}, training=False)
        return outputs["logits"] if isinstance(outputs, dict) else outputs

    judge, read = function(logits, image, tokens, jit_compile=jit_compile), reader(model)

    def answer(pixels: tf.Tensor, ok: tf.Tensor, texts: tf.Tensor) -> dict:
        with tf.control_dependencies(
            [tf.debugging.assert_equal(tf.size(texts), tf.size(ok), "a text for each picture")]
        ):
            ids, read_ok = read(texts)
        logits = judge(pixels, ids)
        if isinstance(model, Matcher):
            return only_good(ok & read_ok, score=tf.sigmoid(logits[:, 0]))
        scores = tf.sigmoid(logits) if model.options["multi_label"] else tf.nn.softmax(logits)
        names = tf.constant(model.class_names)
        named = tf.gather(names, tf.argmax(logits, axis=-1))
        if model.options["multi_label"]:
            chosen = tf.ragged.boolean_mask(tf.broadcast_to(names, tf.shape(logits)), logits > 0)
            named = tf.strings.reduce_join(chosen, axis=-1, separator=", ")
        return only_good(ok & read_ok, answer=named, score=tf.reduce_max(scores, axis=-1), scores=scores)

    return answer


def text_teller(model: Retriever) -> Callable[[tf.Tensor], dict]:
    """From texts to their embeddings."""
    tower, read = model.tower("text"), reader(model)

    def embed(texts: tf.Tensor) -> dict:
        ids, ok = read(texts)
        return only_good(ok, text_embedding=tower({"tokens": ids}))

    return embed


def reader(model: VisionText) -> Any:
    """From texts to their ids, and which texts can be read."""
    length, empty = model.options["max_length"], model.options.get("allow_empty", False)
    read = lambda texts: strings.tokens(texts, model.vocabulary, length, allow_empty=empty)  # noqa: E731
    return function(read, tf.TensorSpec([None], tf.string))


def only_good(ok: tf.Tensor, **outputs: tf.Tensor) -> dict:
    """Zeros and empty strings where a row is not ok: JSON knows no NaN."""
    nothing = {tf.string: ""}
    return {
        name: tf.where(tf.reshape(ok, [-1] + [1] * (value.shape.rank - 1)), value, nothing.get(value.dtype, 0.0))
        for name, value in outputs.items()
    } | {"ok": ok}


# --- the comparison


def encoded(model: VisionText, tried: verify.Examples) -> dict[str, Any]:
    """The examples as a client would send them: files as they are, where the graph knows their kind, others as PNG."""
    known = tuple(start for starts in pictures.MAGIC for start in starts)
    clips, given = len(model.image_shape) == 4, []
    for source in tried.sources:
        if clips:
            given += [as_png(frame) for frame in media.read_clip(source, model.image_shape[0])]
        else:
            data = Path(source).read_bytes() if isinstance(source, (str, os.PathLike)) else source
            given.append(data if isinstance(data, bytes) and data.startswith(known) else as_png(media.read(source)))
    inputs: dict[str, Any] = {"image_bytes": given}
    if clips:
        inputs["frames"] = np.array(model.image_shape[0])
    if tried.texts is not None:
        inputs["question" if isinstance(model, Answerer) else "text"] = tried.texts
    return inputs


def as_png(picture: np.ndarray) -> bytes:
    """A picture without loss.

    >>> as_png(np.zeros((2, 2, 3), "uint8"))[1:4]
    b'PNG'
    """
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.rint(picture).astype("uint8")).save(file, "PNG")
    return file.getvalue()


def outputs_of(found: Mapping[str, np.ndarray], signature: str) -> dict[str, np.ndarray]:
    """What one signature gave, by its own names."""
    outputs = {key.partition(".")[2]: array for key, array in found.items() if key.startswith(f"{signature}.")}
    if "score" in outputs and not {"caption", "answer"} & set(outputs):  # a matcher decides by its sign
        outputs["logits"] = np.where(outputs["score"] > 0.5, 1, -1)[:, None]
    return outputs


def with_probabilities(model: VisionText, wanted: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's own outputs under the names that the signatures use."""
    if isinstance(model, Matcher):
        logits = wanted["logits"][:, 0]
        return {"logits": np.where(logits > 0, 1, -1)[:, None], "score": 1 / (1 + np.exp(-logits))}
    if isinstance(model, Answerer):
        sure = 1 / (1 + np.exp(-wanted["logits"]))
        if not model.options["multi_label"]:
            sure = np.exp(wanted["logits"] - wanted["logits"].max(axis=1, keepdims=True))
            sure /= sure.sum(axis=1, keepdims=True)
        return {**wanted, "scores": sure}
    return wanted


def operations(folder: str | os.PathLike) -> set[str]:
    """The kinds of operations that a server must know.

    >>> import tempfile
    >>> import tensorflow as tf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     double = tf.function(lambda x: x + x, input_signature=[tf.TensorSpec([], tf.float32, "x")])
    ...     tf.saved_model.save(tf.Module(), folder, signatures=double)
    ...     "AddV2" in operations(folder)
    True
    """
    graph = _read(Path(folder)).meta_graphs[0].graph_def
    inside = {node.op for function in graph.library.function for node in function.node_def}
    return inside | {node.op for node in graph.node}


def slim(folder: str | os.PathLike) -> None:
    """Store each constant of a function once, shorten the names inside, and drop what a server never runs.

    That is what would save the weights again: restoring them, which loading does, stays.

    >>> import tempfile
    >>> import tensorflow as tf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     given = tf.TensorSpec([], tf.int32, "x")
    ...     double = tf.function(lambda x: tf.add(x, x, "a_long_name"), input_signature=[given])
    ...     tf.saved_model.save(tf.Module(), folder, signatures=double)
    ...     slim(folder)
    ...     stored = (Path(folder) / "saved_model.pb").read_bytes()
    ...     int(tf.saved_model.load(folder).signatures["serving_default"](x=tf.constant(3))["output_0"])
    6
    >>> b"a_long_name" in stored
    False
    """
    stored = _read(Path(folder))
    for meta in stored.meta_graphs:
        graph = meta.graph_def
        _without_saving(graph, _node(meta.saver_def.save_tensor_name))
        for function in graph.library.function:
            if not any("_class" in node.attr for node in function.node_def):  # nodes placed by name
                _with_constants_once(function)
                _rename(function)
        _without_idle_reads(graph)
        for node in graph.node:
            _forget(node)
    Path(folder, "saved_model.pb").write_bytes(stored.SerializeToString(deterministic=True))


def _read(folder: Path) -> Any:
    return saved_model_proto().FromString((folder / "saved_model.pb").read_bytes())


def _without_saving(graph: Any, name: str) -> None:
    (saver,) = [node for node in graph.node if node.name == name]
    _keep(graph.node, lambda node: node.name != name)
    _keep(graph.library.function, lambda function: function.signature.name != saver.attr["f"].func.name)


def _without_idle_reads(graph: Any) -> None:
    read = {_node(reference) for node in graph.node for reference in node.input}
    _keep(graph.node, lambda node: node.op != "ReadVariableOp" or node.name in read)


def _with_constants_once(function: Any) -> None:
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for node in function.node_def:
        if node.op == "Const" and not node.input:
            nameless = type(node)()
            nameless.CopyFrom(node)
            nameless.ClearField("name")
            nameless.ClearField("experimental_debug_info")
            same[node.name] = first.setdefault(nameless.SerializeToString(deterministic=True), node.name)
    _keep(function.node_def, lambda node: same.get(node.name, node.name) == node.name)
    _refer(function, same)


def _rename(function: Any) -> None:
    arguments, nodes = function.signature.input_arg, function.node_def
    names = {argument.name: f"a{i}" for i, argument in enumerate(arguments)}
    names |= {node.name: f"n{i}" for i, node in enumerate(nodes)}
    for one in (*arguments, *nodes):
        one.name = names[one.name]
    _refer(function, names)
    for about in (*function.arg_attr.values(), *nodes):
        _forget(about)
    for node in nodes:
        node.ClearField("experimental_debug_info")
        node.ClearField("experimental_type")


def _refer(function: Any, names: Mapping[str, str]) -> None:
    """Let all that reads a node, or an argument, of an old name read that of the new one."""

    def renamed(reference: str) -> str:  # "node:output:0", "^node", or an argument
        old = _node(reference)
        return reference.replace(old, names.get(old, old), 1)

    for node in function.node_def:
        node.input[:] = [renamed(reference) for reference in node.input]
    for returned in (function.ret, function.control_ret):
        for name, reference in list(returned.items()):
            returned[name] = renamed(reference)


def _node(reference: str) -> str:
    return reference.removeprefix("^").partition(":")[0]


def _keep(nodes: Any, wanted: Callable[[Any], bool]) -> None:
    kept = [node for node in nodes if wanted(node)]
    del nodes[:]
    nodes.extend(kept)


def _forget(noted: Any) -> None:
    """Drop what TensorFlow finds out again, and what only people read."""
    for note in ("_output_shapes", "_user_specified_name", "debug_name"):
        noted.attr.pop(note, None)
