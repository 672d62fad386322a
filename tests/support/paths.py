"""Where the checkout, the programs and the test data lie."""

from __future__ import annotations

from pathlib import Path

SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
PROGRAMS = ROOT / "export"
REFERENCE = TESTS / "checkpoints" / "reference"
FLAT_LAYOUT = TESTS / "fixtures" / "flat_layout"
EMOJI_NAMES = SUPPORT / "emoji_names.txt"  # all 3,786 English names (Unicode CLDR 48.2, Unicode-3.0)
