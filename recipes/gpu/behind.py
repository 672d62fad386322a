"""Train the models of photographs behind the tuned encoder, from kept features, on a GPU: after `recipes.gpu.tune`.

    KERAS_BACKEND=jax python -m recipes.gpu.behind captioner gated --seconds 150 --reward 90
    KERAS_BACKEND=jax python -m recipes.gpu.behind all              # all of them, in processes beside each other

Each keeps its weights in `--out`, and what was judged on the way.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from recipes.gpu.loop import BEHIND, CAPTIONS, ENCODER, arguments, begun, give, in_turn, keep, read, say, trained
from recipes.gpu.tune import caption_loss, texts_of, tokens_of
from vtx_keras import zoo
from vtx_keras.inputs.text import END, PAD, UNK
from vtx_keras.models.rewards import by_cider, cider, rarity, rewarded

SAMPLES = 5  # captions of a picture that are compared
WRONG = 3  # pairs that do not fit, beside each that does
ALL = (
    "captioner cross_attn --start tuned_captioner.npz --rate 5e-4 --seconds 45 --reward 110",
    "captioner gated --seconds 100 --reward 70",
    "captioner concat_mlp --seconds 100 --reward 70",
    "captioner merged_attn --seconds 100 --reward 70",
    "vqa cross_attn --seconds 50",
    "matcher cross_attn --start retriever.npz --seconds 110",
)


def main() -> None:
    """Train one model, or all."""
    parser = arguments(__doc__ or "")
    parser.add_argument("what", choices=["captioner", "vqa", "matcher", "all"])
    parser.add_argument("fusion", nargs="?", default="cross_attn")
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--reward", type=float, default=0.0, help="seconds of training on the reward")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--reward-rate", type=float, default=2e-4)
    parser.add_argument("--sentences", type=int, default=320, help="beside the captions of a step")
    parser.add_argument("--start", help="a file of --out to start from")
    args = begun(parser)
    if args.what == "all":
        room = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # they share the GPU's memory
        commands = [[sys.executable, "-m", "recipes.gpu.behind", *line.split(), *sys.argv[2:]] for line in ALL]
        running = [subprocess.Popen(command, env=room) for command in commands]
        ended = [process.wait() for process in running]
        sys.exit(any(ended))
    {"captioner": captioner, "vqa": vqa, "matcher": matcher}[args.what](args)


def model_of(args: argparse.Namespace, name: str, texts: dict, **options: Any) -> Any:
    """Build a model of the zoo behind the tuned encoder."""
    words = texts["vocabulary"].tolist()
    model = zoo.build(name, weights="encoders", vocabulary=words, **ENCODER, **BEHIND, **options)
    give(args.out / "encoder.npz", model.get_layer("image_encoder"))
    model.freeze("image")
    return model


def store_of(args: argparse.Namespace, texts: dict) -> dict:
    """Put the features of all views, and the texts, on the GPU."""
    import jax

    views = [jax.device_put(np.load(args.features / f"train-{view}.npy")) for view in range(args.views)]
    mirrored = [np.load(args.features / f"train-{view}-mirrored.npy") for view in range(args.views)]
    return jax.device_put({"views": jax.numpy.stack(views), "mirrored": np.stack(mirrored), **texts_of(texts)})


def a_view(store: dict, rows: Any, key: Any, mirrored: bool = False) -> tuple[Any, Any]:
    """Return features of the pictures, each in a view drawn at random, and which are mirrored, if any may be."""
    import jax

    view = jax.random.randint(key, rows.shape, 0, len(store["views"]))
    if not mirrored:
        view = ops.where(store["mirrored"][view, rows], 0, view)
    return ops.cast(store["views"][view, rows], "float32"), store["mirrored"][view, rows]


# --- captions


def captioner(args: argparse.Namespace) -> None:
    """Train a captioner on words, with sentences beside, then on the reward."""
    texts, label = read(args.folder, pictures=False).texts, f"{args.fusion}_captioner"
    model = model_of(args, label, texts, depth=2, concepts=5, dropout=0.2)
    head, seen_by = model.behind_encoder(told=True), model.get_layer("concepts")
    if args.start:
        give(args.out / args.start, head)
    else:
        words = model.get_layer("words").embeddings
        words.assign(words * (BEHIND["dim"] ** -0.5 / 0.02))  # of length one: concepts, which share them, are too
    store, judge = store_of(args, texts), judge_of(args, model, texts)
    common = {"judge": judge, "judged": args.judged, "most": args.most, "name": label}
    say(label, f"begins at {judge()}")

    def on_words(store: dict, batch: tuple, key: Any) -> tuple:
        rows, told = batch
        features, mirrored = a_view(store, rows, key, mirrored=True)
        loss = caption_loss(head, seen_by, store, features, rows, told, mirrored, training=True)
        return loss, {"words": loss}

    told: dict[str, Any] = {"seconds": args.seconds + args.reward}
    if args.seconds:
        batches = in_turn(len(texts["train_ids"]), args.batch, args.sentences, len(texts["text_ids"]))
        told["words"] = trained(
            on_words, head.trainable_variables, [head, seen_by], store, batches, seconds=args.seconds, rate=args.rate,
            **common,
        )  # fmt: skip
        keep(args.out / f"{label}.npz", head, **told)
    if args.reward:
        several = np.flatnonzero(texts["train_count"] > 1)  # pictures with one caption are soon learned by heart
        batches = ((several[rows], none) for rows, none in in_turn(len(several), args.batch))
        learner = by_reward(model, texts)
        told["reward"] = trained(
            reward_loss(learner), head.trainable_variables, [learner], store, batches, seconds=args.reward,
            rate=args.reward_rate, decay=0.0, ema=0.98, **common,
        )  # fmt: skip
        keep(args.out / f"{label}.npz", head, **told)


def by_reward(model: Any, texts: dict) -> Any:
    """Return the captioner behind its encoder whose loss is that of sampled captions."""
    references = texts["train_ids"].astype("int32")[:, :, 1:]
    reward = by_cider(references, np.arange(len(references)), rarity(references))
    return rewarded(model.behind_encoder(), reward, samples=SAMPLES, weight_of_words=0.2)


def reward_loss(learner: Any) -> Callable:
    """Return the loss of `by_reward`."""

    def loss(store: dict, batch: tuple, key: Any) -> tuple:
        import jax

        rows = batch[0]
        features, _ = a_view(store, rows, key)
        chosen = jax.random.randint(jax.random.fold_in(key, 1), rows.shape, 0, CAPTIONS)
        ids = ops.cast(store["ids"][rows, chosen], "int32")  # (batch, length)
        x = {"image": features, "tokens": ids[:, :-1], "row": ops.cast(rows, "int32")[:, None]}
        known = ops.cast(ids[:, 1:] != UNK, "float32")
        loss = learner.compute_loss(x, ids[:, 1:], learner(x, training=True), known, training=True)
        return loss, {"loss": loss, "reward": learner.mean_reward.total / learner.mean_reward.count}

    return loss


def judge_of(args: argparse.Namespace, model: Any, texts: dict) -> Callable[[], dict[str, float]]:
    """Return a function that measures the CIDEr-D of greedy captions of the validation split."""
    import jax

    features = np.load(args.features / "validation.npy")
    references = texts["validation_ids"].astype("int32")[:, :, 1:]
    references = np.where(references == END, PAD, references)
    reader, table = rewarded(model.behind_encoder(), lambda rows, ids: None, samples=2), rarity(references)

    @jax.jit
    def greedy(values: list, features: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(reader.variables, values, strict=True))):
            return reader.sample(ops.cast(features, "float32"), 1, BEHIND["max_length"])

    def judge() -> dict[str, float]:
        values, scores, size = [one.value for one in reader.variables], [], min(250, len(features))
        for at in range(0, len(features), size):
            ids = np.asarray(greedy(values, features[at : at + size]))
            scores.append(cider(np.where(ids == END, PAD, ids), references[at : at + size], table))
        return {"score": float(np.mean(np.concatenate(scores))) / 10}

    return judge


# --- answers and matches


def vqa(args: argparse.Namespace) -> None:
    """Train a model that answers `flickr8k_qa`."""
    texts, label = read(args.folder, pictures=False).texts, f"{args.fusion}_vqa"
    names = texts["answers"].tolist()
    model = model_of(args, label, texts, depth=2, text_depth=1, concepts=5, dropout=0.3, classes=names)
    head, seen_by = model.behind_encoder(told=True), model.get_layer("concepts")
    asked, of, right = (texts[f"train_{one}"].astype("int32") for one in ("questions", "asked_of", "answers"))

    def loss(store: dict, batch: tuple, key: Any) -> tuple:
        rows, tokens, labels = batch
        features, _ = a_view(store, rows, key)
        logits = head({"image": features, "seen": seen_by(features), "tokens": tokens}, training=True)
        loss = ops.mean(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))
        return loss, {"loss": loss}

    def judge() -> dict[str, float]:
        features = np.load(args.features / "validation.npy")
        seen = features[texts["validation_asked_of"] - len(texts["train_ids"])].astype("float32")
        tokens = texts["validation_questions"].astype("int32")
        logits = model.behind_encoder().predict({"image": seen, "tokens": tokens}, batch_size=256, verbose=0)
        return {"score": float(np.mean(logits.argmax(axis=-1) == texts["validation_answers"]))}

    batches = ((of[rows], asked[rows], right[rows]) for rows, _ in in_turn(len(of), args.batch))
    told = trained(
        loss, head.trainable_variables, [head, seen_by], store_of(args, texts), batches, seconds=args.seconds,
        rate=args.rate, decay=1e-2, judge=judge, judged=args.judged, most=args.most, name=label,
    )  # fmt: skip
    keep(args.out / f"{label}.npz", head, seconds=args.seconds, judged=told)


def matcher(args: argparse.Namespace) -> None:
    """Train a matcher on pairs that the retriever takes for right; `--start` gives it the retriever's readers."""
    texts, label = read(args.folder, pictures=False).texts, f"{args.fusion}_matcher"
    model = model_of(args, label, texts, depth=2, text_depth=2, concepts=5, dropout=0.25)
    if args.start:
        searcher = model_of(args, "retriever", texts, text_depth=2)
        give(args.out / args.start, searcher.behind_encoder())
        for part in ("vision", "text_encoder"):
            model.get_layer(part).set_weights(searcher.get_layer(part).get_weights())
    head, seen_by = model.behind_encoder(told=True), model.get_layer("concepts")

    def loss(store: dict, batch: tuple, key: Any) -> tuple:
        rows, tokens = batch
        features, _ = a_view(store, rows, key)
        logits = head({"image": features, "seen": seen_by(features), "tokens": tokens}, training=True)
        logits = ops.reshape(logits, (-1, 1 + WRONG))  # the first of each group fits
        best = -ops.mean(ops.log_softmax(logits, axis=-1)[:, 0])
        each = ops.mean(ops.softplus(-logits[:, 0])) + ops.mean(ops.softplus(logits[:, 1:]))
        right = ops.mean(ops.cast(ops.argmax(logits, axis=-1) == 0, "float32"))
        return best + 0.5 * each, {"best": best, "each": each, "right": right}

    trained(
        loss, head.trainable_variables, [head, seen_by], store_of(args, texts), groups(args, texts),
        seconds=args.seconds, rate=args.rate, decay=1e-2, most=args.most, name=label,
    )  # fmt: skip
    keep(args.out / f"{label}.npz", head, seconds=args.seconds)


def groups(args: argparse.Namespace, texts: dict) -> Iterator[tuple]:
    """Yield numbers of pictures and tokens of texts: each pair that fits, then WRONG with another of either."""
    tokens, random = np.asarray(tokens_of(texts["train_ids"])), np.random.default_rng(0)
    with np.load(args.features / "hard.npz") as hard:
        wrong_pictures, wrong_texts = hard["pictures"], hard["texts"]
    for rows, _ in in_turn(len(tokens), args.batch):
        half = len(rows) // 2
        captions = np.repeat(rows[:, None], 1 + WRONG, axis=1)
        pictures = captions // CAPTIONS
        for place in range(1, 1 + WRONG):
            pictures[:half, place] = wrong_pictures[rows[:half], random.integers(0, wrong_pictures.shape[1], half)]
            others = random.integers(0, wrong_texts.shape[1], len(rows) - half)
            captions[half:, place] = wrong_texts[rows[half:] // CAPTIONS, others]
        yield pictures.ravel(), tokens[captions.ravel()]


if __name__ == "__main__":
    main()
