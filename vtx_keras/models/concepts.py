"""Concept words: what the encoder's ImageNet head recognizes in an image, given to the text beside the image tokens.

An encoder that was trained to name a thousand kinds of things knows a cat, a bus and broccoli, though no captioned
picture showed them. `Concepts` reads the likeliest words off the features; `WithConcepts` embeds them as tokens. Text
alone can teach what to write about them: sentences are read with "no picture" and the words that they `mentioned`.

`concepts.txt` has a line per class, `label<TAB>words`, in the order of the classes. Its words are the concepts: nouns
that people use when they describe a photograph, the most specific first. A class whose name is rare in captions has a
wider word ("vizsla" is a dog), and a class without a common word has none.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from vtx_keras.inputs.text import UNK, tokens
from vtx_keras.models.layers import changed, layer_norm, register

__all__ = ["LEAST", "ConceptIds", "Concepts", "WithConcepts", "ids_of", "matrix", "mentioned", "names"]
LEAST = 0.03  # a concept less likely than this is left out

# Other words for a concept, each with its plural. Breeds count as dogs unless they are concepts themselves.
ALIASES = {
    "airplane": "plane jet aircraft airliner aeroplane",
    "baby": "infant newborn",
    "backpack": "rucksack",
    "bike": "bicycle",
    "bird": "seagull gull pigeon parrot owl eagle hawk pelican ostrich flamingo peacock penguin",
    "boat": "kayak rowboat speedboat motorboat yacht",
    "cabinet": "cupboard",
    "car": "automobile sedan suv racecar",
    "cat": "kitten kitty",
    "chicken": "hen rooster",
    "church": "cathedral",
    "clothes": "clothing",
    "couch": "sofa",
    "cow": "cattle",
    "deer": "antelope",
    "dog": "puppy pup doggy retriever terrier collie labrador dalmatian bulldog beagle chihuahua pug spaniel pitbull",
    "food": "meal",
    "glasses": "eyeglasses spectacles",
    "grocery": "supermarket",
    "gun": "pistol",
    "hamburger": "burger cheeseburger",
    "hat": "beanie sombrero",
    "horse": "pony stallion",
    "jeans": "jean",
    "jewelry": "jewellery",
    "man": "guy gentleman",
    "microphone": "mic",
    "monkey": "gorilla chimpanzee ape",
    "motorcycle": "motorbike",
    "mountain": "mountainside mountaintop",
    "ocean": "sea",
    "phone": "cellphone telephone smartphone iphone",
    "police": "policeman cop",
    "purse": "handbag",
    "rabbit": "bunny",
    "refrigerator": "fridge",
    "river": "stream creek",
    "rug": "carpet",
    "saxophone": "sax",
    "sheep": "lamb ram",
    "shelf": "bookshelf bookcase",
    "shirt": "t-shirt tshirt",
    "shoe": "sneaker",
    "shore": "seashore shoreline",
    "ski": "skier",
    "stairs": "staircase stairway stair",
    "store": "shop",
    "sweatshirt": "hoodie",
    "taxi": "cab",
    "trolley": "tram streetcar",
    "truck": "pickup",
    "tub": "bathtub",
    "tv": "television",
    "vegetable": "veggie",
    "woman": "lady",
}
# Pairs of words that mean something else than their parts, and the concepts that they stand for, if any. A traffic
# light is "traffic", the first word of its name, and a teddy bear is "teddy".
COMPOUNDS = {
    "apple computer": "computer", "baby carriage": "baby", "baby elephant": "elephant", "baby giraffe": "",
    "baby zebra": "zebra", "back pack": "backpack", "ball cap": "cap", "balloon animal": "balloon",
    "baseball cap": "cap", "baseball hat": "hat", "bath tub": "tub", "bathing suit": "swimsuit", "bean bag": "",
    "black lab": "dog", "book bag": "backpack", "brown lab": "dog", "bull dog": "dog", "chain link": "",
    "coffee shop": "store", "coffee table": "table", "corn dog": "", "dirt bike": "motorcycle",
    "dress shirt": "shirt", "field hockey": "hockey", "fire engine": "firetruck", "fire fighter": "",
    "fire hydrant": "", "fire place": "fireplace", "fire truck": "firetruck", "fish tank": "aquarium fish",
    "flag football": "football", "fried chicken": "food", "gas tank": "", "german shepherd": "dog", "glasses of": "",
    "guinea pig": "animal", "hot dog": "hotdog", "ice cream": "cream", "jet ski": "", "laundry mat": "laundry",
    "motor bike": "motorcycle", "motor cycle": "motorcycle", "mountain bike": "bike", "mountain lion": "animal",
    "neck tie": "tie", "paper bag": "bag", "paper plate": "plate", "pit bull": "dog", "polo shirt": "shirt",
    "pony tail": "", "rock band": "", "sail boat": "sailboat", "sea gull": "bird", "sea lion": "animal",
    "shepherd dog": "dog", "space suit": "", "stop light": "traffic", "stuffed animal": "toy", "suit case": "",
    "sun glasses": "sunglasses", "sweat shirt": "sweatshirt", "swim suit": "swimsuit", "table cloth": "table",
    "table tennis": "table", "tank shirt": "", "tank top": "", "teddy bear": "teddy", "tennis shoe": "shoe",
    "toaster oven": "oven", "toilet tank": "toilet", "toy airplane": "toy", "toy car": "toy", "toy gun": "toy",
    "toy horse": "toy", "toy train": "toy", "toy truck": "toy", "traffic light": "traffic", "train car": "train",
    "water bottle": "bottle", "water fountain": "fountain", "water gun": "toy", "water ski": "", "water tank": "",
    "wet suit": "", "wheel barrel": "wheelbarrow", "wine glass": "wine", "yellow lab": "dog",
}  # fmt: skip
PLURALS = {
    "calf": "calves", "gentleman": "gentlemen", "goose": "geese", "knife": "knives", "leaf": "leaves", "man": "men",
    "mouse": "mice", "policeman": "policemen", "potato": "potatoes", "scarf": "scarves", "shelf": "shelves",
    "woman": "women",
}  # fmt: skip
# Words without a plural, or whose plural is another thing: "woods" are a forest, and "waters" is a verb.
SAME = frozenset([
    "aircraft", "binoculars", "cattle", "christmas", "clothes", "clothing", "deer", "eyeglasses", "fire", "glasses",
    "hockey", "jeans", "oranges", "pajamas", "pottery", "sheep", "snow", "spectacles", "stairs", "sunglasses", "tennis",
    "trunks", "water", "wood",
])  # fmt: skip


@register
class Concepts(keras.layers.Layer):
    """Reads features (batch, rows, columns, width), returns what is seen (batch, 1 + count, 2): pairs (word, chance).

    The words are numbers in `names()`, the likeliest first; an unlikely one has chance 0. The first
    pair is (0, 1): there is a picture. The head is the published one, and is not trained. With a `rank` its matrix is
    the product of two narrow ones.
    """

    def __init__(self, count: int, rank: int | None = None, **kwargs: Any):
        super().__init__(**{**kwargs, "trainable": False, "dtype": "float32"})
        self.count, self.rank = count, rank

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (shape[0], 1 + self.count, 2)

    def build(self, shape: tuple) -> None:
        if self.rank:
            self.narrow = self.add_weight(shape=(shape[-1], self.rank), name="narrow")
        self.kernel = self.add_weight(shape=(self.rank or shape[-1], 1000), name="kernel")
        self.bias = self.add_weight(shape=(1000,), initializer="zeros", name="bias")

    def call(self, features: Any) -> Any:
        pooled = ops.mean(
            ops.cast(features, "float32"), axis=tuple(range(1, len(features.shape) - 1))
        )  # (batch, width)
        pooled = ops.matmul(pooled, self.narrow) if self.rank else pooled  # (batch, rank)
        labels = ops.softmax(ops.matmul(pooled, self.kernel) + self.bias)  # (batch, 1000)
        chances, words = ops.top_k(ops.matmul(labels, matrix()), self.count)  # (batch, count)
        chances = ops.where(chances < LEAST, 0.0, ops.minimum(chances, 1.0))
        pairs = ops.stack([ops.cast(words, "float32"), chances], axis=-1)  # (batch, count, 2)
        picture = ops.stack([ops.zeros_like(pairs[:, :1, 0]), ops.ones_like(pairs[:, :1, 1])], axis=-1)  # (batch, 1, 2)
        return ops.concatenate([picture, pairs], axis=1)

    def get_config(self) -> dict:
        config = {name: value for name, value in super().get_config().items() if name not in ("trainable", "dtype")}
        return {**config, "count": self.count, **changed(self, {"rank": None})}


@register
class ConceptIds(keras.layers.Layer):
    """Reads what is seen (batch, 1 + count, 2), returns the ids (batch, count) of the words that name the concepts."""

    def __init__(self, ids: Sequence[int], **kwargs: Any):
        super().__init__(**kwargs)
        self.ids = list(ids)

    def compute_output_spec(self, seen: Any) -> keras.KerasTensor:
        return keras.KerasTensor((seen.shape[0], seen.shape[1] - 1), dtype="int32")

    def call(self, seen: Any) -> Any:
        return ops.take(ops.convert_to_tensor(self.ids, "int32"), ops.cast(seen[:, 1:, 0], "int32"))

    def get_config(self) -> dict:
        return {**super().get_config(), "ids": self.ids}


@register
class WithConcepts(keras.layers.Layer):
    """Adds a token for each concept to the image tokens (batch, tokens, dim): (batch, tokens + count, dim).

    A word that is not likely is the learned token "nothing". Where there is no picture, a learned vector takes the
    place of all its tokens. `named` (batch, count, dim) are embeddings of the words in the table that the text is
    written with. With `summed`, for fusions that pool the image, the concepts are added to every token.
    In training some concepts are hidden, so that the text does not depend on them alone.
    """

    def __init__(self, dim: int, summed: bool = False, hidden: float = 0.1, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.summed, self.hidden = dim, summed, hidden
        self.norm = layer_norm("norm", dtype=self.dtype_policy)
        self.draws = keras.random.SeedGenerator()

    def compute_output_shape(self, vision_shape: tuple, seen_shape: tuple) -> tuple:
        tokens = 0 if self.summed else seen_shape[1] - 1
        return (vision_shape[0], vision_shape[1] + tokens, self.dim)

    def build(self, vision_shape: tuple, seen_shape: tuple, named_shape: tuple | None = None) -> None:
        small = keras.initializers.RandomNormal(stddev=0.02)
        first = keras.initializers.RandomNormal() if named_shape is None else small
        self.table = self.add_weight(shape=(len(names()), self.dim), initializer=first, name="words")
        self.kind = self.add_weight(shape=(self.dim,), initializer=small, name="kind")
        self.slope = self.add_weight(shape=(self.dim,), initializer=small, name="slope")
        self.nothing = self.add_weight(shape=(self.dim,), initializer=small, name="nothing")
        self.no_picture = self.add_weight(shape=(self.dim,), initializer=small, name="no_picture")
        self.norm.build((None, None, self.dim))

    def call(self, vision: Any, seen: Any, named: Any = None, training: bool | None = None) -> Any:
        picture, chances = seen[:, :1, 1:] > 0, seen[:, 1:, 1:]  # (batch, 1, 1), (batch, count, 1)
        vision = ops.where(picture, vision, ops.cast(self.no_picture, vision.dtype))  # (batch, tokens, dim)
        if training and self.hidden:
            shape = ops.shape(chances)
            draws = keras.random.uniform(shape, seed=self.draws)  # a word is hidden alone
            row = keras.random.uniform((shape[0], 1, 1), seed=self.draws)  # or all of them, with a picture
            shown = ops.logical_and(draws >= self.hidden, ops.logical_or(row >= self.hidden, ~picture))
            chances = ops.where(shown, chances, 0.0)
        words = ops.take(self.table, ops.cast(seen[:, 1:, 0], "int32"), axis=0)  # (batch, count, dim)
        words = words if named is None else words + ops.cast(named, words.dtype)
        words = words + self.kind + self.slope * ops.log(ops.maximum(chances, LEAST))
        words = ops.where(chances > 0, ops.cast(self.norm(words), "float32"), ops.cast(self.nothing, "float32"))
        words = ops.cast(words, vision.dtype)
        if self.summed:
            return vision + ops.sum(words, axis=1, keepdims=True)
        return ops.concatenate([vision, words], axis=1)

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim, "summed": self.summed, "hidden": self.hidden}


@functools.lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Return the concepts in alphabetical order; the place of a concept is its index.

    >>> names()[0], "dog" in names(), "vizsla" in names()
    ('accordion', True, False)
    """
    return tuple(sorted({word for _, words in _lines() for word in words}))


