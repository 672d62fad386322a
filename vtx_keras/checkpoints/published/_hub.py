"""Repositories of the Hugging Face Hub: addresses, downloads into the Hub's own cache, and uploads.

Files that are code are never fetched, and a repository whose model is code of its own is refused.
"""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vtx_keras._files import file_hash
from vtx_keras.checkpoints._folder import CONFIG, BadWeights, read_config
from vtx_keras.checkpoints.published._tensors import ADAPTER_CONFIG, read_index, read_json, weight_files
from vtx_keras.models.options import lookup

SMALL = (
    "generation_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "README.md",
)  # fmt: skip
# One of them is in the cache if `fetch` was there; other programs may have downloaded the weights alone.
SMALL_OF_ALL = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "README.md")
MAX_CONFIG = 8_000_000  # bytes
TIMEOUT = 10.0  # seconds until the Hub must answer
PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
INSTALL = 'hf:// addresses need huggingface_hub: pip install "vtx_keras[hf]"'
# By task: the Hub's name of it, and how a model is used.
PIPELINES = {
    "captioner": ("image-to-text", 'model.generate("photo.jpg")'),
    "vqa": ("visual-question-answering", 'model.answer("photo.jpg", "what is it?")'),
    "classifier": ("image-text-to-text", 'model.answer("photo.jpg", "a text about it")'),
    "retriever": ("zero-shot-image-classification", 'model.similarity("photo.jpg", ["a dog", "a cat"])'),
    "matcher": ("zero-shot-image-classification", 'model.match("photo.jpg", "a dog")'),
}
# The Hub's names of licences, in lower case; any other licence is "other" there.
LICENCES = re.compile(
    r"apache-2\.0|mit|bsd(-[23]-clause)?|[al]?gpl-[23]\.[01]|mpl-2\.0|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.0|unlicense"
)


class Address(NamedTuple):
    """A repository of the Hub, and the branch, tag or commit that is meant, if one is named."""

    owner_name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.owner_name}" + (f"@{self.revision}" if self.revision else "")


def parse(address: str) -> Address:
    """Read `hf://owner/name` or `hf://owner/name@revision`.

    >>> parse("hf://Salesforce/blip-image-captioning-base@main")
    Address(owner_name='Salesforce/blip-image-captioning-base', revision='main')
    """
    form = "expected hf://owner/name or hf://owner/name@revision"
    if not address.startswith("hf://"):
        raise ValueError(f"{address!r} is not the address of a repository: {form}")
    owner_name, at, revision = address.removeprefix("hf://").partition("@")
    if owner_name.count("/") != 1:
        raise ValueError(f"{address!r} has {owner_name.count('/')} slashes after hf://: {form}")
    for part in owner_name.split("/"):
        if not re.fullmatch(PART, part) or ".." in part or "--" in part:
            raise ValueError(
                f"{address!r}: {part!r} is no name of the Hub, which has letters, digits, and inside it . _ and -, "
                f"not doubled: {form}"
            )
    if at and (not re.fullmatch(rf"{PART}(?:/{PART})*", revision) or ".." in revision):
        raise ValueError(f"{address!r}: {revision!r} is no branch, tag or commit: {form}")
    return Address(owner_name, revision or None)


def fetch(address: Address, *, hashes: Mapping[str, str] | None = None, say: Callable[[str], object] = print) -> Path:
    """Return the folder of a repository's files, downloading them into the Hub's cache if they are not there.

    `hashes` pins files: name to sha256. A revision that is in the cache is used without a network.
    """
    hub = _client()
    folder = _cached(hub, address)
    if folder is None:
        with _in_words(hub, address):
            folder = _download(hub, address, say)
    for name, wanted in (hashes or {}).items():
        path = folder / name
        if not path.is_file():
            raise BadWeights(f"{address} has no {name}, which is pinned: check the revision")
        if (sha256 := file_hash(path)) != wanted:
            raise BadWeights(
                f"{name} of {address} is not the pinned file: its sha256 begins {sha256[:16]}, expected {wanted[:16]}. "
                f"Do not use it. Remove {path.resolve()} and try again, or check the revision"
            )
    if address.revision is None and not hashes:
        say(f"{address} is unpinned and may change: this is hf://{address.owner_name}@{folder.name}")
    return folder


