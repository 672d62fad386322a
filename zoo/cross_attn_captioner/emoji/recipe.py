"""Trains and releases `cross_attn_captioner/emoji`: pictures of emoji to their English names.

Noto and Twemoji pictures are learned; Fluent 3D pictures and some concepts are kept for judging. A MobileNetV2
trained on ImageNet reads the pictures and stays frozen, so its features are made once and the rest trains in minutes
on two cores.

    python zoo/cross_attn_captioner/emoji/recipe.py --cache DIR [--test]

needs npm. Without `--test` only validation splits are touched. It has splits of its own, older than those of
`data.load("emoji")`.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import json
import re
import shutil
import tarfile
import time
from pathlib import Path

import keras
import numpy as np
from PIL import Image, ImageEnhance

from vtx_keras import archives, data, media, weights, zoo
from vtx_keras import published as encoders
from vtx_keras.data import sets

HERE = Path(__file__).parent
SIDE = 129
COPIES = 4  # of each training picture: itself and augmented ones
VENDORS = {
    "noto": (sets.NOTO, r"package/img/google/64/([0-9a-f-]+)\.png"),
    "twemoji": (sets.TWEMOJI, r"package/img/twitter/64/([0-9a-f-]+)\.png"),
    "fluent": (sets.FLUENT, r"package/assets/([0-9a-f-]+)\.webp"),
}


def names(cache: Path) -> dict[str, str]:
    """Emoji (without variation selectors) to its English CLDR name."""
    found: dict[str, str] = {}
    for archive, folder in zip(sets.CLDR, ("annotations", "annotationsDerived"), strict=True):
        (found_there,) = archives.read(archives.fetch(archive, cache), f"package/{folder}/en/annotations.json")
        table = json.loads(found_there[1])[folder]["annotations"]
        found.update(
            {emoji.replace("\ufe0f", ""): row["tts"][0].lower() for emoji, row in table.items() if "tts" in row}
        )
    return found


def concept(name: str) -> str:
    """What a name is about: without skin tone, hair and gender; things that look alike share one concept."""
    base = name.split(":")[0]
    for word in ("thirty", "moon", "cat", "dog", "heart", "monkey"):
        if re.search(rf"\b{word}\b", base):
            return word
    words = re.sub(r"\b(man|woman|person|men|women|people|boy|girl|child|face|button)\b", " ", base).split()
    return " ".join(re.sub(r"s$", "", word) for word in words) or base


def fraction(key: str) -> float:
    """A number in [0, 1) that never changes for a key."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32


def split_of(vendor: str, concept_name: str) -> str:
    """Fluent 3D is never trained on; 16 % of the concepts are not either."""
    place = fraction(concept_name)
    if place >= 0.84:
        return "validation" if place < 0.92 else "test"
    if vendor == "fluent":
        return "vendor_validation" if fraction("vendor " + concept_name) < 0.5 else "vendor_test"
    return "train"


def examples(cache: Path) -> list[dict]:
    """Every picture with its name, vendor, concept and split.

    Flags are left out, for they can only be memorised, and so are clocks at the full hour, which look like the half
    hours of the training split.
    """
    called, rows = names(cache), {}
    for vendor, (package, pattern) in VENDORS.items():
        with tarfile.open(archives.fetch(package, cache)) as archive:
            for member in sorted(archive.getmembers(), key=lambda m: m.name):
                match = re.fullmatch(pattern, member.name)
                emoji = (
                    "".join(chr(int(code, 16)) for code in match[1].split("-")).replace("\ufe0f", "") if match else ""
                )
                name = called.get(emoji)
                if name is None or name.startswith("flag:") or "o’clock" in name or (vendor, emoji) in rows:
                    continue
                picture = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGBA")
                about = concept(name)
                rows[vendor, emoji] = {
                    "picture": picture,
                    "name": name,
                    "vendor": vendor,
                    "concept": about,
                    "split": split_of(vendor, about),
                }
    return list(rows.values())


def flat(picture: Image.Image) -> np.ndarray:
    """As every picture enters the zoo: on white, fitted to the model."""
    return media.resize(media.read(picture), (SIDE, SIDE))


def augmented(picture: Image.Image, random: np.random.Generator) -> np.ndarray:
    """Another size, place, angle, background and colouring; never mirrored, for arrows have a direction."""
    size = int(SIDE * random.uniform(0.65, 1.0))
    picture = picture.resize((size, size), Image.Resampling.BILINEAR).rotate(
        random.uniform(-12, 12), Image.Resampling.BILINEAR
    )
    shade = tuple(int(c) for c in random.integers(0, 256, 3)) if random.random() < 0.5 else (255, 255, 255)
    canvas = Image.new("RGBA", (SIDE, SIDE), (*shade, 255))
    canvas.alpha_composite(picture, tuple(int(at) for at in random.integers(0, SIDE - size + 1, 2)))
    canvas = canvas.convert("RGB")
    for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        canvas = enhance(canvas).enhance(random.uniform(0.7, 1.3))
    return np.asarray(canvas)


