"""Ask a model the same thing in other ways, and count how often its answers agree: no right answer is needed.

Three kinds of variants. "mirrored": the picture is flipped left to right. "reworded": the question asks the same in
other words. "implied": questions whose answer follows from the model's own, "is the ball red?" after "red".
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vtx_keras.data import _examples as examples
from vtx_keras.evaluate._captions import exact
from vtx_keras.evaluate._measures import Measure, mean
from vtx_keras.evaluate._outcomes import Outcome, Row, said_of
from vtx_keras.inputs import media
from vtx_keras.inputs.text import normalize
from vtx_keras.models._base import VisionText
from vtx_keras.models._methods import Answerer, Captioner, Matcher

KINDS = ("mirrored", "reworded", "implied")
Question = tuple[str, str]  # a question, and the answer that agrees

# What a mirror changes: sides and turns, and whatever is read.
ASYMMETRIC = re.compile(
    r"\b(?:(?:left|right|(?:north|south)?(?:east|west))(?:-?(?:most|wards?|ern|hand(?:ed)?|sided?))?s?"
    r"|(?:anti|counter)?-?clockwise|says?|written|reads?|text|letters?|words?|digits?|number on|numbers|clock|time)\b"
)
THING = r"((?:the|this|that|these|those|his|her|its|their) (?!.* \w+ing$).+)"  # not "the man wearing"
PICTURE = r"(image|picture|photo)"
DOING = (
    r"((?:carry|catch|chas|chew|climb|do|drink|eat|hitt|hold|jump|kick|lean|look|ly|play|pull|push|read|rid|sitt|slid"
    r"|smok|stand|swing|throw|touch|us|walk|watch|wear)ing(?: (?:against|at|down|in|off|on|over|through|up|with))?)"
)
# A question, and the forms that ask the same; the first rule that fits is used. {be} is "is" or "are" after the thing.
REWORDED = (
    (rf"what (colou?r|shape) (?:is|are) {THING}", ("what is the {0} of {1}",)),
    (rf"what is the (colou?r|shape) of {THING}", ("what {0} {be} {1}",)),
    (r"what (\w+) is (present|there)", ("which {0} is {1}", "what {0} can you see")),
    (rf"what (\w+) is in the {PICTURE}", ("what {0} does the {1} contain", "which {0} is in the {1}")),
    (rf"what (\w+) does the {PICTURE} contain", ("what {0} is in the {1}", "which {0} does the {1} contain")),
    (rf"is there (an? .+) in the {PICTURE}", ("does the {1} contain {0}", "can you see {0} in the {1}")),
    (r"is there (an? \w+(?: \w+)?)", ("is {0} there", "is {0} present", "can you see {0}")),
    (r"(?:is|are) there ((?:any|an?|evidence) .+)", ("can you see {0}",)),
    (rf"does the {PICTURE} contain (an? .+)", ("is there {1} in the {0}", "can you see {1} in the {0}")),
    (r"is (an? .+) (?:there|present)", ("is there {0}", "can you see {0}")),
    (r"can you see (an? .+)", ("is there {0}",)),
    (r"how many (.+?) are there( .+)?", ("what is the number of {0}{1}", "how many {0} can you see{1}")),
    (r"how many (.+?) are ((?:in|on) .+)", ("what is the number of {0} {1}", "how many {0} can you see {1}")),
    (r"what is the number of (.+?)( (?:in|on) .+)?", ("how many {0} are there{1}",)),
    (rf"where (is|are) {THING}", ("in what place {0} {1}",)),
    (r"in what place (is|are) (.+)", ("where {0} {1}",)),
    (rf"what (is|are) ((?:the|this|that|these|those|an?) .+?) {DOING}", ("what is it that {1} {0} {2}",)),
    (rf"what is it that (.+?) (is|are) {DOING}", ("what {1} {0} {2}",)),
    (r"what is ((?:behind|below|in|inside|near|on|under) .+)", ("what is there {0}",)),
    (r"(what|where|who) is (.+)", ("{0}'s {1}",)),
    (r"(what|where|who)'s (.+)", ("{0} is {1}",)),
)
# A question, what kind of answer it wants, and the questions to ask with the answer in it; {a} has an article.
IMPLIED = (
    (r"what colou?r is the (\w+)", "colour", ("is the {0} {answer}", "is there a {answer} {0}")),
    (r"what is the colou?r of the (\w+)", "colour", ("{be} the {0} {answer}",)),
    (rf"what colou?r (is|are) {THING}", "colour", ("{0} {1} {answer}",)),
    (rf"what is the colou?r of {THING}", "colour", ("{be} {0} {answer}",)),
    (rf"what (?:shape is|is the shape of) {THING}", "shape", ("is {0} {a}",)),
    (rf"(?:what|which) shape is in the {PICTURE}", "shape", ("is there {a} in the {0}", "does the {0} contain {a}")),
    (rf"(?:what|which) shape does the {PICTURE} contain", "shape", ("does the {0} contain {a}",)),
    (r"(?:what|which) shape is (?:present|there)", "shape", ("is there {a}", "is {a} present")),
    (r"what(?: \w+)? is (?:it|this|that)", "object", ("is it {a}",)),
    (rf"(?:what|which) (?:animal|object|thing) is in the {PICTURE}", "object", ("is there {a} in the {0}",)),
)
# Names on one line can be said of one thing; those on no common line exclude each other.
ALIKE = {
    "colour": (
        "black", "blue navy teal turquoise cyan", "green teal turquoise olive", "gray grey silver",
        "white silver cream", "brown tan beige blond gold maroon bronze", "yellow blond gold cream",
        "orange gold bronze", "red maroon pink", "purple violet lavender magenta pink",
    ),
    "shape": ("circle oval ellipse", "rectangle square diamond", "triangle", "star", "heart", "pentagon", "hexagon"),
}  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "none")
PLURALS = ("children", "clothes", "feet", "men", "pants", "people", "teeth", "women")


def consistency(
    model: VisionText,
    ds: Any,
    *,
    kinds: Sequence[str] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    told: Callable[[int], object] = lambda done: None,
) -> dict[str, Measure]:
    """Measure how often a model that answers agrees with itself: `consistency_mirrored`, `_reworded`, `_implied`.

    Each is the share of rows whose answers to all variants agree with the answer to the row itself, right or wrong; a
    row without a variant is NaN in `rows`. Kinds are:

    - "mirrored": the picture is flipped left to right. Rows whose text, expected answer or own answer names a side
      ("left", "west", "clockwise") or asks to read something are left out.
    - "reworded": a rule puts the question in other words that mean the same; `seed` chooses where a rule has several.
    - "implied": after "what color is the ball?" and the answer "red", "is the ball red?" must be "yes", and the same of
      another color of the model's classes, chosen by `seed`, must be "no". It needs classes that include yes and no.

    By default those that the model can do: a matcher is mirrored only. `ds` are examples as for `evaluate.run`, and
    `told` is called with the number of variants done.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3), classes=["no", "red", "yes"])
    >>> same = {"image": np.zeros((32, 32, 3), "uint8"), "question": "what color is the ball?", "answer": "red"}
    >>> measures = consistency(model, [same, {**same, "question": "is it on the left?"}], kinds=["mirrored"])
    >>> measures["consistency_mirrored"].rows.tolist()
    [1.0, nan]
    """
    source = examples.encoded_of(ds)
    if iter(source) is source:
        raise TypeError("examples are read more than once: pass a list or a tf.data.Dataset, not an iterator")

    def stream() -> Iterator[Mapping]:
        return examples.turns_of(examples.as_numpy(source))

    wanted = kinds_for(model, next(stream(), {}), kinds)
    outcome = said_of(model, stream(), batch_size=batch_size)
    return agreement(model, outcome, stream(), wanted, batch_size=batch_size, seed=seed, told=told)


def kinds_for(model: VisionText, example: Mapping, kinds: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the kinds of variants that a model can be asked, or `kinds` after checking them.

    >>> from vtx_keras import zoo
    >>> kinds_for(zoo.build("co_attn_matcher", weights=None, dim=32, image_shape=(32, 32, 3)), {})
    ('mirrored',)
    """
    able: tuple[str, ...] = ()
    if isinstance(model, Answerer):
        binary = {"yes", "no"} <= set(model.class_names) and not model.options["multi_label"]
        able = KINDS if binary else KINDS[:2]
    elif isinstance(model, Captioner) and examples.writes_answers(example):
        able = KINDS[:2]
    elif isinstance(model, Matcher):
        able = KINDS[:1]
    if not model.has_layer("image_encoder"):  # it reads features, which no mirror flips
        able = able[1:]
    if not able:
        raise ValueError(
            f"this {model.name} answers nothing: consistency is of answers, labels and matches of pictures"
        )
    for kind in kinds or ():
        if kind not in KINDS:
            raise ValueError(f"there is no kind {kind!r}: choose among {', '.join(KINDS)}")
        if kind not in able:
            raise ValueError(f"this {model.name} cannot be asked {kind!r}, but {', '.join(able)}")
    return tuple(kinds or able)


