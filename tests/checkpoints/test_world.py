"""Published architectures: folders that transformers wrote, with what it makes of them (support/published_oracle.py).

The fixtures are tiny: widths of vision and text differ, gains and biases are random, captions end early.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy

from vtx_keras import explain, zoo
from vtx_keras.checkpoints import BadWeights
from vtx_keras.checkpoints import published as world
from vtx_keras.checkpoints.published import _said
from vtx_keras.inputs.text import END, SPECIALS, START

FIXTURES = Path(__file__).parents[1] / "fixtures/published"
CAPTIONERS = ("blip", "git", "vit_gpt2")
RULES = {  # the names of tests/support/published_oracle, and their settings here
    "greedy": (1, {}),
    "beams": (3, {}),
    "four beams, never": (4, {"early_stopping": "never"}),
    "early": (3, {"early_stopping": True}),
    "penalty": (3, {"repetition_penalty": 1.5}),
    "no repeats": (3, {"no_repeat_ngram": 2}),
    "greedy, no repeats": (1, {"no_repeat_ngram": 1}),
    "long": (4, {"min_length": 6}),
}
LENGTH = 12
_models: dict[str, object] = {}


def model_of(kind: str):
    if kind not in _models:
        _models[kind] = zoo.named(FIXTURES / kind)
    return _models[kind]


def expected(kind: str) -> tuple[dict, dict]:
    arrays = dict(np.load(FIXTURES / kind / "expected.npz"))
    return arrays, json.loads((FIXTURES / kind / "expected.json").read_text(encoding="utf-8"))


def ids_of(model, pieces: list[str]) -> list[int]:
    return [model.vocabulary.index(piece) for piece in pieces]


@pytest.fixture
def copy(tmp_path):
    """Return a copy of a folder, to be spoilt."""

    def make(kind: str = "blip", **changes) -> Path:
        folder = tmp_path / kind
        shutil.copytree(FIXTURES / kind, folder, dirs_exist_ok=True)
        path = folder / "config.json"
        config = json.loads(path.read_text())
        for name, value in changes.items():
            part, _, key = name.rpartition("__")
            target = config[part] if part else config
            target.pop(key) if value is None else target.update({key: value})
        path.write_text(json.dumps(config))
        return folder

    return make


# --- the same numbers, the same words


@pytest.mark.parametrize("kind", CAPTIONERS)
def test_logits_equal_those_of_transformers(kind):
    model, (arrays, said) = model_of(kind), expected(kind)
    tokens = np.array([[START, *ids_of(model, said["text"])]] * 2, "int32")
    logits = np.asarray(model({"image": arrays["pictures"][:2].astype("float32"), "tokens": tokens}))
    names = _said.pieces(FIXTURES / kind, arrays["logits"].shape[-1])
    real = list(range(len(SPECIALS), logits.shape[-1]))
    theirs = arrays["logits"][..., [names.index(model.vocabulary[i]) for i in real]]
    assert np.abs(theirs - logits[..., real]).max() < 1e-5
    assert np.ptp(theirs) > 1


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", CAPTIONERS)
def test_ids_equal_those_of_transformers(kind, rule):
    model, (arrays, said), (beams, rules) = model_of(kind), expected(kind), RULES[rule]
    pictures = arrays["pictures"].astype("float32")
    for prompt in ([], said["text"][:2]):
        captions = said["captions"][f"{rule}, prompted" if prompt else rule]
        given = [ids_of(model, prompt)] if prompt else None
        ids, _ = model.generate_ids(pictures, given, beams=beams, max_length=LENGTH, **rules)
        ours = [[model.vocabulary[i] for i in row if i] for row in np.asarray(ids).tolist()]
        assert ours == captions
    lengths = {len(caption) for caption in said["captions"]["beams"]}
    assert len(lengths) > 1, "captions do not end early"


def test_both_towers_equal_those_of_transformers():
    model, (arrays, said) = model_of("clip"), expected("clip")
    tokens = np.array([[START, *ids_of(model, said["text"]), END, 0, 0]], "int32")
    assert np.abs(np.asarray(model.tower("text")({"tokens": tokens})) - arrays["text"]).max() < 1e-5
    pictures = arrays["pictures"].astype("float32")
    assert np.abs(np.asarray(model.tower("image")({"image": pictures})) - arrays["image"]).max() < 1e-5


def test_a_text_is_read_with_its_end():
    """Without an end CLIP's embedding would be 0 for every text."""
    model = model_of("clip")
    assert model.tokens_of("a cat")[0].tolist().count(END) == 1
    similarity = model.similarity(expected("clip")[0]["pictures"][:2], ["a cat", "two dogs on grass"])
    assert np.all(np.abs(similarity) > 1e-4)
    assert len(np.unique(similarity)) == 4


