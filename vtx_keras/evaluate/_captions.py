"""Captions against what people wrote: BLEU, ROUGE-L and CIDEr by pycocoevalcap, as the papers have them; and words.

Every text is made one line of tokens first, so that nothing a caption holds (a line break, U+2028, a NUL, nothing at
all) can move another one to the wrong picture. Two tokenizers: `tokens`, which is plain Python, and `penn`, the
original one of the COCO papers, which needs Java. They agree on plain English; `tokens` says where they do not.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtx_keras._compat import bleu_counts
from vtx_keras.evaluate._measures import Measure, mean
from vtx_keras.inputs.text import normalize, tokens

SCORERS = ("bleu", "rouge_l", "cider", "meteor", "spice")


def penn(texts: Iterable[str | bytes]) -> list[list[str]]:
    """The words of texts by the Penn Treebank tokenizer that comes with pycocoevalcap; it needs Java.

    penn(["A man's hat."])    # [['a', 'man', "'s", 'hat']]
    """
    java("the Penn Treebank tokenizer")
    home = package("tokenizer.ptbtokenizer")
    lines = [normalize(text) for text in texts]
    full = [row for row, line in enumerate(lines) if line]
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", home.STANFORD_CORENLP_3_4_1_JAR]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "utf-8"]
    run = subprocess.run(
        command, input="".join(f"{lines[row]}\n" for row in full).encode(), capture_output=True,
        cwd=Path(home.__file__).parent,
    )  # fmt: skip
    found = run.stdout.decode().split("\n")[:-1]
    if run.returncode or len(found) != len(full):
        said = run.stderr.decode(errors="replace").strip()[-300:]
        raise RuntimeError(f"the Java tokenizer gave {len(found)} lines for {len(full)} texts: {said}")
    words: list[list[str]] = [[] for _ in lines]
    for row, line in zip(full, found, strict=True):
        words[row] = [word for word in line.split() if word not in home.PUNCTUATIONS]
    return words


def check_scorers(names: Sequence[str]) -> None:
    """Refuses names that no scorer has.

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
    """BLEU-1 to 4, ROUGE-L and CIDEr of captions, each against its references; "meteor" and "spice" on request.

    The numbers are pycocoevalcap's. `tokenizer` is "plain" (`tokens`) or "penn" (Java, as in the COCO papers). A
    caption without words scores 0. CIDEr weighs words by how rare they are among all references given, so that
    another set of rows gives a row another score; of one row alone it is 0. METEOR gets no interval.

    >>> found = caption_scores(["A man is speaking."], [["a man speaks", "someone is speaking"]], scorers=["rouge_l"])
    >>> round(found["rouge_l"].value, 3)
    0.587
    """
    if len(said) != len(references) or not len(said):
        raise ValueError(f"{len(said)} captions, {len(references)} lists of references: expected as many, at least 1")
    check_scorers(scorers)
    if tokenizer not in ("plain", "penn"):
        raise ValueError(f'tokenizer={tokenizer!r}: expected "plain" or "penn"')
    counts = [len(each) for each in references]
    if isinstance(references[0], str) or not all(counts):
        raise ValueError("references are a list of texts for each caption, none of them empty")
    flat = [*said, *(text for each in references for text in each)]
    lines = [
        " ".join(words).replace("|||", " ") for words in (penn(flat) if tokenizer == "penn" else map(tokens, flat))
    ]
    starts = np.cumsum([len(said), *counts])
    truth = {row: lines[start : start + n] for row, (start, n) in enumerate(zip(starts, counts, strict=False))}
    worded = {row: [text for text in each if text] for row, each in truth.items()}
    wordless = [row for row, each in worded.items() if not each]
    if wordless:
        raise ValueError(f"row {wordless[0]} has no reference with a word: {list(references[wordless[0]])!r:.80}")
    given = {row: [line] for row, line in enumerate(lines[: len(said)])}
    measures: dict[str, Measure] = {}
    for name in scorers:
        measures |= {"bleu": _bleu, "rouge_l": _rouge, "cider": _cider, "meteor": _meteor, "spice": _spice}[name](
            worded, given
        )
    return measures


