"""The zoo: a table of names, and how a model is built from one.

>>> from vtx_keras import zoo
>>> model = zoo.build("gated_vqa", weights=None, dim=32, depth=1, image_shape=(32, 32, 3), classes=["no", "yes"])
>>> model.output_shape
(None, 2)
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras

from vtx_keras import architectures, encoders, published, text
from vtx_keras import weights as rooms
from vtx_keras.options import SIZES, resolve
from vtx_keras.table import MODELS, describe, list_models, lookup
from vtx_keras.tasks import TASKS
from vtx_keras.train.state import digest
from vtx_keras.vision_text import VisionText

__all__ = ["MODELS", "build", "describe", "is_saved", "list_models", "load", "named", "save"]
ENCODERS = ("image_encoder", "text_encoder")


def build(
    name: str,
    *,
    weights: str | os.PathLike | None = "default",
    vocabulary: str | os.PathLike | Sequence[str] | None = None,
    dtype: str | None = None,
    **overrides: Any,
) -> VisionText:
    """Build a model by name, compiled for its task.

    `weights` is "default" (the released ones), a released tag, a folder that `zoo.save` or training wrote, None (a
    new model), or "encoders" (pretrained encoders, the rest new). `vocabulary` is a file, a list of pieces, or texts
    to learn from; by default the folder's, else the bundled English one. `dtype` is a Keras dtype policy.
    `zoo.describe(name)` lists the `overrides`.

    >>> build("cross_attn_captioner", weights=None, size="tiny").count_params() < 10_000_000
    True
    """
    entry = lookup(name)
    if weights is None:
        return construct(name, overrides, text.vocabulary(vocabulary), dtype)
    if weights == "encoders":
        reader = overrides.get("text_encoder")
        if vocabulary is None and isinstance(reader, str) and reader in architectures.TEXTS:
            vocabulary = published.vocabulary_of(reader)
        return construct(name, overrides, text.vocabulary(vocabulary), dtype, pretrained=ENCODERS)
    folder = rooms.find(name, weights, entry.default)
    saved = rooms.read_config(folder)
    if saved["name"] != name:
        raise rooms.BadWeights(
            f"{folder} holds a {saved['name']}, not a {name}: zoo.build({saved['name']!r}, weights=…)"
        )
    options = saved["overrides"]
    if overrides.get("size", options["size"]) != options["size"]:  # another size means its widths, not those saved
        options = {key: value for key, value in options.items() if key not in (*SIZES["tiny"], "heads")}
    before = tuple(saved["vocabulary"])
    after = before if vocabulary is None else text.vocabulary(vocabulary)
    if before != after and options.get("text_encoder") not in (None, *encoders.TEXT):
        raise rooms.BadWeights(
            "vocabulary=: the text encoder of these weights has a word table of its own, which cannot be matched to "
            "another vocabulary. Leave vocabulary out, or train anew with weights=None"
        )
    model = construct(name, {**options, **overrides}, after, dtype or saved["dtype"], pretrained=kept_encoder(saved))
    if model.options == saved["overrides"] and before == after:
        rooms.load(model, folder, without_encoder="image_encoder" in saved)
        return model
    source = construct(name, saved["overrides"], before, saved["dtype"], pretrained=kept_encoder(saved))
    rooms.load(source, folder, without_encoder="image_encoder" in saved)
    rooms.transfer(source, model, new_head=_other_classes(source.options, model.options))
    return model


def kept_encoder(saved: dict) -> tuple[str, ...]:
    """Which encoder a weights folder names instead of holding it, after checking that it is the same one."""
    if "image_encoder" not in saved:
        return ()
    wanted = saved["image_encoder"]
    found = rooms.file_hash(published.find(wanted["name"]) / rooms.WEIGHTS)
    if found != wanted["sha256"]:
        raise rooms.BadWeights(
            f"these weights were trained on {wanted['name']} with sha256 {wanted['sha256'][:16]}, but the one here has "
            f"{found[:16]}: install the release they came with"
        )
    return ("image_encoder",)


def _unchanged_encoder(model: VisionText) -> dict[str, str] | None:
    """The name and hash of the published image encoder that this model still holds as it was published."""
    name = model.options["image_encoder"]
    if not isinstance(name, str) or name not in architectures.IMAGES:
        return None
    try:
        folder = published.find(name)
    except rooms.BadWeights:  # not here, so nobody could say
        return None
    file = rooms.file_hash(folder / rooms.WEIGHTS)
    if digest(model.get_layer("image_encoder")) != _published_digest(name, model.image_shape[-3:], file):
        return None
    return {"name": name, "sha256": file}


@functools.lru_cache(maxsize=16)
def _published_digest(name: str, image_shape: tuple[int, ...], file: str) -> str:
    """Of the encoder as its `file` has it: a run saves its weights every epoch, and building it takes seconds."""
    return digest(published.load(name, image_shape=image_shape))


def construct(
    name: str,
    overrides: dict,
    vocabulary: tuple[str, ...],
    dtype: str | None,
    *,
    pretrained: Sequence[str] = (),
) -> VisionText:
    """A new model with these options; `pretrained` says which of its encoders are to have their published weights."""
    entry = lookup(name)
    options = resolve(entry.task, entry.video, overrides)
    with _policy(dtype):
        _open_encoders(options, vocabulary, pretrained)
        spec = {
            "name": name,
            "overrides": {key: _plain(value) for key, value in options.items()},
            "dtype": keras.config.dtype_policy().name,
            "vocabulary": list(vocabulary),
        }
        o = SimpleNamespace(**options, spec=spec, vocabulary_size=len(vocabulary), pretrained=pretrained)
        return TASKS[entry.task](entry.fusion, o)


def _open_encoders(options: dict, vocabulary: tuple[str, ...], pretrained: Sequence[str]) -> None:
    """Presets and saved configs to models, in place: from here on they travel with the model, whole."""
    for option in ENCODERS:
        value = options.get(option)
        if isinstance(value, dict):  # a copy, for Keras empties what it reads
            options[option] = keras.saving.deserialize_keras_object(copy.deepcopy(value))
        elif isinstance(value, str) and value not in encoders.NAMES:
            if option == "image_encoder":
                options[option] = encoders.image_preset(value, options["image_shape"][-3:], option in pretrained)
            else:
                options[option] = encoders.text_preset(value, option in pretrained)
    words = options.get("text_encoder")
    for limit, needed in (("vocabulary_size", len(vocabulary)), ("max_sequence_length", options["max_length"])):
        most = getattr(words, limit, None)
        if isinstance(most, int) and most < needed:
            raise ValueError(f"text_encoder has a {limit} of {most}: expected at least {needed}")


def save(model: VisionText, path: str | os.PathLike, *, half: bool = False) -> Path:
    """Save whole: to one file where `path` ends in `.keras`, else as a weights folder. Nothing is half-written.

    A folder names a published image encoder that was not trained on instead of holding it; `half` stores float16.

    >>> model = build("gated_vqa", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save(model, f"{folder}/mine")
    ...     build("gated_vqa", weights=f"{folder}/mine").options == model.options
    True
    """
    path = Path(path)
    if not isinstance(model, VisionText):
        raise TypeError(f"zoo.save takes a model from zoo.build, not a {type(model).__name__}: use its own save")
    model.check_whole()
    if path.suffix in (".h5", ".hdf5", ".zip", ".tflite", ".onnx", ".safetensors"):
        raise ValueError(f"{path}: expected a name that ends in .keras, or a folder's name")
    if path.suffix != ".keras":
        return rooms.save(model, path, half=half, encoder=_unchanged_encoder(model))
    path = path.resolve()  # what a link points to is replaced, not the link
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        model.save(Path(folder) / path.name)
        os.replace(Path(folder) / path.name, path)
    return path


def load(path: str | os.PathLike) -> VisionText:
    """A model saved by `zoo.save` or `model.save`: a `.keras` file, or a weights folder."""
    path = Path(path)
    if (path / rooms.CONFIG).is_file() or (path / "best" / rooms.CONFIG).is_file():
        folder = path if (path / rooms.CONFIG).is_file() else path / "best"
        return build(rooms.read_config(folder)["name"], weights=folder.resolve())
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: expected a .keras file or a weights folder")
    if path.is_dir() or not zipfile.is_zipfile(path):
        raise rooms.BadWeights(f"{path} is not a .keras file (or is cut short), nor a weights folder")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            uses_hub = b"keras_hub" in archive.read("config.json")
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise rooms.BadWeights(f"{path} is damaged or not a .keras file: {error}") from error
    if damaged:
        raise rooms.BadWeights(f"{path} is damaged: {damaged} in it does not match its checksum. Copy it afresh.")
    if uses_hub:  # registers its classes
        import keras_hub  # noqa: F401
    import vtx_keras.metrics.training  # noqa: F401 (registers what a model may be compiled with)

    with _policy("float32"):  # layers bring their own policies; see layers.graph
        model = keras.saving.load_model(path)
    if not isinstance(model, VisionText):
        raise rooms.BadWeights(f"{path} holds a {type(model).__name__}: expected a model of the zoo")
    return model


def is_saved(model: str | os.PathLike) -> bool:
    """Whether a command line means a model that was saved; a name of the zoo is never that."""
    return str(model) not in MODELS and Path(model).exists()


def named(model: str | os.PathLike, weights: str | os.PathLike = "default") -> VisionText:
    """A model as a command line names it: a saved one, or a name of the zoo, which takes `weights`.

    >>> named("cross_attn_captioner").name
    'captioner'
    """
    if not is_saved(model):
        return build(str(model), weights=weights)
    if weights != "default":
        raise ValueError(f"{model} is a saved model, with weights of its own: leave out --weights {weights}")
    return load(model)


def _other_classes(saved: dict, wanted: dict) -> bool:
    """Whether a head for the `wanted` classes must be new: another number, or other names."""
    before, after = saved.get("classes"), wanted.get("classes")
    numbers = [value if isinstance(value, int) or value is None else len(value) for value in (before, after)]
    renamed = isinstance(before, list) and isinstance(after, list) and before != after
    return numbers[0] != numbers[1] or renamed


def _plain(value: Any) -> Any:
    """An option as JSON keeps it."""
    if isinstance(value, keras.Model):
        return keras.saving.serialize_keras_object(value)
    return list(value) if isinstance(value, tuple) else value


@contextlib.contextmanager
def _policy(dtype: str | None) -> Iterator[None]:
    """Layers made inside follow this dtype policy."""
    before = keras.config.dtype_policy()
    if dtype is not None:
        try:
            keras.config.set_dtype_policy(dtype)
        except ValueError as error:
            raise ValueError(
                f"dtype={dtype!r} is not a Keras dtype policy such as float32 or mixed_bfloat16"
            ) from error
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
