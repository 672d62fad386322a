"""What is done to pictures, as workers load it, and which pictures; `handler` is for pipelines of Apache Beam."""

from __future__ import annotations

import functools
import glob
import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

AT_ONCE = 32  # pictures in memory


class Work(NamedTuple):
    """What is done to pictures: a name that changes with its results, and what a worker loads to do it.

    `load()` returns a function from a list of pictures to their results; it raises `media.BadItems` if some are bad.
    It is sent to workers, so it is a function of a module, or a `functools.partial` of one.
    """

    name: str
    load: Callable[[], Callable[[list], Iterable]]


def work(model: str, weights: str = "default", text: str | None = None, **settings: Any) -> Work:
    """Return what a model does: captions, with `text` answers or matches; of a retriever without a text, vectors.

    `model` is a name of the zoo or a saved model, which every worker can read; `settings` are those of `generate`.

    >>> work("cross_attn_captioner", beams=2).name[:34]
    'cross_attn_captioner {"beams": 2} '
    """
    from vtx_keras._files import file_hash
    from vtx_keras.models.options import MODELS

    files = stored(model, weights)
    if files is None:
        raise ValueError(f"{model} with weights {weights} is not here: expected a name of the zoo, or a saved model")
    model, weights = (
        os.path.abspath(one) if os.path.exists(one) and one not in MODELS else one for one in (model, weights)
    )
    asked = settings if text is None else {"text": text, **settings}
    name = f"{os.path.basename(model)} {json.dumps(asked, sort_keys=True)} ({file_hash(files[0])[:16]})"
    return Work(name, functools.partial(_load, model, weights, text, settings))


def stored(model: str, weights: str) -> tuple[Path, Path] | None:
    """Return the config and the weights of a model, a .keras file as both, or None where they are not here.

    >>> stored("cross_attn_captioner", "nowhere") is None
    True
    """
    from vtx_keras.checkpoints._folder import CONFIG, WEIGHTS, BadWeights, find, recovered
    from vtx_keras.models.options import MODELS

    path = recovered(Path(model))
    if model not in MODELS and weights != "default":
        return None
    if model in MODELS:
        try:
            path = find(model, weights, MODELS[model].default) / CONFIG
        except (BadWeights, TypeError):
            return None
    elif path.is_dir():
        path = path / CONFIG if (path / CONFIG).is_file() else path / "best" / CONFIG
    files = (path, path.with_name(WEIGHTS) if path.name == CONFIG else path)
    return files if all(file.is_file() for file in files) else None


def _load(model: str, weights: str, text: str | None, settings: dict[str, Any]) -> Callable[[list], Iterable]:
    from vtx_keras import zoo

    return does(pictures_only(zoo.named(model, weights)), text, settings)


def pictures_only(network: Any) -> Any:
    """Return a model of pictures; refuse one of clips, whose frames are files of their own."""
    if len(network.image_shape) == 4:
        raise ValueError(f"{network.spec['name']} reads clips, and this works on files that are pictures each")
    return network


def does(network: Any, text: str | None, settings: dict[str, Any]) -> Callable[[list], Iterable]:
    """Return a function from pictures to a model's result for each."""
    from vtx_keras.models._methods import Captioner, Retriever

    if isinstance(network, Captioner) and text is None:
        return lambda pictures: network.generate(pictures, **settings)
    if isinstance(network, Retriever):
        if text is None:
            from vtx_keras.search import towers

            return functools.partial(vectors_of, towers(network).pictures)
        return lambda pictures: network.similarity(pictures, [text])
    if text is None:
        raise ValueError(f"{network.spec['name']} reads a text beside the picture: give one")
    return lambda pictures: (getattr(network, "answer", None) or network.match)(pictures, text)


def vectors_of(embed: Callable[[list], tuple[Any, dict[int, str]]], pictures: list) -> list:
    """Return the vectors of pictures as lists; raise `media.BadItems` with those of the others if some are bad."""
    from vtx_keras.inputs import media

    found, errors = embed(pictures)
    good = [index for index in range(len(pictures)) if index not in errors]
    return media.settle([one.tolist() for one in found], good, errors, len(pictures), "raise")


def outcomes(does: Callable[[list], Iterable], pictures: list) -> list[dict[str, Any]]:
    """Return a row for every picture: `result`, ready for JSON, or `error`.

    >>> outcomes(lambda pictures: [1.0] * len(pictures), ["a.png"])
    [{'result': 1.0}]
    """
    from vtx_keras.inputs.media import BadItems

    errors = dict[int, str]()
    try:
        results = list(does(pictures)) if pictures else []
    except BadItems as error:
        results, errors = error.results, error.errors
    return [{"error": errors[at]} if at in errors else {"result": _plain(one)} for at, one in enumerate(results)]


def _plain(result: Any) -> Any:
    """Convert a result for JSON: a sentence, names, a vector or a number."""
    if isinstance(result, (str, list)):
        return result
    return float(result[0] if getattr(result, "shape", ()) else result)


def pictures_of(given: Sequence[str | os.PathLike]) -> list[str]:
    """Return the pictures that files, folders (with the folders in them) and patterns name, sorted, each once, in full.

    An address such as "gs://photos/**/*.jpg" is read by fsspec; every worker has to reach it.

    >>> pictures_of(["nowhere/*.png"])
    Traceback (most recent call last):
    ValueError: nowhere/*.png matches nothing
    """
    from vtx_keras.inputs import media

    found = set[str]()
    for one in [os.fspath(each) for each in given]:
        if "://" in one:
            files = remote(one)
            names = [files.unstrip_protocol(path) for path in files.glob(one)]
        elif os.path.isdir(one):
            inside = glob.iglob(f"{glob.escape(os.path.abspath(one))}/**", recursive=True)
            names = [name for name in inside if name.lower().endswith(media.SUFFIXES)]
        else:
            names = list(map(os.path.abspath, [one] if os.path.exists(one) else glob.iglob(one, recursive=True)))
        if not names:
            raise ValueError(f"{one} {'holds no picture' if os.path.isdir(one) else 'matches nothing'}")
        found |= {name for name in names if "://" in name or not os.path.isdir(name)}
    return sorted(found)


def remote(address: str) -> Any:
    """Return the file system of an address, such as "gs://photos/1.jpg"."""
    try:
        import fsspec
    except ImportError as error:
        raise ImportError(f"{address} is read by fsspec: pip install fsspec, and what it needs for it") from error
    return fsspec.core.url_to_fs(address)[0]


def needed(package: str, extra: str) -> Any:
    """Import a runner's package; say what to install where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"this runner needs {package} ({error}): pip install vtx_keras[{extra}]") from error


def handler(work: Work, *, batch_size: int = AT_ONCE) -> Any:
    """Return a `ModelHandler` for `RunInference` in an Apache Beam pipeline of your own, of paths or encoded pictures.

    p | ReadMatches() | beam.Map(lambda file: file.read()) | RunInference(batch.handler(work))

    It yields `PredictionResult`s; the inference of a picture that cannot be used is {"error": reason}.
    """
    base = needed("apache_beam.ml.inference.base", "beam")

    class Handler(base.ModelHandler):  # type: ignore[name-defined]
        def load_model(self) -> Any:
            return work.load()

        def run_inference(self, batch: Sequence, model: Any, inference_args: dict | None = None) -> Iterator:
            del inference_args
            for picture, row in zip(batch, outcomes(model, list(batch)), strict=True):
                yield base.PredictionResult(picture, row.get("result", row))

        def batch_elements_kwargs(self) -> dict[str, int]:
            return {"min_batch_size": 1, "max_batch_size": batch_size}

    return Handler()
