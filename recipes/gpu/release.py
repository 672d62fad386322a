"""Write the encoder that `recipes.gpu.tune` trained, with its head, labels, figures and card.

The time on the card is that of one thread: TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes.encoder import milliseconds, minutes
from recipes.gpu.loop import ENCODER, FOLDER, give
from vtx_keras import data, media
from vtx_keras._files import write
from vtx_keras.checkpoints._folder import WEIGHTS
from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.models.encoders import architecture, backbone_of, features_of

STEPS, RESULTS, LABELS = ("weights", "card"), "results.json", "labels.txt"


def release(folder: Path, steps: Sequence[str] = (), out: Path = FOLDER / "out") -> None:
    """Write the encoder's folder: `weights` as float16 with labels, and the `card` with results; both by default."""
    if unknown := set(steps) - set(STEPS):
        raise SystemExit(f"{', '.join(sorted(unknown))}: expected some of {', '.join(STEPS)}")
    if "weights" in (steps or STEPS):
        write_weights(folder, out)
    if "card" in (steps or STEPS):
        write_card(folder, out)


def write_weights(folder: Path, out: Path) -> None:
    """Write the weights. Models name their hash: those that were trained on it before need it again."""
    base = backbone_of(folder.name).like
    network = architecture(folder.name, ENCODER["image_shape"])
    network.set_weights(published.load(base, head=True, image_shape=ENCODER["image_shape"]).get_weights())  # its head
    give(out / "encoder.npz", features_of(network))
    labels = (published.find(base) / LABELS).read_text(encoding="utf-8")
    for file in published.write(network, out / "encoder", {LABELS: labels}, half=True).iterdir():
        shutil.copy2(file, folder / file.name)


def write_card(folder: Path, out: Path) -> None:
    """Measure the released weights, and write results and card."""
    name, shape = folder.name, ENCODER["image_shape"]
    photographs = sorted(data.sample("photos/cat.jpg").parent.glob("*.jpg"))
    pictures = np.stack([media.resize(path, shape[:2], ENCODER["resize"]) for path in photographs])
    networks = [published.load(one, head=True, image_shape=shape) for one in (backbone_of(name).like, name)]
    before, after = (network.predict(pictures, verbose=0).argmax(axis=-1) for network in networks)
    features = features_of(networks[1])
    results = {
        **json.loads((out / "encoder.json").read_text(encoding="utf-8")),
        "named as before": f"{int((before == after).sum())} of {len(pictures)}",
        "parameters": features.count_params(),
        "megabytes_float16": round((folder / WEIGHTS).stat().st_size / 1e6, 1),
        "ms": milliseconds(features, shape[0]),
    }
    write(folder / RESULTS, json.dumps(results, indent=1) + "\n")
    write(folder / "README.md", card_of(name, results))


def card_of(name: str, results: dict[str, Any]) -> str:
    """Return the card's text."""
    base, side = backbone_of(name).like, ENCODER["image_shape"][0]
    told = f"--seconds {results['seconds']:g} --judged {len(results['judged'])}"
    command = f"python -m recipes.gpu.pack && KERAS_BACKEND=jax python -m recipes.gpu.tune {told}"
    kept = max(results["judged"], key=lambda one: one["score"])
    return f"""# {name}

The published [{base}](../{base}/README.md), trained further with captioned photographs: Flickr8k's 6,000 for
training and 942 of COCO. A captioner and a retriever behind it learned at once: the words of five captions, which
caption belongs to which picture of a batch, and MiniLM's vector of each caption. Each picture was seen anew each time:
a part of it, mirrored or not, in other light. What ImageNet's head names, which is stored here too, was held to what
the published network names; norms kept their statistics.

    from vtx_keras import encoders, zoo
    encoder = encoders.load("{name}")
    model = zoo.build("cross_attn_captioner", weights="encoders", image_encoder="{name}",
                      image_shape=({side}, {side}, 3), resize="stretch", concepts=5)

Use its features for photographs of people, animals, sports, rooms and food. Where a task is far from captions
(textures, radiographs), compare it with [{base}](../{base}/README.md).

| | |
|---|---|
| takes | pixels 0–255, sides of 32·k; trained at {side} px; its scaling is in the graph |
| gives | a map (rows, columns, 1280); with `head=True` logits of ImageNet's 1000 classes |
| parameters | {results["parameters"]:,} for features |
| stored | {results["megabytes_float16"]} MB as float16, norms and biases float32 |
| time | {results["ms"]} CPU ms for a picture of {side} px |
| likeliest class as before | {results["named as before"]} bundled photographs |
| trained on | {results["pictures"]:,} photographs: Flickr8k's training split and `coco_sample`'s |
| judged | Flickr8k's validation split, retriever beside it, recall 1: caption for picture \
{kept["caption for picture"]:.3f}, picture for caption {kept["picture for caption"]:.3f} |
| reproduce | `{command}`: {kept["steps"]:,} steps of {results["batch"]} pictures were kept, of \
{minutes(results["seconds"])} minutes on {results["hardware"]} |
| licence | research and education: Flickr8k's photographs belong to their makers and were collected for research; \
{base} is Apache-2.0, see [NOTICE.md](NOTICE.md) |

{results.get("remarks", "")}
"""
