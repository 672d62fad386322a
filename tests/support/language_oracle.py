"""Folders of tiny causal language models by transformers, as `save_pretrained` and the Hub lay them.

Needs transformers and torch. Widths differ wherever an architecture lets them, gains and biases are random, so that a
mapping which is wrong anywhere changes the logits. Each folder keeps what transformers makes of it: expected.npz, and
tokens.json for its tokenizer. The tests read what this program writes:

    python tests/support/language_oracle.py tests/fixtures/language [kind ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers as tr
from tokenizers import decoders, normalizers, pre_tokenizers, processors

WORDS, LENGTH, NEW = 300, 9, 12  # pieces, ids of a prompt, ids that follow it
REAL = (6, 9, 4)  # lengths of padded rows
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
SIZES = {"hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 2, "max_position_embeddings": 64}
HEADS = {"num_attention_heads": 6, "num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 192,
}  # fmt: skip
CONFIGS = {
    "gpt2": (tr.GPT2Config, {"n_embd": 30, "n_inner": 52, "n_layer": 3, "n_head": 5, "n_positions": 32}),
    "llama": (tr.LlamaConfig, {**SIZES, **HEADS, **TIED, "rms_norm_eps": 1e-5, "head_dim": 8, "rope_theta": 1e5}),
    "llama_untied": (
        tr.LlamaConfig,
        {**SIZES, **UNTIED, "rms_norm_eps": 1e-5, "hidden_size": 32, "intermediate_size": 44, "num_attention_heads": 4,
         "num_key_value_heads": 4, "rope_theta": 1e4},
    ),
    "llama3": (
        tr.LlamaConfig,
        {**SIZES, **TIED, "rms_norm_eps": 1e-5, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16,
         "rope_theta": 5e5, "rope_scaling": LLAMA3, "max_position_embeddings": 1536},
    ),
    "qwen2": (tr.Qwen2Config, {**SIZES, **HEADS, **TIED, "rope_theta": 1e6}),
    "qwen3": (tr.Qwen3Config, {**SIZES, **HEADS, **TIED, "head_dim": 10, "rope_theta": 1e6}),
    "gemma3": (
        tr.Gemma3TextConfig,
        {**SIZES, **HEADS, **TIED, "hidden_size": 30, "intermediate_size": 44, "num_hidden_layers": 3, "head_dim": 8,
         "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window": 4, "query_pre_attn_scalar": 20,
         "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
}  # fmt: skip

# --- tokenizers

TURN, END, BOTH = "<|im_start|>", "<|im_end|>", ["<|im_start|>", "<|im_end|>"]
SPECIALS: dict[str, tuple[list[str], bool, dict[str, str]]] = {  # pieces, whether they come first, what they are for
    "gpt2": (["<|endoftext|>", *BOTH], False, {"bos": "<|endoftext|>", "eos": "<|endoftext|>"}),
    "llama": (["<|endoftext|>", *BOTH], True, {"bos": TURN, "eos": END, "pad": END, "unk": "<|endoftext|>"}),
    "llama_untied": (["<unk>", "<s>", "</s>", *BOTH], True, {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}),
    "llama3": (["<|begin_of_text|>", "<|end_of_text|>", *BOTH], False,
               {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"}),
    "qwen2": (["<|endoftext|>", *BOTH], False, {"eos": END, "pad": "<|endoftext|>"}),
    "qwen3": (["<|endoftext|>", *BOTH], False, {"eos": END, "pad": "<|endoftext|>"}),
    "gemma3": (["<pad>", "<eos>", "<bos>", "<unk>", *BOTH], True,
               {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "unk": "<unk>"}),
}  # fmt: skip
ALSO_ENDS = {"llama3": END, "qwen2": "<|endoftext|>", "qwen3": "<|endoftext|>", "gemma3": END}
SPARE = {"qwen2": 4}  # rows of the table which no piece has
STARTED = ("llama_untied", "llama3", "gemma3")  # their tokenizers put the start before a text
TURNS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SYSTEM = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
TEMPLATES = {"llama": SYSTEM + TURNS, "qwen2": SYSTEM + TURNS}
TEMPLATES |= dict.fromkeys(STARTED, "{{ bos_token }}" + TURNS)
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SENTENCES = [
    "the cat sits on the grass and the dog runs in the street",
    "what is in the picture? a red bus stands near the tree",
    "you are a helpful assistant. how many people are there? there are two",
]
TEXTS = [
    "a dog runs in the street.", " two cats, 1234 birds\n\n  and café naïve ☃ 🙂 ", "I'd say WE'LL see\tthe cafe\u0301",
    "<|im_start|>user\nthe cat?<|im_end|>\n", "",
]  # fmt: skip
HI = {"role": "user", "content": "what is in the picture?"}
SAID = {"role": "assistant", "content": "a cat on the grass."}
SHORT, MORE = {"role": "system", "content": "you are short."}, {"role": "user", "content": " and there?\n"}
CHATS = [[HI], [SHORT, HI], [HI, SAID, MORE], [SHORT, HI, SAID, MORE]]


def write(folder: Path, name: str, values: object) -> None:
    (folder / name).write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def cut(kind: str, tokenizer: tokenizers.Tokenizer) -> None:
    """Split a text as the kind's published tokenizers do, before the bytes."""
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "llama":
        bytes_of = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_of])
    elif kind in ("llama3", "qwen2", "qwen3"):
        pattern = tokenizers.Regex(PIECES % ("{1,3}" if kind == "llama3" else ""))
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        bytes_of = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), plain])
    if kind in ("qwen2", "qwen3"):
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer, tokenizer.decoder = bytes_of, decoders.ByteLevel()


