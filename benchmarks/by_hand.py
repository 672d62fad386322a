"""What the package does by hand, measured against the library that could do it.

`onnx`: files of the released captioner by the passes of the ONNX export, with each pass left out, and by onnxruntime's
`quantize_dynamic` and float16 conversion and by onnxslim. Sizes, captions identical to the model's, and CPU time per
image on one thread, all files in turns. `labels`: bootstrap intervals of the F1 of one label per row, against
scikit-learn's `f1_score` with `sample_weight`. What is not installed is left out, with a message.

    python benchmarks/by_hand.py onnx     # pip install onnxslim
    python benchmarks/by_hand.py labels   # pip install scikit-learn
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import RESULTS, installed, interleaved, one_thread, processor

PACKAGES = ("tensorflow", "tf2onnx", "onnx", "onnxruntime", "onnxslim", "scikit-learn", "numpy")
OPSET = 17
TIMED = 8  # images
ROWS, CLASSES, DRAWS = 1000, 13, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("section", choices=("onnx", "labels"))
    parser.add_argument("--images", type=int, default=240, help="of the bundled sample, to compare captions on")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    one_thread()
    rows = onnx_rows(args.images, args.rounds) if args.section == "onnx" else label_rows(args.rounds)
    store(args.section, rows)


def onnx_rows(images: int, rounds: int) -> list[dict]:
    """Compare the files of `onnx_files` with the released captioner."""
    from vtx_keras import zoo
    from vtx_keras.export import _verify

    import onnxruntime  # isort: skip (after `vtx_keras.export`, which switches its telemetry off)

    model = zoo.build("cross_attn_captioner", weights="emoji")
    examples = _verify.load_examples(model, None, images)
    wanted = _verify.results_of(model, _verify.expected(model, examples))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    rows, sides = [], {}
    for (quantize, name), make in onnx_files(model).items():
        row: dict[str, Any] = {"quantize": quantize or "float32", "file": name}
        rows.append(row)
        try:
            file = make().SerializeToString()
            row["megabytes"] = round(len(file) / 1e6, 3)
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            captions = [
                _verify.results_of(model, {"ids": session.run(["ids"], {"image": image[None]})[0]})[0]
                for image in examples.images
            ]
        except Exception as error:  # each library has its own kinds
            row["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            continue
        row |= {"identical": sum(a == b for a, b in zip(captions, wanted, strict=True)), "n": len(wanted)}
        sides[len(rows) - 1] = lambda session=session: [
            session.run(["ids"], {"image": image[None]}) for image in examples.images[:TIMED]
        ]
        print(row, flush=True)
    for number, times in interleaved(sides, rounds).items():
        rows[number]["ms_per_image"] = round(times["median_ms"] / TIMED, 2)
    return rows


def onnx_files(model) -> dict[tuple[str | None, str], Callable[[], Any]]:
    """Return functions that make ONNX models, by precision and how they are made."""
    from vtx_keras.export import _graphs, _onnx

    converted = _onnx.run_converter(_graphs.graphs(model)["serving_default"], OPSET)

    def passes(*chosen: Callable[[Any], Any], start: Any = converted) -> Any:
        """Apply functions that change a model, or return another one, to a copy."""
        result = copy.deepcopy(start)
        for change in chosen:
            result = change(result) or result
        return result

    def hoist(model: Any) -> None:
        _onnx.hoist_loop_invariants(model.graph)

    def float16(model: Any) -> None:
        _onnx.store_float16(model, lambda node: True)

    tables, int8 = _onnx.deduplicate_tables, _onnx.quantize_int8
    files: dict[tuple[str | None, str], Callable[[], Any]] = {
        (None, "tf2onnx alone"): lambda: passes(),
        (None, "ours"): lambda: passes(hoist, tables),
        (None, "ours without hoist_loop_invariants"): lambda: passes(tables),
        (None, "ours without deduplicate_tables"): lambda: passes(hoist),
        ("float16", "ours"): lambda: passes(hoist, tables, float16),
        ("float16", "onnxruntime's float16 of ours"): lambda: passes(hoist, tables, half_by_onnxruntime),
        ("int8", "ours"): lambda: passes(hoist, int8),
        ("int8", "ours without hoist_loop_invariants"): lambda: passes(int8),
        ("int8", "ours without store_convolutions"): lambda: passes(hoist, matrices_in_int8),
        ("int8", "quantize_dynamic of tf2onnx"): lambda: passes(dynamic),
        ("int8", "quantize_dynamic of ours float32"): lambda: passes(hoist, tables, dynamic),
        ("int8", "quantize_dynamic of ours float32, in loops too"): lambda: passes(hoist, dynamic_in_loops),
    }
    if installed("onnxslim"):
        from onnxslim import slim

        files |= {
            (None, "onnxslim alone"): lambda: passes(slim),
            (None, "onnxslim, then ours"): lambda: passes(slim, hoist, tables),
            (None, "ours, then onnxslim"): lambda: passes(hoist, tables, slim),
            ("float16", "ours, then onnxslim"): lambda: passes(hoist, tables, float16, slim),
            ("int8", "onnxslim, then quantize_dynamic"): lambda: passes(slim, dynamic),
            ("int8", "onnxslim, then ours"): lambda: passes(slim, hoist, int8),
            ("int8", "ours, then onnxslim"): lambda: passes(hoist, int8, slim),
        }
    else:
        print("onnxslim is not installed: left out")
    return files


def half_by_onnxruntime(model: Any) -> Any:
    """Convert a model to float16 by onnxruntime, which computes in it too."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True)


