"""Fetching archives: whole and right, or nothing."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time

import pytest

from vtx_keras import _files as archives

FAKE = "import pathlib, sys, time; pathlib.Path('made.tgz').write_bytes(b'half'); "
MADE = archives.Archive("npm", "made", "1.0", "made.tgz", hashlib.sha256(b"halfwhole").hexdigest(), "MIT")


def fake_client(monkeypatch, then: str) -> None:
    """Replace npm by a program that writes a given file, without a network."""
    monkeypatch.setitem(archives.CLIENTS, "npm", ([sys.executable, "-c", FAKE + then], "Node.js", "@"))


def test_fetch_keeps_an_archive_with_the_right_hash(tmp_path, monkeypatch):
    fake_client(monkeypatch, "open('made.tgz', 'ab').write(b'whole')")
    messages = []
    path = archives.fetch(MADE, tmp_path, messages.append)
    assert path.read_bytes() == b"halfwhole"
    assert messages == ["fetching made 1.0 (MIT) with npm"]
    archives.fetch(MADE, tmp_path, messages.append)
    assert len(messages) == 1, "an archive that is here was fetched again"
    assert [entry.name for entry in tmp_path.iterdir()] == ["made.tgz"]


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ("pass", "as pinned"),
        ("sys.exit('E404 not found')", "could not fetch made@1.0: E404 not found. Is there a network"),
        ("pathlib.Path('more').touch()", "made 2 files"),
    ],
)
def test_fetch_leaves_nothing_when_it_fails(tmp_path, monkeypatch, then, told):
    fake_client(monkeypatch, then)
    with pytest.raises(archives.BadArchive, match=told):
        archives.fetch(MADE, tmp_path, str)
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_killed_fetch_are_removed(tmp_path, monkeypatch):
    script = (
        "import sys; from vtx_keras import _files as archives\n"
        "archives.CLIENTS['npm'] = ([sys.executable, '-c', sys.argv[1]], 'Node.js', '@')\n"
        f"archives.fetch(archives.Archive(*{tuple(MADE)!r}), sys.argv[2])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, FAKE + "time.sleep(60)", str(tmp_path)])
    while not list(tmp_path.glob(".fetch-*/made.tgz")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "made.tgz").exists()
    fake_client(monkeypatch, "open('made.tgz', 'ab').write(b'whole')")
    archives.fetch(MADE, tmp_path, str)
    assert [entry.name for entry in tmp_path.iterdir()] == ["made.tgz"]


@pytest.mark.parametrize("client", ["npm", "apt"])
def test_a_missing_client_is_named_with_its_installer(tmp_path, monkeypatch, client):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(archives.BadArchive, match=rf"{client}.*missing: install .*Or put made.tgz .* by hand"):
        archives.fetch(MADE._replace(client=client), tmp_path, str)


@pytest.mark.parametrize("size", [b"-60", b"many"])
def test_a_debian_package_of_impossible_sizes_is_refused(tmp_path, size):
    header = b"%-16s%-12s%-6s%-6s%-8s%-10s`\n" % (b"debian-binary", b"0", b"0", b"0", b"100644", size)
    (tmp_path / "a.deb").write_bytes(b"!<arch>\n" + header + b"2.0\n")
    with pytest.raises(archives.BadArchive, match="holds no data"):
        list(archives.read_archive(tmp_path / "a.deb", "*"))


@pytest.mark.parametrize("name", ["a.tgz", "a.whl"])
@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08\0" + b"x" * 100, b"PK\x05\x06" + b"x" * 30])
def test_a_damaged_archive_is_refused_by_its_name(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(archives.BadArchive, match=rf"{name} is damaged"):
        list(archives.read_archive(tmp_path / name, "*"))
