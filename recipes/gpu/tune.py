"""Train EfficientNet-Lite2 further with captioned photographs, by captions and by search, on a GPU.

    vtx convert efficientnet_lite2 && vtx convert minilm_l6       # here, once
    python -m recipes.gpu.pack                                    # here
    KERAS_BACKEND=jax python -m recipes.gpu.tune                  # there: the encoder, a captioner and a retriever
    KERAS_BACKEND=jax python -m recipes.gpu.behind all            # there: the models behind the encoder
    python -m zoo.encoders.efficientnet_lite2_photos.recipe       # here: the encoder's release

The encoder learns with the released photograph captioner and a new retriever at once. Each picture is seen anew each
time: a part of it, mirrored or not, in other light. What the encoder names by ImageNet's head, which stays as it is,
is held to what the published one names. Norms keep their statistics.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from recipes.gpu.loop import BEHIND, CAPTIONS, ENCODER, arguments, begun, in_turn, inner, keep, read, say, trained
from vtx_keras import zoo
from vtx_keras.checkpoints.published import _encoders as published
from vtx_keras.inputs.text import END, PAD, UNK
from vtx_keras.models._base import cut
from vtx_keras.models.encoders import features_of

CHUNK = 250  # pictures that are encoded at a time
MOST_ALIKE = 30  # wrong pictures of a caption, and twice as many captions of a picture, that the matcher learns from


def main() -> None:
    """Tune the encoder, and keep the features of all pictures."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of what is new")
    parser.add_argument("--pace", type=float, default=0.1, help="the encoder's share of it")
    parser.add_argument("--search", type=float, default=0.5, help="weight of the contrastive loss")
    parser.add_argument("--held", type=float, default=1.0, help="weight of the difference to the published encoder")
    tune(begun(parser))


def tune(args: argparse.Namespace) -> None:
    """Train the encoder with a captioner and a retriever; keep all three, and features."""
    import jax

    pictures, places, texts = read(args.folder)
    say("tune", f"{len(pictures)} pictures on {jax.devices()[0].device_kind}")
    captioner = zoo.build("cross_attn_captioner", weights="photos", dropout=0.2)
    searcher = retriever(texts)
    teacher = published.load(ENCODER["image_encoder"], head=True, image_shape=ENCODER["image_shape"])
    encoder, head = captioner.get_layer("image_encoder"), captioner.get_layer("concepts")
    encoder.set_weights(features_of(teacher).get_weights())  # the captioner may have been released with another
    for layer in inner(encoder):
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    behind, as_image, as_text = captioner.behind_encoder(told=True), *towers(searcher)
    alike = keras.layers.Dense(texts["captions"].shape[1], name="alike")  # from a text's embedding to MiniLM's
    alike.build((None, BEHIND["dim"]))
    pairing = searcher.get_layer("contrastive")

    def loss(store: dict, batch: tuple, key: Any) -> tuple:
        rows, told = batch
        seen, mirrored = seen_anew(ops.take(store["pictures"], rows, axis=0), key)
        features = encoder(seen, training=True)  # (batch, 7, 7, width)
        said = caption_loss(behind, head, store, features, rows, told, mirrored, training=True)
        embedded = as_text({"tokens": tokens_of(ops.take(store["ids"], rows, axis=0))}, training=True)
        scale = ops.exp(ops.minimum(ops.convert_to_tensor(pairing.log_scale), np.log(100.0)))
        right = ops.cast(~untrue(store, rows, mirrored), "float32")  # (batch, CAPTIONS)
        found = search_loss(as_image({"image": features}, training=True), embedded, scale, right)
        named = ops.log_softmax(ops.matmul(ops.mean(features, axis=(1, 2)), head.kernel) + head.bias)
        before = ops.log_softmax(teacher(seen, training=False))
        held = ops.mean(ops.sum(ops.exp(before) * (before - named), axis=-1))
        target = ops.normalize(ops.cast(ops.take(store["vectors"], rows, axis=0), "float32"))
        target = ops.reshape(target, (-1, target.shape[-1]))
        meant = 1 - ops.mean(ops.sum(ops.normalize(alike(embedded)) * target, axis=-1))
        figures = {"said": said, "found": found, "held": held, "meant": meant}
        return said + args.search * found + args.held * held + meant, figures

    parts = [encoder, behind, as_image, as_text, alike, pairing]
    variables = list({id(one): one for part in parts for one in part.trainable_variables}.values())
    slow = dict.fromkeys(map(id, behind.trainable_variables), 0.3)
    slow |= dict.fromkeys(map(id, encoder.trainable_variables), args.pace)
    store = jax.device_put(
        {
            "pictures": pictures[places["train"]],
            "vectors": texts["captions"].reshape(-1, CAPTIONS, texts["captions"].shape[1]),
            **texts_of(texts),
        }
    )
    judge = judge_of(encoder, behind, head, as_image, as_text, pictures[places["validation"]], texts)
    judgements = trained(
        loss, variables, [*parts, teacher, head], store,
        in_turn(len(texts["train_ids"]), args.batch, args.batch, len(texts["text_ids"])),
        seconds=args.seconds, rate=args.rate, paces=[slow.get(id(one), 1.0) for one in variables], decay=1e-3,
        ema=0.998, judge=judge, judged=args.judged, most=args.most, name="tune",
    )  # fmt: skip
    told = {"seconds": args.seconds, "pictures": len(texts["train_ids"]), "batch": args.batch, "judged": judgements}
    keep(args.out / "encoder.npz", encoder, **told)
    keep(args.out / "tuned_captioner.npz", behind)
    keep(args.out / "retriever.npz", searcher.behind_encoder())
    keep_features(args, encoder, pictures, places)
    hard_negatives(args, as_image, as_text, texts)
    say("tune", f"features are kept in {args.features}")