def ids_of(vocabulary: Sequence[str]) -> list[int]:
    """Return the id in a vocabulary of each concept, UNK for a word that it does not have whole."""
    index = {piece: number for number, piece in enumerate(vocabulary)}
    return [index.get(name, UNK) for name in names()]


@functools.lru_cache(maxsize=1)
def matrix() -> np.ndarray:
    """Return 0 and 1 as float32 of shape (1000 classes, concepts): which class means which concept.

    >>> matrix()[207].nonzero()[0].tolist() == [names().index("dog")]  # golden_retriever
    True
    """
    table = np.zeros((len(_lines()), len(names())), np.float32)
    for row, (_, words) in zip(table, _lines(), strict=True):
        row[[names().index(word) for word in words]] = 1
    table.flags.writeable = False  # every caller gets the same array
    return table


def mentioned(text: str) -> list[int]:
    """Return the indices of the concepts that a sentence mentions, in the order in which they appear, each once.

    Singular, plural and other common words for a concept count. A pair such as "hot dog" is neither hot nor a dog.

    >>> [names()[index] for index in mentioned("Two puppies eat a hot dog on the sofa; another dog watches TV.")]
    ['dog', 'hotdog', 'couch', 'tv']
    """
    words, forms = tokens(text), _forms()
    found: list[int] = []
    at = 0
    while at < len(words):
        pair = " ".join(words[at : at + 2])
        found += forms.get(pair, forms.get(words[at], ()))
        at += 2 if pair in forms and " " in pair else 1
    return list(dict.fromkeys(found))


@functools.lru_cache(maxsize=1)
def _lines() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return (label, concepts) of each class."""
    text = Path(__file__).with_name("concepts.txt").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines())
    return tuple((label, tuple(words.split())) for label, words in rows)


@functools.lru_cache(maxsize=1)
def _forms() -> dict[str, tuple[int, ...]]:
    """Return the indices of the concepts that each word or pair of words stands for."""
    index = {name: place for place, name in enumerate(names())}
    forms: dict[str, tuple[int, ...]] = {}
    for name, others in ALIASES.items():
        for other in others.split():
            forms[other] = forms[_plural(other)] = (index[name],)
    for name, place in index.items():
        forms[name] = forms[_plural(name)] = (place,)
    for pair, meant in COMPOUNDS.items():
        first, last = pair.split()
        forms[pair] = forms[f"{first} {_plural(last)}"] = tuple(index[name] for name in meant.split())
    return forms


def _plural(word: str) -> str:
    if word in PLURALS or word in SAME:
        return PLURALS.get(word, word)
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    return word[:-1] + "ies" if word.endswith("y") and word[-2] not in "aeiou" else word + "s"
