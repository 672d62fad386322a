"""Build the data set flickr8k_dialog: conversations about the photographs of Flickr8k, made from their captions.

The captions are read by the lists and phrases of flickr8k_qa. `scene` finds who is there, and what is said of them:

- Somebody is there if more than half of the captions name them, or two that name somebody else as well, all in the
  singular or all in the plural. One person of several names takes the most frequent one; a man in one caption and a
  woman in another, or a boy and a man, are none.
- A colour, a place, a number, an object, and what is worn are said if all captions that say one say the same, a place
  by two at least. What somebody does is said by two at least, and at most one says otherwise for three that say so.

`talks` makes conversations of two to four turns of it. They may begin with who is there; after that, somebody is "he",
"she", "it" or "they", what was answered is "it" or "that", and what was asked is asked of another by "and the dog?".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds

from vtx_keras._files import BadArchive
from vtx_keras.data import sets
from vtx_keras.data.sets import _flickr8k_qa as rules
from vtx_keras.data.sets import concepts
from vtx_keras.data.sets._builder import WORD, Builder
from vtx_keras.data.sets._flickr8k import captions_of, image_folder, split_by_name, splits_of
from vtx_keras.data.sets._flickr8k_qa import ANIMALS, CLOTHES, MEASURES, PEOPLE, PLACES, THINGS, VERBS, Phrase, _set

KINDS = ("who", "number", "action", "object", "wearing", "colour", "place")
MOST = 4  # turns of a conversation
HE, SHE = _set("man boy"), _set("woman girl")
GENERAL = PEOPLE - HE - SHE - MEASURES - {"baby", "family"}  # what a man or a girl may be called as well
ACTIONS = VERBS | {
    form: forms.split()[0]
    for forms in (
        "barking barks bark", "bowling bowls bowl", "climbing climbs climb", "crawling crawls crawl",
        "dancing dances dance", "digging digs dig", "diving dives dive", "falling falls fall",
        "fighting fights fight wrestling wrestles wrestle", "fishing", "hiking hikes hike", "hugging hugs hug",
        "kissing kisses kiss", "kneeling kneels kneel", "laughing laughs laugh", "posing poses pose",
        "racing races race", "running runs run", "singing sings sing",
        "skateboarding skateboards skateboard", "skating skates skate", "skiing skis ski",
        "sleeping sleeps sleep", "smiling smiles smile", "snowboarding snowboards snowboard",
        "splashing splashes splash", "surfing surfs surf", "swimming swims swim", "talking talks talk",
        "wading wades wade",
    )
    for form in forms.split()
}  # fmt: skip
NEEDS = _set(  # these say nothing without their object
    "biting blowing carrying catching chasing chewing hitting holding hugging kicking kissing leaning pulling pushing "
    "riding swinging throwing watching"
)
ON = _set(
    "beach boardwalk bridge cliff court deck dock grass gravel hill ice lawn leaves mountain path pavement pier "
    "playground racetrack road rooftop sand sidewalk stage street track trail"
)
UNCOUNTED = _set("candy clothes food fruit golf hair hockey hula luggage paper rugby soccer tennis wood")
GAMES = _set("basketball football guitar volleyball")  # after "playing"
NOT_WORN = _set("clothes collar hair leash outfit top")
ALIKE = [  # one garment may be called by several of these, so that two of them may be one
    _set("coat costume dress hoodie jacket jersey robe shirt suit sweater sweatshirt uniform vest"),
    _set("bandanna cap hat headband helmet hood mask"),
    _set("bikini jeans kilt pants shorts skirt swimsuit trunks tutu wetsuit"),
    _set("boot shoe sock"),
]


class Being(NamedTuple):
    """Somebody in a picture: a person, an animal or several."""

    noun: str
    plural: bool
    pronoun: str  # "" if it is not known


class Scene(NamedTuple):
    """Who is in a picture, and what is said of them: by being and kind, the question's word and the answer."""

    beings: tuple[Being, ...]
    alone: bool  # whether nobody else is named
    said: dict[Being, dict[str, tuple[str, str]]]
    colours: dict[str, str]  # of things and clothes


