"""SigLIP and ViLT, which read texts and write none: equal to transformers (support/published_oracle.py wrote them)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy

from vtx_keras import explain, zoo
from vtx_keras.checkpoints import BadWeights
from vtx_keras.checkpoints.published import _said, _siglip
from vtx_keras.inputs.text import END, PAD, START

FIXTURES = Path(__file__).parents[1] / "fixtures/published"
KINDS = ("siglip", "vilt_vqa", "vilt_itm")
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_models: dict[str, object] = {}


def model_of(kind: str):
    if kind not in _models:
        _models[kind] = zoo.named(FIXTURES / kind)
    return _models[kind]


def expected(kind: str) -> tuple[dict, dict]:
    arrays = dict(np.load(FIXTURES / kind / "expected.npz"))
    return arrays, json.loads((FIXTURES / kind / "expected.json").read_text(encoding="utf-8"))


def tokens_of(model, texts: list[list[str]], length: int) -> np.ndarray:
    """Return pieces as the ids that `tokens_of` of a model gives, where END has its place."""
    rows = np.zeros((len(texts), length), "int32")
    for row, pieces in zip(rows, texts, strict=True):
        ids = [START, *(model.vocabulary.index(piece) for piece in pieces), END][:length]
        row[: len(ids)] = ids
    return rows


def inputs_of(kind: str) -> dict[str, np.ndarray]:
    model, (arrays, said) = model_of(kind), expected(kind)
    texts = said.get("texts") or [said["text"]] * len(arrays["pictures"])
    tokens = tokens_of(model, texts, model.options["max_length"])
    return {"image": arrays["pictures"].astype("float32"), "tokens": tokens}


@pytest.fixture
def copy(tmp_path):
    """Return a copy of a folder whose JSON files are changed; None removes a key."""

    def make(kind: str, file: str = "config.json", **changes) -> Path:
        folder = tmp_path / kind
        shutil.copytree(FIXTURES / kind, folder, dirs_exist_ok=True)
        values = json.loads((folder / file).read_text())
        for name, value in changes.items():
            part, _, key = name.rpartition("__")
            target = values[part] if part else values
            target.pop(key) if value is None else target.update({key: value})
        (folder / file).write_text(json.dumps(values))
        return folder

    return make


# --- SigLIP


def test_both_towers_of_siglip_equal_those_of_transformers():
    model, arrays, inputs = model_of("siglip"), expected("siglip")[0], inputs_of("siglip")
    image = np.asarray(model.tower("image")({"image": inputs["image"]}))
    text = np.asarray(model.tower("text")({"tokens": inputs["tokens"]}))
    assert np.abs(image - arrays["image"]).max() < 1e-5
    assert np.abs(text - arrays["text"]).max() < 1e-5
    pairs = model.get_layer("contrastive")
    logits = image @ text.T * np.exp(float(pairs.log_scale)) + float(pairs.bias)
    assert np.abs(logits - arrays["logits"]).max() < 1e-5
    assert np.ptp(arrays["logits"]) > 1
    assert model.options["loss"] == "sigmoid"
    model(inputs)
    np.testing.assert_allclose(float(model.losses[0]), arrays["loss"], rtol=1e-5)


def test_siglip_reads_all_places_of_a_text_whatever_its_length():
    """Padding is read: its row is that of the token which the checkpoint pads with, its end token."""
    model, inputs = model_of("siglip"), inputs_of("siglip")
    short = inputs["tokens"][5:6]
    assert np.count_nonzero(short) == 3
    tower = model.tower("text")
    whole, cut = (np.asarray(tower({"tokens": tokens})) for tokens in (short, short[:, :3]))
    np.testing.assert_array_equal(whole, cut)
    words = np.asarray(model.get_layer("text_encoder").get_layer("words").embeddings)
    np.testing.assert_array_equal(words[PAD], words[END])
    assert np.any(words[PAD])
    assert model.options["max_length"] == 17, "16 places, and a start that takes none"
    assert zoo.build("retriever", weights=FIXTURES / "siglip", max_length=8).options["max_length"] == 8
    with pytest.raises(ValueError, match="max_length=18: expected at most 17, which has positions"):
        zoo.build("retriever", weights=FIXTURES / "siglip", max_length=18)


def test_siglip_reads_lower_case_without_punctuation():
    model = model_of("siglip")
    np.testing.assert_array_equal(model.tokens_of("A cat,  on\nthe GRASS!"), model.tokens_of("a cat on the grass"))
    pieces = [model.vocabulary[i] for i in model.tokens_of("A cat!")[0]]
    assert pieces[:5] == ["[START]", "▁a", "▁cat", "[END]", "[PAD]"]
    pictures = expected("siglip")[0]["pictures"][:2]
    assert len(np.unique(model.similarity(pictures, ["a cat", "two dogs on grass"]))) == 4


def test_siglip_2_pads_with_its_padding_token_and_keeps_punctuation(copy):
    """Its published tokenizer is Gemma's, which keeps capitals: the texts of its training had none."""
    changes = {"pad_token": "<pad>", "tokenizer_class": "GemmaTokenizer", "do_lower_case": None}
    folder = copy("siglip", "tokenizer_config.json", **changes)
    model = zoo.named(folder)
    words = np.asarray(model.get_layer("text_encoder").get_layer("words").embeddings)
    stored = safetensors.numpy.load_file(folder / "model.safetensors")["text_model.embeddings.token_embedding.weight"]
    np.testing.assert_array_equal(words[PAD], stored[0].astype("float32"))
    np.testing.assert_array_equal(words[END], stored[1].astype("float32"))
    np.testing.assert_array_equal(model.tokens_of("A CAT"), model.tokens_of("a cat"))
    assert model.tokens_of("cat!")[0].tolist() != model.tokens_of("cat")[0].tolist()