def check_folder(folder: Path) -> dict[str, Any]:
    """Read the config.json of a transformers folder; one whose weights cannot be read here is `BadWeights`.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "config.json").write_text('{"model_type": "blip"}')
    >>> check_folder(folder)
    {'model_type': 'blip'}
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    _check_adapters(names, folder)
    if CONFIG not in names:
        raise BadWeights(f"{folder} has no {CONFIG}: expected a folder of transformers or of zoo.save")
    config = read_json(folder / CONFIG, MAX_CONFIG)
    _check_config(config, folder / CONFIG)
    return config


def loads_as(folder: Path) -> str:
    """Return "vtx_keras" for a weights folder of zoo.save, "transformers" for one that transformers wrote.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "config.json").write_text('{"model_type": "blip"}')
    >>> loads_as(folder)
    'transformers'
    """
    if not (folder / CONFIG).is_file():
        check_folder(folder)  # raises, and says what is there
    config = read_json(folder / CONFIG, MAX_CONFIG)
    if _is_ours(config):
        return "vtx_keras"
    if config.get("model_type"):
        return "transformers"
    raise BadWeights(f"{folder / CONFIG} has neither model_type (transformers) nor overrides and files (zoo.save)")


def push(
    folder: Path,
    address: Address,
    *,
    private: bool = False,
    message: str = "Upload a vtx_keras model",
    say: Callable[[str], object] = print,
) -> str:
    """Upload a weights folder, without hidden files, in one commit, and return the repository's URL.

    A README.md with metadata is uploaded as it is; without metadata it gets some, and a missing one is written.
    """
    if not (folder / CONFIG).is_file() or not _is_ours(read_json(folder / CONFIG, MAX_CONFIG)):
        best = f". Its folder best/ is one: push {folder / 'best'}" if (folder / "best" / CONFIG).is_file() else ""
        raise BadWeights(f"{folder} is not a weights folder, as zoo.save and training write them{best}")
    config = read_config(folder)
    if address.revision:
        raise BadWeights(f"{address}: an upload goes to the main branch; leave out @{address.revision}")
    results = read_json(folder / "results.json", MAX_CONFIG) if (folder / "results.json").is_file() else {}
    decoder = config["overrides"].get("text_decoder")
    origin = config.get("published", decoder if isinstance(decoder, dict) else {}).get("origin", {})
    # What was made of a checkpoint, or of a language model, keeps the licence that it came with.
    licence, readme = str(results.get("licence") or origin.get("licence") or ""), folder / "README.md"
    if readme.is_file():
        page = readme.read_bytes()
        page = page if page.startswith(b"---") else _metadata(config, licence).encode() + page
    else:
        page = card(config, _figures(results.get("headline")), licence, address=str(address)).encode()
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    files["README.md"] = page
    hub = _client()
    if not hub.get_token():
        raise BadWeights("there is no token of the Hub here: run `hf auth login`, or set HF_TOKEN")
    with _in_words(hub, address, write=True):
        api = hub.HfApi()
        url = str(api.create_repo(address.owner_name, private=private, exist_ok=True))
        if private and not api.model_info(address.owner_name, timeout=TIMEOUT).private:
            raise BadWeights(
                f"{url} exists and is public: nothing was uploaded. Make it private there, or take another"
            )
        size = sum(len(file) if isinstance(file, bytes) else file.stat().st_size for file in files.values())
        say(f"uploading {len(files)} files, {size / 1e6:,.1f} MB, to {url}{' (private)' if private else ''}")
        operations = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
        api.create_commit(address.owner_name, operations, commit_message=message)
    return url


def card(model_config: dict, figures: str = "", licence: str = "", *, address: str = "hf://owner/name") -> str:
    """Return a model card, README.md, for the config of a weights folder; `figures` is Markdown.

    >>> print(card({"name": "gated_vqa"}, licence="MIT").split("\\n\\n")[0])
    ---
    library_name: keras
    license: mit
    pipeline_tag: visual-question-answering
    tags:
    - vtx_keras
    - visual-question-answering
    ---
    """
    name, task = model_config["name"], lookup(model_config["name"]).task
    photo = "clip.gif" if lookup(name).video else "photo.jpg"
    use = PIPELINES[task][1].replace("photo.jpg", photo)
    parts = [
        f"# {name}",
        "A model of vtx_keras, for Keras 3.",
        f"```python\nimport vtx_keras\n\nmodel = vtx_keras.zoo.build({name!r}, weights={address!r})\nprint({use})\n```",
        f"## Results\n\n{figures}" if figures else "",
        f"Licence: {licence}" if licence else "",
    ]
    return _metadata(model_config, licence) + "\n\n".join(part for part in parts if part) + "\n"


def _metadata(model_config: dict, licence: str) -> str:
    """Return the YAML at the top of a model card."""
    kind = PIPELINES[lookup(model_config["name"]).task][0]
    named = licence.strip().lower() if LICENCES.fullmatch(licence.strip().lower()) else "other"
    lines = ["library_name: keras", *([f"license: {named}"] if licence else []), f"pipeline_tag: {kind}"]
    return "\n".join(["---", *lines, "tags:", "- vtx_keras", f"- {kind}", "---", "", ""])


def _figures(headline: Any) -> str:
    """Return the headline figure of a released model's results in words, or ""."""
    if not isinstance(headline, dict) or not {"metric", "split"} <= set(headline):
        return ""
    if not all(isinstance(headline.get(key), (int, float)) for key in ("value", "low", "high")):
        return ""
    return "{metric} on {split}: {value:.3g} (95 % interval {low:.3g} to {high:.3g})".format(**headline)


