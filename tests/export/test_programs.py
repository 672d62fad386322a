"""The programs of export/: they prepare images and words as the package does, and caption in any runtime."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from images import bomb
from paths import PROGRAMS
from PIL import Image
from sentences import AWKWARD, CAPTIONS, ODD, ROUND_TRIPS
from toys import decisive, toy

from vtx_keras import data, export, zoo
from vtx_keras.export import _graphs as graphs
from vtx_keras.export import _verify as verify
from vtx_keras.inputs import text
from vtx_keras.inputs.media import prepare

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")


@pytest.fixture(scope="module")
def model():
    return decisive("cross_attn_captioner")


def test_hugging_face_encodes_texts_to_the_same_ids():
    tokenizers = pytest.importorskip("tokenizers")
    for vocabulary in (text.vocabulary(), text.learn(CAPTIONS)):
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(graphs.tokenizer(vocabulary)))
        for one in [case for case in AWKWARD if "\ud83d" not in case] + CAPTIONS + ROUND_TRIPS + ODD:
            ids = text.encode([one], vocabulary, 200, allow_empty=True)[0]
            assert tokenizer.encode(one).ids == ids[ids > 0].tolist(), one


@pytest.fixture(scope="module")
def shared():
    sys.path.insert(0, str(PROGRAMS))
    try:
        import pictures_and_words
    finally:
        sys.path.remove(str(PROGRAMS))
    return pictures_and_words


def test_the_programs_split_and_join_words_as_the_package_does(shared, model):
    vocabulary = text.vocabulary()
    about = {**graphs.describe(model, "one"), "max_length": 200, "allow_empty": True}
    for one in [case for case in AWKWARD if "\ud83d" not in case] + CAPTIONS + ROUND_TRIPS + ODD:
        ids = shared.tokens(one, about, list(vocabulary))
        np.testing.assert_array_equal(ids, text.encode([one], vocabulary, 200, start=True, allow_empty=True), one)
        assert shared.words(ids[0, 1:], about, list(vocabulary)) == text.decode(ids[:, 1:], vocabulary)[0]


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_the_programs_prepare_the_same_pixels(shared, fit, tmp_path):
    random = np.random.default_rng(0)
    for mode, size in (("RGB", (50, 31)), ("RGBA", (20, 64)), ("L", (33, 33)), ("1", (40, 30)), ("P", (40, 30))):
        image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 4), "uint8"), "RGBA").convert(mode)
        image.save(tmp_path / "one.png", exif=Image.Exif() if mode != "RGB" else _turned())
        for shape in ([32, 32, 3], [3, 32, 24, 3]):
            seen = shared.pixels(tmp_path / "one.png", {"image_shape": shape, "resize": fit})
            np.testing.assert_array_equal(seen[0], prepare(tmp_path / "one.png", shape, fit), f"{mode} {shape}")


@pytest.mark.parametrize("content", [b"", b"<html>", b"GIF89a", b"\xff\xd8\xff\xe0 cut off", bomb()])
def test_the_programs_refuse_a_broken_image(shared, content, tmp_path):
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
    about = graphs.describe(toy("gated_vqa"), "one")
    for one in ("", " \u200b\n", "\x07"):
        with pytest.raises(ValueError, match="no words"):
            shared.tokens(one, about, vocabulary)
        assert shared.tokens(one, {**about, "allow_empty": True}, vocabulary)[0, 1:].sum() == 0
    with pytest.raises(ValueError, match="10,000 bytes"):
        shared.tokens("w1 " * 4000, about, vocabulary)


def test_the_programs_refuse_an_incomplete_vocabulary(shared, model, tmp_path):
    files = graphs.companion_files(model, "one")
    path = tmp_path / "model.onnx"
    for cut in (0, 20, len(files["vocabulary.txt"]) - 1):
        (tmp_path / "model.json").write_text(files["model.json"])
        (tmp_path / "vocabulary.txt").write_text(files["vocabulary.txt"][:cut])
        with pytest.raises(ValueError, match=r"not a complete model .*sha256"):
            shared.companions(path)
    (tmp_path / "vocabulary.txt").write_text(files["vocabulary.txt"])
    assert shared.companions(path)[1] == list(model.vocabulary)
    (tmp_path / "model.json").write_text(files["model.json"][:50])
    with pytest.raises(ValueError, match="not a complete model"):
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
        with pytest.raises(ValueError, match="not a complete model"):
            shared.companions(path)


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    "file", sorted([*PROGRAMS.glob("*.py"), *PROGRAMS.glob("[!s]*/*.py")]), ids=lambda path: path.name
)
def test_the_programs_import_no_framework(file):
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    assert not {name.split(".")[0] for name in names} & {"vtx_keras", "keras", "tensorflow", "torch"}


# --- JavaScript, Kotlin

CASES = """import { readFileSync } from "node:fs";
import { companions, pixels, placed, tokens, words } from "./model.mjs";
const { images, ids, texts } = JSON.parse(readFileSync("cases.json"));
const { about, vocabulary } = companions(readFileSync("model.onnx"));
const seen = images.map((image) => Array.from(pixels(image, about)));
const said = ids.map((row) => words(row, about, vocabulary));
const read = texts.map((text) => tokens(text, about, vocabulary));
console.log(JSON.stringify({ seen, said, read, placed: placed(ids[0], about, vocabulary) }));
"""


def node(folder: Path, *arguments: str) -> str:
    if shutil.which("node") is None:
        pytest.skip("export/web/model.mjs was not run: there is no node here")
    run = subprocess.run(["node", *arguments], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture
def web(tmp_path):
    """A folder with model.mjs."""
    shutil.copy(PROGRAMS / "web/model.mjs", tmp_path)
    return tmp_path


def rgba(image: Image.Image) -> dict:
    return {"width": image.width, "height": image.height, "data": list(image.tobytes())}


def test_the_javascript_prepares_images_and_joins_words_as_the_package_does(web, model):
    random = np.random.default_rng(0)
    sizes = [(32, 32), (50, 31), (9, 70), (3, 5)]
    images = [Image.fromarray(random.integers(0, 256, (h, w, 4), "uint8"), "RGBA") for w, h in sizes]
    vocabulary = text.vocabulary()
    said = [*CAPTIONS, *ROUND_TRIPS, "", "[unk] ##"]
    ids = text.encode(said, vocabulary, 40, end=True, allow_empty=True)
    texts = [one for one in [*AWKWARD, *CAPTIONS, *ROUND_TRIPS, *ODD] if "\ud83d" not in one]
    about = {**graphs.describe(model, "one"), "pieces": len(vocabulary), "max_length": 40, "allow_empty": True}
    file = onnx.ModelProto(ir_version=8)
    file.graph.initializer.add().raw_data = bytes(random.integers(0, 256, 1000, "uint8"))
    for key, value in {"model.json": json.dumps(about), "vocabulary.txt": "\n".join(vocabulary) + "\n"}.items():
        file.metadata_props.add(key=key, value=value)
    (web / "model.onnx").write_bytes(file.SerializeToString())
    cases = {"images": [*map(rgba, images)], "ids": ids.tolist(), "texts": texts}
    (web / "cases.json").write_text(json.dumps(cases))
    (web / "cases.mjs").write_text(CASES)
    found = json.loads(node(web, "cases.mjs"))
    assert found["said"] == text.decode(ids, vocabulary)
    assert [one["word"] for one in found["placed"]] == ["a", "man", "riding", "a", "skateboard", "."]
    expected = text.encode(texts, vocabulary, 40, start=True, allow_empty=True)
    for one, read, ours in zip(texts, found["read"], expected.tolist(), strict=True):
        assert read == ours, one
    for image, pixels in zip(images, found["seen"], strict=True):
        difference = np.array(pixels).reshape(model.image_shape) - prepare(image, model.image_shape)
        assert np.abs(difference).max() <= 1, image.size
    for damaged in (b"", b"<html>", (web / "model.onnx").read_bytes()[:-20], json.dumps(about).encode()):
        (web / "model.onnx").write_bytes(damaged)
        done = subprocess.run(["node", "cases.mjs"], cwd=web, capture_output=True, text=True)
        assert done.returncode == 1, damaged


FITS = [f"{fit}{end}" for fit in ("pad", "stretch", "crop", "shortest") for end in ("", "-bicubic", "-lanczos")]
SIZES = [(32, 32), (50, 31), (9, 70), (3, 5), (64, 32)]  # width, height


def smooth() -> list[Image.Image]:
    """Return pictures whose neighbours are alike, as in photographs: Pillow's order of axes depends on the version."""
    random = np.random.default_rng(0)
    small = [Image.fromarray(random.integers(40, 216, (4, 4, 4), "uint8"), "RGBA") for _ in SIZES]
    return [image.resize(size, Image.Resampling.BICUBIC) for image, size in zip(small, SIZES, strict=True)]


