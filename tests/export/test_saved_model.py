"""A SavedModel gives what its model gives, and one bad row leaves the others alone."""

from __future__ import annotations

import importlib.util
import json
import shutil
import threading
import urllib.error
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from images import bomb
from paths import PROGRAMS
from toys import WORDS, decisive, toy

from vtx_keras import data, export, zoo
from vtx_keras.export import _saved_model as savedmodel
from vtx_keras.inputs import media

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")


PHOTOS = sorted(Path(str(data.sample("photos/cat.jpg"))).parent.glob("*.jpg"))
EMOJI = sorted(Path(str(data.sample("emoji/bus-noto.png"))).parent.glob("*.png"))


def examples(**more):
    return [
        {"path": str(path), "caption": WORDS[i], "question": " ".join(WORDS[i : i + 3])}
        for i, path in enumerate([*PHOTOS[:4], *EMOJI[:4]])
    ]


def texts_of(outputs):
    return [one.decode() for one in outputs.numpy()]


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """A captioner, its folder in the layout of TensorFlow Serving, and the report."""
    model, folder = decisive("cross_attn_captioner"), tmp_path_factory.mktemp("captions")
    return model, folder, export.saved_model(model, folder / "1", beams=2, max_length=6, verify_data=examples())


def test_a_captioner_gives_the_same_captions_in_its_own_process(captions):
    _model, folder, report = captions
    assert (report.ok, report.identical, report.n, report.format) == (True, 8, 8, "savedmodel")
    assert report.difference < 1e-5
    assert json.loads((folder / "1/assets.extra/model.json").read_text())["beams"] == 2
    assert not any("Text" in name or "Py" in name for name in savedmodel.operations(folder / "1"))


def test_its_signature_takes_bytes_and_gives_one_string(captions):
    model, folder, _ = captions
    signature = tf.saved_model.load(str(folder / "1")).signatures["serving_default"]
    specs = signature.structured_input_signature[1]
    assert [(name, spec.dtype, spec.shape.as_list()) for name, spec in specs.items()] == [
        ("image_bytes", tf.string, [None])
    ]
    kinds = {name: spec.dtype for name, spec in signature.structured_outputs.items()}
    assert kinds == {"caption": tf.string, "score": tf.float32, "ok": tf.bool}
    items = [b"<html>", *(path.read_bytes() for path in [*PHOTOS, *EMOJI[:10]]), bomb()]
    outputs = signature(image_bytes=tf.constant(items))
    assert outputs["ok"].numpy().tolist() == [False, *[True] * (len(items) - 2), False]
    wanted = model.generate(items, beams=2, max_length=6, on_error="none")
    assert texts_of(outputs["caption"]) == [one or "" for one in wanted]
    assert outputs["score"].numpy()[[0, -1]].tolist() == [0, 0]
    assert (outputs["score"].numpy()[1:-1] < 0).all()
    assert signature(image_bytes=tf.zeros([0], tf.string))["caption"].shape == (0,)


def test_older_loaders_read_it_and_it_can_be_saved_again(captions, tmp_path):
    _, folder, _ = captions
    photo = PHOTOS[0].read_bytes()
    loaded = tf.saved_model.load(str(folder / "1"))
    expected = loaded.signatures["serving_default"](image_bytes=tf.constant([photo]))["caption"].numpy().tolist()
    tf.saved_model.save(loaded, str(tmp_path / "again"), signatures=dict(loaded.signatures))
    for place in (folder / "1", tmp_path / "again"):
        with tf.compat.v1.Session(graph=tf.Graph()) as session:
            signature = tf.compat.v1.saved_model.load(session, ["serve"], str(place)).signature_def["serving_default"]
            found = session.run(signature.outputs["caption"].name, {signature.inputs["image_bytes"].name: [photo]})
            assert found.tolist() == expected


