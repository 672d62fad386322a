"""From an address to a caption, and back up: processes of their own, a real client, a server on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest

from vtx_keras import data, zoo

BLIP = Path(__file__).parents[1] / "fixtures/published/blip"
SCRIPT = """
import sys
from vtx_keras import zoo
model = zoo.build("cross_attn_captioner", weights="hf://owner/blip", max_length=9)
assert model.spec["published"]["origin"] == {"weights": "hf://owner/blip", "licence": "bsd-3-clause"}, model.spec
said = model.generate(sys.argv[1])
print(zoo.push(model, "hf://me/mine", private=True))
assert zoo.build("cross_attn_captioner", weights="hf://me/mine").generate(sys.argv[1]) == said
assert zoo.load("hf://me/mine").options["max_length"] == 9
"""


@pytest.fixture
def hub():
    files = {path.name: path.read_bytes() for path in BLIP.iterdir() if not path.name.startswith("expected")}
    page = b"---\nlicense: bsd-3-clause\n---\n"
    served = hub_server.Hub({"owner/blip": hub_server.Repo({**files, "README.md": page}, "bsd-3-clause")})
    yield served
    served.stop()


def test_an_address_is_captioned_with_and_what_is_made_of_it_is_pushed(hub, tmp_path):
    photo, quiet = str(data.sample("photos/cat.jpg")), {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    place = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_secret", **quiet}

    def run(*words: str) -> subprocess.CompletedProcess:
        done = subprocess.run([sys.executable, *words], env=os.environ | place, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done

    vtx = ["-c", "from vtx_keras.cli import main; main()", "predict", "hf://owner/blip", photo, "--max-length", "9"]
    first = run(*vtx)
    caption = zoo.named(BLIP).generate(photo, max_length=9)[0]
    assert first.stdout.strip() == caption, "results alone"
    assert "licence bsd-3-clause" in first.stderr
    assert run("-c", SCRIPT, photo).stdout.strip() == f"{hub.endpoint}/me/mine"
    page = hub.repos["me/mine"].files["README.md"].decode()
    assert "license: bsd-3-clause" in page
    assert "zoo.build('cross_attn_captioner', weights='hf://me/mine')" in page
    assert hub.repos["me/mine"].private
    hub.stop()
    assert run(*vtx).stdout == first.stdout, "from the cache, without a network"