PARTIAL = (  # what Google's config.json say
    {
        "architectures": ["SiglipModel"],
        "initializer_factor": 1.0,
        "model_type": "siglip",
        "text_config": {
            "hidden_size": 768, "intermediate_size": 3072, "model_type": "siglip_text_model",
            "num_attention_heads": 12, "vocab_size": 32000,
        },
        "vision_config": {"model_type": "siglip_vision_model", "patch_size": 16},
    },
    {
        "model_type": "siglip",
        "text_config": {"model_type": "siglip_text_model", "vocab_size": 256000},
        "vision_config": {"model_type": "siglip_vision_model"},
    },
)  # fmt: skip


@pytest.mark.parametrize("config", PARTIAL)
@pytest.mark.parametrize(("resample", "fit"), [(3, "stretch-bicubic"), (2, "stretch")])
def test_a_config_that_leaves_out_what_is_usual_means_the_base_model(copy, config, resample, fit):
    sides = {"height": 224, "width": 224}
    folder = copy("siglip", "preprocessor_config.json", size=sides, resample=resample)
    layout, order, vocabulary, fitted = _siglip.layout(_said.Said(config, "config.json"), folder, "retriever")
    block = {"dim": 768, "heads": 12, "hidden": 3072, "epsilon": 1e-6, "activation": "gelu_tanh"}
    assert layout["text"] == {**block, "depth": 12, "positions": 64, "padded": True}
    assert layout["pool"] == block
    rest = {"size": 224, "patch": 16, "depth": 12, "class_token": False, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert layout["vision"] == {**block, **rest}
    assert layout["embedding"] == 768
    assert fitted == fit
    rows = config["text_config"]["vocab_size"]
    assert len(vocabulary) == len(order.ids) == rows + 3, "two tokens have a use, and one of them two rows"


def test_a_config_without_a_class_is_known_by_its_model_type(copy):
    model, inputs = zoo.named(copy("siglip", architectures=None)), inputs_of("siglip")
    text = np.asarray(model.tower("text")({"tokens": inputs["tokens"]}))
    assert np.abs(text - expected("siglip")[0]["text"]).max() < 1e-5


# --- ViLT


@pytest.mark.parametrize("kind", ["vilt_vqa", "vilt_itm"])
def test_logits_of_vilt_equal_those_of_transformers(kind):
    model, wanted = model_of(kind), expected(kind)[0]["logits"]
    assert np.abs(np.asarray(model(inputs_of(kind))) - wanted).max() < 1e-5
    assert np.ptp(wanted, axis=0).max() > 0.1


def test_answers_are_those_of_transformers():
    model, (arrays, said) = model_of("vilt_vqa"), expected("vilt_vqa")
    labels = json.loads((FIXTURES / "vilt_vqa/config.json").read_text())["id2label"]
    answers = model.answer(arrays["pictures"], " ".join(said["text"]))
    assert answers == [labels[str(i)] for i in arrays["logits"].argmax(axis=1)]
    assert len(set(answers)) > 2
    assert set(answers) < set(model.class_names) == set(labels.values())
    assert model.tokens_of("is it red?")[0].tolist().count(END) == 1


def test_matches_are_those_of_transformers():
    model, (arrays, said) = model_of("vilt_itm"), expected("vilt_itm")
    wanted = 1 / (1 + np.exp(-arrays["logits"][:, 0].astype("float64")))
    np.testing.assert_allclose(model.match(arrays["pictures"], " ".join(said["text"])), wanted, atol=1e-5)


def test_vilt_learns_and_is_explained():
    model, inputs = zoo.named(FIXTURES / "vilt_vqa"), inputs_of("vilt_vqa")
    labels = np.arange(8) % 4
    model.freeze("image")
    model.optimizer.learning_rate = 3e-3
    history = model.fit(inputs, labels, epochs=40, batch_size=8, verbose=0).history["loss"]
    assert history[-1] < 0.3 < history[0]
    question = " ".join(expected("vilt_vqa")[1]["text"])
    assert model.answer(inputs["image"], question) == [model.class_names[i] for i in labels]
    maps = explain.attention(model, inputs["image"][0], question).maps
    assert maps.shape[1:] == (3, 3), "patches without the class token"
    assert model.behind_encoder().image_shape == (10, 32)


def test_siglip_learns_which_texts_belong_to_which_pictures():
    model, inputs = zoo.named(FIXTURES / "siglip"), inputs_of("siglip")
    model.optimizer.learning_rate = 1e-3
    history = model.fit(inputs, epochs=40, batch_size=8, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


# --- ordinary models of the zoo


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_saved_and_loaded_in_both_forms(kind, tmp_path):
    model, inputs = model_of(kind), inputs_of(kind)
    wanted = np.asarray(model(inputs))
    zoo.save(model, tmp_path / "folder")
    zoo.save(model, tmp_path / "model.keras")
    for path in ("folder", "model.keras"):
        loaded = zoo.load(tmp_path / path)
        np.testing.assert_allclose(np.asarray(loaded(inputs)), wanted, atol=1e-6)
        assert loaded.options == model.options
        np.testing.assert_array_equal(loaded.tokens_of("A cat on the grass."), model.tokens_of("A cat on the grass."))
    shorter = zoo.build(model.spec["name"], weights=tmp_path / "folder", max_length=9, dtype="mixed_bfloat16")
    assert shorter.options["max_length"] == 9
    near = np.asarray(shorter({**inputs, "tokens": inputs["tokens"][:, :9]}), "float32")
    rows = np.count_nonzero(inputs["tokens"], axis=1) <= 9
    assert np.abs(near - wanted)[rows].max() < 0.1


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_exported_to_litert(kind, tmp_path):
    pytest.importorskip("ai_edge_litert.interpreter")
    from vtx_keras import export

    texts = ["a cat on the grass", "two dogs", "a red ball", "a man holding a bus"]
    rows = [
        {"image": picture, "text": text, "answer": "yes"}
        for picture, text in zip(expected(kind)[0]["pictures"], texts, strict=False)
    ]
    report = export.litert(model_of(kind), tmp_path / "model.tflite", verify_data=rows)
    assert report.ok
    assert report.identical == report.n == 4
    assert report.difference < 1e-4


# --- what does not fit


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("siglip", {"architectures": ["SiglipForImageClassification"]}, "is of SiglipForImageClassification: expected"),
        ("siglip", {"text_config": None}, "has no 'text_config': it is the config of another architecture"),
        ("siglip", {"text_config__projection_size": 32}, "embeds texts in 32 numbers, and images in 24"),
        ("siglip", {"vision_config__hidden_act": "mish"}, "hidden_act 'mish': expected one of gelu"),
        ("siglip", {"vision_config__image_size": None}, r"prepares pictures of \(48, 48\), and the model reads 224"),
        ("vilt_vqa", {"num_attention_heads": None}, "has no 'num_attention_heads', and weights do not tell"),
        ("vilt_vqa", {"id2label": None}, "has no 'id2label', and weights do not tell"),
        ("vilt_vqa", {"id2label": {"0": "yes", "1": "yes"}}, "an id2label of 2: expected distinct answers from 0 on"),
        ("vilt_vqa", {"id2label": {"1": "yes", "2": "no"}}, "an id2label of 2: expected distinct answers from 0 on"),
        (
            "vilt_vqa",
            {"id2label": {"0": "yes", "1": "no"}},
            r"head/kernel .*: expected shape \(64, 2\), found \(64, 10",
        ),
        ("vilt_itm", {"architectures": ["ViltForQuestionAnswering"]}, "classifier.0.weight: expected, not found"),
        ("vilt_itm", {"architectures": None}, "is of no architecture: expected one of"),
    ],
)
def test_a_config_that_does_not_fit_says_so(copy, kind, changes, message):
    with pytest.raises(BadWeights, match=message):
        zoo.named(copy(kind, **changes))


