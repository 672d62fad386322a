"""Folders of real transformers models, tiny and with lively random weights, as `save_pretrained` and the Hub lay them.

Needs transformers and torch. Widths of vision and text differ, gains and biases are random, so that a mapping which is
wrong anywhere changes the logits. As a program it writes the folders that the tests read, with what transformers makes
of them:

    python tests/support/published_oracle.py tests/fixtures/published [kind ...]
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers as tr

SENTENCE = (
    "a the of on in cat dog man woman two red blue green big small sits runs table grass water street with and is it "
    "what color how many yes no near tree ball bus train plays holding standing white black photo picture old young"
)
WORDS = SENTENCE.split(" ")
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SIDE = 48
VISION = {**TEXT, "hidden_size": 24, "intermediate_size": 40, "image_size": SIDE, "patch_size": 16}
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CLIP_SCALE = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


def lively(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every weight a value that matters: gains 1 ± .2, biases ± .1, matrices that keep the scale."""
    generator, seen = torch.Generator().manual_seed(seed), set()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.data_ptr() in seen:
                continue
            seen.add(weight.data_ptr())
            noise = torch.randn(weight.shape, generator=generator)
            table = any(part in name.lower() for part in ("embed", "wte", "wpe")) and "patch" not in name
            if weight.ndim >= 2:
                weight.copy_(noise * (0.1 if table else weight[0].numel() ** -0.5))
            elif weight.ndim == 0:
                weight.copy_(torch.tensor(2.5))
            else:
                weight.copy_(1 + 0.2 * noise if name.lower().endswith("weight") else 0.1 * noise)
    model.eval()
    model.tie_weights()
    return model


def bert_pieces(size: int = 200) -> list[str]:
    """Return pieces, with special ones where BERT has them and BLIP's two behind."""
    pieces = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    letters = [chr(97 + i) for i in range(1, 26)]
    pieces += [*letters, "##s", "##ing", "?", "."]
    return [*pieces, *(f"[filler{i}]" for i in range(size - 2 - len(pieces))), "[DEC]", "[ENC]"]


def write(folder: Path, name: str, values: dict) -> None:
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


def blip(folder: Path, cls: type = tr.BlipForConditionalGeneration, base: bool = False) -> torch.nn.Module:
    size, words, places = (384, 30_524, 512) if base else (SIDE, 200, 40)
    vision = {**(BASE if base else VISION), "image_size": size, "patch_size": 16}
    text = {
        **(BASE if base else TEXT),
        "vocab_size": words,
        "bos_token_id": words - 2,
        "encoder_hidden_size": vision["hidden_size"],
        "max_position_embeddings": places,
    }
    config = tr.BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=32)
    torch.manual_seed(0)
    model = lively(cls(config))
    if base:  # captions go on to the greatest length
        with torch.no_grad():
            model.text_decoder.cls.predictions.bias[102] = -40.0
            model.text_decoder.cls.predictions.decoder.bias = model.text_decoder.cls.predictions.bias
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(bert_pieces(words)) + "\n", encoding="utf-8")
    write(folder, "tokenizer_config.json", {"do_lower_case": True})
    sides = {"height": size, "width": size}
    write(folder, "preprocessor_config.json", {**CLIP_SCALE, "size": sides, "resample": 3, "do_normalize": True})
    return model


def blip_itm(folder: Path) -> torch.nn.Module:
    return blip(folder, tr.BlipForImageTextRetrieval)


def git(folder: Path) -> torch.nn.Module:
    config = tr.GitConfig(
        **TEXT, vocab_size=200, max_position_embeddings=60, bos_token_id=101, eos_token_id=102, vision_config=VISION
    )
    torch.manual_seed(0)
    model = lively(tr.GitForCausalLM(config))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(bert_pieces()) + "\n", encoding="utf-8")
    crop = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, "do_center_crop": True}
    write(folder, "preprocessor_config.json", {**CLIP_SCALE, **crop, "resample": 3})
    return model


