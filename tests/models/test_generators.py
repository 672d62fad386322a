"""Generators: what their two halves learn from, what they draw, and what they refuse."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from toys import batches, eager, fit, toy

from vtx_keras import explain, tuning, zoo
from vtx_keras._compat import input_gradients
from vtx_keras.models import adversarial
from vtx_keras.models._drawing import noise_of
from vtx_keras.models.generator import RATE
from vtx_keras.models.layers import register

NAMES = [name for name in zoo.list_models() if "generator" in name]
LIKE_W = ["w1 w2", "w3", "w1 w2"]


@register
class OneHalf(adversarial.HingeLoss):
    """The loss of one half alone; it says which weights learn from it."""

    def __init__(self, half: str = "discriminator", name: str = "one_half", **kwargs):
        super().__init__(1.0, name=name, **kwargs)
        self.half = half

    def call(self, y_true, y_pred):
        of = adversarial.columns(y_pred)
        generator = -of["generator"] - of["drawn_found"]
        return generator if self.half == "generator" else super().call(y_true, y_pred) - generator

    def get_config(self):
        return {**super().get_config(), "half": self.half}


def set_weights(model):
    """Weights that depend on no backend, of the size that initializers give."""
    random = np.random.default_rng(3)
    for weight in model.weights:
        if weight.dtype == "float32":
            fan_in = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 100
            scale = 1.0 if "norm/gamma" in weight.path else 0.0
            weight.assign(scale + random.normal(size=weight.shape) / np.sqrt(fan_in))
    return model


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_draws_and_is_saved_whole(name, tmp_path):
    keras.utils.set_random_seed(0)
    model = toy(name)
    history = fit(model, batches(model), epochs=2).history
    seen = [f"{what}_seen" for what in ("drawn", "other_text", "real")]
    assert sorted(history) == sorted(["drawn_found", "loss", "real_found", "spread", *seen])
    assert all(np.isfinite(values).all() for values in history.values())
    drawn = model.draw(LIKE_W, seed=7)
    assert drawn.shape == (3, *model.image_shape)
    assert drawn.dtype == "uint8"
    assert len(np.unique(drawn)) > 10
    for place in (tmp_path / "whole.keras", tmp_path / "folder"):
        loaded = zoo.load(zoo.save(model, place))
        assert type(loaded) is type(model)
        assert np.abs(loaded.draw(LIKE_W, seed=7).astype(int) - drawn).max() <= 1  # convolutions add up in any order
        paces = {one.pace for one in loaded.get_layer("discriminator").trainable_variables}
        assert paces == {RATE}, "the discriminator of a loaded model learns at its own rate"


@pytest.mark.parametrize("name", ["cross_attn_generator", "gated_generator"])
@pytest.mark.parametrize("half", ["generator", "discriminator"])
def test_each_half_learns_from_its_own_loss_alone(name, half):
    model = toy(name, penalty=0.0)
    model.compile(keras.optimizers.SGD(0.1), loss=OneHalf(half))
    parts = {part: [one for one in found if one.trainable] for part, found in tuning.parts(model).items()}
    before = {part: [np.array(one) for one in found] for part, found in parts.items()}
    fit(eager(model), batches(model))
    moved = {
        part: [bool((np.array(one) != value).any()) for one, value in zip(found, before[part], strict=True)]
        for part, found in parts.items()
    }
    learning = ("fusion",) if half == "generator" else ("discriminator", "text")
    for part, moves in moved.items():
        if part in learning:
            assert np.mean(moves) > 0.8, part  # the kernel of a map of zeros, a bias of keys have no gradient
        else:
            assert not any(moves), part


def test_the_hinge_loss_is_the_one_of_the_paper():
    rows = np.random.default_rng(0).normal(size=(5, 9)).astype("float32") * 2
    real, other, real_found, steepness, drawn, held, drawn_found = rows[:, :7].T
    hinge = np.maximum(0, 1 - real) + (np.maximum(0, 1 + other) + np.maximum(0, 1 + drawn)) / 2 - held
    hinge += 3 * steepness - 0.5 * (real_found + drawn_found)
    weight = np.array([1, 1, 0, 1, 1], "float32")
    loss = adversarial.HingeLoss(0.5, 3.0)(np.ones((5, 1)), rows, weight)
    assert float(loss) == pytest.approx((hinge * weight).sum() / weight.sum(), rel=1e-5)


def test_the_penalty_is_the_gradient_of_picture_and_sentence():
    """Against finite differences of the discriminator's logit."""
    model = set_weights(toy("cross_attn_generator"))
    judge, random = model.get_layer("discriminator"), np.random.default_rng(0)
    image = random.uniform(-1, 1, (4, 16, 16, 3)).astype("float32")
    words, sentence = (random.normal(size=shape).astype("float32") for shape in ((4, 3, 32), (4, 32)))
    keep, rivals = np.ones((4, 3), bool), np.ones((4, 4), bool)
    rows = 1  # one of four is penalized
    steps = []
    for place, given in ((0, image), (1, sentence)):
        for _ in range(3):
            direction = random.normal(size=given[:rows].shape).astype("float32")
            ends = []
            for sign in (1, -1):
                both = [image[:rows], sentence[:rows]]
                both[place] = both[place] + sign * 1e-3 * direction
                ends.append(float(judge(both[0], words[:rows], both[1], keep[:rows], rivals[:rows, :rows])[0, 0]))
            steps.append((place, direction, (ends[0] - ends[1]) / 2e-3))

    def logit(inputs):
        return ops.sum(judge(inputs[0], words[:rows], inputs[1], keep[:rows], rivals[:rows, :rows]))

    tensors = tuple(ops.convert_to_tensor(one[:rows]) for one in (image, sentence))
    gradients = [np.array(one) for one in input_gradients(logit, tensors)]
    for place, direction, slope in steps:
        assert float((gradients[place] * direction).sum()) == pytest.approx(slope, rel=0.1, abs=5e-3)
    steep = np.array(judge.steepness(*map(ops.convert_to_tensor, (image, words, sentence, keep))))[:, 0]
    assert steep[0] == pytest.approx(4 * sum((one**2).sum() for one in gradients) ** 3, rel=1e-3)
    assert steep[1:].tolist() == [0, 0, 0], "one row counts for four"
    training = np.array(judge(image, words, sentence, keep, rivals, role="real", training=True))[:, 3]
    np.testing.assert_allclose(training, steep, rtol=1e-3)
    assert not np.array(judge(image, words, sentence, keep, rivals, role="real"))[:, 3].any()


