"""The contract of every model name, at toy size; and, once per fusion or task, the contract of its kind."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import toys
from keras import ops
from toys import ANSWERS, SHAPE, batches, fit, inputs, learn, log_softmax, outputs, pictures, texts, toy

from vtx_keras import zoo
from vtx_keras.inputs import text
from vtx_keras.models.fusion import FUSIONS

CAPTIONERS = zoo.list_models("*_captioner")
IMAGE_CAPTIONERS = [name for name in CAPTIONERS if "video" not in name]
VQAS = [name for name in zoo.list_models("*_vqa") if "video" not in name]


@pytest.mark.parametrize("name", [name for name in zoo.list_models() if "generator" not in name])
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
def test_the_order_of_frames_matters(temporal):
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
        with pytest.raises(ValueError, match="save the model that behind_encoder"):
            save()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"export\.litert"):
        model.quantize("int8")
