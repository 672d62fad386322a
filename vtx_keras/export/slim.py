"""What a SavedModel is made of, and how it becomes smaller: a graph's notes to its writer weigh more than the graph."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tensorflow.core.framework import function_pb2, graph_pb2
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


def _read(folder: Path) -> saved_model_pb2.SavedModel:
    return saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())


def _without_saving(graph: graph_pb2.GraphDef, name: str) -> None:
    (saver,) = [node for node in graph.node if node.name == name]
    _keep(graph.node, lambda node: node.name != name)
    _keep(graph.library.function, lambda function: function.signature.name != saver.attr["f"].func.name)


def _without_idle_reads(graph: graph_pb2.GraphDef) -> None:
    read = {_node(reference) for node in graph.node for reference in node.input}
    _keep(graph.node, lambda node: node.op != "ReadVariableOp" or node.name in read)


def _with_constants_once(function: function_pb2.FunctionDef) -> None:
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


def _rename(function: function_pb2.FunctionDef) -> None:
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


def _refer(function: function_pb2.FunctionDef, names: Mapping[str, str]) -> None:
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
