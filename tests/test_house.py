"""The house: rooms that import in one order, doors, one file for private names, modules of a readable length."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vtx_keras

PACKAGE = Path(vtx_keras.__file__).parent
ROOT = PACKAGE.parent
# From the ground up: a room imports only rooms before it. Function-level imports count, and so do those for types.
ORDER = (
    "_compat", "_files", "inputs", "media", "text", "models", "tuning", "checkpoints", "encoders", "data", "explain",
    "evaluate", "metrics", "train", "compress", "export", "zoo", "search", "batch", "cli",
)  # fmt: skip
NAMES_TENSORFLOW = {"_compat", "cli", "data", "export", "train"}  # cli: silences it, asks tfds for versions
NAMES_JAX = {"_compat"}  # gradients
PROGRAMS = {"export._runner"}  # run in an environment that may have no vtx_keras
# Names that other packages keep to themselves, though some have no underscore. They belong into _compat.py.
INTERNAL = (
    r"tensorflow\.(python|core|lite)\b", r"keras\.src\b", r"\braw_ops\b", r"\bjax_state_sync\b",
    r"\blora_kernel_[ab]\b", r"\bget_default_graph\b", r"\bctest\b", r"\binner_optimizer\b",
)  # fmt: skip
ON_JAX = os.environ.get("KERAS_BACKEND") == "jax"


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module by its name inside the package: "zoo", "data", "data._pipeline"; the package itself is ""."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "released":
            found[".".join(part for part in parts if part != "__init__")] = ast.parse(path.read_text("utf-8"))
    return found


@functools.cache
def doors() -> dict[str, dict[str, str]]:
    """What the packages import when it is asked for: name to module."""
    tables = {}
    for name, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_MODULE_OF":
                inside = "" if name == "metrics" else f"{name}."
                tables[name] = {key: inside + module for key, module in ast.literal_eval(node.value).items()}
    return tables


def imported(tree: ast.AST) -> set[str]:
    """Modules that are imported anywhere in it, in functions too, with the names taken from them."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Each module's imports inside the package, through doors to the module that is meant."""
    found: dict[str, set[str]] = {}
    for module, tree in modules().items():
        targets = set()
        for name in imported(tree):
            if name.startswith("vtx_keras."):
                name = name.removeprefix("vtx_keras.")
                package, _, last = name.rpartition(".")
                name = doors().get(package, {}).get(last, name)
                targets.add(name if name in modules() else name.rpartition(".")[0])
        found[module] = targets - {module, ""}
    return found


