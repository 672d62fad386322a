"""Caption one picture, 20 tokens, random weights: `model.generate` against Hugging Face's eager `generate`.

Both sides run in this process, in turns, on one thread each; CPU time. The targets are at most 0.65 × the peer's time
with greedy decoding and 0.6 × with four beams.

    python benchmarks/decode.py [--rounds 15]
"""

from __future__ import annotations

import argparse

from common import base_model, base_peer, interleaved, one_thread, store

LENGTH = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    one_thread()
    import numpy as np
    import torch

    model, peer = base_model(), base_peer().eval()
    picture = np.random.default_rng(0).uniform(0, 255, (1, 224, 224, 3)).astype("float32")
    pixels = torch.tensor(picture / 127.5 - 1).permute(0, 3, 1, 2)
    rows = []
    for beams in (1, 4):
        ids, _ = model.generate_ids(picture, beams=beams, max_length=LENGTH)
        assert np.all(np.array(ids) > 0), "the model stopped early: the sides would not do the same work"

        def run_peer(beams: int = beams) -> None:
            with torch.inference_mode():
                ids = peer.generate(
                    pixels, num_beams=beams, max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False
                )
            assert ids.shape[1] == LENGTH + 1

        def run_model(beams: int = beams) -> None:
            model.generate(picture, beams=beams, max_length=LENGTH)

        times = interleaved({"vtx_keras": run_model, "peer": run_peer}, rounds)
        ratio = times["vtx_keras"]["median_ms"] / times["peer"]["median_ms"]
        rows.append({"shape": "base", "batch": 1, "beams": beams, **times, "ratio": round(ratio, 3)})
    store("decode", rows)


if __name__ == "__main__":
    main()