def retriever(texts: dict) -> Any:
    """Return the new retriever, whose words begin as MiniLM's vectors."""
    words = texts["vocabulary"].tolist()
    model = zoo.build("retriever", weights="encoders", vocabulary=words, text_depth=2, dropout=0.2, **ENCODER, **BEHIND)
    table = next(layer for layer in model.get_layer("text_encoder").layers if layer.name == "words")
    table.embeddings.assign(texts["words"].astype("float32"))
    return model


def towers(searcher: Any) -> tuple[Any, Any]:
    """Return a retriever's halves: from features, and from tokens, to embeddings."""
    features = {"image": searcher.get_layer("vision").input}
    tokens = {"tokens": searcher.input["tokens"]}
    return (
        cut(searcher, features, searcher.get_layer("image_embedding").output, name="as_image"),
        cut(searcher, tokens, searcher.get_layer("text_embedding").output, name="as_text"),
    )


def texts_of(texts: dict) -> dict:
    """Return what captioners read of the texts: captions, and sentences with the concepts that are told of them."""
    sentences = {name: texts[name] for name in ("text_ids", "text_words", "text_chances")}
    return {"ids": texts["train_ids"], "sided": texts["train_sided"].astype(bool), **sentences}


# --- what is learned


def seen_anew(pictures: Any, key: Any, least: float = 0.5, colours: float = 0.2) -> tuple[Any, Any]:
    """Return parts of pictures (batch, side, side, 3), half of them mirrored, in other light; and which are mirrored.

    A part has at least the share `least` of the area; light, contrast and colours change by the share `colours`.
    """
    import jax

    n, side = pictures.shape[:2]
    draw = [jax.random.uniform(own, (n,)) for own in jax.random.split(key, 8)]
    area, aspect = least + (1 - least) * draw[0], ops.exp(0.5 * draw[1] - 0.25)
    height, width = ops.minimum(1.0, ops.sqrt(area * aspect)), ops.minimum(1.0, ops.sqrt(area / aspect))
    places, mirrored = ops.arange(side, dtype="float32"), draw[2] < 0.5

    def weights(share: Any, offset: Any) -> Any:  # (batch, side, side): of the two neighbours of each place
        at = (places[None] + 0.5) * share[:, None] + side * ((1 - share) * offset)[:, None] - 0.5
        return ops.relu(1 - ops.abs(ops.clip(at, 0.0, side - 1.0)[:, :, None] - places))

    rows, columns = weights(height, draw[3]), weights(width, draw[4])
    columns = ops.where(mirrored[:, None, None], columns[:, ::-1], columns)
    x = ops.einsum("boh,bhwc->bowc", rows, ops.cast(pictures, "float32"))
    x = ops.einsum("bpw,bowc->bopc", columns, x)
    bright, contrast, vivid = (ops.reshape(1 + colours * (2 * one - 1), (n, 1, 1, 1)) for one in draw[5:8])
    grey, mean = ops.mean(x, axis=-1, keepdims=True), ops.mean(x, axis=(1, 2, 3), keepdims=True)
    x = grey + (x - grey) * vivid
    return ops.clip(((x - mean) * contrast + mean) * bright, 0.0, 255.0), mirrored


