"""Pruned, split and taught models: smaller, near the whole one, ordinary models in every other way."""

import csv
import json

import keras
import numpy as np
import pytest
import toys
from PIL import Image

from vtx_keras import compress, data, zoo
from vtx_keras.compress._distil import Distilled, taught_to_see
from vtx_keras.compress._prune import rebuilt
from vtx_keras.compress._units import grams as grams_of

needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="examples are read by tf.data")

SHAPE = (32, 32, 3)
TEXTS = ["a cat on a mat", "a dog", "two birds", "a tree", "a red car", "a cat", "three dogs run", "a bird"]
SMALL = {"weights": None, "dim": 128, "vision_depth": 2, "image_shape": SHAPE, "dropout": 0.0}


def made(name: str, seed: int = 0, **options):
    keras.utils.set_random_seed(seed)
    video = "video" in name
    depth = {} if name == "retriever" else {"depth": 2}
    reads = {} if "captioner" in name else {"text_depth": 2}
    shape = {"image_shape": (2, *SHAPE)} if video else {}
    return zoo.build(name, **{**SMALL, **depth, **reads, **shape, **options})


def batches(model, count=8, **how):
    pixels = np.random.default_rng(0).uniform(0, 255, (count, *model.image_shape)).astype("float32")
    labels = {"labels": [0, 1] * (count // 2)} if model.name in ("vqa", "classifier") else {}
    return data.arrays(model, pixels, TEXTS[:count], **labels, **how)


def said(model, given):
    return keras.ops.convert_to_numpy(model(next(iter(given))[0], training=False))


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("cross_attn_captioner", "neurons"),
        ("cross_attn_captioner", "blocks"),
        ("co_attn_vqa", "heads"),
        ("merged_attn_matcher", ("neurons", "heads")),
        ("gated_video_captioner", "neurons"),
        ("retriever", "blocks"),
    ],
)
def test_pruned_models_have_smaller_shapes_and_are_saved_and_trained(name, by, tmp_path):
    model = made(name)
    given = batches(model)
    before = [np.array(one) for one in model.weights]
    smaller = compress.prune(model, 0.5, by=by, data=given)
    assert smaller.count_params() < 0.97 * model.count_params()
    assert all((np.array(one) == old).all() for one, old in zip(model.weights, before, strict=True))
    zoo.save(smaller, tmp_path / "folder")
    loaded = zoo.load(tmp_path / "folder")
    assert loaded.options == smaller.options
    np.testing.assert_allclose(said(loaded, given), said(smaller, given), atol=1e-6)
    if name == "cross_attn_captioner":
        smaller.fit(given, verbose=0)


def silenced(model, place: str, units: list[int]) -> None:
    """Make some neurons of a block's MLP, and one head, say nothing."""
    block = model.get_layer(place)
    down = np.array(block.mlp.down.kernel)
    down[units] = 0
    block.mlp.down.kernel.assign(down)
    output = np.array(block.attention.output_projection.kernel)
    output[: block.attention.width] = 0
    block.attention.output_projection.kernel.assign(output)


def test_units_that_say_nothing_go_first_and_nothing_changes():
    model = made("cross_attn_captioner")
    for place in ("fusion_0", "fusion_1"):
        silenced(model, place, list(range(0, 512, 2)))
    given = batches(model)
    of_fusion = 2 * 256 / (4 * 512)  # of the neurons of four blocks
    smaller = compress.prune(model, of_fusion - 0.001, by="neurons", data=given)
    assert all(256 <= smaller.options["shapes"][place]["hidden"] <= 266 for place in ("fusion_0", "fusion_1"))
    np.testing.assert_allclose(said(smaller, given), said(model, given), atol=2e-3)
    smaller = compress.prune(model, 2 / 12 - 0.001, by="heads", data=given)  # two of twelve heads, in six attentions
    assert smaller.options["shapes"]["fusion_0"]["heads"] == smaller.options["shapes"]["fusion_1"]["heads"] == 1
    np.testing.assert_allclose(said(smaller, given), said(model, given), atol=2e-3)