def test_matching_equals_that_of_transformers():
    model, (arrays, said) = model_of("blip_itm"), expected("blip_itm")
    tokens = np.array([[START, *ids_of(model, said["text"]), END, 0]] * 8, "int32")
    ours = np.asarray(model({"image": arrays["pictures"].astype("float32"), "tokens": tokens}))
    assert np.abs(ours - arrays["logits"]).max() < 1e-5
    assert np.ptp(arrays["logits"]) > 0.1
    assert 0 < model.match(arrays["pictures"][0], " ".join(said["text"]))[0] < 1


# --- an ordinary model of the zoo


@pytest.mark.parametrize("kind", CAPTIONERS)
def test_it_is_saved_and_loaded_in_both_forms(kind, tmp_path):
    model, pictures = model_of(kind), expected(kind)[0]["pictures"]
    captions = model.generate(pictures, beams=3, max_length=LENGTH)
    assert len(set(captions)) > 1
    zoo.save(model, tmp_path / "folder")
    zoo.save(model, tmp_path / "model.keras")
    for path in ("folder", "model.keras"):
        loaded = zoo.load(tmp_path / path)
        assert loaded.generate(pictures, beams=3, max_length=LENGTH) == captions
        assert loaded.options == model.options
    longer = zoo.build(model.spec["name"], weights=tmp_path / "folder", max_length=36, dtype="mixed_bfloat16")
    assert longer.options["max_length"] == 36
    assert isinstance(longer.generate(pictures[0], max_length=4)[0], str)
    with pytest.raises(ValueError, match=r"max_length=999: expected at most \d+, which has positions"):
        zoo.build(model.spec["name"], weights=tmp_path / "folder", max_length=999)


def test_it_learns_and_is_frozen_and_explained():
    model = zoo.named(FIXTURES / "blip")
    pictures, words = expected("blip")[0]["pictures"], ids_of(model, ["a", "red", "ball", "on", "grass"])
    inputs = {"image": pictures.astype("float32"), "tokens": np.array([[START, *words]] * 8, "int32")}
    labels = np.array([[*words, END]] * 8, "int32")
    model.freeze("image")
    before = [np.array(weight) for weight in model.get_layer("image_encoder").weights]
    model.optimizer.learning_rate = 3e-3
    history = model.fit(inputs, labels, epochs=60, batch_size=8, verbose=0).history["loss"]
    assert history[-1] < 0.3 < history[0]
    assert model.generate(pictures[0], max_length=LENGTH) == ["a red ball on grass"]
    for weight, old in zip(model.get_layer("image_encoder").weights, before, strict=True):
        np.testing.assert_array_equal(np.array(weight), old)
    explanation = explain.attention(model, pictures[0])
    assert explanation.words[:2] == ["a", "red"]
    assert explanation.maps.shape[1:] == (3, 3), "patches without the class token"
    assert model.behind_encoder().image_shape == (10, 24)