class Turn(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str
    kind: str


class Flickr8kDialog(Builder):
    """Conversations about the photographs of Flickr8k, made from their captions."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = sets.SETS["flickr8k_dialog"].by_hand.format(folder="the manual directory")
    FEATURES: ClassVar[dict[str, Any]] = {
        "id": WORD(),
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "image_id": WORD(),
        "questions": tfds.features.Sequence(WORD()),
        "answers": tfds.features.Sequence(WORD()),
        "kinds": tfds.features.Sequence(WORD()),
    }

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        folder = self.folder / "flickr8k"
        images, captions, splits = image_folder(folder), captions_of(folder), splits_of(folder)
        for name in sorted(captions):
            split = splits.get(name) if splits else split_by_name(name)
            image_id = name.rpartition(".")[0]
            for number, turns in enumerate(talks(captions[name], image_id) if split else ()):
                if not (images / name).is_file():
                    raise BadArchive(f"{images / name} is missing, and it has captions: copy the images again")
                key = f"{image_id}-{number}"
                questions, answers, kinds = map(list, zip(*turns, strict=True))
                row = {"id": key, "image": str(images / name), "image_id": image_id}
                yield str(split), key, {**row, "questions": questions, "answers": answers, "kinds": kinds}


# --- what the captions say


def scene(captions: Iterable[str]) -> Scene:
    """Return who is in a picture, and what its captions say of them without contradiction.

    >>> found = scene(["A brown dog runs on the grass .", "A dog is running with a red ball .", "The dog runs ."])
    >>> found.beings, found.colours
    ((Being(noun='dog', plural=False, pronoun='it'),), {'ball': 'red'})
    >>> found.said[found.beings[0]]
    {'colour': ('', 'brown'), 'action': ('', 'running')}
    """
    read = [(words, rules.phrases(words)) for words in map(rules._words, captions)]
    beings, alone = _beings([found for _, found in read])
    votes: dict[Being, dict[str, list[tuple[str, str]]]] = {being: defaultdict(list) for being in beings}
    coloured: dict[str, set[str]] = defaultdict(set)
    owned = set(THINGS)  # and clothes of somebody who is there
    places: list[tuple[str, list[Being]]] = []
    for words, found in read:
        starts = {phrase.start: phrase for phrase in found}
        for phrase in found:
            if "wearing" in words[max(phrase.start - 1, 0) : phrase.start] or words[phrase.start] in ("his", "her"):
                owned.add(phrase.noun)
            if phrase.colours and rules._ends(words, phrase):
                listed = any(word in rules.COLOURS for word in words[max(phrase.start - 2, 0) : phrase.start])
                colour = "" if listed else " and ".join(sorted(set(phrase.colours)))
                being = _meant(phrase, beings)
                if being and phrase.noun in ANIMALS:
                    votes[being]["colour"].append(("", colour))
                elif phrase.noun in CLOTHES | THINGS:
                    coloured[phrase.noun].add(colour)
        first: list[Being] = []
        for phrase in found:
            subjects, worn, at = _clause(words, starts, phrase, beings)
            first = first or subjects
            for being in subjects:
                for kind, word, answer in _deeds(words, starts, at):
                    votes[being][kind].append((word, answer))
                for garment in worn if len(subjects) == 1 and being.noun in PEOPLE else ():
                    owned.add(garment.noun)
                    if garment.noun not in NOT_WORN:
                        votes[being]["wearing"].append(("", _a(garment)))
        named = set()
        for phrase in found:
            inside = phrase.start and words[phrase.start - 1] in rules.WITHIN and rules._ends(words, phrase)
            thrown = phrase.noun == "air" and any(one.noun in THINGS and one.end == phrase.start - 1 for one in found)
            named |= {phrase.noun} if phrase.noun in PLACES and inside and not thrown else set()
        if named:
            places.append((" ".join(sorted(named)), first))
    for number in rules.numbers([found for _, found in read]):
        for being in beings:
            if being.plural and number.about == being.noun and number.answer != "one":
                votes[being]["number"].append(("", number.answer))
    for place, subjects in places:
        for being in subjects:
            same = len({one for one, _ in places}) == 1 and " " not in place
            votes[being]["place"].append(("", f"{'on' if place in ON else 'in'} the {place}" if same else ""))
    said = {being: {kind: _agreed(kind, many) for kind, many in votes[being].items()} for being in beings}
    said = {being: {kind: fact for kind, fact in facts.items() if fact[1]} for being, facts in said.items()}
    agreed = {noun: min(many) for noun, many in coloured.items() if len(many) == 1 and noun in owned}
    return Scene(beings, alone, said, {noun: colour for noun, colour in agreed.items() if colour})


def _beings(read: Sequence[Sequence[Phrase]]) -> tuple[tuple[Being, ...], bool]:
    """Return who is in a picture, in the order of the captions, and whether the captions name nobody else."""
    named: dict[str, list[list[Phrase]]] = defaultdict(list)
    for found in read:
        for noun in dict.fromkeys(phrase.noun for phrase in found if phrase.noun in ANIMALS | PEOPLE):
            named[noun].append([phrase for phrase in found if phrase.noun == noun])
    people = [[phrase for phrase in found if phrase.noun in PEOPLE] for found in read]
    people = [found for found in people if found]
    one = all(len(found) == 1 and not found[0].plural and found[0].noun not in MEASURES for found in people)
    beings, others = [], set()
    for noun, many in named.items():
        kinds = {(len(found) > 1, found[0].plural) for found in many}
        own = [noun] if noun in ANIMALS or not one else [name for name in named if name in PEOPLE]
        special = [name for name in own if name not in GENERAL]
        told = sum(len(named[name]) for name in own)  # one person may have several names
        usual = max(special or own, key=lambda name: len(named[name]))
        near = [{one.noun for one in found} & (ANIMALS | PEOPLE) - MEASURES for found in read]  # who is named together
        beside = [len(nouns) > 1 for nouns in near if noun in nouns]
        vague = noun in GENERAL and not one and named.keys() & ({"boy", "girl"} if noun == "child" else HE | SHE)
        known = 2 * told > len(read) or (noun not in GENERAL and len(beside) >= 2 and all(beside))
        agreed = len(kinds) == 1 and (True, False) not in kinds and known and len(special) < 2
        if not agreed or vague or (one and noun in PEOPLE and noun != usual) or noun in MEASURES | {"animal", "family"}:
            others.add(noun)
        else:
            pronoun = "it" if noun in ANIMALS else "he" if noun in HE else "she" if noun in SHE else ""
            beings.append(Being(noun, plural := many[0][0].plural, "they" if plural else pronoun))
    strange = others - GENERAL if any(being.noun in PEOPLE for being in beings) else others
    return tuple(beings), not strange


def _meant(phrase: Phrase, beings: Sequence[Being]) -> Being | None:
    """Return who a phrase names: by their noun, or the only person there."""
    people = [being for being in beings if being.noun in PEOPLE]
    for being in beings:
        only = people == [being] and phrase.noun in GENERAL
        if (being.noun == phrase.noun or only) and being.plural == phrase.plural:
            return being
    return None


def _clause(
    words: list[str], starts: dict[int, Phrase], phrase: Phrase, beings: Sequence[Being]
) -> tuple[list[Being], list[Phrase], int]:
    """Return the subjects of a clause that begins with this phrase, what they wear, and the place of the verb."""
    before = words[phrase.start - 1] if phrase.start else "."
    subject = rules._inner(words, starts, phrase.start)
    being = _meant(subject, beings) if subject else None
    if being is None or subject is None or before not in (".", ";", "while", "as"):
        return [], [], 0
    subjects, worn, at = [being], list[Phrase](), subject.end
    while at + 1 < len(words) and words[at] in ("in", "with", "wearing", "and", ",") and at + 1 in starts:
        target = starts[at + 1]
        other = _meant(target, beings)
        if words[at] in ("and", ",") and other and not worn:
            subjects.append(other)
        elif words[at] in ("and", ",", "in") and target.noun not in CLOTHES:
            return subjects, worn, len(words)
        elif target.noun in CLOTHES:
            worn.append(target)
        at = target.end
    return subjects, worn, at + (words[at : at + 1] in (["is"], ["are"]))


def _deeds(words: list[str], starts: dict[int, Phrase], at: int) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, the question's words, answer) of what somebody does here."""
    verb = ACTIONS.get(words[at]) if at < len(words) else None
    if verb is None:
        return
    done = "" if verb in NEEDS else verb
    for particle in rules.PARTICLES.get(verb, ("",)) if verb in VERBS.values() else ():
        target = rules._inner(words, starts, at + 1 + bool(particle))
        if target and target.noun in ANIMALS | THINGS and (words[at + 1] == particle or not particle):
            after = words[target.end : target.end + 3]
            if rules._ends(words, target) and after[:1] != ["of"]:
                about, thing = f"{verb} {particle}".strip(), _a(target, verb)
                yield "object", "mouth" if after[:1] + after[2:] == ["in", "mouth"] else about, thing
                done = f"{about} {thing}" if verb in NEEDS else done
    if done:
        yield "action", "", done


def _agreed(kind: str, many: list[tuple[str, str]]) -> tuple[str, str]:
    """Return what the captions agree on: the question's words and the answer, "" if they do not."""
    (best, count), *_ = Counter(many).most_common(1)
    rest = len(many) - count
    good = not rest or count >= 3 * rest if kind == "action" else len({one for _, one in many}) == 1
    return best if good and count >= (2 if kind in ("action", "place") else 1) else ("", "")


# --- conversations


def talks(captions: Iterable[str], key: str) -> list[list[Turn]]:
    """Return the conversations about one picture; `key` decides what is drawn.

    >>> captions = ["A brown dog runs on the grass .", "A dog is running with a red ball .", "The dog runs ."]
    >>> for turn in talks(captions, "1")[0]:
    ...     print(turn.question, turn.answer)
    what is in the picture? a dog
    what colour is it? brown
    what is it doing? running
    what colour is the ball? red
    """
    found = scene(captions)
    made: list[list[Turn]] = []
    for focus in sorted(found.beings, key=lambda being: -len(found.said[being])):
        opening = not made and found.alone and _draw(key, "opening") < 0.75
        turns = _talk(found, focus, opening, f"{key} {len(made)}")
        if len(turns) > 1:
            made.append(turns)
    return made


def _talk(found: Scene, focus: Being, opening: bool, key: str) -> list[Turn]:
    """Return turns about somebody; those whom two captions tell apart are asked about with "and the dog?"."""
    turns: list[Turn] = []
    mentioned = set(found.beings) if opening else {focus}
    blurred = False  # whether "it" would be a thing
    if opening:
        people = all(being.noun in PEOPLE for being in found.beings)
        turns.append(Turn(f"{'who' if people else 'what'} is in the picture?", _listed(found.beings), "who"))
    facts = found.said[focus]
    if " " in facts.get("action", ("", ""))[1] and "object" in facts:  # "riding a bike", which is not asked twice
        del facts["object" if _draw(key, "object") < 0.5 else "action"]
    place = {"number": 0, "action": 1 + _draw(key, "action"), "object": 3.0 if focus.pronoun == "it" else 2.0}
    for kind in sorted(facts, key=lambda kind: place.get(kind, 1 + 1.5 * _draw(key, kind))):
        if len(turns) >= MOST:
            break
        word, answer = facts[kind]
        same = [being for being in mentioned - {focus} if focus.pronoun in (being.pronoun, "they")]
        known = turns and focus.pronoun and not same and not blurred
        brief = known and _draw(key, f"brief {kind}") < 0.3
        before = turns[-1].kind if turns else ""
        if brief and (before, kind) in (("who", "number"), ("action", "place")):
            turns.append(Turn("how many?" if kind == "number" else "where?", answer, kind))
        else:
            turns.append(Turn(_question(kind, word, focus, focus.pronoun if known else ""), answer, kind))
        noun, many = rules.NOUNS.get(answer.split()[-1], ("", False))
        if kind in ("object", "wearing", "action") and noun in THINGS | CLOTHES:
            blurred = focus.pronoun in ("it", "they")
            if noun in found.colours and len(turns) < MOST:
                that = ("those" if many else "that") if blurred else ("they" if many else "it")
                whole = "what colour?" if _draw(key, noun) < 0.3 else f"what colour {'are' if many else 'is'} {that}?"
                turns.append(Turn(whole, found.colours.pop(noun), "colour"))
                continue
        for other in found.beings:
            both = kind in ("action", "wearing", "colour") and other != focus and kind in found.said[other]
            if both and len(turns) < MOST:
                turns.append(Turn(f"and {_the(other)}?", found.said[other].pop(kind)[1], kind))
                mentioned.add(other)
    for noun, name in _others(found, focus, turns, key):
        if len(turns) < MOST and (turns or noun in CLOTHES):
            start = f"what colour {'are' if noun in rules.PLURAL_ONLY else 'is'}"
            start = "and" if turns and turns[-1].kind == "colour" else start
            name = name if turns else f"{_the(focus)}'s {noun}"
            turns.append(Turn(f"{start} {name}?", found.colours.pop(noun), "colour"))
    return turns


def _others(found: Scene, focus: Being, turns: Sequence[Turn], key: str) -> list[tuple[str, str]]:
    """Return the nouns whose colour can be asked besides, and how: one thing, and garments of the only person."""
    last = [rules.NOUNS.get(turn.answer.split()[-1], ("", False))[0] for turn in turns]
    told = {noun for noun in last if noun in THINGS | CLOTHES}
    seen = {turn.answer for turn in turns if turn.kind == "colour"}  # another name of a thing has the same colour
    fresh = {noun: colour for noun, colour in found.colours.items() if noun not in told}
    things = [noun for noun, colour in fresh.items() if noun in THINGS and colour not in seen]
    names = {noun: f"the {noun}" for noun in sorted(things, key=lambda noun: _draw(key, noun))[:1]}
    if focus.pronoun not in ("he", "she") or sum(being.noun in PEOPLE for being in found.beings) > 1:
        return list(names.items())
    whose = "his" if focus.pronoun == "he" else "her"
    worn = fresh.keys() & (CLOTHES - NOT_WORN | {"hair"})
    for noun in sorted(worn, key=lambda noun: _draw(key, noun)):
        if not any(noun in alike and alike & (worn | told) - {noun} for alike in ALIKE):
            names[noun] = f"{whose} {noun}"
    return list(names.items())


def _question(kind: str, word: str, focus: Being, pronoun: str) -> str:
    name, verb = pronoun or _the(focus), "are" if focus.plural else "is"
    if kind == "number":
        return "how many are there?" if pronoun else f"how many {rules._plural(focus.noun)} are there?"
    if word == "mouth":
        return f"what is in {'its' if pronoun else _the(focus) + chr(39) + 's'} mouth?"
    if kind == "colour":
        return f"what colour {verb} {name}?"
    if kind == "place":
        return f"where {verb} {name}?"
    return f"what {verb} {name} {word or ('doing' if kind == 'action' else 'wearing')}?"


def _the(being: Being) -> str:
    return f"the {rules._plural(being.noun) if being.plural else being.noun}"


def _listed(beings: Sequence[Being]) -> str:
    names = [rules._plural(one.noun) if one.plural else f"{_article(one.noun)} {one.noun}" for one in beings]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _a(phrase: Phrase, verb: str = "") -> str:
    """Return what an answer calls a thing."""
    if phrase.plural:
        return rules._plural(phrase.noun) if phrase.noun not in rules.PLURAL_ONLY else phrase.noun
    if phrase.noun in UNCOUNTED or (verb == "playing" and phrase.noun in GAMES):
        return phrase.noun
    return f"{_article(phrase.noun)} {phrase.noun}"


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeio" or noun == "umbrella" else "a"


def _draw(key: str, what: str) -> float:
    return concepts.fraction(f"flickr8k_dialog {key} {what}")