def exact(said: str, references: Sequence[str]) -> float:
    """1 where the text is one of the references but for case, spaces and Unicode form (`text.normalize`), else 0.

    >>> exact("A Cat ", ["a cat", "a dog"])
    1.0
    """
    return float(normalize(said) in map(normalize, references))


def word_f1(said: str, references: Sequence[str]) -> float:
    r"""How much the words overlap (F1 of the two bags of `\w+`), at the reference where that is most.

    >>> round(word_f1("a red cat", ["a cat"]), 2)
    0.8
    """
    ours = _bag(said)
    theirs = [_bag(reference) for reference in references]
    return max(2 * (ours & bag).total() / max(ours.total() + bag.total(), 1) for bag in theirs)


def _bag(text: str) -> Counter:
    return Counter(re.findall(r"\w+", normalize(text)))


def package(room: str) -> Any:
    """A module of pycocoevalcap, or an error that says how to get it.

    >>> package("cider.cider").Cider().method()
    'CIDEr'
    """
    import importlib

    try:
        return importlib.import_module(f"pycocoevalcap.{room}")
    except ModuleNotFoundError as error:
        raise ImportError("BLEU, ROUGE-L and CIDEr come from pycocoevalcap: pip install pycocoevalcap") from error


def java(what: str) -> None:
    """Complains where there is no Java."""
    if shutil.which("java") is None:
        raise RuntimeError(f"{what} needs Java, and there is none on the PATH: install a Java runtime, or leave it out")


def _bleu(truth: dict, given: dict) -> dict[str, Measure]:
    """Corpus BLEU is not a mean over rows: what adds up is counts, from which it follows."""
    scorer = package("bleu.bleu_scorer").BleuScorer(n=4)
    for row, (line,) in given.items():
        scorer += (line, truth[row])
    _, rows = scorer.compute_score(option="closest")
    captions = bleu_counts(scorer)
    closest = [min((abs(n - one["testlen"]), n) for n in one["reflen"])[1] for one in captions]
    counts = np.array(
        [[*one["correct"], *one["guess"], one["testlen"], n] for one, n in zip(captions, closest, strict=True)],
        float,
    )

    def order(n: int) -> Callable[[np.ndarray], float]:
        def of(weights: np.ndarray) -> float:
            total = weights @ counts
            # The two small numbers are the scorer's own, so that the figures agree to the last digit.
            precision = np.prod((total[:n] + 1e-15) / (total[4 : 4 + n] + 1e-9)) ** (1 / n)
            ratio = (total[8] + 1e-15) / (total[9] + 1e-9)
            return float(precision * np.exp(min(0.0, 1 - 1 / ratio)))

        return of

    return {f"bleu_{n}": Measure(order(n), np.array(rows[n - 1])) for n in range(1, 5)}


def _rouge(truth: dict, given: dict) -> dict[str, Measure]:
    scorer = package("rouge.rouge").Rouge()
    # The scorer splits at single spaces, so that "" would be a word.
    return {"rouge_l": mean([scorer.calc_score(given[row], truth[row]) if given[row][0] else 0.0 for row in given])}


def _cider(truth: dict, given: dict) -> dict[str, Measure]:
    return {"cider": mean(package("cider.cider").Cider().compute_score(truth, given)[1])}


def _meteor(truth: dict, given: dict) -> dict[str, Measure]:
    java("METEOR")
    scorer = package("meteor.meteor").Meteor()
    total, rows = scorer.compute_score(truth, given)
    # The whole set's figure is no mean of its rows', and of a resampled set only the Java program knows it.
    return {"meteor": Measure(lambda weights: float("nan"), np.array(rows), float(total))}


def _spice(truth: dict, given: dict) -> dict[str, Measure]:
    java("SPICE")
    home = Path(package("spice.spice").__file__).parent
    if not (home / "lib" / "stanford-corenlp-3.6.0-models.jar").is_file():
        raise RuntimeError(
            "SPICE needs Java 8 and the models of Stanford CoreNLP 3.6.0, which are not here: "
            "python -m pycocoevalcap.spice.get_stanford_models fetches them (400 MB); or leave it out"
        )
    found = package("spice.spice").Spice().compute_score(truth, given)[1]
    return {"spice": mean([row["All"]["f"] for row in found])}
