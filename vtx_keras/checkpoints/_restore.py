"""Building models by name, saving them to weights folders and files, loading them, and transferring weights."""

from __future__ import annotations

import functools
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from vtx_keras._files import file_hash, new_folder, recovered, reserve, version_of
from vtx_keras.checkpoints import published as world
from vtx_keras.checkpoints._folder import (
    CONFIG,
    VOCABULARY,
    WEIGHTS,
    BadWeights,
    check_arrays,
    check_decoder,
    check_finite,
    check_size,
    config_hash,
    digest,
    find,
    halve,
    keras_config,
    other_classes,
    read_config,
    transfer,
)
from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.inputs.text import Vocabulary
from vtx_keras.models import encoders
from vtx_keras.models._base import VisionText, cut
from vtx_keras.models.construct import ENCODERS, construct, dtype_policy
from vtx_keras.models.language import is_language
from vtx_keras.models.options import MODELS, lookup, options_of, resolve, sizes_of

NAMED = (*ENCODERS, "text_decoder")  # parts that a folder names where they are published ones, unchanged

# --- building and loading


def build(
    name: str,
    *,
    weights: str | os.PathLike | None = "default",
    vocabulary: str | os.PathLike | Sequence[str] | None = None,
    dtype: str | None = None,
    **overrides: Any,
) -> VisionText:
    """Build a model by name, compiled for its task.

    `weights` is "default" (the released ones), a released tag, a folder written by `zoo.save` or training, None (a
    new model), "encoders" (pretrained encoders, the rest new), or a published checkpoint (docs/checkpoints.md):
    "hf://owner/name", a tag such as "blip_base", a folder of transformers. `vocabulary` is a file, a list of pieces, or
    texts to learn them from; by default that of the weights, else the bundled English one. `dtype` is a Keras dtype
    policy. `zoo.describe(name)` lists the `overrides`.

    >>> build("cross_attn_captioner", weights=None, size="tiny").count_params() < 10_000_000
    True
    """
    entry = lookup(name)
    if world.is_published(weights):
        return fetched(str(weights), name, vocabulary=vocabulary, dtype=dtype, overrides=overrides)
    if weights is None:
        overrides, vocabulary, fill = world.with_decoder(overrides, vocabulary)
        if fill:
            warnings.warn("weights=None: the language model is new, too; weights='encoders' loads it", stacklevel=2)
        return construct(name, overrides, Vocabulary.of(vocabulary), dtype)
    if weights == "encoders":
        overrides, vocabulary, fill = world.with_decoder(overrides, vocabulary)
        overrides, vocabulary = world.with_encoders(overrides, vocabulary)
        text_encoder = overrides.get("text_encoder")
        if vocabulary is None and isinstance(text_encoder, str) and text_encoder in encoders.TEXTS:
            vocabulary = published.vocabulary_of(text_encoder)
        load = dict.fromkeys(ENCODERS, published.loader)
        model = construct(name, overrides, Vocabulary.of(vocabulary), dtype, load=load)
        if fill:
            fill(model)
        return model
    folder = find(name, weights, entry.default)
    return restore(folder, name, vocabulary=vocabulary, dtype=dtype, overrides=overrides)


