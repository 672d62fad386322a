"""Train the encoder and the models of photographs on a GPU without TensorFlow, from what `recipes.photo_pack` wrote.

    KERAS_BACKEND=jax python -m recipes.photo_gpu tune --seconds 200      # the encoder, by captions and by search
    KERAS_BACKEND=jax python -m recipes.photo_gpu captioner cross_attn    # a model behind it; also vqa, matcher
    python -m recipes.photo_gpu take                                      # here: writes the weights to the zoo

Every picture is augmented anew each time while the encoder learns; the models behind it learn from `VIEWS` augmented
copies, whose features are kept. How long each stage takes is told in seconds: the learning rate falls with the clock.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from PIL import Image

from vtx_keras import zoo
from vtx_keras.checkpoints import _encoders as published
from vtx_keras.inputs.text import END, PAD, UNK
from vtx_keras.models.layers import cut
from vtx_keras.models.rewards import by_cider, cider, rarity, rewarded

FOLDER = Path("runs/photo_gpu")
ENCODER = {"image_encoder": "efficientnet_lite2", "image_shape": (224, 224, 3), "resize": "stretch"}
BEHIND = {"dim": 256, "heads": 4, "max_length": 22}
VIEWS, BATCH, SAMPLES = 6, 128, 5
PARTS = 4
SPLITS = ("train", "validation", "coco")


class Packed(NamedTuple):
    """What was packed: pictures (n, side, side, 3) uint8, where each split begins, and the arrays of texts."""

    pictures: np.ndarray
    places: dict[str, slice]
    texts: dict[str, np.ndarray]


def read(folder: Path, pictures: bool = True) -> Packed:
    """Read the packed files; the pictures of all parts in their order."""
    texts = {}
    for name in ("texts.npz", "vectors.npz"):
        if (folder / name).exists():
            with np.load(folder / name) as packed:
                texts |= {key: packed[key] for key in packed}
    counts = [len(texts[f"{split}_ids"]) for split in SPLITS]
    starts = np.cumsum([0, *counts])
    places = {split: slice(starts[i], starts[i + 1]) for i, split in enumerate(SPLITS)}
    decoded = np.zeros((starts[-1] if pictures else 0, *ENCODER["image_shape"]), "uint8")
    with ThreadPoolExecutor(16) as threads:
        for part in range(PARTS if pictures else 0):
            with np.load(folder / f"pictures-{part}.npz") as packed:
                content, ends = packed["content"].tobytes(), np.cumsum(packed["sizes"])
            files = [content[end - size : end] for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)]
            for number, pixels in enumerate(threads.map(_decoded, files)):
                decoded[part + number * PARTS] = pixels
    return Packed(decoded, places, texts)


def _decoded(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


# --- one loop for all


def trained(
    loss: Callable, variables: Sequence[Any], store: dict, batches: Iterator[tuple], *, seconds: float, rate: float,
    paces: Sequence[float] | None = None, modules: Sequence[Any] = (), decay: float = 1e-4, ema: float = 0.995,
    judge: Callable[[], float] | None = None, judged: int = 6, most: int | None = None, name: str = "",
) -> float:  # fmt: skip
    """Lower `loss(store, batch, key)` for some seconds, and leave the exponential mean of the variables in them.

    With `judge`, called on that mean `judged` times, the best is kept. `modules` are the layers that `loss` calls.
    """
    import jax

    paces = paces or [1.0] * len(variables)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=decay, global_clipnorm=1.0)
    optimizer.build(variables)
    place = next(i for i, one in enumerate(optimizer.variables) if one is optimizer._learning_rate)
    inside = {id(one): one for module in modules for one in _variables_of(module)}
    seeds = [one for one in inside.values() if "seed_generator_state" in one.path]
    others = [one for one in inside.values() if not any(one is v for v in (*variables, *seeds))]

    def of_values(values: list, fixed: list, store: dict, batch: tuple, key: Any) -> tuple:
        keys = jax.random.split(key, len(seeds) + 1)
        drawn = [jax.random.bits(k, (2,), "uint32") for k in keys[1:]]
        pairs = [*zip(variables, values, strict=True), *zip(others, fixed, strict=True), *zip(seeds, drawn, strict=True)]
        with keras.StatelessScope(state_mapping=pairs):
            return loss(store, batch, keys[0])

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(values: list, states: list, mean: list, fixed: list, store: dict, batch: tuple, key: Any, rate: Any) -> Any:
        (_, figures), gradients = jax.value_and_grad(of_values, has_aux=True)(values, fixed, store, batch, key)
        states = [rate if i == place else one for i, one in enumerate(states)]
        after, states = optimizer.stateless_apply(states, gradients, values)
        values = [before + pace * (one - before) for before, one, pace in zip(values, after, paces, strict=True)]
        return values, states, [ema * old + (1 - ema) * one for old, one in zip(mean, values, strict=True)], figures

    def copied() -> list:
        return [jax.numpy.array(one.value, copy=True) for one in variables]

    values, mean, states = copied(), copied(), [jax.numpy.array(one.value, copy=True) for one in optimizer.variables]
    fixed = [one.value for one in others]
    best, kept, start, steps, next_judged = -np.inf, None, time.monotonic(), 0, 0.0
    key = jax.random.key(0)
    share = 0.0
    while share < 1:
        key, own = jax.random.split(key)
        now = rate * min(1.0, (steps + 1) / 50) * (0.5 + 0.5 * np.cos(np.pi * share) if share else 1.0)
        batch = next(batches)
        values, states, mean, figures = step(values, states, mean, fixed, store, batch, own, np.float32(max(now, 1e-7)))
        steps += 1
        if steps == 1:
            jax.block_until_ready(values)
            say(name, f"compiled in {time.monotonic() - start:.0f} s")
            start = time.monotonic()
        if steps % 16 == 0:
            jax.block_until_ready(values)
        share = steps / most if most else min(1.0, (time.monotonic() - start) / seconds)
        if judge and (share >= next_judged + 1 / judged or share >= 1):
            next_judged += 1 / judged
            for variable, value in zip(variables, mean, strict=True):
                variable.assign(jax.numpy.array(value, copy=True))  # the next step takes the mean's own memory
            score = judge()
            told = {label: round(float(value), 4) for label, value in figures.items()}
            say(name, f"{steps} steps, {time.monotonic() - start:.0f} s: {told}, judged {score:.4f}")
            if score > best:
                best, kept = score, [np.asarray(one) for one in mean]
    for variable, value in zip(variables, kept or mean, strict=True):
        variable.assign(value)
    return best


def _variables_of(module: Any) -> list:
    """Return all variables of a layer, those of its random draws too."""
    return [*module.variables, *(seed.state for one in _flat(module) for seed in getattr(one, "_seed_generators", ()))]


def _flat(layer: Any) -> list:
    return [layer, *(one for inner in layer._layers for one in _flat(inner))]


def say(name: str, words: str) -> None:
    """Print a line at once, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {name}: {words}", flush=True)


