"""Build the data set flickr8k_qa: questions and answers made from the captions of Flickr8k by rules.

After COCO-QA (Ren, Kiros, Zemel, 2015, arXiv:1505.02074), without a parser: `phrases` finds noun phrases by word lists,
and four readers look for an object, a number, a colour and a place. Words that are in no list end a phrase, so that a
caption that the rules do not understand gives no question.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds

from vtx_keras._files import BadArchive
from vtx_keras.data import sets
from vtx_keras.data.sets import concepts
from vtx_keras.data.sets._builder import WORD, Builder
from vtx_keras.data.sets._flickr8k import captions_of, image_folder, split_by_name, splits_of


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


KINDS = ("object", "number", "colour", "place")
ANSWERS, LEAST = 300, 5  # an answer is one of so many, and occurs so often in train

PEOPLE = _set(
    "adult athlete baby bicyclist biker boy bride child climber clown couple crowd cyclist dancer family "
    "fisherman girl goalie group guy hiker jockey kid lady man musician person player racer rider runner "
    "skateboarder skater skier snowboarder soldier student surfer swimmer team teenager toddler woman worker "
    "wrestler"
)
ANIMALS = _set(
    "animal bird bull cat cow dog duck goat goose greyhound horse pig poodle puppy retriever seagull sheep terrier"
)
PLACES = _set(
    "air alley arena backyard beach boardwalk bridge canyon carnival cave city cliff court creek desert dock "
    "field forest garden grass gravel gym harbor hill hillside ice kitchen lake lawn leaves market meadow "
    "mountain mud ocean park parking path pavement pier playground pond pool puddle racetrack restaurant river "
    "road rooftop room sand sidewalk snow stadium stage store stream street subway tent track trail tunnel water "
    "waterfall wave woods yard"
)
CLOTHES = _set(
    "apron backpack bandanna bikini boot cap clothes clothing coat collar costume dress glove goggles hair hat "
    "headband helmet hoodie jacket jeans jersey kilt leash mask necklace outfit pants robe scarf shirt shoe "
    "shorts skirt sock suit sunglasses sweater sweatshirt swimsuit t-shirt tie top trunks tutu uniform vest "
    "wetsuit wig"
)
THINGS = _set(
    "accordion apple atv bag ball balloon bar barrel bars basketball bat bed beer bench bike blanket board boat "
    "bone book bottle bowl box branch bubble bucket building bus cake camera candy canoe car cards carousel cart "
    "cellphone chair cigarette cone couch counter cup desk disc doll door drum fence firework fish flag flower "
    "flute food football fountain frisbee fruit goal golf guitar gun hammock handrail hockey hoop hose hula "
    "hurdle hydrant instrument kayak keyboard kite ladder ledge log magazine mat microphone motorcycle net "
    "newspaper paddle paper phone piano picnic pillow pipe pizza plant plate platform pole popsicle puck racket "
    "raft rail railing ramp ride ring rock roof rope rug rugby sandwich saxophone scooter seat shovel sign "
    "skateboard skis sled slide snowball snowboard snowman soccer softball stairs statue steps stick stone "
    "stroller stump surfboard swing sword table telescope tennis tire tower toy train trampoline tree tricycle "
    "trombone truck trumpet tube tug umbrella unicycle van video violin volleyball wagon wall watermelon wheel "
    "wheelchair window wood"
)
SAME = {
    "bicycle": "bike", "cellphone": "phone", "clothing": "clothes", "disc": "frisbee", "forest": "woods",
    "greyhound": "dog", "guy": "man", "hillside": "hill", "kid": "child", "lady": "woman", "motorbike": "motorcycle",
    "poodle": "dog", "puppy": "dog", "retriever": "dog", "sofa": "couch", "stone": "rock", "t-shirt": "shirt",
    "terrier": "dog", "toddler": "child",
}  # fmt: skip
PLURALS = {
    "child": "children", "fish": "fish", "fisherman": "fishermen", "goose": "geese", "man": "men", "person": "people",
    "scarf": "scarves", "sheep": "sheep", "woman": "women",
}  # fmt: skip
PLURAL_ONLY = _set(
    "bars cards clothes clothing goggles jeans leaves pants shorts skis stairs steps sunglasses trunks woods"
)
MEASURES = _set("bunch couple group line pair piece pile row team crowd")
NUMBERS = _set("one two three four five six seven eight")
COLOURS = {colour: colour for colour in _set("black blond blue brown gray green orange pink purple red silver")}
COLOURS |= {"white": "white", "yellow": "yellow", "tan": "tan", "beige": "tan", "blonde": "blond", "grey": "gray"}
DETERMINERS = _set("a an the his her its their some another this that other")
ADJECTIVES = _set(
    "adult asian bald bare bearded big blond-haired bright brightly busy calm chain-link clear colored colorful "
    "colourful crowded dark deep dirt dirty dry elderly empty female fluffy frozen furry german giant golden "
    "grassy happy heavy huge indoor inflatable large leather light little long low male metal middle-aged muddy "
    "narrow old older open orange outdoor paved plaid plastic public rocky rough rubber sandy shallow shirtless "
    "short small smiling snow-covered snowy steep striped stuffed sunny swimming tall teenage tiny wet wide wild "
    "wooded wooden young younger"
)
# What may follow a noun phrase: after any other word, the last noun may be only a part of a longer name.
NEXT = _set(
    ". , ; and or as at while in on with near by from for of to into onto over under above through across along "
    "down up off around behind beside between against toward towards during after before is are has that which "
    "who outside inside next together underneath past where whilst atop because about out away"
)
WITHIN = _set("in on at through across along down into onto inside")
# What a subject does to an object: each form of the verb, and the words of the question.
VERBS = {
    form: forms.split()[0]
    for forms in (
        "biting bites bite", "blowing blows blow", "carrying carries carry", "catching catches catch",
        "chasing chases chase", "chewing chews chew", "climbing climbs climb", "drinking drinks drink",
        "eating eats eat", "hitting hits hit", "holding holds hold", "jumping jumps jump leaping leaps leap",
        "kicking kicks kick", "leaning leans lean", "lying lies lie laying lays lay", "paddling paddles paddle",
        "playing plays play", "pulling pulls pull", "pushing pushes push", "reading reads read", "riding rides ride",
        "sitting sits sit", "sliding slides slide", "smoking smokes smoke", "standing stands stand",
        "swinging swings swing", "throwing throws throw", "walking walks walk", "watching watches watch",
    )
    for form in forms.split()
}  # fmt: skip
# The words between verb and object. A verb that is not listed here takes none.
PARTICLES = {
    "chewing": ("", "on"), "climbing": ("", "up"), "jumping": ("over", "off"), "leaning": ("on", "against"),
    "lying": ("on",), "playing": ("", "with"), "sitting": ("on",), "sliding": ("down",), "standing": ("on",),
    "swinging": ("", "on"),
}  # fmt: skip


class Phrase(NamedTuple):
    """A noun phrase: its noun in the singular, and what is said of it."""

    noun: str
    plural: bool
    number: str
    colours: tuple[str, ...]
    start: int
    end: int


class Pair(NamedTuple):
    """A question and its answer. `about` is what the question asks for: its verb, or its noun."""

    question: str
    answer: str
    kind: str
    about: str


class Flickr8kQa(Builder):
    """Questions about the photographs of Flickr8k, made from their captions."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = sets.SETS["flickr8k_qa"].by_hand.format(folder="the manual directory")
    FEATURES: ClassVar[dict[str, Any]] = {
        "id": WORD(),
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "image_id": WORD(),
        "question": WORD(),
        "answer": WORD(),
        "kind": tfds.features.ClassLabel(names=KINDS),
    }

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        folder = self.folder / "flickr8k"
        images, captions, splits = image_folder(folder), captions_of(folder), splits_of(folder)
        of = {name: splits.get(name) if splits else split_by_name(name) for name in sorted(captions)}
        made = {name: pairs(captions[name]) for name, split in of.items() if split}
        kept = balanced(made, {name for name, split in of.items() if split == "train"})
        for name, found in kept.items():
            if not (images / name).is_file():
                raise BadArchive(f"{images / name} is missing, and it has captions: copy the images again")
            image_id = name.rpartition(".")[0]
            for number, pair in enumerate(found):
                key = f"{image_id}-{number}"
                yield (
                    str(of[name]),
                    key,
                    {
                        "id": key,
                        "image": str(images / name),
                        "image_id": image_id,
                        "question": pair.question,
                        "answer": pair.answer,
                        "kind": pair.kind,
                    },
                )


