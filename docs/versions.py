"""Build the pages of every tagged version and of the working tree side by side, with a page that links them.

    python docs/versions.py              # to docs/_build/versions/; needs pip install -e ".[docs]"
    python docs/versions.py v0.1 v0.2    # these tags, and the working tree

Each version is built from its own files by the packages that are installed now. One that cannot be built with these is
named at the end, and left out.
"""

from __future__ import annotations

import html
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>vtx_keras: versions</title>
<h1>vtx_keras</h1>
<ul>
{}
</ul>
</html>
"""


def main() -> int:
    """Build all versions, write the page, and return 1 if one failed."""
    out = ROOT / "docs" / "_build" / "versions"
    tags = sys.argv[1:] or git("tag", "--sort=-creatordate").split()
    built = ["latest"] if pages(ROOT, out / "latest") else []
    for tag in tags:
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "tree.tar"
            git("archive", "--output", str(archive), tag)
            subprocess.run(["tar", "xf", str(archive), "-C", folder], check=True)
            archive.unlink()
            built += [tag] if pages(Path(folder), out / tag) else []
    out.mkdir(parents=True, exist_ok=True)
    links = "\n".join(f'<li><a href="{html.escape(name)}/index.html">{html.escape(name)}</a></li>' for name in built)
    (out / "index.html").write_text(PAGE.format(links), encoding="utf-8")
    failed = sorted({"latest", *tags} - set(built))
    print(f"{out / 'index.html'}: {', '.join(built)}" + (f"; not built: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def git(*words: str) -> str:
    """Return what git prints."""
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout


def pages(tree: Path, out: Path) -> bool:
    """Build the pages of a tree, whose own package they document, and return whether that worked."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "TF_CPP_MIN_LOG_LEVEL": "3"}
    words = [sys.executable, "-m", "sphinx", "-q", "-E", str(tree / "docs"), str(out)]
    return subprocess.run(words, cwd=tree, env=environment).returncode == 0


if __name__ == "__main__":
    raise SystemExit(main())