def _client() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise BadWeights(INSTALL) from error
    return huggingface_hub


def _is_ours(config: dict[str, Any]) -> bool:
    return isinstance(config.get("overrides"), dict) and isinstance(config.get("files"), dict)


def _check_adapters(names: Collection[str], where: object) -> None:
    if ADAPTER_CONFIG in names and CONFIG not in names:
        raise BadWeights(
            f"{where} holds adapters only ({ADAPTER_CONFIG}): merge them into their base model, and take the result"
        )


def _check_config(config: dict[str, Any], where: object) -> None:
    """Raise `BadWeights` if a config of transformers, or that of a part of it, needs what is not done here."""
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if part.get("auto_map"):
            raise BadWeights(f"{where} has auto_map: its model is code of its own, which is not run here")
        if part.get("quantization_config"):
            raise BadWeights(
                f"{where} has quantization_config: quantized weights are not read here. Take the repository that they "
                "were made from"
            )


def _cached(hub: Any, address: Address) -> Path | None:
    """Return the folder of a revision if all that `fetch` needs is in the cache; no network is asked."""
    path = hub.try_to_load_from_cache(address.owner_name, CONFIG, revision=address.revision)
    if not isinstance(path, str):
        return None
    folder = Path(path).parent
    config = read_json(folder / CONFIG, MAX_CONFIG)
    names = {entry.name for entry in folder.iterdir() if entry.is_file()}
    if _is_ours(config):
        return folder if set(config["files"]) <= names else None
    _check_config(config, address)
    try:
        (first,) = weight_files(names, folder)
    except BadWeights:  # not downloaded yet
        return None
    shards = set(read_index(folder / first)) if first.endswith(".index.json") else set()
    return folder if shards <= names and names & set(SMALL_OF_ALL) else None


