"""Look once, ask many: what an image encoder sees is a value that other calls take in place of pictures.

A text about one picture grows as it is read: words as they come, and conversations.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from vtx_keras.inputs import media
from vtx_keras.inputs._templates import rendered
from vtx_keras.inputs.text import END, PAD, Vocabulary
from vtx_keras.models import decode
from vtx_keras.models.language import Reading, begin, extend
from vtx_keras.models.layers import NEVER

# --- look once


class Seen(NamedTuple):
    """What an image encoder makes of pictures: features (pictures, …), which methods take in place of the pictures."""

    features: np.ndarray


MOST_BYTES = 64_000_000  # of features that are kept
SMALL = 4096  # numbers in a weight that is compared whole


def look(model: Any, images: Any, batch_size: int) -> Seen:
    """Return the features of images; those of the latest pictures are kept, and found by content."""
    if isinstance(images, Seen):
        return images
    pixels, good, errors = model.prepare(images)
    if errors:
        media.settle(list(pixels), good, errors, len(good) + len(errors), "raise")
    if not model.has_layer("image_encoder"):
        return Seen(pixels)
    encoder, memory = model.get_layer("image_encoder"), model.cached(("seen",), dict)
    state = _state_of(encoder)
    if memory.get("state") != state:
        memory |= {"state": state, "kept": {}}
    kept: dict[bytes, np.ndarray] = memory["kept"]
    keys = [hashlib.blake2b(one.tobytes(), digest_size=16).digest() for one in pixels]
    found = {key: one for key in keys if (one := kept.get(key)) is not None}  # another thread may drop some
    new = [place for place, key in enumerate(keys) if key not in found]
    if new:
        made = decode.run_in_batches(encoder.predict_on_batch, pixels[new], batch_size)
        found |= {keys[place]: one for place, one in zip(new, made, strict=True)}
        kept |= found
    features = np.stack([found[key] for key in keys])
    for key in list(kept)[: max(0, len(kept) - MOST_BYTES // features[0].nbytes)]:
        kept.pop(key, None)
    return Seen(features)


def _state_of(encoder: keras.Model) -> bytes:
    """Return a digest of the encoder's small weights and of its last: training or loading others changes some."""
    digest = hashlib.blake2b(digest_size=16)
    for weight in encoder.weights:
        if np.prod(weight.shape) <= SMALL or weight is encoder.weights[-1]:
            digest.update(np.asarray(keras.ops.convert_to_numpy(weight)).tobytes())
    return digest.digest()


def takes_seen(method: Callable) -> Callable:
    """Let a method of a model take `Seen` in place of its first argument, the images."""

    @functools.wraps(method)
    def run(self: Any, images: Any, *others: Any, **how: Any) -> Any:
        if not isinstance(images, Seen):
            return method(self, images, *others, **how)
        behind = self.cached(("behind",), self.behind_encoder) if self.has_layer("image_encoder") else self
        return method(behind, images.features, *others, **how)

    return run


# --- one text about one image


class _Begin(keras.Model):
    """`begin` as a model, so that `predict_on_batch` compiles it on every backend; it returns arrays in a row."""

    def __init__(self, captioner: Any, words: int):
        super().__init__(name="begin", dtype="float32", autocast=False)
        self.captioner, self.words = captioner, words
        self.form: list = []  # the structure of the reading, None where it has None, and its prefix
        self.compile(run_eagerly=captioner.run_eagerly)

    def call(self, features: Any) -> list:
        reading, prefix = begin(self.captioner, features, self.words)
        self.form[:] = [keras.tree.map_structure(lambda one: one is not None, reading), prefix]
        return _flat(reading)


class _Extend(keras.Model):
    """`extend` as a model."""

    def __init__(self, captioner: Any, form: list):
        super().__init__(name="extend", dtype="float32", autocast=False)
        self.captioner, self.form = captioner, form
        self.compile(run_eagerly=captioner.run_eagerly)

    def call(self, inputs: list) -> list:
        form, prefix = self.form
        logits, reading = extend(self.captioner, _packed(form, inputs[1:]), prefix, inputs[0])
        return [logits, *_flat(reading)]


def _flat(reading: Reading) -> list:
    return [one for one in keras.tree.flatten(reading) if one is not None]


def _packed(form: Reading, arrays: Sequence[Any]) -> Reading:
    rest = iter(arrays)
    return keras.tree.map_structure(lambda there: next(rest) if there else None, form)


MOST_PIECES = 1 << 17  # of a conversation that is cut into pieces
CAPACITY = 256  # words at first; it doubles when there are more
AT_ONCE = (1, 16, 64, 256)  # tokens that are read in one pass: a function is compiled for each number