# --- what is learned


def seen_anew(pictures: Any, key: Any, least: float = 0.5, colours: float = 0.2) -> tuple[Any, Any]:
    """Return parts of pictures (batch, side, side, 3), half of them mirrored, in other light; and which are mirrored."""
    import jax

    n, side = pictures.shape[0], pictures.shape[1]
    keys = jax.random.split(key, 8)
    draw = [jax.random.uniform(k, (n,)) for k in keys]
    area, aspect = least + (1 - least) * draw[0], ops.exp(0.5 * draw[1] - 0.25)
    height, width = ops.minimum(1.0, ops.sqrt(area * aspect)), ops.minimum(1.0, ops.sqrt(area / aspect))
    mirrored = draw[2] < 0.5
    steps = (ops.arange(side, dtype="float32") + 0.5)[None] / side

    def weights(share: Any, offset: Any) -> Any:  # (batch, side, side): of two neighbours, for each place
        at = (steps * share[:, None] + (1 - share)[:, None] * offset[:, None]) * side - 0.5
        at = ops.clip(at, 0.0, side - 1.0)
        return ops.relu(1 - ops.abs(at[:, :, None] - ops.arange(side, dtype="float32")))

    rows, columns = weights(height, draw[3]), weights(width, draw[4])
    columns = ops.where(mirrored[:, None, None], columns[:, ::-1], columns)
    x = ops.cast(pictures, "float32")
    x = ops.einsum("boh,bhwc->bowc", rows, x)
    x = ops.einsum("bpw,bowc->bopc", columns, x)
    bright, contrast, vivid = (ops.reshape(1 + colours * (2 * one - 1), (n, 1, 1, 1)) for one in draw[5:8])
    mean = ops.mean(x, axis=(1, 2, 3), keepdims=True)
    grey = ops.mean(x, axis=-1, keepdims=True)
    x = grey + (x - grey) * vivid
    return ops.clip(((x - mean) * contrast + mean) * bright, 0.0, 255.0), mirrored


