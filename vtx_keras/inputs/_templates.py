"""Chat templates of tokenizers: Jinja2 that writes a conversation as the text which a model was trained to read.

A template comes from a stranger's file: it sees a copy of plain data, and reaches listed methods, filters, functions.
Each turn of a loop, call, operator and filter costs COST and the length of what it makes; what may be long is refused
before it is made. Left out: include, import, extends, block, autoescape, **, texts before %, and .format().
"""

from __future__ import annotations

import copy
import datetime
import functools
import importlib.metadata
import json
import re
import time
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import Any

import numpy as np

try:
    import jinja2
    from jinja2 import defaults, nodes, parser, runtime, sandbox, utils, visitor

    OLD = tuple(map(int, importlib.metadata.version("jinja2").split(".")[:3])) < (3, 1, 6)  # their sandbox has holes
except ImportError:
    OLD = True
Namespace: Any = object if OLD else utils.Namespace
Rewriter: Any = object if OLD else visitor.NodeTransformer
Sandbox: Any = object if OLD else sandbox.ImmutableSandboxedEnvironment

SOURCE, LONGEST = 60_000, 1_000_000  # characters of a template; characters and parts of a value, or of the output
WORK, COST, SECONDS = 20_000_000, 100, 1.0  # characters and parts in all; of a step; of this thread's own time
DEEPEST, NUMBER = 50, 2**63  # calls in each other; the highest number
METHODS = {
    str: "capitalize count endswith find index isalnum isalpha isdigit islower isspace istitle isupper join lower "
    "lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines "
    "startswith strip swapcase title upper",
    **{list: "count index", tuple: "count index", dict: "get items keys values"},
}
FILTERS = (
    "abs attr capitalize count d default dictsort e escape first float indent int items join last length list lower "
    "map max min reject rejectattr replace reverse safe select selectattr sort string title trim upper"
)
GROWS = "* indent join lstrip replace rfind rindex rpartition rsplit rstrip strip tojson trim"  # length times length
PARTS: Any = (list, tuple, dict, KeysView, ValuesView, ItemsView, type(iter([])))


class BadTemplate(ValueError):
    """A chat template which is not valid, refuses the messages, or asks for more than is allowed."""


def rendered(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tokens: Mapping[str, str] = {},
    add_generation_prompt: bool = True,
    **given: Any,
) -> str:
    """Return the text that transformers' `apply_chat_template` writes; `tokens` and `given` are variables for it.

    What is not plain data, such as a picture, is seen as the name of its type. strftime_now() tells the local time.

    >>> rendered("{{ end }}{{ messages[0].content }}{{ end }}", [{"role": "user", "content": "Hi"}], end="|")
    '|Hi|'
    """
    if OLD:
        raise ImportError('chat templates need jinja2, 3.1.6 or newer: pip install "vtx_keras[llm]"')
    try:
        if not isinstance(template, str) or len(template) > SOURCE:
            raise ValueError(f"it is no str, or longer than {SOURCE:,} characters")
        data = {"tools": None, "documents": None, **plain(tokens), **plain(given)}
        data |= {"messages": [_message(plain(one)) for one in messages], "add_generation_prompt": add_generation_prompt}
        room = _Room(data)
        program = jinja2.Template.from_code(room, _compiled(template), room.globals)
        pieces: list[str] = []
        for piece in program.root_render_func(program.new_context(data)):
            pieces.append(piece)
            room.fits(size := len(piece) + room.written)
            room.written = size
        return "".join(pieces)
    except Exception as error:
        line, trace = getattr(error, "lineno", None), error.__traceback__
        while trace and not line:
            found = trace.tb_frame.f_globals.get("__jinja_template__")
            line, trace = found and found.get_corresponding_lineno(trace.tb_lineno), trace.tb_next
        name = "" if type(error) in (ValueError, jinja2.TemplateError) else f"{type(error).__name__}: "
        said = re.sub(r"[^ -~\u00a1-\u1fff\u3000-\ud7ff]+", " ", f"{name}{str(error)[:500]}")  # steers no terminal
        raise BadTemplate(
            f"chat template {str(template)[:60].strip().partition(chr(10))[0]!r}, line {line or 1}: {said}: expected "
            "one that writes these messages within the limits: change the messages, or pass another template"
        ) from error