def test_pixels_of_any_size_give_the_same_captions_as_files(captions):
    _, folder, _ = captions
    signatures = tf.saved_model.load(str(folder / "1")).signatures
    photo = media.read(PHOTOS[1])
    outputs = signatures["pixels"](image=tf.constant(photo[None]))
    files = signatures["serving_default"](image_bytes=tf.constant([PHOTOS[1].read_bytes()]))
    assert texts_of(outputs["caption"]) == texts_of(files["caption"])
    np.testing.assert_allclose(outputs["score"].numpy(), files["score"].numpy(), atol=1e-5)


def test_a_rest_client_gets_captions_without_the_package(captions, capsys):
    model, folder, _ = captions
    client, stand_in = (program(name) for name in ("client", "stand_in"))
    server = stand_in.serve(folder, "captions", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://localhost:{server.server_port}"
        client.main([str(PHOTOS[0]), __file__, "--url", url])
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["ok"] for row in rows] == [True, False]
        assert [row["caption"] for row in rows] == [*model.generate(PHOTOS[0], beams=2, max_length=6), ""]
        with pytest.raises(SystemExit, match=r"expected \['image_bytes'\]"):
            client.main([str(PHOTOS[0]), "--question", "what?", "--url", url])
        for body in (b"", b"{", b"[]", b'{"inputs": 3}', b'{"inputs": {"image_bytes": [[1]]}}'):
            request = urllib.request.Request(f"{url}/v1/models/captions:predict", body)
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(request)
        client.main([str(PHOTOS[0]), "--url", url])
        assert json.loads(capsys.readouterr().out)["caption"] == rows[0]["caption"], "the server has suffered"
        for arguments, told in (
            (["none.jpg", "--url", url], "cannot be read"),
            ([str(PHOTOS[0]), "--url", "localhost"], "expected an address"),
            ([str(PHOTOS[0]), "--url", "http://localhost:1", "--retries", "0"], "does not answer"),
            (["--url", url], "2"),
        ):
            with pytest.raises(SystemExit, match=told):
                client.main(arguments)
    finally:
        server.shutdown()
        server.server_close()


def test_an_incomplete_folder_is_not_served(captions, tmp_path):
    stand_in = program("stand_in")
    with pytest.raises(SystemExit, match="has no version"):
        stand_in.serve(tmp_path / "none", "captions", 0)
    for name in ("saved_model.pb", "variables/variables.data-00000-of-00001"):
        shutil.copytree(captions[1] / "1", tmp_path / "1", dirs_exist_ok=True)
        with open(tmp_path / "1" / name, "r+b") as file:
            file.truncate(5000)
        with pytest.raises(SystemExit, match="not a complete SavedModel"):
            stand_in.serve(tmp_path, "captions", 0)


def program(name):
    path = PROGRAMS / "serving" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"serving_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_answers_are_names_with_probabilities(tmp_path):
    model = toy("gated_vqa")
    report = export.saved_model(model, tmp_path / "1", verify_data=examples())
    assert report.identical == report.n == 8
    files, questions = [path.read_bytes() for path in PHOTOS[:4]], ["w1 W2", "", "w3\u2028w4", "?"]
    outputs = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"](
        image_bytes=tf.constant([*files[:3], b""]), question=tf.constant(questions)
    )
    assert outputs["ok"].numpy().tolist() == [True, False, True, False]
    right = [0, 2]
    wanted = model.answer([files[i] for i in right], [questions[i] for i in right])
    assert texts_of(outputs["answer"]) == [wanted[0], "", wanted[1], ""]
    np.testing.assert_allclose(outputs["scores"].numpy().sum(axis=1), [1, 0, 1, 0], atol=1e-6)
    np.testing.assert_array_equal(outputs["score"].numpy(), outputs["scores"].numpy().max(axis=1))


@pytest.mark.slow
def test_several_labels_are_joined_and_a_text_may_be_missing():
    model = toy("co_attn_classifier", multi_label=True, allow_empty=True)
    files, texts = [path.read_bytes() for path in PHOTOS[:5]], ["w1", "", "w2 w3", "w4", "w5"]
    outputs = savedmodel.signatures(model)["serving_default"](tf.constant(files), tf.constant(texts))
    assert outputs["ok"].numpy().all()
    assert texts_of(outputs["answer"]) == [", ".join(names) for names in model.answer(files, texts)]