def byte_bpe(folder: Path, specials: list[str], size: int, suffix: str | None = None) -> tokenizers.Tokenizer:
    """Train a small byte-level BPE, as GPT-2's, or CLIP's with its end of words; write it as tokenizer.json."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(**({"end_of_word_suffix": suffix} if suffix else {})))
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    if suffix:
        tokenizer.normalizer = tokenizers.normalizers.Sequence(
            [tokenizers.normalizers.NFC(), tokenizers.normalizers.Lowercase()]
        )
        pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "removed", invert=True)
        byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    else:
        tokenizer.pre_tokenizer = byte_level
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size - len(specials),
        **({"end_of_word_suffix": suffix} if suffix else {}),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.add_special_tokens(specials)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def vit_gpt2(folder: Path, dim: int = 32) -> torch.nn.Module:
    folder.mkdir(parents=True, exist_ok=True)
    words = byte_bpe(folder, ["<|endoftext|>"], 320).get_vocab_size()
    vision = tr.ViTConfig(**VISION)
    text = tr.GPT2Config(
        vocab_size=words, n_embd=dim, n_layer=2, n_head=4, n_positions=40, bos_token_id=words - 1,
        eos_token_id=words - 1, add_cross_attention=True, is_decoder=True,
    )  # fmt: skip
    config = tr.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.decoder_start_token_id = config.pad_token_id = config.eos_token_id = words - 1
    torch.manual_seed(0)
    model = lively(tr.VisionEncoderDecoderModel(config))
    model.save_pretrained(folder)
    write(folder, "preprocessor_config.json", {**HALF, "size": SIDE, "resample": 2})
    return model


def clip(folder: Path, base: bool = False) -> torch.nn.Module:
    """CLIP, or with `base` one of the size of ViT-B/32."""
    folder.mkdir(parents=True, exist_ok=True)
    words = byte_bpe(folder, ["<|startoftext|>", "<|endoftext|>"], 560, suffix="</w>").get_vocab_size()
    specials = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    text = {**TEXT, "vocab_size": words, "max_position_embeddings": 20, **specials}
    vision, side = VISION, SIDE
    if base:
        text |= {**BASE, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "vocab_size": 49_408}
        text["max_position_embeddings"], side = 77, 224
        vision = {**BASE, "image_size": 224, "patch_size": 32}
    torch.manual_seed(0)
    config = tr.CLIPConfig(text_config=text, vision_config=vision, projection_dim=512 if base else 32)
    model = lively(tr.CLIPModel(config))
    model.save_pretrained(folder)
    crop = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}, "do_center_crop": True}
    write(folder, "preprocessor_config.json", {**CLIP_SCALE, **crop, "resample": 3})
    return model


def unigram(folder: Path) -> int:
    """Write a small Unigram tokenizer.json with the special pieces of SigLIP's, and return its size."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *(f"\u2581{word}" for word in WORDS), *map(chr, range(97, 123))]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.Unigram([(piece, 0.0 if i < 3 else -2.0 - i / 100) for i, piece in enumerate(pieces)], 2)
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    tokenizer.save(str(folder / "tokenizer.json"))
    specials = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    write(folder, "tokenizer_config.json", {**specials, "do_lower_case": True, "tokenizer_class": "SiglipTokenizer"})
    return len(pieces)


def siglip(folder: Path) -> torch.nn.Module:
    text = {**TEXT, "vocab_size": unigram(folder), "max_position_embeddings": 16, "projection_size": 24}
    torch.manual_seed(0)
    model = lively(tr.SiglipModel(tr.SiglipConfig(text_config=text, vision_config=VISION)))
    with torch.no_grad():
        model.logit_scale.fill_(2.5)
        model.logit_bias.fill_(-4.0)
    model.save_pretrained(folder)
    sides = {"height": SIDE, "width": SIDE}
    write(folder, "preprocessor_config.json", {**HALF, "size": sides, "resample": 3, "do_normalize": True})
    return model


ANSWERS = ("yes", "no", "red", "blue", "2", "cat", "on table", "street", "man", "black and white")


def vilt(folder: Path, cls: type) -> torch.nn.Module:
    labels = {"id2label": dict(enumerate(ANSWERS)), "label2id": {name: i for i, name in enumerate(ANSWERS)}}
    config = tr.ViltConfig(**TEXT, vocab_size=200, max_position_embeddings=20, image_size=SIDE, patch_size=16, **labels)
    torch.manual_seed(0)
    model = lively(cls(config))
    with torch.inference_mode():  # else one answer suits all pictures
        pixels = torch.tensor(pictures() / 127.5 - 1).float().permute(0, 3, 1, 2)
        ids = torch.tensor([[101, *map(bert_pieces().index, WORDS[5:10]), 102]] * len(pixels))
        middle = model(pixel_values=pixels, input_ids=ids).logits.mean(0)
    with torch.no_grad():
        (model.classifier[3] if hasattr(model, "classifier") else model.rank_output).bias -= middle
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(bert_pieces()) + "\n", encoding="utf-8")
    write(folder, "tokenizer_config.json", {"do_lower_case": True})
    kind = {"size_divisor": 32, "resample": 3, "feature_extractor_type": "ViltFeatureExtractor", "do_normalize": True}
    write(folder, "preprocessor_config.json", {**HALF, "size": SIDE, **kind})
    return model


