"""Look once, ask many: features in place of pictures, words as they come, conversations."""

from __future__ import annotations

import numpy as np
import pytest
from languages import FUSIONS, IMAGES, captioner, opened

from vtx_keras import zoo
from vtx_keras.models._chat import Reader

SMALL = {"dim": 32, "depth": 1, "vision_depth": 1, "image_shape": (32, 32, 3)}


@pytest.fixture(scope="module")
def chatty():
    return opened(captioner("llama3", "merged_attn"))


@pytest.mark.parametrize("name", ["cross_attn_captioner", "gated_vqa", "co_attn_matcher", "retriever"])
def test_what_was_seen_stands_in_for_pictures(name):
    model = zoo.build(name, weights=None, **({} if name == "retriever" else {"depth": 1}), **{
        key: value for key, value in SMALL.items() if key != "depth"})  # fmt: skip
    how = {"captioner": ("generate", ()), "vqa": ("answer", ("what?",)), "matcher": ("match", ("a cat",))}
    method, texts = how.get(model.name, ("similarity", (["a cat", "a dog"],)))
    seen = model.look(IMAGES)
    assert seen.features.shape[0] == 3
    with_pictures, with_seen = (getattr(model, method)(one, *texts) for one in (IMAGES, seen))
    if isinstance(with_pictures[0], str):
        assert with_seen == with_pictures
    else:
        np.testing.assert_allclose(with_seen, with_pictures, atol=1e-5)


def test_a_picture_is_encoded_once_until_the_model_is_trained():
    model = zoo.build("gated_captioner", weights=None, **SMALL)
    first = model.look(IMAGES)
    calls = []
    encoder = model.get_layer("image_encoder")
    run = encoder.predict_on_batch
    encoder.predict_on_batch = lambda pixels: calls.append(len(pixels)) or run(pixels)
    again = model.look(IMAGES[1:])
    np.testing.assert_array_equal(again.features, first.features[1:])
    assert calls == []
    model.fit({"image": IMAGES, "tokens": np.ones((3, 4), "int32")}, np.full((3, 4), 9), verbose=0)
    assert np.abs(model.look(IMAGES).features - first.features).max() > 0
    assert calls == [3]
    encoder.set_weights([2 * weight for weight in encoder.get_weights()])
    model.look(IMAGES)
    assert calls == [3, 3]


def test_memory_of_what_was_seen_has_a_bound(monkeypatch):
    from vtx_keras.models import _chat

    model = zoo.build("gated_captioner", weights=None, **SMALL)
    one = model.look(IMAGES[:1]).features.nbytes
    monkeypatch.setattr(_chat, "MOST_BYTES", 2 * one)
    assert len(model.look(IMAGES).features) == 3
    assert len(model.cached(("seen",), dict)["kept"]) == 2


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", ["blocks", "llama", "gpt2"])
def test_the_stream_joined_is_the_caption(kind, fusion):
    if kind == "blocks":
        model = zoo.build(f"{fusion}_captioner", weights=None, **SMALL)
    else:
        model = opened(captioner(kind, fusion))
    for prompt in (None, "a dog", "a dog " * 40):
        parts = list(model.stream(IMAGES[0], prompt, max_length=12))
        assert "".join(parts) == model.generate(IMAGES[:1], prompt, max_length=12)[0]
    drawn = {"sampler": "top_p", "top_p": 0.9, "seed": 7, "max_length": 12}
    assert "".join(model.stream(IMAGES[0], "a", **drawn)) == model.generate(IMAGES[:1], "a", **drawn)[0]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", ["blocks", "gemma3"])
def test_words_come_in_mixed_precision(kind, fusion):
    if kind == "blocks":
        model = zoo.build(f"{fusion}_captioner", weights=None, dtype="mixed_bfloat16", **SMALL)
    else:
        model = opened(captioner(kind, fusion, dtype="mixed_bfloat16"))
    assert isinstance("".join(model.stream(IMAGES[0], max_length=4)), str)


def test_words_come_one_by_one():
    model = zoo.build("cross_attn_captioner")
    from vtx_keras import data

    photo = data.sample("photos/cat.jpg")
    parts = list(model.stream(photo))
    assert len(parts) > 4
    assert all(" " not in part.strip() for part in parts)
    assert "".join(parts) == model.generate(photo)[0]