def agreement(
    model: VisionText,
    outcome: Outcome,
    stream: Iterable[Mapping],
    kinds: Sequence[str],
    *,
    beams: int = 1,
    batch_size: int = 32,
    seed: int = 0,
    told: Callable[[int], object] = lambda done: None,
) -> dict[str, Measure]:
    """Ask the variants of an outcome's rows, and measure which rows agree; `stream` are the examples of the outcome.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_vqa", weights=None, dim=32, image_shape=(32, 32, 3), classes=["one", "two"])
    >>> example = {"image": np.zeros((32, 32, 3), "uint8"), "question": "how many dogs are there?", "answer": "two"}
    >>> measures = agreement(model, said_of(model, [example]), [example], ["reworded"])
    >>> bool(measures["consistency_reworded"].value in (0, 1))
    True
    """
    rows_at = defaultdict(list)
    for number, row in enumerate(outcome.rows):
        rows_at[row.place].append(number)
    classes = model.class_names if isinstance(model, Answerer) else []
    asked: list[tuple[int, str, str]] = []

    def variants() -> Iterator[dict]:
        for place, example in enumerate(stream):
            for number in rows_at.get(place, ()):
                row = outcome.rows[number]
                for kind in kinds:
                    random = np.random.default_rng([seed, number, KINDS.index(kind)])
                    for (question, answer), image in _variants(kind, row, example, model, classes, random):
                        asked.append((number, kind, answer))
                        yield _example(outcome.kind, row, example, question, image)

    agreed = {kind: np.full(len(outcome.rows), np.nan) for kind in kinds}
    examples_asked = variants()
    first = next(examples_asked, None)
    if first is not None:
        settings = {"beams": beams} if isinstance(model, Captioner) else {}
        said = said_of(model, itertools.chain([first], examples_asked), batch_size=batch_size, told=told, **settings)
        for row in said.rows:
            number, kind, answer = asked[row.place]
            agreed[kind][number] = np.fmin(agreed[kind][number], exact(row.said, (answer,)))
    return {f"consistency_{kind}": mean(rows) for kind, rows in agreed.items()}


