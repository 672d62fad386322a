"""Training photographs on a GPU: the loop and what it reads, on JAX in a process of its own."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from toys import other_backend

from vtx_keras.checkpoints._folder import BadWeights
from vtx_keras.checkpoints.published import _encoders as published

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="it starts JAX itself")
ON_JAX = """
    import keras, numpy as np, jax
    from recipes.gpu.loop import in_turn, trained
    from recipes.gpu.tune import search_loss, seen_anew, tokens_of

    # The loop finds the line that the numbers lie on, and keeps what is judged best.
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1), keras.layers.Dropout(0.1)])
    x = np.linspace(-1, 1, 64, dtype="float32")[:, None]
    store = {"x": x, "y": 3 * x - 1}

    def loss(store, batch, key):
        error = keras.ops.mean((model(store["x"][batch[0]], training=True) - store["y"][batch[0]]) ** 2)
        return error, {"error": error}

    scores = iter([2.0, 1.0])
    seen = []

    def judge():
        seen.append([np.array(value) for value in model.get_weights()])
        return {"score": next(scores)}

    told = trained(loss, model.trainable_variables, [model], store, in_turn(64, 16), seconds=0, rate=0.3, ema=0.9,
                   decay=0.0, judge=judge, judged=2, most=200, name="line")
    assert [one["steps"] for one in told] == [100, 200], told
    assert all((a == b).all() for a, b in zip(model.get_weights(), seen[0])), "the first was judged better"
    assert abs(float(seen[1][0][0, 0]) - 3) < 0.5 and abs(float(seen[1][1][0]) + 1) < 0.5, seen[1]

    # Pictures that are lighter on the left.
    pictures = np.random.default_rng(0).integers(0, 100, (8, 12, 12, 3)).astype("uint8")
    pictures[:, :, :6] += 150
    same, mirrored = map(np.asarray, seen_anew(pictures, jax.random.key(1), least=1.0, colours=0.0))
    assert 0 < mirrored.sum() < 8
    for one, flag in zip(same, mirrored):
        assert (one[:, :6].mean() > one[:, 6:].mean()) == (not flag), "mirrored, or not, as it is said"
    other, _ = seen_anew(pictures, jax.random.key(1))
    assert np.asarray(other).min() >= 0 and np.asarray(other).max() <= 255

    # A retriever that knows all pairs has a small loss; captions that are not right do not count.
    images, right = np.eye(4, dtype="float32"), np.ones((4, 5), "float32")
    texts = np.repeat(images, 5, axis=0)
    assert float(search_loss(images, texts, 50.0, right)) < 2, "one of five texts is the nearest"
    texts[0], right[0, 0] = images[1], 0.0
    assert float(search_loss(images, texts, 50.0, right)) < 2
    assert float(search_loss(images, texts, 50.0, 0 * right + 1)) > 2
    assert np.asarray(tokens_of(np.array([[[2, 7, 3, 0]]]))).tolist() == [[2, 7, 0]]
    print("all of it")