def word_losses(logits: Any, labels: Any, weight: Any) -> Any:
    """Return the mean cross-entropy of words, without padding and unknown words, weighted by row."""
    words = ops.cast(ops.logical_and(labels != PAD, labels != UNK), "float32") * weight[:, None]
    losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.sum(losses * words) / ops.maximum(ops.sum(words), 1.0)


def caption_loss(model: Any, concepts: Any, store: dict, features: Any, rows: Any, told: Any, mirrored: Any, training: bool) -> Any:
    """Return the loss of `model`, a captioner behind its encoder, on all captions of these pictures and on sentences."""
    ids = ops.cast(ops.take(store["ids"], rows, axis=0), "int32")  # (batch, 5, length)
    sided = ops.logical_and(ops.take(store["sided"], rows, axis=0), mirrored[:, None])
    weight = ops.where(sided, 0.0, 1.0)
    ids, weight = ops.reshape(ids, (-1, ids.shape[-1])), ops.reshape(weight, (-1,))
    seen = concepts(features)
    features, seen = ops.repeat(features, 5, axis=0), ops.repeat(seen, 5, axis=0)
    if told is not None:
        sentences = ops.cast(ops.take(store["text_ids"], told, axis=0), "int32")
        pairs = [ops.cast(ops.take(store[name], told, axis=0), "float32") for name in ("text_words", "text_chances")]
        pairs = ops.pad(ops.stack(pairs, axis=-1), [[0, 0], [1, 0], [0, 0]])  # no picture, then concepts
        ids = ops.concatenate([ids, sentences])
        features = ops.concatenate([features, ops.zeros((len(told), *features.shape[1:]), features.dtype)])
        seen = ops.concatenate([seen, pairs])
        weight = ops.concatenate([weight, ops.full((len(told),), 0.5)])
    logits = model({"image": features, "seen": seen, "tokens": ids[:, :-1]}, training=training)
    return word_losses(logits, ids[:, 1:], weight)