def vilt_vqa(folder: Path) -> torch.nn.Module:
    return vilt(folder, tr.ViltForQuestionAnswering)


def vilt_itm(folder: Path) -> torch.nn.Module:
    return vilt(folder, tr.ViltForImageAndTextRetrieval)


def pictures() -> np.ndarray:
    """Return eight pictures of noise, some of them dark."""
    generator = np.random.default_rng(0)
    return (generator.integers(0, 256, (8, SIDE, SIDE, 3)) * generator.uniform(0.1, 1, (8, 1, 1, 1))).astype("uint8")


def as_torch(model: object, pictures: np.ndarray) -> torch.Tensor:
    """Return 0-255 pictures (batch, h, w, 3) as the original reads them, by the mean and std of the converted model."""
    vision = model.spec["published"]["vision"]
    scaled = (pictures / 255 - np.array(vision["mean"])) / np.array(vision["std"])
    return torch.tensor(scaled).float().permute(0, 3, 1, 2)


MAKERS = {
    "blip": blip, "blip_itm": blip_itm, "git": git, "vit_gpt2": vit_gpt2, "clip": clip, "siglip": siglip,
    "vilt_vqa": vilt_vqa, "vilt_itm": vilt_itm,
}  # fmt: skip


# --- what transformers makes of them

