"""Language models as text sides: equal to transformers, in one pass, word by word and by further tokens."""

from __future__ import annotations

import json
import shutil

import languages
import numpy as np
import pytest
from keras import ops
from languages import FOLDER, FUSIONS, IMAGES, KINDS, Oracle, captioner, opened

from vtx_keras import zoo
from vtx_keras.checkpoints import BadWeights, published
from vtx_keras.checkpoints.published import _causal
from vtx_keras.models import language


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fusion", ["cross_attn", "gated"])
def test_words_behind_closed_gates_have_the_logits_of_transformers(kind, fusion):
    model, oracle = captioner(kind, fusion), Oracle(kind)
    logits = np.asarray(model({"image": IMAGES, "tokens": oracle.ours("ids")}))
    np.testing.assert_allclose(
        oracle.theirs(logits), oracle.expected["logits"], atol=2e-5
    )  # their own differ by 1.3e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_further_tokens_have_the_logits_of_one_pass(kind, fusion):
    model, oracle = opened(captioner(kind, fusion)), Oracle(kind)
    tokens = oracle.ours("ids")
    whole = np.asarray(model({"image": IMAGES, "tokens": tokens}))
    other = np.asarray(model({"image": IMAGES[::-1].copy(), "tokens": tokens}))
    assert np.abs(whole - other).max() > 1e-3, "the image is read"
    reading, prefix = language.begin(model, model.get_layer("image_encoder")(IMAGES), 32)
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        padded = np.concatenate([tokens[:, start:stop], np.zeros((3, 2), "int32")], axis=1)
        logits, reading = language.extend(model, reading, prefix, ops.convert_to_tensor(padded))
        np.testing.assert_allclose(np.asarray(logits), whole[:, stop - 1], atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_unequal_length_continue_as_each_alone(kind):
    model, oracle = captioner(kind), Oracle(kind)
    lengths, tokens = oracle.expected["lengths"], oracle.ours("ids")
    tokens = np.where(np.arange(9) < lengths[:, None], tokens, 0)
    reading, prefix = language.begin(model, model.get_layer("image_encoder")(IMAGES), 32)
    rows, step = [], ops.convert_to_tensor(tokens)
    for _ in range(6):
        logits, reading = language.extend(model, reading, prefix, step)
        best = oracle.place[oracle.theirs(np.asarray(logits)).argmax(axis=-1)]
        rows.append(best)
        step = ops.convert_to_tensor(best[:, None])
    found, wanted = np.stack(rows, axis=1), oracle.ours("padded_greedy")[:, :6]
    same = np.cumprod(wanted > 0, axis=1) > 0  # after padding, which is no word here, all is open
    assert same.mean() > 0.5
    np.testing.assert_array_equal(found[same], wanted[same])


@pytest.mark.parametrize("kind", KINDS)
def test_words_that_follow_a_prompt_are_those_of_transformers(kind):
    model, oracle = captioner(kind), Oracle(kind)
    reading, prefix = language.begin(model, model.get_layer("image_encoder")(IMAGES), 32)
    step, wanted = oracle.ours("ids"), oracle.ours("greedy")
    for place in range(12):
        logits, reading = language.extend(model, reading, prefix, ops.convert_to_tensor(step))
        step = oracle.place[oracle.theirs(np.asarray(logits)).argmax(axis=-1)][:, None]
        rows = (wanted[:, : place + 1] > 0).all(axis=1)  # after padding, which is no word here, all is open
        np.testing.assert_array_equal(step[rows, 0], wanted[rows, place])
    assert rows.any()


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", ["gemma3", "llama", "gpt2"])
def test_every_step_of_the_search_has_the_logits_of_one_pass(kind, fusion):
    """By way of scores: the likelihood of what beams wrote is the score that they gave."""
    model = opened(captioner(kind, fusion))
    ids, scores = model.generate_ids(IMAGES, beams=3, max_length=10, length_penalty=0.0)
    ids = np.asarray(ids)
    texts = np.concatenate([np.full((3, 1), 2), ids, np.zeros((3, 1), int)], axis=1)
    for row, length in enumerate((ids > 0).sum(axis=1)):
        if length < 10:
            texts[row, 1 + length] = 3
    logits = np.array(model({"image": IMAGES, "tokens": texts[:, :-1].astype("int32")}))
    logits[..., [0, 1, 2, 4]] = -1e9  # never written
    chances = (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )
    taken = np.take_along_axis(chances, texts[:, 1:, None], axis=-1)[..., 0] * (texts[:, 1:] > 0)
    np.testing.assert_allclose(taken.sum(axis=1), np.asarray(scores), atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_cut_as_by_the_tokenizer_and_conversations_rendered(kind):
    model, oracle = captioner(kind), Oracle(kind)
    cases = json.loads((FOLDER / kind / "tokens.json").read_text())
    for case in cases["text"]:
        ids = model.vocabulary.encode([case["text"]], 64, allow_empty=True)[0]
        np.testing.assert_array_equal(ids[ids > 0], oracle.place[case["bare"]])
    from vtx_keras.models._chat import Chat

    chat = Chat(model, IMAGES[0])
    for case in cases["chat"]:
        np.testing.assert_array_equal(chat.ids_of(case["messages"]), oracle.place[case["ids"]])


@pytest.mark.parametrize("kind", ["gemma3", "gpt2", "llama_untied"])
@pytest.mark.parametrize("fusion", ["concat_mlp", "gated"])
def test_a_saved_captioner_writes_the_same(kind, fusion, tmp_path):
    model = opened(captioner(kind, fusion))
    said = model.generate(IMAGES, max_length=8)
    for path in (tmp_path / "one.keras", tmp_path / "folder"):
        zoo.save(model, path)
        loaded = zoo.load(path)
        assert loaded.generate(IMAGES, max_length=8) == said
        assert loaded.options["text_decoder"] == model.options["text_decoder"]
        assert loaded.vocabulary.rule["names"] == model.vocabulary.rule["names"]


def test_parts_are_frozen_and_trained_by_name():
    from vtx_keras import tuning

    model = captioner("llama")
    counts = {name: len(variables) for name, variables in tuning.parts(model).items()}
    assert set(counts) == {"image", "words", "fusion", "gates"}
    model.freeze("image", "words")
    before = [np.asarray(one) for one in tuning.parts(model)["words"]]
    batch = {"image": IMAGES, "tokens": np.full((3, 4), 9, "int32")}
    first = model.evaluate(batch, np.full((3, 4), 9), verbose=0)[0]
    tuning.pace(model, "gates", rate=20.0)
    model.fit(batch, np.full((3, 4), 9), epochs=12, verbose=0)
    assert model.evaluate(batch, np.full((3, 4), 9), verbose=0)[0] < first
    for old, new in zip(before, tuning.parts(model)["words"], strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))
    model.enable_lora(2)  # after freezing, or before
    model.freeze("words")
    assert tuning.parts(model)["lora"]
    assert {one.path.split("/")[0][:5] for one in model.trainable_variables if "lora" in one.path} == {"block"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "mamba"}, "language models are read of"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "expected default, linear or llama3"),
        ({"bos_token_id": None, "eos_token_id": None}, "needs a start and an end"),
        ({"num_attention_heads": 0}, "expected a whole number"),
        ({"hidden_act": "tanh"}, "expected one of"),
        ({"attention_bias": True}, "biases where Llama has none"),
        ({"num_key_value_heads": 4}, "do not divide"),
        ({"vocab_size": 12}, "pieces, and its word table"),
    ],
)
def test_a_config_that_is_no_language_model_is_an_error_that_says_so(tmp_path, change, said):
    folder = shutil.copytree(FOLDER / "llama", tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(BadWeights, match=said):
        zoo.build("gated_captioner", weights=None, text_decoder=str(folder), image_shape=(32, 32, 3))


def test_options_that_the_language_model_decides_are_refused():
    with pytest.raises(BadWeights, match="neither one of smollm2_135m"):
        zoo.build("gated_captioner", weights="encoders", text_decoder="gpt9")
    with pytest.raises(ValueError, match="dim=: the language model"):
        captioner("llama", dim=64)
    with pytest.raises(BadWeights, match="tokenizer of its own"):
        captioner("llama", vocabulary=["a", "b"])
    with pytest.raises(ValueError, match="expected a square, for example 4"):
        captioner("llama", "merged_attn", image_words=5)
    with pytest.raises(ValueError, match="reads at most 64 tokens"):
        captioner("llama", max_length=65)
    with pytest.raises(ValueError, match="leave it out"):
        captioner("llama", contrastive=1.0)
    with pytest.raises(ValueError, match="it takes fuse_every="):
        captioner("llama", "gated", image_words=4)
    with pytest.raises(ValueError, match="it takes image_words="):
        captioner("llama", "concat_mlp", fuse_every=1)
    with pytest.raises(ValueError, match="expected at most 2, the blocks"):
        captioner("llama", fuse_every=3)
    with pytest.raises(ValueError, match="give text_decoder=, too"):
        zoo.build("gated_captioner", weights=None, image_words=4)
    with pytest.raises(FileNotFoundError, match="no such file"):
        zoo.build("gated_captioner", weights="encoders", text_decoder="nowhere/model.gguf")


def test_clips_are_read_frame_by_frame():
    model = languages.captioner("llama", "gated")
    assert model.generate(IMAGES[:1], max_length=4) == model.generate(model.look(IMAGES[:1]), max_length=4)


@pytest.fixture
def named(monkeypatch):
    """A short name whose file lies here."""
    entry = published.DECODERS["smollm2_135m"]._replace(sha256="of it")
    monkeypatch.setitem(published.DECODERS, "tiny", entry)
    find = _causal.find_decoder
    monkeypatch.setattr(
        _causal, "find_decoder", lambda name, say=None: FOLDER / "llama" if name == "tiny" else find(name, say)
    )
    return "tiny"


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_folder_only_names_a_language_model_that_is_as_it_came(named, fusion, tmp_path):
    model = opened(captioner("llama", fusion, text_decoder=named))
    said = model.generate(IMAGES, max_length=8)
    zoo.save(model, tmp_path / "mine")
    config = json.loads((tmp_path / "mine/config.json").read_text())
    assert config["text_decoder"] == {"name": "tiny", "sha256": "of it"}
    again = zoo.build(f"{fusion}_captioner", weights=tmp_path / "mine")
    assert again.generate(IMAGES, max_length=8) == said
    shorter = zoo.build(f"{fusion}_captioner", weights=tmp_path / "mine", max_length=8, dropout=0.2)
    assert shorter.generate(IMAGES) == said
    again.get_layer("norm").scale.assign(again.get_layer("norm").scale * 2)
    zoo.save(again, tmp_path / "other")
    assert "text_decoder" not in json.loads((tmp_path / "other/config.json").read_text())
    assert zoo.load(tmp_path / "other").generate(IMAGES, max_length=8) == again.generate(IMAGES, max_length=8)


def test_low_rank_additions_to_a_named_language_model_are_saved(named, tmp_path):
    model = opened(captioner("llama", text_decoder=named))
    model.freeze("image", "words")
    model.enable_lora(2)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1)
    said = model.generate(IMAGES, max_length=8)
    zoo.save(model, tmp_path / "mine")
    assert zoo.load(tmp_path / "mine").generate(IMAGES, max_length=8) == said


