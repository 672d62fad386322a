"""Files that once broke a reader are refused or read, and each reader stands some seconds of new ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import run  # noqa: E402  # a program beside this file

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="once is enough")
KEPT = sorted(path for path in run.CORPUS.iterdir() if path.is_file())


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_a_file_that_once_broke_a_reader_does_so_no_more(path):
    target = run.TARGETS[path.name.split(".")[0]]
    assert not run.tried(target, path.read_bytes()).startswith("broke")


def test_damage_depends_on_a_number_alone():
    seeds = [b"one seed, of some bytes", b'{"another": [1, 2]}']
    assert [run.mutated(seeds, number) for number in range(50)] == [run.mutated(seeds, number) for number in range(50)]
    assert len({run.mutated(seeds, number) for number in range(50)}) > 40
    assert run.mutated_json(seeds[1], 3) == run.mutated_json(seeds[1], 3)


def test_a_broken_rule_is_told():
    def fails(data: bytes, folder: Path) -> None:
        raise KeyError("what")

    assert run.tried(run.Target(list, fails), b"").startswith("broke: KeyError")
    assert run.tried(run.Target(list, fails, (KeyError,)), b"") == "KeyError"
    assert run.tried(run.Target(list, lambda data, folder: data.decode()), b"\xff").startswith("broke: UnicodeDecodeE")


def test_the_page_on_trust_tells_the_stored_counts():
    stored = json.loads(run.RESULTS.read_text())
    assert set(stored) == set(run.TARGETS)
    told = (HERE.parents[1] / "docs/trust.md").read_text("utf-8")
    for name, row in stored.items():
        assert row["faults"] == {}, name
        refused = row["inputs"] - row["read"]
        assert f"| `{name}` | {row['inputs']:,d} | {row['read']:,d} | {refused:,d} |" in told


@pytest.mark.slow
@pytest.mark.parametrize("name", run.TARGETS)
def test_a_reader_stands_new_damage(name):
    first = 1 + max(row["inputs"] for row in json.loads(run.RESULTS.read_text()).values())
    command = [sys.executable, str(HERE / "run.py"), "--target", name, "--seconds", "5", "--first", str(first)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