def room_of(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_room_imports_only_rooms_below_it(module):
    if module:
        for target in arrows()[module]:
            below = ORDER.index(room_of(target)) <= ORDER.index(room_of(module))
            assert below, f"{module} imports {target}, a room above it: see ORDER"


def test_the_order_names_every_room_and_no_other():
    assert {room_of(module) for module in modules()} - {""} == set(ORDER)


def test_no_import_comes_back_to_where_it_began():
    done: set[str] = set()

    def follow(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module not in done:
            for target in sorted(arrows()[module]):
                follow(target, (*path, module))
            done.add(module)

    for module in sorted(modules()):
        follow(module, ())


@pytest.mark.parametrize(("package", "rooms"), [("tensorflow", NAMES_TENSORFLOW), ("jax", NAMES_JAX)])
def test_a_backend_is_named_where_it_may_be_and_every_permission_is_used(package, rooms):
    named = {
        room_of(module)
        for module, tree in modules().items()
        if any(name and re.match(rf"{package}(_text|_datasets)?(\.|$)", name) for name in imported(tree))
    }
    assert named == rooms


def test_the_drawing_of_the_house_is_of_imports():
    """ARCHITECTURE.md lists what each room imports; the list is made by what the modules say."""
    found = {room: set() for room in ORDER}
    for module, targets in arrows().items():
        if module:
            found[room_of(module)] |= {room_of(target) for target in targets} - {room_of(module)}
    page = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    drawn = dict(re.findall(r"^    (\w+) +<- ?(.*)$", page, re.M))
    assert {room: set(names.split()) for room, names in drawn.items()} == found


def test_what_no_door_names_begins_with_an_underscore():
    for module in modules():
        package, _, name = module.rpartition(".")
        if not module or name.startswith("_"):
            continue
        public = (
            next(
                ast.literal_eval(node.value)
                for node in modules()[package].body
                if isinstance(node, ast.Assign)
                and getattr(node.targets[0], "id", "") == "__all__"
                and not isinstance(node.value, ast.Call)
            )
            if package in ("", "inputs", "models")
            else importlib.import_module(f"vtx_keras.{package}").__all__
        )
        assert name in public, f"{module} is public by its name, and {package or 'vtx_keras'} does not list it"


@pytest.mark.parametrize(
    ("name", "meant"), [("media", "inputs.media"), ("text", "inputs.text"), ("tuning", "models.objectives")]
)
def test_a_public_name_can_be_imported_in_every_way(name, meant):
    """In a process of its own, because an earlier import would hide a missing module."""
    script = (
        f"import vtx_keras.{name} as one; from vtx_keras import {name} as two; from vtx_keras.{name} import __all__\n"
        f"import vtx_keras.{meant}; assert one is two is vtx_keras.{meant} is vtx_keras.{name}"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_name_of_a_door_is_there():
    for package in doors():
        module = importlib.import_module(f"vtx_keras.{package}" if package else "vtx_keras")
        for name in module.__all__:
            assert getattr(module, name) is not None


def test_modules_are_fewer_than_eighty_five_and_read_in_one_sitting():
    lengths = {module: len(ast.unparse(tree)) and tree.body[-1].end_lineno for module, tree in modules().items()}
    assert {module: length for module, length in lengths.items() if length > 400} == {}
    faces = {
        "encoders",
        "media",
        "text",
        "tuning",
        "zoo",
        "inputs",
        "models",
        "cli",
    }  # that only gather names, like the doors
    code = [module for module in modules() if module not in faces and module not in doors()]
    code = [module for module in code if not module.startswith("data.sets")]  # a module for each data set, no more
    others = [module for module in code if module.startswith("checkpoints.published.")]  # one for each architecture
    assert len(others) < 22, "what the architectures share is more than a stranger can draw"
    assert len(code) - len(others) < 85, "more modules than a stranger can draw"


def test_no_two_registered_classes_have_the_same_name():
    """Keras finds the class of a saved layer by its name alone."""
    names: dict[str, list[str]] = {}
    for module, tree in modules().items():
        for node in ast.walk(tree):
            marks = [ast.unparse(one) for one in getattr(node, "decorator_list", [])]
            if isinstance(node, ast.ClassDef) and "register" in marks:
                names.setdefault(node.name, []).append(module)
    assert len(names) > 30
    assert {name: homes for name, homes in names.items() if len(homes) > 1} == {}


# --- private names


def own_private_names() -> set[str]:
    """Underscored names that this repository defines: functions, classes, modules, attributes."""
    names = {"_replace", "_asdict", "_fields"}  # of named tuples, which are public
    names.add("_rebuild_tensor_v2")  # what a PyTorch file calls: a name of the format
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]:
        names.add(path.stem)
        if path.name == "_compat.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Constant) and re.fullmatch(r"_[a-z_]+", str(node.value)):
                names.add(node.value)  # an attribute that is set by its name
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names |= {node.attr} if getattr(node.value, "id", "") == "self" else set()
    return names


def python_files() -> list[Path]:
    rooms = ("vtx_keras", "tests", "recipes", "benchmarks", "tools", "zoo", "export")
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py")) if path.name != "_compat.py"]


def test_private_names_of_other_packages_are_in_one_file():
    own, found = own_private_names(), []
    for path in python_files():
        source = path.read_text("utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr) and node.attr not in own:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.attr}")
        if path.resolve() != Path(__file__).resolve():
            code = re.sub(r"(?s)\"\"\".*?\"\"\"|#[^\n]*", "", source)
            found += [f"{path.relative_to(ROOT)}: {name}" for name in INTERNAL if re.search(name, code)]
    assert found == []


def test_the_one_file_says_what_is_missing(monkeypatch):
    from vtx_keras import _compat

    assert _compat.missing() == []
    monkeypatch.setitem(_compat.CHECKS, "Optimizer._gone", ("keras.optimizers", "Optimizer._gone", "a test"))
    (message,) = _compat.missing()
    assert "Optimizer._gone" in message
    assert "a test" in message


def test_where_a_hook_of_the_optimizer_is_gone_keras_own_update_runs(monkeypatch):
    import keras
    import numpy as np

    from vtx_keras import _compat, tuning

    def trained(gone: bool) -> np.ndarray:
        with monkeypatch.context() as patch:
            if gone:
                patch.setattr(_compat, "missing", lambda names=None: ["it is gone"])
            keras.utils.set_random_seed(0)
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
            model.compile(tuning.PacedAdamW(0.1, global_clipnorm=1.0), "mse")
            model.fit(np.ones((4, 3)), np.ones((4, 2)), epochs=3, verbose=0)
            return np.concatenate([weight.ravel() for weight in model.get_weights()])

    np.testing.assert_allclose(trained(gone=True), trained(gone=False), atol=1e-5)


# --- imports that are light


@pytest.mark.parametrize("command", ["import vtx_keras", "import vtx_keras.cli as cli; cli.main(['--help'])"])
def test_importing_and_help_load_neither_tensorflow_nor_keras(command):
    script = f"import sys\ntry:\n    {command}\nexcept SystemExit:\n    pass\nprint(sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(run.stdout.splitlines()[-1]))
    assert not loaded & {"tensorflow", "keras", "jax", "numpy", "keras_hub"}


def test_listing_loads_neither_tensorflow_nor_keras():
    script = "import sys\nfrom vtx_keras.cli import main\ntry:\n    main(['list'])\nexcept SystemExit:\n    pass\n"
    run = subprocess.run(
        [sys.executable, "-c", script + "assert not {'tensorflow', 'keras'} & set(sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cross_attn_captioner" in run.stdout


# --- docstrings


def documented() -> list[str]:
    return sorted(module for module in modules() if module and module not in PROGRAMS)


@pytest.mark.parametrize("module", documented())
def test_the_examples_in_docstrings_run(module, few_tried):
    if ON_JAX and module.startswith("export."):
        pytest.skip("exports are made by TensorFlow")
    imported_module = importlib.import_module(f"vtx_keras.{module}")
    names = {"np": importlib.import_module("numpy")}
    assert doctest.testmod(imported_module, extraglobs=names, optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.skipif(ON_JAX, reason="recipes read tf.data")
@pytest.mark.parametrize(
    "module",
    sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "recipes").rglob("*.py")),
)
def test_the_examples_in_recipes_run(module):
    if ">>>" in (ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8"):
        assert doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS).failed == 0


def public_functions():
    for module, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not module.startswith("cli"):
                yield pytest.param(node, id=f"{module}.{node.name}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_public_functions_have_docstrings_and_type_hints(function):
    assert ast.get_docstring(function), "no docstring"
    arguments = [*function.args.args, *function.args.kwonlyargs]
    assert all(argument.annotation for argument in arguments), "an argument without a type"
    assert function.returns, "no type for what it returns"


def test_no_test_module_imports_another():
    tests = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    for path in (ROOT / "tests").rglob("*.py"):
        assert not tests & {name.split(".")[0] for name in imported(ast.parse(path.read_text("utf-8"))) if name}, path


# Parameters that an interface gives to a function which has no use for them.
GIVEN = {
    "context", "data", "encoder", "epoch", "exif", "file", "frame", "frames", "fusion", "image_shape", "logs", "mask",
    "option", "policy", "raw", "seen_shape", "shape", "state", "text_mask", "text_shape", "vision_shape", "xmp",
}  # fmt: skip


def test_every_parameter_is_read():
    """Of functions that are not given what an interface says. A parameter that is accepted and ignored misleads."""
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                names = {one.id for part in node.body for one in ast.walk(part) if isinstance(one, ast.Name)}
                arguments = {one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
                unread = {one for one in arguments - names - GIVEN - {"self", "cls"} if not one.startswith("_")}
                assert not unread, f"{module}.{node.name} takes {unread} and does not read it"
