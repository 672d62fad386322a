"""Settings of sphinx, which builds these pages and the reference: python -m sphinx -W docs docs/_build"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
# These modules import their names on request, and autodoc documents only names that are there.
for name in ("checkpoints", "data", "evaluate", "explain", "export", "metrics", "train"):
    module = importlib.import_module(f"vtx_keras.{name}")
    vars(module).update({member: getattr(module, member) for member in module.__all__})

project = "vtx_keras"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosectionlabel"]
root_doc = "index"
exclude_patterns = ["_build", "README.md"]  # the index for readers of the repository
default_role = "code"  # docstrings mark `names` as Markdown does
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of Keras have their own markup
autodoc_default_options = {"members": True}
autosectionlabel_prefix_document = True
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links to files outside docs/, for readers of the repository
html_theme = "alabaster"