def byte_bpe(kind: str, folder: Path) -> tr.PreTrainedTokenizerFast:
    """Train a byte-level BPE with the kind's special pieces and template; write it, and read it back."""
    pieces, first, names = SPECIALS[kind]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    cut(kind, tokenizer)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=WORDS - (0 if first else len(pieces)) - SPARE.get(kind, 0),
        special_tokens=pieces if first else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    tokenizer.add_special_tokens(pieces)
    if kind in STARTED:
        start = names["bos"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=[(start, tokenizer.token_to_id(start))]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    said: dict[str, Any] = {f"{name}_token": piece for name, piece in names.items()}
    said |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    said |= {"model_max_length": 1536, "chat_template": TEMPLATES.get(kind, TURNS)}
    write(folder, "tokenizer_config.json", said)
    return tr.PreTrainedTokenizerFast.from_pretrained(folder)


def said_by(tokenizer: tr.PreTrainedTokenizerFast) -> dict[str, list]:
    """Return texts and conversations with what the tokenizer makes of them."""
    texts = [
        {"text": text, "ids": tokenizer(text)["input_ids"], "bare": tokenizer.encode(text, add_special_tokens=False)}
        for text in TEXTS
    ]
    chats = []
    for messages in CHATS:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        chats.append({"messages": messages, "text": text, "ids": tokenizer.encode(text, add_special_tokens=False)})
    return {"text": texts, "chat": chats}


# --- models


def lively(kind: str, model: torch.nn.Module, ends: list[int], generator: torch.Generator) -> None:
    """Give every weight a value that matters: gains 1 ± .2, larger last ones, biases ± .1; make the ends likely."""
    # Gemma adds one to its gains, and makes what it reads of its table larger: its answers would repeat themselves.
    one, table, last = (0.0, 0.03, 14) if kind == "gemma3" else (1.0, 0.15, 3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if any(part in name for part in ("embed_tokens", "wte", "wpe", "lm_head")):
                weight.copy_(table * noise)
            elif weight.ndim == 2:
                weight.copy_(1.5 * noise * weight.shape[0 if kind == "gpt2" else 1] ** -0.5)
            elif name.endswith(("model.norm.weight", "ln_f.weight")):
                weight.copy_(last * (1 + 0.2 * noise) + one - 1)
            else:
                weight.copy_(one + 0.2 * noise if name.endswith("weight") else 0.1 * noise)
        head = model.get_output_embeddings().weight
        head[ends] *= 2
        head[WORDS - SPARE.get(kind, 0) :] = 0
    model.eval()


def continued(model: torch.nn.Module, ids: torch.Tensor, ends: list[int] | None, beams: int = 1) -> np.ndarray:
    """Return what transformers writes after the prompts, (rows, NEW) ids, -1 after an end."""
    model.generation_config.eos_token_id = ends
    settings = {"num_beams": beams, "length_penalty": 1.0} if beams > 1 else {}
    settings |= {"do_sample": False, "max_new_tokens": NEW, "pad_token_id": 0}
    with torch.inference_mode():
        rows = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[:, ids.shape[1] :].numpy()
    out = np.full((len(rows), NEW), -1)
    for to, row in zip(out, rows, strict=True):
        length = next((i + 1 for i, one in enumerate(row) if one in (ends or ())), len(row))
        to[:length] = row[:length]
    return out


def answers(model: torch.nn.Module, ids: torch.Tensor, ends: list[int]) -> dict[str, np.ndarray]:
    cut_off = [continued(model, row[None, :length], None)[0] for row, length in zip(ids, REAL, strict=True)]
    return {
        "greedy": continued(model, ids, None),
        "padded_greedy": np.stack(cut_off),
        "beams3": continued(model, ids, ends, 3),
    }


def telling(found: dict[str, np.ndarray]) -> bool:
    """Whether greedy rows vary, some but not all beams end early, and beams differ from the greedy rows."""
    lengths = (found["beams3"] >= 0).sum(1)
    varied = all(len(set(row)) > 6 for name in ("greedy", "padded_greedy") for row in found[name].tolist())
    return varied and 1 < lengths.min() < NEW == lengths.max() and (found["greedy"] != found["beams3"]).any(1).all()


def fixture(kind: str, folder: Path) -> None:
    """Write a folder, with weights whose answers tell much and stay as they are when weights move by 1e-4."""
    tokenizer = byte_bpe(kind, folder)
    assert len(tokenizer) == WORDS - SPARE.get(kind, 0)
    ends = [tokenizer.eos_token_id]
    if kind in ALSO_ENDS:
        ends.append(tokenizer.convert_tokens_to_ids(ALSO_ENDS[kind]))
    cls, settings = CONFIGS[kind]
    names = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    several = {**names, "eos_token_id": ends if len(ends) > 1 else ends[0]}
    ids = torch.tensor(np.random.default_rng(7).integers(8, WORDS - 8, (3, LENGTH)))
    for seed in range(200):
        torch.manual_seed(seed)
        config = cls(vocab_size=WORDS, **settings, **(several if kind == "gemma3" else names))
        model = tr.AutoModelForCausalLM.from_config(config)
        lively(kind, model, ends, torch.Generator().manual_seed(seed))
        model.generation_config = tr.GenerationConfig(**several)
        model.save_pretrained(folder)
        model = tr.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
        arrays = answers(model, ids, ends)
        if not telling(arrays):
            continue
        with torch.inference_mode():
            arrays["logits"] = model(ids).logits.numpy()
            for weight in model.parameters():
                weight.mul_(1 + 1e-4 * torch.randn(weight.shape))
        if all((arrays[name] == rows).all() for name, rows in answers(model, ids, ends).items()):
            break
    else:
        raise RuntimeError(f"{kind}: no seed gives answers that tell enough")
    pad = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    padded = np.where(np.arange(LENGTH) < np.array(REAL)[:, None], ids.numpy(), pad)
    np.savez_compressed(folder / "expected.npz", ids=ids.numpy(), padded=padded, lengths=np.array(REAL), **arrays)
    write(folder, "tokens.json", said_by(tokenizer))
    print(folder, f"seed {seed}, spread {arrays['logits'].std():.2f}", end=", ")


if __name__ == "__main__":
    for kind in sys.argv[2:] or CONFIGS:
        path = Path(sys.argv[1]) / kind
        path.mkdir(parents=True, exist_ok=True)
        fixture(kind, path)
        print(sum(one.stat().st_size for one in path.iterdir()) // 1000, "kB")