def test_readers_adapt_so_that_pruning_by_data_beats_plain_cutting():
    """The least worthy neurons are chosen and their readers solved: nearer than the same number cut off the end."""
    model = made("gated_vqa")
    given = batches(model)
    smaller = compress.prune(model, 0.5, by="neurons", data=given)
    cut = rebuilt(model, {**model.options, "shapes": smaller.options["shapes"]})
    for source, target in zip(model.weights, cut.weights, strict=True):
        target.assign(np.array(source)[tuple(slice(0, size) for size in target.shape)])
    near, far = (np.abs(said(one, given) - said(model, given)).mean() for one in (smaller, cut))
    assert near < 0.2 * far


def test_channels_of_a_published_encoder_go():
    options = {"image_encoder": "mobilenet_v2", "image_shape": (64, 64, 3), "dim": 64, "depth": 1}
    keras.utils.set_random_seed(0)
    model = zoo.build("gated_captioner", weights=None, **options)
    given = batches(model)
    for layer in model.get_layer("image_encoder").layers[-1].layers:  # as after training
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(np.random.default_rng(1).uniform(0.5, 1.5, layer.gamma.shape))
    smaller = compress.prune(model, 0.3, by="channels", data=given)
    assert smaller.count_params() < 0.83 * model.count_params()
    assert all(name.startswith("image_encoder/block_") for name in smaller.options["shapes"])
    apart = np.abs(said(smaller, given) - said(model, given)).mean() / np.abs(said(model, given)).mean()
    assert apart < 0.3
    with pytest.raises(ValueError, match="has no channels"):
        compress.prune(made("gated_captioner"), 0.3, by="channels", data=given)


def test_split_matrices_are_near_and_smaller(tmp_path):
    model = made("cross_attn_captioner")
    given = batches(model)
    smaller = compress.factor(model, energy=0.9999, data=given)
    assert smaller.count_params() < model.count_params()
    assert np.abs(said(smaller, given) - said(model, given)).mean() < 0.02
    narrow = compress.factor(model, rank=8, data=given)
    assert narrow.count_params() < smaller.count_params()
    zoo.save(narrow, tmp_path / "narrow")
    np.testing.assert_allclose(said(zoo.load(tmp_path / "narrow"), given), said(narrow, given), atol=1e-6)
    narrow.enable_lora(2)
    again = compress.prune(compress.prune(model, 0.3, by="heads", data=given), 0.3, by="neurons", data=given)
    assert compress.factor(again, rank=8, data=given).count_params() < narrow.count_params()


def test_the_concept_head_is_split_alone(tmp_path):
    options = {"image_encoder": "mobilenet_v2", "image_shape": (64, 64, 3), "dim": 64, "depth": 1, "concepts": 3}
    model = zoo.build("cross_attn_captioner", weights=None, **options)
    given = batches(model)
    smaller = compress.factor(model, rank=16, of="concepts", data=given)
    assert smaller.options["shapes"] == {"concepts": {"ranks": {"kernel": 16}}}
    assert model.count_params() - smaller.count_params() == 1280 * 1000 - 16 * 2280
    zoo.save(smaller, tmp_path / "mine")
    assert zoo.load(tmp_path / "mine").count_params() == smaller.count_params()


@pytest.mark.parametrize("name", ["cross_attn_captioner", "merged_attn_matcher", "retriever"])
def test_a_student_comes_near_its_teacher_who_stays_as_it_is(name):
    teacher, student = made(name, 1, dim=64), made(name, 2, dim=64)
    given = batches(student)
    before = [np.array(one) for one in teacher.weights]
    apart = np.abs(said(teacher, given) - said(student, given)).mean()
    features = ("image",) if name == "retriever" else ("image", "tokens")
    compress.distil(teacher, student, given, epochs=30, weight=1.0, features=features, learning_rate=3e-3, verbose=0)
    assert np.abs(said(teacher, given) - said(student, given)).mean() < 0.6 * apart
    assert all((np.array(one) == old).all() for one, old in zip(teacher.weights, before, strict=True))


