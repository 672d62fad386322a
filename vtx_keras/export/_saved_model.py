"""Export a model to a SavedModel for stock TensorFlow Serving, from encoded images and strings to texts and numbers.

    task                  serving_default takes     and returns, besides ok
    captioner             image_bytes               caption, score
    vqa, classifier       image_bytes, question     answer, score, scores
    matcher               image_bytes, text         score
    retriever             image_bytes               image_embedding; signature `text`: text to text_embedding
    generator             text, seed                png_bytes; `pixels`: tokens, noise to uint8 image (n, h, w, 3)

`pixels` takes uint8 `image` (n, h, w, 3) in place of `image_bytes`. A clip is several images: `image_bytes` (n, t),
`image` (n, t, h, w, 3).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from vtx_keras._compat import saved_model_proto
from vtx_keras.export import _drawings, _graphs, _pictures, _strings, _verify
from vtx_keras.inputs import media, text
from vtx_keras.models._base import VisionText
from vtx_keras.models._drawing import Generator
from vtx_keras.models._methods import Answerer, Captioner, Matcher, Retriever


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
) -> _verify.Report:
    """Write `model` as a SavedModel folder, run it in a process that has TensorFlow alone, and report how it compares.

    Inputs and outputs are strings and numbers in batches of any size, and only core operations of TensorFlow are used.
    A row whose image (or text) cannot be read has `ok` false, empty strings and zeros, and does not affect the others.
    `score` is a caption's log-probability per word, or the probability of an answer or a match. Beams, length and
    prompt are fixed here; by default they are those of `generate`. `jit_compile` adds the signature `xla`, like
    `serving_default` but compiled by XLA for every new batch size. `assets.extra/model.json` describes the model, with
    its labels. A generator's `seed` gives the same picture each time, but not that of `draw`, whose noise is NumPy's.
    `share` of the results must be identical to the model's: by default all.

        report = export.saved_model(model, "out/captions/1")    # a server wants a number as the folder's name

    >>> import tempfile
    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, depth=1, text_depth=1, image_shape=(32, 32, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = saved_model(model, f"{folder}/1")
    >>> report.identical == report.n
    True
    """
    _graphs.check(model, "one", beams, max_length, prompt)
    model = _drawings.in_float32(model)
    _verify.check_destination(Path(path))
    given: dict[str, Any] = {"beams": beams, "max_length": max_length, "prompt": prompt}
    settings = given if isinstance(model, Captioner) else {}
    functions = signatures(model, jit_compile=jit_compile, **settings)
    examples = _verify.load_examples(model, verify_data)
    inputs = client_inputs(model, examples)

    def write(target: Path) -> None:
        save(model, functions, target)
        about = _graphs.companion_files(model, "one", **settings)
        (target / "assets.extra").mkdir()
        for name in ("model.json", *(["tokenizer.json"] if _strings.reads_ids(model) else [])):
            (target / "assets.extra" / name).write_text(about[name], encoding="utf-8")

    def compare(target: Path) -> _verify.Report:
        drawn = isinstance(model, Generator)
        results = _verify.run("savedmodel", target, inputs, *(name for name in functions if drawn or name != "pixels"))
        wanted = as_served(model, _verify.expected(model, examples, **settings))
        outputs = outputs_of(results, "serving_default") | outputs_of(results, "text")
        outputs |= {"image": _drawings.farthest(model, results, wanted["image"])} if drawn else {}
        notes = [f"{len(operations(target))} kinds of operations, all of TensorFlow's core"]
        refused = int((~results["serving_default.ok"]).sum())
        notes += [f"{refused} images or texts could not be read: their ok is false"] * (refused > 0)
        if jit_compile and not drawn:
            compiled = _verify.results_of(model, outputs | outputs_of(results, "xla"), examples.texts)
            same = sum(map(np.array_equal, _verify.results_of(model, outputs, examples.texts), compiled))
            notes.append(f"{same}/{len(compiled)} the same by the signature xla")
        return _verify.compare(
            model,
            examples,
            wanted,
            outputs | {name: results[name] for name in ("load_s", "ms", "peak_megabytes")},
            path=Path(path),
            share=share,
            format="savedmodel",
            form="towers" if isinstance(model, Retriever) else "one",
            megabytes=_verify.size_of(target),
            settings={**settings, "jit_compile": jit_compile},
            versions={"tensorflow": version("tensorflow")},
            notes=tuple(notes),
        )

    return _verify.write_verified(path, write, compare)


def save(model: VisionText, functions: Mapping[str, Any], folder: Path) -> None:
    """Write signatures that use `model`'s weights as a SavedModel."""
    module = tf.Module()
    weights = _drawings.part_of(model).weights
    module.weights = [weight.value for weight in weights]  # only variables that the module holds are saved
    tf.saved_model.save(module, str(folder), signatures=functions)
    compact(folder)


# --- signatures


def signatures(model: VisionText, *, jit_compile: bool = False, **settings: Any) -> dict[str, Any]:
    """Return functions by name: `serving_default`, `pixels`, for a retriever `text`, with `jit_compile` also `xla`.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("retriever", weights=None, dim=32, text_depth=1, image_shape=(32, 32, 3))
    >>> sorted(signatures(model))
    ['pixels', 'serving_default', 'text']
    """
    if isinstance(model, Generator):
        return _drawings.signatures(model, jit_compile=jit_compile)
    shape, fit = model.image_shape, model.options["resize"]
    axes = [None] * (len(shape) - 2)  # of a batch of images, or of clips with their frames
    files = tf.TensorSpec(axes, tf.string, "image_bytes")
    arrays = tf.TensorSpec([*axes, None, None, 3], tf.uint8, "image")
    texts = [] if isinstance(model, (Captioner, Retriever)) else [_strings.text_input(model)]
    decode = traced(lambda image_bytes: _pictures.batch(image_bytes, shape, fit), files)
    predict = predictor(model, jit_compile=False, **settings)

    def from_bytes(predict: Callable) -> Any:
        return traced(lambda image_bytes, *texts: predict(*decode(image_bytes), *texts), files, *texts)

    def from_arrays(image: tf.Tensor, *texts: tf.Tensor) -> dict:
        pixels = _pictures.fit_images(image, shape, fit)
        return predict(pixels, tf.ones(tf.shape(pixels)[:1], tf.bool), *texts)

    functions = {"serving_default": from_bytes(predict), "pixels": traced(from_arrays, arrays, *texts)}
    if isinstance(model, Retriever):
        functions["text"] = traced(text_embedder(model), _strings.text_input(model))
    if jit_compile:
        functions["xla"] = from_bytes(predictor(model, jit_compile=True, **settings))
    return functions


def traced(body: Callable, *specs: tf.TensorSpec, **options: Any) -> Any:
    """Return a function that is traced once for these inputs, so that all signatures that call it share its graph."""
    return tf.function(body, input_signature=specs, autograph=False, **options)


def predictor(model: VisionText, *, jit_compile: bool, **settings: Any) -> Callable[..., dict]:
    """Return the function from (uint8 pixels, ok, texts) to a signature's outputs. XLA compiles all but strings."""
    image = tf.TensorSpec((None, *model.image_shape), tf.uint8)
    tokens = tf.TensorSpec((None, model.options["max_length"]), tf.int32)
    floats = lambda pixels: ops.cast(pixels, "float32")  # noqa: E731

    if isinstance(model, Captioner):
        options = _graphs.decoding_options(model, **settings)
        generate = traced(lambda image: model.generate_ids(floats(image), **options), image, jit_compile=jit_compile)
        join = traced(lambda ids: _strings.sentences(ids, model.vocabulary), tf.TensorSpec((None, None), tf.int32))

        def caption(pixels: tf.Tensor, ok: tf.Tensor) -> dict:
            ids, score = generate(pixels)
            return zero_unless(ok, caption=join(ids), score=score)

        return caption
    if isinstance(model, Retriever):
        tower = model.tower("image")
        embed = traced(lambda image: tower({"image": floats(image)}), image, jit_compile=jit_compile)
        return lambda pixels, ok: zero_unless(ok, image_embedding=embed(pixels))

    def logits(image: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
        outputs = model({"image": floats(image), "tokens": tokens}, training=False)
        return outputs["logits"] if isinstance(outputs, dict) else outputs

    network, tokenize = traced(logits, image, tokens, jit_compile=jit_compile), tokenizer(model)

    def answer(pixels: tf.Tensor, ok: tf.Tensor, texts: tf.Tensor) -> dict:
        paired = tf.debugging.assert_equal(tf.shape(texts)[0], tf.size(ok), "a text for each picture")
        with tf.control_dependencies([paired]):
            ids, text_ok = tokenize(texts)
        logits = network(pixels, ids)
        if isinstance(model, Matcher):
            return zero_unless(ok & text_ok, score=tf.sigmoid(logits[:, 0]))
        scores = tf.sigmoid(logits) if model.options["multi_label"] else tf.nn.softmax(logits)
        names = tf.constant(model.class_names)
        answers = tf.gather(names, tf.argmax(logits, axis=-1))
        if model.options["multi_label"]:
            chosen = tf.ragged.boolean_mask(tf.broadcast_to(names, tf.shape(logits)), logits > 0)
            answers = tf.strings.reduce_join(chosen, axis=-1, separator=", ")
        return zero_unless(ok & text_ok, answer=answers, score=tf.reduce_max(scores, axis=-1), scores=scores)

    return answer


def text_embedder(model: Retriever) -> Callable[[tf.Tensor], dict]:
    """Return the function from texts to their embeddings."""
    tower, tokenize = model.tower("text"), tokenizer(model)

    def embed(texts: tf.Tensor) -> dict:
        ids, ok = tokenize(texts)
        return zero_unless(ok, text_embedding=tower({"tokens": ids}))

    return embed


def tokenizer(model: VisionText) -> Any:
    """Return the function from texts to their ids and which of them could be read."""
    if _strings.reads_ids(model):
        return lambda ids: (ids, tf.reduce_any(ids >= len(text.SPECIALS), axis=1))
    length, empty = model.options["max_length"], model.options.get("allow_empty", False)
    tokenize = lambda texts: _strings.tokens(texts, model.vocabulary, length, allow_empty=empty)  # noqa: E731
    return traced(tokenize, tf.TensorSpec([None], tf.string))


def zero_unless(ok: tf.Tensor, **outputs: tf.Tensor) -> dict:
    """Return the outputs with zeros and empty strings where a row is not ok: JSON has no NaN."""
    empty = {tf.string: ""}
    return {
        name: tf.where(tf.reshape(ok, [-1] + [1] * (value.shape.rank - 1)), value, empty.get(value.dtype, 0.0))
        for name, value in outputs.items()
    } | {"ok": ok}


# --- comparing with the model


def client_inputs(model: VisionText, examples: _verify.Examples) -> dict[str, Any]:
    """Return the examples as a client would send them: files unchanged where the graph reads them, others as PNG."""
    if isinstance(model, Generator):
        return {**examples.arrays(), "text": examples.texts, "seed": np.arange(len(examples.texts or ()))}
    formats = tuple(start for starts in _pictures.MAGIC for start in starts)
    clips, files = len(model.image_shape) == 4, []
    for source in examples.sources:
        if clips:
            files += [_drawings.as_png(frame) for frame in media.read_clip(source, model.image_shape[0])]
        else:
            data = Path(source).read_bytes() if isinstance(source, (str, os.PathLike)) else source
            whole = isinstance(data, bytes) and data.startswith(formats)
            files.append(data if whole else _drawings.as_png(media.read(source)))
    inputs: dict[str, Any] = {"image_bytes": files}
    if clips:
        inputs["frames"] = np.array(model.image_shape[0])
    if examples.texts is not None:
        inputs[_strings.text_input(model).name] = examples.tokens if _strings.reads_ids(model) else examples.texts
    return inputs


def outputs_of(results: Mapping[str, np.ndarray], signature: str) -> dict[str, np.ndarray]:
    """Return one signature's outputs, by its own names."""
    outputs = {key.partition(".")[2]: array for key, array in results.items() if key.startswith(f"{signature}.")}
    if "score" in outputs and not {"caption", "answer"} & set(outputs):  # a matcher, compared by its decisions
        outputs["logits"] = np.where(outputs["score"] > 0.5, 1, -1)[:, None]
    return outputs


def as_served(model: VisionText, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the model's own outputs under the names that the signatures use, with probabilities for logits."""
    if isinstance(model, Matcher):
        logits = outputs["logits"][:, 0]
        return {"logits": np.where(logits > 0, 1, -1)[:, None], "score": 1 / (1 + np.exp(-logits))}
    if isinstance(model, Answerer):
        scores = 1 / (1 + np.exp(-outputs["logits"]))
        if not model.options["multi_label"]:
            scores = np.exp(outputs["logits"] - outputs["logits"].max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
        return {**outputs, "scores": scores}
    return outputs


def operations(folder: str | os.PathLike) -> set[str]:
    """Return the kinds of operations that a server must have.

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


# --- making the stored graph smaller


def compact(folder: str | os.PathLike) -> None:
    """Store constants once, shorten names, and drop unused reads and the operations that save (not restore) weights.

    >>> import tempfile
    >>> import tensorflow as tf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     spec = tf.TensorSpec([], tf.int32, "x")
    ...     double = tf.function(lambda x: tf.add(x, x, "a_long_name"), input_signature=[spec])
    ...     tf.saved_model.save(tf.Module(), folder, signatures=double)
    ...     compact(folder)
    ...     stored = (Path(folder) / "saved_model.pb").read_bytes()
    ...     int(tf.saved_model.load(folder).signatures["serving_default"](x=tf.constant(3))["output_0"])
    6
    >>> b"a_long_name" in stored
    False
    """
    stored = _read(Path(folder))
    for meta in stored.meta_graphs:
        graph = meta.graph_def
        _remove_saver(graph, _node_name(meta.saver_def.save_tensor_name))
        for function in graph.library.function:
            if not any("_class" in node.attr for node in function.node_def):  # nodes colocated with others by name
                _deduplicate_constants(function)
                _shorten_names(function)
        _remove_unused_reads(graph)
        for node in graph.node:
            _drop_annotations(node)
    Path(folder, "saved_model.pb").write_bytes(stored.SerializeToString(deterministic=True))


def _read(folder: Path) -> Any:
    return saved_model_proto().FromString((folder / "saved_model.pb").read_bytes())


def _remove_saver(graph: Any, name: str) -> None:
    (saver,) = [node for node in graph.node if node.name == name]
    _keep(graph.node, lambda node: node.name != name)
    _keep(graph.library.function, lambda function: function.signature.name != saver.attr["f"].func.name)


def _remove_unused_reads(graph: Any) -> None:
    read = {_node_name(reference) for node in graph.node for reference in node.input}
    _keep(graph.node, lambda node: node.op != "ReadVariableOp" or node.name in read)


def _deduplicate_constants(function: Any) -> None:
    first: dict[bytes, str] = {}  # the name of the first node with that content
    kept: dict[str, str] = {}
    for node in function.node_def:
        if node.op == "Const" and not node.input:
            content = type(node).FromString(node.SerializeToString())
            content.ClearField("name")
            content.ClearField("experimental_debug_info")
            kept[node.name] = first.setdefault(content.SerializeToString(deterministic=True), node.name)
    _keep(function.node_def, lambda node: kept.get(node.name, node.name) == node.name)
    _rename_references(function, kept)


def _shorten_names(function: Any) -> None:
    arguments, nodes = function.signature.input_arg, function.node_def
    names = {argument.name: f"a{i}" for i, argument in enumerate(arguments)}
    names |= {node.name: f"n{i}" for i, node in enumerate(nodes)}
    for named in (*arguments, *nodes):
        named.name = names[named.name]
    _rename_references(function, names)
    for annotated in (*function.arg_attr.values(), *nodes):
        _drop_annotations(annotated)
    for node in nodes:
        node.ClearField("experimental_debug_info")
        node.ClearField("experimental_type")


def _rename_references(function: Any, names: Mapping[str, str]) -> None:
    """Replace the old names of nodes and arguments by the new ones wherever a function reads them."""

    def renamed(reference: str) -> str:  # "node:output:0", "^node", or an argument
        old = _node_name(reference)
        return reference.replace(old, names.get(old, old), 1)

    for node in function.node_def:
        node.input[:] = [renamed(reference) for reference in node.input]
    for returned in (function.ret, function.control_ret):
        for name, reference in list(returned.items()):
            returned[name] = renamed(reference)


def _node_name(reference: str) -> str:
    return reference.removeprefix("^").partition(":")[0]


def _keep(nodes: Any, wanted: Callable[[Any], bool]) -> None:
    kept = [node for node in nodes if wanted(node)]
    del nodes[:]
    nodes.extend(kept)


def _drop_annotations(holder: Any) -> None:
    """Drop attributes that TensorFlow infers again or that are only for people to read."""
    for name in ("_output_shapes", "_user_specified_name", "debug_name"):
        holder.attr.pop(name, None)
