"""Vocabularies with the rules of published models, made small with the library `tokenizers`, and texts to read."""

from __future__ import annotations

import json
import random

from sentences import CAPTIONS, ROUND_TRIPS

from vtx_keras.inputs import text

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789é!?.,'\"$()-\u3042\u65e5\u672c\u0264\u0627\u03c3\u03c2\u1112\u1161\u11ab"
WORDS = [
    "a\U0001d165\u302e",
    "cat",
    "##s",
    "##cat",
    "the",
    "##ing",
    "sitting",
    "un",
    "##able",
    "日",
    "naïve",
    "naive",
    "##é",
]
# Where rules differ: marks, spaces and controls of all kinds, sigmas, dotted capitals, ideographs, specials, numbers.
ODD = [
    *"\t\n\r\x00\x0b\x0c\x1f\x7f\x85\xa0\xad\u0130\u03a3\u03c2\u0301\u0345\u1680\u180e\u200b\u200d\u2028\u202f\u2060",
    *"\u3000\ufe0f\ufeff\ufffd\ue000\u037e\u1fef\u212a\u1e9e\ufb01\u3042\uac01\u4e2d\uf900\u0149\u01f0\u2e43\u1734\ua7cb",
    *("\U00020000", "\U0002b820", "\U0002b920", "\U0002f800", "\U0001f469\u200d\U0001f692", "\U000e0041", "\U0010ffff"),
    *("[PAD]", "[UNK]", "[MASK]", "[START]", "##s", "</w>", "\u2581", "<0x41>", "\u0120", "x" * 100, "x" * 101),
    *("\u0627" * 100, "a\u302e\U0001d165"),  # 200 bytes; marks that take space, in an order that NFD changes
]


def random_texts(count, seed=0):
    draw = random.Random(seed)
    every = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]

    def part():
        kind = draw.random()
        if kind < 0.35:
            return draw.choice([*WORDS, "CAT", "Cats", "Unable", "it's"]).replace("##", "")
        if kind < 0.6:
            return "".join(draw.choices(LETTERS + "ABCÉÀ  ", k=draw.randint(1, 6)))
        return draw.choice(ODD) if kind < 0.8 else draw.choice(every[: draw.choice([0x250, 0x3000, len(every)])])

    return ["".join(draw.choice(["", " "]) + part() for _ in range(draw.randint(1, 9))) for _ in range(count)]


TEXTS = [*CAPTIONS, *ROUND_TRIPS, *random_texts(4000)]


def bert_pieces():
    return text.vocabulary(list(dict.fromkeys([*LETTERS, *("##" + one for one in LETTERS), *WORDS])))


def bert_of_the_library(pieces, lowercase, strip_accents):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def trained(kind):
    """A tokenizer.json of a few hundred pieces, as GPT-2, CLIP and SigLIP have it."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder, made.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
        trainer = trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
        )
    elif kind == "clip":
        made = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
        spaces = normalizers.Replace(Regex(r"\s+"), " ")
        made.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
        cut = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(cut, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=800,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            special_tokens=["<|startoftext|>", "<|endoftext|>"],
            show_progress=False,
        )
    else:
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
        )
    made.train_from_iterator([*CAPTIONS, *ROUND_TRIPS, "naïve café 日本", "0123456789"] * 3, trainer)
    if kind == "clip":  # every byte ends a word too, as in the published table
        content = json.loads(made.to_str())
        table = content["model"]["vocab"]
        for one in alphabet:
            table.setdefault(one + "</w>", len(table))
        made = Tokenizer.from_str(json.dumps(content))
    made.enable_truncation(3)  # which a published file may ask for; here `length` decides
    return made


def published(kind):
    """A library's tokenizer and the vocabulary that a converter makes of it."""
    made = trained(kind)
    content = json.loads(made.to_str())
    table = content["model"]["vocab"]
    order = [piece for piece, _ in table] if kind == "unigram" else sorted(table, key=table.get)
    gone = {"<|startoftext|>", "<|endoftext|>", "<pad>", "</s>", "<unk>"}
    made.no_truncation()
    rule = {"kind": "tokenizers", "json": content, "end": True}
    return made, text.Vocabulary((*text.SPECIALS, *(piece for piece in order if piece not in gone)), rule=rule)


def with_specials_of_its_own():
    """A vocabulary whose tokenizer.json names special tokens as this package does."""
    words = ["[UNK]", "[PAD]", "[", "pad", "]"]
    content = json.loads(bert_of_the_library(words, True, True).to_str())
    one = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"] = [{"id": 1, "content": "[PAD]", "special": True, **one}]
    return text.Vocabulary((*text.SPECIALS, *words[2:]), rule={"kind": "tokenizers", "json": content})
