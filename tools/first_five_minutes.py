"""Write docs/first-five-minutes.md: a newcomer's first commands, run in a fresh copy and a fresh virtual environment.

    python tools/first_five_minutes.py              # a quarter of an hour on two cores, because it runs the tests too
    python tools/first_five_minutes.py --no-tests   # keeps the page's record of the tests

Outputs are unchanged, except that the middle of long ones is left out and that the temporary folder's name is replaced.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "first-five-minutes.md"
MOST_LINES = 14
PIP_LINE = re.compile(  # pip's progress, which differs from machine to machine
    r"\s*(Looking in|Processing|Collecting|Requirement already|Building|Created wheel|Stored in|Downloading"
    r"|Using cached|Installing|Preparing|Getting|Successfully built|Obtaining|Checking if|WARNING: Location|━)"
)


class Step(NamedTuple):
    """A command and its description."""

    about: str
    command: str


README_LINES = re.findall(r"^((?:python -m )?pip install .*)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
CAPTION, TEST = (next(line for line in README_LINES if part in line) for part in ("vtx predict", "pytest"))
STEPS = (
    Step("The README's first line installs the package and captions a picture with the released weights.", CAPTION),
    Step("Which models are released?", "vtx list --released"),
    Step("Which optional parts are missing, and what needs them?", "vtx doctor"),
    Step(
        "Several files at once, one of which is not a picture.",
        "vtx predict cross_attn_captioner --weights emoji zoo/cross_attn_captioner/emoji/[l-m]*.png README.md",
    ),
    Step("Words become pictures.", 'vtx draw cross_attn_generator "a small red triangle" --count 8 --out sheet.png'),
    Step("Help is fast, because it does not load TensorFlow.", "vtx --help"),
    Step("A mistake.", "vtx predict cross_atn_captioner photo.png"),
    Step(
        "Fine-tune the released captioner on the bundled sample.",
        "vtx train cross_attn_captioner --weights emoji --data sample --freeze image",
    ),
    Step("Evaluate it.", "vtx eval runs/cross_attn_captioner/best --data sample --split validation"),
    Step(
        "Export it for a phone.",
        'pip install -q ".[export]" && '
        "vtx export cross_attn_captioner --weights emoji --to litert --quant int8 --out phone",
    ),
    Step(
        "Run the phone's program, which does not need vtx_keras.",
        "python export/mobile/run.py phone/model.tflite zoo/cross_attn_captioner/emoji/mending-heart.png",
    ),
)
LAST = Step("The README's second line: install for development, and run the tests.", TEST)


def record(step: Step, copy: Path, environment: dict[str, str]) -> str:
    """Run the command; return it with its output, its time, and its exit code if that is not 0."""
    wall, cpu = time.monotonic(), cpu_seconds()
    done = subprocess.run(
        step.command, shell=True, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    took = f"{time.monotonic() - wall:.1f} s, {cpu_seconds() - cpu:.1f} s of CPU"
    lines = readable(line.rpartition("\r")[2].rstrip() for line in done.stdout.rstrip().splitlines())
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES // 2], "…", *lines[-MOST_LINES // 2 :]]
    output = "\n".join(lines).replace(str(copy), ".").replace(str(copy.parent), "~").replace(str(Path.home()), "~")
    exit_code = f"; exit code {done.returncode}" if done.returncode else ""
    return f"{step.about}\n\n```text\n$ {step.command}\n{output}\n```\n\n{took}{exit_code}.\n"


def readable(lines: Iterable[str]) -> list[str]:
    """Return the lines without pip's progress, long ones cut."""
    return [line if len(line) < 160 else f"{line[:159]}…" for line in lines if not PIP_LINE.match(line)]


def cpu_seconds() -> float:
    """Return the CPU seconds of all commands so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Run all commands, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-tests", action="store_true", help="keep the page's record of the tests")
    skip = parser.parse_args().no_tests
    kept = "\n".join(readable(PAGE.read_text(encoding="utf-8").partition("## The tests\n")[2].split("\n")))
    with tempfile.TemporaryDirectory() as folder:
        copy, venv = Path(folder) / "vtx_keras", Path(folder) / "venv"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(copy)], check=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "TFDS_DATA_DIR")}
        environment |= {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        parts = []
        for step in STEPS:
            print(step.command, flush=True)
            parts.append(record(step, copy, environment))
        tests = kept if skip else f"\n{record(LAST, copy, environment)}"
    python = sys.version.split()[0]
    PAGE.write_text(
        f"# The first five minutes\n\nIn a fresh copy and a fresh virtual environment (Python {python}, "
        f"{os.cpu_count()} cores, no GPU), as `python tools/first_five_minutes.py` recorded it.\n\n"
        + "\n".join(parts)
        + f"\n## The tests\n{tests}",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
