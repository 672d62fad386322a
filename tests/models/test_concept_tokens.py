"""Concepts: what the encoder's ImageNet head sees, read by every fusion, saved with the encoder."""

import keras
import numpy as np
import pytest
from keras import ops
from toys import LARGER, pretrained, toy

from vtx_keras import encoders, zoo
from vtx_keras.inputs.text import UNK
from vtx_keras.models import concepts
from vtx_keras.models.concepts import LEAST

IMAGES = np.random.default_rng(0).integers(0, 255, (3, *LARGER)).astype("float32")
TOKENS = np.array([[2, 7, 8, 9]] * 3)


def told(words, chances):
    """What `Concepts` would return, but for words that are told without a picture."""
    pairs = np.stack([np.asarray(words, "float32"), np.asarray(chances, "float32")], axis=-1)
    return np.concatenate([np.zeros_like(pairs[:, :1]), pairs], axis=1)


@pytest.fixture(scope="module")
def model():
    return pretrained("cross_attn_captioner", concepts=4)


def seen_by(model, images):
    return ops.convert_to_numpy(model.get_layer("concepts")(model.get_layer("image_encoder")(images)))


def logits(model, **inputs):
    return ops.convert_to_numpy(model(inputs))


def test_they_are_the_likeliest_words_of_the_published_head(model):
    labels = ops.convert_to_numpy(ops.softmax(encoders.load("mobilenet_v2", head=True, image_shape=LARGER)(IMAGES)))
    words = labels @ concepts.matrix()
    seen = seen_by(model, IMAGES)
    assert seen.shape == (3, 5, 2)
    assert (seen[:, 0] == (0, 1)).all()
    for row, chances in zip(seen[:, 1:], words, strict=True):
        best = np.sort(chances)[::-1][:4]
        np.testing.assert_allclose(row[:, 1], np.where(best < LEAST, 0, np.minimum(best, 1)), atol=1e-4)
        for number, chance in row:
            assert chance == 0 or chances[int(number)] == pytest.approx(chance, abs=1e-4)


@pytest.mark.parametrize("fusion", ["concat_mlp", "gated", "cross_attn", "merged_attn"])
def test_every_fusion_reads_them_beside_the_image_or_without_one(fusion):
    model = toy(f"{fusion}_captioner", image_encoder="mobilenet_v2", image_shape=LARGER, concepts=2)
    behind = model.behind_encoder(told=True)
    features = np.random.default_rng(1).normal(size=(3, *behind.image_shape)).astype("float32")
    one, other = told([[3, 5]] * 3, [[0.9, 0.4]] * 3), told([[8, 5]] * 3, [[0.9, 0.4]] * 3)
    first = logits(behind, image=features, tokens=TOKENS, seen=one)
    assert np.abs(first - logits(behind, image=features, tokens=TOKENS, seen=other)).max() > 1e-6
    np.testing.assert_allclose(first, logits(behind, image=0 * features, tokens=TOKENS, seen=one), atol=1e-6)
    one[:, 0, 1] = 1  # a picture
    assert np.abs(first - logits(behind, image=features, tokens=TOKENS, seen=one)).max() > 1e-6


def test_the_step_writes_what_the_graph_says(model):
    ids, _ = model.generate_ids(IMAGES, max_length=4)
    ids = ops.convert_to_numpy(ids)
    tokens = np.concatenate([np.full((3, 1), 2), ids[:, :-1]], axis=1)
    wanted = logits(model, image=IMAGES, tokens=tokens)
    wanted[..., [0, 1, 2, 4]] = -np.inf
    for row, best in zip(ids, wanted.argmax(-1), strict=True):
        length = int((row > 0).sum())
        assert row[:length].tolist() == best[:length].tolist()


def test_captions_from_kept_features_are_those_of_the_images(model):
    features = ops.convert_to_numpy(model.get_layer("image_encoder")(IMAGES))
    assert model.behind_encoder().generate(features) == model.generate(IMAGES)
    with pytest.raises(ValueError, match=r"expected \(pictures, 2, 2, 1280\)"):
        model.behind_encoder().generate(IMAGES)


def test_a_folder_names_the_head_and_a_file_holds_it(model, tmp_path):
    for path in (tmp_path / "folder", tmp_path / "one.keras"):
        zoo.save(model, path)
        again = zoo.load(path)
        np.testing.assert_array_equal(seen_by(again, IMAGES), seen_by(model, IMAGES))
        tokens = {"image": IMAGES, "tokens": TOKENS}
        np.testing.assert_allclose(logits(again, **tokens), logits(model, **tokens), atol=1e-6)
    assert (tmp_path / "folder" / "model.weights.h5").stat().st_size < 4e6  # the head alone has 5 MB


def test_hidden_concepts_are_drawn_in_training_alone():
    layer = keras.saving.deserialize_keras_object(
        {"class_name": "vtx_keras>WithConcepts", "config": {"dim": 4, "hidden": 0.5}}
    )
    vision, seen = np.ones((20, 2, 4), "float32"), told([[3]] * 20, [[0.9]] * 20)
    plain = ops.convert_to_numpy(layer(vision, seen))[:, 2]
    drawn = ops.convert_to_numpy(layer(vision, seen, training=True))[:, 2]
    np.testing.assert_allclose(plain, np.broadcast_to(plain[0], plain.shape), atol=1e-6)
    assert 0 < (np.abs(drawn - plain[0]).max(axis=1) > 1e-6).sum() < 20


def test_they_need_an_encoder_with_imagenets_head():
    with pytest.raises(ValueError, match="concepts=3: expected an image_encoder with ImageNet's head"):
        toy("gated_captioner", concepts=3)


def test_a_concept_that_is_written_shares_the_embedding_of_its_word():
    words = ["dog", "a", "cat"]
    model = toy("cross_attn_captioner", image_encoder="mobilenet_v2", image_shape=LARGER, concepts=1, vocabulary=words)
    ids = model.get_layer("concept_ids").ids
    assert model.vocabulary[ids[concepts.names().index("dog")]] == "dog"
    assert ids[concepts.names().index("broccoli")] == UNK  # no word of this vocabulary
    features = np.ones((1, *model.behind_encoder().image_shape), "float32")
    dog, broccoli = (told([[concepts.names().index(name)]], [[0.9]]) for name in ("dog", "broccoli"))

    def first(seen):
        return logits(model.behind_encoder(told=True), image=features, tokens=TOKENS[:1, :1], seen=seen)

    before = first(dog), first(broccoli)
    table = model.get_layer("words").embeddings
    other_dog = ops.convert_to_numpy(table).copy()
    other_dog[model.vocabulary.index("dog")] = 1.0
    table.assign(other_dog)
    others = [number for number, piece in enumerate(model.vocabulary) if piece != "dog"]  # all but its own logit
    assert np.abs(first(dog) - before[0])[..., others].max() > 1e-4
    np.testing.assert_allclose(first(broccoli)[..., others], before[1][..., others], atol=1e-6)