def pairs(captions: Iterable[str]) -> list[Pair]:
    """Return the questions that the captions of one image answer alike.

    >>> for pair in pairs(["A brown dog runs through the snow with a stick in its mouth .", "A dog in snow ."]):
    ...     print(pair.question, pair.answer)
    where is the dog? snow
    what is in the mouth of the dog? stick
    what is the colour of the dog? brown
    """
    votes: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    read = [(words, phrases(words)) for words in map(_words, captions)]
    for words, found in read:
        for reader in (places, objects, colours):
            for pair in reader(words, found):
                votes[pair.kind, "" if pair.kind == "place" else pair.about].append(pair)
    made = []
    for said in votes.values():
        answers = {pair.answer for pair in said}
        if len(answers) == 1 and "" not in answers:  # "" is an answer that is not one word
            made.append(Counter(said).most_common(1)[0][0])  # people call the subject by several names
    return made + numbers([found for _, found in read])


def balanced(made: dict[str, list[Pair]], train: set[str]) -> dict[str, list[Pair]]:
    """Drop questions whose answer is too frequent, so that the words of a question tell little; then drop rare answers.

    The most frequent answer to one (kind, about) is thinned out to about the count of the second in train, by a hash.
    What has one answer only is dropped. Answers are then limited to ANSWERS, each with at least LEAST in train.
    """
    counts: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for name in sorted(train & made.keys()):
        for pair in made[name]:
            counts[pair.kind, pair.about][pair.answer] += 1

    def keep(name: str, pair: Pair) -> bool:
        common = counts[pair.kind, pair.about].most_common(2)
        if len(common) < 2:
            return False
        share = common[1][1] / max(counts[pair.kind, pair.about][pair.answer], 1)
        return concepts.fraction(f"flickr8k_qa {name} {pair.question}") < share

    left = {name: [pair for pair in found if keep(name, pair)] for name, found in made.items()}
    total = Counter(pair.answer for name in sorted(train & left.keys()) for pair in left[name])
    known = {answer for answer, count in total.most_common(ANSWERS) if count >= LEAST}
    return {name: [pair for pair in found if pair.answer in known] for name, found in left.items()}


