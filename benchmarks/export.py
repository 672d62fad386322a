"""Caption pictures with exported files, against Hugging Face's eager `generate` and the model's own in Keras.

All sides run in this process, in turns, on one thread each; CPU time; 20 tokens; random weights. Both shapes are ViTs
with cross-attention, `base` at 224 px and `tiny` at 128, and the peer has the same. `targets` are how many times faster
than the peer each side should be.

The SavedModel runs its signature `pixels`, which also joins the words. A `.tflite` takes one picture at a time; for the
batch of 32 the same graph is converted for 32. The last rows are `export/mobile/run.py` from its start to a caption:
CPU seconds and peak memory, in a process of its own.

    python benchmarks/export.py [--rounds 9] [--shapes tiny,base]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import RESULTS, base_model, base_peer, interleaved, one_thread, store

LENGTH = 20
VOCABULARY = {"base": 30_522, "tiny": 8_192}
TARGETS = {  # by shape, batch and beams
    ("base", 1, 1): {"litert float32": 2.0, "litert int8": 5, "onnx float32": 1.6, "savedmodel float32": 1.65},
    ("base", 1, 4): {"litert float32": 3.0, "onnx float32": 2, "savedmodel float32": 1.8},
    ("tiny", 1, 1): {"litert float32": 7, "litert int8": 13, "onnx float32": 2.4, "savedmodel float32": 3.2},
    ("tiny", 1, 4): {"litert float32": 6, "onnx float32": 2, "savedmodel float32": 2.4},
    ("base", 32, 1): {"litert float32": 1.15, "litert int8": 2.2, "savedmodel float32": 1.15},
    ("tiny", 32, 1): {"litert float32": 1.15, "litert int8": 2.2, "savedmodel float32": 1.15},
}
RUN = Path(__file__).parents[1] / "export/mobile/run.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shapes", default="tiny,base")
    args = parser.parse_args()
    one_thread()
    shapes, stored = args.shapes.split(","), RESULTS / "export.json"
    before = json.loads(stored.read_text())["rows"] if stored.is_file() else []
    rows = [row for row in before if row["shape"] not in shapes]
    for shape in shapes:
        model = base_model() if shape == "base" else tiny_model()
        peer = (base_peer() if shape == "base" else tiny_peer()).eval()
        for batch, beams in ((1, 1), (1, 4), (32, 1)):
            rounds = args.rounds if batch == 1 else max(3, args.rounds // 3)
            rows.append({"shape": shape, "batch": batch, "beams": beams, **compared(model, peer, batch, beams, rounds)})
            rows[-1]["targets"] = TARGETS[shape, batch, beams]
            print(rows[-1]["times_faster"], flush=True)
        if shape == "tiny":
            rows += [started(model, quantize, args.rounds) for quantize in (None, "int8")]
        store("export", rows)


def compared(model, peer, batch: int, beams: int, rounds: int) -> dict:
    """Time all sides on the same pictures."""
    import numpy as np
    import torch

    from vtx_keras import text

    pictures = np.random.default_rng(0).integers(0, 256, (batch, *model.image_shape), dtype="uint8")
    pixels = torch.tensor(pictures / np.float32(127.5) - 1).permute(0, 3, 1, 2)

    def run_peer() -> None:
        with torch.inference_mode():
            ids = peer.generate(pixels, num_beams=beams, max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False)
        assert ids.shape == (batch, LENGTH + 1)

    expected = np.array(model.generate_ids(pictures.astype("float32"), beams=beams, max_length=LENGTH)[0])
    assert np.all(expected > 0), "the model stopped early: the sides would not do the same work"
    sentences = text.decode(expected, model.vocabulary)
    sides = {"peer": run_peer, "keras": lambda: model.generate(pictures, beams=beams, max_length=LENGTH)}
    with tempfile.TemporaryDirectory() as folder:
        for name, run in exported(model, batch, beams, Path(folder)).items():
            if name.endswith("float32"):
                output = run(pictures)
                same = output == sentences if isinstance(output, list) else np.array_equal(output, expected)
                assert same, f"{name}: its output differs from the model's"
            sides[name] = lambda run=run: run(pictures)
        times = interleaved(sides, rounds)
    faster = {name: round(times["peer"]["median_ms"] / times[name]["median_ms"], 2) for name in times}
    return {"rounds": rounds, **times, "times_faster": faster}


def exported(model, batch: int, beams: int, folder: Path) -> dict:
    """Return for each file a function from pictures to ids (for a SavedModel, to sentences)."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    from vtx_keras.export import _graphs, _litert, _onnx, _saved_model

    import onnxruntime  # isort: skip (after `vtx_keras.export`, which switches its telemetry off)

    settings, sides = {"beams": beams, "max_length": LENGTH}, {}
    for quantize in (None, "int8"):
        path = folder / f"{quantize}.tflite"
        path.write_bytes(_litert.convert_graphs(_graphs.graphs(model, "one", batch, **settings), quantize))
        run = Interpreter(str(path), num_threads=1).get_signature_runner("serving_default")
        sides[f"litert {quantize or 'float32'}"] = lambda image, run=run: run(image=image)["ids"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    file = _onnx.convert_graph(
        _graphs.graphs(model, "one", **settings)["serving_default"], None, 17
    ).SerializeToString()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    sides["onnx float32"] = lambda image: session.run(["ids"], {"image": image})[0]
    _saved_model.save(model, _saved_model.signatures(model, **settings), folder / "1")
    served = tf.saved_model.load(str(folder / "1"))

    def serve(image) -> list[str]:
        return [one.decode() for one in served.signatures["pixels"](image=tf.constant(image))["caption"].numpy()]

    sides["savedmodel float32"] = serve
    return sides


# The peak memory of a process includes what its parent held when it was started, so a small parent starts it.
SMALL_PARENT = """
import json, os, sys
quiet = [(os.POSIX_SPAWN_OPEN, to, os.devnull, os.O_WRONLY, 0) for to in (1, 2)]
child = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ, file_actions=quiet)
_, status, used = os.wait4(child, 0)
print(json.dumps([status, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


def started(model, quantize: str | None, rounds: int) -> dict:
    """Measure a caption from the start of the program: CPU seconds and MiB."""
    from vtx_keras import data, export
    from vtx_keras.export._verify import rows_of

    photo, costs = str(data.sample("photos/cat.jpg")), []
    with tempfile.TemporaryDirectory() as folder:
        path, few = f"{folder}/model.tflite", rows_of(model, None, 2)
        export.litert(model, path, quantize=quantize, max_length=LENGTH, verify_data=few, share=0.0)
        for _ in range(rounds):
            command = [sys.executable, "-c", SMALL_PARENT, str(RUN), path, photo]
            status, *cost = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            assert status == 0, "the program failed"
            costs.append(cost)
    seconds, mebibytes = (round(statistics.median(values), 3) for values in zip(*costs, strict=True))
    return {
        "shape": "tiny",
        "what": f"export/mobile/run.py, {quantize or 'float32'}, from its start to a caption",
        "cpu_s": seconds,
        "peak_mib": round(mebibytes, 1),
        "targets": {"cpu_s": 0.5, "peak_mib": 120},
    }


def tiny_model():
    """Build the zoo's captioner as `tiny`."""
    from vtx_keras import text, zoo

    pieces = [f"w{i}" for i in range(VOCABULARY["tiny"] - len(text.SPECIALS))]
    return zoo.build("cross_attn_captioner", weights=None, size="tiny", vocabulary=pieces)


def tiny_peer():
    """Build Hugging Face's VisionEncoderDecoder in the same shape."""
    import transformers as hf

    shape = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    vision = hf.ViTConfig(num_hidden_layers=6, image_size=128, patch_size=16, **shape)
    words = hf.BertConfig(
        num_hidden_layers=3, vocab_size=VOCABULARY["tiny"], is_decoder=True, add_cross_attention=True, **shape
    )
    peer = hf.VisionEncoderDecoderModel(hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, words))
    for holder in (peer.config, peer.generation_config):
        holder.decoder_start_token_id, holder.pad_token_id, holder.eos_token_id = 2, 0, 3
    return peer


if __name__ == "__main__":
    main()