def search_loss(images: Any, texts: Any, scale: Any, weight: Any) -> Any:
    """Return the contrastive loss of images (batch, dim) and their five texts each (batch · 5, dim)."""
    logits = ops.matmul(texts, ops.transpose(images)) * scale  # (batch · 5, batch)
    own = ops.cast(ops.arange(logits.shape[0])[:, None] // 5 == ops.arange(images.shape[0]), "float32")
    own = own * ops.reshape(weight, (-1, 1))
    by_text = ops.sum(own * ops.log_softmax(logits, axis=1)) / ops.sum(own)
    by_image = ops.sum(own * ops.log_softmax(logits, axis=0)) / ops.sum(own)
    return -0.5 * (by_text + by_image)


def rows_in_turn(count: int, size: int, told: int = 0, sentences: int = 0) -> Iterator[tuple]:
    """Yield numbers of pictures, each once an epoch, and of sentences."""
    random = np.random.default_rng(0)
    while True:
        order = random.permutation(count)
        for at in range(0, count - size + 1, size):
            yield order[at : at + size], random.integers(0, max(sentences, 1), told)


# --- the encoder


def tune(args: argparse.Namespace) -> None:
    """Train the encoder by captions and by search, and keep the features of all pictures."""
    import jax

    packed = read(args.folder)
    say("tune", f"{len(packed.pictures)} pictures on {jax.devices()[0].device_kind}")
    texts, train = packed.texts, packed.places["train"]
    words = texts["vocabulary"].tolist()
    captioner = zoo.build("cross_attn_captioner", weights="photos", dropout=0.2, dtype=args.dtype)
    searcher = zoo.build("retriever", weights="encoders", vocabulary=words, text_depth=2, dropout=0.2,
                         dtype=args.dtype, **ENCODER, **BEHIND)  # fmt: skip
    next(one for one in searcher.get_layer("text_encoder").layers if one.name == "words").embeddings.assign(
        texts["words"].astype("float32")
    )
    teacher = published.load("efficientnet_lite2", head=True, image_shape=ENCODER["image_shape"])
    teacher.trainable = False
    encoder, head = captioner.get_layer("image_encoder"), captioner.get_layer("concepts")
    for layer in _flat(encoder):
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)  # their statistics stay
    behind = captioner.behind_encoder(told=True)
    as_image = cut(searcher, {"image": searcher.get_layer("vision").input},
                   searcher.get_layer("image_embedding").output, name="as_image")  # fmt: skip
    as_text = cut(searcher, {"tokens": searcher.input["tokens"]}, searcher.get_layer("text_embedding").output,
                  name="as_text")  # fmt: skip
    alike = keras.layers.Dense(texts["captions"].shape[1], name="alike")
    alike.build((None, BEHIND["dim"]))
    log_scale = searcher.get_layer("contrastive").log_scale

    def loss(store: dict, batch: tuple, key: Any) -> tuple:
        rows, told = batch
        pictures, mirrored = seen_anew(ops.take(store["pictures"], rows, axis=0), key)
        features = encoder(pictures, training=True)  # (batch, 7, 7, width)
        pooled = ops.mean(ops.cast(features, "float32"), axis=(1, 2))
        named = ops.log_softmax(ops.matmul(pooled, head.kernel) + head.bias)
        before = ops.log_softmax(ops.cast(teacher(pictures, training=False), "float32"))
        kept = ops.mean(ops.sum(ops.exp(before) * (before - named), axis=-1))
        said = caption_loss(behind, head, store, features, rows, told, mirrored, training=True)
        ids = ops.reshape(ops.cast(ops.take(store["ids"], rows, axis=0), "int32"), (-1, store["ids"].shape[-1]))
        embedded = as_text({"tokens": ops.where(ids == END, PAD, ids)[:, :-1]}, training=True)
        sided = ops.logical_and(ops.take(store["sided"], rows, axis=0), mirrored[:, None])
        scale = ops.exp(ops.minimum(ops.convert_to_tensor(log_scale), np.log(100.0)))
        found = search_loss(as_image({"image": features}, training=True), embedded, scale, ops.where(sided, 0.0, 1.0))
        target = ops.take(store["vectors"], rows, axis=0)  # (batch, 5, WIDTH)
        target = ops.normalize(ops.reshape(ops.cast(target, "float32"), (-1, target.shape[-1])))
        meant = 1 - ops.mean(ops.sum(ops.normalize(alike(embedded)) * target, axis=-1))
        figures = {"said": said, "found": found, "kept": kept, "meant": meant}
        return said + args.search * found + args.keep * kept + meant, figures

    parts = [encoder, behind, as_image, as_text, alike, searcher.get_layer("contrastive")]
    variables = list({id(v): v for part in parts for v in part.trainable_variables}.values())
    own = {id(v) for v in encoder.trainable_variables}
    warm = {id(v) for v in behind.trainable_variables}
    paces = [args.pace if id(v) in own else 0.3 if id(v) in warm else 1.0 for v in variables]
    store = {
        "pictures": jax.device_put(packed.pictures[train]),
        "ids": texts["train_ids"], "sided": texts["train_sided"].astype(bool),
        "vectors": texts["captions"].reshape(len(texts["train_ids"]), 5, -1),
        **{name: texts[name] for name in ("text_ids", "text_words", "text_chances")},
    }  # fmt: skip
    store = jax.device_put(store)
    batches = rows_in_turn(len(texts["train_ids"]), args.batch, args.batch, len(texts["text_ids"]))

    def encode(pictures: np.ndarray, key: Any = None) -> np.ndarray:
        return encoded(encoder, pictures, key)

    validation, ids = packed.places["validation"], texts["validation_ids"].astype("int32")

    def judge() -> float:
        features = encode(packed.pictures[validation])
        images = np.concatenate([as_image({"image": features[i : i + 250]}) for i in range(0, len(features), 250)])
        flat = ids.reshape(-1, ids.shape[-1])
        tokens = np.where(flat == END, PAD, flat)[:, :-1]
        embedded = np.concatenate([as_text({"tokens": tokens[i : i + 500]}) for i in range(0, len(tokens), 500)])
        recalls = recall(np.asarray(images), np.asarray(embedded))
        losses = np.mean([float(caption_loss_of(behind, head, features[i : i + 50], ids[i : i + 50]))
                          for i in range(0, len(features), 50)])  # fmt: skip
        say("tune", f"validation: word loss {losses:.4f}, recall 1 {recalls[0]:.3f} / {recalls[1]:.3f}")
        return sum(recalls) - losses

    if args.seconds:
        trained(loss, variables, store, batches, seconds=args.seconds, rate=1e-3, paces=paces, decay=1e-3, ema=0.998,
                modules=[*parts, teacher, head], judge=judge, judged=args.judged, most=args.most, name="tune")  # fmt: skip
        keep(args.out / "encoder.npz", encoder)
        keep(args.out / "tuned_captioner.npz", behind)
        keep(args.out / "retriever.npz", searcher.behind_encoder())
    args.features.mkdir(parents=True, exist_ok=True)
    for view in range(args.views):  # the first is each picture as it is
        key = jax.random.key(view) if view else None
        made, mirrored = encoded(encoder, packed.pictures[train], key, whole=True)
        np.save(args.features / f"train-{view}.npy", made)
        np.save(args.features / f"mirrored-{view}.npy", mirrored)
    for split in ("validation", "coco"):
        np.save(args.features / f"{split}.npy", encode(packed.pictures[packed.places[split]]))
    hard_negatives(args, as_image, as_text, texts)
    say("tune", "features are kept")


