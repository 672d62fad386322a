"""vtx chat and vtx convert of language models, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import languages
import pytest

from vtx_keras import data, zoo

VTX = [sys.executable, "-c", "from vtx_keras.cli import main; main()"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return zoo.save(languages.opened(languages.captioner("llama3", "gated")), tmp_path_factory.mktemp("chat") / "mine")


def run(*words: str, typed: str = "") -> subprocess.CompletedProcess:
    return subprocess.run([*VTX, *words], input=typed, capture_output=True, text=True)


def test_questions_from_a_pipe_are_answered_line_by_line(saved):
    photo = str(data.sample("photos/cat.jpg"))
    done = run("chat", str(saved), photo, "--max-length", "5", typed="what is it?\nand now?\n\nnever asked\n")
    assert done.returncode == 0, done.stderr[-2000:]
    chat = zoo.load(saved).chat(photo)
    expected = [chat.ask(one, max_length=5) for one in ("what is it?", "and now?")]
    assert done.stdout == "".join(f"{one}\n" for one in expected)


def test_a_model_that_writes_nothing_and_a_fetch_with_options_are_errors():
    photo = str(data.sample("photos/cat.jpg"))
    done = run("chat", "gated_vqa", photo, typed="what is it?\n")
    assert done.returncode == 2
    assert "writes no text: expected a captioner" in done.stderr
    done = run("convert", "smollm2_135m", "--half")
    assert done.returncode == 2
    assert "leave out --out, --url and --half" in done.stderr