def features(model: keras.Model, pictures: np.ndarray) -> np.ndarray:
    """The frozen encoder's output for many pictures, float16."""
    return model.get_layer("image_encoder").predict(pictures, batch_size=64, verbose=0).astype("float16")


def decoder_of(model: keras.Model) -> keras.Model:
    """The model behind its encoder: the same layers, reading cached features."""
    cached = model.get_layer("vision").input
    return keras.Model({"image": cached, "tokens": model.input["tokens"]}, model.output)


class Cached(keras.utils.PyDataset):
    """Batches of cached features and names of like length, each epoch from another copy of every picture."""

    def __init__(self, copies: list[np.ndarray], tokens: np.ndarray, labels: np.ndarray, batch_size: int = 64):
        super().__init__()
        self.copies, self.tokens, self.labels, self.batch_size = copies, tokens, labels, batch_size
        self.lengths, self.random = (labels > 0).sum(axis=1), np.random.default_rng(0)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        by_length = np.argsort(self.lengths + self.random.uniform(0, 4, len(self.lengths)))
        self.batches = np.array_split(by_length, len(self))
        self.random.shuffle(self.batches)
        self.copy = self.random.integers(0, len(self.copies), len(self.tokens))

    def __len__(self) -> int:
        return len(self.tokens) // self.batch_size

    def __getitem__(self, index: int) -> tuple:
        rows = self.batches[index]
        length = min(-(-int(self.lengths[rows].max()) // 4) * 4, self.labels.shape[1])  # few lengths: few traces
        seen = np.stack([self.copies[copy][row] for copy, row in zip(self.copy[rows], rows, strict=True)])
        labels = self.labels[rows, :length]
        return (
            {"image": seen.astype("float32"), "tokens": self.tokens[rows, :length]},
            labels,
            (labels > 0).astype("float32"),
        )


def copies_of(model: keras.Model, rows: list[dict], cache: Path) -> list[np.ndarray]:
    """Features of the pictures and of their augmented copies, kept in the cache."""
    made, published = [], encoders.find("mobilenet_v2") / weights.WEIGHTS
    for copy in range(COPIES):
        path = cache / f"emoji-features-{SIDE}-{weights.file_hash(published)[:8]}-{copy}.npy"
        if not path.exists():
            print(f"features, copy {copy + 1} of {COPIES}", flush=True)
            random = np.random.default_rng(copy)
            pictures = [augmented(row["picture"], random) if copy else flat(row["picture"]) for row in rows]
            temporary = path.with_suffix(".part.npy")
            np.save(temporary, features(model, np.stack(pictures)))
            temporary.rename(path)
        made.append(np.load(path, mmap_mode="r"))
    return made


def train(model: keras.Model, rows: list[dict], cache: Path, epochs: int) -> None:
    """Fit fusion and decoder on cached features."""
    ids = data.arrays(model, np.zeros((len(rows), SIDE, SIDE, 3), "uint8"), [row["name"] for row in rows])
    batches = Cached(copies_of(model, rows, cache), ids.tokens, ids.labels)
    decoder = decoder_of(model)
    steps = epochs * len(batches)
    schedule = keras.optimizers.schedules.CosineDecay(1e-5, steps, warmup_target=1e-3, warmup_steps=steps // 20)
    decoder.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.02, global_clipnorm=1.0),
        loss=model.loss,
        weighted_metrics=["sparse_categorical_accuracy"],
    )
    decoder.fit(batches, epochs=epochs, verbose=2)


def nearest(model: keras.Model, train_rows: list[dict], rows: list[dict], cache: Path) -> list[str]:
    """The baseline: the name of the training picture whose mean feature is closest."""

    def means(maps: np.ndarray) -> np.ndarray:
        means = np.asarray(maps, "float32").mean(axis=(1, 2))
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    known = means(copies_of(model, train_rows, cache)[0])
    asked = means(features(model, np.stack([flat(row["picture"]) for row in rows])))
    return [train_rows[i]["name"] for i in (asked @ known.T).argmax(axis=1)]


def score(said: list[str], rows: list[dict]) -> dict:
    """Share of names said exactly, with a 95 % interval, and mean overlap of words (F1)."""
    from vtx_keras.text import normalize

    wanted = [normalize(row["name"]) for row in rows]
    said = [normalize(name) for name in said]
    exact = np.array([a == b for a, b in zip(said, wanted, strict=True)], float)
    overlap = []
    for a, b in zip(said, wanted, strict=True):
        a, b = (collections.Counter(re.findall(r"\w+", x)) for x in (a, b))
        overlap.append(2 * (a & b).total() / max(a.total() + b.total(), 1))
    draws = np.random.default_rng(0).choice(exact, (2000, len(exact))).mean(axis=1)
    interval = [round(float(q), 3) for q in np.quantile(draws, (0.025, 0.975))]
    return {
        "n": len(rows),
        "exact": round(float(exact.mean()), 3),
        "exact_95": interval,
        "word_f1": round(float(np.mean(overlap)), 3),
    }


def picture_examples(model: keras.Model, rows: list[dict], count: int = 8) -> list[dict]:
    """Every n-th picture of a held-out split, stored beside the weights with what is said: good and bad alike."""
    plain = [row for row in rows if "skin tone" not in row["name"] and "hair" not in row["name"]]
    chosen = plain[:: len(plain) // count][:count]
    found = []
    for row in chosen:
        name = re.sub(r"\W+", "-", row["name"]).strip("-") + ".png"
        white = Image.new("RGBA", row["picture"].size, "white")
        white.alpha_composite(row["picture"])
        white.convert("RGB").resize((128, 128), Image.Resampling.BILINEAR).save(HERE / name, optimize=True)
        found.append({"picture": name, "name": row["name"], "said": model.generate(HERE / name)[0]})
    return found


def card(results: dict) -> str:
    """The model's README, from its results."""
    told = {
        "vendor_validation": "unseen artist (Fluent 3D), concepts of train; used for tuning",
        "vendor_test": "unseen artist (Fluent 3D), concepts of train",
        "validation": "unseen concepts, three artists; used for tuning",
        "test": "unseen concepts, three artists",
    }
    lines = [
        "| split | n | exact name | 95 % interval | words (F1) | nearest neighbour: exact | words (F1) |",
        "|---" * 7 + "|",
    ]
    for split, row in results["splits"].items():
        ours, copy = row["model"], row["nearest_neighbour"]
        low, high = ours["exact_95"]
        lines.append(
            f"| {split}: {told[split]} | {ours['n']} | {ours['exact']:.3f} | {low:.3f}-{high:.3f} "
            f"| {ours['word_f1']:.3f} | {copy['exact']:.3f} | {copy['word_f1']:.3f} |"
        )
    strip = ["| picture | its name | what the model says |", "|---|---|---|"]
    strip += [f"| ![]({row['picture']}) | {row['name']} | {row['said']} |" for row in results["examples"]]
    text = (HERE / "card.md").read_text(encoding="utf-8")
    facts = f"{results['parameters'] / 1e6:.1f} M parameters, {results['megabytes']:.1f} MB"
    time_taken = f"{results['training_cpu_minutes']} CPU minutes"
    for mark, value in {
        "SCORES": "\n".join(lines),
        "STRIP": "\n".join(strip),
        "FACTS": facts,
        "TIME": time_taken,
    }.items():
        text = text.replace(f"<!-- {mark} -->", value)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder for archives and features (4 GB)")
    parser.add_argument("--epochs", type=int, default=36, help="0 evaluates the weights that are here")
    parser.add_argument("--test", action="store_true", help="also evaluate the test splits: once, for a release")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    by_split = collections.defaultdict(list)
    for row in examples(arguments.cache):
        by_split[row["split"]].append(row)
    print({split: len(members) for split, members in by_split.items()}, flush=True)

    stored = HERE / "results.json"
    results = json.loads(stored.read_text()) if stored.exists() else {}
    if arguments.epochs:
        model = zoo.build(
            "cross_attn_captioner",
            weights="encoders",
            dim=256,
            depth=3,
            image_encoder="mobilenet_v2",
            image_shape=(SIDE, SIDE, 3),
            dropout=0.2,
        )
        zoo.save(model, arguments.cache / "emoji-captioner", half=True)  # a model that cannot be saved fails now
        start = time.process_time()
        train(model, by_split["train"], arguments.cache, arguments.epochs)
        results["training_cpu_minutes"] = round((time.process_time() - start) / 60)
        for file in zoo.save(model, arguments.cache / "emoji-captioner", half=True).iterdir():
            shutil.copy2(file, HERE / file.name)

    # The figures are those of the released file: stored as float16 and read back.
    model = zoo.build("cross_attn_captioner", weights=HERE)
    results |= {
        "parameters": model.count_params(),
        "megabytes": round((HERE / weights.WEIGHTS).stat().st_size / 1e6, 1),
    }
    results["splits"] = {}
    for split in ["vendor_validation", "validation", *(["vendor_test", "test"] if arguments.test else [])]:
        members = by_split[split]
        said = model.generate(np.stack([flat(row["picture"]) for row in members]))
        copied = nearest(model, by_split["train"], members, arguments.cache)
        results["splits"][split] = {"model": score(said, members), "nearest_neighbour": score(copied, members)}
        print(split, results["splits"][split], flush=True)
    results["examples"] = picture_examples(model, by_split["vendor_validation"])
    stored.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(card(results), encoding="utf-8")


if __name__ == "__main__":
    main()