def encoded(encoder: Any, pictures: np.ndarray, key: Any = None, whole: bool = False) -> Any:
    """Return features as float16, of pictures as they are or (with a key) seen anew; `whole`: and which are mirrored."""
    import jax

    fixed = [one.value for one in encoder.variables]
    run, outputs, flags = _encoding(encoder), [], []
    for at in range(0, len(pictures), 250):
        part = np.resize(pictures[at : at + 250], (250, *pictures.shape[1:]))
        own = jax.random.key(0) if key is None else jax.random.fold_in(key, at)
        features, mirrored = run(fixed, part, own, key is not None)
        outputs.append(np.asarray(features)[: len(pictures) - at])
        flags.append(np.asarray(mirrored)[: len(pictures) - at])
    return (np.concatenate(outputs), np.concatenate(flags)) if whole else np.concatenate(outputs)


@functools.lru_cache(maxsize=1)
def _encoding(encoder: Any) -> Callable:
    import jax

    @functools.partial(jax.jit, static_argnums=3)
    def run(fixed: list, pictures: Any, key: Any, anew: bool) -> tuple:
        x, mirrored = ops.cast(pictures, "float32"), jax.numpy.zeros((pictures.shape[0],), bool)
        if anew:
            x, mirrored = seen_anew(x, key, least=0.65, colours=0.1)
        with keras.StatelessScope(state_mapping=zip(encoder.variables, fixed, strict=True)):
            return ops.cast(encoder(x, training=False), "float16"), mirrored

    return run


def caption_loss_of(behind: Any, concepts: Any, features: np.ndarray, ids: np.ndarray) -> Any:
    """Return the loss of words on all captions of pictures, without dropout."""
    store = {"ids": ids, "sided": np.zeros(ids.shape[:2], bool)}
    rows, plain = np.arange(len(ids)), np.zeros(len(ids), bool)
    return compiled_loss(behind, concepts)([one.value for one in behind.variables], store, features.astype("float32"), rows, plain)


@functools.lru_cache(maxsize=1)
def compiled_loss(behind: Any, concepts: Any) -> Callable:
    """Return the compiled loss of a captioner without dropout."""
    import jax

    @jax.jit
    def run(fixed: list, store: dict, features: Any, rows: Any, plain: Any) -> Any:
        with keras.StatelessScope(state_mapping=zip(behind.variables, fixed, strict=True)):
            return caption_loss(behind, concepts, store, features, rows, None, plain, training=False)

    return run


