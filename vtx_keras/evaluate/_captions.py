"""Score captions against references: BLEU, ROUGE-L and CIDEr as in the COCO papers, METEOR, SPICE and exact words.

The first three are computed here and equal those of pycocoevalcap, whose BLEU file forbids commercial use; the package
(the extra `coco`) is needed only for METEOR, SPICE and the Penn tokenizer. Every text becomes a list of tokens first,
so that no content of a caption (a line break, U+2028, a NUL, an empty text) can shift scores to another image. There
are two tokenizers: `tokens`, in Python, and `penn`, that of the COCO papers, which needs Java. They agree on plain
English.
"""

from __future__ import annotations

import importlib
import math
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtx_keras.evaluate._measures import Measure, mean
from vtx_keras.inputs.text import normalize, tokens

ORDERS = 4  # n-grams of one to four words
BETA = 1.2  # weight of recall in ROUGE-L
SIGMA = 6.0  # of CIDEr-D's length penalty
Captions = Sequence[Sequence[str]]  # tokens by row
References = Sequence[Sequence[Sequence[str]]]  # tokens of each reference by row

SCORERS = ("bleu", "rouge_l", "cider", "meteor", "spice")


def penn(texts: Iterable[str | bytes]) -> list[list[str]]:
    """Tokenize texts with the Penn Treebank tokenizer of pycocoevalcap, which needs Java.

    penn(["A man's hat."])    # [['a', 'man', "'s", 'hat']]
    """
    java("the Penn Treebank tokenizer")
    ptb = package("tokenizer.ptbtokenizer", "the Penn Treebank tokenizer")
    lines = [normalize(text) for text in texts]
    rows = [row for row, line in enumerate(lines) if line]
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", ptb.STANFORD_CORENLP_3_4_1_JAR]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "utf-8"]
    stdin = "".join(f"{lines[row]}\n" for row in rows).encode()
    run = subprocess.run(command, input=stdin, capture_output=True, cwd=Path(ptb.__file__).parent)
    output = run.stdout.decode().split("\n")[:-1]
    if run.returncode or len(output) != len(rows):
        error = run.stderr.decode(errors="replace").strip()[-300:]
        raise RuntimeError(f"the Java tokenizer gave {len(output)} lines for {len(rows)} texts: {error}")
    words: list[list[str]] = [[] for _ in lines]
    for row, line in zip(rows, output, strict=True):
        words[row] = [word for word in line.split() if word not in ptb.PUNCTUATIONS]
    return words


def check_scorers(names: Sequence[str]) -> None:
    """Raise `ValueError` for an unknown scorer.

    >>> check_scorers(["blew"])
    Traceback (most recent call last):
    ValueError: there is no scorer 'blew': choose among bleu, rouge_l, cider, meteor, spice
    """
    unknown = [name for name in names if name not in SCORERS]
    if unknown:
        raise ValueError(f"there is no scorer {unknown[0]!r}: choose among {', '.join(SCORERS)}")


def caption_scores(
    said: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    scorers: Sequence[str] = SCORERS[:3],
    tokenizer: str = "plain",
) -> dict[str, Measure]:
    """Compute BLEU-1 to 4, ROUGE-L and CIDEr of captions against their references; "meteor" and "spice" on request.

    The numbers equal pycocoevalcap's. `tokenizer` is "plain" (`tokens`) or "penn" (Java, as in the COCO papers). A
    caption without words scores 0. CIDEr weights words by their rarity among all references, so a row's score depends
    on the other rows, and is 0 for a single row. METEOR has no interval.

    >>> measures = caption_scores(["A man is speaking."], [["a man speaks", "someone is speaking"]])
    >>> round(measures["rouge_l"].value, 3)
    0.587
    """
    if len(said) != len(references) or not len(said):
        raise ValueError(f"{len(said)} captions, {len(references)} lists of references: expected as many, at least 1")
    check_scorers(scorers)
    if tokenizer not in ("plain", "penn"):
        raise ValueError(f'tokenizer={tokenizer!r}: expected "plain" or "penn"')
    counts = [len(texts) for texts in references]
    if isinstance(references[0], str) or not all(counts):
        raise ValueError("references are a list of texts for each caption, none of them empty")
    flat = [*said, *(text for texts in references for text in texts)]
    words = penn(flat) if tokenizer == "penn" else list(map(tokens, flat))
    starts = np.cumsum([len(said), *counts])
    targets = [
        [sentence for sentence in words[start : start + count] if sentence]
        for start, count in zip(starts, counts, strict=False)
    ]
    for row, sentences in enumerate(targets):
        if not sentences:
            raise ValueError(f"row {row} has no reference with a word: {list(references[row])!r:.80}")
    functions = {"bleu": _bleu, "rouge_l": _rouge, "cider": _cider, "meteor": _meteor, "spice": _spice}
    measures: dict[str, Measure] = {}
    for name in scorers:
        measures |= functions[name](targets, words[: len(said)])
    return measures


