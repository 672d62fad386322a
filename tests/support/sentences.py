"""Texts that are hard to normalize, to cut into pieces, or to put together again."""

CAPTIONS = [
    "A man riding a skateboard.",
    "Two dogs catch a frisbee",
    "A giraffe's neck",
    "The t-shirt is red",
    "Umbrellas in the rain, at night!",
]
ROUND_TRIPS = [
    "a man's t-shirt (red, 50% off)!",
    "a black/white cat: two, three; four?",
    'a sign that says "stop" on a "one way" street',
    "flag: st. kitts & nevis",
    "flag: c\u00f4te d\u2019ivoire",
    "japanese \u201cprohibited\u201d button",
    "woman firefighter: medium-dark skin tone",
    "it's 5 o'clock, and a well-known dog isn't here...",
    "keycap: #",
    "#1 costs $5",
]
AWKWARD = [
    "  A\tman \n on\u2028a\u2029HORSE\r\n",
    "caf\u00e9 CAFE\u0301 \uff26\uff35\uff2c\uff2c \u2122 \u00bd \ufb01sh \u212b",
    "H\u0331 \u0130stanbul \u039f\u03a3 STRASSE stra\u00dfe \u1e9e",
    "\U0001f469\u200d\U0001f692 \u2764\ufe0f sun\u00adset \ufeffzero\u200bwidth a\u202eb",
    "bell\x07 nul\x00 next\x85line no\u00a0break \u3000ideographic",
    "",
    "\u00b4 \u00a8a \u0301b",
    "mixed \ud83d half \ud83d\ude00 whole",
]


ODD = [
    "[PAD] [START] x",
    "\u65e5\u672c \u6f22\u5b57kanji",
    "na\u00efve \u0153uvre",
    "x" * 100,
    "x" * 101,
    "a_b^c`d~e",
    "\u2026\u2014",
]
