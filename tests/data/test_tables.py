"""Sets that users put into the manual folder as a table and a folder of pictures or clips."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtx_keras import data
from vtx_keras._files import BadArchive
from vtx_keras.data import sets
from vtx_keras.data.sets import _chest_xray, _exercises

TABLES = {
    "posts": ("posts.csv", "images", {"image": "{}.jpg", "text": "so happy {}", "sentiment": "positive"}),
    "fashion": (
        "products.csv",
        "images",
        {
            "image": "{}.jpg",
            "title": "Red Shirt {}",
            "gender": "Men",
            "type": "Shirts",
            "colour": "Red",
            "usage": "Casual",
        },
    ),
    "chest_xray": (
        "cases.csv",
        "images",
        {
            "image": "{}.jpg",
            "note": "Fever.  RT-PCR positive. Opacities of COVID-19.",
            "findings": "COVID-19; ARDS",
            "view": "PA",
            "modality": "X-ray",
            "age": "65",
            "sex": "",
            "patient": "p{}",
            "licence": "CC BY 3.0",
        },
    ),
    "exercises": (
        "exercises.csv",
        "clips",
        {
            "clip": "{}.webp",
            "name": "squat {} v. 2",
            "body_part": "upper legs",
            "equipment": "band",
            "target": "quads",
            "instructions": "Bend your knees.",
        },
    ),
}
SPLITS = ("train", "train", "validation", "test")


def draw(path: Path) -> None:
    """Draw a red picture, or a clip of which only the first half is red."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        Image.new("RGB", (16, 12), "red").save(path)
        return
    frames = [Image.new("RGB", (96, 96), (255 - n, 0, 0) if n < 4 else (0, 0, n)) for n in range(8)]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)


def write(name: str, folder: Path, splits: tuple[str, ...] = SPLITS) -> Path:
    """Write a set of one row per split, and return its table."""
    table, media, row = TABLES[name]
    rows = [{**{key: text.format(n) for key, text in row.items()}, "split": one} for n, one in enumerate(splits)]
    for one in rows:
        draw(sets.archive_dir(folder) / name / media / next(iter(one.values())))
    path = sets.archive_dir(folder) / name / table
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(name: str, folder: Path, split: str = "train") -> list[dict]:
    return sorted(data.load(name, split, folder=folder).as_numpy_iterator(), key=lambda row: row["id"])


@pytest.mark.parametrize("name", TABLES)
def test_a_table_says_what_is_missing(name, tmp_path):
    with pytest.raises(BadArchive, match=rf"has no {TABLES[name][0]} or no folder .*belong into .*/{name}"):
        data.load(name, folder=tmp_path)
    path = write(name, tmp_path)
    whole = path.read_text()
    path.write_text(whole.replace("split", "part", 1))
    with pytest.raises(BadArchive, match=rf"{TABLES[name][0]} lacks columns: expected also split: .*belong into"):
        data.load(name, folder=tmp_path)
    path.write_text(whole + "one cell\n")
    with pytest.raises(BadArchive, match="fewer cells than columns"):
        data.load(name, folder=tmp_path)
    path.write_text(whole)
    next((path.parent / TABLES[name][1]).glob("3.*")).unlink()
    with pytest.raises(BadArchive, match=rf"3\.\w+ is missing, which {TABLES[name][0]} lists: .*belong into"):
        data.load(name, folder=tmp_path)


def test_posts_with_the_same_picture_share_its_id(tmp_path):
    path = write("posts", tmp_path)
    Image.new("RGB", (16, 12), "blue").save(path.parent / "images" / "3.jpg")
    first, second = rows_of("posts", tmp_path)
    (other,) = rows_of("posts", tmp_path, "test")
    assert (first["text"], first["label"], first["image"].shape) == (b"so happy 0", b"positive", (12, 16, 3))
    assert first["image_id"] == second["image_id"] != other["image_id"]


def test_fashion_has_titles_and_attributes(tmp_path):
    write("fashion", tmp_path)
    first, _ = rows_of("fashion", tmp_path)
    assert (first["caption"], first["concept"]) == (b"Red Shirt 0", b"red shirt 0")
    assert [first[key] for key in ("gender", "type", "colour", "usage")] == [b"Men", b"Shirts", b"Red", b"Casual"]


def test_chest_xray_hides_findings_unless_asked_for_the_notes(tmp_path):
    path = write("chest_xray", tmp_path, ("train", "train", "dev", "test"))
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")  # the same image again
    first, _ = rows_of("chest_xray", tmp_path)
    assert first["text"] == b"Fever. Opacities of finding."
    assert first["findings"].tolist() == [b"COVID-19", b"ARDS"]
    assert (first["image_id"], first["sex"], first["licence"]) == (b"p0", b"", b"CC BY 3.0")
    (row,) = rows_of("chest_xray/notes", tmp_path, "validation")
    assert row["text"] == b"Fever. RT-PCR positive. Opacities of COVID-19."


@pytest.mark.parametrize(
    ("note", "hidden"),
    [
        ("SARS in a man", "finding in a man"),
        ("typical for COVID 19 with fever", "typical for finding with fever"),
        ("Novel coronavirus (2019-nCoV) pneumonia", "finding"),
        ("The RT-PCR throat swab was positive. No effusion.", "No effusion."),
        ("He came from Wuhan. Cough. Given lopinavir/ritonavir.", "Cough."),
        ("Klebsiella, Streptococcus, E.Coli or lipoid", "finding, finding, finding or finding"),
        ("Admitted on 12 March 2020 with cough", "Admitted on with cough"),
        ("Coronal CT, coronary disease, normal findings", "Coronal CT, coronary disease, normal findings"),
        ("Rounded opacities of Q fever", "Rounded opacities of finding"),  # a name of its own row
    ],
)
def test_masked_hides_what_tells_a_finding(note, hidden):
    assert _chest_xray.masked(note, ["Q fever"]) == hidden


@pytest.mark.parametrize("config", ["plain", "coloured"])
def test_exercises_are_clips_in_gray_or_in_colour(config, tmp_path):
    write("exercises", tmp_path)
    first, _ = rows_of(f"exercises/{config}", tmp_path)
    assert (first["caption"], first["concept"], first["target"]) == (b"squat 0 v. 2", b"squat 0", b"quads")
    assert (first["text"], first["image"].shape) == (b"Bend your knees.", (8, 96, 96, 3))
    assert first["image"][0, 0, 0].tolist() == ([255, 255, 255] if config == "plain" else [255, 0, 0])
    assert first["image"][7, 0, 0].tolist() == ([7, 7, 7] if config == "plain" else [0, 0, 7])


def test_a_recoloured_frame_keeps_gray_and_has_no_colour():
    frame = np.array([[[220, 60, 50], [250, 180, 170], [200, 200, 200]]], "uint8")
    assert _exercises.recoloured(frame).tolist() == [[[220] * 3, [250] * 3, [200] * 3]]