"""


def test_the_loop_learns_keeps_the_best_and_sees_pictures_anew():
    path = other_backend()["PYTHONPATH"]
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ON_JAX)],
        env={**other_backend(), "PYTHONPATH": f"{ROOT}:{path}"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "all of it" in run.stdout, run.stderr[-3000:]


def test_weights_that_were_kept_come_back(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    loop = importlib.import_module("recipes.gpu.loop")
    made, other = (keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.LayerNormalization()])
                   for _ in range(2))  # fmt: skip
    loop.keep(tmp_path / "made.npz", made, steps=3)
    loop.give(tmp_path / "made.npz", other)
    for one, again in zip(made.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, again, atol=1e-3)
    assert '"steps": 3' in (tmp_path / "made.json").read_text()


def test_captions_are_packed_as_five_of_the_models_ids(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    pack = importlib.import_module("recipes.gpu.pack")
    vocabulary = ["[PAD]", "[UNK]", "[START]", "[END]", "[MASK]", "a", "dog", "left"]
    ids = pack.ids_of([["a dog"], ["a dog", "left", "a", "dog a", "a a", "left left"]], vocabulary)
    assert ids.shape == (2, 5, pack.LENGTH)
    assert ids[0, :, :5].tolist() == [[2, 5, 6, 3, 0]] * 5, "one caption stands for five"
    assert ids[1, 1, :4].tolist() == [2, 7, 3, 0]
    assert pack._sided("a dog on the left")
    assert not pack._sided("a dog")


def tiny_pack(folder):
    """A few random pictures with texts, packed as `recipes.gpu.pack` packs them."""
    random, words = np.random.default_rng(0), (ROOT / "zoo/cross_attn_captioner/photos/vocabulary.txt").read_text()
    vocabulary = words.removesuffix("\n").split("\n")
    counts = {"train": 8, "validation": 4, "coco": 2}

    def jpeg() -> bytes:
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (224, 224, 3)).astype("uint8")).save(file, "JPEG")
        return file.getvalue()

    def ids(*shape: int) -> np.ndarray:
        made = np.zeros((*shape, 23), "int16")
        made[..., 0], made[..., 1:6], made[..., 6] = 2, random.integers(5, len(vocabulary), (*shape, 5)), 3
        return made

    files = [jpeg() for _ in range(sum(counts.values()))]
    for part in range(4):
        content = np.frombuffer(b"".join(files[part::4]), "uint8")
        np.savez(folder / f"pictures-{part}.npz", sizes=[len(file) for file in files[part::4]], content=content)
    texts = {f"{split}_ids": ids(count, 5) for split, count in counts.items()}
    texts |= {"train_sided": np.zeros((8, 5), bool), "train_count": np.full(8, 5), "text_ids": ids(64)}
    texts |= {"text_words": random.integers(0, 300, (64, 5)), "text_chances": random.random((64, 5))}
    for split, start in (("train", 0), ("validation", 8)):
        texts |= {f"{split}_questions": ids(8)[:, :22], f"{split}_answers": random.integers(0, 2, 8)}
        texts[f"{split}_asked_of"] = start + random.integers(0, counts[split], 8)
    np.savez(folder / "texts.npz", vocabulary=np.array(vocabulary), answers=np.array(["no", "yes"]), **texts)
    vectors = {"words": random.normal(size=(len(vocabulary), 256)), "captions": random.integers(-9, 9, (40, 192))}
    np.savez(folder / "vectors.npz", **vectors)


@pytest.mark.slow
def test_every_stage_runs_on_a_few_pictures(tmp_path):
    try:
        cache = published.find("efficientnet_lite2").parent
    except BadWeights:
        pytest.skip("needs vtx convert efficientnet_lite2")
    tiny_pack(tmp_path)
    environment = {**other_backend(), "VTX_KERAS_CACHE": str(cache)}
    environment["PYTHONPATH"] = f"{ROOT}:{environment['PYTHONPATH']}"
    shared = ["--folder", tmp_path, "--out", tmp_path / "out", "--features", tmp_path / "features"]
    shared += ["--views", "2", "--batch", "4", "--judged", "1", "--most", "2"]
    for stage in (
        "tune", "behind captioner cross_attn --start tuned_captioner.npz --sentences 4 --reward 1",
        "behind vqa", "behind matcher --start retriever.npz",
    ):  # fmt: skip
        module, *rest = stage.split()
        command = [sys.executable, "-m", f"recipes.gpu.{module}", *rest, *map(str, shared)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert run.returncode == 0, run.stderr[-3000:]
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"encoder.npz", "encoder.json", "retriever.npz", "tuned_captioner.npz", "cross_attn_vqa.npz"} <= made
    assert {"cross_attn_captioner.npz", "cross_attn_captioner.json", "cross_attn_matcher.npz"} <= made
    assert "compiled in" in run.stdout
