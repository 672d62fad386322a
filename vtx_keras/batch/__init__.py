"""Run a model over any number of pictures, here or on many machines: captions, answers or vectors, each picture once.

work = batch.work("cross_attn_captioner", beams=2)
batch.run(work, ["holiday"], "captions")                        # in this process, or in several: workers=4
batch.run(work, ["holiday/**/*.jpg"], "captions", runner="ray")  # or "spark", or a runner of Apache Beam
for row in batch.rows("captions"):                              # {"picture": "…/1.jpg", "result": "two dogs …"}
    ...

The folder that is written has a part for some hundred pictures, whole or absent. A run that was killed goes on with the
pictures that no part names, on whatever runner. Those that cannot be used are in `_bad-….jsonl`, with the reason.
"""

import importlib
from typing import Any

_MODULE_OF = {
    "Work": "_work",
    "handler": "_work",
    "pictures_of": "_work",
    "rows": "_run",
    "run": "_run",
    "work": "_work",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"vtx_keras.batch.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'vtx_keras.batch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
