"""Captioning a picture from exported files, against Hugging Face's eager `generate` and our own in Keras.

All sides run in this process, one thread each, in turns; CPU time; 20 tokens; random weights. Both shapes are ViTs
under cross-attention, `base` at 224 px and `tiny` at 128; the peer has the same. The targets, as times faster than the
peer: LiteRT 2.0 (base), 7 (tiny), with four beams 3 and 6; LiteRT int8 5 and 13; ONNX 1.6 and 2.4, with beams 2.

    python benchmarks/export.py [--rounds 9] [--shapes tiny,base]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import base_ours, base_peer, interleaved, one_thread, store

LENGTH = 20
VOCABULARY = {"base": 30_522, "tiny": 8_192}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shapes", default="tiny,base")
    given = parser.parse_args()
    one_thread()
    rows = []
    for shape in given.shapes.split(","):
        rows += measured(shape, given.rounds)
    store("export", rows)


def measured(shape: str, rounds: int) -> list[dict]:
    import numpy as np
    import torch

    ours = base_ours() if shape == "base" else tiny_ours()
    peer = (base_peer() if shape == "base" else tiny_peer()).eval()
    picture = np.random.default_rng(0).integers(0, 256, (1, *ours.image_shape), dtype="uint8")
    pixels = torch.tensor(picture / np.float32(127.5) - 1).permute(0, 3, 1, 2)
    rows = []
    for beams in (1, 4):

        def run_peer(beams: int = beams) -> None:
            with torch.inference_mode():
                ids = peer.generate(
                    pixels, num_beams=beams, max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False
                )
            assert ids.shape[1] == LENGTH + 1

        expected = np.array(ours.generate_ids(picture.astype("float32"), beams=beams, max_length=LENGTH)[0])
        assert np.all(expected > 0), "our side stopped early: the comparison would not be fair"
        sides = {"peer": run_peer, "keras": lambda beams=beams: ours.generate(picture, beams=beams, max_length=LENGTH)}
        with tempfile.TemporaryDirectory() as folder:
            for name, run in exported(ours, beams, Path(folder)).items():
                if name.endswith("float32"):
                    assert np.array_equal(run(picture), expected), f"{name} writes something else"
                sides[name] = lambda run=run: run(picture)
            times = interleaved(sides, rounds)
        ratios = {name: round(times["peer"]["median_ms"] / times[name]["median_ms"], 2) for name in times}
        rows.append({"shape": shape, "batch": 1, "beams": beams, **times, "times_faster": ratios})
        print(rows[-1]["times_faster"], flush=True)
    return rows


def exported(model, beams: int, folder: Path) -> dict:
    """A function from a picture to ids for each file."""
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    from vtx_keras.export import graphs, onnx_graph, tflite

    settings, sides = {"beams": beams, "max_length": LENGTH}, {}
    for quantize in (None, "int8"):
        path = folder / f"{quantize}.tflite"
        path.write_bytes(tflite.converted(model, "one", quantize, None, **settings))
        run = Interpreter(str(path), num_threads=1).get_signature_runner("serving_default")
        sides[f"litert {quantize or 'float32'}"] = lambda image, run=run: run(image=image)["ids"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    file = onnx_graph.converted(graphs.graphs(model, "one", **settings)["serving_default"], None, 17)
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    sides["onnx float32"] = lambda image: session.run(["ids"], {"image": image})[0]
    return sides


def tiny_ours():
    """The zoo's `tiny`."""
    from vtx_keras import text, zoo

    pieces = [f"w{i}" for i in range(VOCABULARY["tiny"] - len(text.SPECIALS))]
    return zoo.build("cross_attn_captioner", weights=None, size="tiny", vocabulary=pieces)


def tiny_peer():
    """Hugging Face's VisionEncoderDecoder in the same shape."""
    import transformers as hf

    shape = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    vision = hf.ViTConfig(num_hidden_layers=6, image_size=128, patch_size=16, **shape)
    words = hf.BertConfig(
        num_hidden_layers=3, vocab_size=VOCABULARY["tiny"], is_decoder=True, add_cross_attention=True, **shape
    )
    model = hf.VisionEncoderDecoderModel(hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, words))
    for holder in (model.config, model.generation_config):
        holder.decoder_start_token_id, holder.pad_token_id, holder.eos_token_id = 2, 0, 3
    return model


if __name__ == "__main__":
    main()
