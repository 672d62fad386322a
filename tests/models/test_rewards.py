"""CIDEr-D of token ids, samples of captions, and the loss that makes better ones likelier."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from toys import WORDS, decisive, eager, pictures, toy

from vtx_keras.inputs import text
from vtx_keras.models import rewards

LENGTH = 12


def padded(rows, length: int = LENGTH) -> np.ndarray:
    return np.array([[*row, *[0] * (length - len(row))] for row in rows], "int32")


def test_cider_is_that_of_the_coco_papers():
    """Of random sentences of few words: empty, short, repetitive ones, and pictures with one to four references."""
    scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer").CiderScorer()
    random = np.random.default_rng(0)

    def sentence(least: int) -> list[int]:
        return random.integers(5, 13, random.integers(least, LENGTH + 1)).tolist()

    references = [[sentence(1) for _ in range(random.integers(1, 5))] for _ in range(50)]
    candidates = [[sentence(0), sentence(0)[:1] + references[at][0][1:]] for at in range(50)]
    ids = np.stack([padded([*texts, *[[]] * (4 - len(texts))]) for texts in references])
    table = rewards.rarity(ids)
    scores = rewards.cider(ops.stack([padded(texts) for texts in candidates]), ops.array(ids), table)
    for which in (0, 1):
        scorer = type(scorer)()
        for texts, few in zip(candidates, references, strict=True):
            scorer += (" ".join(map(str, texts[which])), [" ".join(map(str, one)) for one in few])
        np.testing.assert_allclose(ops.convert_to_numpy(scores)[:, which], scorer.compute_score()[1], atol=1e-5)


def test_the_reward_knows_the_picture_and_counts_the_end():
    references = np.stack([padded([[5, 6, 7, 3]]), padded([[8, 9, 10, 3]])])
    ids = padded([[8, 9, 10, 3], [8, 9, 10, 11], [8, 9, 10]])[None]
    scores = {}
    for end in (True, False):
        table = rewards.rarity(references if end else np.where(references == text.END, 0, references))
        reward = rewards.by_cider(references, np.array([0, 0, 1]), table, end=end)
        scores[end] = ops.convert_to_numpy(reward(ops.array([2]), ops.array(ids)))[0]
        assert not ops.convert_to_numpy(reward(ops.array([1]), ops.array(ids)))[0].any()
    assert scores[True][0] > scores[True][2] + 1
    assert scores[False][0] == scores[False][2] == pytest.approx(7.5)  # there is no 4-gram


def test_draws_follow_the_probabilities():
    logits = np.random.default_rng(0).normal(size=200).astype("float32")
    levels = (np.arange(20_000, dtype="float32") + 0.5)[None, :, None] / 20_000
    tokens = rewards.drawn(ops.broadcast_to(ops.array(logits), (1, 20_000, 200)), ops.array(levels))
    shares = np.bincount(ops.convert_to_numpy(tokens)[0], minlength=200) / 20_000
    writable = np.ones(200, bool)
    writable[[text.PAD, text.UNK, text.START, text.MASK]] = False
    expected = np.exp(logits) * writable
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=1e-4)


def test_samples_are_those_of_the_decoder_and_their_loss_that_of_the_model():
    captioner = decisive("cross_attn_captioner")
    model = rewards.rewarded(captioner, lambda rows, ids: ops.zeros(ops.shape(ids)[:2]))
    images = ops.array(pictures(captioner, 3))
    ids = ops.convert_to_numpy(model.sample(images, 2, 8))
    for which in (0, 1):
        ours = np.where(ids[:, which] == text.END, 0, ids[:, which])
        np.testing.assert_array_equal(ours, ops.convert_to_numpy(captioner.generate_ids(images)[0]))
    noise = np.random.default_rng(1).random((3, 2, 8)).astype("float32")
    ids = ops.convert_to_numpy(model.sample(images, 2, 8, ops.array(noise)))
    assert (ids[:, 0] != ids[:, 1]).any()
    losses = model.losses_of({"image": images}, ops.array(ids))
    tokens = np.concatenate([np.full((3, 1), text.START), ids[:, 1, :-1]], axis=1)
    logits = captioner({"image": images, "tokens": ops.array(tokens)})
    expected = ops.sparse_categorical_crossentropy(ops.array(ids[:, 1]), logits, from_logits=True)
    np.testing.assert_allclose(*map(ops.convert_to_numpy, (losses[:, 1], expected)), atol=1e-4)


def test_better_samples_become_likelier():
    """The reward is 1 for captions that begin with an even id."""

    def reward(rows, ids):
        return ops.cast(ids[:, :, 0] % 2 == 0, "float32")

    captioner = eager(toy("gated_captioner", dropout=0.1, max_length=3))
    model = rewards.rewarded(captioner, reward, samples=16, weight_of_words=0.0)
    model.compile(keras.optimizers.Adam(1e-2), loss=captioner.loss, run_eagerly=captioner.run_eagerly)
    ids = captioner.vocabulary.encode(WORDS[:4], 4, start=True, end=True)
    inputs = {"image": pictures(captioner, 4), "tokens": ids[:, :-1], "row": np.zeros((4, 1), "int32")}

    def even() -> float:
        first = captioner({"image": inputs["image"], "tokens": inputs["tokens"]}, training=False)[:, 0, 5:]
        return float(ops.convert_to_numpy(ops.softmax(first))[:, 1::2].sum(axis=-1).mean())

    before = even()
    means = [model.train_on_batch(inputs, ids[:, 1:], return_dict=True)["reward"] for _ in range(4)]
    assert 0.3 < means[0] < 0.7
    assert even() > before + 0.1


def test_what_cannot_be_rewarded_is_an_error():
    with pytest.raises(ValueError, match="samples=1: expected at least 2"):
        rewards.rewarded(toy("gated_captioner"), lambda rows, ids: ids, samples=1)
    with pytest.raises(ValueError, match="build it without"):
        rewards.rewarded(toy("gated_captioner", contrastive=0.5), lambda rows, ids: ids)