def fetched(
    address: str,
    name: str | None = None,
    *,
    vocabulary: str | os.PathLike | Sequence[str] | None = None,
    dtype: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> VisionText:
    """Load the model of an address, a tag or a folder of transformers; an address may hold what `zoo.push` wrote."""
    from vtx_keras.checkpoints.published import _hub as hub

    folder = world.folder_of(address)
    if hub.loads_as(folder) == "vtx_keras":
        return restore(folder, name, vocabulary=vocabulary, dtype=dtype, overrides=overrides)
    if vocabulary is not None:
        raise BadWeights(f"vocabulary=: {address} has a tokenizer of its own, which its word table goes with")
    return world.build(address, name, folder=folder, dtype=dtype, **(overrides or {}))


def is_saved(model: str | os.PathLike) -> bool:
    """Return whether an argument of a command is a saved or published model, and not a name of the zoo."""
    return str(model) not in MODELS and (recovered(Path(model)).exists() or world.is_published(model))


def named(model: str | os.PathLike, weights: str | os.PathLike = "default") -> VisionText:
    """Return the model that an argument of a command names: a saved one, or a name of the zoo with `weights`.

    >>> named("cross_attn_captioner").name
    'captioner'
    """
    if not is_saved(model):
        return build(str(model), weights=weights)
    if weights != "default":
        raise ValueError(f"{model} is a saved model, with weights of its own: leave out --weights {weights}")
    return load(model)


def restore(
    folder: Path,
    name: str | None = None,
    *,
    vocabulary: str | os.PathLike | Sequence[str] | None = None,
    dtype: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> VisionText:
    """Load the model of a weights folder; `overrides` or a `vocabulary` build another, which takes what fits."""
    saved, overrides = read_config(folder), overrides or {}
    name = name or saved["name"]
    if saved["name"] != name:
        raise BadWeights(f"{folder} holds a {saved['name']}, not a {name}: zoo.build({saved['name']!r}, weights=…)")
    entry = lookup(saved["name"])
    if "published" in saved:
        if vocabulary is not None:
            raise BadWeights(f"vocabulary=: {folder} is of a published model, with a tokenizer of its own")
        model = world.restored(saved, dtype=dtype, **overrides)
        _read(model, folder, saved)
        return model
    check_closed(saved, folder)
    check_size(resolve(entry.task, entry.video, saved["overrides"]), folder)
    check_decoder(saved["overrides"], overrides, vocabulary, folder)
    options = {key: option.default for key, option in options_of(entry.task).items()} | saved["overrides"]
    saved = {**saved, "overrides": options}  # an option that is newer than the weights has its default
    if overrides.get("size", options["size"]) != options["size"]:  # another size replaces the saved widths
        options = {key: value for key, value in options.items() if key not in (*sizes_of(entry.task)["tiny"], "heads")}
    before = Vocabulary(saved["vocabulary"], rule=saved.get("rule"))
    after = before if vocabulary is None else Vocabulary.of(vocabulary)
    if before != after and options.get("text_encoder") not in (None, *encoders.TEXT):
        raise BadWeights(
            "vocabulary=: the text encoder of these weights has a word table of its own, which cannot be matched to "
            "another vocabulary. Leave vocabulary out, or train anew with weights=None"
        )
    load = external_encoders(saved)
    model = construct(name, {**options, **overrides}, after, dtype or saved["dtype"], load=load)
    if model.options == saved["overrides"] and before == after:
        _read(model, folder, saved)
        return model
    source = construct(name, saved["overrides"], before, saved["dtype"], load=load)
    _read(source, folder, saved)
    transfer(source, model, new_head=other_classes(source.options, model.options))
    return model


def check_closed(saved: dict, folder: Path) -> None:
    """Raise `BadWeights` if a saved config names an encoder elsewhere: loading a folder must reach no network."""
    for option in ENCODERS:
        name = saved["overrides"].get(option)
        if isinstance(name, str) and name not in encoders.NAMES:
            raise BadWeights(
                f"{folder / CONFIG} names {option} {name!r}, which would be fetched from elsewhere: expected one of "
                f"{', '.join(encoders.BACKBONES)}, or the encoder itself, as zoo.save writes it"
            )


def external_encoders(saved: dict) -> dict[str, encoders.Loader]:
    """Return loaders of the encoders that a weights folder names instead of containing, after checking their hashes."""
    named = [option for option in ENCODERS if option in saved]
    for option in named:
        expected, name = saved[option], saved["overrides"].get(option)
        if expected["name"] != name:
            raise BadWeights(f"{CONFIG} has weights of {expected['name']} for {option}={name!r}: copy the folder again")
        sha256 = file_hash(published.find(name) / WEIGHTS)
        if name in encoders.TEXTS:  # each machine converts it: the values count
            sha256 = _published_digest(name, sha256, vocabulary=tuple(saved["vocabulary"]))
        if expected["sha256"] not in (sha256, *published.published(name).former):
            raise BadWeights(
                f"these weights were trained on {name} with sha256 {expected['sha256'][:16]}, but the one here "
                f"has {sha256[:16]}: install the release they came with"
            )
    return dict.fromkeys(named, published.loader)


def _read(model: Any, folder: Path, saved: Mapping[str, Any]) -> None:
    """Read verified weights into a model built from that folder's own config; it may name an encoder, or a decoder."""
    stored = _without_optimizer(model, *(name in saved for name in NAMED))
    check_arrays(folder / WEIGHTS, folder / WEIGHTS, max(int(np.prod(one.shape)) for one in stored.weights))
    if "text_decoder" in saved:
        world.fill(model, saved["text_decoder"])
    try:
        stored.load_weights(folder / WEIGHTS)
    except Exception as error:
        raise BadWeights(f"{folder / WEIGHTS} does not fit the model that its {CONFIG} describes: {error}") from error
    check_finite(model, folder / WEIGHTS)


def load(path: str | os.PathLike) -> VisionText:
    """Load a model saved by `zoo.save` or `model.save`: a `.keras` file, or a weights folder."""
    if world.is_published(path):
        return fetched(str(path))
    path = recovered(Path(path))
    recovered(path / "best")
    if (path / CONFIG).is_file() or (path / "best" / CONFIG).is_file():
        folder = path if (path / CONFIG).is_file() else path / "best"
        return restore(folder.resolve())
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: expected a .keras file or a weights folder")
    config = keras_config(path)
    if b"keras_hub" in config:
        import keras_hub  # noqa: F401  # registers its classes
    if b"checkpoints.published" in config:
        from vtx_keras.checkpoints.published import _graphs  # noqa: F401  # registers its classes
    with dtype_policy("float32"), warnings.catch_warnings():  # layers have their own policies; see layers.graph
        warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")  # it was not built yet
        try:
            model = keras.saving.load_model(path)
        except Exception as error:  # a damaged config can fail anywhere in Keras
            raise BadWeights(f"{path} is damaged, or of other classes: {type(error).__name__}: {error}") from error
    if not isinstance(model, VisionText):
        raise BadWeights(f"{path} holds a {type(model).__name__}: expected a model of the zoo")
    check_finite(model, path)
    return model


# --- saving


def save(model: VisionText, path: str | os.PathLike, *, half: bool = False) -> Path:
    """Save a model to one file if `path` ends in `.keras`, else to a weights folder, completely or not at all.

    A folder only names a published encoder or language model that has not been trained further: loading it elsewhere
    needs that, too (`vtx convert minilm_l6`). `half` stores float16.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save(model, f"{folder}/mine")
    ...     zoo.build("gated_vqa", weights=f"{folder}/mine").options == model.options
    True
    """
    path = Path(path)
    if not isinstance(model, VisionText):
        raise TypeError(f"zoo.save takes a model from zoo.build, not a {type(model).__name__}: use its own save")
    model.check_whole()
    check_finite(model, path)
    if path.suffix in (".h5", ".hdf5", ".zip", ".tflite", ".onnx", ".safetensors"):
        raise ValueError(f"{path}: expected a name that ends in .keras, or a folder's name")
    if path.suffix != ".keras":
        parts = {option: _unchanged_encoder(model, option) for option in ENCODERS}
        return save_folder(model, path, half=half, named={**parts, "text_decoder": world.unchanged_decoder(model)})
    path = path.resolve()  # replace the target of a link, not the link
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        model.save(Path(folder) / path.name)
        os.replace(Path(folder) / path.name, path)
    return path


def push(
    model: VisionText | str | os.PathLike,
    address: str,
    *,
    private: bool = False,
    say: Callable[[str], object] = world.say_aside,
) -> str:
    """Upload a model, or a weights folder as it is, to the Hugging Face Hub, and return its page's address.

    It gets a card with metadata and a snippet, unless the folder has one. `zoo.build` loads it by the same address.

        zoo.push(model, "hf://me/mine")     # needs vtx_keras[hf] and a token: hf auth login
    """
    from vtx_keras.checkpoints.published import _hub as hub

    where = hub.parse(address)
    if not isinstance(model, VisionText):
        return hub.push(Path(model), where, private=private, say=say)
    with tempfile.TemporaryDirectory() as folder:
        return hub.push(save(model, Path(folder) / "model"), where, private=private, say=say)


def save_folder(
    model: Any,
    folder: str | os.PathLike,
    *,
    half: bool = False,
    named: Mapping[str, dict[str, str] | None] | None = None,
) -> Path:
    """Write a model's weights folder, completely or not at all. `half` stores float16, as releases do.

    `named` identifies the published parts (NAMED) that the model has unchanged, by {"name", "sha256"}: only this is
    saved of them.
    """
    parts = {option: part for option, part in (named or {}).items() if part}
    folder = Path(folder).resolve()  # replace the target of a link, not the link
    if folder.exists() and not (folder / CONFIG).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something that is not a weights folder: choose another place")

    def write(target: Path) -> None:
        stored = _without_optimizer(model, *(name in parts for name in NAMED))
        size = sum(2048 + 4 * int(np.prod(one.shape)) for one in stored.weights)  # 2 kB for name and place of each
        reserve(target, size)
        stored.save_weights(target / WEIGHTS)
        if half:
            reserve(target, size // 2)
            halve(target / WEIGHTS)
        spec = model.spec
        lines = {str(i): piece for i, piece in enumerate(model.vocabulary) if set(piece) & {"\r", "\n"}}
        pieces = [f"[line {i}]" if str(i) in lines else piece for i, piece in enumerate(model.vocabulary)]
        (target / VOCABULARY).write_text("\n".join(pieces) + "\n", encoding="utf-8", newline="\n")
        config = {
            "name": spec["name"],
            "overrides": spec["overrides"],
            "dtype": spec["dtype"],
            "files": {name: file_hash(target / name) for name in (WEIGHTS, VOCABULARY)},
            "versions": {name: version_of(name) for name in ("vtx_keras", "keras", "keras-hub", "tensorflow")},
        }
        config |= parts
        if lines:  # pieces that hold the end of a line
            config["lines"] = lines
        config |= {key: spec[key] for key in ("rule", "published") if key in spec}
        config["sha256"] = config_hash(config)
        (target / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

    with new_folder(folder) as target:
        write(target)
    return folder


class _Layers(keras.Model):
    """Some layers of a model, to be saved without the published text encoder or language model between them."""

    def __init__(self, parts: list):
        super().__init__(name="parts")
        self.parts, self.built = parts, True


def _without_optimizer(
    model: Any, without_encoder: bool = False, without_reader: bool = False, without_words: bool = False
) -> Any:
    """Return a model of the same layers without the optimizer, whose state Keras would save with the weights.

    What is left out are its parts NAMED: the encoders of images and texts, and the language model.
    """
    if without_reader or without_words:
        out = {name for name, without in zip(NAMED, (without_encoder, without_reader), strict=False) if without}
        layers = [layer for layer in model.layers if layer.weights and layer.name not in out]
        return _Layers([layer for layer in layers if not (without_words and is_language(layer.name))])
    if without_encoder:
        features = model.get_layer("vision").input
        behind = {features.name: features}
        if model.has_layer("concepts"):  # its head belongs to the encoder
            behind["seen"] = model.get_layer("concepts").output
        return cut(model, {"tokens": model.input["tokens"], **behind}, model.output)
    return keras.Model(model.input, model.output)


def _unchanged_encoder(model: VisionText, option: str) -> dict[str, str] | None:
    """Return the name and hash of the published image or text encoder that this model has unchanged, or None."""
    name = model.options.get(option)
    if not isinstance(name, str) or name not in encoders.BACKBONES:
        return None
    try:
        file = file_hash(published.find(name) / WEIGHTS)
    except BadWeights:  # not available, so it cannot be compared
        return None
    pieces = tuple(model.vocabulary)
    if name in encoders.TEXTS and pieces != published.vocabulary_of(name):
        return None
    of = {"image_shape": model.image_shape[-3:]} if name in encoders.IMAGES else {"vocabulary": pieces}
    values = _published_digest(name, file, **of)
    if digest(model.get_layer(option)) != values:
        return None
    return {"name": name, "sha256": file if name in encoders.IMAGES else values}


@functools.lru_cache(maxsize=16)
def _published_digest(name: str, file: str, **of: Any) -> str:
    """Return the `digest` of a published encoder. Cached: a run saves every epoch, and building the encoder is slow."""
    return digest(published.loader(name, **of))