RULES = {  # settings of transformers' generate, and what they are called here
    "greedy": ({"num_beams": 1}, {}),
    "beams": ({"num_beams": 3}, {}),
    "four beams, never": ({"num_beams": 4, "early_stopping": "never"}, {"early_stopping": "never"}),
    "early": ({"num_beams": 3, "early_stopping": True}, {"early_stopping": True}),
    "penalty": ({"num_beams": 3, "repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
    "no repeats": ({"num_beams": 3, "no_repeat_ngram_size": 2}, {"no_repeat_ngram": 2}),
    "greedy, no repeats": ({"num_beams": 1, "no_repeat_ngram_size": 1}, {"no_repeat_ngram": 1}),
    "long": ({"num_beams": 4, "min_length": 7}, {"min_length": 6}),  # transformers counts the start
    "favour length": ({"num_beams": 4, "length_penalty": 2.0}, {}),
}
LENGTH = 12


def specials_of(kind: str, model: torch.nn.Module) -> tuple[int, int, int]:
    """Return the ids of start, end and padding."""
    if kind in ("blip", "git"):
        return (model.config.text_config.bos_token_id if kind == "blip" else 101), 102, 0
    end = model.config.decoder.eos_token_id
    return end, end, end


def raise_end(kind: str, model: torch.nn.Module, value: float) -> None:
    """Make captions end early: raise the logit of the end."""
    with torch.no_grad():
        if kind == "blip":
            model.text_decoder.cls.predictions.bias[102] = value
            model.text_decoder.cls.predictions.decoder.bias = model.text_decoder.cls.predictions.bias
        elif kind == "git":
            model.output.bias[102] = value
        else:  # the head is the word table: add to the end's row what meets the last norm's bias
            text = model.decoder.transformer
            text.wte.weight[model.config.decoder.eos_token_id] += value * text.ln_f.bias / text.ln_f.bias.square().sum()


def written(
    kind: str, model: torch.nn.Module, pixels: torch.Tensor, prompt: list[int], **settings: Any
) -> list[list[int]]:
    """Return what transformers writes after the start, as ids up to the end."""
    start, end, pad = specials_of(kind, model)
    given = {"pixel_values": pixels, "do_sample": False, "max_new_tokens": LENGTH - len(prompt)}
    if kind != "vit_gpt2":
        given["suppress_tokens"] = [0, 100, start, 103]
    if kind != "blip":
        given |= {"pad_token_id": pad, "eos_token_id": end}
    # BLIP drops the last token of what it is given, the [SEP] of its processor.
    ids = torch.tensor([[start, *prompt, *([end] if kind == "blip" else [])]] * len(pixels))
    given["decoder_input_ids" if kind == "vit_gpt2" else "input_ids"] = ids
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = model.generate(**given, **settings).numpy()[:, 1:].tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]


def fixture(kind: str, folder: Path) -> None:
    """Write a folder and what transformers makes of it: expected.npz, and pieces in expected.json."""
    from vtx_keras.checkpoints import published
    from vtx_keras.checkpoints.published import _said

    model = MAKERS[kind](folder)
    captioner = kind in ("blip", "git", "vit_gpt2")
    if captioner:
        raise_end(kind, model, {"blip": 1.5, "git": 1.0, "vit_gpt2": 1.2}[kind])
    model.half().save_pretrained(folder)  # half the size; what is compared has the same rounded weights
    model.float()
    text = model.config.decoder if kind == "vit_gpt2" else model.config.get_text_config()
    names = _said.pieces(folder, text.vocab_size)
    pixels = as_torch(published.build(folder), pictures())
    mark = "\u2581" if kind == "siglip" else ""
    words = [60, 70, 80, 90, 75] if kind in ("clip", "vit_gpt2") else [names.index(mark + one) for one in WORDS[5:10]]
    arrays: dict[str, np.ndarray] = {"pictures": pictures()}
    said: dict[str, Any] = {"text": [names[i] for i in words]}
    with torch.inference_mode():
        if captioner:
            ids = torch.tensor([[specials_of(kind, model)[0], *words]] * 8)
            given = {"decoder_input_ids" if kind == "vit_gpt2" else "input_ids": ids}
            arrays["logits"] = model(pixel_values=pixels, **given).logits.numpy()[:2, -len(ids[0]) :]
            said["captions"] = {
                f"{rule}, prompted" if prompt else rule: [
                    [names[i] for i in row] for row in written(kind, model, pixels, prompt, **settings)
                ]
                for rule, (settings, _) in RULES.items()
                for prompt in ([], words[:2])
            }
        elif kind == "clip":
            ids = torch.tensor([[len(names) - 2, *words, len(names) - 1]])
            both = model(pixel_values=pixels, input_ids=ids)
            arrays |= {"image": both.image_embeds.numpy(), "text": both.text_embeds.numpy()}
        elif (
            kind == "siglip"
        ):  # a long text, a short one and others, one for each picture, padded as their tokenizer does
            texts = [words[i:] + words[:i] for i in range(5)] + [words[:1], words[1:3], words * 3]
            said["texts"] = [[names[i] for i in text] for text in texts]
            ids = torch.tensor([[*text, *[1] * (16 - len(text))] for text in texts])
            both = model(pixel_values=pixels, input_ids=ids, return_loss=True)
            arrays |= {"image": both.image_embeds.numpy(), "text": both.text_embeds.numpy()}
            arrays |= {"logits": both.logits_per_image.numpy(), "loss": both.loss.numpy()}
        elif kind in ("vilt_vqa", "vilt_itm"):
            ids = torch.tensor([[101, *words, 102]] * 8)
            arrays["logits"] = model(pixel_values=pixels, input_ids=ids).logits.numpy()
        else:
            ids = torch.tensor([[101, *words, 102]] * 8)
            scores = model(pixel_values=pixels, input_ids=ids, use_itm_head=True).itm_score.numpy()
            arrays["logits"] = scores[:, 1:] - scores[:, :1]
    np.savez_compressed(folder / "expected.npz", **arrays)
    (folder / "expected.json").write_text(json.dumps(said, ensure_ascii=False) + "\n", encoding="utf-8")


def bert(folder: Path) -> None:
    """Write a BERT with what it makes of a sentence: its pieces, by transformers' tokenizer, and their states."""
    torch.manual_seed(0)
    model = lively(tr.BertModel(tr.BertConfig(**TEXT, vocab_size=200, max_position_embeddings=40)))
    model.half().save_pretrained(folder)
    model.float()
    (folder / "vocab.txt").write_text("\n".join(bert_pieces()) + "\n", encoding="utf-8")
    write(folder, "tokenizer_config.json", {"do_lower_case": True})
    tokenizer = tr.BertTokenizer(vocab=str(folder / "vocab.txt"))
    ids = tokenizer("a cat, two dogs café")["input_ids"]
    with torch.inference_mode():
        states = model(torch.tensor([ids])).last_hidden_state.numpy()
    np.savez_compressed(folder / "expected.npz", states=states)
    write(folder, "expected.json", {"pieces": tokenizer.convert_ids_to_tokens(ids)[1:-1]})


if __name__ == "__main__":
    for kind in sys.argv[2:] or [*MAKERS, "bert"]:
        path = Path(sys.argv[1]) / kind
        path.mkdir(parents=True, exist_ok=True)
        if kind == "bert":
            bert(path)
        else:
            fixture(kind, path)
        print(path, sum(one.stat().st_size for one in path.iterdir()) // 1000, "kB")