def test_the_divergence_is_none_between_equals_and_padding_counts_not():
    loss = Distilled("words", 1.0, 2.0)
    logits = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")
    labels = np.array([[1, 2, 0], [3, 0, 0]])
    assert abs(float(loss(labels, np.concatenate([logits, logits], axis=-1)))) < 1e-6
    other = logits.copy()
    other[labels == 0] += 9 * np.arange(5)
    assert abs(float(loss(labels, np.concatenate([logits, other], axis=-1)))) < 1e-6
    other[0, 0] += 9 * np.arange(5)
    assert float(loss(labels, np.concatenate([logits, other], axis=-1))) > 0.1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, b: compress.prune(m, 1.5, data=b), ValueError, "a share between 0 and 1"),
        (lambda m, b: compress.prune(m, 0.5, by="layers", data=b), ValueError, "expected one of neurons"),
        (lambda m, b: compress.prune(m, 0.5, by=("blocks", "heads"), data=b), ValueError, "several but blocks"),
        (lambda m, b: compress.prune(m, 0.5, data=[]), ValueError, "data has no batch"),
        (lambda m, b: compress.prune(m, 0.5, data=[np.zeros(3)]), TypeError, "batches as `fit` takes them"),
        (lambda m, b: compress.prune("m", 0.5, data=b), TypeError, "a model of the zoo"),
        (lambda m, b: compress.prune(m, 0.01, by="blocks", data=b), ValueError, "leaves out no block"),
        (lambda m, b: compress.factor(m, data=b), ValueError, "expected one of the two"),
        (lambda m, b: compress.factor(m, rank=0, data=b), ValueError, "at least 1"),
        (lambda m, b: compress.factor(m, energy=2.0, data=b), ValueError, "between 0 and 1"),
        (lambda m, b: compress.factor(m, rank=2, of="text_encoder", data=b), ValueError, "no such block"),
        (lambda m, b: compress.distil(m, made("gated_vqa"), b), ValueError, "differ in task"),
        (lambda m, b: compress.distil(made("cross_attn_captioner", max_length=8), m, b), ValueError, "reads 8 tokens"),
        (
            lambda m, b: compress.distil(made("cross_attn_captioner", resize="crop"), m, b),
            ValueError,
            "differ in resize",
        ),
        (lambda m, b: compress.distil(m, m, b, features=["eyes"]), ValueError, "expected some of image, tokens"),
        (lambda m, b: compress.distil(m, m, b, weight=2), ValueError, "expected a share"),
        (lambda m, b: compress.together(b, b), TypeError, "batches of data.batches"),
        (lambda m, b: compress.search(m, b, b, target=0.5), ValueError, "a number above 1"),
    ],
)
def test_what_cannot_be_is_said(call, error, message):
    model = made("cross_attn_captioner")
    with pytest.raises(error, match=message):
        call(model, batches(model))


def photographs(*order: int):
    """Eight examples of tf.data, in this order."""
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (8, *SHAPE)).astype("uint8")
    order = order or range(8)
    return tf.data.Dataset.from_tensor_slices({"image": pixels[list(order)], "caption": [TEXTS[i] for i in order]})


@needs_tensorflow
def test_batches_of_other_examples_do_not_go_together():
    model = made("gated_captioner")
    one, other = (data.batches(photographs(*order), model, batch_size=4) for order in ((), range(7, -1, -1)))
    inputs = next(iter(compress.together(one, one)))[0]
    assert np.array_equal(inputs["image"], inputs["teacher_image"])
    with pytest.raises(Exception, match="other examples, or another order"):
        next(iter(compress.together(one, other)))


