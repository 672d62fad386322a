"""Settings before any test, marks of fast tests after collection. Helpers are in support/, which is on the path."""

import gc
import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
gc.set_threshold(10_000, 20, 50)  # graphs hold millions of objects: traversing them took a fifteenth of the time

# For every save, by file and part of the name: a model of each task, the rules of texts and images, the rooms.
FAST = {
    "test_captions.py": "",
    "test_concepts.py": "",
    "test_measures.py": "",
    "test_pages.py": "",
    "test_text.py": "",
    "test_vocabulary.py": "",
    "test_house.py": "room_imports|comes_back|backend_is_named|drawing|underscore|private_names|type_hints",
    "test_documents.py": "links_of",
    "test_contracts.py": "gated_captioner|gated_vqa|[retriever]",
    "test_decoding.py": "gated_captioner",
}


def pytest_configure(config: pytest.Config) -> None:
    if "not slow" in config.option.markexpr:  # `-m slow` runs XLA with LLVM's optimizations, as users do
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def pytest_xdist_auto_num_workers() -> int:
    """One more than the cores, because tests wait for files and processes; each may need 4 GB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min((os.cpu_count() or 1) + 1, memory // 2**32))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parts = FAST.get(item.path.name)
        wanted = parts is not None and (not parts or any(part in item.name for part in parts.split("|")))
        wanted = wanted and "other_backend" not in getattr(item, "fixturenames", ())  # another process
        if wanted and not {"slow", "network", "gpu"} & {mark.name for mark in item.iter_markers()}:
            item.add_marker("fast")
    gc.collect()
    gc.freeze()  # objects of imports are never searched again


@pytest.fixture
def few_tried(monkeypatch):
    """Exports made by examples in docs and docstrings are checked on 24 examples, not on the whole sample."""
    if os.environ.get("KERAS_BACKEND") != "jax":
        from vtx_keras.export import _verify as verify

        rows_of = verify.rows_of
        monkeypatch.setattr(verify, "rows_of", lambda model, given, limit: rows_of(model, given, min(limit, 24)))
