"""A causal language model in one GGUF file, as what a transformers folder holds: config, tensors, tokenizer.

The library `gguf` reads the file and dequantizes its tensors. It trusts counts and lengths, so these are compared with
the size of the file before. What llama.cpp's converter does to a tensor is undone when the tensor is read.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtx_keras.checkpoints._folder import BadWeights
from vtx_keras.checkpoints.published._said import Said
from vtx_keras.checkpoints.published._tensors import Read, Tensors

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value, by its type's number
TEXT, ARRAY = 8, 9  # the other types of values
LONGEST = {"tokens": 300_000, "scores": 300_000, "token_type": 300_000, "merges": 600_000}  # Gemma has 262,208 tokens
MAX_ARRAY, MAX_TEXT, MAX_KEYS, MAX_TENSORS, MAX_PIECE = 4096, 1_000_000, 4096, 10_000, 128
WHOLE, USER_DEFINED = (2, 3, 4), 4  # types of tokens that a text holds as they are: unknown, control, user-defined
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}

MODELS = {
    "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM", "gpt2": "GPT2LMHeadModel",
}  # fmt: skip
PLAIN = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
NORMED = {**PLAIN, "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
GEMMA = {
    **NORMED, "ffn_norm": "pre_feedforward_layernorm", "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
GPT2 = {
    "token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f",
    "output": "lm_head", "attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
}  # fmt: skip
NAMES = {"llama": PLAIN, "qwen2": PLAIN, "qwen3": NORMED, "gemma3": GEMMA, "gpt2": GPT2}

WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {"gpt-2": "", "smollm": "", "qwen2": rf"{WORD}\p{{N}}{REST}", "llama-bpe": rf"{WORD}\p{{N}}{{1,3}}{REST}"}
SAME = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}


class Gguf(NamedTuple):
    """What a transformers folder of the same model holds; tensors are dequantized to float32 when they are read."""

    config: dict[str, Any]  # config.json
    tensors: Tensors
    tokenizer: dict[str, Any]  # tokenizer.json
    settings: dict[str, Any]  # tokenizer_config.json
    licence: str = ""


def opened(path: Path) -> Gguf:
    """Open a GGUF file of a causal language model; anything else is `BadWeights`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.gguf"
    >>> _ = path.write_bytes(b"PK" + bytes(30))
    >>> opened(path)
    Traceback (most recent call last):
    vtx_keras.checkpoints._folder.BadWeights: ...model.gguf begins with b'PK\\x00\\x00': expected b'GGUF', ...
    """
    try:
        import gguf
    except ImportError as error:
        raise ImportError('a GGUF file needs the gguf library: pip install "vtx_keras[llm]"') from error
    _Header(path).check()
    try:
        reader = gguf.GGUFReader(path)
        said = Said({key: field.contents() for key, field in reader.fields.items()}, str(path))
        raw = {tensor.name: tensor for tensor in reader.tensors}
    except Exception as error:  # a damaged file can fail anywhere in its reader
        raise BadWeights(f"{path} is cut short or damaged: {type(error).__name__}: {error}. Get it again") from error
    kind, shapes = said("general.architecture"), {name: tuple(one.shape[::-1].tolist()) for name, one in raw.items()}
    if len(shapes.get("token_embd.weight", ())) != 2:
        raise BadWeights(f"{path} has no table token_embd.weight: expected a whole model, not a part or an adapter")
    for name, one in raw.items():
        if one.tensor_type.name not in TYPES or len(shapes[name]) not in (1, 2) or 0 in shapes[name]:
            came, known = f"{name!r:.60} as {one.tensor_type.name} of shape {shapes[name]}", ", ".join(TYPES)
            raise BadWeights(f"{path} has {came}: expected a vector or a matrix, as {known}. Take another file of it")
    pieces = _Pieces(said, shapes["token_embd.weight"][0])
    config = _config(said, kind, shapes, pieces.special)
    entries = dict(_entry(said, config, one, gguf.dequantize) for one in raw.values())
    settings = pieces.settings(length=_number(said, f"{kind}.context_length"))
    return Gguf(config, Tensors(entries), pieces.tokenizer(), settings, str(said.values.get("general.license") or ""))


class _Header:
    """A reader that skips metadata and compares every count and length with the size of the file."""

    def __init__(self, path: Path):
        self.path, self.at = path, 4
        if not path.is_file() or path.stat().st_size < 24:
            raise self.bad("is no file, or is empty", "expected a GGUF file of a causal language model")
        self.data = np.memmap(path, np.uint8, "r").data

    def bad(self, came: str, then: str = "it is cut short or damaged, get it again") -> BadWeights:
        return BadWeights(f"{self.path} {came}: {then}")

    def check(self) -> None:
        if (magic := bytes(self.data[:4])) != b"GGUF":
            then = "run `git lfs pull`" if magic == b"vers" else "expected b'GGUF', a model as llama.cpp stores it"
            raise self.bad(f"begins with {magic!r}", then)
        if self.number(4) not in (2, 3):
            raise self.bad("is GGUF of another version or byte order", "expected 2 or 3, in little-endian order")
        self.count("tensors", MAX_TENSORS, 24)
        found = dict(self.pair() for _ in range(self.count("keys", MAX_KEYS, 13)))
        if (kind := found.get("general.architecture")) not in MODELS:
            raise self.bad(f"is of architecture {kind!r:.60}", f"expected one of {', '.join(MODELS)}")
        if found.get("split.count", 1) not in (0, 1):
            raise self.bad("is one part of a model in several files", "join them by `llama-gguf-split --merge`")

    def skip(self, size: int) -> memoryview:
        if size > len(self.data) - self.at:
            raise self.bad(f"ends inside its header: {size:,} bytes are expected from byte {self.at:,} on")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.skip(size), "little")

    def count(self, what: str, most: int, least: int) -> int:  # of at least `least` bytes each
        if (count := self.number(8)) > (most := min(most, (len(self.data) - self.at) // least)):
            raise self.bad(f"has {count:,} {what} by its header, and {most:,} are possible")
        return count

    def text(self) -> str:
        return str(self.skip(self.count("bytes in a text", MAX_TEXT, 1)), "utf-8", "replace")

    def pair(self) -> tuple[str, int | str | None]:
        """Read a key, and its value if that is a text or a number of so many bytes."""
        key, kind = self.text(), self.number(4)
        if kind in SIZES:
            return key, self.number(SIZES[kind])
        if kind == TEXT:
            return key, self.text()
        inner = self.number(4) if kind == ARRAY else -1
        if inner not in SIZES and inner != TEXT:
            raise self.bad(f"has {key!r:.60} of type {kind}, {inner}", "expected a number, a text, or a list of them")
        size, most = SIZES.get(inner, 0), LONGEST.get(key.removeprefix("tokenizer.ggml."), MAX_ARRAY)
        count = self.count(f"values of {key!r:.60}", most, size or 8)
        self.skip(size * count)
        for _ in range(count if inner == TEXT else 0):
            self.skip(self.number(8))
        return key, None


def _number(said: Said, key: str, default: float | None = None, real: bool = False) -> Any:
    """Return a number above 0; a real one, which is stored as float32, in its shortest decimal form."""
    value = said(key) if default is None else said.values.get(key, default)
    if type(value) not in ((int, float) if real else (int,)) or not 0 < value < (math.inf if real else 2**31):
        raise BadWeights(f"{said.where} has {key} {value!r:.60}: expected a {'' if real else 'whole '}number above 0")
    return float(str(np.float32(value))) if real else value


def _config(said: Said, kind: str, shapes: dict[str, tuple], special: dict[str, int]) -> dict[str, Any]:
    def get(key: str, default: float | None = None, real: bool = False) -> Any:
        return _number(said, f"{kind}.{key}", default, real)

    depth, dim, heads = get("block_count"), get("embedding_length"), get("attention.head_count")
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blk.")}
    if len(blocks) != depth or blocks != {str(block) for block in range(depth)}:
        raise BadWeights(f"{said.where} has tensors of {len(blocks)} blocks: expected {depth}. It is damaged")
    config: dict[str, Any] = {
        "model_type": "gemma3_text" if kind == "gemma3" else kind, "architectures": [MODELS[kind]],
        "vocab_size": shapes["token_embd.weight"][0], "tie_word_embeddings": "output.weight" not in shapes,
        **{f"{role}_token_id": special.get(role) for role in ("bos", "eos", "pad")},
    }  # fmt: skip
    if kind == "gpt2":
        return config | {
            "n_embd": dim, "n_head": heads, "n_layer": depth, "n_positions": get("context_length"),
            "n_inner": get("feed_forward_length"), "layer_norm_epsilon": get("attention.layer_norm_epsilon", real=True),
            "activation_function": "gelu_new",
        }  # fmt: skip
    head = get("attention.key_length", max(1, dim // heads))
    if {get(key, head) for key in ("attention.value_length", "rope.dimension_count")} != {head}:
        raise BadWeights(f"{said.where} has heads of several widths: expected {head} for all, and that all rotates")
    config |= {
        "hidden_size": dim, "intermediate_size": get("feed_forward_length"), "num_hidden_layers": depth,
        "num_attention_heads": heads, "num_key_value_heads": get("attention.head_count_kv", heads), "head_dim": head,
        "max_position_embeddings": get("context_length"), "attention_bias": "blk.0.attn_q.bias" in shapes,
        "mlp_bias": "blk.0.ffn_up.bias" in shapes, "rms_norm_eps": get("attention.layer_norm_rms_epsilon", real=True),
        "rope_theta": get("rope.freq_base", 1e6 if kind == "gemma3" else 1e4, real=True),
    }  # fmt: skip
    if (scaling := said.values.get(f"{kind}.rope.scaling.type", "none")) not in ("none", "linear"):
        raise BadWeights(f"{said.where} scales rotations by {scaling!r:.60}: expected none or linear")
    if scaling == "linear":
        config["rope_scaling"] = {"rope_type": "linear", "factor": get("rope.scaling.factor", real=True)}
    if kind != "gemma3":
        return config | {"hidden_act": "silu"}
    pattern = get("attention.sliding_window_pattern", 6)
    return config | {
        "hidden_activation": "gelu_pytorch_tanh", "sliding_window": get("attention.sliding_window"),
        "sliding_window_pattern": pattern, "rope_local_base_freq": get("rope.freq_base_swa", 1e4, real=True),
        "layer_types": [f"{'sliding' if (one + 1) % pattern else 'full'}_attention" for one in range(depth)],
        "query_pre_attn_scalar": dim // heads if depth == 62 else head,  # 62: of 27B. The file does not tell
    }  # fmt: skip


def _entry(said: Said, config: dict[str, Any], tensor: Any, numbers: Any) -> tuple[str, tuple[tuple[int, ...], Read]]:
    """Return a tensor's name in transformers, its shape there, and its reader."""
    kind, name, shape = said("general.architecture"), tensor.name, tuple(tensor.shape[::-1].tolist())
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if not match or match[2] not in NAMES[kind]:
        raise BadWeights(f"{said.where} has a tensor {name!r:.60}: expected those of {kind} alone, take a plain export")
    inside = f"{'transformer.h' if kind == 'gpt2' else 'model.layers'}.{match[1]}." if match[1] else ""
    turned = kind == "gpt2" and bool(inside) and len(shape) == 2  # a Conv1D of transformers
    key = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(match[2], "")
    heads = config[key] if kind == "llama" and key else 0
    if heads and shape[0] != heads * (config["head_dim"] // 2) * 2:
        raise BadWeights(f"{said.where} has {name} of shape {shape}: expected {heads} heads of {config['head_dim']}")

    def read() -> np.ndarray:
        array = np.asarray(numbers(tensor.data, tensor.tensor_type)).reshape(shape)
        if heads:  # llama.cpp has the two halves of a rotation side by side
            return array.reshape(heads, -1, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
        if kind == "gemma3" and name.endswith("norm.weight"):
            return array - np.float32(1)
        return array.T if turned else array

    return f"{inside}{NAMES[kind][match[2]]}.{match[3]}", (shape[::-1] if turned else shape, read)


class _Pieces:
    """The pieces of a vocabulary, and how texts are cut into them."""

    def __init__(self, said: Said, rows: int):
        self.said, self.kind = said, said("general.architecture")
        self.model, pre = self.get("ggml.model", ""), self.get("ggml.pre", "default")
        default = "qwen2" if self.kind.startswith("qwen") else "gpt-2"  # of files that do not tell
        self.rule = default if pre == "default" else SAME.get(pre, pre)
        if self.model not in ("gpt2", "llama") or (self.model == "gpt2" and self.rule not in SPLITS):
            came = f"{said.where} has a tokenizer {self.model!r:.60} of rule {pre!r:.60}"
            raise BadWeights(f"{came}: expected llama, or gpt2 with one of {', '.join((*SPLITS, *SAME))}")
        space = "▁" if self.model == "llama" and self.kind == "gemma3" else " "  # its runs of "▁" are stored as spaces
        names = [name or f"[EMPTY_{i}]" for i, name in enumerate(self.get("ggml.tokens", []))]
        self.names = [name if name.strip(" ") else space * len(name) for name in names]
        self.ids = {name: i for i, name in enumerate(self.names)}
        self.types = self.get("ggml.token_type", [], int) or [1] * len(names)
        if not 0 < len(self.ids) == len(names) == len(self.types) <= rows:
            came = f"{len(names)} tokens, {len(self.ids)} of them distinct, and {len(self.types)} types"
            raise BadWeights(f"{said.where} has {came}: expected as many of each, at most {rows}, the rows of a table")
        special = {role: self.get(f"ggml.{key}_token_id", -1) for role, key in ROLES.items()}
        if not all(-1 <= number < len(names) for number in special.values()):
            raise BadWeights(f"{said.where} has special tokens {special}: expected less than {len(names)}")
        self.special = {role: number for role, number in special.items() if number >= 0}

    def get(self, name: str, default: Any, inner: type = str) -> Any:
        """Return a value of the type that the default has, of `inner` if it is a list."""
        value = self.said.values.get(f"tokenizer.{name}", default)
        if type(value) is not type(default) or (type(value) is list and not {type(one) for one in value} <= {inner}):
            raise BadWeights(f"{self.said.where} has tokenizer.{name} {value!r:.60}: expected it as {default!r} is")
        return value

    def settings(self, length: int) -> dict[str, Any]:
        """Return the content of tokenizer_config.json."""
        template = self.get("chat_template", "")
        return {
            "add_bos_token": self.get("ggml.add_bos_token", self.model == "llama" or self.rule == "llama-bpe"),
            "add_eos_token": self.get("ggml.add_eos_token", False),
            **{f"{role}_token": self.names[number] for role, number in self.special.items()},
            **({"chat_template": template} if template else {}),
            "clean_up_tokenization_spaces": False, "model_max_length": length,
        }  # fmt: skip

    def tokenizer(self) -> dict[str, Any]:
        """Return the content of tokenizer.json; whether START begins a text is told by the settings."""
        whole = [i for i, type_ in enumerate(self.types) if type_ in WHOLE] or sorted(set(self.special.values()))
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added = [{"id": i, "content": self.names[i], **flags, "special": self.types[i] != USER_DEFINED} for i in whole]
        parts = self.of_bytes() if self.model == "gpt2" else self.of_characters()
        return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts}

    def merges(self) -> list[list[str]]:
        if "tokenizer.ggml.merges" in self.said.values or self.model == "gpt2":
            pairs = [one.split(" ") for one in self.get("ggml.merges", [])]
            if not all(len(pair) == 2 and {*pair, "".join(pair)} <= self.ids.keys() for pair in pairs):
                raise BadWeights(f"{self.said.where} has merges of what is no token: it is damaged, get it again")
            return pairs
        scores = self.get("ggml.scores", [], float)  # Gemma's do not follow the order of its merges
        ranks = range(0, -len(self.ids), -1) if self.kind == "gemma3" else scores
        if len(ranks) != len(self.ids):
            raise BadWeights(f"{self.said.where} has {len(ranks)} scores of {len(self.ids)} tokens: it is damaged")
        found = [
            (rank, name[:at], name[at:])
            for name, rank in zip(self.names, ranks, strict=True)
            for at in range(1, min(len(name), MAX_PIECE))
            if name[:at] in self.ids and name[at:] in self.ids
        ]
        found.sort(key=lambda one: (one[0], len(one[1]), len(one[2])), reverse=True)
        return [[left, right] for _, left, right in found]

    def of_bytes(self) -> dict[str, Any]:
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        split = {"type": "Split", "pattern": {"Regex": SPLITS[self.rule]}, "behavior": "Isolated", "invert": False}
        first = {"type": "Digits", "individual_digits": True} if self.rule == "smollm" else split
        parts = [first, {**level, "use_regex": not SPLITS[self.rule]}]
        model = {"type": "BPE", "ignore_merges": self.rule == "llama-bpe", "vocab": self.ids, "merges": self.merges()}
        return {
            "normalizer": {"type": "NFC"} if self.rule == "qwen2" else None,
            "pre_tokenizer": level if self.rule == "gpt-2" else {"type": "Sequence", "pretokenizers": parts},
            "post_processor": None, "decoder": level, "model": model,
        }  # fmt: skip

    def of_characters(self) -> dict[str, Any]:
        """Return the parts of a BPE of characters, with bytes for those that are no piece, as SentencePiece has it."""
        marked: list[Any] = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
        spaced: list[Any] = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}]
        spaced += [{"type": "ByteFallback"}, {"type": "Fuse"}]
        if self.get("ggml.add_space_prefix", self.kind != "gemma3"):
            marked = [{"type": "Prepend", "prepend": "▁"}, *marked]
            spaced += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
        unknown = self.names[self.special["unk"]] if "unk" in self.special else None
        model = {"type": "BPE", "unk_token": unknown, "fuse_unk": True, "byte_fallback": True, "vocab": self.ids}
        return {
            "normalizer": {"type": "Sequence", "normalizers": marked}, "pre_tokenizer": None, "post_processor": None,
            "decoder": {"type": "Sequence", "decoders": spaced}, "model": {**model, "merges": self.merges()},
        }  # fmt: skip
