"""Files that tell where each word looks, as `explain.attention` does."""

from __future__ import annotations

import json
import zipfile

import keras
import numpy as np
import onnx
import pytest
from toys import decisive, texts, toy, vtx

from vtx_keras import data, explain, export

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")
PHOTO = data.sample("photos/dogs.jpg")


def outputs_of(path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """What a file of one example gives."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path))
        return dict(zip([one.name for one in session.get_outputs()], session.run(None, inputs), strict=True))
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path)).get_signature_runner("serving_default")(**inputs)


@pytest.mark.parametrize(
    ("name", "form"), [("cross_attn_captioner", "onnx"), ("merged_attn_captioner", "litert"), ("co_attn_vqa", "onnx")]
)
def test_a_file_tells_where_each_word_looks(name, form, tmp_path):
    keras.utils.set_random_seed(0)
    captions = name.endswith("captioner")
    model = decisive(name) if captions else toy(name)
    said = None if captions else texts(1)[0]
    row = {"image": PHOTO, **({"caption": "w1"} if captions else {"question": said, "answer": "yes"})}
    path = tmp_path / ("model.onnx" if form == "onnx" else "model.tflite")
    report = getattr(export, form)(model, path, attention=True, verify_data=[row])
    assert report.identical == 1
    pixels = np.rint(model.prepare([PHOTO])[0]).astype("uint8")
    found = outputs_of(path, image=pixels, **({} if captions else {"tokens": model.tokens_of([said])}))
    expected = explain.attention(model, PHOTO, said)
    first = 0 if captions else 1  # of the texts that are read, the start comes before the words
    maps = found["attention"][0, first : first + len(expected.words)]  # each word of a toy is one piece
    assert maps.shape == expected.maps.shape
    np.testing.assert_allclose(maps, expected.maps, atol=1e-6)
    if form == "onnx":
        stored = {one.key: one.value for one in onnx.load(path).metadata_props}
        about = json.loads(stored["model.json"])
        assert stored["vocabulary.txt"].split("\n")[:-1] == list(model.vocabulary)
        assert json.loads((tmp_path / "model.json").read_text()) == about
    else:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read("model.json"))
    assert about["attention"] == list(expected.maps.shape[1:])


@pytest.mark.parametrize(
    ("name", "settings"),
    [("gated_captioner", {}), ("retriever", {}), ("cross_attn_captioner", {"form": "split"})],
)
def test_a_file_that_cannot_tell_is_refused(name, settings, tmp_path):
    with pytest.raises(ValueError, match=r"attention=True: .* attends to the image"):
        export.onnx(toy(name), tmp_path / "model.onnx", attention=True, **settings)


def test_servers_have_no_attention(tmp_path):
    done = vtx("export", "cross_attn_captioner", "--attention", "--out", tmp_path)
    assert (done.exit_code, "--attention is for litert and onnx" in done.stderr) == (2, True)