def test_the_javascript_fits_images_by_every_rule(web, model):
    images = smooth()
    cases = [{"resize": fit, "image": rgba(image)} for fit in FITS for image in images]
    about = {**graphs.describe(model, "one"), "image_shape": [24, 32, 3]}
    (web / "cases.json").write_text(json.dumps({"about": about, "cases": cases}))
    (web / "cases.mjs").write_text(
        'import { readFileSync } from "node:fs";\nimport { pixels } from "./model.mjs";\n'
        'const { about, cases } = JSON.parse(readFileSync("cases.json"));\n'
        "const seen = cases.map(({ resize, image }) => Array.from(pixels(image, { ...about, resize })));\n"
        "console.log(JSON.stringify(seen));\n"
    )
    found = iter(json.loads(node(web, "cases.mjs")))
    for fit in FITS:
        for image in images:
            difference = np.array(next(found)).reshape(24, 32, 3) - prepare(image, (24, 32, 3), fit)
            assert np.abs(difference).max() <= 2, (fit, image.size)


FITTED = """import java.io.File
import vtx.captions.fitted

fun main(arguments: Array<String>) {
    for (line in File(arguments[0]).readLines()) {
        val (resize, width, height, colours) = line.split(" ")
        val image = colours.split(",").map { it.toInt() }.toIntArray()
        val bytes = fitted(image, width.toInt(), height.toInt(), 32, 24, resize)
        println(bytes.joinToString(",") { "${it.toInt() and 255}" })
    }
}
"""