class Reader:
    """Reads an image once, then a text that grows, and keeps the keys and values of both.

    >>> from vtx_keras import zoo
    >>> model = zoo.build("gated_captioner", weights=None, dim=32, depth=1, vision_depth=1, image_shape=(32, 32, 3))
    >>> reader = Reader(model, np.zeros((32, 32, 3)))
    >>> reader.read([2, 7]).shape == (len(model.vocabulary),), reader.count
    (True, 2)
    """

    def __init__(self, captioner: Any, image: Any):
        features = captioner.look(image).features
        if len(features) != 1:
            raise ValueError(f"{len(features)} pictures: expected one, which the text is about")
        expected = tuple(captioner.get_layer("vision").input.shape[1:])
        if features.shape[1:] != expected:
            raise ValueError(f"features {features.shape[1:]}: expected {expected}, which this model's encoder makes")
        self.captioner, self.words = captioner, min(CAPACITY, captioner.context)  # the words that there are slots for
        run = self._compiled(("begin", self.words), lambda: _Begin(captioner, self.words))
        arrays = run.predict_on_batch(features)
        self.form = run.form
        self.reading, self.count = _packed(self.form[0], arrays), 0  # tokens of the text

    @property
    def room(self) -> int:
        """How many more tokens can be read."""
        image = 0 if self.captioner.has_layer("positions") else self.form[1]
        return self.captioner.context - image - self.count

    def read(self, ids: Sequence[int]) -> np.ndarray:
        """Read further tokens; return the logits (vocabulary,) of the next."""
        if not 0 < len(ids) <= self.room:
            raise ValueError(
                f"{len(ids)} tokens: expected at most {self.room}, which is the room left of the "
                f"{self.captioner.context} that this model can read. Ask less, or begin again"
            )
        logits = np.zeros((1, 1))
        for start in range(0, len(ids), AT_ONCE[-1]):
            part = list(ids[start : start + AT_ONCE[-1]])
            size = next(size for size in AT_ONCE if size >= len(part))
            while self.count + len(part) > self.words:
                self._grow()
            tokens = np.array([part + [PAD] * (size - len(part))], "int32")
            run = self._compiled(("extend", self.words, size), lambda: _Extend(self.captioner, self.form))
            logits, *arrays = run.predict_on_batch([tokens, *_flat(self.reading)])
            self.reading, self.count = _packed(self.form[0], arrays), self.count + len(part)
        return np.asarray(logits)[0]

    def cut(self, count: int) -> None:
        """Forget all but the first `count` tokens of the text: what stands in later slots is not seen any more."""
        self.count = count
        self.reading = self.reading._replace(count=np.full((1, 1), self.form[1] + count, "int32"))

    def _compiled(self, key: tuple, make: Callable[[], keras.Model]) -> Any:
        return self.captioner.cached((*key, self.captioner.run_eagerly), make)

    def _grow(self) -> None:
        more, pasts = min(self.words, self.captioner.context - self.words), []
        for past in self.reading.pasts:
            wider = ([(0, 0)] * 3 + [(0, more)], [(0, 0), (0, 0), (0, more), (0, 0)])
            pasts.append(tuple(np.pad(one, pad) for one, pad in zip(past, wider, strict=True)) if past else ())
        self.reading, self.words = self.reading._replace(pasts=pasts), self.words + more


def stream(reader: Reader, ids: Sequence[int], most: int, choose: Callable[[np.ndarray, int], int]) -> Iterator[int]:
    """Yield the ids that are written after `ids`, at most `most`, without END; all but the last have been read."""
    logits = reader.read(ids)
    for index in range(min(most, reader.room + 1)):
        token = choose(logits, index)
        if token == END:
            return
        yield token
        if index + 1 < most and reader.room:
            logits = reader.read([token])


def chooser(seed: int | None, length: int, first: int, how: dict[str, Any]) -> Callable[[np.ndarray, int], int]:
    """Return the function from logits and a number to the next id: the likeliest, or a draw of `decode.sampling`.

    `first` is the place of the first in a text of `length`, which decides what is drawn.
    """
    draw = None
    if how["sampler"] != "greedy":
        noise = np.random.default_rng(seed).random((1, length), "float32")
        draw = decode.make_draw(noise, top_k=how["top_k"], top_p=how["top_p"], temperature=how["temperature"])

    def choose(logits: np.ndarray, index: int) -> int:
        logits = np.array(logits, "float32")
        logits[list(decode.UNWRITABLE)] = NEVER
        return int(logits.argmax()) if draw is None else int(np.asarray(draw(logits[None, None], first + index)).item())

    return choose


