"""Answers to questions: the accuracy of the VQA challenge, by its published rule."""

from __future__ import annotations

import re
from collections.abc import Sequence

MARKS = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = ("a", "an", "the")
NUMBERS = "zero one two three four five six seven eight nine ten"
DIGITS = {"none": "0", **{word: str(digit) for digit, word in enumerate(NUMBERS.split())}}
# Words in which people leave out the apostrophe. "its", "were", "well", "ill" and the like are words of their own and
# not here.
APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll let's ma'am mightn't mightn't've might've mustn't must've needn't
    not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll you'd you'd've you'll you're you've
"""
CONTRACTIONS = {word.replace("'", ""): word for word in APOSTROPHES.split()}


def vqa_normalize(answer: str) -> str:
    """An answer as the VQA challenge compares it: lower case, digits for number words, no articles, few marks.

    A mark that touches a space goes, another one becomes a space; a point stays between digits.

    >>> vqa_normalize("The two-story house."), vqa_normalize("Dont know!"), vqa_normalize("2.5, or none")
    ('2 story house', "don't know", '2.5 or 0')
    """
    answer = " ".join(answer.split())
    numbers = re.search(r"\d,\d", answer)  # "1,000" becomes "1000", and then every mark goes, as the challenge does
    for mark in MARKS:
        if mark in answer:
            touches = f"{mark} " in answer or f" {mark}" in answer
            answer = answer.replace(mark, "" if touches or numbers else " ")
    answer = re.sub(r"\.(?!\d)", "", answer).lower()
    words = [DIGITS.get(word, word) for word in answer.split() if word not in ARTICLES]
    return " ".join(CONTRACTIONS.get(word, word) for word in words)


def vqa_accuracy(said: str, answers: Sequence[str]) -> float:
    """The VQA challenge's accuracy of an answer, given the answers of (ten) people.

    Each person is left out in turn; the answer scores min(1, n / 3), where n of the others gave it; the mean of that
    counts. As in the challenge, texts are normalised only where people differ. With three people or fewer this says
    little: use `exact` for a single reference.

    >>> round(vqa_accuracy("yes", ["yes"] * 3 + ["no"] * 7), 2), vqa_accuracy("A cat", ["cat"] * 9 + ["kitten"])
    (0.9, 1.0)
    """
    if len(answers) < 2:
        raise ValueError(f"{len(answers)} answers: the accuracy of the VQA challenge leaves one out, so give 2 or more")
    said, answers = said.replace("\n", " ").replace("\t", " ").strip(), list(answers)
    if len(set(answers)) > 1:
        said, answers = vqa_normalize(said), [vqa_normalize(answer) for answer in answers]
    same = answers.count(said)
    # A person who gave the answer leaves same - 1 others who did.
    left_out = [min(1, (same - (answer == said)) / 3) for answer in answers]
    return sum(left_out) / len(left_out)
