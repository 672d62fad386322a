"""The published files themselves: what their cards and the documentation of transformers say that they answer."""

from __future__ import annotations

import urllib.request

import pytest

from vtx_keras import zoo

pytestmark = pytest.mark.network
CATS = "http://images.cocodataset.org/val2017/000000039769.jpg"  # two cats on a couch, with remote controls
BEACH = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/demo.jpg"


def picture(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read()


def test_blip_says_what_its_card_says():
    model = zoo.build("cross_attn_captioner", weights="blip_base")
    assert model.generate(picture(BEACH)) == ["a woman sitting on the beach with her dog"]
    prompted = model.generate(picture(BEACH), prompt="a photography of")
    assert prompted == ["a photography of a woman and her dog"]


def test_git_says_what_the_documentation_says():
    model = zoo.build("merged_attn_captioner", weights="git_base_coco")
    assert model.generate(picture(CATS), max_length=32) == ["two cats sleeping on a pink blanket next to remotes."]


def test_vit_gpt2_says_what_the_documentation_says():
    model = zoo.build("cross_attn_captioner", weights="vit_gpt2")
    said = model.generate(picture(CATS), max_length=20)[0].strip()
    assert said == "a cat laying on a blanket next to a cat laying on a bed"


def test_clip_finds_the_cats():
    model = zoo.build("retriever", weights="clip_b32")
    cat, dog = model.similarity(picture(CATS), ["a photo of a cat", "a photo of a dog"])[0]
    assert 0.04 < cat - dog < 0.06, "its card: 99.5 % against 0.5 %, at a scale of 100"


def test_blip_matches_a_text():
    model = zoo.build("cross_attn_matcher", weights="blip_itm_coco")
    fits, fits_not = model.match(picture(BEACH), ["a woman and a dog sitting together in a beach.", "a red bus"])
    assert fits > 0.9 > 0.1 > fits_not