def test_the_penalty_reaches_the_loss_of_fit():
    """Of the whole graph, in which the discriminator is called three times."""
    losses = []
    for penalty in (0.0, 50.0):
        model = set_weights(toy("cross_attn_generator", penalty=penalty))
        losses.append(fit(model, batches(model)).history["loss"][0])
    assert losses[1] > losses[0] + 0.1


def test_a_picture_with_the_same_text_is_no_negative():
    logits = ops.convert_to_tensor(np.zeros((3, 4), "float32"))
    rivals = adversarial.Rivals()(ops.convert_to_tensor([[2, 5], [2, 5], [2, 6]]))
    assert np.array(rivals).tolist() == [[True, False, True], [False, True, True], [True, True, True]]
    judged = np.array(adversarial.Readable()(logits, rivals))
    assert judged[:, 1].tolist() == [0.0, adversarial.NEVER, 0.0]
    alone = adversarial.Readable()(logits[:1], rivals[:1, :1])
    assert float(alone[0, 1]) == adversarial.NEVER, "a batch of one has no other text"


def test_a_text_is_found_among_its_rivals_by_cosine():
    model = set_weights(toy("cross_attn_generator"))
    judge, random = model.get_layer("discriminator"), np.random.default_rng(0)
    x, sentence = (
        random.normal(size=(3, 8, 8, judge.last)).astype("float32"),
        random.normal(size=(3, 32)).astype("float32"),
    )
    rivals = np.array([[1, 0, 1], [1, 1, 1], [1, 1, 1]], bool)
    pooled = np.where(x > 0, x, 0.2 * x).mean(axis=(1, 2))
    pictures, asked = (np.array(layer(one)) for layer, one in ((judge.picture, pooled), (judge.text, sentence)))
    pictures, asked = (one / np.linalg.norm(one, axis=-1, keepdims=True) for one in (pictures, asked))
    shares = np.where(rivals, np.exp(10 * pictures @ asked.T), 0)
    wanted = np.log(np.diag(shares) / shares.sum(axis=1))
    found = judge.found(*map(ops.convert_to_tensor, (x, sentence, rivals)))
    np.testing.assert_allclose(np.array(found)[:, 0], wanted, rtol=1e-4, atol=1e-5)


def test_changes_are_of_training_alone_and_shift_rows_and_columns():
    image = np.random.default_rng(0).uniform(-1, 1, (64, 16, 16, 3)).astype("float32")
    changes = adversarial.Changes("shift")
    np.testing.assert_array_equal(np.array(changes(image)), image)
    shifted, seen = np.array(changes(image, training=True)), set()
    for before, after in zip(image, shifted, strict=True):
        padded = np.pad(before, ((2, 2), (2, 2), (0, 0)), mode="edge")
        places = [(i, j) for i in range(5) for j in range(5) if np.allclose(padded[i : i + 16, j : j + 16], after)]
        assert places, "a shifted picture has the pixels of the picture"
        seen |= set(places)
    assert len(seen) > 10
    cut = np.array(adversarial.Changes("shift+cutout")(np.ones((32, 16, 16, 3), "float32"), training=True))
    assert set(np.unique(cut)) == {0.0, 1.0}
    assert 0.02 < (cut == 0).mean() <= 0.25
    clip = np.array(adversarial.Changes("shift+cutout+colour")(np.ones((2, 3, 16, 16, 3), "float32"), training=True))
    assert clip.shape == (2, 3, 16, 16, 3)