def test_a_conversation_reads_only_what_is_new(chatty):
    chat = chatty.chat(IMAGES[0])
    read = []
    reader_read = chat.reader.read
    chat.reader.read = lambda ids: read.append(len(ids)) or reader_read(ids)
    first = chat.ask("what is it?", max_length=6)
    whole = chat.ids_of(chat.history[:1])
    assert read[0] == len(whole)
    answered = len(read)
    answered = len(read)
    second = chat.ask("and now?", max_length=6)
    assert [one["role"] for one in chat.history] == ["user", "assistant"] * 2
    assert chat.history[1]["content"] == first
    assert chat.history[3]["content"] == second
    assert sum(read[answered:]) <= len(chat.ids_of(chat.history[:3])) - len(whole) + 6
    # A new conversation that is told the same history answers the same.
    other = chatty.chat(chatty.look(IMAGES[0]))
    other.history = chat.history[:2]
    assert other.ask("and now?", max_length=6) == second


def test_an_answer_does_not_depend_on_what_was_asked_before(chatty):
    one = chatty.answer(IMAGES[0], "what is it?", max_length=6)
    both = chatty.answer(IMAGES[0], ["is it red?", "what is it?"], max_length=6)
    assert both[1] == one[0]
    paired = chatty.answer(IMAGES[:2], ["what is it?"] * 2, max_length=6)
    assert paired[0] == one[0]


def test_a_long_conversation_grows_and_ends_at_the_context():
    model = opened(captioner("gpt2"))  # 32 positions
    chat = model.chat(IMAGES[0])
    with pytest.raises(ValueError, match=r"conversation has \d+ tokens: expected at most 32"):
        chat.ask("what " * 40)
    reader = Reader(opened(captioner("llama3", "merged_attn")), IMAGES[0])
    whole = np.random.default_rng(0).integers(5, 200, 300)
    logits = reader.read(list(whole))
    assert (reader.words, reader.count) == (512, 300)
    other = Reader(reader.captioner, IMAGES[0])
    for start in range(0, 300, 7):
        last = other.read(list(whole[start : start + 7]))
    np.testing.assert_allclose(last, logits, atol=2e-5)
    other.cut(290)
    np.testing.assert_allclose(other.read(list(whole[290:])), logits, atol=2e-5)


def test_bad_conversations_are_errors_that_say_what_to_do(chatty):
    with pytest.raises(ValueError, match="chat needs a language model with a template"):
        zoo.build("gated_captioner", weights=None, **SMALL).chat(IMAGES[0])
    with pytest.raises(ValueError, match="which separates turns: leave it out"):
        chatty.chat(IMAGES[0]).ask("hello <|im_end|>")
    with pytest.raises(ValueError, match="3 pictures: expected one"):
        chatty.chat(IMAGES)
    other = zoo.build("gated_captioner", weights=None, **SMALL)
    with pytest.raises(ValueError, match=r"expected \(4, 4, 8\), which this model's encoder makes"):
        chatty.chat(other.look(IMAGES[0]))
    for how in ({"max_length": 0}, {"question": ""}, {"question": None}):
        with pytest.raises(ValueError, match="expected a"):
            chatty.chat(IMAGES[0]).stream(**{"question": "what?", **how})
    answers = chatty.answer(IMAGES[0], ["what is it?", "<|im_end|>"], max_length=4, on_error="none")
    assert answers[0] is not None
    assert answers[1] is None
    chat = chatty.chat(IMAGES[0])
    chat.layout = {**chat.layout, "template": "{% for i in range(10**9) %}a{% endfor %}"}
    with pytest.raises(ValueError, match="chat template"):
        chat.ask("hello")
    chat.layout = {**chat.layout, "template": "{% include '/etc/passwd' %}"}
    with pytest.raises(ValueError, match="include: not in a chat template"):
        chat.ask("hello")


def test_one_answer_is_written_at_a_time(chatty):
    chat = chatty.chat(IMAGES[0])
    first = chat.stream("what is it?", max_length=40)
    next(first)
    second = chat.ask("and now?", max_length=4)
    with pytest.raises(RuntimeError, match="one at a time"):
        list(first)
    assert [one["content"] for one in chat.history] == ["and now?", second]