@pytest.mark.parametrize("kind", CAPTIONERS)
def test_low_rank_additions_are_merged_and_saved(kind, tmp_path):
    model, pictures = zoo.named(FIXTURES / kind), expected(kind)[0]["pictures"]
    tokens = np.array([[START, *ids_of(model, expected(kind)[1]["text"])]] * 8, "int32")
    inputs = {"image": pictures.astype("float32"), "tokens": tokens}
    model.enable_lora(2)
    for layer in (model.blocks[0].attention.query, model.blocks[1].mlp.up):
        for weight in layer.trainable_weights:
            if "lora" in weight.path:  # one of the two is zero at first
                weight.assign(np.full(weight.shape, 0.1, "float32"))
    logits = np.asarray(model(inputs))
    assert np.abs(logits - np.asarray(model_of(kind)(inputs))).max() > 0.01
    merged = model.merged()
    assert merged.count_params() == model_of(kind).count_params()
    zoo.save(model, tmp_path / "mine")
    for other in (merged, zoo.load(tmp_path / "mine")):
        np.testing.assert_allclose(np.asarray(other(inputs)), logits, atol=1e-4)


def test_a_question_is_answered_by_what_is_written_after_it():
    model, pictures = model_of("git"), expected("git")[0]["pictures"]
    answers = model.answer(pictures[:2], "what is it?", max_length=LENGTH)
    whole = model.generate(pictures[:2], prompt="what is it?", max_length=LENGTH)
    assert [f"what is it? {answer}".strip() for answer in answers] == whole
    assert len(model.answer(pictures[0], ["what is it?", "how many dogs?"], max_length=LENGTH)) == 2
    bad = model.answer([pictures[0], b"<html>"], "what is it?", max_length=LENGTH, on_error="none")
    assert bad == [answers[0], None]
    with pytest.raises(ValueError, match="2 pictures and 3 texts"):
        model.answer(pictures[:2], ["a", "b", "c"])


def test_rules_of_search_have_names():
    pictures = expected("blip")[0]["pictures"][:1]
    with pytest.raises(TypeError, match=r"no 'min_lengths' \(did you mean min_length\?\)"):
        model_of("blip").generate(pictures, min_lengths=3)
    own = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    with pytest.raises(TypeError, match="min_length: only a published model"):
        own.generate(np.zeros((1, 32, 32, 3)), min_length=3)
    short, long = (model_of("blip").generate(pictures, max_length=LENGTH, **how) for how in ({}, {"min_length": 12}))
    assert short != long or len(long[0].split()) >= 10


def test_options_that_the_checkpoint_decides_are_refused():
    with pytest.raises(ValueError, match=r"dim= cannot be chosen for .*: expected max_length or dropout"):
        zoo.build("cross_attn_captioner", weights=FIXTURES / "blip", dim=64)
    with pytest.raises(BadWeights, match=r"is a merged_attn_captioner, not a cross_attn_captioner: zoo\.build"):
        zoo.build("cross_attn_captioner", weights=FIXTURES / "git")
    with pytest.raises(BadWeights, match="has a tokenizer of its own"):
        zoo.build("cross_attn_captioner", weights=FIXTURES / "blip", vocabulary=["a", "cat"])


# --- what does not fit is an error with names, and never random weights


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "model.safetensors")


def test_a_missing_left_over_or_misshapen_tensor_is_named(copy):
    folder = copy()
    tensors = tensors_of(folder)
    gone = "text_decoder.bert.encoder.layer.1.crossattention.self.key.weight"
    del tensors[gone]
    tensors["text_decoder.more"] = np.zeros(3, "float32")
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BadWeights) as caught:
        zoo.named(folder)
    assert f"{gone}: expected, not found" in str(caught.value)
    assert "text_decoder.more: found, not expected" in str(caught.value)
    tensors = tensors_of(FIXTURES / "blip")
    tensors["vision_model.post_layernorm.bias"] = np.zeros(7, "float32")
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BadWeights, match=r"last_norm/beta .*: expected shape \(24,\), found \(7,\)"):
        zoo.named(folder)