def dynamic(model: Any, **settings: Any) -> Any:
    """Quantize a model by onnxruntime."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save_model(model, before)
        quantize_dynamic(before, after, **settings)
        return onnx.load_model(after)


def dynamic_in_loops(model: Any) -> Any:
    """Quantize a model by onnxruntime, in the bodies of its loops too, with a scale per channel."""
    return dynamic(model, per_channel=True, extra_options={"EnableSubgraph": True})


def matrices_in_int8(model: Any) -> Any:
    """Quantize a model by onnxruntime as the export does: without its convolutions."""
    kinds = ["MatMul", "Gemm", "Gather"]
    return dynamic(model, per_channel=True, op_types_to_quantize=kinds, extra_options={"EnableSubgraph": True})


def label_rows(rounds: int) -> list[dict]:
    """Time the F1 of one label per row over bootstrap draws."""
    import numpy as np

    from vtx_keras.evaluate._measures import draws, one_label

    if not installed("scikit-learn"):
        raise SystemExit("scikit-learn is not installed: there is nothing to compare with")
    from sklearn.metrics import f1_score

    random = np.random.default_rng(0)
    truth = random.integers(0, CLASSES, ROWS)
    predicted = np.where(random.random(ROWS) < 0.6, truth, random.integers(0, CLASSES, ROWS))
    weights = list(draws(range(ROWS), DRAWS))
    values: dict[str, list[float]] = {}

    def ours() -> None:
        f1 = one_label(predicted, truth)["f1_macro"]
        values["ours"] = [f1.of(one) for one in weights]

    def library() -> None:
        values["library"] = [f1_score(truth, predicted, average="macro", sample_weight=one) for one in weights]

    times = interleaved({"ours": ours, "scikit-learn": library}, rounds, time.process_time)
    np.testing.assert_allclose(values["ours"], values["library"], atol=1e-12)
    ratio = round(times["scikit-learn"]["median_ms"] / times["ours"]["median_ms"], 1)
    return [{"rows": ROWS, "classes": CLASSES, "draws": DRAWS, **times, "times_faster": ratio}]


def store(section: str, rows: list[dict]) -> None:
    """Print a section's rows, and store them beside those of the other sections."""
    for row in rows:
        print("  ".join(f"{key}={value}" for key, value in row.items()))
    path = RESULTS / "by_hand.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    report[section] = {
        "command": f"python benchmarks/by_hand.py {section}",
        "hardware": f"{processor()}, one thread",
        "python": platform.python_version(),
        "versions": {package: release for package in PACKAGES if (release := installed(package))},
        "rows": rows,
    }
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    temporary.rename(path)


if __name__ == "__main__":
    main()