@needs_tensorflow
def test_a_pruned_encoder_learns_to_see_as_before(tmp_path):
    teacher = made("gated_captioner")
    teacher.freeze("image")
    student = compress.prune(teacher, 0.5, by="neurons", data=batches(teacher))
    seen = data.batches(data.features(photographs(), teacher, tmp_path), teacher.behind_encoder(), batch_size=4)
    pairs = compress.together(data.batches(photographs(), student, batch_size=4), seen)

    def apart() -> float:
        inputs = [batch[0] for batch in pairs]
        found = [student.get_layer("image_encoder")(one["image"]) - np.array(one["teacher_image"]) for one in inputs]
        return float(np.mean(np.square(found)))

    before, words = apart(), [np.array(one) for one in student.get_layer("words").weights]
    taught_to_see(student, pairs, epochs=20, learning_rate=1e-3)
    assert apart() < 0.7 * before
    assert all((np.array(one) == old).all() for one, old in zip(student.get_layer("words").weights, words, strict=True))


@pytest.mark.parametrize(
    "shapes",
    [
        {"fusion_9": {"hidden": 9}},
        {"fusion_0": {"ranks": {"mlp/upp": 3}}},
        {"fusion_0": {"channels": 9}},
        {"fusion_0": {"hidden": 0}},
        {"fusion_0": {"hidden": 10**9}},
        {"fusion_0": {"legs": 2}},
        {"fusion_0": 3},
        ["a"],
    ],
)
def test_shapes_are_checked_before_anything_is_built(shapes):
    with pytest.raises(ValueError, match="shapes="):
        made("cross_attn_captioner", shapes=shapes)


def test_published_weights_do_not_fit_smaller_shapes():
    shapes = {"image_encoder/block_1": {"channels": 8}}
    with pytest.raises(ValueError, match="do not fit smaller shapes"):
        zoo.build("gated_captioner", weights="encoders", image_encoder="mobilenet_v2", shapes=shapes)


def test_flops_are_those_of_the_published_vit_and_fewer_after_pruning():
    model = zoo.build("cross_attn_captioner", weights=None, size="base")  # its encoder is ViT-S/16: 4.6 G products
    counts = compress.flops(model)
    assert 9.0e9 < counts["encode"] < 9.3e9
    step = 2 * 6 * (12 * 384**2 + 2 * 384**2 + 2 * 384 * 196 + 2 * 384 * 31) + 2 * 384 * len(model.vocabulary)
    assert abs(counts["word"] / step - 1) < 0.1
    small = made("cross_attn_captioner")
    fewer = compress.flops(compress.prune(small, 0.5, by="neurons", data=batches(small)))
    assert all(fewer[part] < count for part, count in compress.flops(small).items())
    with pytest.raises(TypeError, match="that sees"):
        compress.flops("model")


def test_words_are_masked_and_image_tokens_are_not():
    model = made("cross_attn_captioner")  # 4 image tokens
    image = np.random.default_rng(0).uniform(0, 255, (8, *SHAPE)).astype("float32")
    tokens = np.array([[2, 7, 0, 0]] * 8)
    block = model.get_layer("image_encoder").layers[-1].get_layer("block_0")
    grams = grams_of(model, [block.mlp.up], [{"image": image, "tokens": tokens}])
    other = grams_of(model, [block.mlp.up], [{"image": image, "tokens": tokens[:, :3]}])
    np.testing.assert_allclose(grams[id(block.mlp.up)].gram, other[id(block.mlp.up)].gram, rtol=1e-4, atol=1e-6)
    block = model.get_layer("fusion_0")
    grams = grams_of(model, [block.mlp.up], [{"image": image, "tokens": tokens}])
    other = grams_of(model, [block.mlp.up], [{"image": image, "tokens": tokens[:, :2]}])
    np.testing.assert_allclose(grams[id(block.mlp.up)].gram, other[id(block.mlp.up)].gram, rtol=1e-3, atol=1e-5)


