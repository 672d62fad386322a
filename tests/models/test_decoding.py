"""Decoding: greedy, beams and sampling, against loops without a cache and by enumeration."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import toys
from keras import ops
from toys import learn, log_softmax, outputs, pictures, texts, toy

from vtx_keras import zoo
from vtx_keras.inputs import text
from vtx_keras.models import decode

IMAGE_CAPTIONERS = [name for name in zoo.list_models("*_captioner") if "video" not in name]


def writable(logits: np.ndarray) -> np.ndarray:
    logits = logits.copy()
    logits[..., list(decode.UNWRITABLE)] = decode.NEVER
    return logits


@pytest.fixture(params=IMAGE_CAPTIONERS)
def decisive(request):
    """A captioner whose logits are further apart than rounding errors, and which ends some captions early."""
    return toys.eager(toys.decisive(request.param))


def test_greedy_equals_the_loop_without_a_cache(decisive):
    x = pictures(decisive)
    ids, scores = (np.array(part) for part in decisive.generate_ids(x))
    tokens, totals, counts = np.zeros((len(x), 9), "int32"), np.zeros(len(x)), np.zeros(len(x))
    tokens[:, 0] = text.START
    for position in range(8):
        logits = writable(outputs(decisive, {"image": x, "tokens": tokens[:, :8]})[:, position])
        going = (tokens[:, position] != text.END) & (tokens[:, position] > 0)
        chosen = logits.argmax(axis=-1)
        tokens[:, position + 1] = np.where(going, chosen, 0)
        totals += np.where(going, np.take_along_axis(log_softmax(logits), chosen[:, None], axis=1)[:, 0], 0)
        counts += going
    for row in range(len(x)):
        assert list(ids[row][ids[row] > 0]) == [token for token in tokens[row, 1:] if token not in (0, text.END)]
        assert scores[row] == pytest.approx(totals[row] / counts[row], abs=1e-4)


def test_a_row_is_decoded_alike_in_any_batch(decisive):
    x = pictures(decisive)
    greedy, scores = (np.array(part) for part in decisive.generate_ids(x))
    beams = np.array(decisive.generate_ids(x, beams=3)[0])
    for row in range(len(x)):
        alone, alone_score = decisive.generate_ids(x[row : row + 1])
        np.testing.assert_array_equal(np.array(alone)[0], greedy[row])
        assert float(alone_score[0]) == pytest.approx(scores[row], abs=1e-4)
        np.testing.assert_array_equal(np.array(decisive.generate_ids(x[row : row + 1], beams=3)[0])[0], beams[row])


def beam_search(model, picture: np.ndarray, beams: int, length: int) -> tuple[list[int], float]:
    """Textbook beam search without a cache: extend all hypotheses, keep the best, set finished ones aside."""
    live, ended = [((text.START,), 0.0)], []
    while live and len(live[0][0]) <= length:
        padded = np.array([[*tokens, *[0] * (length - len(tokens))] for tokens, _ in live], "int32")
        every = outputs(model, {"image": np.stack([picture] * len(live)), "tokens": padded})
        logits = log_softmax(writable(every[:, len(live[0][0]) - 1]))
        proposals = [
            ((*tokens, token), score + logp[token])
            for (tokens, score), logp in zip(live, logits, strict=True)
            for token in np.argsort(-logp)[:beams]
        ]
        best = sorted(proposals, key=lambda pair: -pair[1])[:beams]
        ended += [pair for pair in best if pair[0][-1] == text.END]
        live = [pair for pair in best if pair[0][-1] != text.END]
    tokens, score = max(ended + live, key=lambda pair: pair[1] / (len(pair[0]) - 1))
    return [int(token) for token in tokens[1:] if token != text.END], score / (len(tokens) - 1)


@pytest.mark.parametrize("beams", [4, *(pytest.param(beams, marks=pytest.mark.slow) for beams in (1, 2))])
def test_beam_search_equals_the_textbook(decisive, beams):
    x = pictures(decisive)
    ids, scores = (np.array(part) for part in decisive.generate_ids(x, beams=beams))
    for row in range(len(x)):
        words, score = beam_search(decisive, x[row], beams, 8)
        assert list(ids[row][ids[row] > 0]) == words
        assert scores[row] == pytest.approx(score, abs=1e-4)


def test_decoding_stops_when_every_caption_has_ended():
    """A step that always writes the end is called once, whatever the length."""
    asked = []

    def step(tokens, index, cache, now, visible):
        asked.append(int(index))
        logits = np.zeros((2, 1, 8), "float32")
        logits[..., text.END] = 9.0
        return ops.convert_to_tensor(logits), cache

    if keras.backend.backend() != "tensorflow":
        pytest.skip("counts eager steps")
    ids, _ = decode.search(step, [], np.zeros((2, 50), "int32"), length=50)
    assert asked == [0]
    assert not np.array(ids).any()


def test_a_beam_that_is_wide_enough_finds_the_best_of_all_captions():
    """Three words and four positions: every caption is enumerated."""
    model = toy("cross_attn_captioner", vocabulary=["a", "b", "c"], max_length=4)
    table = model.get_layer("words").embeddings
    table.assign(np.random.default_rng(3).normal(size=table.shape))
    x = pictures(model, 2)
    a, b, c = (len(text.SPECIALS) + i for i in range(3))
    captions = [caption for n in range(5) for caption in itertools.product((a, b, c), repeat=n)]
    tokens = np.array([([text.START, *caption] + [0] * 4)[:4] for caption in captions], "int32")
    best = []
    for picture in x:
        logp = log_softmax(writable(outputs(model, {"image": np.stack([picture] * len(tokens)), "tokens": tokens})))
        found = []
        for row, caption in enumerate(captions):
            written = [*caption, text.END][:4]
            found.append((sum(logp[row, i, token] for i, token in enumerate(written)) / len(written), caption))
        best.append(max(found, key=lambda pair: pair[0]))
    ids, scores = (np.array(part) for part in model.generate_ids(x, beams=3**4))
    for row, (score, caption) in enumerate(best):
        assert tuple(ids[row][ids[row] > 0]) == caption
        assert scores[row] == pytest.approx(score, abs=1e-4)


def test_a_caption_begins_with_its_prompt_and_depends_on_it(decisive):
    x = pictures(decisive, 2)
    with_prompt = decisive.generate(x, prompt="w3 w9", beams=2)
    assert all(caption.startswith("w3 w9") for caption in with_prompt)
    each = decisive.generate(x, prompt=["w3 w9", "w5"])
    assert each[0].startswith("w3 w9")
    assert each[1].startswith("w5")
    alone = decisive.generate(x[1], prompt="w5")
    assert alone == [each[1]]


def test_generate_uses_weights_that_changed_after_it_was_compiled():
    model = toy("cross_attn_captioner")
    x = pictures(model)
    before = model.generate(x)
    model.optimizer.learning_rate = 1e-2
    learn(model, x, texts(4), steps=30)
    after = model.generate(x)
    assert after != before
    assert after == text.decode(np.array(model.generate_ids(x)[0]), model.vocabulary)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="counts what TensorFlow traces")
def test_generate_runs_eagerly_if_the_model_does(monkeypatch):
    model, calls = toys.decisive("cross_attn_captioner"), []
    x, search = pictures(model), model.search
    monkeypatch.setattr(model, "search", lambda *given, **how: calls.append(1) or search(*given, **how))
    said = [model.generate(x), model.generate(x)]
    assert len(calls) == 1, "traced once"
    toys.eager(model)
    said += [model.generate(x), model.generate(x)]
    assert len(calls) == 3
    assert said == said[:1] * 4


def test_temperatures_share_a_compiled_function_and_few_functions_are_cached():
    model = toy("gated_captioner", max_length=20)
    x = pictures(model, 1)
    for temperature in (0.5, 1.0, 2.0):
        model.generate(x, sampler="top_p", top_p=temperature / 2, temperature=temperature, seed=1)
    helpers = model._helpers.models
    assert len(helpers) == 1
    for key in range(40):
        model.cached(key, lambda: model)
    assert len(helpers) < 20


def test_sampling_repeats_with_a_seed_in_any_batching_and_varies_without():
    model = toy("gated_captioner")
    x = pictures(model, 6)
    drawn = model.generate(x, sampler="top_p", top_p=0.95, temperature=1.5, seed=7)
    assert drawn == model.generate(x, sampler="top_p", top_p=0.95, temperature=1.5, seed=7, batch_size=4)
    assert drawn != model.generate(x, sampler="top_p", top_p=0.95, temperature=1.5, seed=8)
    assert model.generate(x, sampler="random") != model.generate(x, sampler="random")
    assert model.generate(x, sampler="top_k", top_k=1) == model.generate(x)


def test_drawing_follows_the_probabilities():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    logits = np.broadcast_to(np.log(probabilities), (4000, 1, 4)).astype("float32")
    noise = np.random.default_rng(0).random((4000, 1)).astype("float32")

    def shares(**settings):
        settings = {"top_k": None, "top_p": None, "temperature": None, **settings}
        tokens = np.array(decode.make_draw(noise, **settings)(ops.convert_to_tensor(logits), 0))[:, 0, 0]
        return np.bincount(tokens, minlength=4) / 4000

    np.testing.assert_allclose(shares(), probabilities, atol=0.03)
    np.testing.assert_allclose(shares(top_k=2), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(top_p=0.7), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(temperature=0.1), [1, 0, 0, 0], atol=0.03)
