"""What every name in the table promises, at toy size; and, once per fusion or task, what all its kind promise."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import toys
from keras import ops
from toys import ANSWERS, SHAPE, batches, fit, inputs, learn, outputs, pictures, texts, toy

from vtx_keras import data, zoo
from vtx_keras.inputs import text
from vtx_keras.models import decode
from vtx_keras.models.fusion import FUSIONS

CAPTIONERS = zoo.list_models("*_captioner")
IMAGE_CAPTIONERS = [name for name in CAPTIONERS if "video" not in name]
VQAS = [name for name in zoo.list_models("*_vqa") if "video" not in name]


def test_the_zoo_has_at_least_25_names():
    assert len(zoo.list_models()) >= 25


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_name_has_its_shape_learns_a_batch_and_saves_whole(name, tmp_path):
    keras.utils.set_random_seed(0)
    model = toy(name)
    batch = batches(model)
    x, count = batch[0][0], 4 * (2 if batch.negatives else 1)
    expected = {
        "captioner": (count, 8, 64),
        "vqa": (count, len(ANSWERS)),
        "classifier": (count, len(ANSWERS)),
        "matcher": (count, 1),
        "retriever": (count, 2, 32),
    }[zoo.MODELS[name].task]
    before = outputs(model, x)
    assert before.shape == expected
    assert np.isfinite(before).all()

    def loss() -> float:
        inputs, labels, weight = batch[0]
        return float(model.compute_loss(inputs, labels, model(inputs, training=False), weight))

    start = loss()
    model.optimizer.learning_rate = 5e-4  # at larger rates a step of Adam, about as long as the rate, can go uphill
    fit(model, batch, epochs=4)
    assert loss() < 0.98 * start
    trained = outputs(model, x)

    loaded = zoo.load(zoo.save(model, tmp_path / "whole.keras"))
    assert type(loaded) is type(model)
    assert loaded.vocabulary == model.vocabulary
    np.testing.assert_array_equal(outputs(loaded, x), trained)

    rebuilt = zoo.build(name, weights=zoo.save(model, tmp_path / "folder"))
    assert rebuilt.options == model.options
    np.testing.assert_array_equal(outputs(rebuilt, x), trained)
    if name in CAPTIONERS:
        assert toys.eager(loaded).generate(x["image"]) == model.generate(x["image"])
    assert len(model.evaluate(batch, verbose=0, return_dict=True)) >= 1


@pytest.mark.parametrize("name", IMAGE_CAPTIONERS)
def test_later_tokens_change_no_earlier_logit(name):
    model = toy(name, depth=2)
    x = inputs(model)
    before = outputs(model, x)
    changed = x["tokens"].copy()
    changed[:, 5:] = 63
    after = outputs(model, {**x, "tokens": changed})
    np.testing.assert_allclose(after[:, :5], before[:, :5], atol=1e-6)
    assert np.abs(after[:, 5:] - before[:, 5:]).max() > 1e-3


@pytest.mark.parametrize("name", [*VQAS, "retriever", "gated_matcher", "cross_attn_captioner"])
def test_padding_the_text_further_changes_nothing(name):
    model = toy(name, max_length=12)
    x = inputs(model)
    tokens = x["tokens"][:, :8]
    longer = np.pad(tokens, ((0, 0), (0, 4)))
    short = outputs(model, {**x, "tokens": tokens})
    long = outputs(model, {**x, "tokens": longer})
    if name == "cross_attn_captioner":  # a row per position: those of the padding are its own
        words = tokens > 0
        short, long = short[words], long[:, :8][words]
    np.testing.assert_allclose(long, short, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_fusion_ignores_padding_of_both_modalities(fusion, causal):
    if fusion == "co_attn" and causal:
        pytest.skip("co_attn is never causal")
    block = FUSIONS[fusion](32, 2, causal=causal)
    random = np.random.default_rng(0)
    words, patches = random.normal(size=(2, 5, 32)), random.normal(size=(2, 9, 32))
    text_mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], bool)
    vision_mask = np.arange(9) < np.array([[9], [4]])
    seen = np.array(block(words, patches, text_mask, vision_mask)[0])
    other_words = np.where(text_mask[..., None], words, 7.0)
    other_patches = np.where(vision_mask[..., None], patches, -7.0)
    unseen = np.array(block(other_words, other_patches, text_mask, vision_mask)[0])
    np.testing.assert_allclose(seen[text_mask], unseen[text_mask], atol=1e-5)
    unmasked = np.array(block(other_words, other_patches)[0])
    assert np.abs(unmasked[text_mask] - seen[text_mask]).max() > 1e-3


@pytest.mark.parametrize("name", IMAGE_CAPTIONERS)
def test_steps_over_the_cache_give_the_logits_of_the_whole(name):
    model = toy(name, depth=2)
    x = inputs(model)
    whole = outputs(model, x)
    step, cache = model.decoder(ops.convert_to_tensor(x["image"]), 8, 1)
    for i in range(8):
        now, visible = ops.arange(8) == i, ops.tile(ops.reshape(ops.arange(8) <= i, (1, 1, 8)), (4, 1, 1))
        logits, cache = step(ops.convert_to_tensor(x["tokens"][:, i : i + 1]), i, cache, now, visible)
        np.testing.assert_allclose(np.array(logits)[:, 0], whole[:, i], atol=1e-5)


def writable(logits: np.ndarray) -> np.ndarray:
    logits = logits.copy()
    logits[..., list(decode.UNWRITABLE)] = decode.NEVER
    return logits


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture(params=IMAGE_CAPTIONERS)
def decisive(request):
    """A captioner whose choices are far enough apart that rounding cannot swap them, and which ends some captions."""
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


def test_a_batch_is_its_rows(decisive):
    x = pictures(decisive)
    greedy, scores = (np.array(part) for part in decisive.generate_ids(x))
    beams = np.array(decisive.generate_ids(x, beams=3)[0])
    for row in range(len(x)):
        alone, alone_score = decisive.generate_ids(x[row : row + 1])
        np.testing.assert_array_equal(np.array(alone)[0], greedy[row])
        assert float(alone_score[0]) == pytest.approx(scores[row], abs=1e-4)
        np.testing.assert_array_equal(np.array(decisive.generate_ids(x[row : row + 1], beams=3)[0])[0], beams[row])


def beam_search(model, picture: np.ndarray, beams: int, length: int) -> tuple[list[int], float]:
    """The textbook: extend all, keep the best, put ended ones aside; no cache."""
    live, ended = [((text.START,), 0.0)], []
    while live and len(live[0][0]) <= length:
        padded = np.array([[*tokens, *[0] * (length - len(tokens))] for tokens, _ in live], "int32")
        said = outputs(model, {"image": np.stack([picture] * len(live)), "tokens": padded})
        logits = log_softmax(writable(said[:, len(live[0][0]) - 1]))
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
    """A step that always ends is asked once, however long a caption might be."""
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


def test_a_beam_wide_enough_finds_the_best_of_all_captions():
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


def test_a_prompt_begins_the_caption_and_steers_it(decisive):
    x = pictures(decisive, 2)
    with_prompt = decisive.generate(x, prompt="w3 w9", beams=2)
    assert all(caption.startswith("w3 w9") for caption in with_prompt)
    each = decisive.generate(x, prompt=["w3 w9", "w5"])
    assert each[0].startswith("w3 w9")
    assert each[1].startswith("w5")
    alone = decisive.generate(x[1], prompt="w5")
    assert alone == [each[1]]


def test_generate_sees_weights_that_changed_since_it_was_compiled():
    model = toy("cross_attn_captioner")
    x = pictures(model)
    before = model.generate(x)
    model.optimizer.learning_rate = 1e-2
    learn(model, x, texts(4), steps=30)
    after = model.generate(x)
    assert after != before
    assert after == text.decode(np.array(model.generate_ids(x)[0]), model.vocabulary)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="counts what TensorFlow traces")
def test_captions_are_written_as_eagerly_as_the_model_runs(monkeypatch):
    model, calls = toys.decisive("cross_attn_captioner"), []
    x, written = pictures(model), model.written
    monkeypatch.setattr(model, "written", lambda *given, **how: calls.append(1) or written(*given, **how))
    said = [model.generate(x), model.generate(x)]
    assert len(calls) == 1, "traced once"
    toys.eager(model)
    said += [model.generate(x), model.generate(x)]
    assert len(calls) == 3
    assert said == said[:1] * 4


@pytest.mark.parametrize("name", ["cross_attn_captioner", "retriever"])
def test_what_low_rank_additions_learn_is_heard_at_once(name):
    model = toys.decisive(name) if name in CAPTIONERS else toy(name)

    def said(model):
        x = pictures(model)
        return model.generate(x) if name in CAPTIONERS else model.similarity(x, texts(4)).round(3).tolist()

    before = said(model)
    model.enable_lora(4)
    draws = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if "lora" in variable.path:
            variable.assign(draws.normal(size=variable.shape))
    assert said(model) != before
    assert said(model) == said(model.merged())


def test_temperatures_share_a_compiled_function_and_few_functions_are_kept():
    model = toy("gated_captioner", max_length=20)
    x = pictures(model, 1)
    for temperature in (0.5, 1.0, 2.0):
        model.generate(x, sampler="top_p", top_p=temperature / 2, temperature=temperature, seed=1)
    helpers = model._kept.models
    assert len(helpers) == 1
    for key in range(40):
        model.kept(key, lambda: model)
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
        tokens = np.array(decode.drawing(noise, **settings)(ops.convert_to_tensor(logits), 0))[:, 0, 0]
        return np.bincount(tokens, minlength=4) / 4000

    np.testing.assert_allclose(shares(), probabilities, atol=0.03)
    np.testing.assert_allclose(shares(top_k=2), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(top_p=0.7), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(temperature=0.1), [1, 0, 0, 0], atol=0.03)


@pytest.mark.parametrize("name", ["cross_attn_captioner", "merged_attn_vqa", "gated_matcher", "retriever"])
def test_a_row_does_not_depend_on_its_batch(name):
    model = toy(name)
    x = inputs(model, 4)
    together = outputs(model, x)
    for row in range(4):
        alone = outputs(model, {key: value[row : row + 1] for key, value in x.items()})
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("merged_attn_captioner", "mixed_bfloat16"),
        ("co_attn_vqa", "mixed_float16"),
        *(
            pytest.param(name, policy, marks=pytest.mark.slow)
            for name, policy in (
                ("cross_attn_captioner", "mixed_float16"),
                ("gated_matcher", "mixed_bfloat16"),
                ("retriever", "mixed_float16"),
            )
        ),
    ],
)
def test_mixed_precision_trains_saves_and_gives_float32(name, policy, tmp_path):
    model = toy(name, dtype=policy)
    assert model.get_layer("vision").compute_dtype == policy.removeprefix("mixed_")
    assert keras.config.dtype_policy().name == "float32"
    assert keras.backend.standardize_dtype(model.output.dtype) == "float32"
    model.optimizer.learning_rate = 3e-3
    losses = fit(model, batches(model), epochs=6).history["loss"]
    assert losses[-1] < losses[0]
    x = inputs(model)
    for again in (zoo.load(zoo.save(model, tmp_path / "mixed.keras")), keras.models.clone_model(model)):
        again.set_weights(model.get_weights())
        np.testing.assert_array_equal(outputs(again, x), outputs(model, x))
    if name in CAPTIONERS:
        assert len(again.generate(x["image"], beams=2)) == 4


def test_a_float32_model_stays_one_under_another_global_policy(tmp_path):
    model = toy("cross_attn_captioner")
    x = pictures(model, 2)
    zoo.save(model, tmp_path / "full.keras")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        loaded = zoo.load(tmp_path / "full.keras")
        drawn = loaded.generate(x, sampler="random", seed=1)
    finally:
        keras.config.set_dtype_policy("float32")
    assert drawn == model.generate(x, sampler="random", seed=1)


@pytest.mark.parametrize("temporal", ["positions", "gru"])
def test_a_video_model_minds_the_order_of_its_frames(temporal):
    model = toy("cross_attn_video_captioner", temporal=temporal, image_shape=(3, *SHAPE))
    x = inputs(model)
    model.get_layer("vision")  # random positions are small: make time count
    for weight in model.get_layer("vision").weights:
        if "time" in weight.path or "memory" in weight.path:
            weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    forward = outputs(model, x)
    backward = outputs(model, {**x, "image": x["image"][:, ::-1]})
    assert np.abs(forward - backward).max() > 1e-4


def test_a_clip_of_one_frame_works_like_a_picture():
    model = toy("gated_video_captioner", image_shape=(1, *SHAPE))
    assert len(model.generate(pictures(model, 2))) == 2
    assert toy("gated_captioner").get_layer("vision").output.shape == model.get_layer("vision").output.shape


@pytest.mark.parametrize("encoder", ["gru", pytest.param("lstm", marks=pytest.mark.slow)])
def test_a_recurrent_text_encoder_trains_and_ignores_padding(encoder):
    model = toy("cross_attn_vqa", text_encoder=encoder, max_length=12)
    x = inputs(model)
    shorter = {**x, "tokens": x["tokens"][:, :8]}
    np.testing.assert_allclose(outputs(model, shorter), outputs(model, x), atol=1e-5)
    model.optimizer.learning_rate = 3e-3
    losses = fit(model, batches(model), epochs=6).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("loss", ["softmax", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_a_retriever_learns_which_text_belongs_to_which_picture(loss):
    model = toy("retriever", loss=loss)
    model.optimizer.learning_rate = 1e-2
    x = pictures(model, 4)
    learn(model, x, texts(4), steps=40)
    matrix = model.similarity(x, texts(4))
    assert (matrix.argmax(axis=1) == np.arange(4)).all()
    assert np.abs(matrix).max() <= 1 + 1e-5
    assert model.predict({"image": x[:3], "tokens": inputs(model)["tokens"][:3]}, verbose=0).shape == (3, 2, 32)


def test_captioning_with_a_contrastive_loss_trains_both_and_decodes():
    model = toy("cross_attn_captioner", contrastive=0.5)
    batch = batches(model)
    alone = model.evaluate(batch, verbose=0, return_dict=True)["loss"]
    x, y, weight = batch[0]
    words = float(model.loss(ops.convert_to_tensor(y), model(x), ops.convert_to_tensor(weight)))
    assert alone > words + 0.01, "the contrastive loss is not added"
    model.optimizer.learning_rate = 3e-3
    losses = fit(model, batch, epochs=6).history["loss"]
    assert losses[-1] < losses[0]
    assert len(model.generate(x["image"], beams=2)) == 4


@pytest.mark.parametrize("name", ["merged_attn_vqa", pytest.param("cross_attn_matcher", marks=pytest.mark.slow)])
def test_masked_words_are_learned_beside_the_task(name, tmp_path):
    model = toy(name, mlm=True)
    model.optimizer.learning_rate = 3e-3
    x, y, weight = batches(model, seed=1)[0]
    assert (x["tokens"][y["words"] > 0] == text.MASK).all()
    losses = toys.eager(model).fit(x, y, sample_weight=weight, epochs=8, verbose=0).history["words_loss"]
    assert losses[-1] < losses[0]
    loaded = zoo.load(zoo.save(model, tmp_path / "mlm.keras"))
    np.testing.assert_array_equal(np.array(loaded(x)["words"]), np.array(model(x)["words"]))
    ask = getattr(model, "answer", None) or model.match
    assert len(ask(pictures(model, 2), texts(2))) == 2


def test_a_multi_label_classifier_answers_with_lists():
    model = toy("gated_classifier", multi_label=True, max_length=3)  # as many words as classes
    model.optimizer.learning_rate = 1e-2
    x = pictures(model, 3)
    labels = [["no", "yes"], [], ["maybe"]]
    learn(model, x, texts(3), labels, steps=60)
    assert [sorted(found) for found in model.answer(x, texts(3))] == [sorted(wanted) for wanted in labels]


def test_several_labels_may_be_columns_of_zeros_and_ones():
    model = toy("gated_classifier", multi_label=True)
    columns = np.eye(3, dtype="int64")[[2, 0]]
    for given in (columns, columns.astype("bool"), [[2], [0]], [["maybe"], ["no"]]):
        np.testing.assert_array_equal(data.targets(model, given, 2), columns)
    for wrong in (columns[:, :2], columns + 1, [[0, 0, 1]], [[False, False, True]]):
        with pytest.raises(ValueError, match="expected"):
            data.targets(model, wrong, len(wrong))


def test_padding_counts_neither_in_loss_nor_in_accuracy():
    model = toy("cross_attn_captioner")
    x, y, weight = batches(model)[0]
    with_weight = model.test_on_batch(x, y, weight, return_dict=True)
    without = model.test_on_batch(x, y, return_dict=True)
    logp = log_softmax(outputs(model, x))
    words = y > 0
    rows, columns = np.nonzero(words)
    by_hand = -logp[rows, columns, y[words]].mean()
    assert with_weight["loss"] == pytest.approx(by_hand, abs=1e-4)
    assert without["loss"] == pytest.approx(by_hand, abs=1e-4)
    assert without["accuracy"] == pytest.approx((logp.argmax(-1) == y)[words].mean(), abs=1e-6)


def test_freezing_an_encoder_keeps_its_weights_and_trains_the_rest():
    model = toy("cross_attn_vqa")
    model.freeze("image")
    eye = [np.array(weight) for weight in model.get_layer("image_encoder").weights]
    head = np.array(model.get_layer("head").kernel)
    fit(model, batches(model), epochs=2)
    for before, after in zip(eye, model.get_layer("image_encoder").weights, strict=True):
        np.testing.assert_array_equal(before, np.array(after))
    assert np.abs(head - np.array(model.get_layer("head").kernel)).max() > 0
    model.freeze("image", frozen=False)
    assert model.get_layer("image_encoder").trainable


def test_a_frozen_encoder_stays_frozen_in_files_and_copies(tmp_path):
    model = toy("gated_vqa", vision_depth=2)
    for but_last in (0, 1):  # a block
        model.freeze("image", but_last=but_last)
        learned = [variable.path for variable in model.trainable_variables]
        assert len(model.get_layer("image_encoder").trainable_variables) == (0, 14)[but_last]
        file = zoo.load(zoo.save(model, tmp_path / "frozen.keras"))
        for again in (file, keras.models.clone_model(model), model.merged()):
            assert [variable.path for variable in again.trainable_variables] == learned


def test_thawing_leaves_the_matrices_to_their_low_rank_additions():
    model = toy("cross_attn_vqa")
    model.enable_lora(2)
    before = len(model.trainable_variables)
    model.freeze("text")
    model.freeze("text", frozen=False)
    assert len(model.trainable_variables) == before


def test_gradients_of_float16_are_scaled_whoever_compiles(tmp_path):
    model = toy("gated_captioner", dtype="mixed_float16")
    scaled = keras.optimizers.LossScaleOptimizer
    assert isinstance(model.optimizer, scaled)
    assert isinstance(zoo.load(zoo.save(model, tmp_path / "small.keras")).optimizer, scaled)
    model.compile("sgd", model.loss)
    assert isinstance(model.optimizer, scaled)
    model.compile("sgd", model.loss, auto_scale_loss=False)
    assert not isinstance(model.optimizer, scaled)
    assert not isinstance(toy("gated_captioner", dtype="mixed_bfloat16").optimizer, scaled)


@pytest.mark.parametrize("name", ["gated_vqa", pytest.param("retriever", marks=pytest.mark.slow)])
def test_bfloat16_alone_trains(name):
    model = toy(name, dtype="bfloat16")
    assert np.isfinite(fit(model, batches(model)).history["loss"]).all()


def test_what_has_no_encoder_or_would_lose_precision_is_refused(tmp_path):
    model = toy("gated_captioner")
    behind = model.behind_encoder()
    for save in (lambda: zoo.save(behind, tmp_path / "a"), lambda: behind.save(tmp_path / "a.keras")):
        with pytest.raises(ValueError, match="save the model that it was cut from"):
            save()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"export\.litert"):
        model.quantize("int8")


@pytest.mark.parametrize("name", zoo.list_models())
def test_tiny_fits_a_phone(name):
    assert zoo.build(name, weights=None, size="tiny").count_params() <= 10_000_000


def test_base_is_the_shape_in_which_peers_are_measured():
    base = zoo.build("cross_attn_captioner", weights=None, size="base")
    assert base.get_layer("vision").output.shape == (None, 196, 384)
    assert len(base.vocabulary) > 7000


def test_texts_become_the_vocabulary_of_a_model():
    model = toy("cross_attn_captioner", vocabulary=["A red cat.", "Two red dogs."])
    assert "red" in model.vocabulary
    assert len(model.generate(pictures(model, 1))) == 1
