"""Sets of photographs are built from each layout that is in circulation."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from vtx_keras import data
from vtx_keras._files import BadArchive
from vtx_keras.data import sets
from vtx_keras.data.sets import _flickr8k_dialog, _flickr8k_qa

SHARED = Path(os.environ.get("VTX_KERAS_TEST_DATA", "no such folder"))
NAMES = [f"{number}_ab.jpg" for number in range(4)]
SPLITS = dict(zip(NAMES, ("train", "train", "validation", "test"), strict=True))


def photographs(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (16, 12), "red").save(folder / name)


def captions(name: str) -> list[str]:
    return [f"a dog , {name[0]}", "a red dog"]


def by_authors(folder: Path, lists: str) -> None:
    photographs(folder / "Flicker8k_Dataset", NAMES)
    (folder / lists).mkdir(exist_ok=True)
    lines = [f"{name}#{n}\t{text} " for name in NAMES for n, text in enumerate(captions(name))]
    (folder / lists / "Flickr8k.token.txt").write_text("\n".join([*lines, "2258277193_586949ec62.jpg.1#0\tno picture"]))
    for part, split in (("train", "train"), ("dev", "validation"), ("test", "test")):
        chosen = [name for name in NAMES if SPLITS[name] == split]
        (folder / lists / f"Flickr_8k.{part}Images.txt").write_text("\n".join(chosen) + "\n")


def by_karpathy(folder: Path) -> None:
    photographs(folder / "images", NAMES)
    parts = {"train": "train", "validation": "val", "test": "test"}
    rows = [
        {"filename": name, "split": parts[SPLITS[name]], "sentences": [{"raw": text} for text in captions(name)]}
        for name in NAMES
    ]
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": rows}))


def by_kaggle(folder: Path, names: list[str]) -> None:
    photographs(folder / "Images", names)
    lines = [f'{name},"{text}"' for name in names for text in captions(name)]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *lines]))


@pytest.fixture
def folder(tmp_path):
    (sets.archive_dir(tmp_path)).mkdir(parents=True)
    return sets.archive_dir(tmp_path)


@pytest.mark.parametrize(
    "write",
    [lambda at: by_authors(at, "Flickr8k_text"), lambda at: by_authors(at, "."), by_karpathy],
    ids=["authors", "authors in one folder", "karpathy"],
)
def test_flickr8k_has_the_official_splits_and_all_captions(write, folder, tmp_path):
    write(folder / "flickr8k")
    for split in ("train", "validation", "test"):
        rows = {row["id"].decode(): row for row in data.load("flickr8k", split, folder=tmp_path).as_numpy_iterator()}
        assert set(rows) == {name.removesuffix(".jpg") for name in NAMES if SPLITS[name] == split}
        for name, row in rows.items():
            assert [text.decode() for text in row["captions"]] == captions(name)
            assert row["image"].shape == (12, 16, 3)


def test_flickr8k_without_lists_is_split_by_name_with_a_warning(folder, tmp_path):
    names = [f"{number}_ab.jpg" for number in range(24)]
    by_kaggle(folder / "flickr8k", names)
    with pytest.warns(UserWarning, match="not comparable with published"):
        splits = {split: data.load("flickr8k", split, folder=tmp_path) for split in ("train", "validation", "test")}
    ids = {split: {row["id"] for row in ds.as_numpy_iterator()} for split, ds in splits.items()}
    assert sum(map(len, ids.values())) == 24
    assert len(ids["train"]) > 12


def test_flickr8k_says_what_is_missing(folder, tmp_path):
    with pytest.raises(BadArchive, match=r"has none of the folders Flicker8k_Dataset.*ask the authors"):
        data.load("flickr8k", folder=tmp_path)
    photographs(folder / "flickr8k" / "Images", NAMES[:3])
    with pytest.raises(BadArchive, match="has no captions"):
        data.load("flickr8k", folder=tmp_path)
    by_karpathy(folder / "other")
    (folder / "other" / "dataset_flickr8k.json").rename(folder / "flickr8k" / "dataset_flickr8k.json")
    with pytest.raises(BadArchive, match=r"3_ab\.jpg is missing"):
        data.load("flickr8k", folder=tmp_path)


def test_flowers102_reads_its_table_and_names_missing_columns(folder, tmp_path):
    at = folder / "flowers102"
    with pytest.raises(BadArchive, match=r"no captions\.csv"):
        data.load("flowers102", folder=tmp_path)
    photographs(at / "jpg", ["image_00001.jpg"])
    (at / "captions.csv").write_text("image,caption\nimage_00001.jpg,a rose\n")
    with pytest.raises(BadArchive, match=r"expected.*class.*split"):
        data.load("flowers102", folder=tmp_path)
    (at / "captions.csv").write_text("image,caption,name,class,split\nimage_00001.jpg,a red rose,rose,7,train\n")
    (row,) = data.load("flowers102", "train", folder=tmp_path).as_numpy_iterator()
    assert (row["caption"], row["name"], row["image"].shape) == (b"a red rose", b"rose", (12, 16, 3))


def test_flickr8k_qa_asks_what_the_captions_answer(folder, tmp_path):
    colours = {number: ("red", "blue")[number % 2] for number in range(14)}
    photographs(folder / "flickr8k" / "Flicker8k_Dataset", [f"{number}.jpg" for number in colours])
    lines = [f"{number}.jpg#0\tA dog with a {colour} ball ." for number, colour in colours.items()]
    (folder / "flickr8k" / "Flickr8k.token.txt").write_text("\n".join(lines))
    for part, chosen in (("train", range(10)), ("dev", (10, 11)), ("test", (12, 13))):
        names = [f"{number}.jpg" for number in chosen]
        (folder / "flickr8k" / f"Flickr_8k.{part}Images.txt").write_text("\n".join(names))
    for split, chosen in (("train", range(10)), ("validation", (10, 11)), ("test", (12, 13))):
        rows = list(data.load("flickr8k_qa", split, folder=tmp_path).as_numpy_iterator())
        answers = {int(row["image_id"]): row["answer"].decode() for row in rows}
        assert answers == {number: colours[number] for number in chosen}
        assert {row["question"] for row in rows} == {b"what is the colour of the ball?"}
        assert {row["kind"] for row in rows} == {b"colour"}
        assert {row["image"].shape for row in rows} == {(12, 16, 3)}


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (
            ["A man in a red hat is riding a bike ."],
            {"what is the man riding?": "bike", "what is the colour of the hat?": "red"},
        ),
        (["A man rides a bike .", "The guy rides a horse ."], {}),  # disagree
        (["A man rides a bicycle .", "A person is riding a bike ."], {"what is the man riding?": "bike"}),
        (["A boy is playing with a soccer ball ."], {"what is the boy playing with?": "ball"}),
        (["A man and a woman hold a sign ."], {}),  # two subjects
        (["A boy holds a stick insect ."], {}),  # the phrase goes on
        (["A dog with a stick in its mouth ."], {"what is in the mouth of the dog?": "stick"}),
        (["Three dogs .", "Some dogs run ."], {"how many dogs are there?": "three"}),
        (["Three dogs .", "Two dogs ."], {}),
        (["Two dogs .", "A dog runs ."], {}),
        (["A dog ."] * 4, {"how many dogs are there?": "one"}),
        (["A dog ."] * 3 + ["A dog and another dog ."], {}),
        (["A ball and a red ball .", "A blue ball ."], {}),
        (["A red and white ball .", "A red ball ."], {}),
        (["The girl in grey shorts ."], {"what is the colour of the shorts?": "gray"}),
        (["A group of people walk down the street ."], {"where are the people?": "street"}),
        (["A dog in the snow at the beach ."], {}),  # two places
    ],
)
def test_the_rules_of_flickr8k_qa(captions, expected):
    assert {pair.question: pair.answer for pair in _flickr8k_qa.pairs(captions)} == expected


def test_a_question_of_flickr8k_qa_does_not_give_its_answer_away():
    def image(kind: str, about: str, answer: str) -> list:
        return [_flickr8k_qa.Pair(f"{about}?", answer, kind, about)]

    made = {f"a{n}": image("colour", "ball", "red") for n in range(300)}
    made |= {f"b{n}": image("colour", "ball", "blue") for n in range(30)}
    made |= {f"c{n}": image("colour", "tree", "red") for n in range(30)}  # has one answer only
    made |= {f"d{n}": image("colour", "ball", "pink") for n in range(_flickr8k_qa.LEAST - 1)}
    kept = {name: found for name, found in _flickr8k_qa.balanced(made, set(made)).items() if found}
    answers = Counter(pair.answer for found in kept.values() for pair in found)
    assert answers.keys() == {"red", "blue"}
    assert answers["blue"] == 30
    assert 15 < answers["red"] < 45
    assert not any(name.startswith("c") for name in kept)


def said(captions: list[str], key: str = "1") -> list[list[tuple[str, str]]]:
    return [[(turn.question, turn.answer) for turn in turns] for turns in _flickr8k_dialog.talks(captions, key)]


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (
            ["A dog and a boy are running .", "A brown dog runs as a boy is running .", "The dog runs ."],
            {"what colour": "brown", "what is": "running", "and the boy?": "running"},
        ),
        (["A man wears a hat .", "A man in a red hat .", "A guy ."], {"what is he wearing?": "a hat", "it?": "red"}),
        (["Two dogs run .", "Two white dogs .", "Dogs running ."], {"what are": "running", "are they?": "white"}),
        (["A dog runs .", "A dog sits .", "A dog ."], {}),  # disagree
        (["A man runs .", "A woman runs .", "A person runs ."], {}),  # he or she
        (["A dog runs .", "A dog runs .", "Two dogs run ."], {}),  # one or two
        (["A man and a ball in the air .", "A man looks at a ball in the air .", "A man ."], {}),  # the ball is
        (
            ["A dog holds a stick in its mouth .", "A dog holds a stick .", "A dog ."],
            {"doing?": "holding a stick", "mouth?": "a stick"},
        ),
        (["A man in a red jacket .", "A man in a red coat .", "A man ."], {}),  # may be one garment
    ],
)
def test_the_rules_of_flickr8k_dialog(captions, expected):
    turns = [turn for key in "1234" for talk in said(captions, key) for turn in talk if not turn[0].startswith("who")]
    for words, answer in expected.items():
        assert {found for question, found in turns if words in question} >= {answer}, turns
    assert expected or not [turn for turn in turns if not turn[0].startswith("what is in")], turns


def test_a_pronoun_of_flickr8k_dialog_has_one_meaning():
    two = ["A man in a red hat and a boy in a hat sit .", "A man and a boy sit .", "A man and a boy are sitting ."]
    for key in "12345678":
        for talk in said(two, key):
            assert not any(" he " in f"{question.rstrip('?')} " for question, _ in talk if "and" in talk[0][1])
    ball = ["A brown dog chases a red ball .", "A dog chases a ball .", "A brown dog chases the red ball ."]
    for key in "12345678":
        (talk,) = said(ball, key)
        questions = [question for question, _ in talk]
        assert all("colour is it?" not in question or answer == "brown" for question, answer in talk)
        if "what is it doing?" in questions and "what colour is that?" in questions:
            assert ("what colour is that?", "red") in talk


def test_flickr8k_dialog_holds_conversations_by_picture(folder, tmp_path):
    by_authors(folder / "flickr8k", ".")
    for split in ("train", "validation", "test"):
        rows = list(data.load("flickr8k_dialog", split, folder=tmp_path).as_numpy_iterator())
        talked = {one for one in NAMES if SPLITS[one] == split and said(captions(one), one.removesuffix(".jpg"))}
        assert {row["image_id"].decode() + ".jpg" for row in rows} == talked
        for row in rows:
            assert [one.decode() for one in row["questions"]] == ["what is in the picture?", "what colour is it?"]
            assert row["answers"].tolist() == [b"a dog", b"red"]
            assert row["kinds"].tolist() == [b"who", b"colour"]
            assert row["image"].shape == (12, 16, 3)


@pytest.mark.network
@pytest.mark.skipif(not (SHARED / "flickr8k").is_dir(), reason="VTX_KERAS_TEST_DATA names no folder with flickr8k/")
def test_flickr8k_qa_whole(folder, tmp_path):
    (folder / "flickr8k").symlink_to(SHARED / "flickr8k")
    rows = {split: data.load("flickr8k_qa", split, folder=tmp_path) for split in ("train", "validation", "test")}
    assert {split: len(found) for split, found in rows.items()} == {"train": 8607, "validation": 1422, "test": 1375}
    asked = [(row["image_id"], row["question"]) for row in rows["validation"].as_numpy_iterator()]
    assert len(set(asked)) == len(asked)


@pytest.mark.network
@pytest.mark.skipif(not (SHARED / "flickr8k").is_dir(), reason="VTX_KERAS_TEST_DATA names no folder with flickr8k/")
def test_flickr8k_dialog_whole(folder, tmp_path):
    (folder / "flickr8k").symlink_to(SHARED / "flickr8k")
    rows = {split: data.load("flickr8k_dialog", split, folder=tmp_path) for split in ("train", "validation", "test")}
    assert {split: len(found) for split, found in rows.items()} == {"train": 2883, "validation": 453, "test": 473}
    turns = [len(row["questions"]) for found in rows.values() for row in found.encoded.as_numpy_iterator()]
    assert sum(turns) == 10646
    assert set(turns) == {2, 3, 4}


@pytest.mark.network
@pytest.mark.skipif(not (SHARED / "flickr8k").is_dir(), reason="VTX_KERAS_TEST_DATA names no folder with flickr8k/")
def test_flickr8k_whole(folder, tmp_path):
    (folder / "flickr8k").symlink_to(SHARED / "flickr8k")
    sizes = {split: len(data.load("flickr8k", split, folder=tmp_path)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 6000, "validation": 1000, "test": 1000}
