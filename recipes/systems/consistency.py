"""Whether released models agree with themselves: the mirrored picture, other words, what an answer implies.

python -m recipes.systems.consistency     # five minutes on two cores
"""

from __future__ import annotations

from recipes.systems import trials
from vtx_keras import data, evaluate, zoo

MODELS = {  # weights of cross_attn_vqa, the data they are asked about, and how many questions
    "easy_vqa": ("easy_vqa", 1_000),
    "photos": ("flickr8k_qa", None),
}
NAMES = ("accuracy", "calibration_error", "consistency_mirrored", "consistency_reworded", "consistency_implied")


def main() -> None:
    """Ask each model, and store how often it agrees with itself."""
    figures, rows = {}, {}
    for weights, (name, limit) in MODELS.items():
        model = zoo.build("cross_attn_vqa", weights=weights)
        found = evaluate.run(model, data.load(name, "test"), baselines=(), limit=limit, consistency=True)
        figures[f"{weights}, asked {name}"] = {one: found.metrics[one] for one in NAMES if one in found.metrics}
        rows[name] = found.rows
        print(found.table(), *found.notes, sep="\n", flush=True)
    trials.store("consistency", rows=rows, figures=figures, differences={})


if __name__ == "__main__":
    main()