def test_seed_and_words_alone_decide_a_picture():
    model = set_weights(toy("cross_attn_generator"))
    drawn = model.draw(LIKE_W, seed=3)
    for again in (model.draw("w3", seed=3), model.draw(LIKE_W, seed=3, batch_size=1)[1:2]):
        assert np.abs(again[0].astype(int) - drawn[1]).max() <= 1
    assert (drawn[0] != drawn[2]).any(), "a text that comes twice gives two pictures"
    assert np.abs(model.draw("w3", seed=4)[0].astype(int) - drawn[1]).max() > 9
    middle = model.draw(["w3"], seed=3, truncation=0)
    np.testing.assert_array_equal(middle, model.draw(["w3"], seed=4, truncation=0))
    small = model.draw("w3", seed=3, size=8)
    expected = drawn[1].reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(small[0] - expected).max() <= 1
    for ends in (("w1 w2", "w3"), ("w3", "w1 w2 w4 w5")):
        between = model.interpolate(*ends, 5, seed=3)
        assert between.shape == (5, 16, 16, 3)
        assert np.abs(between[0].astype(int) - model.draw(ends[0], seed=3)[0]).max() <= 1
        assert np.abs(between[-1].astype(int) - between[0]).max() > 9
    same = model.interpolate("w3", "w3", 2, seed=3)
    assert np.abs(same[0].astype(int) - same[1]).max() <= 1
    several = noise_of([f"w{place}" for place in range(9)], 8, seed=3)
    assert len(np.unique(several, axis=0)) == 9, "texts have noise of their own"


def test_the_picture_is_the_same_on_every_backend():
    """Figures of TensorFlow, met by JAX to two levels."""
    drawn = set_weights(toy("cross_attn_generator")).draw("w1 w2", seed=3)[0].astype(int)
    assert np.abs(drawn[3:6, 3, :].ravel() - PIXELS).max() <= 2, drawn[3:6, 3, :].ravel().tolist()


PIXELS = np.array([21, 255, 157, 27, 255, 165, 42, 254, 172])


def test_attention_says_which_words_a_place_read():
    model = set_weights(toy("cross_attn_generator"))
    explanation = explain.drawing(model, "w1 w2 w3", seed=2)
    assert explanation.words == ["w1", "w2", "w3"]
    assert explanation.maps.shape == (3, 16, 16)
    assert (explanation.maps.sum(axis=0) < 1 + 1e-5).all()
    assert explanation.maps.min() > 0
    np.testing.assert_array_equal(explanation.picture, model.draw("w1 w2 w3", seed=2)[0])
    clip = explain.drawing(set_weights(toy("cross_attn_video_generator")), "w1 w2")
    assert clip.maps.shape == (2, 2, 16, 16)
    with pytest.raises(ValueError, match="does not attend"):
        explain.drawing(toy("gated_generator"), "w1")
    with pytest.raises(TypeError, match="takes a generator"):
        explain.drawing(toy("gated_vqa"), "w1")


def test_what_cannot_be_drawn_is_said():
    model = toy("concat_mlp_generator")
    for words, message in (
        ("w1 zebra", "does not know: zebra"),
        ("", "w"),
        (" ".join(["w1"] * 9), "has 9 pieces, of which the model reads 7"),
    ):
        with pytest.raises(ValueError, match=message):
            model.draw(words)
    for call in (model.prepare, model.look, model.behind_encoder, lambda one: explain.attention(model, one, "w1")):
        with pytest.raises(ValueError, match=r"reads no pictures|no image encoder"):
            call(np.zeros((1, 16, 16, 3)))
    with pytest.raises(TypeError, match="texts is None"):
        model.draw(None)
    for options, message in (
        ({"seed": -1}, "seed=-1: expected a whole number from 0"),
        ({"seed": 2**32}, "from 0 to 4294967295"),
        ({"truncation": 2}, "truncation=2: expected a number from 0 to 1"),
        ({"size": 24}, "size=24: this model draws 16, 8 px"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            model.draw("w1", **options)
    with pytest.raises(ValueError, match="steps=1"):
        model.interpolate("w1", "w2", 1)
    with pytest.raises(ValueError, match=r"image_shape=\(48, 48, 3\).*16, 32, 64"):
        toy("gated_generator", image_shape=(48, 48, 3))
    with pytest.raises(ValueError, match="generator has no option 'image_encoder'; it belongs to"):
        toy("gated_generator", image_encoder="vit")


def test_parts_and_frozen_readers():
    model = toy("cross_attn_generator")
    assert sorted(tuning.parts(model)) == ["discriminator", "fusion", "text"]
    model.freeze("text")
    before = [np.array(weight) for weight in model.get_layer("text_encoder").weights]
    fit(model, batches(model))
    for weight, value in zip(model.get_layer("text_encoder").weights, before, strict=True):
        np.testing.assert_array_equal(np.array(weight), value)


def test_an_epoch_that_goes_wrong_is_named():
    assert adversarial.concerns({}) == []
    good = {"spread": 0.9, "drawn_seen": 0.7, "real_seen": 0.7, "other_text_seen": 0.6}
    assert adversarial.concerns(good) == []
    assert "collapsed" in adversarial.concerns({**good, "spread": 0.01})[0]
    assert "never wrong" in adversarial.concerns({**good, "drawn_seen": 1.0, "real_seen": 1.0})[0]