def _download(hub: Any, address: Address, say: Callable[[str], object]) -> Path:
    """Download what is needed: the weights last, so that an interrupted download is seen to be incomplete."""
    name = address.owner_name
    info = hub.HfApi().model_info(name, revision=address.revision, timeout=TIMEOUT, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    _check_adapters(sizes, address)
    if CONFIG not in sizes:
        weight_files(sizes, address)  # which says what is there
        raise BadWeights(f"{address} has no {CONFIG}: expected a repository of transformers or of zoo.push")
    # By the revision's name, which the cache remembers.
    folder = Path(hub.hf_hub_download(name, CONFIG, revision=address.revision)).parent
    if folder.name != info.sha:
        raise BadWeights(f"{address} was changed while it was read: try again")
    config = read_json(folder / CONFIG, MAX_CONFIG)
    if _is_ours(config):
        weights = [*config["files"]]
    else:
        _check_config(config, address)
        weights = weight_files(sizes, address)
        if weights[0].endswith(".index.json"):
            weights += sorted(read_index(Path(hub.hf_hub_download(name, weights[0], revision=info.sha))))
    for file in weights:
        if not re.fullmatch(PART, file) or file.endswith(".py"):
            raise BadWeights(f"{address} names {file!r:.80} as a file of weights: it was not fetched")
        if file not in sizes:
            raise BadWeights(f"{address} lacks {file}, which it names: the repository is incomplete")
    files = [file for file in (*SMALL, *weights) if file in sizes]
    missing = [file for file in files if not isinstance(hub.try_to_load_from_cache(name, file, revision=info.sha), str)]
    needed = sum(sizes[file] for file in missing)
    say(f"fetching hf://{name}@{info.sha}: {needed / 1e6:,.1f} MB, licence {_licence(info)}")
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free")
    for file in missing:
        hub.hf_hub_download(name, file, revision=info.sha)
    return folder


def _licence(info: Any) -> str:
    """Return the licence that a repository states, by its card or its tags."""
    stated = getattr(info.card_data, "license", None) or [
        tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")
    ]
    return (stated if isinstance(stated, str) else ", ".join(map(str, stated))) or "not stated"


@contextlib.contextmanager
def _in_words(hub: Any, address: Address, write: bool = False) -> Iterator[None]:
    """Turn every failure of the client into `BadWeights` that says what came and what to do."""
    try:
        yield
    except BadWeights:
        raise
    except Exception as error:  # of the client, its HTTP library, or the system
        raise BadWeights(f"{address}: {_explained(hub, address, error, write)}") from error


def _explained(hub: Any, address: Address, error: Exception, write: bool) -> str:
    errors, chain = hub.errors, [error]

    def among(kind: Any) -> bool:
        return any(isinstance(one, kind) for one in chain)

    while (cause := chain[-1].__cause__ or chain[-1].__context__) and isinstance(cause, Exception):
        chain.append(cause)
    page = f"{hub.constants.ENDPOINT}/{address.owner_name}"
    came = " ".join(str(error).split())[:300]
    status = next((one.response.status_code for one in chain if isinstance(one, errors.HfHubHTTPError)), 0)
    codes = {one.errno for one in chain if isinstance(one, OSError)}
    if errno.ENOSPC in codes:
        return f"no space is left in {hub.constants.HF_HUB_CACHE}: {came}. Free some, or set HF_HOME to another disk"
    if codes & {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"cannot write to {hub.constants.HF_HUB_CACHE}: {came}. Set HF_HOME to a folder of yours"
    if among(errors.OfflineModeIsEnabled):
        return "it is not in the cache, and HF_HUB_OFFLINE forbids the network: unset it, or copy the cache here"
    if among(errors.GatedRepoError):
        return f"it is gated: accept its licence on {page} and run `hf auth login`"
    if write and (status in (401, 403) or among(errors.RepositoryNotFoundError)):
        return f"your token may not write there ({came}): take a token with write access, and an owner that is you"
    if among(errors.RepositoryNotFoundError):
        return f"there is no {page}, or it is private: check the name; if it is yours, run `hf auth login`"
    if among(errors.RevisionNotFoundError):
        return f"the repository has no revision {address.revision!r}: {page}/tree/main lists branches and tags"
    if status == 429:
        return "the Hub has had too many requests from here: try again later, or run `hf auth login`"
    if status >= 500:
        return f"the Hub answered {status} ({came}): try again later"
    if status or among(errors.HFValidationError) or (write and isinstance(error, ValueError)):
        return f"the Hub refuses it: {came}"
    return f"no answer from {hub.constants.ENDPOINT} ({type(error).__name__}: {came}). Is there a network?"
