"""What the benchmarks share: one thread, CPU time, sides timed in turns, results stored with their hardware."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
RESULTS = Path(__file__).parent / "results"


def one_thread() -> None:
    """Limit TensorFlow and PyTorch to one thread; call it before either makes its thread pools."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if installed("torch"):
        import torch

        torch.set_num_threads(1)


def interleaved(
    sides: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, dict[str, float]]:
    """Return milliseconds (of CPU, or by another clock) of each side, timed in turns after two warm-up rounds."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 2):
        for name, run in sides.items():
            start = clock()
            run()
            if turn >= 2:
                times[name].append(1000 * (clock() - start))
    return {
        name: {"median_ms": round(statistics.median(t), 2), "min_ms": round(min(t), 2)} for name, t in times.items()
    }


def processor() -> str:
    """Return the processor's name, or the machine type where the system does not name it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def store(
    name: str, rows: list[dict], hardware: str | None = None, results: Path = RESULTS, command: str | None = None
) -> None:
    """Print the rows and store them with the hardware (by default one thread of this processor) and versions."""
    packages = (
        "tensorflow",
        "jax",
        "keras",
        "tensorflow-text",
        "pillow",
        "torch",
        "transformers",
        "tokenizers",
        "ai-edge-litert",
        "onnxruntime",
        "tf2onnx",
    )
    report = {
        "command": command or f"python benchmarks/{name}.py",
        "hardware": hardware or f"{processor()}, one thread",
        "python": platform.python_version(),
        "versions": {package: release for package in packages if (release := installed(package))},
        "rows": rows,
    }
    for row in rows:
        print("  ".join(f"{key}={value}" for key, value in row.items()))
    results.mkdir(exist_ok=True)
    temporary = results / f".{name}.json"
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    temporary.rename(results / f"{name}.json")


def installed(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def base_peer(vocabulary: int = 30_522):
    """Build Hugging Face's VisionEncoderDecoder as `base`: ViT-S/16 at 224 px under six blocks of width 384."""
    import transformers as hf

    shape = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    vision = hf.ViTConfig(num_hidden_layers=12, image_size=224, patch_size=16, **shape)
    words = hf.BertConfig(
        num_hidden_layers=6, vocab_size=vocabulary, is_decoder=True, add_cross_attention=True, **shape
    )
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, words)
    peer = hf.VisionEncoderDecoderModel(config)
    for holder in (peer.config, peer.generation_config):
        holder.decoder_start_token_id, holder.pad_token_id, holder.eos_token_id = 2, 0, 3
    return peer


def base_model(vocabulary: int = 30_522, **options):
    """Build the zoo's captioner in the same shape."""
    from vtx_keras import text, zoo

    pieces = [f"w{i}" for i in range(vocabulary - len(text.SPECIALS))]
    return zoo.build("cross_attn_captioner", weights=None, size="base", vocabulary=pieces, **options)
