"""Published checkpoints that are spoilt, odd, or used in ways that their authors did not think of."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy

from vtx_keras import explain, zoo
from vtx_keras.checkpoints import BadWeights
from vtx_keras.checkpoints.published import _said
from vtx_keras.inputs.text import START

FIXTURES = Path(__file__).parents[1] / "fixtures/published"
PICTURE = np.load(FIXTURES / "blip/expected.npz")["pictures"][0]


@pytest.fixture
def copy(tmp_path):
    def make(kind: str, file: str | None = None, change=None) -> Path:
        folder = tmp_path / kind
        shutil.copytree(FIXTURES / kind, folder, dirs_exist_ok=True)
        if file:
            values = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
            (folder / file).write_text(json.dumps(change(values)))
        return folder

    return make


def with_text(**changes):
    return lambda config: {**config, "text_config": {**config["text_config"], **changes}}


def with_decoder(**changes):
    return lambda config: {**config, "decoder": {**config["decoder"], **changes}}


def also(**changes):
    return lambda values: {**values, **changes}


def test_a_keras_file_opens_in_a_process_that_knows_nothing_of_it(tmp_path):
    paths = []
    for kind in ("blip", "clip", "vilt_vqa"):
        zoo.save(zoo.named(FIXTURES / kind), tmp_path / f"{kind}.keras")
        paths.append(str(tmp_path / f"{kind}.keras"))
    script = "import sys\nfrom vtx_keras import zoo\nfor path in sys.argv[1:]: print(zoo.load(path).name)"
    run = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True)
    assert run.stdout.split() == ["captioner", "retriever", "vqa"], run.stderr


def test_pieces_with_the_end_of_a_line_are_saved(tmp_path):
    model = zoo.named(FIXTURES / "blip")
    model.spec["vocabulary"][-2:] = ["\n\n", "a\rb"]
    zoo.save(model, tmp_path / "mine")
    assert zoo.load(tmp_path / "mine").vocabulary[-2:] == ("\n\n", "a\rb")


@pytest.mark.parametrize(
    ("kind", "name"),
    [("vit_gpt2", "decoder.lm_head.weight"), ("blip", "text_decoder.cls.predictions.decoder.weight")],
)
def test_a_head_that_is_not_the_word_table_is_an_error(copy, kind, name):
    folder = copy(kind)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    table = {"vit_gpt2": "decoder.transformer.wte.weight"}.get(
        kind, "text_decoder.bert.embeddings.word_embeddings.weight"
    )
    for values, fits in ((tensors[table], True), (tensors[table] + 1, False)):
        safetensors.numpy.save_file({**tensors, name: values.copy()}, folder / "model.safetensors")
        if fits:
            zoo.named(folder)
        else:
            with pytest.raises(BadWeights, match=f"{name}: expected the values of {table}"):
                zoo.named(folder)


def test_a_head_of_its_own_is_used_where_the_config_says_so(copy):
    folder = copy("vit_gpt2", "config.json", with_decoder(tie_word_embeddings=False))
    with pytest.raises(BadWeights, match=r"decoder\.lm_head\.weight: expected, not found"):
        zoo.named(folder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    head = np.zeros_like(tensors["decoder.transformer.wte.weight"])
    safetensors.numpy.save_file({**tensors, "decoder.lm_head.weight": head}, folder / "model.safetensors")
    model = zoo.named(folder)
    logits = np.asarray(model({"image": PICTURE[None].astype("float32"), "tokens": np.array([[START]], "int32")}))
    assert np.all(logits[0, 0, 5:] == 0)
    assert np.all(np.asarray(model.generate_ids(PICTURE[None].astype("float32"), max_length=2)[0]) >= 0)


@pytest.mark.parametrize(
    ("kind", "file", "change", "message"),
    [
        ("vit_gpt2", "config.json", with_decoder(scale_attn_by_inverse_layer_idx=True), "scales attention in a way"),
        ("vit_gpt2", "config.json", with_decoder(scale_attn_weights=False), "scales attention in a way"),
        ("blip", "config.json", with_text(layer_norm_eps=float("nan")), "epsilon nan of the text"),
        ("blip", "config.json", with_text(layer_norm_eps="x"), "epsilon 'x' of the text"),
        ("blip", "config.json", with_text(hidden_size=10**12), "dim 1000000000000 of the text"),
        ("blip", "config.json", with_text(num_hidden_layers=10**6), "depth 1000000 of the text"),
        ("blip", "config.json", with_text(num_attention_heads=5), "does not divide by 5 heads"),
        ("blip", "config.json", with_text(hidden_act=["gelu"]), "expected one of gelu"),
        ("blip", "config.json", with_text(bos_token_id=[1, 2]), "expected ids below 200"),
        ("blip", "config.json", also(architectures="BlipForConditionalGeneration"), "expected a list of names"),
        ("clip", "preprocessor_config.json", also(size={"shortest_edge": 64}), "crops to 48: expected 48 for both"),
        ("blip", "preprocessor_config.json", also(do_rescale=False), "do_rescale false"),
        ("blip", "preprocessor_config.json", also(do_resize=False), "do_resize false"),
        ("blip", "preprocessor_config.json", also(size={"shortest_edge": 48}), "the model reads 48 × 48"),
        ("blip", "preprocessor_config.json", also(size={"height": 48}), "the model reads 48 × 48"),
        ("blip", "preprocessor_config.json", also(size=[48, 48]), "expected a number, or height and width"),
        ("blip", "preprocessor_config.json", also(image_mean=[0.5]), "expected three numbers"),
        ("blip", "preprocessor_config.json", also(image_std=[0, 0, 0]), "expected three numbers, of a std above 0"),
        ("blip", "preprocessor_config.json", also(resample=[3]), "expected 1, 2, 3"),
        ("blip", "preprocessor_config.json", also(rescale_factor="x"), "rescale_factor of 'x'"),
        ("blip", "tokenizer_config.json", also(do_lower_case="false"), "expected true, false or null"),
        ("blip", "added_tokens.json", also(more=-3), "expected pieces with ids from 0 on"),
        ("blip", "added_tokens.json", also(more="7"), "expected pieces with ids from 0 on"),
        ("blip", "added_tokens.json", also(more=7), "two pieces of its tokenizer have the same id"),
        ("clip", "tokenizer.json", also(model=None), "has no vocab"),
        ("clip", "tokenizer.json", also(added_tokens=["a"]), "added_tokens of another form"),
    ],
)
def test_what_a_folder_says_is_checked(copy, kind, file, change, message):
    with pytest.raises(BadWeights, match=message):
        zoo.named(copy(kind, file, change))


@pytest.mark.parametrize(
    ("lines", "message"),
    [("\n", "no pieces"), ("[PAD]\n[PAD]\n", r"has '\[PAD\]' twice"), ("a\nb\n", "expected ids below|has no")],
)
def test_a_vocabulary_that_is_none_is_an_error(copy, lines, message):
    for kind in ("blip", "blip_itm"):
        folder = copy(kind)
        (folder / "vocab.txt").write_text(lines)
        with pytest.raises(BadWeights, match=message if kind == "blip_itm" or "twice" in message else "."):
            zoo.named(folder) if kind == "blip_itm" or "twice" in message else _said.pieces(folder, 1)


def test_a_config_that_is_cut_off_says_so(copy):
    folder = copy("blip")
    whole = (folder / "config.json").read_text()
    (folder / "config.json").write_text(whole[:200])
    with pytest.raises(BadWeights, match="is no JSON, or is cut off"):
        zoo.build("cross_attn_captioner", weights=folder)
    (folder / "config.json").write_text(whole, encoding="utf-8-sig")
    assert zoo.named(folder).name == "captioner"
    with pytest.raises(BadWeights, match="did you mean blip_base"):
        zoo.build("cross_attn_captioner", weights="blip_bas")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"repetition_penalty": 0}, "repetition_penalty=0: expected a number above 0"),
        ({"repetition_penalty": "a"}, "expected a number above 0"),
        ({"early_stopping": "sometimes"}, 'expected False, True or "never"'),
        ({"no_repeat_ngram": -1}, "expected a whole number"),
        ({"min_length": 2.5}, "expected a whole number"),
        ({"length_penalty": "x"}, "expected a number"),
        ({"suppressed": 7}, "expected ids of the vocabulary"),
        ({"suppressed": (5, 99999)}, "expected ids of the vocabulary"),
        ({"first": 99999}, "expected an id of the vocabulary"),
        ({"sampler": "top_p", "min_length": 3}, "min_length: a rule of the search, which has no effect with a sampler"),
    ],
)
def test_values_of_rules_are_checked(rules, message):
    with pytest.raises(ValueError, match=message):
        zoo.named(FIXTURES / "blip").generate(PICTURE, max_length=5, **rules)


def test_rules_at_their_limits_are_obeyed():
    model = zoo.named(FIXTURES / "blip")
    assert len(model.generate(PICTURE, max_length=5, no_repeat_ngram=50)) == 1
    word = model.generate(PICTURE, max_length=1)[0]
    other = model.generate(PICTURE, max_length=1, suppressed=[model.vocabulary.index(word)])[0]
    assert other not in (word, "")


@pytest.mark.parametrize("method", ["attention", "gradcam"])
def test_words_are_explained_in_the_spelling_of_the_checkpoint(method):
    model = zoo.named(FIXTURES / "vit_gpt2")
    picture = np.load(FIXTURES / "vit_gpt2/expected.npz")["pictures"][0]
    shown = explain.attention(model, picture, "a man on the street", method=method)
    assert shown.words == ["a", "man", "on", "the", "street"]
    assert shown.maps.shape == (5, 3, 3)
    assert np.all(np.isfinite(shown.maps))


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="reads tf.data")
def test_a_published_captioner_is_trained_for_its_own_captions(tmp_path):
    from vtx_keras import data, train

    table = tmp_path / "mine.csv"
    photos = [data.sample(f"photos/{name}.jpg") for name in ("cat", "coffee")]
    table.write_text("image,caption\n" + "".join(f"{photo},a red {photo.stem}\n" for photo in photos))
    model = zoo.named(FIXTURES / "blip")
    model.freeze("image")
    before = np.array(model.blocks[0].mlp.up.kernel)
    examples = data.from_csv(table, allow_outside=True)
    train.run(model, examples, tmp_path / "run", epochs=1, batch_size=2, objective="cider")
    assert np.abs(np.array(model.blocks[0].mlp.up.kernel) - before).max() > 0


def test_likelihood_is_the_sum_of_what_the_graph_says():
    model = zoo.named(FIXTURES / "git")
    ids = [model.vocabulary.index(word) for word in ("a", "cat")]
    inputs = {"image": PICTURE[None].astype("float32"), "tokens": np.array([[START, *ids]], "int32")}
    logits = np.asarray(model(inputs), "float64")[0]
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = chances[0, ids[0]] + chances[1, ids[1]] + chances[2, 3]
    assert model.likelihood([PICTURE], ["a cat"])[0] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="exports are made by TensorFlow")
@pytest.mark.parametrize("kind", ["git", "vit_gpt2"])
def test_the_programs_for_users_say_what_the_model_says(kind, tmp_path):
    """They fit pictures by CLIP's rule (GIT), and join pieces whose characters stand for bytes (GPT-2)."""
    from paths import ROOT

    from vtx_keras import data, export

    model, photo = zoo.named(FIXTURES / kind), str(data.sample("photos/cat.jpg"))
    said = model.generate(photo, prompt="a man", max_length=8)[0]
    assert said.startswith("a man")
    few = [{"image": photo, "caption": "a"}]
    export.litert(model, tmp_path / "m.tflite", prompt="a man", max_length=8, verify_data=few)
    run = subprocess.run(
        [sys.executable, str(ROOT / "export/mobile/run.py"), str(tmp_path / "m.tflite"), photo],
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == said, run.stderr
