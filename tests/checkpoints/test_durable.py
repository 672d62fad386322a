"""What a full disk, a killed process or Ctrl-C leaves: the folder of before or the new one, whole."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from toys import inputs, outputs, toy

from vtx_keras import _files, zoo

WRITER = """
import os, sys
from pathlib import Path
from vtx_keras import _files

at_once, calls, last = sys.argv[2] == "at once", [0], int(sys.argv[3])
exchanged, rename = _files._exchanged_at_once, Path.rename

def counted(function):
    def call(*args):
        if calls[0] == last:
            os._exit(9)
        calls[0] += 1
        return function(*args)
    return call

_files._exchanged_at_once = counted(exchanged) if at_once else lambda *args: False
Path.rename = counted(rename)
with _files.new_folder(Path(sys.argv[1])) as target:
    (target / "which").write_text("new")
"""


@pytest.mark.parametrize("at_once", ["at once", "in two steps"])
@pytest.mark.parametrize("calls", range(4))
def test_a_process_killed_before_any_rename_leaves_one_whole_folder(tmp_path, at_once, calls):
    folder = tmp_path / "my model"
    with _files.new_folder(folder) as target:
        (target / "which").write_text("old")
    (folder / "notes.txt").write_text("mine")
    code = subprocess.run([sys.executable, "-c", WRITER, folder, at_once, str(calls)]).returncode
    assert code in (0, 9)
    assert (_files.recovered(folder) / "which").read_text() == ("old" if code and calls < 2 else "new")
    assert (folder / "notes.txt").read_text() == "mine"
    with _files.new_folder(folder) as target:
        (target / "which").write_text("later")
    assert [path.name for path in tmp_path.iterdir()] == ["my model"]  # what the dead left is swept


@pytest.mark.parametrize("last", [1, 2])
def test_ctrl_c_in_a_rename_keeps_the_folder(tmp_path, monkeypatch, last):
    folder = tmp_path / "mine"
    with _files.new_folder(folder) as target:
        (target / "which").write_text("old")
    rename, calls = Path.rename, []

    def interrupted(path: Path, name: Path) -> Path:
        calls.append(name)
        if len(calls) == last:
            raise KeyboardInterrupt
        return rename(path, name)

    monkeypatch.setattr(_files, "_exchanged_at_once", lambda *names: False)
    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), _files.new_folder(folder) as target:
        (target / "which").write_text("new")
    assert (folder / "which").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_threads_write_one_file_at_once(tmp_path):
    def write(number: int) -> None:
        with _files.whole(tmp_path / "a") as part:
            part.write_text(str(number) * 1000)
            ready.wait()

    ready = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(set((tmp_path / "a").read_text())) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_folders_of_others_are_left_alone(tmp_path):
    running, dead = _files._mark(1), _files._mark(4194999)
    for name in (".mine.4194999.bak", f".mine.{running}-a", ".mine.vtx-elsewhere-4194999-a", f".other.{dead}-a"):
        (tmp_path / name).mkdir()
    for _ in range(2):
        with _files.new_folder(tmp_path / "mine"):
            pass
    assert len(list(tmp_path.iterdir())) == 5
    (tmp_path / f".mine.{dead}-a").mkdir()
    with _files.new_folder(tmp_path / "mine"):
        pass
    assert len(list(tmp_path.iterdir())) == 5


def test_a_link_to_a_folder_that_lost_its_name_is_mended(tmp_path):
    store = tmp_path / "store"
    left = store / f".v3.{_files._mark(4194999)}-a.old"
    left.mkdir(parents=True)
    (tmp_path / "current").symlink_to(store / "v3")
    assert _files.recovered(tmp_path / "current").is_dir()
    assert [path.name for path in store.iterdir()] == ["v3"]


@pytest.mark.parametrize("half", [False, True])
def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path, half):
    model = toy("gated_vqa")
    folder = zoo.save(model, tmp_path / "mine")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"are needed. Free some space"):
            zoo.save(toy("gated_vqa"), folder, half=half)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    read = inputs(model)
    np.testing.assert_array_equal(outputs(zoo.load(folder), read), outputs(model, read))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