def counts(measures: Mapping[str, Measure]) -> str:
    """Say how many rows had variants.

    >>> counts({"consistency_mirrored": mean([1, np.nan]), "accuracy": mean([1, 1])})
    'consistency: 1 of 2 rows mirrored'
    """
    ours = {name.removeprefix("consistency_"): one.rows for name, one in measures.items() if "consistency" in name}
    shares = [f"{np.isfinite(rows).sum():,d} of {len(rows):,d} rows {kind}" for kind, rows in ours.items()]
    return f"consistency: {', '.join(shares)}"


def _variants(
    kind: str, row: Row, example: Mapping, model: VisionText, classes: Sequence[str], random: np.random.Generator
) -> Iterator[tuple[Question, Any]]:
    """Yield questions, the answers that agree, and the pictures to ask them of."""
    image = examples.image_of(example)
    if kind == "mirrored" and not any(map(_has_sides, (row.read, row.said, *row.expected))):
        yield (row.read, row.said), _mirrored(image, model.image_shape)
    if kind == "reworded":
        other = reworded(row.read, random)
        yield from [((other, row.said), image)] if other else []
    if kind == "implied":
        yield from ((question, image) for question in implied(row.read, row.said, classes, random))


def _example(kind: str, row: Row, example: Mapping, question: str, image: Any) -> dict:
    """Return a variant as an example that `said_of` reads as it read the row."""
    if kind == "matches":
        return {"image": image, "caption": question, "label": int(row.expected[0] == "yes")}
    answer = (*row.expected, "")[0]
    return {"image": image, "question": question, "answer": answer, "before": example.get("before", ())}