def test_both_names_of_vilts_vqa_are_known(copy):
    model = zoo.named(copy("vilt_vqa", architectures=["ViltForVisualQuestionAnswering"]))
    assert model.spec["name"] == "merged_attn_vqa"
    with pytest.raises(BadWeights, match=r"is a merged_attn_matcher, not a merged_attn_vqa: zoo\.build"):
        zoo.build("merged_attn_vqa", weights=FIXTURES / "vilt_itm")


def test_tokenizers_that_do_not_fit_say_so(copy):
    folder = copy("siglip")
    (folder / "tokenizer.json").rename(folder / "spiece.model")
    with pytest.raises(BadWeights, match=r"spiece\.model alone, which is not read: expected tokenizer\.json"):
        zoo.named(folder)
    with pytest.raises(BadWeights, match=r"tokenizer has no <eos>: it is that of another architecture"):
        zoo.named(copy("siglip", "tokenizer_config.json", eos_token={"content": "<eos>"}))
    folder = copy("vilt_vqa")
    pieces = (folder / "vocab.txt").read_text().replace("[SEP]", "[END]")
    (folder / "vocab.txt").write_text(pieces)
    with pytest.raises(BadWeights, match=r"tokenizer has no \[SEP\]"):
        zoo.named(folder)


def test_a_fused_projection_of_another_width_is_named(copy):
    folder = copy("siglip")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    name = "vision_model.head.attention.in_proj_weight"
    tensors[name] = tensors[name][:-1]
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BadWeights, match=r"image_pool/attention/key_value/kernel from .*: expected shape \(24, 48\)"):
        zoo.named(folder)


@pytest.mark.parametrize("size", [384, {"shortest_edge": 384}])
@pytest.mark.parametrize("resample", [{"resample": 3}, {}])
def test_vilts_processors_stretch_pictures(copy, size, resample):
    """As the published ones are written, by old and new releases of transformers."""
    folder = copy("vilt_vqa")
    kind = {"size_divisor": 32, "feature_extractor_type": "ViltFeatureExtractor", "do_resize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps({**HALF, "size": size, **kind, **resample}))
    scaling, fit = _said.pixels(folder, 384)
    assert fit == "stretch-bicubic"
    assert scaling == {"mean": [0.5] * 3, "std": [0.5] * 3}