def phrases(words: list[str]) -> list[Phrase]:
    """Return the noun phrases of a sentence.

    >>> [(phrase.noun, phrase.number, phrase.colours) for phrase in phrases("two brown dogs chase a ball".split())]
    [('dog', 'two', ('brown',)), ('ball', '', ())]
    """
    found, at = [], 0
    while at < len(words):
        end, number, said = at, "", []
        while end < len(words) and words[end] in DETERMINERS:
            end += 1
        if end < len(words) and words[end] in NUMBERS:
            number, end = words[end], end + 1
        single = "a" in words[at:end] or "an" in words[at:end]
        while end < len(words) and (words[end] in COLOURS or words[end] in ADJECTIVES or _joins(words, end)):
            said += [COLOURS[words[end]]] if words[end] in COLOURS else []
            end += 1
        noun = end
        while end < len(words) and words[end] in NOUNS:
            if end > noun and (NOUNS[words[end - 1]][0] in ANIMALS | PEOPLE or (single and NOUNS[words[end]][1])):
                break  # "a boy slides": the second noun is a verb
            end += 1
        if end == noun:
            at += 1
        else:
            lemma, plural = NOUNS[words[end - 1]]
            found.append(Phrase(lemma, plural, number, tuple(said), at, end))
            at = end
    return found


def objects(words: list[str], found: list[Phrase]) -> Iterator[Pair]:
    """Yield what the subject of the sentence holds, rides, eats and so on."""
    starts = {phrase.start: phrase for phrase in found}
    subject, at = _subject(words, starts)
    if subject is None:
        return
    the = _the(subject)
    for phrase in found:
        mouth = words[phrase.end : phrase.end + 3]
        if phrase.noun in THINGS and the == "the dog" and mouth[:1] + mouth[2:] == ["in", "mouth"]:
            yield Pair("what is in the mouth of the dog?", phrase.noun, "object", "mouth")
    at += words[at : at + 1] in (["is"], ["are"])
    verb = VERBS.get(words[at]) if at < len(words) else None
    if verb is None:
        return
    for particle in PARTICLES.get(verb, ("",)):
        target = _inner(words, starts, at + 1 + bool(particle))
        if words[at + 1 : at + 2] == [particle] or not particle:
            about = f"{verb} {particle}".strip()
            if target and target.noun in ANIMALS | THINGS and _ends(words, target):
                yield Pair(f"what {_is(subject)} {the} {about}?", target.noun, "object", about)


def colours(words: list[str], found: list[Phrase]) -> Iterator[Pair]:
    """Yield the colour of each garment, animal and thing; "" where there are several."""
    for phrase in found:
        if phrase.colours and phrase.noun in ANIMALS | CLOTHES | THINGS and _ends(words, phrase):
            listed = words[max(phrase.start - 2, 0) : phrase.start]  # "red , white , and blue"
            several = len(set(phrase.colours)) > 1 or any(word in COLOURS for word in listed)
            answer = "" if several else phrase.colours[0]
            yield Pair(f"what is the colour of {_the(phrase)}?", answer, "colour", phrase.noun)


