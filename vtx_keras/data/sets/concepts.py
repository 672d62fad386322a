"""Derive the concept, the person and the split of an emoji (or word) from its English name.

Splits are by concept: all images of a concept, by every artist and in every skin tone and gender, are in one split, and
so are concepts that look alike. The rules use names only, so a split depends on neither images nor their order.
"""

from __future__ import annotations

import hashlib
import re

# Names that differ only in degree, colour or direction share a concept; the first pattern that matches decides.
ALIKE = {
    "mailbox": r"\bmailbox\b",
    "flag": r"^flag:|\bflag\b(?! in hole)",
    "keycap": r"^keycap|^input ",
    "clock": r"o’clock|thirty$|\bclock\b|^watch$",
    "cat": r"\bcats?\b",
    "dog": r"^(?!hot )(.* )?(dog|poodle)\b",
    "family": r"^family|^(man|woman|person)?( )?feeding baby",
    "couple": r"^kiss(:|$)|^couple with heart|holding hands",
    "heart": r"\bhearts?\b",
    "claus": r"\bclaus\b",
    "royal": r"^prince(ss)?\b|^person with crown",
    "merperson": r"^mer(man|maid|person)\b",
    "medal": r"\b(1st|2nd|3rd) place medal|^sports medal|^military medal",
    "blood type": r"\(blood type\)",
    "banknote": r"\bbanknote\b",
    "lock": r"^(un)?locked\b",
    "globe": r"^globe showing",
    "speaker": r"^(muted )?speaker\b",
    "snowman": r"\bsnowman\b",
    "musical note": r"^musical notes?$",
    "sun cloud": r"^sun behind|^cloud\b|^sun$|^sun with face$",
    "arrow": r"\barrows?\b(?! cursor| in)",
    "pointing": r"^(backhand )?index pointing",
    "shape": r"\b(circle|square|diamond|triangle)\b|\bmoon\b(?! cake| viewing)|^[\w-]+ skin tone$",
    "six-pointed": r"six-pointed|star of david",
    "star": r"\b(glowing |dizzy |shooting )?star$",
    "mouse": r"^mouse( face)?$",
    "grinning": r"^grinning face",
    "kissing": r"^kissing face",
    "tongue": r"face with tongue$",
    "bubble": r"\bbubble$|(speech|thought) balloon",
    "calendar": r"\bcalendar$",
    "tired": r"^(weary|tired|relieved|pensive) face",
    "astonished": r"^(hushed|astonished|anguished) face",
    "horned": r"face with horns$",
    "cross person": r"^(man|woman|person) (frowning|pouting)\b",
    "plain": r"^(neutral|expressionless|confused|(slightly )?(frowning|smiling)) face|(?<!open|pper)[ -]mouth$|^mouth$",
    "person with": r"^(old(er)?|deaf) (man|woman|person)",
}
TONE = r"(medium-light|medium-dark|light|medium|dark) skin tone"
PEOPLE = r"\b(man|woman|person|men|women|people|boy|girl|child|baby)\b"
WITHOUT = (
    rf"{PEOPLE}|\b(face|button|and)\b|’s\b|[,“”!.]"
    r"|\b(light|dark|red|orange|yellow|green|blue|purple|brown|black|white|pink|grey)\b(?! hair)"
    r"|\b(large|medium-small|medium|small|left-facing|right-facing|facing|left(?:ward)?|right(?:ward)?|up(?:wards)?|down(?:wards)?)\b"
)
TRAINED, TUNED = (
    0.66,
    0.74,
)  # upper bounds of the train and validation shares; the other concepts, about 300, are the test split
HELD_OUT = 0.12  # share of the (job, gender, tone) triples


def concept(name: str) -> str:
    """Return the concept of a name: without tone, gender, colour, direction or plural; look-alikes share a concept.

    >>> concept("woman firefighter: dark skin tone"), concept("firefighter")
    ('firefighter', 'firefighter')
    >>> concept("red apple") == concept("green apple"), concept("eight-thirty") == concept("five o’clock")
    (True, True)
    """
    name = name.lower()
    for alike, pattern in ALIKE.items():
        if re.search(pattern, name):
            return alike
    base = name.split(":")[0]
    words = re.sub(WITHOUT, " ", base).split()
    return " ".join(_singular(word) for word in words) or ("person" if re.search(PEOPLE, base) else base)


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if re.search(r"(sh|ch|ss|x)es$", word):
        return word[:-2]
    return word[:-1] if re.search(r"\w\w[^su’]s$", word) else word


def person(name: str) -> tuple[str, str, str] | None:
    """Return (job, gender, tone) of a woman or man with a job and a skin tone, or None for other names.

    >>> person("woman firefighter: dark skin tone"), person("firefighter: dark skin tone"), person("strawberry")
    (('firefighter', 'woman', 'dark'), None, None)
    """
    match = re.fullmatch(rf"(man|woman) ([^:]+): {TONE}", name)
    return (concept(name), match[1], match[3]) if match else None


def held_out(name: str) -> bool:
    """Return whether this name is one of the (job, gender, tone) triples that occur only in the split `composition`.

    Its job occurs in the training split with another gender or tone, or without a gender.
    """
    triple = person(name)
    return triple is not None and fraction(" ".join(triple)) < HELD_OUT


def fraction(key: str) -> float:
    """Hash a key to a number in [0, 1).

    >>> fraction("cat") == fraction("cat") != fraction("dog")
    True
    """
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32


def split_of(name: str) -> str:
    """Return the split of a name: "train", "validation", "test", "composition" or "flags".

    Flags have a split of their own, since which country has which flag can only be memorised.

    >>> split_of("flag: Mexico"), split_of("woman cook: dark skin tone") in ("train", "composition")
    ('flags', True)
    """
    name_concept = concept(name)
    if name_concept == "flag":
        return "flags"
    place = fraction(name_concept)
    if place >= TRAINED:
        return "validation" if place < TUNED else "test"
    return "composition" if held_out(name) else "train"