def test_saved_weights_keep_their_language_model_and_others_get_none(tmp_path):
    zoo.save(captioner("llama", "gated"), tmp_path / "mine")
    saved = json.loads((tmp_path / "mine/config.json").read_text())
    assert saved["overrides"]["text_decoder"]["origin"]["weights"] == "llama", "no path of this machine"
    for options, said in (
        ({"dim": 64}, "dim=: the language model"),
        ({"vocabulary": ["a", "b"]}, "vocabulary=: the language model"),
        ({"text_decoder": str(FOLDER / "gpt2")}, "build with weights='encoders'"),
    ):
        with pytest.raises(ValueError, match=said):
            zoo.build("gated_captioner", weights=tmp_path / "mine", **options)
    with pytest.raises(ValueError, match="build with weights='encoders'"):
        zoo.build("cross_attn_captioner", text_decoder="smollm2_135m")
    with pytest.warns(UserWarning, match="the language model is new, too"):
        zoo.build("gated_captioner", weights=None, text_decoder=str(FOLDER / "gpt2"), image_shape=(32, 32, 3))


@pytest.mark.parametrize("fusion", ["merged_attn", "cross_attn"])
def test_words_are_explained_by_gradients(fusion):
    from vtx_keras import explain

    maps = explain.attention(captioner("llama", fusion), IMAGES[0], "a dog")
    assert "grad" in maps.said.lower() or len(maps.words) > 0
