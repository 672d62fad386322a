"""What a SavedModel is made of, and how it becomes smaller: a graph's notes to its writer weigh more than the graph."""

from __future__ import annotations

import os
from pathlib import Path

from tensorflow.core.protobuf import saved_model_pb2


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
    """Shorten the names inside functions, which nothing outside calls, and drop shapes that follow from the rest.

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
    for graph in stored.meta_graphs:
        for function in graph.graph_def.library.function:
            _rename(function)
    Path(folder, "saved_model.pb").write_bytes(stored.SerializeToString(deterministic=True))


def _read(folder: Path) -> saved_model_pb2.SavedModel:
    return saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())


def _rename(function: saved_model_pb2.SavedModel) -> None:
    arguments = {argument.name for argument in function.signature.input_arg}
    places = {node.name: f"n{i}" for i, node in enumerate(function.node_def)}
    if arguments & set(places.values()) or any("_class" in node.attr for node in function.node_def):
        return  # a name that could be mistaken, or nodes placed by name

    def renamed(reference: str) -> str:  # "node:output:0", "^node", or an argument
        control = reference.startswith("^")
        name, colon, output = reference.removeprefix("^").partition(":")
        return "^" * control + (name if name in arguments else places[name]) + colon + output

    for node in function.node_def:
        node.name = places[node.name]
        node.input[:] = [renamed(reference) for reference in node.input]
        node.attr.pop("_output_shapes", None)
        node.ClearField("experimental_debug_info")
    for name, reference in list(function.ret.items()):
        function.ret[name] = renamed(reference)
    for name, reference in list(function.control_ret.items()):
        function.control_ret[name] = renamed(reference)
