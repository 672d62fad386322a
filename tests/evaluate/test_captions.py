"""Scores of captions: known answers, second opinions, and no row that moves another."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from paths import EMOJI_NAMES

from vtx_keras import metrics
from vtx_keras.evaluate import _captions as captions
from vtx_keras.evaluate import _measures as measures
from vtx_keras.inputs.text import normalize

NEEDS_JAVA = pytest.mark.skipif(captions.shutil.which("java") is None, reason="no Java")
LINES = ["\r", "\n", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x00"]  # line ends in some program
NASTY = [*(f"a{end}b" for end in LINES), "", "   ", "||| a ||| b", "\ud800", "!"]
SAID = ["a man is speaking", "rain falls"]
REFERENCES = [
    ["a man speaks.", "someone speaks.", "a man is speaking while a bird is chirping in the background"],
    ["rain is falling hard on a surface"],
]
KNOWN = {
    "bleu_1": 0.427848,
    "bleu_2": 0.405892,
    "bleu_3": 0.438965,
    "bleu_4": 0.456500,
    "rouge_l": 0.487069,
    "cider": 0.961355,
}


def test_scores_of_a_published_example():
    found = metrics.caption_scores(SAID, REFERENCES)
    assert {name: round(measure.value, 6) for name, measure in found.items()} == KNOWN
    np.testing.assert_allclose(found["cider"].rows, [1.364055, 0.558655], atol=1e-6)


def oracle(module: str, kind: str):
    return getattr(pytest.importorskip(f"pycocoevalcap.{module}"), kind)()


def test_scores_equal_those_of_pycocoevalcap():
    random = np.random.default_rng(0)
    words = ["a", "the", "cat", "dog", "sits", "on", "mat", "red", "blue", "runs"]
    said = [" ".join(random.choice(words, random.integers(1, 9))) for _ in range(40)]
    wanted = [[" ".join(random.choice(words, random.integers(1, 9))) for _ in range(3)] for _ in said]
    given, truth = {i: [one] for i, one in enumerate(said)}, dict(enumerate(wanted))
    found = metrics.caption_scores(said, wanted)
    bleu, rows = oracle("bleu.bleu", "Bleu").compute_score(truth, given, verbose=0)
    np.testing.assert_allclose([found[f"bleu_{n}"].value for n in range(1, 5)], bleu, rtol=1e-12)
    np.testing.assert_allclose([found[f"bleu_{n}"].rows for n in range(1, 5)], rows, rtol=1e-12)
    for name, module, kind in (("rouge_l", "rouge.rouge", "Rouge"), ("cider", "cider.cider", "Cider")):
        value, rows = oracle(module, kind).compute_score(truth, given)
        assert found[name].value == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(found[name].rows, rows, rtol=1e-12)
    # Weighting rows equals repeating them.
    weights = random.integers(0, 3, len(said)).astype(float)
    again = np.repeat(np.arange(len(said)), weights.astype(int))
    repeated = metrics.caption_scores([said[i] for i in again], [wanted[i] for i in again], scorers=["bleu", "rouge_l"])
    for name, measure in repeated.items():
        assert found[name].of(weights) == pytest.approx(measure.value, rel=1e-9)


@pytest.mark.parametrize("tokenizer", ["plain", pytest.param("penn", marks=NEEDS_JAVA)])
def test_no_caption_changes_the_score_of_another(tokenizer):
    said = [*SAID, *NASTY, "x " * 3000]
    wanted = [*REFERENCES, *(["a b", nasty] for nasty in NASTY), ["x y"]]

    def rows(order, scorers=("bleu", "rouge_l")):
        found = metrics.caption_scores(
            [said[i] for i in order], [wanted[i] for i in order], scorers=scorers, tokenizer=tokenizer
        )
        return {name: dict(zip(order, measure.rows.tolist(), strict=True)) for name, measure in found.items()}

    whole = rows(range(len(said)))
    assert whole["rouge_l"][0] == pytest.approx(metrics.caption_scores(SAID, REFERENCES)["rouge_l"].rows[0])
    backwards = rows(range(len(said) - 1, -1, -1), captions.SCORERS[:3])
    assert {name: backwards[name] for name in whole} == whole
    forwards = rows(range(len(said)), captions.SCORERS[:3])["cider"]
    assert backwards["cider"] == pytest.approx(forwards)  # rarity depends on the set, not on its order
    for gone in range(len(said)):  # each alone is left out
        rest = [i for i in range(len(said)) if i != gone]
        if tokenizer == "plain" or gone in (4, 10):
            assert rows(rest) == {name: {i: found[i] for i in rest} for name, found in whole.items()}
    empty = said.index("")
    assert whole["rouge_l"][empty] == whole["bleu_1"][empty] == 0


@NEEDS_JAVA
def test_plain_tokens_equal_those_of_the_java_tokenizer():
    names = EMOJI_NAMES.read_text(encoding="utf-8").splitlines()
    # The original fails to remove brackets, and treats abbreviations and curly apostrophes inside a word otherwise.
    names = [name for name in names if not any(mark in name for mark in ("(", ".", "’"))]
    names += ["A man's t-shirt, 50% off!", "he isn't there; they'll see 1,000.5 things", "black/white", "naïve café"]
    assert len(names) > 1000
    assert list(map(captions.tokens, names)) == captions.penn(names)


@pytest.mark.slow
@NEEDS_JAVA
def test_meteor_of_a_published_example():
    found = metrics.caption_scores(SAID, REFERENCES, scorers=["meteor"])["meteor"]
    assert found.value == pytest.approx(0.263381, abs=1e-6)
    assert len(found.rows) == 2
    assert np.isnan(measures.intervals({"meteor": found}, [0, 1])["meteor"][1:]).all()


def test_a_missing_java_or_package_is_named(monkeypatch):
    monkeypatch.setattr(captions.shutil, "which", lambda name: None)
    for asked in ({"scorers": ["meteor"]}, {"scorers": ["spice"]}, {"tokenizer": "penn"}):
        with pytest.raises(RuntimeError, match="needs Java"):
            metrics.caption_scores(SAID, REFERENCES, **asked)
    monkeypatch.setattr(captions.shutil, "which", lambda name: name)
    for module in ("meteor.meteor", "tokenizer.ptbtokenizer"):
        monkeypatch.setitem(sys.modules, f"pycocoevalcap.{module}", None)
    for asked in ({"scorers": ["meteor"]}, {"tokenizer": "penn"}):
        with pytest.raises(ImportError, match=r'pip install "vtx_keras\[coco\]"'):
            metrics.caption_scores(SAID, REFERENCES, **asked)
    assert "cider" in metrics.caption_scores(SAID, REFERENCES), "BLEU, ROUGE-L and CIDEr need no package"


@pytest.mark.parametrize(
    ("said", "references", "match"),
    [
        (["a"], [], "1 captions, 0 lists"),
        ([], [], "at least 1"),
        (["a"], ["a cat"], "a list of texts for each"),
        (["a"], [[]], "none of them empty"),
        (["a"], [["!"]], "row 0 has no reference with a word"),
    ],
)
def test_captions_that_cannot_be_scored_are_refused(said, references, match):
    with pytest.raises(ValueError, match=match):
        metrics.caption_scores(said, references)


def test_word_f1_and_exact_follow_their_definitions():
    """Equality after `normalize`, and F1 of the bags of words, written out again."""
    import collections
    import re

    pairs = [("Cat  Face", "cat face"), ("a red cat", "a cat"), ("", "cat"), ("cat cat", "cat"), ("woman’s hat", "hat")]
    for said, wanted in pairs:
        a, b = (collections.Counter(re.findall(r"\w+", normalize(x))) for x in (said, wanted))
        assert metrics.word_f1(said, [wanted]) == 2 * (a & b).total() / max(a.total() + b.total(), 1)
        assert metrics.exact(said, [wanted]) == float(normalize(said) == normalize(wanted))
    assert metrics.word_f1("a dog", ["a cat", "a dog"]) == metrics.exact("a dog", ["a cat", "a dog"]) == 1
