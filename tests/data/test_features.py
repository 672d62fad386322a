"""Features of a frozen encoder: made once, read afterwards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
import toys
from images import encoded
from PIL import Image

from vtx_keras import data
from vtx_keras.data import _behind
from vtx_keras.inputs import text


def pairs(form: str, count: int = 6) -> tf.data.Dataset:
    pictures = np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), dtype="uint8")
    stored = pictures if form == "pixels" else [encoded(Image.fromarray(picture)) for picture in pictures]
    return tf.data.Dataset.from_tensor_slices({"image": stored, "caption": toys.texts(count)})


@pytest.mark.parametrize("form", ["pixels", "encoded"])
@pytest.mark.parametrize("name", ["cross_attn_captioner", "retriever"])
def test_training_on_features_trains_the_model(name, form, tmp_path, capsys):
    model = toys.toy(name)
    model.freeze("image")
    features = data.features(pairs(form), model, tmp_path, batch_size=4)
    assert "0 read, 6 made" in capsys.readouterr().out
    head = model.behind_encoder()
    seen = next(iter(data.batches(features, head, batch_size=6)))
    whole = next(iter(data.batches(pairs(form), model, batch_size=6)))
    np.testing.assert_array_equal(seen[0]["tokens"], whole[0]["tokens"])
    np.testing.assert_allclose(head(seen[0], training=False), model(whole[0], training=False), atol=2e-2)
    toys.fit(head, data.batches(features, head, batch_size=3, training=True), epochs=2)
    np.testing.assert_allclose(head(seen[0], training=False), model(whole[0], training=False), atol=2e-2)


def test_stored_features_are_read_and_missing_ones_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_behind, "SHARD", 2)
    model = toys.toy("retriever")
    model.freeze("image")
    wanted = [row["image"] for row in data.features(pairs("encoded"), model, tmp_path).as_numpy_iterator()]
    capsys.readouterr()
    (lost, *_) = sorted(tmp_path.glob("*.npy"))
    lost.unlink()  # as if the run had been killed there
    (tmp_path / ".half.npy.123").write_bytes(b"half-written")
    again = [row["image"] for row in data.features(pairs("encoded"), model, tmp_path).as_numpy_iterator()]
    assert "4 read, 2 made" in capsys.readouterr().out
    np.testing.assert_array_equal(wanted, again)
    variable = model.get_layer("image_encoder").weights[0]
    variable.assign(variable + 0.1)
    data.features(pairs("encoded"), model, tmp_path)
    assert "0 read, 6 made" in capsys.readouterr().out, "another encoder never reads them"
    data.features(pairs("encoded", 4), model, tmp_path)
    assert "4 read, 0 made" in capsys.readouterr().out


def test_an_image_of_several_examples_is_encoded_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_behind, "SHARD", 2)
    model = toys.toy("retriever")
    model.freeze("image")
    once = [row["image"] for row in data.features(pairs("encoded", 3), model, tmp_path / "once").as_numpy_iterator()]
    order = [0, 1, 0, 2, 2, 1, 0]
    rows = list(pairs("encoded", 3).as_numpy_iterator())
    columns = {"image": [rows[i]["image"] for i in order], "caption": toys.texts(len(order))}
    many = data.features(tf.data.Dataset.from_tensor_slices(columns), model, tmp_path / "many")
    assert "features of 3 pictures: 0 read, 3 made" in capsys.readouterr().out
    found = list(many.as_numpy_iterator())
    np.testing.assert_array_equal([row["image"] for row in found], [once[i] for i in order])
    assert [row["caption"].decode() for row in found] == toys.texts(len(order))


def test_other_examples_of_the_same_pictures_read_what_is_stored(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_behind, "SHARD", 2)
    model = toys.toy("retriever")
    model.freeze("image")
    stored = [row["image"] for row in data.features(pairs("encoded", 5), model, tmp_path).as_numpy_iterator()]
    rows, order = list(pairs("encoded", 7).as_numpy_iterator()), [4, 6, 1, 5, 4]
    columns = {"image": [rows[i]["image"] for i in order], "question": toys.texts(len(order))}
    found = data.features(tf.data.Dataset.from_tensor_slices(columns), model, tmp_path)
    assert "features of 4 pictures: 2 read, 2 made" in capsys.readouterr().out
    images = [row["image"] for row in found.as_numpy_iterator()]
    np.testing.assert_array_equal([images[0], images[2], images[4]], [stored[4], stored[1], stored[4]])
    alone = next(data.features(pairs("encoded", 5).skip(3).take(1), model, tmp_path / "alone").as_numpy_iterator())
    np.testing.assert_array_equal(alone["image"], stored[3], "the same bits, whatever stands beside it")
    capsys.readouterr()
    for names in tmp_path.glob("*.txt"):  # as a version that did not write them left the folder
        names.unlink()
    data.features(pairs("encoded", 5), model, tmp_path)
    assert "features of 5 pictures: 5 read, 0 made" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(b""), lambda path: np.save(path, np.zeros((1, 2, 2)))]
)
def test_a_damaged_file_is_made_again(damage, tmp_path, capsys):
    model = toys.toy("retriever")
    model.freeze("image")
    features = data.features(pairs("encoded"), model, tmp_path)
    stored = [np.array(row["image"]) for row in features.as_numpy_iterator()]  # not the mapped file, which is cut
    (path,) = tmp_path.glob("*.npy")
    damage(path)
    again = [row["image"] for row in data.features(pairs("encoded"), model, tmp_path).as_numpy_iterator()]
    assert "0 read, 6 made" in capsys.readouterr().out.splitlines()[-1]
    np.testing.assert_array_equal(stored, again)


@pytest.mark.parametrize("file", ["npy", "txt"])
@pytest.mark.parametrize("change", ["a bit", "half", "nothing"])
def test_a_file_that_was_changed_since_is_made_again(file, change, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_behind, "SHARD", 3)
    model = toys.toy("retriever")
    model.freeze("image")
    stored = [np.array(row["image"]) for row in data.features(pairs("encoded"), model, tmp_path).as_numpy_iterator()]
    path = sorted(tmp_path.glob(f"*.{file}"))[0]
    content = path.read_bytes()
    place = len(content) - 9 if file == "npy" else 3
    bit = content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :]
    path.write_bytes({"a bit": bit, "half": content[: len(content) // 2], "nothing": b""}[change])
    monkeypatch.setattr("warnings.warn", lambda *said, **_: print(*said))
    rows = list(pairs("encoded").as_numpy_iterator())
    order = [4, 0, 5, 1, 3, 2, 0]  # other files than those that were written
    columns = {"image": [rows[i]["image"] for i in order], "caption": toys.texts(len(order))}
    for _ in range(2):
        found = data.features(tf.data.Dataset.from_tensor_slices(columns), model, tmp_path).as_numpy_iterator()
        np.testing.assert_array_equal([row["image"] for row in found], [stored[i] for i in order])
    said = capsys.readouterr().out
    assert "3 read, 3 made" in said
    assert "6 read, 0 made" in said
    told = change == "a bit" or (change, file) == ("half", "txt")  # others have not as many rows as names
    assert ("is damaged: its features are made again" in said) == told


def test_threads_make_the_same_features_at_once(tmp_path):
    model = toys.toy("retriever")
    model.freeze("image")
    features = lambda _: list(data.features(pairs("encoded"), model, tmp_path).as_numpy_iterator())  # noqa: E731
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(features, range(8)))
    for result in results[1:]:
        np.testing.assert_array_equal([row["image"] for row in result], [row["image"] for row in results[0]])
    assert len(list(tmp_path.iterdir())) == 2


def test_features_and_images_are_not_confused(tmp_path):
    model = toys.toy("retriever")
    model.freeze("image")
    head, features = model.behind_encoder(), data.features(pairs("encoded"), model, tmp_path)
    with pytest.raises(ValueError, match=r"this model reads features \(2, 2, 32\): data.features"):
        data.batches(pairs("encoded"), head)
    with pytest.raises(ValueError, match="features cannot be augmented"):
        data.batches(features, head, augment=True)
    with pytest.raises(ValueError, match="features cannot be augmented"):
        data.batches(features, head, augment={"words": 0.5})  # what is not named stays as in AUGMENT
    words = {"words": 0.5, "crop": 0, "rotation": 0, "colour": 0}
    inputs, _, _ = next(iter(data.batches(features, head, augment=words)))
    assert (inputs["tokens"].numpy() == text.MASK).any()


def test_features_of_a_trainable_encoder_give_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="not frozen"):
        data.features(pairs("pixels"), toys.toy("retriever"), tmp_path)
