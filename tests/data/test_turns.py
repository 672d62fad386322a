"""Conversations as batches: what a chat reads is read, and what it writes is learned."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import toys

from vtx_keras import data, zoo
from vtx_keras.data import _turns
from vtx_keras.data._plan import BadData
from vtx_keras.inputs.text import END, PAD

FIXTURES = Path(__file__).parents[1] / "fixtures" / "language"
BLACK = np.zeros((32, 32, 3), "uint8")
TALKS = [
    (["What is in the picture?", "What colour is it?", "Where?"], ["a dog", "brown", "on the grass"]),
    (["how many <b> are {{ there }}?"], ["two\nof them"]),
    (["who is it? ", "and\nthen?"], ["a man, 20", "a \u00e9t\u00e9"]),
]


def captioner(kind: str, template: str | None = None, max_length: int = 256):
    pixels = keras.Input((32, 32, 3))
    encoder = keras.Model(pixels, keras.layers.Conv2D(8, 16, 16)(pixels))
    how = {"image_shape": (32, 32, 3), "vision_depth": 1, "patch": 16, "max_length": min(max_length, 32)}
    model = zoo.build(
        "cross_attn_captioner", weights="encoders", text_decoder=str(FIXTURES / kind), image_encoder=encoder, **how
    )
    model.options["max_length"] = max_length  # tiny language models read less, and here nothing is read by one
    if template is not None:
        model.options["text_decoder"]["template"] = template
    return model


def examples(talks=TALKS):
    rows = {
        "questions": tf.ragged.constant([q for q, _ in talks]),
        "answers": tf.ragged.constant([a for _, a in talks]),
    }
    return tf.data.Dataset.from_tensor_slices({"image": np.stack([BLACK] * len(talks)), **rows})


@pytest.mark.parametrize("kind", ["gemma3", "gpt2", "llama", "llama3", "qwen2"])
def test_a_conversation_is_read_and_learned_as_a_chat_reads_and_writes_it(kind):
    model = captioner(kind)
    chat = model.chat(BLACK)
    inputs, labels, weight = next(iter(data.batches(examples(), model)))
    for tokens, wanted, counts, (questions, answers) in zip(inputs["tokens"], labels, weight, TALKS, strict=True):
        tokens, wanted, history = tokens.numpy().tolist(), wanted.numpy(), []
        learned = np.zeros(len(tokens), bool)
        for question, answer in zip(questions, answers, strict=True):
            history.append({"role": "user", "content": question})
            asked = chat.ids_of(history)
            assert tokens[: len(asked)] == asked
            said = wanted[len(asked) - 1 :].tolist()
            said = said[: said.index(END) + 1]
            assert model.vocabulary.decode([said])[0].strip() == answer
            assert tokens[len(asked) : len(asked) + len(said) - 1] == said[:-1]
            learned[len(asked) - 1 : len(asked) - 1 + len(said)] = True
            history.append({"role": "assistant", "content": answer})
        np.testing.assert_array_equal(counts, learned)
        np.testing.assert_array_equal(wanted != PAD, learned)


def test_one_question_is_a_conversation_of_one_turn():
    model = captioner("llama")
    one = {"image": BLACK[None], "question": ["What is it?"], "answer": [3]}
    several = {"image": BLACK[None], "questions": [["What is it?"]], "answers": [["3"]]}
    found = [list(data.batches(tf.data.Dataset.from_tensor_slices(rows), model)) for rows in (one, several)]
    for first, second in zip(*map(tf.nest.flatten, found), strict=True):
        np.testing.assert_array_equal(first, second)


LOOKS = (
    "{% for one in messages %}{{ 'Q: ' if one.role == 'user' else 'A: ' }}"
    "{{ one.content | trim | replace('yes', 'no') }}"
    "{{ '\n' }}{% endfor %}A:"
)
FORGETS = "{% for one in messages %}{{ one.content if one.role == 'user' else '-' }}|{% endfor %}"


def test_a_template_that_looks_at_words_is_rendered_for_each_row():
    model = captioner("qwen3", LOOKS)
    chat = model.chat(BLACK)
    turns = _turns.reader(model)(["is it? ", "yes, and?"], ["a cat", "an end"])
    history = [("user", "is it? "), ("assistant", "a cat"), ("user", "yes, and?")]
    asked = chat.ids_of([{"role": role, "content": content} for role, content in history])
    assert turns.ids[: len(asked)] == asked
    assert "no, and?" in model.vocabulary.decode([turns.ids])[0]


def test_what_cannot_be_learned_is_left_out_and_counted():
    model = captioner("llama", FORGETS, max_length=40)
    talks = [*TALKS[:2], (["a"], ["b", "c"]), (["a"], [" "]), (["<|im_end|>"], ["b"]), (["long " * 30], ["b"])]
    with pytest.warns(UserWarning, match="5 of 6 rows are left out") as told:
        batches = list(data.batches(examples(talks), model))
    assert [len(labels) for _, labels, _ in batches] == [1]
    for state in _turns.STATES[1:]:
        assert f"1 {state}" in str(told[0].message)
    assert "1 texts are cut" in str(told[0].message)


def test_a_long_conversation_is_cut_and_buckets_are_by_its_length():
    model = captioner("qwen3", max_length=48)
    with pytest.warns(UserWarning, match="1 texts are cut"):
        batches = list(data.batches(examples(TALKS[:2]), model, batch_size=1, buckets=[40]))
    widths = sorted(labels.shape[1] for _, labels, _ in batches)
    assert widths == [48, 48]
    short = list(data.batches(examples([(["a"], ["b"])]), model, buckets=[40]))
    assert short[0][1].shape == (1, 40)


def test_a_plain_captioner_says_what_to_do_with_a_conversation():
    with pytest.raises(BadData, match=r"text_decoder=.*or make a row of each"):
        data.batches(examples(), toys.toy("cross_attn_captioner"))