def recall(images: np.ndarray, texts: np.ndarray) -> tuple[float, float]:
    """Return how often the nearest text belongs to the picture, and the nearest picture to the text (five each)."""
    likeness = images @ texts.T
    return float(np.mean(likeness.argmax(1) // 5 == np.arange(len(images)))), float(
        np.mean(likeness.argmax(0) == np.arange(len(texts)) // 5)
    )


def hard_negatives(args: argparse.Namespace, as_image: Any, as_text: Any, texts: dict) -> None:
    """Keep, for the matcher, the nearest wrong pictures of each training caption and wrong captions of each picture."""
    features, ids = np.load(args.features / "train-0.npy"), texts["train_ids"].astype("int32")
    images = np.concatenate([as_image({"image": features[i : i + 250]}) for i in range(0, len(features), 250)])
    flat = ids.reshape(-1, ids.shape[-1])
    tokens = np.where(flat == END, PAD, flat)[:, :-1]
    embedded = np.concatenate([as_text({"tokens": tokens[i : i + 500]}) for i in range(0, len(tokens), 500)])
    likeness = np.asarray(images) @ np.asarray(embedded).T  # (pictures, captions)
    own = np.arange(len(flat))[None] // 5 == np.arange(len(images))[:, None]
    likeness[own] = -2.0
    wrong_pictures = np.argpartition(-likeness, 30, axis=0)[:30].T  # (captions, 30)
    wrong_texts = np.argpartition(-likeness, 60, axis=1)[:, :60]  # (pictures, 60)
    np.savez(args.features / "hard.npz", pictures=wrong_pictures.astype("int32"), texts=wrong_texts.astype("int32"))


def keep(path: Path, model: Any) -> None:
    """Store the variables of a model in their order, as float16 where they are matrices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = [np.asarray(one.value) for one in model.variables if "seed_generator" not in one.path]
    small = [value.astype("float16") if value.ndim > 1 else value for value in values]
    with path.open("wb") as file:
        np.savez_compressed(file, **{f"{i:04d}": value for i, value in enumerate(small)})
    say("keep", f"{path.name}, {path.stat().st_size / 1e6:.1f} MB")


def give(path: Path, model: Any) -> None:
    """Set the variables of a model to what `keep` stored."""
    variables = [one for one in model.variables if "seed_generator" not in one.path]
    with np.load(path) as stored:
        for variable, name in zip(variables, sorted(stored), strict=True):
            variable.assign(stored[name].astype("float32"))


# --- the models behind it


def behind(args: argparse.Namespace, name: str, words: list, **options: Any) -> Any:
    """Build a model of the zoo with the tuned encoder."""
    model = zoo.build(name, weights="encoders", vocabulary=words, dtype=args.dtype, **ENCODER, **BEHIND, **options)
    if (args.out / "encoder.npz").exists():
        give(args.out / "encoder.npz", model.get_layer("image_encoder"))
    model.freeze("image")
    return model


def view_store(args: argparse.Namespace, texts: dict) -> dict:
    """Return the features of all views, and the captions, on the GPU."""
    import jax

    views = [jax.device_put(np.load(args.features / f"train-{view}.npy")) for view in range(args.views)]
    mirrored = np.stack([np.load(args.features / f"mirrored-{view}.npy") for view in range(args.views)])
    store = {
        "views": jax.numpy.stack(views), "mirrored": jax.device_put(mirrored),
        "ids": texts["train_ids"], "sided": texts["train_sided"].astype(bool),
        **{name: texts[name] for name in ("text_ids", "text_words", "text_chances")},
    }  # fmt: skip
    return jax.device_put(store)


def a_view(store: dict, rows: Any, key: Any) -> tuple[Any, Any]:
    """Return features of the pictures, each in a view drawn at random, and which are mirrored."""
    import jax

    view = jax.random.randint(key, rows.shape, 0, store["views"].shape[0])
    return ops.cast(store["views"][view, rows], "float32"), store["mirrored"][view, rows]


def captioner(args: argparse.Namespace) -> None:
    """Train a captioner behind the tuned encoder: on words, with sentences beside, then on the reward."""
    texts, label = read(args.folder, pictures=False).texts, f"{args.name}_captioner"
    model = behind(args, label, texts["vocabulary"].tolist(), depth=2, concepts=5, dropout=0.2)
    head, concepts = model.behind_encoder(told=True), model.get_layer("concepts")
    if args.start:
        give(args.out / args.start, head)
    else:
        words = model.get_layer("words").embeddings
        words.assign(words * (BEHIND["dim"] ** -0.5 / 0.02))
    store, count = view_store(args, texts), len(texts["train_ids"])
    judge = judge_of(args, model, texts)
    say(label, f"began at {judge():.4f}")

    def on_words(store: dict, batch: tuple, key: Any) -> tuple:
        rows, told = batch
        features, mirrored = a_view(store, rows, key)
        loss = caption_loss(head, concepts, store, features, rows, told, mirrored, training=True)
        return loss, {"words": loss}

    if args.seconds:
        batches = rows_in_turn(count, BATCH, args.sentences, len(texts["text_ids"]))
        trained(on_words, head.trainable_variables, store, batches, seconds=args.seconds, rate=args.rate, modules=[head, concepts],
                judge=judge, name=label, most=args.most)  # fmt: skip
        keep(args.out / f"{label}.npz", head)
    references = texts["train_ids"].astype("int32")[:, :, 1:]
    reward = by_cider(references, np.arange(count), rarity(references))
    by_reward = rewarded(model.behind_encoder(), reward, samples=SAMPLES, weight_of_words=0.2)

    def on_reward(store: dict, batch: tuple, key: Any) -> tuple:
        import jax

        rows, _ = batch
        features, mirrored = a_view(store, rows, key)
        ids = ops.cast(ops.take(store["ids"], rows, axis=0), "int32")
        chosen = jax.random.randint(jax.random.fold_in(key, 1), rows.shape, 0, 5)
        ids = ids[jax.numpy.arange(len(rows)), chosen]
        x = {"image": features, "tokens": ids[:, :-1], "row": ops.cast(rows, "int32")[:, None]}
        logits = by_reward(x, training=True)
        weight = ops.cast(ids[:, 1:] != UNK, "float32")
        loss = by_reward.compute_loss(x, ids[:, 1:], logits, weight, training=True)
        return loss, {"loss": loss, "reward": by_reward.mean_reward.total / by_reward.mean_reward.count}

    if args.reward:
        places = flickr_alone(texts)
        batches = ((places[rows], told) for rows, told in rows_in_turn(len(places), BATCH))
        best = trained(on_reward, head.trainable_variables, store, batches, seconds=args.reward, rate=args.reward_rate,
                       modules=[by_reward, concepts], decay=0.0, ema=0.98, judge=judge, name=label, most=args.most)  # fmt: skip
        say(label, f"best {best:.4f}")
        keep(args.out / f"{label}.npz", head)


def flickr_alone(texts: dict) -> np.ndarray:
    """Return the numbers of training pictures with several captions; those with one are soon learned by heart."""
    return np.flatnonzero(texts["train_count"] > 1)


def judge_of(args: argparse.Namespace, model: Any, texts: dict) -> Callable[[], float]:
    """Return a function that measures CIDEr-D of greedy captions of the validation split."""
    import jax

    features = np.load(args.features / "validation.npy")
    references = texts["validation_ids"].astype("int32")[:, :, 1:]
    references = np.where(references == END, PAD, references)
    table = rarity(references)
    reader = rewarded(model.behind_encoder(), lambda rows, ids: None, samples=2)

    @jax.jit
    def greedy(fixed: list, features: Any) -> Any:
        with keras.StatelessScope(state_mapping=zip(reader.variables, fixed, strict=True)):
            return reader.sample(ops.cast(features, "float32"), 1, BEHIND["max_length"])

    def judge() -> float:
        fixed, scores = [one.value for one in reader.variables], []
        for at in range(0, len(features), 250):
            ids = np.asarray(greedy(fixed, np.resize(features[at : at + 250], (250, *features.shape[1:]))))
            rows = len(features[at : at + 250])
            ids = np.where(ids == END, PAD, ids)[:rows]
            scores.append(np.asarray(cider(ops.convert_to_tensor(ids), references[at : at + rows], table)))
        return float(np.mean(np.concatenate(scores))) / 10

    return judge


def vqa(args: argparse.Namespace) -> None:
    """Train a model that answers `flickr8k_qa`."""
    texts, label = read(args.folder, pictures=False).texts, f"{args.name}_vqa"
    model = behind(args, label, texts["vocabulary"].tolist(), depth=2, text_depth=1, concepts=5, dropout=0.3,
                   classes=texts["answers"].tolist())  # fmt: skip
    head, concepts, store = model.behind_encoder(told=True), model.get_layer("concepts"), view_store(args, texts)
    asked, answers = (texts[f"train_{one}"].astype("int32") for one in ("questions", "answers"))
    of = texts["train_asked_of"]

    def loss(store: dict, batch: tuple, key: Any) -> tuple:
        rows, tokens, labels = batch
        features, _ = a_view(store, rows, key)
        logits = head({"image": features, "seen": concepts(features), "tokens": tokens}, training=True)
        loss = ops.mean(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))
        return loss, {"loss": loss}

    def judge() -> float:
        features = np.load(args.features / "validation.npy")
        start = len(texts["train_ids"])
        tokens, right = texts["validation_questions"].astype("int32"), texts["validation_answers"]
        seen = features[texts["validation_asked_of"] - start].astype("float32")
        outputs = [head.predict_on_batch({"image": seen[i : i + 256], "tokens": tokens[i : i + 256], "seen":
                   np.asarray(concepts(seen[i : i + 256]))}) for i in range(0, len(seen), 256)]  # fmt: skip
        return float(np.mean(np.concatenate(outputs).argmax(-1) == right))

    batches = ((of[rows], asked[rows], answers[rows]) for rows, _ in rows_in_turn(len(of), 256))
    trained(loss, head.trainable_variables, store, batches, seconds=args.seconds, rate=args.rate, modules=[head, concepts],
            judge=judge, decay=1e-2, name=label, most=args.most)  # fmt: skip
    keep(args.out / f"{label}.npz", head)


def matcher(args: argparse.Namespace) -> None:
    """Train a matcher on pairs that the retriever takes for right."""
    texts, label = read(args.folder, pictures=False).texts, f"{args.name}_matcher"
    model = behind(args, label, texts["vocabulary"].tolist(), depth=2, text_depth=2, concepts=5, dropout=0.25)
    if args.start:
        own = {one.name: one for one in model.layers}
        source = behind(args, "retriever", texts["vocabulary"].tolist(), text_depth=2)
        give(args.out / args.start, source.behind_encoder())
        for part in ("vision", "text_encoder"):
            own[part].set_weights(source.get_layer(part).get_weights())
    head, concepts, store = model.behind_encoder(told=True), model.get_layer("concepts"), view_store(args, texts)
    ids = texts["train_ids"].astype("int32").reshape(-1, texts["train_ids"].shape[-1])
    tokens_of = np.where(ids == END, PAD, ids)[:, :-1]
    with np.load(args.features / "hard.npz") as hard:
        wrong_pictures, wrong_texts = hard["pictures"], hard["texts"]
    wrong = 3

    def groups() -> Iterator[tuple]:  # each right pair beside wrong ones: (groups, 1 + wrong) pictures and texts
        random = np.random.default_rng(0)
        for rows, _ in rows_in_turn(len(ids), 96):
            half = len(rows) // 2
            pictures, sentences = np.repeat(rows[:, None] // 5, 1 + wrong, 1), np.repeat(rows[:, None], 1 + wrong, 1)
            for place in range(1, 1 + wrong):
                chosen = random.integers(0, 30, half)
                pictures[:half, place] = wrong_pictures[rows[:half], chosen]
                sentences[half:, place] = wrong_texts[rows[half:] // 5, random.integers(0, 60, len(rows) - half)]
            yield pictures.ravel(), tokens_of[sentences.ravel()]

    def loss(store: dict, batch: tuple, key: Any) -> tuple:
        rows, tokens = batch
        features, _ = a_view(store, rows, key)
        logits = head({"image": features, "seen": concepts(features), "tokens": tokens}, training=True)
        logits = ops.reshape(logits, (-1, 1 + wrong))
        best = -ops.mean(ops.log_softmax(logits, axis=-1)[:, 0])
        each = ops.mean(ops.softplus(-logits[:, 0])) + ops.mean(ops.softplus(logits[:, 1:]))
        right = ops.mean(ops.cast(ops.argmax(logits, axis=-1) == 0, "float32"))
        return best + 0.5 * each, {"best": best, "each": each, "right": right}

    trained(loss, head.trainable_variables, store, groups(), seconds=args.seconds, rate=args.rate, modules=[head, concepts],
            decay=1e-2, name=label, most=args.most)  # fmt: skip
    keep(args.out / f"{label}.npz", head)


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["tune", "captioner", "vqa", "matcher"])
    parser.add_argument("name", nargs="?", default="cross_attn", help="the fusion")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, default=FOLDER / "out")
    parser.add_argument("--features", type=Path, default=FOLDER / "features")
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--reward", type=float, default=0.0, help="seconds of training on the reward")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--reward-rate", type=float, default=2e-4)
    parser.add_argument("--sentences", type=int, default=320, help="beside the captions of a batch")
    parser.add_argument("--start", help="weights to start from")
    parser.add_argument("--views", type=int, default=VIEWS)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--pace", type=float, default=0.1, help="of the encoder")
    parser.add_argument("--search", type=float, default=0.5)
    parser.add_argument("--keep", type=float, default=1.0)
    parser.add_argument("--judged", type=int, default=6)
    parser.add_argument("--most", type=int, help="steps, in place of seconds")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    {"tune": tune, "captioner": captioner, "vqa": vqa, "matcher": matcher}[args.stage](args)


if __name__ == "__main__":
    main()