def _has_sides(words: str) -> bool:
    """Return whether a mirror may change the answer.

    >>> _has_sides("Is it on the left-hand side?"), _has_sides("What does it say?"), _has_sides("a bright bird")
    (True, True, False)
    """
    return bool(ASYMMETRIC.search(normalize(words)))


def _mirrored(image: Any, shape: Sequence[int]) -> Any:
    """Return a picture, or a clip at a model's number of frames, flipped left to right."""
    if len(shape) == 4:
        return [frame[:, ::-1] for frame in media.read_clip(image, shape[0])]
    return media.read(image)[:, ::-1]


def reworded(question: str, random: np.random.Generator) -> str | None:
    """Return a question that asks the same in other words, or None if no rule fits.

    >>> reworded("What color are the dogs?", np.random.default_rng(0))
    'what is the color of the dogs?'
    >>> reworded("Why?", np.random.default_rng(0))
    """
    words, mark = _cut(question)
    for pattern, forms in REWORDED:
        found = re.fullmatch(pattern, words)
        if found:
            return _filled(forms[random.integers(len(forms))], found) + mark
    other = re.sub(r"\b(col)(o|ou)(rs?)\b", lambda m: m[1] + ("ou" if m[2] == "o" else "o") + m[3], words)
    return other + mark if other != words else None


def implied(question: str, answer: str, classes: Sequence[str], random: np.random.Generator) -> list[Question]:
    """Return questions that a model's own answer to a question settles, with "yes" or "no"; [] if no rule fits.

    A color or shape excludes those that differ clearly: one of them, of the model's classes, makes the question with
    "no". Other things do not exclude each other (a dog is an animal), so about them only "yes" is asked.

    >>> implied("what color is the big ball?", "red", ["yes", "no", "red", "pink", "blue"], np.random.default_rng(0))
    [('is the big ball red?', 'yes'), ('is the big ball blue?', 'no')]
    """
    words, mark = _cut(question)
    for pattern, kind, forms in IMPLIED:
        found = re.fullmatch(pattern, words)
        if found and _kind_of(answer) == kind:
            others = [name for name in classes if _kind_of(name) == kind and not _alike(name, answer, kind)]
            if kind != "object" and not others:
                return []
            form = forms[random.integers(len(forms))]
            pairs = [(answer, "yes")]
            pairs += [(others[random.integers(len(others))], "no")] if kind != "object" else []
            return [(_filled(form, found, answer=one, a=_with_article(one)) + mark, said) for one, said in pairs]
    return []


def _cut(question: str) -> tuple[str, str]:
    """Return a question's normalized words, and its question mark or ""."""
    words = normalize(question)
    return words.rstrip("? "), "?" if words.endswith("?") else ""


def _filled(form: str, found: re.Match, **names: str) -> str:
    """Fill the groups of a match into a form."""
    groups = [group or "" for group in found.groups()]
    return form.format(*groups, be=_be(groups[-1]) if groups else "is", **names)


def _be(thing: str) -> str:
    """Return the verb of a thing, by the last word before a preposition.

    >>> _be("the dogs in the grass"), _be("the grass"), _be("the people")
    ('are', 'is', 'are')
    """
    head = re.split(r" (?:in|on|of|at|with|near|under|behind)\b", thing)[0].split(" ")[-1]
    return "are" if head in PLURALS or re.search(r"[^su]s$", head) else "is"


def _kind_of(name: str) -> str:
    """Return whether a class is a colour, a shape, an object, or none of these ("")."""
    kind = next((kind for kind, lines in ALIKE.items() if any(name in line.split() for line in lines)), "object")
    return "" if kind == "object" and (name in ("yes", "no", "", *NUMBERS) or name.isdigit()) else kind


def _alike(one: str, other: str, kind: str) -> bool:
    """Return whether two names may be said of one thing.

    >>> _alike("teal", "green", "colour"), _alike("blue", "green", "colour")
    (True, False)
    """
    return one == other or any({one, other} <= set(line.split()) for line in ALIKE.get(kind, ()))


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
