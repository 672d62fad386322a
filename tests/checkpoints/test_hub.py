"""Repositories of the Hub, by the real client against a server on loopback: downloads, errors in words, uploads.

The client reads its settings when it is imported, so all scenarios run in one process of their own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest
from hub_server import OTHER, weights_folder
from paths import ROOT, SUPPORT

from vtx_keras.checkpoints._folder import BadWeights
from vtx_keras.checkpoints.published import _hub
from vtx_keras.checkpoints.published._hub import Address, card, check_folder, fetch, loads_as, parse, push


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    place = tmp_path_factory.mktemp("hub")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    path = os.pathsep.join([str(ROOT), str(SUPPORT)])
    run = subprocess.run(
        [sys.executable, hub_server.__file__, str(place)],
        env=clean | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads((place / "report.json").read_text())


# --- downloads


def test_what_is_needed_is_downloaded_and_no_code(report):
    row = report["blip"]
    assert row["files"] == ["README.md", "config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
    assert not [path for path in row["asked"] if path.endswith((".py", ".h5", ".bin"))]


def test_a_line_before_the_download_says_what_comes_and_a_line_after_that_it_is_unpinned(report):
    before, after = report["blip"]["said"]
    commit = Path(report["blip"]["value"]).name
    assert before == f"fetching hf://me/blip@{commit}: 0.0 MB, licence bsd-3-clause"
    assert "unpinned" in after
    assert after.endswith(f"hf://me/blip@{commit}")
    assert report["bin"]["said"][0].endswith("licence not stated")


@pytest.mark.parametrize(
    "name", ["blip again", "blip by commit", "blip by branch", "no network, cached", "forbidden, cached"]
)
def test_a_cached_revision_needs_no_network(report, name):
    assert report[name]["value"] == report["blip"]["value"]
    assert report[name]["asked"] == []


def test_only_an_address_without_revision_and_hashes_is_unpinned(report):
    assert ["unpinned" in "".join(report[name]["said"]) for name in ("blip again", "blip by commit", "pinned")] == [
        True, False, False,
    ]  # fmt: skip


def test_pinned_hashes_are_compared(report):
    assert report["pinned"]["value"]
    assert "model.safetensors of hf://me/blip is not the pinned file" in report["pinned wrongly"]["error"]
    assert "expected 0000000000000000" in report["pinned wrongly"]["error"]
    assert "hf://me/blip has no spiece.model, which is pinned" in report["pinned another"]["error"]


def test_without_safetensors_the_pickle_comes_and_shards_come_all(report):
    assert "pytorch_model.bin" in report["bin"]["files"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert [name for name in report["shards"]["files"] if "model" in name] == shards


def test_our_weights_folders_come_with_the_files_they_name(report):
    files = ["README.md", "config.json", "model.weights.h5", "vocabulary.txt"]
    assert report["ours"]["files"] == report["ours again"]["files"] == files
    assert report["ours again"]["asked"] == []


REFUSALS = {
    "lacks": "lacks model-00001-of-00002.safetensors, which it names",
    "leaves": r"as a shard: expected a .safetensors file beside it",
    "tf": r"no weights that can be read here .*tf_model.h5 \(TensorFlow or Keras\)",
    "gated": "it is gated: accept its licence on http.*/me/gated and run `hf auth login`",
    "nobody": "there is no http.*/me/nobody, or it is private",
    "down": "the Hub answered 503",
    "busy": "too many requests",
    "remote": "auto_map: its model is code of its own, which is not run here",
    "quantized": "quantized weights are not read here",
    "adapters": r"adapters only \(adapter_config.json\): merge them",
    "no_config": "has no config.json",
    "huge": r"no space is left in .*: .*1,000,000,000,000.* MB are needed and .* are free",
    "moved": "was changed while it was read: try again",
    "code": "names 'a.py' as a file of weights: it was not fetched",
    "revision": "the repository has no revision 'v9'",
    "full": "no space is left in .*No space left on device",
    "locked": "cannot write to .*Permission denied",
    "forbidden": "not in the cache, and HF_HUB_OFFLINE forbids the network",
    "no network": "no answer from http.*Is there a network?",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_every_failure_says_what_came_and_what_to_do(report, name):
    assert_refused(report[name], REFUSALS[name])


def assert_refused(row: dict, message: str) -> None:
    assert row["error"], "nothing was refused"
    assert not row["error"].startswith(OTHER), row["error"]
    assert re.search(message, row["error"]), row["error"]


@pytest.mark.parametrize("name", ["tf", "remote", "quantized", "adapters", "huge", "leaves", "code"])
def test_what_is_refused_is_refused_before_its_weights_are_fetched(report, name):
    ends = (".safetensors", ".bin", ".py")
    assert not [path for path in report[name]["asked"] if path.startswith("GET") and path.endswith(ends)]


def test_an_interrupted_download_is_taken_up_again(report):
    assert "KeyboardInterrupt" in report["interrupted"]["error"]
    assert "GET /me/cut/resolve" in "".join(report["after interrupted"]["asked"])
    assert "model.safetensors" in report["after interrupted"]["files"]
    again = [path for path in report["after interrupted"]["asked"] if path.endswith("tokenizer.json")]
    assert again == [], "what had come was fetched again"


def test_an_incomplete_snapshot_is_completed(report):
    assert "model-00002-of-00002.safetensors" in report["after interrupted shards"]["files"]
    assert "tokenizer.json" in report["weights alone"]["files"]
    assert [path for path in report["weights alone"]["asked"] if path.endswith("/model.safetensors")] == []


def test_files_lie_only_in_the_cache_of_the_hub(report):
    assert report["place"] == ["hf", "mine", "ours"]
    assert "models--me--blip" in report["cache"]


# --- uploads


def test_a_weights_folder_is_uploaded_without_hidden_files(report):
    assert report["pushed"]["value"] == f"{report['endpoint']}/me/new"
    files = ["README.md", "config.json", "model.weights.h5", "results.json", "sub/a.png", "vocabulary.txt"]
    assert sorted(report["uploaded"]) == files
    assert report["uploaded"]["model.weights.h5"] == "weights"
    assert report["private"] is True
    assert "uploading 6 files" in report["pushed"]["said"][0]
    assert report["what was pushed"]["files"] == ["README.md", "config.json", "model.weights.h5", "vocabulary.txt"]
    assert report["pushed again"]["value"] == report["pushed"]["value"]


def test_an_upload_has_a_model_card(report):
    assert "license: mit\npipeline_tag: image-to-text" in report["uploaded"]["README.md"]
    assert "accuracy on test: 0.988 (95 % interval 0.9 to 1)" in report["uploaded"]["README.md"]
    assert "weights='hf://me/new'" in report["uploaded"]["README.md"]
    assert report["page"].startswith("---\nlibrary_name: keras")
    assert report["page"].endswith("---\n\nours")
    assert report["page here"] == "ours"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no token", "no token of the Hub here: run `hf auth login`"),
        ("public", "exists and is public: nothing was uploaded"),
        ("others", "your token may not write there .*rights to create"),
        ("read only", "your token may not write there"),
        ("push without a network", "no answer from http.*Is there a network?"),
    ],
)
def test_an_upload_that_fails_says_why(report, name, message):
    assert_refused(report[name], message)
    assert "hf_secret" not in report[name]["error"]


def test_nothing_private_goes_to_a_public_repository(report):
    assert report["public files"] == []


@pytest.mark.parametrize("damage", ["no config", "transformers", "edited", "weights"])
def test_only_whole_weights_folders_are_uploaded(tmp_path, damage):
    folder = weights_folder(tmp_path / "mine")
    config = folder / "config.json"
    if damage == "no config":
        config.unlink()
    elif damage == "transformers":
        config.write_text('{"model_type": "blip"}')
    elif damage == "edited":
        config.write_text(config.read_text().replace("cross_attn", "gated"))
    else:
        (folder / "model.weights.h5").write_bytes(b"other")
    message = {"edited": "damaged or was edited", "weights": "is damaged"}.get(damage, "not a weights folder")
    with pytest.raises(BadWeights, match=message):
        push(folder, Address("me/mine"))


def test_a_folder_of_a_run_and_a_revision_are_no_places_to_upload(tmp_path):
    best = weights_folder(tmp_path / "run/best")
    with pytest.raises(BadWeights, match=r"Its folder best/ is one"):
        push(best.parent, Address("me/mine"))
    with pytest.raises(BadWeights, match="leave out @v1"):
        push(best, Address("me/mine", "v1"))


# --- without the client


def test_without_the_client_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BadWeights, match=r'pip install "vtx_keras\[hf\]"'):
        fetch(Address("me/blip"))


def test_addresses():
    assert parse("hf://a/b") == Address("a/b", None)
    assert parse("hf://a_1/b.c-d@refs/pr/1") == Address("a_1/b.c-d", "refs/pr/1")
    assert str(parse("hf://a/b@c")) == "hf://a/b@c"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("a/b", "not the address"), ("https://huggingface.co/a/b", "not the address"), ("hf://gpt2", "0 slashes"),
        ("hf://a/b/c", "2 slashes"), ("hf://", "0 slashes"), ("hf:///b", "'' is no name"),
        ("hf://a/..", "'..' is no name"),
        ("hf://a/b..c", "no name"), ("hf://a/b c", "no name"), ("hf://a/b%2e", "no name"), ("hf://a/-b", "no name"),
        ("hf://a/b@", "no branch"), ("hf://a/b@../x", "no branch"), ("hf://a/b@/x", "no branch"),
        ("hf://a/b@x y", "no branch"), ("hf://a/b\n", "no name"), ("hf://é/b", "no name"),
    ],
)  # fmt: skip
def test_malformed_addresses_are_refused(address, message):
    with pytest.raises(ValueError, match=message):
        parse(address)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no config.json"),
        ({"adapter_config.json": "{}"}, "adapters only"),
        ({"config.json": "{"}, "not JSON"),
        ({"config.json": "[" * 100_000}, "not JSON"),
        ({"config.json": "[1]"}, "holds list"),
        ({"config.json": b"\xff\xfe"}, "not JSON"),
        ({"config.json": " " * (_hub.MAX_CONFIG + 1)}, "too large"),
        ({"config.json": '{"auto_map": {"a": "b"}}'}, "code of its own, which is not run here"),
        ({"config.json": '{"decoder": {"auto_map": {"a": "b"}}}'}, "code of its own"),
        ({"config.json": '{"quantization_config": {"bits": 4}}'}, "quantized"),
    ],
)
def test_folders_that_cannot_be_read_are_refused(tmp_path, files, message):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(BadWeights, match=message):
        check_folder(tmp_path)


def test_a_folder_is_ours_or_one_of_transformers(tmp_path):
    assert loads_as(weights_folder(tmp_path / "ours")) == "vtx_keras"
    with pytest.raises(BadWeights, match=r"has no config\.json"):
        loads_as(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "blip"}')
    assert loads_as(tmp_path) == "transformers"
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadWeights, match="neither model_type"):
        loads_as(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "call"),
    [
        ("cross_attn_captioner", "image-to-text", "model.generate('photo.jpg')"),
        ("gated_vqa", "visual-question-answering", "model.answer("),
        ("retriever", "zero-shot-image-classification", "model.similarity("),
        ("co_attn_matcher", "zero-shot-image-classification", "model.match("),
    ],
)
def test_a_card_has_metadata_of_the_task_and_a_program_that_compiles(name, kind, call):
    page = card({"name": name}, "BLEU 30", "a licence: of my own\nx: y", address="hf://a/b")
    metadata = page.split("---\n")[1]
    assert f"pipeline_tag: {kind}\n" in metadata
    assert "license: other\n" in metadata
    assert "own" not in metadata
    assert "BLEU 30" in page
    program = page.split("```python\n")[1].split("```")[0]
    compile(program, name, "exec")
    assert call.replace("'", '"') in program
