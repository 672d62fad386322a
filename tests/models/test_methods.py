"""Methods of models: images and texts in every form, and errors that name the bad one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from toys import ANSWERS, pictures, texts, toy

from vtx_keras.inputs import media
from vtx_keras.inputs.text import PAD, UNK

BAD_INPUTS = [
    (lambda m: m.generate([]), "at least one picture"),
    (lambda m: m.generate(np.zeros((0, 32, 32, 3))), "at least one picture"),
    (lambda m: m.generate(np.full((32, 32, 3), np.nan)), "item 0.*nan.*expected finite"),
    (lambda m: m.generate(np.full((32, 32, 3), 300.0)), "255"),
    (lambda m: m.generate(np.full((32, 32, 3), -1.0)), "255"),
    (lambda m: m.generate(np.zeros((32, 32, 5))), "5"),
    (lambda m: m.generate("missing.png"), "missing.png"),
    (lambda m: m.generate(__file__), "test_methods.py.*expected JPEG"),
    (lambda m: m.generate(pictures(m), beams=0), "beams"),
    (lambda m: m.generate(pictures(m), beams=10**6), "beams=1000000: expected a whole number from 1 to 100"),
    (lambda m: m.generate(pictures(m), sampler="best"), "sampler"),
    (lambda m: m.generate(pictures(m), temperature=0.5), "no effect"),
    (lambda m: m.generate(pictures(m), sampler="top_p", beams=2), "beams"),
    (lambda m: m.generate(pictures(m), sampler="top_p", top_p=1.5), "top_p"),
    (lambda m: m.generate(pictures(m), max_length=99), "max_length"),
    (lambda m: m.generate(pictures(m), prompt=["a", "b"]), "2 prompts for 4"),
    (lambda m: m.generate(pictures(m), on_error="ignore"), "on_error"),
]


@pytest.fixture(scope="module")
def captioner():
    return toy("cross_attn_captioner")


@pytest.mark.parametrize(("call", "message"), BAD_INPUTS)
def test_bad_input_to_generate_is_named(captioner, call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(captioner)


def test_grey_and_alpha_are_converted_with_a_warning(captioner):
    with pytest.warns(UserWarning, match="grey"):
        assert len(captioner.generate(np.zeros((32, 32, 1), "uint8"))) == 1
    with pytest.warns(UserWarning, match="alpha"):
        assert len(captioner.generate(np.zeros((2, 32, 32, 4), "uint8"))) == 2


def test_one_bad_image_does_not_lose_the_others(captioner):
    good = pictures(captioner, 1)[0]
    alone = captioner.generate(good)[0]
    with pytest.raises(media.BadItems, match=r"item 1.*missing\.png") as caught:
        captioner.generate([good, "missing.png", good])
    assert caught.value.results == [alone, None, alone]
    assert captioner.generate([good, "missing.png", good], on_error="none") == [alone, None, alone]


def test_images_may_be_paths_bytes_pil_images_or_arrays(captioner, tmp_path):
    from PIL import Image

    array = pictures(captioner, 1)[0].round().astype("uint8")
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    said = {
        caption
        for item in (
            path,
            str(path),
            path.read_bytes(),
            Image.open(path),
            array,
            array.astype("float32"),
            array[None],
            tmp_path.glob("*.png"),
        )
        for caption in captioner.generate(item)
    }
    assert len(said) == 1


def test_a_clip_is_a_path_a_list_or_an_array(tmp_path):
    from PIL import Image

    model = toy("cross_attn_video_captioner")
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    array = np.stack([np.asarray(frame) for frame in frames])
    assert model.generate(tmp_path / "clip.gif") == model.generate(array) == model.generate([frames])


def test_questions_and_images_pair_up_or_the_error_says_why_not():
    model = toy("gated_vqa")
    x = pictures(model, 3)
    assert len(model.answer(x, texts(3))) == 3
    assert model.answer(x[0], texts(2)) == [model.answer(x[0], texts(2)[i])[0] for i in range(2)]
    assert len(model.answer(x, "w1 w2")) == 3
    with pytest.raises(ValueError, match="3 pictures and 2 texts"):
        model.answer(x, texts(2))
    with pytest.raises(ValueError, match="empty"):
        model.answer(x, ["w1", " ", "w2"])
    with pytest.raises(TypeError, match="NoneType"):
        model.answer(x, ["w1", None, "w2"])
    with pytest.warns(UserWarning, match="cut|long"):
        model.answer(x, "w1 " * 100)
    for odd in ("🙂 w1", b"w1 \xff\xfe", "w1\u2028w2"):
        assert model.answer(x[0], [odd])[0] in ANSWERS
    numbered = toy("gated_vqa", classes=3)
    assert numbered.answer(x, "w1")[0] in ("0", "1", "2")


def test_likelihood_is_that_of_the_pieces_one_after_the_other(captioner):
    picture = np.full((1, 32, 32, 3), 90.0, "float32")
    found = captioner.likelihood(picture, ["w1 w2", "w3 zebra w1"])
    for told, one in zip(["w1 w2", "w3 zebra w1"], found, strict=True):
        ids = captioner.vocabulary.encode([told], captioner.options["max_length"] + 1, start=True, end=True)
        logits = np.array(captioner({"image": picture, "tokens": ids[:, :-1]}, training=False), "float64")[0]
        chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        counted = [(place, piece) for place, piece in enumerate(ids[0, 1:]) if piece not in (PAD, UNK)]
        assert one == pytest.approx(sum(chances[place, piece] for place, piece in counted), abs=1e-3)
    both_pictures = np.concatenate([picture, 0 * picture])
    both = captioner.likelihood(both_pictures, "w1 w2")
    assert both[0] == pytest.approx(found[0], abs=1e-3)
    assert captioner.likelihood([both_pictures[0], b"no picture"], "w1 w2", on_error="none")[1] is None
    with pytest.raises(ValueError, match="2 pictures and 3 texts"):
        captioner.likelihood(both_pictures, ["a", "b", "c"])


def test_correct_input_gives_no_warning(captioner):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        captioner.generate(pictures(captioner, 2), prompt="w1")


def test_a_retriever_behind_its_encoder_embeds_features_and_shares_its_weights(tmp_path):
    model = toy("retriever")
    x = pictures(model, 3)
    model.freeze("image")
    behind, features = model.behind_encoder(), model.get_layer("image_encoder").predict(x, verbose=0)
    np.testing.assert_allclose(behind.similarity(features, texts(2)), model.similarity(x, texts(2)), atol=1e-5)
    kernel = model.get_layer("text_projection").kernel
    kernel.assign(kernel * 0.5 + 0.1)
    seen = model.similarity(x, texts(2))
    np.testing.assert_allclose(behind.similarity(features, texts(2)), seen, atol=1e-5)
    with pytest.raises(ValueError, match="expected \\(pictures, "):
        behind.similarity(x, texts(2))
    model.save(tmp_path / "model.keras")  # its own graph is whole