@pytest.mark.slow
def test_the_kotlin_fits_images_by_every_rule(tmp_path):
    if shutil.which("kotlinc") is None:
        pytest.skip("Pixels.kt was not compiled: there is no kotlinc here")
    (tmp_path / "Fitted.kt").write_text(FITTED)
    sources = [PROGRAMS / "mobile/android/app/src/main/kotlin/vtx/captions/Pixels.kt", tmp_path / "Fitted.kt"]
    jar = tmp_path / "fitted.jar"
    command = ["kotlinc", *sources, "-include-runtime", "-d", jar]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    images, lines = smooth(), []
    for fit in FITS:
        for image in images:
            colours = np.array(image)[..., [2, 1, 0, 3]].copy().view("int32").ravel()  # ARGB, as Android has it
            lines.append(f"{fit} {image.width} {image.height} {','.join(map(str, colours.tolist()))}")
    (tmp_path / "cases").write_text("\n".join(lines) + "\n")
    run = subprocess.run(["java", "-cp", jar, "FittedKt", tmp_path / "cases"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = iter(run.stdout.splitlines())
    for fit in FITS:
        for image in images:
            pixels = np.array(next(found).split(","), int).reshape(24, 32, 3)
            difference = pixels - prepare(image, (24, 32, 3), fit)
            assert np.abs(difference).max() <= 2, (fit, image.size)


# --- all runtimes


def ran(program, *arguments):
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / program), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_five_runtimes_write_the_same_sentences(tmp_path):
    """Keras, XLA, and, in processes without the package, a SavedModel behind a server, LiteRT and onnxruntime."""
    import tensorflow as tf

    model = zoo.build("cross_attn_captioner", weights="emoji")
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
