"""Files of users: what is read, what is refused, and that every bad row is listed."""

from __future__ import annotations

import csv
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import toys
from PIL import Image

from vtx_keras import data
from vtx_keras.data._plan import BadData
from vtx_keras.inputs import media


def picture(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (48, 32)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 4), dtype="uint8")
    return Image.fromarray(pixels, "RGBA").resize(size).convert(mode)


def encoded(kind: str = "PNG", mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    picture(mode=mode).save(file, kind, **options)
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("JPEG", exif=exif)


def deep() -> bytes:
    file = io.BytesIO()
    Image.fromarray((np.arange(32 * 48).reshape(32, 48) * 40).astype("uint16")).save(file, "PNG")
    return file.getvalue()


def huge() -> bytes:
    """A PNG of 20,000 × 20,000 pixels in a few bytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def damaged() -> bytes:
    whole = bytearray(encoded("PNG"))
    whole[len(whole) // 2] ^= 0xFF
    return bytes(whole)


ANIMATED = {"save_all": True, "append_images": [picture(1), picture(2)]}
CORPUS = {  # file, its bytes, and its error ("" for none)
    "plain.png": (encoded(), ""),
    "plain.jpg": (encoded("JPEG"), ""),
    "grey.jpg": (encoded("JPEG", "L"), ""),
    "cmyk.jpg": (encoded("JPEG", "CMYK"), ""),
    "turned.jpg": (turned(), ""),
    "deep.png": (deep(), ""),
    "palette.png": (encoded("PNG", "P"), ""),
    "clear.png": (encoded("PNG", "RGBA"), ""),
    "greyclear.png": (encoded("PNG", "LA"), ""),
    "bits.png": (encoded("PNG", "1"), ""),
    "moving.gif": (encoded("GIF", **ANIMATED), ""),
    "moving.webp": (encoded("WEBP", **ANIMATED), ""),
    "old.bmp": (encoded("BMP"), ""),
    "scan.tif": (encoded("TIFF"), ""),
    "wrong-extension.jpg": (encoded("PNG"), ""),
    "no-extension": (encoded("JPEG"), ""),
    "empty.jpg": (b"", "empty"),
    "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML or XML"),
    "text.png": (b"not a picture at all", "text: expected"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "HTML or XML"),
    "paper.pdf": (b"%PDF-1.7\n", "a PDF"),
    "cut.jpg": (encoded("JPEG")[:-200], "cut off or damaged"),
    "cut.png": (encoded()[:-200], "cut off or damaged"),
    "header-only.jpg": (encoded("JPEG")[:24], "cut off or damaged"),
    "damaged.png": (damaged(), "cut off or damaged"),
    "huge.png": (huge(), "20000 x 20000 pixels"),
    "float.tif": (encoded("TIFF", "F"), "32 bits per pixel"),
    "missing.jpg": (None, "no such file"),
}
WORDS = {  # a caption's bytes in the CSV, and what is wrong with it
    b"a plain caption": "",
    "Straße 猫 👩‍🚒 é".encode(): "",
    "two\u2028lines\u2029 and \u0085more".encode(): "",
    b"broken \xff\xfe UTF-8": "",
    b"tab\tand \x07bell": "",
    b'"quoted, with ""quotes"" and\na line break"': "",
    b"long " * 500: "",
    b"long " * 30_000: "a caption of 149,999 letters: expected at most 100,000",
    b"": "an empty caption",
    b"   ": "an empty caption",
    "\u200b\u200d\ufeff".encode(): "an empty caption",
    "\u2028".encode(): "an empty caption",
    b"\x00\x01": "an empty caption",
}


def listed(folder: Path) -> list[dict]:
    with (folder / "bad_rows.csv").open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("name", CORPUS)
def test_a_file_is_read_or_listed_with_its_error(name, tmp_path):
    content, wrong = CORPUS[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    picture(1).save(tmp_path / "good.png")
    (tmp_path / "captions.csv").write_text(f"image,text\n{name},a thing\ngood.png,a good one\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = data.from_csv(tmp_path / "captions.csv", most_bad=0.5)
    if wrong:
        assert len(ds) == 1
        (row,) = listed(tmp_path)
        assert row["row"] == "2"
        assert row["path"].endswith(name)
        assert wrong in row["reason"]
    else:
        assert len(ds) == 2
        assert not (tmp_path / "bad_rows.csv").exists()
        # The same pixels wherever the picture enters: as an example, in a batch, at `generate`.
        example = next(iter(ds))
        np.testing.assert_array_equal(example["image"], media.read(tmp_path / name))
        model = toys.toy("gated_captioner", vocabulary=["thing", "good", "one", "a"])
        inputs, _, _ = next(iter(data.batches(ds, model)))
        np.testing.assert_array_equal(inputs["image"][:1], model.prepare(tmp_path / name)[0])


@pytest.mark.parametrize("words", WORDS, ids=lambda words: repr(words[:12]))
def test_a_text_is_read_or_listed_with_its_error(words, tmp_path):
    (tmp_path / "good.png").write_bytes(encoded())
    picture(1).save(tmp_path / "other.png")
    (tmp_path / "captions.csv").write_bytes(b"image,text\ngood.png," + words + b"\nother.png,a good one\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = data.from_csv(tmp_path / "captions.csv", most_bad=0.5)
        model = toys.toy("gated_captioner", vocabulary=None)
        (batch,) = data.batches(ds, model)
    assert len(batch[1]) == len(ds) == (1 if WORDS[words] else 2)
    if WORDS[words]:
        assert listed(tmp_path)[0]["reason"] == WORDS[words]


def table(folder: Path, lines: list[str], pictures: int = 4) -> Path:
    for number in range(pictures):
        picture(number).save(folder / f"{number}.png")
    (folder / "set.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "set.csv"


def test_more_than_one_in_a_hundred_bad_rows_is_an_error_with_a_summary(tmp_path):
    lines = ["image,caption", *(f"{i}.png,a thing" for i in range(50)), "gone.png,a thing"]
    with pytest.raises(BadData, match=r"1 of 51 rows cannot be used, more than 1%: row 52: .*gone.png.*no such file"):
        data.from_csv(table(tmp_path, lines, pictures=50))
    assert [row["row"] for row in listed(tmp_path)] == ["52"]
    with pytest.warns(UserWarning, match="1 of 51 rows are left out"):
        assert len(data.from_csv(tmp_path / "set.csv", most_bad=0.05)) == 50


def test_nothing_good_is_an_error(tmp_path):
    with pytest.raises(BadData, match="1 of 1 rows cannot be used"):
        data.from_csv(table(tmp_path, ["image,caption", "gone.png,a thing"]), most_bad=1)


def test_columns_have_many_names_and_a_missing_one_is_an_error(tmp_path):
    ds = data.from_csv(table(tmp_path, ["Filename,Question,Answer,extra", "0.png,is it red?,no,x"]))
    example = next(iter(ds))
    assert (example["question"].numpy(), example["answer"].numpy()) == (b"is it red?", b"no")
    ds = data.from_csv(table(tmp_path, ["path,text,label", "0.png,w1,cat"]))
    assert {"text", "label"} <= set(next(iter(ds)))
    with pytest.raises(BadData, match=r"did you mean caption\?.*expected a picture's path"):
        data.from_csv(table(tmp_path, ["image,captoin", "0.png,a thing"]))
    with pytest.raises(BadData, match="there is no file"):
        data.from_csv(tmp_path / "none.csv")


def test_columns_of_other_names_can_be_given(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    table = tmp_path / "mine.csv"
    table.write_text("photo,words,caption\nred.png,a red square,not this\n")
    for found in (
        data.from_csv(table, columns={"image": "photo", "caption": "words"}),
        data.named(table, columns="image=photo,caption=words"),
    ):
        assert [one["caption"].numpy() for one in found] == [b"a red square"]
    with pytest.raises(ValueError, match="header is photo, words, caption"):
        data.from_csv(table, columns={"image": "picture"})
    with pytest.raises(ValueError, match="'colour' is no column of ours"):
        data.named(table, columns="colour=photo")
    table.write_text("path,Caption, words ,photo,fold\nmissing.png,not this,a red square,red.png,test\n")
    (found,) = data.named(table, "test", columns="image=photo,text=words,split=fold")
    assert found["caption"].numpy() == b"a red square"
    assert data.has_splits(table, "split=fold")
    assert not data.has_splits(table)
    with pytest.raises(ValueError, match="ours=theirs"):
        data.named(table, columns="photo")
    with pytest.raises(ValueError, match="no columns"):
        data.named(tmp_path, columns="image=photo")
    assert sorted(data.named("sample", "train", columns="path=path,text=caption").element_spec) == [
        "image",
        "path",
        "text",
    ]


@pytest.mark.parametrize("between", ["\t", ";"])
def test_tables_with_other_separators_are_read(between, tmp_path):
    lines = [between.join(cells) for cells in (("image", "caption", "split"), ("0.png", "a, b", "train"))]
    file = table(tmp_path, lines).replace(tmp_path / "set.tsv")
    assert data.has_splits(file)
    assert [row["caption"] for row in data.named(file, "train").as_numpy_iterator()] == [b"a, b"]


def test_a_caption_split_at_its_commas_is_listed(tmp_path):
    file = table(tmp_path, ["image,caption", "0.png,one,", "1.png,one, two and three"])
    with pytest.warns(UserWarning, match="1 of 2 rows are left out"):
        assert len(data.from_csv(file, most_bad=0.5)) == 1
    assert "3 cells under 2 names: put a text with commas in quotes" in listed(tmp_path)[0]["reason"]


def test_an_open_quote_is_reported(tmp_path):
    lines = ["image,caption", '0.png,"an open quote', *("1.png,a thing" for _ in range(20))]
    with pytest.warns(UserWarning, match=r"1 texts of .* have several lines.*ends in line 22: .* a quote is left open"):
        data.from_csv(table(tmp_path, lines))
    with pytest.raises(BadData, match=r"line 10022: a cell of .* letters, of several lines: is a quote left open"):
        data.from_csv(table(tmp_path, [*lines, *("1.png,a thing" for _ in range(10_000))]))


def test_texts_that_are_not_utf_8_give_a_warning(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "cells.csv").write_bytes("image,text\na.png,café crème\na.png,tea\n".encode("latin-1"))
    with pytest.warns(UserWarning, match=r"1 rows of .*cells.csv are not UTF-8"):
        (found,) = data.from_csv(tmp_path / "cells.csv")
    assert [one.decode() for one in found["captions"].numpy()] == ["caf\ufffd cr\ufffdme", "tea"]
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    with pytest.warns(UserWarning, match="1 texts in .* are not UTF-8"):
        data.from_folder(tmp_path)


def test_an_image_beside_the_split_folders_gives_a_warning(tmp_path):
    for place in ("train/0", "val/1", "2"):
        file = tmp_path / f"{place}.png"
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (int(file.stem), 0, 0)).save(file)
        file.with_suffix(".txt").write_text(f"number {file.stem}")
    with pytest.warns(UserWarning, match="1 of 3 rows belong to no split"):
        train = data.from_folder(tmp_path, "train")
    assert [row["caption"] for row in train.as_numpy_iterator()] == [b"number 0"]


def test_a_folder_does_not_hide_a_data_set_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "sample").mkdir()
    monkeypatch.chdir(tmp_path)
    assert data.has_splits("sample")
    assert "caption" in data.named("sample", "train").element_spec
    with pytest.raises(BadData, match="no picture"):
        data.named("./sample")


def test_images_shared_between_splits_give_a_warning(tmp_path):
    lines = ["image,caption,split", "0.png,a,train", "1.png,b,train", "2.png,c,validation", "1.png,d,validation"]
    with pytest.warns(
        UserWarning, match=r"1 pictures occur in more than one split.*1.png \(train\).*1.png \(validation\)"
    ):
        train = data.from_csv(table(tmp_path, lines), "train")
    assert [row["caption"] for row in train.as_numpy_iterator()] == [b"a", b"b"]
    with pytest.raises(BadData, match=r"no split 'trian' \(did you mean train\?\)"):
        data.from_csv(tmp_path / "set.csv", "trian")


def test_the_limit_on_pixels_can_be_changed(tmp_path, monkeypatch):
    file = table(tmp_path, ["image,caption", "0.png,a", "1.png,b"])
    monkeypatch.setattr(media, "PIXEL_LIMIT", 100)
    with pytest.raises(BadData, match=r"2 of 2 rows cannot be used.*set vtx_keras.media.PIXEL_LIMIT"):
        data.from_csv(file)
    monkeypatch.setattr(media, "PIXEL_LIMIT", 48 * 32)
    assert len(data.from_csv(file)) == 2


def test_overlap_finds_the_same_pixels_in_another_file(tmp_path):
    file = table(tmp_path, ["image,caption,split", "0.png,a,train", "1.png,b,train", "0.bmp,c,test"])
    picture(0).save(tmp_path / "0.bmp")
    with pytest.warns(UserWarning, match="more than one split"):
        train, test = data.from_csv(file, "train"), data.from_csv(file, "test")
    ((first, second),) = data.overlap(train, test)
    assert (Path(first).name, Path(second).name) == ("0.png", "0.bmp")


def test_files_in_a_read_only_folder_are_loaded(tmp_path, monkeypatch):
    file = table(tmp_path, ["image,caption", "0.png,a", "gone.png,b"])

    def refused(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.warns(UserWarning, match="bad_rows.csv could not be written"):
        assert len(data.from_csv(file, most_bad=0.5)) == 1


def test_a_folder_of_pictures_with_captions_beside_them(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for number in range(2):
            picture(number + 5 * (split == "val")).save(tmp_path / split / f"{number}.png")
            (tmp_path / split / f"{number}.txt").write_text(f"{split} {number}\n")
    found = {row["caption"] for row in data.from_folder(tmp_path, "train").as_numpy_iterator()}
    assert found == {b"train 0", b"train 1"}
    assert len(data.from_folder(tmp_path, "validation")) == 2
    (tmp_path / "train" / "0.txt").unlink()
    with pytest.raises(BadData, match="an empty caption"):
        data.from_folder(tmp_path, "train")


def test_a_folder_of_folders_named_by_label(tmp_path):
    for number, label in enumerate(("cat", "dog", "cat")):
        (tmp_path / label).mkdir(exist_ok=True)
        picture(number).save(tmp_path / label / f"{number}.png")
    ds = data.from_folder(tmp_path)
    model = toys.toy("gated_classifier", classes=["cat", "dog"], allow_empty=True)
    _, labels, _ = next(iter(data.batches(ds, model)))
    assert sorted(labels.numpy().tolist()) == [0, 0, 1]
    (tmp_path / "cat" / "0.txt").write_text("a caption")
    with pytest.raises(BadData, match="mixes 1 pictures with captions"):
        data.from_folder(tmp_path)


def test_folders_may_be_links_and_splits_in_any_case(tmp_path):
    for place in ("photos/Train/cat", "photos/Train/.cache", "photos/Test/cat", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
        picture(len(place)).save(tmp_path / place / "a.png")
    (tmp_path / "photos/Train/dog").symlink_to(tmp_path / "elsewhere")
    found = sorted(
        row["label"] for row in data.from_folder(tmp_path / "photos", "train", allow_outside=True).as_numpy_iterator()
    )
    assert found == [b"cat", b"dog"]
    assert data.has_splits(tmp_path / "photos")


def test_a_folder_with_a_table_has_its_columns(tmp_path):
    table(tmp_path, ["photo,words", "0.png,a thing"]).rename(tmp_path / "captions.csv")
    assert len(data.named(tmp_path, columns="image=photo,caption=words")) == 1


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(BadData, match="has no picture"):
        data.from_folder(tmp_path)
    with pytest.raises(BadData, match="there is no folder"):
        data.from_folder(tmp_path / "none")


def test_rows_of_one_picture_are_references_of_one_example(tmp_path):
    for name, colour in (("red", "red"), ("again", "red"), ("blue", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    lines = ["red.png,w1 w2", "blue.png,w4", "red.png,w3", "again.png,w1 w2"]
    (tmp_path / "mine.csv").write_text("\n".join(["image,caption", *lines]))
    pairs = data.from_csv(tmp_path / "mine.csv")
    assert len(pairs) == 2
    found = [[caption.decode() for caption in row["captions"]] for row in pairs.encoded.as_numpy_iterator()]
    assert found == [["w1 w2", "w3"], ["w4"]]
    model = toys.toy("gated_captioner")
    batches = data.batches(pairs, model, training=True)
    drawn = {text for _ in range(8) for inputs, *_ in batches for text in model.vocabulary.decode(inputs["tokens"])}
    assert drawn == {"w1 w2", "w3", "w4"}


def test_a_pipe_is_listed_as_one(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    picture(1).save(tmp_path / "good.png")
    (tmp_path / "captions.csv").write_text("image,text\npipe.png,a thing\ngood.png,a good one\n")
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        data.from_csv(tmp_path / "captions.csv", most_bad=0.5)
    assert "a pipe or device: expected a picture's file" in listed(tmp_path)[0]["reason"]


def test_what_a_file_that_is_no_picture_contains_is_not_quoted(tmp_path):
    (tmp_path / "passwords.png").write_text("root:x:0:0:secret\n")
    picture(1).save(tmp_path / "good.png")
    (tmp_path / "captions.csv").write_text("image,text\npasswords.png,a thing\ngood.png,a good one\n")
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        data.from_csv(tmp_path / "captions.csv", most_bad=0.5)
    assert "secret" not in (tmp_path / "bad_rows.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("start", [b"P3 2 2 255 ", b"P1 2 "])
def test_a_text_that_begins_like_a_picture_is_not_quoted(start):
    with pytest.raises(media.BadPicture, match="damaged") as caught:
        media.read(start + b"secretpasswordsecret root:x:0:0:secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("way", ["up", "absolute", "link", "folder"])
def test_a_table_reads_nothing_outside_its_folder_unless_told(tmp_path, way):
    mine, other = tmp_path / "mine", tmp_path / "mine too"
    mine.mkdir(), other.mkdir()
    for number in range(2):
        picture(number).save((mine, other)[number] / f"{number}.png")
    (mine / "linked.png").symlink_to(other / "1.png")
    (mine / "sub").symlink_to(other)
    path = {"up": "../mine too/1.png", "absolute": other / "1.png", "link": "linked.png", "folder": "sub/1.png"}[way]
    (mine / "set.csv").write_text(f"image,text\n{mine / '0.png'},in it\n{path},beyond\n")
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        assert len(data.from_csv(mine / "set.csv", most_bad=0.5)) == 1
    assert "allow_outside=True (--allow-outside) reads it" in listed(mine)[0]["reason"]
    assert len(data.from_csv(mine / "set.csv", allow_outside=True)) == 2
    if way == "absolute":
        assert len(data.from_csv(mine / "set.csv", images=other)) == 2
    with pytest.raises(BadData, match="--allow-outside"):
        data.named(mine / "set.csv")
    assert len(data.named(mine / "set.csv", allow_outside=True)) == 2


def test_links_out_of_a_folder_are_read_where_it_is_allowed(tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir(), other.mkdir()
    picture(0).save(mine / "0.png")
    picture(1).save(mine / "1.png")
    picture(2).save(other / "2.png")
    (mine / "0.txt").write_text("in it")
    (other / "secret.txt").write_text("beyond")
    (mine / "1.txt").symlink_to(other / "secret.txt")
    (mine / "2.png").symlink_to(other / "2.png")
    (mine / "2.txt").write_text("a picture beyond")
    with pytest.warns(UserWarning, match="2 of 3 rows"):
        assert len(data.from_folder(mine, most_bad=0.9)) == 1
    assert len(data.from_folder(mine, allow_outside=True)) == 3
    (tmp_path / "linked").symlink_to(mine)  # the folder itself may be a link
    with pytest.warns(UserWarning, match="2 of 3 rows"):
        data.from_folder(tmp_path / "linked", most_bad=0.9)
    (mine / "captions.csv").symlink_to(other / "secret.txt")
    with pytest.raises(BadData, match="outside the folder of the data") as caught:
        data.from_folder(mine)
    assert "beyond" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="names of files are Unicode there")
def test_a_name_that_is_not_utf_8_is_listed(tmp_path):
    for name, caption in ((b"good", b"a thing"), (b"\xff\xfe", b"another")):
        place = os.fsencode(tmp_path) + b"/" + name
        Path(os.fsdecode(place + b".png")).write_bytes(encoded())
        Path(os.fsdecode(place + b".txt")).write_bytes(caption)
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        (found,) = data.from_folder(tmp_path, most_bad=0.5).encoded.as_numpy_iterator()
    assert found["caption"] == b"a thing"
    assert "a name that is not UTF-8: rename the file" in listed(tmp_path)[0]["reason"]