def test_matches_are_probabilities_and_each_picture_needs_a_text():
    model = toy("merged_attn_matcher")
    serve = savedmodel.signatures(model)["serving_default"]
    files, texts = [path.read_bytes() for path in PHOTOS[:3]], ["w1", "w2 w3", "w4"]
    outputs = serve(tf.constant(files), tf.constant(texts))
    np.testing.assert_allclose(outputs["score"].numpy(), model.match(files, texts), atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a text for each picture"):
        serve(tf.constant(files), tf.constant(texts[:1]))


def test_a_retriever_embeds_pictures_and_texts():
    model = toy("retriever")
    made = savedmodel.signatures(model)
    files, texts = [path.read_bytes() for path in PHOTOS[:3]], ["w1", "w2 w3"]
    seen, read = made["serving_default"](tf.constant([*files, b""])), made["text"](tf.constant([*texts, ""]))
    assert seen["ok"].numpy().tolist() == [True, True, True, False]
    assert read["ok"].numpy().tolist() == [True, True, False]
    found = seen["image_embedding"].numpy() @ read["text_embedding"].numpy().T
    np.testing.assert_allclose(found[:3, :2], model.similarity(files, texts), atol=1e-5)
    assert not found[3].any()


def test_a_clip_is_several_images():
    model = decisive("gated_video_captioner")
    made = savedmodel.signatures(model)
    clips = [[path.read_bytes() for path in PHOTOS[i : i + 3]] for i in range(3)]
    outputs = made["serving_default"](tf.constant([*clips, [b"", *clips[0][1:]]]))
    assert texts_of(outputs["caption"]) == [*model.generate(clips), ""]
    arrays = np.random.default_rng(0).integers(0, 256, (2, 5, 24, 40, 3), "uint8")
    assert texts_of(made["pixels"](tf.constant(arrays))["caption"]) == model.generate(arrays)


@pytest.mark.slow
def test_xla_gives_the_same_captions():
    made = savedmodel.signatures(decisive("concat_mlp_captioner"), jit_compile=True)
    files = tf.constant([path.read_bytes() for path in PHOTOS[:4]])
    assert texts_of(made["xla"](files)["caption"]) == texts_of(made["serving_default"](files)["caption"])


@pytest.mark.slow
def test_an_export_that_differs_does_not_get_its_name(tmp_path, monkeypatch):
    model = decisive("cross_attn_captioner")
    monkeypatch.setattr(savedmodel._strings, "sentences", lambda ids, vocabulary: tf.strings.as_string(ids[:, 0]))
    with pytest.raises(export.NotEqual, match="0/8"):
        export.saved_model(model, tmp_path / "1", verify_data=examples())
    assert not (tmp_path / "1").exists()
    assert (tmp_path / "1.failed/saved_model.pb").is_file()


def test_mistakes_are_errors_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="beams=0"):
        export.saved_model(decisive("gated_captioner"), tmp_path / "1", beams=0)
    with pytest.raises(ValueError, match="max_length=99"):
        export.saved_model(decisive("gated_captioner"), tmp_path / "1", max_length=99)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "thesis.txt").write_text("all of it")
    with pytest.raises(FileExistsError, match="other things"):
        export.saved_model(toy("gated_vqa"), tmp_path / "1")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in zoo.MODELS if not name.endswith("generator")])
def test_every_model_of_the_zoo_can_be_served(name, tmp_path):
    model = decisive(name) if name.endswith("captioner") else toy(name)
    report = export.saved_model(model, tmp_path / "1", verify_data=examples())
    assert report.ok


@pytest.mark.slow
def test_the_released_captioner_gives_the_same_captions_and_is_no_larger_than_its_weights(tmp_path):
    report = export.saved_model(zoo.build("cross_attn_captioner", weights="emoji"), tmp_path / "1")
    assert report.identical == report.n > 200
    assert report.megabytes <= 1.05 * report.weights_megabytes
