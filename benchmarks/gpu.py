"""On a GPU: a training step and captions of the `base` shape, JAX under XLA against PyTorch, eager and compiled.

Both sides run in this process, in turns, in bfloat16 (mixed precision); wall time until each call has finished.
Training batches are on the GPU; pictures to caption are in the host's memory, and the captions return to it. The peer
is Hugging Face's VisionEncoderDecoder: its training step eager and through `torch.compile`, its `generate` eager.

    KERAS_BACKEND=jax python benchmarks/gpu.py [--rounds 20] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path

from common import RESULTS, base_model, base_peer, interleaved, store

LENGTH = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--cpu", action="store_true", help="try this script where there is no GPU")
    parser.add_argument("--eager", action="store_true", help="leave out the compiled peer, which needs a C++ compiler")
    args = parser.parse_args()
    if args.cpu and args.results == RESULTS:
        parser.error("--cpu measures no GPU: give another folder for its results (--results)")
    import jax
    import torch

    torch.set_float32_matmul_precision("high")
    device = torch.device("cpu" if args.cpu else "cuda")
    name, rows = "the CPU" if args.cpu else torch.cuda.get_device_name(), []
    benchmarks = [functools.partial(captions, batch, args.rounds, device) for batch in (1, 32)]
    for measure in (*benchmarks, functools.partial(training, args.batch, args.rounds, device, not args.eager)):
        rows.append(measure())
        # Stored after each measurement, because compiling takes minutes.
        store("gpu", rows, f"{name}; JAX backend ({jax.default_backend()}), arrays, XLA", args.results)


def compared(what: dict, sides: dict[str, Callable[[], object]], rounds: int) -> dict:
    """Return the row: wall milliseconds of each side, and how many times faster the model is than each peer."""
    times = interleaved(sides, rounds, time.perf_counter)
    median = times["vtx_keras"]["median_ms"]
    speedups = {name: round(side["median_ms"] / median, 2) for name, side in times.items() if name != "vtx_keras"}
    return {**what, **times, "speedup": speedups}


def training(batch: int, rounds: int, device: object, compiled: bool) -> dict:
    """Measure forward, backward and AdamW."""
    import jax
    import keras
    import numpy as np
    import torch

    from vtx_keras.models.objectives import WordLoss

    random = np.random.default_rng(0)
    pictures = random.uniform(0, 255, (batch, 224, 224, 3)).astype("float32")
    tokens = random.integers(5, 30_522, (batch, LENGTH + 1)).astype("int32")

    model = base_model(dropout=0.0, max_length=LENGTH, dtype="mixed_bfloat16")
    model.compile(keras.optimizers.AdamW(1e-4), loss=WordLoss())
    inputs, labels = {"image": jax.device_put(pictures), "tokens": jax.device_put(tokens[:, :-1])}, tokens[:, 1:]

    pixels = torch.tensor(pictures / 127.5 - 1).permute(0, 3, 1, 2).contiguous().to(device)
    words, targets = (torch.tensor(ids).long().to(device) for ids in (tokens[:, :-1], tokens[:, 1:]))

    def peer(compiled: bool) -> Callable[[], object]:
        network = base_peer().to(device)
        for module in network.modules():  # neither side has dropout: its random draws are not what is timed
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        network.train()
        optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=device.type == "cuda")
        forward = torch.compile(network) if compiled else network

        def step() -> float:
            with torch.autocast(device.type, torch.bfloat16):
                logits = forward(pixel_values=pixels, decoder_input_ids=words).logits
                loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()  # waits for the GPU

        return step

    sides = {
        "vtx_keras": lambda: np.asarray(model.train_on_batch(inputs, labels)[0]),  # waits for the GPU
        "peer_eager": peer(compiled=False),
        **({"peer_compiled": peer(compiled=True)} if compiled else {}),
    }
    return compared({"what": "training step", "shape": "base", "batch": batch}, sides, rounds)


def captions(batch: int, rounds: int, device: object) -> dict:
    """Measure greedy captions of 20 tokens, from random weights."""
    import numpy as np
    import torch

    model, peer = base_model(dtype="mixed_bfloat16"), base_peer().eval().to(device)
    pictures = np.random.default_rng(0).uniform(0, 255, (batch, 224, 224, 3)).astype("float32")
    pixels = torch.tensor(pictures / 127.5 - 1).permute(0, 3, 1, 2)

    def run_model() -> list[str]:
        return model.generate(pictures, max_length=LENGTH, batch_size=batch)

    whole = all(len(caption.split()) == LENGTH for caption in run_model())
    assert whole, "the model stopped early: the sides would not do the same work"

    def run_peer() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            ids = peer.generate(pixels.to(device), max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False)
        assert ids.cpu().shape[1] == LENGTH + 1

    sides = {"vtx_keras": run_model, "peer_eager": run_peer}
    return compared({"what": "captions of 20 tokens", "shape": "base", "batch": batch}, sides, rounds)


if __name__ == "__main__":
    main()