def test_fused_thirds_of_another_width_are_named(copy):
    folder = copy()
    tensors = tensors_of(folder)
    name = "vision_model.encoder.layers.0.self_attn.qkv.weight"
    tensors[name] = tensors[name][:-1]
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BadWeights, match=r"self_attn\.qkv: .*73|expected shape"):
        zoo.named(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config__num_attention_heads": None}, "has no 'num_attention_heads', and weights do not tell"),
        ({"text_config__hidden_act": "mish"}, "hidden_act 'mish': expected one of gelu"),
        ({"architectures": ["BertModel"]}, "is of BertModel: expected one of BlipForConditionalGeneration"),
        ({"vision_config": None}, "has no 'vision_config': it is the config of another architecture"),
        ({"text_config__vocab_size": 150}, "its tokenizer has 200 pieces, and its word table 150 rows"),
        ({"vision_config__image_size": 64}, r"prepares pictures of \(48, 48\), and the model reads 64 × 64"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "code"),
        ({"text_config__bos_token_id": 999}, "expected ids below 200"),
    ],
)
def test_a_config_that_does_not_fit_says_so(copy, changes, message):
    with pytest.raises(BadWeights, match=message):
        zoo.named(copy(**changes))


def test_a_folder_without_its_tokenizer_or_processor_says_what_is_missing(copy):
    folder = copy()
    (folder / "vocab.txt").unlink()
    with pytest.raises(BadWeights, match=r"neither tokenizer\.json nor vocab\.txt: found config\.json"):
        zoo.named(folder)
    folder = copy()
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(BadWeights, match=r"no preprocessor_config\.json"):
        zoo.named(folder)


def test_a_processor_that_does_not_name_its_filter_has_that_of_its_class(copy):
    """As Salesforce/blip-image-captioning-base: a size that is a number, and no filter."""
    folder = copy()
    scale = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    for kind, fit in (("BlipImageProcessor", "stretch-bicubic"), ("ViTFeatureExtractor", "stretch")):
        (folder / "preprocessor_config.json").write_text(
            json.dumps({**scale, "size": 48, "image_processor_type": kind})
        )
        assert _said.pixels(folder, 48)[1] == fit
    (folder / "preprocessor_config.json").write_text(json.dumps({**scale, "size": 48}))
    with pytest.raises(BadWeights, match="resample None: expected 1, 2, 3"):
        _said.pixels(folder, 48)


def test_every_checkpoint_of_the_catalogue_is_pinned_and_has_a_name_of_the_zoo():
    for tag, entry in world.CATALOGUE.items():
        assert entry.name in zoo.MODELS, tag
        assert len(entry.revision) == 40, tag
        assert all(len(sha256) == 64 for sha256 in entry.hashes.values()), tag
        assert entry.licence
        assert entry.source
    assert len({entry.repository for entry in world.CATALOGUE.values()}) == len(world.CATALOGUE)


def test_without_a_network_an_address_is_an_error_and_no_model(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(BadWeights, match="Salesforce/blip-image-captioning-base"):
            zoo.build("cross_attn_captioner", weights="blip_base")


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="exports are made by TensorFlow")
def test_onnxruntime_computes_exact_gelu_in_one_operation(tmp_path):
    import onnx
    import onnxruntime

    from vtx_keras import export

    pictures = expected("blip")[0]["pictures"]
    export.onnx(model_of("blip"), tmp_path / "m.onnx", max_length=6, verify_data=[{"image": one} for one in pictures])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), options, providers=["CPUExecutionProvider"])

    def kinds(graph) -> list[str]:
        inside = [attribute.g for node in graph.node for attribute in node.attribute if attribute.type == 5]
        return [node.op_type for node in graph.node] + [kind for one in inside for kind in kinds(one)]

    found = kinds(onnx.load(tmp_path / "optimized.onnx").graph)
    assert (found.count("Gelu"), found.count("Erf")) == (5, 0), "two blocks of each half, and the head"