def words_of(ids: Iterable[int], vocabulary: Vocabulary, before: Sequence[int] = ()) -> Iterator[str]:
    """Yield text as soon as a word is whole, so that what was yielded, joined, is the text of all ids.

    >>> pieces = Vocabulary.of(["a", "cat", "##s", "."])
    >>> list(words_of([5, 6, 7, 8], pieces))
    ['a', ' cats.']
    """
    written, given = list(before), ""
    for token in ids:
        written.append(token)
        now = vocabulary.decode([written])[0]
        end = max(now.rfind(" "), now.rfind("\n"))  # a word after the last space may go on
        if end > len(given) and now.startswith(given) and not now.endswith("\ufffd"):
            yield now[len(given) : end]
            given = now[:end]
    now = vocabulary.decode([written])[0] if written else ""
    if len(now) > len(given):
        yield now[len(given) :]


class Chat:
    """A conversation about one picture: the picture is encoded once, and what was said is not read again.

    `history` holds what was said, as transformers' templates take it: {"role": "user" or "assistant", "content"}.
    """

    def __init__(self, captioner: Any, image: Any, system: str | None = None):
        layout = captioner.options.get("text_decoder")
        if not isinstance(layout, dict) or not layout["template"]:
            raise ValueError(
                "chat needs a language model with a template of conversations, such as text_decoder='smollm2_135m'; "
                "this model completes what it is given: model.generate(image, prompt=…)"
            )
        self.captioner, self.reader, self.layout = captioner, Reader(captioner, image), layout
        self.history: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
        self.turn = 0  # how often was asked
        self.read: list[int] = []  # ids, of which the reader holds as many as it counts
        rule = captioner.vocabulary.rule
        added = rule["json"].get("added_tokens") or ()
        self.special = {*rule["names"], *(one["content"] for one in added if one.get("special"))}

    def ask(self, question: str, **how: Any) -> str:
        """Return the answer to a question, which may refer to what was said; `how` is as of `stream`."""
        return "".join(self.stream(question, **how))

    def stream(
        self,
        question: str,
        *,
        max_length: int = 128,
        sampler: str = "greedy",
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Return the answer word by word, as it is written. It is in the history once it is whole."""
        how = decode.sampling(sampler, 1, top_k, top_p, temperature, seed)
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"question={question!r:.80}: expected a text")
        if not decode.whole_number(max_length) or max_length < 1:
            raise ValueError(f"max_length={max_length!r}: expected a whole number of at least 1")
        inside = next((name for name in self.special if name in question), None)
        if inside:
            raise ValueError(f"{question!r:.80} has {inside}, which separates turns: leave it out")
        ids, known = self.ids_of([*self.history, {"role": "user", "content": question}]), self.read[: self.reader.count]
        same = next((i for i, (one, other) in enumerate(zip(ids, known, strict=False)) if one != other), len(known))
        same = min(same, len(ids) - 1)  # one is read anew, for its logits
        most = self.reader.room + self.reader.count
        if len(ids) > most:
            raise ValueError(
                f"the conversation has {len(ids)} tokens: expected at most {most}, which this model can read. Ask "
                "less, or begin a new one: model.chat(image)"
            )
        self.turn += 1
        return self._answered(question, ids, same, self.turn, max_length, chooser(seed, max_length, 0, how))

    def _answered(
        self, question: str, ids: list[int], same: int, turn: int, most: int, choose: Callable[[np.ndarray, int], int]
    ) -> Iterator[str]:
        self.reader.cut(same)
        self.read, vocabulary, parts = list(ids), self.captioner.vocabulary, []

        def written() -> Iterator[int]:
            for token in stream(self.reader, ids[same:], most, choose):
                self.read.append(token)
                if vocabulary[token] not in self.special:  # a random model may write what separates turns
                    yield token
                if turn != self.turn:
                    break

        for part in words_of(written(), vocabulary):
            parts.append(part)
            yield part
        if turn != self.turn:
            raise RuntimeError("another question was asked before this answer was whole: one at a time")
        self.history += [{"role": "user", "content": question}, {"role": "assistant", "content": "".join(parts)}]

    def ids_of(self, history: Sequence[dict[str, str]]) -> list[int]:
        """Return the ids of a conversation, up to where the answer begins."""
        text = rendered(self.layout["template"], history, tokens=self.layout["tokens"])
        return [int(one) for one in self.captioner.vocabulary.encode([text], MOST_PIECES)[0] if one != PAD]


def asked(model: Any, images: np.ndarray, questions: Sequence[str], most: int) -> list[str | ValueError]:
    """Return the answer to each question about its picture, each a conversation of its own, or what is wrong with it.

    A picture that comes several times in a row is read once.
    """
    answers: list[str | ValueError] = []
    chats: dict[bytes, Chat] = {}
    for picture, question in zip(images, questions, strict=True):
        key = picture.tobytes()
        chats = chats if key in chats else {key: Chat(model, picture)}
        try:
            answers.append(chats[key].ask(question, max_length=most))
        except ValueError as error:
            answers.append(error)
        chats[key].history.clear()
    return answers