def untrue(store: dict, rows: Any, mirrored: Any) -> Any:
    """Return which captions (batch, CAPTIONS) name a side of a picture that is mirrored."""
    return ops.logical_and(ops.take(store["sided"], rows, axis=0), mirrored[:, None])


def tokens_of(ids: Any) -> Any:
    """Return captions (..., length) as a retriever reads them, (rows, length - 1): without END."""
    ids = ops.reshape(ops.cast(ids, "int32"), (-1, ids.shape[-1]))
    return ops.where(ids == END, PAD, ids)[:, :-1]


def caption_loss(
    model: Any, head: Any, store: dict, features: Any, rows: Any, told: Any, mirrored: Any, training: bool
) -> Any:
    """Return the word loss of all captions of these pictures and (unless `told` is None) of sentences without any.

    `model` is a captioner behind its encoder that is told the concepts, `head` what sees them.
    """
    ids = ops.cast(ops.take(store["ids"], rows, axis=0), "int32")  # (batch, CAPTIONS, length)
    weight = ops.reshape(ops.where(untrue(store, rows, mirrored), 0.0, 1.0), (-1,))
    ids = ops.reshape(ids, (-1, ids.shape[-1]))
    seen, features = ops.repeat(head(features), CAPTIONS, axis=0), ops.repeat(features, CAPTIONS, axis=0)
    if told is not None:
        pairs = [ops.cast(ops.take(store[name], told, axis=0), "float32") for name in ("text_words", "text_chances")]
        no_picture = ops.pad(ops.stack(pairs, axis=-1), [[0, 0], [1, 0], [0, 0]])  # (told, 1 + concepts, 2)
        ids = ops.concatenate([ids, ops.cast(ops.take(store["text_ids"], told, axis=0), "int32")])
        features = ops.concatenate([features, ops.zeros((len(told), *features.shape[1:]), features.dtype)])
        seen = ops.concatenate([seen, no_picture])
        weight = ops.concatenate([weight, ops.full((len(told),), 0.5)])
    logits = model({"image": features, "seen": seen, "tokens": ids[:, :-1]}, training=training)
    labels = ids[:, 1:]
    words = ops.cast(ops.logical_and(labels != PAD, labels != UNK), "float32") * weight[:, None]
    losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.sum(losses * words) / ops.maximum(ops.sum(words), 1.0)