def places(words: list[str], found: list[Phrase]) -> Iterator[Pair]:
    """Yield where the subject of the sentence is; "" where two places are named."""
    starts = {phrase.start: phrase for phrase in found}
    subject = _inner(words, starts, 0)
    if subject is None or subject.noun not in ANIMALS | PEOPLE:
        return
    where = {
        phrase.noun
        for phrase in found
        if phrase.noun in PLACES and phrase.start and words[phrase.start - 1] in WITHIN and _ends(words, phrase)
    }
    if where:
        answer = where.pop() if len(where) == 1 else ""
        yield Pair(f"where {_is(subject)} {_the(subject)}?", answer, "place", subject.noun)


def numbers(read: list[list[Phrase]]) -> list[Pair]:
    """Return how many people or animals of a kind there are, where the captions say so or four speak of one only."""
    made = []
    seen = Counter(phrase.noun for found in read for phrase in found if phrase.noun in ANIMALS | PEOPLE)
    for noun in seen:
        mentions = [[phrase for phrase in found if phrase.noun == noun] for found in read]
        mentions = [found for found in mentions if found]
        said = {phrase.number for found in mentions for phrase in found if phrase.number}
        single = [found for found in mentions if len(found) == 1 and not found[0].plural]
        if len(said) == 1 and not single and noun not in MEASURES:
            (answer,) = said
        elif not said and len(single) == len(mentions) >= 4 and noun not in MEASURES:
            answer = "one"
        else:
            continue
        made.append(Pair(f"how many {_plural(noun)} are there?", answer, "number", noun))
    return made


def _words(caption: str) -> list[str]:
    return re.findall(r"[a-z][a-z'-]*|[.,;]", caption.lower())


def _nouns() -> dict[str, tuple[str, bool]]:
    """Return (noun in the singular, whether the form is plural) of each form of the nouns above."""
    forms = {}
    for noun in sorted(PEOPLE | ANIMALS | PLACES | CLOTHES | THINGS | SAME.keys() | {"mouth", "object"}):
        meant = SAME.get(noun, noun)
        forms[_plural(noun)] = meant, True
        forms[noun] = meant, noun in PLURAL_ONLY
    return forms


def _plural(noun: str) -> str:
    ending = "es" if noun.endswith(("s", "x", "ch", "sh")) else "s"
    return PLURALS.get(noun, noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + ending)


NOUNS = _nouns()


def _joins(words: list[str], at: int) -> bool:
    """Return whether this is the "and" of two colours."""
    return words[at] == "and" and 0 < at < len(words) - 1 and words[at - 1] in COLOURS and words[at + 1] in COLOURS


def _inner(words: list[str], starts: dict[int, Phrase], at: int) -> Phrase | None:
    """Return the phrase that starts here, and of "a group of people" the people."""
    phrase = starts.get(at)
    if at + 2 < len(words) and words[at] in ("a", "the") and words[at + 1] in MEASURES and words[at + 2] == "of":
        return starts.get(at + 3)
    if phrase and phrase.noun in MEASURES and words[phrase.end : phrase.end + 1] == ["of"]:
        return starts.get(phrase.end + 1)
    return phrase


def _subject(words: list[str], starts: dict[int, Phrase]) -> tuple[Phrase | None, int]:
    """Return the subject of a sentence and the place of its verb, past "in a red shirt" and "with a hat"."""
    subject = _inner(words, starts, 0)
    if subject is None or subject.noun not in ANIMALS | PEOPLE:
        return None, 0
    at = subject.end
    while at + 1 < len(words) and words[at] in ("in", "with", "wearing", "and", ",") and at + 1 in starts:
        if words[at] in ("and", ",") and starts[at + 1].noun not in CLOTHES:
            return None, 0  # two subjects
        at = starts[at + 1].end
    return subject, at


def _ends(words: list[str], phrase: Phrase) -> bool:
    """Return whether a phrase is whole: what comes next is no further noun. After an animal comes a verb, as a rule."""
    after = words[phrase.end] if phrase.end < len(words) else "."
    if phrase.noun in ANIMALS:
        return NOUNS.get(after, ("", True))[1]
    return after in NEXT or after.endswith("ing")


def _is(phrase: Phrase) -> str:
    return "are" if phrase.plural else "is"


def _the(phrase: Phrase) -> str:
    return "the " + (_plural(phrase.noun) if phrase.plural and phrase.noun not in PLURAL_ONLY else phrase.noun)