def plain(value: Any) -> Any:
    """Copy a value as plain data, without the methods of what a caller puts into messages.

    >>> plain({"a": (np.str_("b"), np.int64(2)), "image": np.zeros(3)})
    {'a': ('b', 2), 'image': '<ndarray>'}
    """
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, Mapping):
        return {plain(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(plain(one) for one in value)
    if value is None or isinstance(value, bool):
        return value
    base = next((kind for kind in (str, int, float) if isinstance(value, kind)), None)
    return getattr(base, f"__{base.__name__}__")(value) if base else f"<{type(value).__name__}>"


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as transformers passes it: without None, its reasoning under each of its names."""
    message = {key: value for key, value in message.items() if value is not None}
    found = [message[name] for name in ("reasoning_content", "thinking", "reasoning") if name in message]
    return {"thinking": found[0], **message, "reasoning_content": found[0]} if found else message


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    source = parser.Parser(room := _Room({}), template)
    source.extensions["generation"] = lambda _: nodes.Scope(  # {% generation %}: what the assistant says
        next(source.stream) and source.parse_statements(("name:endgeneration",), drop_needle=True)
    )
    return room.compile(_Counted().visit(source.parse()))


class _Names(Namespace):
    def __init__(self, given: Mapping = {}, /, **names: Any):
        super().__init__()
        for name, value in {**given, **names}.items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise ValueError("a name in a namespace begins with an underscore")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"  # its members may be each other


class _Counted(Rewriter):
    """Rewrites a parsed template so that loops, and all that makes a value without a call, go to `_Room.made`."""

    def visit(self, node: Any, *args: Any, **options: Any) -> Any:
        closed = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block, nodes.EvalContextModifier)
        if isinstance(node, closed) or (isinstance(node, nodes.Dict) and len(node.items) > 1000):
            raise jinja2.TemplateSyntaxError(f"{type(node).__name__.lower()}: not in a chat template", node.lineno)
        node = self.generic_visit(node, *args, **options)

        def made(one: Any) -> Any:
            return nodes.Filter(one, "_made", [], [], None, None, lineno=node.lineno)

        if isinstance(node, nodes.TemplateData):  # else it is written without `_shown`
            return nodes.Const(node.data, lineno=node.lineno)
        if isinstance(node, nodes.For):
            node.body.insert(0, nodes.ExprStmt(made(nodes.Const("")), lineno=node.lineno))
            node.test = node.test and made(node.test)
        if isinstance(node, nodes.Concat):
            node.nodes = [made(one) for one in node.nodes]
        makes = (nodes.List, nodes.Dict, nodes.Tuple, nodes.Compare, nodes.Concat, nodes.Getitem)
        return made(node) if isinstance(node, makes) and getattr(node, "ctx", "load") == "load" else node


class _Room(Sandbox):
    """Jinja2's sandbox for one render, in which everything that makes a value is counted."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, data: dict[str, Any]):
        loops, shown = ["jinja2.ext.loopcontrols"], utils.pass_context(lambda _context, value: self.shown(value))
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, finalize=shown, extensions=loops)
        self.known: dict[int, tuple[Any, int]] = {}  # sizes; it keeps the objects, so that an id stays theirs
        self.most = self.left = self.until = float("inf")
        self.depth = self.written = 0
        given = self.size(data)
        self.most, self.left, self.until = LONGEST + given, WORK + 100 * given, time.thread_time() + SECONDS
        self.filters: dict[str, Any] = {
            name: self.counted(name, defaults.DEFAULT_FILTERS[name]) for name in FILTERS.split()
        }
        self.filters |= {"tojson": self.counted("tojson", _json), "_made": self.made}
        self.tests: dict[str, Any] = {name: self.counted(name, one) for name, one in defaults.DEFAULT_TESTS.items()}
        self.globals: dict[str, Any] = {"range": sandbox.safe_range, "namespace": _Names, "raise_exception": _refuse}
        self.globals |= {"dict": lambda given={}, /, **more: {**given, **more}, "strftime_now": _now}

    def fits(self, size: float, times: int = 1) -> None:
        if size > times * self.most:
            raise ValueError(f"a value or an output of {size:,} characters and parts: at most {times * self.most:,}")

    def size(self, value: Any) -> int:
        """Return how many characters and parts are written for a value; each list around them adds a tenth."""
        size = len(value) if isinstance(value, (str, range)) else 1
        if isinstance(value, PARTS):
            if id(value) not in self.known:
                parts = [*(copy.copy(value) if isinstance(value, Iterator) else value)]
                parts += value.values() if isinstance(value, dict) else []
                self.left -= len(parts)
                self.known[id(value)] = value, 1 + len(parts) + int(1.1 * sum(map(self.size, parts)))
            size = self.known[id(value)][1]
        self.fits(size)
        return size

    def made(self, value: Any) -> Any:
        """Return a value, and count it as a step."""
        size = self.size(value)
        self.left -= COST + size * isinstance(value, str)
        if self.left < 0 or time.thread_time() > self.until:
            raise ValueError("too much work: too many steps, or too long ones")
        if isinstance(value, int) and abs(value) > NUMBER:
            raise ValueError(f"a number above {NUMBER:,}")
        return value

    def shown(self, value: Any) -> str:
        self.size(value)
        return self.made(str(value))

    def run(self, name: str, function: Any, *args: Any, **more: Any) -> Any:
        """Call a function, and refuse what it could make too much of."""
        given = [*args[hasattr(function, "jinja_pass_arg") :], *more.values()]
        sizes = [self.size(one) for one in given]
        self.fits(sum(sizes))
        if name in GROWS.split() and not all(isinstance(one, (int, float)) for one in given):
            sizes = [max(1, abs(one) if isinstance(one, int) else size) for one, size in zip(given, sizes, strict=True)]
            self.fits(sizes[0] * max([1, *sizes[1:]]), 20)
        result = function(*args, **more)
        return self.made(iter([*result]) if isinstance(result, Iterator) else result)

    def counted(self, name: str, function: Any) -> Any:
        return functools.update_wrapper(functools.partial(self.run, name, function), function)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise ValueError(f"{operator} is refused here")
        return self.run(operator, self.binop_table[operator], left, right)

    def call(self, context: Any, function: Any, /, *args: Any, **more: Any) -> Any:
        owner = getattr(function, "__self__", function)
        opened = isinstance(owner, (runtime.Macro, runtime.LoopContext, runtime.Undefined, *METHODS))
        if not opened and not any(function is one for one in self.globals.values()):
            raise ValueError(f"a call of a {type(function).__name__}")
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError("too many calls in each other")
        ask = super().call
        name, given = getattr(function, "__name__", ""), [owner] if isinstance(owner, str) else []
        result = self.run(name, lambda *_: ask(context, function, *args, **more), *given, *args, *more.values())
        self.depth -= 1
        return result

    def wrap_str_format(self, value: Any) -> None:
        """Say that 'format' is a method as any other: one that METHODS does not list."""
        del value

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        names = next((names for kind, names in METHODS.items() if isinstance(obj, kind)), "")
        opened = isinstance(obj, (runtime.LoopContext, Namespace)) or attr in names.split()
        return opened and super().is_safe_attribute(obj, attr, value)


def _json(
    value: Any, ensure_ascii: Any = False, indent: Any = None, separators: Any = None, sort_keys: Any = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(str(message))


def _now(form: str) -> str:
    if not re.fullmatch(r"(?:[^%\0]|%[-#]?[a-zA-Z%]){,100}", form):
        raise ValueError("strftime_now: expected a format of at most 100 characters and codes of a date")
    return datetime.datetime.now().strftime(form)