def search_loss(images: Any, texts: Any, scale: Any, right: Any) -> Any:
    """Return the contrastive loss of images (batch, dim) and their texts (batch · CAPTIONS, dim), where `right`."""
    logits = ops.matmul(texts, ops.transpose(images)) * scale  # (batch · CAPTIONS, batch)
    own = ops.cast(ops.arange(logits.shape[0])[:, None] // CAPTIONS == ops.arange(images.shape[0]), "float32")
    own = own * ops.reshape(right, (-1, 1))
    return -0.5 * sum(ops.sum(own * ops.log_softmax(logits, axis=axis)) for axis in (0, 1)) / ops.sum(own)


# --- what it is judged by, and what is kept


def judge_of(
    encoder: Any, behind: Any, head: Any, as_image: Any, as_text: Any, pictures: np.ndarray, texts: dict
) -> Callable[[], dict[str, float]]:
    """Return a function that judges by validation: recall 1 both ways, which rises for longer than words gain."""
    import jax

    ids = texts["validation_ids"].astype("int32")
    modules = [encoder, behind, head, as_image, as_text]
    variables = list({id(one): one for module in modules for one in module.variables}.values())

    @jax.jit
    def outputs(values: list, pictures: Any, ids: Any) -> tuple:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            features = encoder(ops.cast(pictures, "float32"), training=False)
            rows, store = ops.arange(len(ids)), {"ids": ids, "sided": ops.zeros(ids.shape[:2], "bool")}
            said = caption_loss(behind, head, store, features, rows, None, rows < 0, training=False)
            return as_image({"image": features}), as_text({"tokens": tokens_of(ids)}), said

    def judge() -> dict[str, float]:
        values, size = [one.value for one in variables], min(100, len(ids))
        parts = [outputs(values, pictures[at : at + size], ids[at : at + size]) for at in range(0, len(ids), size)]
        images, captions = (np.concatenate([np.asarray(part[which]) for part in parts]) for which in (0, 1))
        likeness = images @ captions.T
        by_image = float(np.mean(likeness.argmax(axis=1) // CAPTIONS == np.arange(len(images))))
        by_text = float(np.mean(likeness.argmax(axis=0) == np.arange(len(captions)) // CAPTIONS))
        words = float(np.mean([float(part[2]) for part in parts]))
        return {
            "score": by_image + by_text,
            "caption for picture": by_image,
            "picture for caption": by_text,
            "word loss": words,
        }

    return judge


def keep_features(args: argparse.Namespace, encoder: Any, pictures: np.ndarray, places: dict) -> None:
    """Keep the features of the training pictures in all views, the first as they are, and of the other splits."""
    import jax

    run, values = encoding(encoder), [one.value for one in encoder.variables]
    args.features.mkdir(parents=True, exist_ok=True)
    names = [(f"train-{view}", "train", view) for view in range(args.views)]
    for name, split, view in [*names, *((split, split, 0) for split in ("validation", "coco"))]:
        made, flags, own = [], [], pictures[places[split]]
        for at in range(0, len(own), CHUNK):
            chunk = np.resize(own[at : at + CHUNK], (min(CHUNK, len(own)), *own.shape[1:]))
            key = jax.random.fold_in(jax.random.key(view), at)
            features, mirrored = run(values, chunk, key, view > 0)
            made.append(np.asarray(features)[: len(own) - at])
            flags.append(np.asarray(mirrored)[: len(own) - at])
        np.save(args.features / f"{name}.npy", np.concatenate(made))
        np.save(args.features / f"{name}-mirrored.npy", np.concatenate(flags))


def encoding(encoder: Any) -> Callable:
    """Return the compiled encoder: of pictures as they are, or a little `anew`; float16, and which are mirrored."""
    import jax

    @functools.partial(jax.jit, static_argnums=3)
    def run(values: list, pictures: Any, key: Any, anew: bool) -> tuple:
        x, mirrored = ops.cast(pictures, "float32"), ops.zeros((pictures.shape[0],), "bool")
        if anew:
            x, mirrored = seen_anew(x, key, least=0.65, colours=0.1)
        with keras.StatelessScope(state_mapping=list(zip(encoder.variables, values, strict=True))):
            return ops.cast(encoder(x, training=False), "float16"), mirrored

    return run


def hard_negatives(args: argparse.Namespace, as_image: Any, as_text: Any, texts: dict) -> None:
    """Keep the nearest wrong pictures of each training caption, and the nearest wrong captions of each picture."""
    features, tokens = np.load(args.features / "train-0.npy"), np.asarray(tokens_of(texts["train_ids"]))
    images = np.concatenate([as_image({"image": part}) for part in np.array_split(features, len(features) // 200 + 1)])
    captions = np.concatenate([as_text({"tokens": part}) for part in np.array_split(tokens, len(tokens) // 500 + 1)])
    likeness = images @ captions.T  # (pictures, captions)
    likeness[np.arange(len(captions)) // CAPTIONS == np.arange(len(images))[:, None]] = -2.0
    most = min(MOST_ALIKE, len(images) - 1)
    pictures = np.argpartition(-likeness, most, axis=0)[:most].T
    wrong = np.argpartition(-likeness, 2 * most, axis=1)[:, : 2 * most]
    np.savez(args.features / "hard.npz", pictures=pictures.astype("int32"), texts=wrong.astype("int32"))


if __name__ == "__main__":
    main()
