"""One training step of the `base` shape at batch 8: `train_on_batch` under XLA against eager PyTorch.

Both sides run in this process, in turns, on one thread each; forward, backward and AdamW; CPU time. The target is at
most 1 / 1.1 of the peer's time.

    python benchmarks/train_step.py [--rounds 9]
"""

from __future__ import annotations

import argparse

from common import base_model, base_peer, interleaved, one_thread, store

BATCH, LENGTH = 8, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    one_thread()
    import keras
    import numpy as np
    import torch

    from vtx_keras.models.objectives import WordLoss

    random = np.random.default_rng(0)
    pictures = random.uniform(0, 255, (BATCH, 224, 224, 3)).astype("float32")
    tokens = random.integers(5, 30_522, (BATCH, LENGTH + 1)).astype("int32")

    model = base_model(dropout=0.0, max_length=LENGTH)
    model.compile(keras.optimizers.AdamW(1e-4), loss=WordLoss(), jit_compile=True)
    inputs, labels = {"image": pictures, "tokens": tokens[:, :-1]}, tokens[:, 1:]

    peer = base_peer()
    for module in peer.modules():  # neither side has dropout: its random draws are not what is timed
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    peer.train()
    optimizer = torch.optim.AdamW(peer.parameters(), 1e-4)
    pixels = torch.tensor(pictures / 127.5 - 1).permute(0, 3, 1, 2).contiguous()
    words, targets = torch.tensor(tokens[:, :-1]).long(), torch.tensor(labels).long()

    def run_peer() -> None:
        logits = peer(pixel_values=pixels, decoder_input_ids=words).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    times = interleaved({"vtx_keras": lambda: model.train_on_batch(inputs, labels), "peer": run_peer}, rounds)
    speedup = times["peer"]["median_ms"] / times["vtx_keras"]["median_ms"]
    store("train_step", [{"shape": "base", "batch": BATCH, **times, "speedup": round(speedup, 3)}])


if __name__ == "__main__":
    main()
