"""A small Hugging Face Hub on loopback: model pages, files, errors with their codes, and uploads.

As a program it runs every scenario of downloads and uploads against itself, and writes what came of them.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import re
import socket
import sys
import threading
import traceback
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import safetensors.numpy

from vtx_keras.checkpoints._folder import BadWeights, config_hash
from vtx_keras.checkpoints.published._hub import fetch, parse, push


@dataclass
class Repo:
    """A repository with one commit. `refuse` is (status, X-Error-Code) for its files, `hide` for all of it."""

    files: dict[str, bytes]
    licence: str | None = None
    private: bool = False
    sizes: dict[str, int] = field(default_factory=dict)  # that are told instead of the true ones
    refuse: tuple[int, str] | None = None
    hide: tuple[int, str] | None = None
    read_only: bool = False
    moved: bool = False  # files come from another commit than the page says

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


class Hub:
    """The server. `repos` by owner/name; `log` is what was asked for, as "METHOD path"."""

    def __init__(self, repos: dict[str, Repo]):
        self.repos, self.log, self.stored, self.connections = repos, [], {}, []
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:  # the client keeps them open
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        path = self._path()
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            if repo := self._repo(match[1], match[2]):
                self._reply(self._page(match[1], repo))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if repo := self._repo(match[1], match[2]):
                self._file(repo, match[3])
        else:
            self._reply({}, 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path, body = self._path(), self._body()
        if path == "/api/repos/create":
            sent = json.loads(body)
            name = f"{sent['organization']}/{sent['name']}"
            if sent["organization"] == "others":
                return self._reply({"error": "You don't have the rights to create a model there"}, 403)
            if name in self.hub.repos:
                return self._reply({"error": "exists", "url": f"{self.hub.endpoint}/{name}"}, 409)
            private = sent.get("private") is True or sent.get("visibility") == "private"
            self.hub.repos[name] = Repo({}, private=private)
            return self._reply({"url": f"{self.hub.endpoint}/{name}"})
        if path == "/api/validate-yaml":
            return self._reply({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            if self.hub.repos[match[1]].read_only:
                return self._reply({"error": "Forbidden"}, 403)
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".h5") else "regular" for name in names}
            return self._reply(
                {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]}
            )
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**sent, "actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{sent['oid']}"}}}
                for sent in json.loads(body)["objects"]
            ]
            return self._reply({"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            repo = self.hub.repos[match[1]]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    repo.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    repo.files[line["value"]["path"]] = self.hub.stored[line["value"]["oid"]]
            url = f"{self.hub.endpoint}/{match[1]}/commit/{repo.sha}"
            return self._reply({"success": True, "commitUrl": url, "commitOid": repo.sha})
        return self._reply({}, 404)

    def do_PUT(self) -> None:
        path, body = self._path(), self._body()
        self.hub.stored[path.removeprefix("/lfs/")] = body
        self._reply({})

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.log.append(f"{self.command} {path}")
        return path

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _repo(self, name: str, revision: str | None) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None or repo.hide:
            status, code = (repo.hide if repo else None) or (401, "RepoNotFound")
            self._reply({"error": "Repository not found"}, status, {"X-Error-Code": code} if code else {})
            return None
        if revision not in (None, "main", repo.sha):
            self._reply({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repo

    def _page(self, name: str, repo: Repo) -> dict:
        siblings = [{"rfilename": n, "size": repo.sizes.get(n, len(data))} for n, data in repo.files.items()]
        card = {"cardData": {"license": repo.licence}, "tags": [f"license:{repo.licence}"]} if repo.licence else {}
        return {"id": name, "sha": repo.sha, "private": repo.private, "siblings": siblings, **card}

    def _file(self, repo: Repo, name: str) -> None:
        if repo.refuse:
            return self._reply({"error": "no"}, repo.refuse[0], {"X-Error-Code": repo.refuse[1]})
        commit = {"X-Repo-Commit": "0" * 40 if repo.moved else repo.sha}
        if name not in repo.files:
            return self._reply({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", **commit})
        data = repo.files[name]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', **commit}
        if name.endswith((".safetensors", ".bin", ".h5")):  # as the Hub does for files in LFS
            headers |= {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
        return self._reply(data, headers=headers)

    def _reply(self, content: dict | bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


# --- scenarios

OTHER = "not BadWeights: "  # begins what no scenario but an interruption may end with
WEIGHTS = safetensors.numpy.save({"a": np.arange(3, dtype="float32")})
SHARDS = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
RESULTS = (
    b'{"licence": "MIT", "headline": {"metric": "accuracy", "value": 0.9876, "low": 0.9, "high": 1, "split": "test"}}'
)
BLIP = {
    "config.json": b'{"model_type": "blip"}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "tf_model.h5": b"TensorFlow",
    "modeling_blip.py": b"raise SystemExit",
    "tokenizer.json": b"{}",
    "vocab.txt": b"a",
    "README.md": b"---\nlicense: bsd-3-clause\n---\n",
}


def changed(**files: bytes | str | None) -> dict[str, bytes]:
    """BLIP with other files; None leaves one out, and __ in a name is a dot."""
    other = {name.replace("__", "."): data for name, data in files.items()}
    kept = {name: data for name, data in BLIP.items() if name not in other}
    return kept | {name: data.encode() if isinstance(data, str) else data for name, data in other.items() if data}


def weights_folder(folder: Path, **files: bytes) -> Path:
    """A weights folder of a model whose weights are not read here, with more files."""
    folder.mkdir(parents=True)
    contents = {"model.weights.h5": b"weights", "vocabulary.txt": b"[UNK]\na\nb\n"}
    for name, data in (contents | files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    config = {
        "name": "cross_attn_captioner",
        "overrides": {},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }
    (folder / "config.json").write_text(json.dumps({**config, "sha256": config_hash(config)}))
    return folder


def scenarios(place: Path) -> dict:
    shard = {f"model-0000{n}-of-00002__safetensors": WEIGHTS for n in (1, 2)}
    index = {"model__safetensors.index.json": SHARDS}
    ours = weights_folder(place / "ours", **{"README.md": b"ours", "results.json": b"{}"})
    repos = {
        "me/blip": Repo(dict(BLIP), "bsd-3-clause"),
        "me/bin": Repo(changed(model__safetensors=None)),
        "me/shards": Repo(changed(model__safetensors=None, **index, **shard)),
        "me/lacks": Repo(changed(model__safetensors=None, **index)),
        "me/leaves": Repo(
            changed(model__safetensors=None, **{"model__safetensors.index.json": SHARDS.replace("model-", "../")})
        ),
        "me/tf": Repo(changed(model__safetensors=None, pytorch_model__bin=None)),
        "me/gated": Repo(dict(BLIP), refuse=(403, "GatedRepo")),
        "me/down": Repo(dict(BLIP), hide=(503, "")),
        "me/busy": Repo(dict(BLIP), hide=(429, "")),
        "me/remote": Repo(changed(config__json='{"model_type": "x", "auto_map": {"AutoModel": "modeling.X"}}')),
        "me/quantized": Repo(changed(config__json='{"model_type": "x", "quantization_config": {"bits": 4}}')),
        "me/adapters": Repo({"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS}),
        "me/no_config": Repo({"model.safetensors": WEIGHTS}),
        "me/huge": Repo(dict(BLIP), sizes={"model.safetensors": 10**18}),
        "me/moved": Repo(dict(BLIP), moved=True),
        "me/cut": Repo(changed(config__json='{"model_type": "cut"}')),
        "me/cut_shards": Repo(changed(model__safetensors=None, **index, **shard)),
        "me/weights_alone": Repo(changed(config__json='{"model_type": "alone"}')),
        "me/full": Repo(changed(config__json='{"model_type": "full"}')),
        "me/later": Repo(changed(config__json='{"model_type": "later"}')),
        "me/ours": Repo({path.name: path.read_bytes() for path in ours.iterdir()} | {"code.py": b"", "big.bin": b""}),
        "me/code": Repo({"config.json": json.dumps({"overrides": {}, "files": {"a.py": "0"}}).encode(), "a.py": b""}),
        "me/public": Repo({}),
        "me/read_only": Repo({}, read_only=True),
    }
    hub = Hub(repos)
    os.environ |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(place / "hf"), "HF_HUB_DISABLE_XET": "1"}
    os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    import huggingface_hub

    report: dict = {}

    def record(name: str, action) -> None:
        said: list[str] = []
        before = len(hub.log)
        row: dict = {"value": None, "error": None, "said": said}
        try:
            value = action(said.append)
            row["value"] = str(value)
            if isinstance(value, Path):
                row["files"] = sorted(path.name for path in value.iterdir())
        except BadWeights as error:
            row["error"] = str(error)
        except BaseException:
            row["error"] = OTHER + traceback.format_exc()
        report[name] = row | {"asked": hub.log[before:]}

    def get(name: str, address: str, **options) -> None:
        record(name, lambda say: fetch(parse(address), say=say, **options))

    @contextlib.contextmanager
    def failing(error: BaseException, at: str):
        """Downloads of a file fail."""
        real = huggingface_hub.hf_hub_download

        def download(repo, file, **options):
            if file == at:
                raise error
            return real(repo, file, **options)

        huggingface_hub.hf_hub_download = download
        try:
            yield
        finally:
            huggingface_hub.hf_hub_download = real

    get("blip", "hf://me/blip")
    get("blip again", "hf://me/blip")
    get("blip by commit", f"hf://me/blip@{repos['me/blip'].sha}")
    get("blip by branch", "hf://me/blip@main")
    good, bad = hashlib.sha256(WEIGHTS).hexdigest(), "0" * 64
    get("pinned", "hf://me/blip", hashes={"model.safetensors": good})
    get("pinned wrongly", "hf://me/blip", hashes={"model.safetensors": bad})
    get("pinned another", "hf://me/blip", hashes={"spiece.model": bad})
    names = ("bin", "shards", "lacks", "leaves", "tf", "gated", "nobody", "down", "busy", "remote", "quantized")
    for name in (*names, "adapters", "no_config", "huge", "moved", "ours", "code"):
        get(name, f"hf://me/{name}")
    get("ours again", "hf://me/ours")
    get("revision", "hf://me/blip@v9")
    with failing(KeyboardInterrupt(), "model.safetensors"):
        get("interrupted", "hf://me/cut")
    get("after interrupted", "hf://me/cut")
    with failing(KeyboardInterrupt(), "model-00002-of-00002.safetensors"):
        get("interrupted shards", "hf://me/cut_shards")
    get("after interrupted shards", "hf://me/cut_shards")
    for file in ("config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download("me/weights_alone", file)
    get("weights alone", "hf://me/weights_alone")
    with failing(OSError(errno.ENOSPC, "No space left on device"), "model.safetensors"):
        get("full", "hf://me/full")
    with failing(PermissionError(errno.EACCES, "Permission denied"), "model.safetensors"):
        get("locked", "hf://me/full")

    def put(name: str, address: str, folder: Path, **options) -> None:
        record(name, lambda say: push(folder, parse(address), say=say, **options))

    put("no token", "hf://me/new", ours)
    os.environ["HF_TOKEN"] = "hf_secret"
    mine = weights_folder(
        place / "mine",
        **{"results.json": RESULTS, ".secret": b"s", ".git/x": b"s", "sub/.env": b"s", "sub/a.png": b"p"},
    )
    put("pushed", "hf://me/new", mine, private=True)
    report["uploaded"] = {name: data.decode() for name, data in repos["me/new"].files.items()}
    report["private"] = repos["me/new"].private
    put("pushed again", "hf://me/new", mine)
    put("with a page", "hf://me/pages", ours)
    report["page"] = repos["me/pages"].files["README.md"].decode()
    report["page here"] = (ours / "README.md").read_text()
    get("what was pushed", "hf://me/new")
    put("public", "hf://me/public", mine, private=True)
    report["public files"] = sorted(repos["me/public"].files)
    put("others", "hf://others/new", mine)
    put("read only", "hf://me/read_only", mine)

    huggingface_hub.constants.HF_HUB_OFFLINE = True
    get("forbidden", "hf://me/later")
    get("forbidden, cached", "hf://me/blip")
    huggingface_hub.constants.HF_HUB_OFFLINE = False
    hub.stop()
    get("no network", "hf://me/later")
    get("no network, cached", "hf://me/blip")
    put("push without a network", "hf://me/new", mine)
    report["cache"] = sorted(path.name for path in (place / "hf/hub").iterdir())
    report["endpoint"] = hub.endpoint
    report["place"] = sorted(path.name for path in place.iterdir())
    return report


if __name__ == "__main__":
    place = Path(sys.argv[1])
    (place / "report.json").write_text(json.dumps(scenarios(place)))
