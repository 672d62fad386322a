"""The files for docker agree with setup.cfg. They are not built here, where there may be no engine."""

from __future__ import annotations

import configparser
import fnmatch
import re

import pytest
from paths import ROOT

FILES = ("Dockerfile", "Dockerfile.gpu")


@pytest.fixture
def setup() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / "setup.cfg", encoding="utf-8")
    return parsed


def lines(name: str) -> list[str]:
    return (ROOT / "export/docker" / name).read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", FILES)
def test_python_is_one_that_the_package_is_for(name, setup):
    (version,) = [
        re.fullmatch(r"FROM python:(3\.\d+)-slim", line)[1] for line in lines(name) if line.startswith("FROM")
    ]
    assert f"Programming Language :: Python :: {version}" in setup["metadata"]["classifiers"].splitlines()


def test_tensorflow_with_cuda_is_of_the_range_that_the_package_asks_for(setup):
    (wanted,) = re.findall(r"^tensorflow (\S+)$", setup["options"]["install_requires"], re.M)
    assert any(f'"tensorflow[and-cuda]{wanted}"' in line for line in lines("Dockerfile.gpu"))


def test_both_run_as_a_user_and_caption_when_built():
    bodies = []
    for name in FILES:
        kept = [line for line in lines(name) if line and not line.startswith("#")]
        assert kept.index("USER 1000") < kept.index('ENTRYPOINT ["vtx"]')
        assert any(line.startswith("RUN vtx predict") for line in kept[kept.index("USER 1000") :])
        bodies.append([line for line in kept if not line.startswith(("RUN --mount", "ENV"))])
    assert bodies[0] == bodies[1]  # what they do not share is what is installed, and the driver's settings


def test_what_pip_reads_is_in_the_context_and_what_it_does_not_is_out(setup):
    rules = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] != "#"]

    def inside(path: str) -> bool:
        found = True
        for rule in rules:  # the last that matches decides
            pattern = rule.removeprefix("!").removeprefix("**/")
            parents = ["/".join(path.split("/")[: i + 1]) for i in range(path.count("/") + 1)]
            names = path.split("/") if "**/" in rule else []
            if any(fnmatch.fnmatch(one, pattern) for one in [*parents, *names]):
                found = rule.startswith("!")
        return found

    folders = [line.split(" = ")[1] for line in setup["options"]["package_dir"].split("\n") if line]
    assert all((ROOT / folder).is_dir() and inside(folder) for folder in folders)
    files = ["setup.cfg", "pyproject.toml", setup["metadata"]["license_files"]]
    files.append(setup["metadata"]["long_description"].removeprefix("file: "))
    assert all((ROOT / name).is_file() and inside(name) for name in files)
    for name in (
        ".git/HEAD",
        "runs/mine",
        "tests/conftest.py",
        "vtx_keras/__pycache__/zoo.pyc",
        "export/mobile/run.py",
    ):
        assert not inside(name), name
