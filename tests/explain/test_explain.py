"""Heat maps: the attention weights that a model used, highest over the part of the image that matters."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from keras import ops
from toys import decisive, fit, inputs, pictures, texts, toy

from vtx_keras import data, explain, zoo
from vtx_keras.explain._maps import square_grid
from vtx_keras.explain._methods import words_of
from vtx_keras.inputs import media, text
from vtx_keras.models._base import EAGER_IMAGES
from vtx_keras.models.blocks import Attention

CELL = 16
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (230, 220, 20)}
WITH_ATTENTION = [f"{fusion}_{task}" for fusion in ("cross_attn", "merged_attn") for task in ("captioner", "vqa")]
WITH_ATTENTION += ["co_attn_matcher", "cross_attn_video_captioner"]


@pytest.fixture(autouse=True)
def same_weights():
    """A fixed seed: with some untrained weights a comparison falls within rounding errors."""
    keras.utils.set_random_seed(0)


def text_for(model) -> list[str] | None:
    return None if hasattr(model, "generate") else texts(4)


def world(count: int, sides=(4, 4), seed: int = 0, marked: bool = True, frames: int = 0):
    """Images of coloured squares, the place of the target square, and its colour.

    With `marked` every square has a colour and the target has a black middle, so that its colour can be told only from
    that place. Without, the others are grey.
    """
    random = np.random.default_rng(seed)
    shape = (count, *([frames] if frames else []), *sides)
    names, palette = list(COLOURS), np.array(list(COLOURS.values()), "uint8")
    numbers = random.integers(len(names), size=shape)
    flat = palette[numbers] if marked else random.integers(110, 140, (*shape, 3), "uint8")
    pixels = flat.repeat(CELL, axis=-3).repeat(CELL, axis=-2)
    places, words = [], []
    for row in range(count):
        *frame, y, x = (int(random.integers(side)) for side in shape[1:])
        picture = pixels[row][frame[0]] if frame else pixels[row]
        square = picture[y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL]
        square[:] = palette[numbers[row][(*frame, y, x)]]
        if marked:
            square[4:-4, 4:-4] = 0
        places.append((*frame, y, x))
        words.append(names[numbers[row][(*frame, y, x)]])
    return list(pixels), places, words


@functools.cache
def trained(name: str, marked: bool = True):
    """A model trained to name the colour of the target square, in square and in wide images."""
    keras.utils.set_random_seed(1)  # from seed 0 it never finds the square
    video, task = zoo.MODELS[name].video, zoo.MODELS[name].task
    pixels = keras.Input((64, 64, 3))
    patches = keras.layers.Conv2D(32, CELL, strides=CELL, activation="gelu")
    encoder = keras.Model(pixels, patches(keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)), name="small")
    options = {} if task == "retriever" else {"depth": 1}
    options |= {} if task == "captioner" else {"text_depth": 1}
    options |= {"classes": list(COLOURS)} if task == "vqa" else {}
    shape = (2, 64, 64, 3) if video else (64, 64, 3)
    vocabulary = ["a", "square", "which", "colour", "is", "##n", "##t", "it", "?", *COLOURS]
    model = zoo.build(
        name, weights=None, dim=32, heads=2, image_encoder=encoder, image_shape=shape, vocabulary=vocabulary,
        max_length=6, dropout=0.0, **options,
    )  # fmt: skip
    model.optimizer.learning_rate = 5e-3
    square, wide = (world(384, sides, n, marked, 2 if video else 0) for n, sides in enumerate([(4, 4), (2, 4)]))
    colours = square[2] + wide[2]
    said = ["which colour?"] * len(colours) if task == "vqa" else [f"a {colour} square" for colour in colours]
    batches = data.arrays(model, square[0] + wide[0], said, colours if task == "vqa" else None, batch_size=64)
    fit(model, batches, epochs=12)
    return model


def share_found(found, places, word) -> float:
    """The share of maps whose hottest pixel is in the target square."""
    hits = 0
    for one, (*frame, y, x), colour in zip(found, places, word, strict=True):
        heat = one.heat(colour if colour in one.words else None)
        heat = np.stack(heat) if one.clip else heat[None]
        hottest = np.unravel_index(heat.argmax(), heat.shape)
        hits += (hottest[0], hottest[1] // CELL, hottest[2] // CELL) == (frame[0] if frame else 0, y, x)
    return hits / len(found)


slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["cross_attn_captioner", slow("cross_attn_vqa"), slow("cross_attn_video_vqa")])
def test_attention_is_highest_on_the_named_square_in_padded_images(name):
    model = trained(name)
    clips, places, colours = world(24, (2, 4), 7, frames=2 if "video" in name else 0)
    asked = "which colour?" if "vqa" in name else [f"a {colour} square" for colour in colours]
    found = explain.attention(model, clips, asked)
    assert share_found(found, places, colours) >= 0.75  # by chance: an eighth, of a clip a sixteenth
    assert found[0].words == asked.split() if "vqa" in name else asked[0].split()


@pytest.mark.parametrize(
    ("name", "marked"),
    [("cross_attn_captioner", True), slow("gated_vqa", False), ("retriever", False)],
)
def test_grad_cam_is_highest_on_the_named_square(name, marked):
    model = trained(name, marked)
    clips, places, colours = world(24, (2, 4), 7, marked)
    said = [f"a {colour} square" for colour in colours]
    found = explain.attention(model, clips, "which colour?" if "vqa" in name else said, method="gradcam")
    assert share_found(found, places, colours) >= 0.5  # by chance: an eighth
    if name == "retriever":
        assert found[0].words == [said[0]]


def test_the_map_moves_with_the_square():
    model = trained("cross_attn_captioner")
    grey = np.full((64, 64, 3), COLOURS["green"], "uint8")
    middles = []
    for y, x in ((0, 0), (2, 1), (3, 3)):
        picture = grey.copy()
        picture[y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL] = COLOURS["red"]
        picture[y * CELL + 4 : y * CELL + 12, x * CELL + 4 : x * CELL + 12] = 0
        heat = explain.attention(model, picture, "a red square").maps[1]
        middles.append(np.unravel_index(heat.argmax(), heat.shape))
    assert middles == [(0, 0), (2, 1), (3, 3)]


@pytest.mark.slow
def test_a_class_can_be_explained():
    model = trained("gated_vqa", marked=False)
    picture = world(1, seed=3, marked=False)[0][0].copy()
    picture[:CELL, :CELL], picture[-CELL:, -CELL:] = COLOURS["red"], COLOURS["blue"]
    for colour, place in (("red", (0, 0)), ("blue", (3, 3))):
        seen = explain.attention(model, picture, "which colour?", target=colour)
        assert seen.words == [colour]
        assert np.unravel_index(seen.maps[0].argmax(), (4, 4)) == place
    with pytest.raises(ValueError, match=r"not a class of this model .did you mean red"):
        explain.attention(model, picture, "which colour?", target="redd")


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_maps_are_the_weights_that_the_model_used(name, monkeypatch):
    model = toy(name, depth=2)
    pixels = pictures(model, 2)
    used = []
    original = Attention.weights_over

    def recording(self, *args):
        weights = original(self, *args)
        used.append((self.name, np.array(weights)))
        return weights

    batch = inputs(model)
    tokens = batch["tokens"][:2]
    said = text.decode(tokens, model.vocabulary)
    monkeypatch.setattr(Attention, "weights_over", recording)
    if "co_attn" in name:
        co = type(model.get_layer("fusion_0"))
        weigh = co.weights_of

        def recording_affinity(self, affinity, mask):
            weights = weigh(self, affinity, mask)
            if weights.shape[1] == tokens.shape[1]:
                used.append(("affinity", np.array(weights)[:, None]))
            return weights

        monkeypatch.setattr(co, "weights_of", recording_affinity)
    model({"image": pixels, "tokens": tokens}, training=False)
    monkeypatch.undo()
    vision = model.get_layer("vision").output.shape[1]
    wanted = {"cross_attn": "cross_attention", "merged_attn": "attention", "co_attn": "affinity"}
    kind = wanted[zoo.MODELS[name].fusion]
    blocks = [weights for label, weights in used if label == kind and weights.shape[-1] >= vision]
    if kind == "attention":  # image and text are one sequence here
        merged = vision + tokens.shape[1]
        blocks = [weights[:, :, vision:, :vision] for weights in blocks if weights.shape[-1] == merged]
    assert len(blocks) == 2
    shift = 0 if hasattr(model, "generate") else 1
    for block in (0, 1, None):
        expected = np.mean(blocks, axis=0) if block is None else blocks[block]
        found = explain.attention(model, list(pixels), said, block=block)
        for row, one in enumerate(found):
            expected_rows = expected[row].mean(axis=0)[shift : shift + len(one.words)]
            np.testing.assert_allclose(one.maps.reshape(len(one.words), -1), expected_rows, atol=1e-5)
            if kind != "attention":
                np.testing.assert_allclose(one.maps.reshape(len(one.words), -1).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("fusion", ["cross_attn", "merged_attn", "co_attn"])
def test_a_block_computed_by_hand_from_its_weights_gives_its_output(fusion):
    model = toy(f"{fusion}_vqa")
    block, random = model.get_layer("fusion_0"), np.random.default_rng(0)
    words, vision = (random.normal(size=(2, length, 32)).astype("float32") for length in (5, 4))
    mask = np.arange(5)[None] < np.array([[5], [3]])
    over_image, over_text = (np.array(each) for each in block.attention_weights(words, vision, mask))
    assert (over_text[1, :, :, 3:] < 1e-6).all(), "padding is attended to"
    total = over_image.sum(-1) + over_text.sum(-1) if fusion == "merged_attn" else over_image.sum(-1)
    np.testing.assert_allclose(total, 1, atol=1e-5)

    def mixed(attention, weights, context):
        values = attention.keys_values(context)[1]
        seen = ops.reshape(ops.transpose(ops.matmul(weights, values), (0, 2, 1, 3)), (2, 5, 32))
        return attention.output_projection(seen)

    normed = block.attention_norm(words)
    if fusion == "merged_attn":
        context = ops.concatenate([block.attention_norm(vision), normed], axis=1)
        x = words + mixed(block.attention, np.concatenate([over_image, over_text], axis=-1), context)
    else:
        np.testing.assert_allclose(over_text.sum(-1), 1, atol=1e-5)
        x = words + mixed(block.attention, over_text, normed)
    if fusion == "cross_attn":
        x = x + mixed(block.cross_attention, over_image, vision)
    if fusion == "co_attn":
        new_vision = block(words, vision, mask)[1]
        x = x + block.to_text(ops.matmul(over_image[:, 0], vision)) + ops.mean(new_vision, axis=1, keepdims=True)
    np.testing.assert_allclose(np.array(block.apply_mlp(x)), np.array(block(words, vision, mask)[0]), atol=1e-5)


def test_many_images_are_explained_like_a_few():
    """Many are explained in a traced function, a few eagerly."""
    model = decisive("cross_attn_captioner")
    x = pictures(model, EAGER_IMAGES + 1)
    for one, other in zip(explain.attention(model, x[:2]), explain.attention(model, x), strict=False):
        assert one.words == other.words
        np.testing.assert_allclose(one.maps, other.maps, atol=1e-5)


def test_rollout_follows_words_through_the_blocks():
    model = toy("merged_attn_vqa", depth=2)
    picture, question = pictures(model, 1)[0], texts(1)[0]
    tokens = model.tokens_of(question)
    reach = keras.Model(model.input, {f"fusion_{i}": model.get_layer(f"fusion_{i}").input for i in range(2)})
    given = reach({"image": picture[None], "tokens": tokens})
    held = 0
    for name, each in given.items():
        image, words = (np.array(one).mean(axis=1)[0] for one in model.get_layer(name).attention_weights(*each))
        held = (held + image + words @ (held if np.ndim(held) else np.zeros_like(image))) / 2
    seen = explain.attention(model, picture, question, block="rollout")
    np.testing.assert_allclose(seen.maps.reshape(len(seen.words), -1), held[1 : 1 + len(seen.words)], atol=1e-5)


def test_changed_weights_change_the_maps():
    model = toy("cross_attn_captioner")
    picture = pictures(model, 1)[0]
    before = explain.attention(model, picture, "w1 w2").maps
    query = model.get_layer("fusion_0").cross_attention.query
    query.kernel.assign(query.kernel * 40)
    assert np.abs(explain.attention(model, picture, "w1 w2").maps - before).max() > 1e-3


@pytest.mark.parametrize("name", ["cross_attn_captioner", "gated_vqa"])
def test_explaining_a_model_does_not_change_it(name, tmp_path):
    model, x = toy(name), pictures(toy(name), 2)
    for method in ("gradcam", "attention")[: 1 if "gated" in name else 2]:
        explain.attention(model, x, texts(2), method=method)
    batch = inputs(model)
    whole = zoo.load(zoo.save(model, tmp_path / "whole.keras"))
    np.testing.assert_array_equal(np.array(whole(batch)), np.array(model(batch)))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("concat_mlp_captioner", "mixed_float16"),
        ("merged_attn_video_vqa", "mixed_bfloat16"),
        ("retriever", "mixed_float16"),
        ("gated_matcher", "mixed_bfloat16"),
    ],
)
def test_every_task_is_explained_in_mixed_precision_too(name, dtype):
    model = toy(name, dtype=dtype)
    x = pictures(model)
    for one in explain.attention(model, x, text_for(model)) + explain.attention(
        model, x, text_for(model), method="gradcam"
    ):
        assert one.maps.dtype == np.float32
        assert one.maps.shape == (len(one.words), *((2,) if one.clip else ()), 2, 2)
        assert np.isfinite(one.maps).all()
        assert (one.maps >= 0).all()
        assert one.said
    plain = toy(name)
    plain.set_weights(model.get_weights())
    # Compared over all images: where gradients cancel out in one, only rounding is left.
    both = [
        np.stack([explain.attention(each, one, texts(1)[0], method="gradcam").maps for one in x])
        for each in (model, plain)
    ]
    np.testing.assert_allclose(both[0], both[1], atol=0.15 * both[1].max())


def test_words_are_joined_from_their_pieces():
    pieces = text.vocabulary(["a", "cat", "##s", "!", '"', "stop", "t", "-", "shirt"])
    ids = text.encode(['a "stop" cats! t-shirt giraffe'], pieces, 20, end=True)[0]
    words = words_of(ids, pieces)
    assert [word for word, _ in words] == ["a", '"stop"', "cats!", "t-shirt", "[UNK]"]
    assert [place for _, places in words for place in places] == list(range(len(ids[ids > 0]) - 1))
    assert words_of(np.zeros(5, "int32"), pieces) == []


def test_tokens_before_the_patches_have_no_place():
    @keras.saving.register_keras_serializable("test_explain")
    class ClassToken(keras.layers.Layer):
        def call(self, x):
            x = ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))
            return ops.concatenate([x[:, :1], x], axis=1)

    pixels = keras.Input((32, 64, 3))
    encoder = keras.Model(pixels, ClassToken()(keras.layers.Conv2D(8, 8, strides=8)(pixels)))
    model = toy("cross_attn_captioner", image_encoder=encoder, image_shape=(32, 64, 3))
    seen = explain.attention(model, pictures(model, 1)[0], "w1 w2")
    assert model.get_layer("vision").output.shape[1] == 33
    assert seen.maps.shape == (2, 4, 8)
    assert (seen.maps.sum(axis=(1, 2)) < 1).all()
    assert square_grid(201, 224, 224) == (14, 14)
    with pytest.raises(ValueError, match="99 tokens, which are not square patches"):
        square_grid(99, 64, 64)


def test_one_bad_image_does_not_lose_the_other_maps():
    model, good = toy("cross_attn_vqa"), np.zeros((32, 32, 3), "uint8")
    found = explain.attention(model, [b"<html>", good], ["w1", "w2 w3"], on_error="none")
    assert found[0] is None
    assert found[1].words == ["w2", "w3"]
    with pytest.raises(media.BadItems, match="item 0"):
        explain.attention(model, [b"<html>", good], "w1")
    with pytest.raises(media.BadItems):
        explain.attention(model, "nowhere.png", "w1")


def test_mistakes_are_errors_with_advice():
    model, x = toy("gated_vqa"), np.zeros((32, 32, 3), "uint8")
    for wrong, told in (
        ({"text": None}, "reads a text with the picture"),
        ({"text": ["w1", "w2"]}, "2 texts for 1 pictures"),
        ({"text": "w1", "method": "attention"}, 'no attention over the image: use method="gradcam"'),
        ({"text": "w1", "method": "grad-cam"}, "did you mean gradcam"),
        ({"text": "w1", "block": 1}, "is about attention"),
    ):
        with pytest.raises(ValueError, match=told):
            explain.attention(model, x, **wrong)
    with pytest.raises(TypeError, match=r"takes a model from zoo.build"):
        explain.attention(keras.Sequential(), x)
    with pytest.raises(ValueError, match="reads features"):
        explain.attention(model.behind_encoder(), x, "w1")
    seen = explain.attention(toy("cross_attn_vqa"), x, "w1 w12")
    with pytest.raises(ValueError, match=r"there is no map of 'w13' .did you mean w1"):
        seen.heat("w13")
    with pytest.raises(ValueError, match="there is no word 2"):
        seen.heat(2)