def exact(said: str, references: Sequence[str]) -> float:
    """Return 1 if the text equals a reference up to case, spaces and Unicode form (`text.normalize`), else 0.

    >>> exact("A Cat ", ["a cat", "a dog"])
    1.0
    """
    return float(normalize(said) in map(normalize, references))


def word_f1(said: str, references: Sequence[str]) -> float:
    r"""Return the word overlap (F1 of the two bags of `\w+`) with the reference where it is highest.

    >>> round(word_f1("a red cat", ["a cat"]), 2)
    0.8
    """
    words = _bag(said)
    bags = [_bag(reference) for reference in references]
    return max(2 * (words & bag).total() / max(words.total() + bag.total(), 1) for bag in bags)


def _bag(text: str) -> Counter:
    return Counter(re.findall(r"\w+", normalize(text)))


def package(module: str, what: str) -> Any:
    """Import a module of pycocoevalcap, or raise an error that names the extra to install."""
    try:
        return importlib.import_module(f"pycocoevalcap.{module}")
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{what} comes from pycocoevalcap: pip install "vtx_keras[coco]" (one of its files, which is not used '
            "here, forbids commercial use)"
        ) from error


def java(what: str) -> None:
    """Raise `RuntimeError` if there is no Java."""
    if shutil.which("java") is None:
        raise RuntimeError(f"{what} needs Java, and there is none on the PATH: install a Java runtime, or leave it out")


def ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Count the n-grams of one to ORDERS words.

    >>> ngrams(["a", "cat", "a"])[("a",)]
    2
    """
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1))


def _bleu(references: References, captions: Captions) -> dict[str, Measure]:
    """Corpus BLEU (Papineni et al., 2002) with the closest reference length, from counts over all rows.

    The two small constants are those of the COCO papers' scorer, so that figures agree to the last digit.
    """
    counts = np.zeros((len(captions), 2 * ORDERS + 2))  # per row: matches and n-grams by order, both lengths
    for row, (words, sentences) in enumerate(zip(captions, references, strict=True)):
        most: Counter[tuple[str, ...]] = Counter()
        for sentence in sentences:
            most |= ngrams(sentence)
        for gram, number in ngrams(words).items():
            counts[row, len(gram) - 1] += min(number, most[gram])
            counts[row, ORDERS + len(gram) - 1] += number
        closest = min((abs(len(sentence) - len(words)), len(sentence)) for sentence in sentences)[1]
        counts[row, -2:] = len(words), closest

    def scores(totals: np.ndarray, order: int) -> np.ndarray:  # (..., 2 * ORDERS + 2) -> (...)
        shares = (totals[..., :order] + 1e-15) / (totals[..., ORDERS : ORDERS + order] + 1e-9)
        ratio = (totals[..., -2] + 1e-15) / (totals[..., -1] + 1e-9)
        return np.prod(shares, axis=-1) ** (1 / order) * np.exp(np.minimum(0.0, 1 - 1 / ratio))

    def measure(order: int) -> Measure:
        return Measure(lambda weights: float(scores(weights @ counts, order)), scores(counts, order))

    return {f"bleu_{order}": measure(order) for order in range(1, ORDERS + 1)}


def _rouge(references: References, captions: Captions) -> dict[str, Measure]:
    """ROUGE-L (Lin, 2004): longest common subsequence, with the best precision and the best recall over references."""

    def common(first: Sequence[str], second: Sequence[str]) -> int:
        before = [0] * (len(second) + 1)
        for word in first:
            now = [0]
            for at, other in enumerate(second):
                now.append(before[at] + 1 if word == other else max(now[at], before[at + 1]))
            before = now
        return before[-1]

    def score(words: Sequence[str], sentences: Sequence[Sequence[str]]) -> float:
        lengths = [common(words, sentence) for sentence in sentences]
        if not words or not max(lengths):
            return 0.0
        precision = max(lengths) / len(words)
        recall = max(length / len(sentence) for length, sentence in zip(lengths, sentences, strict=True))
        return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)

    return {"rouge_l": mean([score(*pair) for pair in zip(captions, references, strict=True)])}


def _cider(references: References, captions: Captions) -> dict[str, Measure]:
    """CIDEr-D (Vedantam et al., 2015): cosines of n-gram counts, weighed by rarity among all rows' references."""
    frequency = Counter(gram for sentences in references for gram in set().union(*map(ngrams, sentences)))
    rows = math.log(len(references))

    def vectors(words: Sequence[str]) -> tuple[list[dict], list[float]]:
        parts: list[dict] = [{} for _ in range(ORDERS)]
        for gram, number in ngrams(words).items():
            parts[len(gram) - 1][gram] = number * (rows - math.log(max(1, frequency[gram])))
        return parts, [math.sqrt(sum(value**2 for value in part.values())) for part in parts]

    def score(words: Sequence[str], sentences: Sequence[Sequence[str]]) -> float:
        (grams, sizes), total = vectors(words), 0.0
        for sentence in sentences:
            other_grams, other_sizes = vectors(sentence)
            # The scorer of the COCO papers takes the number of bigrams as the length.
            gap = max(0, len(words) - 1) - max(0, len(sentence) - 1)
            for gram_weights, other, size, length in zip(grams, other_grams, sizes, other_sizes, strict=True):
                shared = sum(
                    min(value, other[gram]) * other[gram] for gram, value in gram_weights.items() if gram in other
                )
                total += math.exp(-(gap**2) / (2 * SIGMA**2)) * (shared / (size * length) if size * length else shared)
        return 10 * total / ORDERS / len(sentences)

    return {"cider": mean([score(*pair) for pair in zip(captions, references, strict=True)])}


def _lines(references: References, captions: Captions) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Convert rows to the lines of tokens that pycocoevalcap takes. Its Java programs read "|||" as a separator."""

    def line(words: Sequence[str]) -> str:
        return " ".join(words).replace("|||", " ")

    return {row: [line(words) for words in sentences] for row, sentences in enumerate(references)}, {
        row: [line(words)] for row, words in enumerate(captions)
    }


def _meteor(references: References, captions: Captions) -> dict[str, Measure]:
    java("METEOR")
    scorer = package("meteor.meteor", "METEOR").Meteor()
    total, rows = scorer.compute_score(*_lines(references, captions))
    # The corpus score is no mean over rows, and only the Java program can compute it for a resampled set.
    return {"meteor": Measure(lambda weights: float("nan"), np.array(rows), float(total))}


def _spice(references: References, captions: Captions) -> dict[str, Measure]:
    java("SPICE")
    spice = package("spice.spice", "SPICE")
    if not (Path(spice.__file__).parent / "lib" / "stanford-corenlp-3.6.0-models.jar").is_file():
        raise RuntimeError(
            "SPICE needs Java 8 and the models of Stanford CoreNLP 3.6.0, which are not here: "
            "python -m pycocoevalcap.spice.get_stanford_models fetches them (400 MB); or leave it out"
        )
    rows = spice.Spice().compute_score(*_lines(references, captions))[1]
    return {"spice": mean([row["All"]["f"] for row in rows])}
