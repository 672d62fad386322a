"""What exporting promises in any format: limits that are kept, names given last, companions that agree with us."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from test_media import bomb
from test_repository import imported
from test_text import AWKWARD, CAPTIONS, ROUND_TRIPS
from toys import decisive, pictures, toy

from vtx_keras import data, export, zoo
from vtx_keras.cli import _export as bench
from vtx_keras.export import _graphs as companions
from vtx_keras.export import _verify as verify
from vtx_keras.inputs import text
from vtx_keras.inputs.media import prepare
from vtx_keras.models._captioner import Captioner

PROGRAMS = Path(__file__).parents[1] / "export"
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")
ODD = [
    "[PAD] [START] x",
    "\u65e5\u672c \u6f22\u5b57kanji",
    "na\u00efve \u0153uvre",
    "x" * 100,
    "x" * 101,
    "a_b^c`d~e",
    "\u2026\u2014",
]


@pytest.fixture(scope="module")
def model():
    return decisive("cross_attn_captioner")


@pytest.fixture(scope="module")
def tried(model):
    return verify.examples(model, limit=6)


def report_of(model, tried, found, path="model.tflite", quantize=None, **kwargs):
    cost = {"load_s": np.array(0.1), "ms": np.array([1.0, 2.0]), "peak_megabytes": np.array(50.0)}
    about = {"format": "litert", "form": "one", "megabytes": 1.0}
    wanted = verify.expected(model, tried)
    return verify.compare(
        model, tried, wanted, {**found, **cost}, path=Path(path), quantize=quantize, **about, **kwargs
    )


def test_the_sample_is_what_is_tried_by_default(tried):
    assert tried.images.shape == (6, 32, 32, 3)
    assert tried.images.dtype == np.uint8
    assert len({image.tobytes() for image in tried.images}) == 6
    assert all(isinstance(one, str) for many in tried.truth for one in many)


@pytest.mark.parametrize(
    "rows",
    [
        [{"image": np.full((9, 7, 3), 30, "uint8"), "caption": b"a cat"}],
        [{"image": np.full((9, 7, 3), 30, "uint8"), "captions": np.array([b"a cat", b"a grey cat"])}],
    ],
)
def test_examples_are_taken_as_data_gives_them(model, rows):
    found = verify.examples(model, rows)
    assert found.truth[0][0] == "a cat"
    np.testing.assert_array_equal(found.images[0], prepare(rows[0]["image"], (32, 32, 3)))


def test_examples_that_cannot_be_used_are_refused_with_a_reason(model):
    with pytest.raises(ValueError, match="verify_data is empty"):
        verify.examples(model, [])
    with pytest.raises(ValueError, match='expected "image"'):
        verify.examples(model, [{"photo": 1}])
    with pytest.raises(ValueError, match="picture 0 cannot be read"):
        verify.examples(model, [{"image": b"no picture"}])


def test_floats_must_say_the_same_and_smaller_files_nearly(model, tried):
    wanted = verify.expected(model, tried)
    assert report_of(model, tried, wanted).ok
    ids = wanted["ids"].copy()
    ids[0, 0] = 5 + (ids[0, 0] + 1) % 50  # another word
    changed = {**wanted, "ids": ids}
    assert not report_of(model, tried, changed).ok
    assert report_of(model, tried, changed).identical == 5
    assert not report_of(model, tried, changed, quantize="int8").ok
    small = report_of(model, tried, changed, quantize="int8", share=0.8)
    assert small.ok
    assert "80% identical" in str(small), "the limit is not told"
    assert not report_of(model, tried, {**wanted, "score": wanted["score"] * np.nan}).ok


def test_a_smaller_file_may_differ_where_its_metric_does_not():
    answerer = toy("gated_vqa")
    logits = np.array([[3.0, 0, 0], [0, 3, 0], [0, 0, 3], [1, 0, 0]], "float32")
    other = np.array([[3.0, 0, 0], [0, 3, 0], [0, 0, 3], [0, 1, 0]], "float32")
    tried = verify.examples(answerer, limit=4)._replace(truth=["no", "yes", "maybe", "maybe"])
    cost = {"load_s": np.array(0.1), "ms": np.ones(4), "peak_megabytes": np.array(1.0)}
    about = {"path": Path("x"), "format": "litert", "form": "one", "megabytes": 1.0}
    small = verify.compare(answerer, tried, {"logits": logits}, {"logits": other, **cost}, quantize="int8", **about)
    assert (small.identical, small.metric_model, small.metric_artifact, small.ok) == (3, 0.75, 0.75, True)
    assert not verify.compare(answerer, tried, {"logits": logits}, {"logits": other, **cost}, **about).ok


def test_the_name_is_given_last_and_a_failure_keeps_its_file_and_report(model, tried, tmp_path):
    good = report_of(model, tried, verify.expected(model, tried), path=tmp_path / "a.tflite")
    path = tmp_path / "deep" / "a.tflite"

    def write(target):
        assert not path.exists()
        target.write_bytes(b"first")
        (target.parent / "words.txt").write_text("w")

    assert verify.settle(path, write, lambda target: good) is good
    assert path.read_bytes() == b"first"
    assert json.loads((tmp_path / "deep/a.tflite.report.json").read_text())["identical"] == 6
    with pytest.raises(verify.NotEqual, match="share=") as caught:
        verify.settle(path, lambda target: target.write_bytes(b"second"), lambda target: replace(good, ok=False))
    assert path.read_bytes() == b"first", "the good file was lost"
    assert (tmp_path / "deep/a.tflite.failed").read_bytes() == b"second"
    assert "NOT EQUAL" in str(caught.value)
    with pytest.raises(ZeroDivisionError):
        verify.settle(path, lambda target: 1 / 0, lambda target: good)
    assert sorted(one.name for one in path.parent.iterdir()) == [
        "a.tflite", "a.tflite.failed", "a.tflite.failed.report.json", "a.tflite.report.json", "words.txt",
    ]  # fmt: skip


def test_a_folder_is_replaced_only_where_it_was_an_export(model, tried, tmp_path):
    good = report_of(model, tried, verify.expected(model, tried))

    def write(target):
        target.mkdir()
        (target / "saved_model.pb").write_bytes(b"x")

    for _ in range(2):
        verify.settle(tmp_path / "serving", write, lambda target: good)
    assert (tmp_path / "serving/saved_model.pb").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match="holds other things"):
        verify.settle(tmp_path / "mine", write, lambda target: good)
    assert (tmp_path / "mine/thesis.txt").is_file()


def test_hugging_face_cuts_texts_into_the_same_ids():
    tokenizers = pytest.importorskip("tokenizers")
    for vocabulary in (text.vocabulary(), text.learn(CAPTIONS)):
        theirs = tokenizers.Tokenizer.from_str(json.dumps(companions.tokenizer(vocabulary)))
        for one in [case for case in AWKWARD if "\ud83d" not in case] + CAPTIONS + ROUND_TRIPS + ODD:
            ids = text.encode([one], vocabulary, 200, allow_empty=True)[0]
            assert theirs.encode(one).ids == ids[ids > 0].tolist(), one


@pytest.fixture(scope="module")
def shared():
    sys.path.insert(0, str(PROGRAMS))
    try:
        import pictures_and_words
    finally:
        sys.path.remove(str(PROGRAMS))
    return pictures_and_words


def test_the_programs_cut_and_join_words_as_we_do(shared, model):
    vocabulary = text.vocabulary()
    about = {**companions.about(model, "one"), "max_length": 200, "allow_empty": True}
    for one in [case for case in AWKWARD if "\ud83d" not in case] + CAPTIONS + ROUND_TRIPS + ODD:
        ids = shared.tokens(one, about, list(vocabulary))
        np.testing.assert_array_equal(ids, text.encode([one], vocabulary, 200, start=True, allow_empty=True), one)
        assert shared.words(ids[0, 1:], about, list(vocabulary)) == text.decode(ids[:, 1:], vocabulary)[0]


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_the_programs_see_the_same_pixels(shared, fit, tmp_path):
    random = np.random.default_rng(0)
    for mode, size in (("RGB", (50, 31)), ("RGBA", (20, 64)), ("L", (33, 33)), ("1", (40, 30)), ("P", (40, 30))):
        image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 4), "uint8"), "RGBA").convert(mode)
        image.save(tmp_path / "one.png", exif=Image.Exif() if mode != "RGB" else _turned())
        for shape in ([32, 32, 3], [3, 32, 24, 3]):
            seen = shared.pixels(tmp_path / "one.png", {"image_shape": shape, "resize": fit})
            np.testing.assert_array_equal(seen[0], prepare(tmp_path / "one.png", shape, fit), f"{mode} {shape}")


@pytest.mark.parametrize("content", [b"", b"<html>", b"GIF89a", b"\xff\xd8\xff\xe0 cut off", bomb()])
def test_the_programs_refuse_what_is_no_whole_picture(shared, content, tmp_path):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises((OSError, ValueError, Image.DecompressionBombError)):
        shared.pixels(tmp_path / "bad.png", {"image_shape": [32, 32, 3], "resize": "pad"})


def test_the_programs_refuse_a_photo_cut_off_anywhere(shared, tmp_path):
    photo = Path(data.sample("photos/cat.jpg")).read_bytes()
    for share in (0.01, 0.5, 0.95):
        (tmp_path / "cut.jpg").write_bytes(photo[: int(share * len(photo))])
        with pytest.raises(OSError, match=r"(?i)truncated|cannot identify"):
            shared.pixels(tmp_path / "cut.jpg", {"image_shape": [32, 32, 3], "resize": "pad"})


def test_the_programs_refuse_texts_as_a_server_does(shared, model):
    vocabulary = list(model.vocabulary)
    about = companions.about(toy("gated_vqa"), "one")
    for one in ("", " \u200b\n", "\x07"):
        with pytest.raises(ValueError, match="no words"):
            shared.tokens(one, about, vocabulary)
        assert shared.tokens(one, {**about, "allow_empty": True}, vocabulary)[0, 1:].sum() == 0
    with pytest.raises(ValueError, match="10,000 bytes"):
        shared.tokens("w1 " * 4000, about, vocabulary)


def test_the_programs_refuse_a_vocabulary_that_is_not_whole(shared, model, tmp_path):
    files = companions.files(model, "one")
    path = tmp_path / "model.onnx"
    for cut in (0, 20, len(files["vocabulary.txt"]) - 1):
        (tmp_path / "model.json").write_text(files["model.json"])
        (tmp_path / "vocabulary.txt").write_text(files["vocabulary.txt"][:cut])
        with pytest.raises(ValueError, match=r"no whole model .*pieces"):
            shared.companions(path)
    (tmp_path / "vocabulary.txt").write_text(files["vocabulary.txt"])
    assert shared.companions(path)[1] == list(model.vocabulary)
    (tmp_path / "model.json").write_text(files["model.json"][:50])
    with pytest.raises(ValueError, match="no whole model"):
        shared.companions(path)
    path = tmp_path / "model.tflite"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    whole = path.read_bytes()
    assert shared.companions(path)[1] == list(model.vocabulary)
    at = whole.index(b"w17")
    for damaged in (b"", whole[:100], whole[:-1], whole[:-200], whole[:at] + b"w18" + whole[at + 3 :]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="no whole model"):
            shared.companions(path)


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    "file", sorted([*PROGRAMS.glob("*.py"), *PROGRAMS.glob("[!s]*/*.py")]), ids=lambda path: path.name
)
def test_the_programs_and_runners_name_none_of_our_packages(file):

    runners = Path(verify.__file__).with_name("runners").glob("run_[lo]*.py")
    for one in [file, *runners]:
        names = {name.split(".")[0] for name in imported(ast.parse(one.read_text()))}
        assert not names & {"vtx_keras", "keras", "tensorflow", "torch"}, one


def test_loading_the_room_and_its_command_is_cheap():
    script = (
        "import sys, vtx_keras.export, vtx_keras.export.cli; print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_another_backend_is_refused_with_the_way_out(tmp_path):
    script = (
        "from vtx_keras import export, zoo\n"
        "model = zoo.build('gated_vqa', weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))\n"
        f"export.litert(model, {str(tmp_path / 'x.tflite')!r})"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert "KERAS_BACKEND=tensorflow" in done.stderr
    assert "zoo.save" in done.stderr


def test_keras_own_export_keeps_working(model, tmp_path):
    import tensorflow as tf

    assert isinstance(model, Captioner)
    model.export(tmp_path / "logits", verbose=False)
    x = {"image": pictures(model, 2), "tokens": np.array([[2, 6], [2, 7]], "int32")}
    loaded = tf.saved_model.load(str(tmp_path / "logits"))
    np.testing.assert_allclose(np.array(loaded.serve(x)), np.array(model(x)), atol=1e-5)


def vtx(*arguments):
    return subprocess.run([sys.executable, "-m", "vtx_keras.cli", *map(str, arguments)], capture_output=True, text=True)


def test_files_are_measured_side_by_side(model):
    (report,) = bench.side_by_side(model, ["litert"], ["float32"], pictures=3, rounds=2)
    assert (report.format, report.identical, report.n) == ("litert", 3, 3)
    assert 0 < report.ms_p50 <= report.ms_p95
    header, line = bench.table([report]).splitlines()
    assert "faster" in header
    assert line.startswith("litert float32")


@pytest.mark.slow
def test_vtx_bench_measures_keras_and_files_in_processes_of_their_own(model, tmp_path):
    zoo.save(model, tmp_path / "mine.keras")
    few = ("--pictures", 3, "--rounds", 2, "--json")
    done = vtx("bench", tmp_path / "mine.keras", "--to", "keras,litert", "--quant", "float32", *few)
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout)
    assert (ours["format"], theirs["format"]) == ("keras", "litert")
    for report in (ours, theirs):
        assert (report["identical"], report["n"]) == (3, 3)
        assert 0 < report["ms_p50"] <= report["ms_p95"]
        assert min(report["load_s"], report["megabytes"]) > 0
    assert ours["peak_megabytes"] > theirs["peak_megabytes"], "one process measured for both"
    done = vtx("bench", tmp_path / "mine.keras", "--to", "tflite")
    assert (done.returncode, "expected some of keras, savedmodel, litert, onnx" in done.stderr) == (2, True)


def ran(program, *arguments):
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / program), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_five_runtimes_write_the_same_sentences(tmp_path):
    """Keras, XLA, and in processes that do not know us: a SavedModel behind a server, LiteRT, onnxruntime."""
    import tensorflow as tf

    model = zoo.build("cross_attn_captioner")
    sample = Path(data.sample("photos/cat.jpg")).parents[1]
    shown = [*sorted(sample.glob("photos/*.jpg")), *sorted(sample.glob("emoji/*.png"))[::8]]
    assert len(shown) >= 24
    said = {"keras": model.generate(shown)}
    compiled = tf.function(model.generate_ids, jit_compile=True, autograph=False)
    ids, _ = compiled(tf.constant(model.prepare(shown)[0]))
    said["xla"] = text.decode(ids, model.vocabulary)
    few = verify.rows_of(model, None, 2)
    export.litert(model, tmp_path / "model.tflite", verify_data=few)
    said["litert"] = [ran("mobile/run.py", tmp_path / "model.tflite", one).strip() for one in shown]
    export.onnx(model, tmp_path / "model.onnx", verify_data=few)
    said["onnx"] = [ran("onnx/run.py", tmp_path / "model.onnx", one).strip() for one in shown]
    export.saved_model(model, tmp_path / "captions/1", verify_data=few)
    command = [sys.executable, str(PROGRAMS / "serving/stand_in.py"), str(tmp_path / "captions"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().partition("/v1")[0]
            rows = ran("serving/client.py", *shown, "--url", url).splitlines()
        finally:
            server.terminate()
    said["savedmodel"] = [json.loads(row)["caption"] for row in rows]
    assert all(said["keras"])
    for name, sentences in said.items():
        assert sentences == said["keras"], name


@pytest.mark.parametrize("format", ["litert", "onnx", "saved_model"])
def test_a_prompt_is_fixed_in_the_file(model, tried, format, tmp_path):
    rows = [{"image": image, "caption": "a cat"} for image in tried.images]
    prompt = model.vocabulary[-1]
    name = {"litert": "model.tflite", "onnx": "model.onnx", "saved_model": "1"}[format]
    report = getattr(export, format)(model, tmp_path / name, prompt=prompt, verify_data=rows)
    assert report.identical == report.n == 6
    assert report.settings["prompt"] == prompt
    wanted = model.generate(list(tried.images), prompt=prompt)
    assert all(caption.startswith(prompt) for caption in wanted)
    if format == "litert":
        assert json.loads(zipfile.ZipFile(tmp_path / name).read("model.json"))["prompt"] == prompt
        found = verify.run("run_litert", tmp_path / name, {"image": tried.images})
        assert text.decode(found["ids"], model.vocabulary) == wanted


def test_prompts_are_one_for_all_pictures_or_one_for_each(model):
    images = pictures(model, 3)
    one = model.prompts(model.vocabulary[-1], 1, 8)
    expected = np.array(model.generate_ids(images, np.repeat(one, 3, axis=0))[0])
    np.testing.assert_array_equal(np.array(model.generate_ids(images, one)[0]), expected)
    with pytest.raises(ValueError, match="2 rows of prompt_ids for 3 pictures"):
        model.generate_ids(images, np.repeat(one, 2, axis=0))


def test_a_prompt_that_cannot_be_fixed_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="does not know"):
        export.litert(model, tmp_path / "model.tflite", prompt="\u2603")
    with pytest.raises(ValueError, match="first tokens"):
        export.onnx(model, tmp_path / "model.onnx", form="split", prompt=model.vocabulary[-1])
    with pytest.raises(ValueError, match="prompt= are for captioners"):
        export.saved_model(toy("gated_vqa"), tmp_path / "1", prompt="a")