def test_what_is_frozen_stays_frozen_in_a_smaller_model():
    model = made("gated_vqa")
    model.freeze("image", but_last=1)
    model.get_layer("head").trainable = False
    given = batches(model)
    for by in ("neurons", "blocks"):
        smaller = compress.prune(model, 0.5, by=by, data=given)
        assert not smaller.get_layer("head").trainable
        assert smaller.get_layer("image_encoder").trainable
        learned = {one.path.split("/")[0] for one in smaller.get_layer("image_encoder").trainable_variables}
        assert learned == {"block_1"} if by == "neurons" else len(learned) < 2


def test_heads_are_pruned_where_only_cross_attention_is_split():
    model = made("cross_attn_captioner", shapes={"fusion_0": {"ranks": {"cross_attention/query": 8}}})
    given = batches(model)
    smaller = compress.prune(model, 0.5, by="heads", data=given)
    assert smaller.options["shapes"]["fusion_0"]["fusion_heads"] == 2


# --- the search


def table_of(folder, model, count=12):
    """Write pictures and a CSV with what the model says of them, and return its path."""
    draws = np.random.default_rng(0)
    pictures = [draws.integers(0, 255, (40, 40, 3)).astype("uint8") for _ in range(count)]
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption"])
        for number, caption in enumerate(model.generate(pictures, max_length=5)):
            Image.fromarray(pictures[number]).save(folder / f"{number}.png")
            table.writerow([f"{number}.png", caption or "a cat"])
    return folder / "table.csv"


@needs_tensorflow
def test_the_command_makes_a_smaller_model_and_says_what_it_costs(tmp_path, few_tried):
    del few_tried
    model = made("gated_captioner", dim=32, depth=1, vision_depth=1)
    zoo.save(model, tmp_path / "mine")
    table = table_of(tmp_path, model)
    given = ["compress", tmp_path / "mine", "--data", table, "--validation", table, "--target", "1.3x", "--rounds", 1]
    run = toys.vtx(
        *given, "--epochs", 1, "--keep", 0.001, "--metric", "word_f1", "--out", tmp_path / "out", "--to", "litert"
    )
    assert run.exit_code == 0, run.stderr
    record = json.loads((tmp_path / "out" / "compress.json").read_text("utf-8"))
    whole, *steps = record["steps"]
    smaller = zoo.load(tmp_path / "out" / "model") if any(step["kept"] for step in steps) else model
    assert whole["parameters"] == model.count_params()
    assert smaller.count_params() < model.count_params()
    assert [file["file"] for file in record["files"]] == ["litert float32"] * 2 + ["litert int8"] * 2
    assert record["files"][1]["megabytes"] < record["files"][0]["megabytes"]
    again = toys.vtx(*given, "--out", tmp_path / "out")
    assert (again.exit_code, "holds another search" in again.stderr) == (2, True)
    wrong = toys.vtx("compress", tmp_path / "mine", "--data", table, "--target", "half")
    assert (wrong.exit_code, "such as 2x" in wrong.stderr) == (2, True)


@needs_tensorflow
def test_a_search_goes_behind_frozen_encoders_and_stops_at_the_bound(tmp_path):
    options = {"image_encoder": "mobilenet_v2", "image_shape": (64, 64, 3), "dim": 32, "depth": 1, "concepts": 3}
    keras.utils.set_random_seed(0)
    model = zoo.build("cross_attn_captioner", weights=None, **options)
    examples = data.from_csv(table_of(tmp_path, model))
    said: list[str] = []
    smaller, steps = compress.search(
        model, examples, examples, target=1.5, rounds=1, epochs=1, keep=0.001, metric="word_f1", say=said.append
    )
    assert "concept head split" in steps[1].how
    assert "channels" in steps[1].how
    assert (smaller is model) == (not any(step.kept for step in steps[1:]))
    if smaller is model:
        assert "the target of 1.5 x was not reached" in said[-1]
    with pytest.raises(ValueError, match="metric='perfection'"):
        compress.search(model, examples, examples, metric="perfection", say=said.append)
