"""Input pipelines: photographs to training crops against a torch DataLoader with PIL, captions to ids against Hugging
Face's Rust WordPiece in the same tf.data pipeline.

    python benchmarks/input.py

Pictures: JPEGs (with as much detail as photographs), the same random crops of 50 to 100 % of the area, antialiased
bilinear to 224 px, batches of 32, one worker process or thread. Captions: batches of 32, identical ids; in the first
row it is known that all texts are ASCII and need only lower case, as `data.batches` finds out by reading them once.
"""

from __future__ import annotations

import io
import itertools
import time
from pathlib import Path

from common import one_thread, store

ROUNDS, COUNT, SIDE, LENGTH = 7, 64, 224, 32
SIZES = ((640, 480), (1280, 960), (2048, 1536))


def photographs(width: int, height: int) -> list[bytes]:
    """Make JPEGs of one size from the sample's photographs, each from another part of one."""
    import numpy as np
    from PIL import Image

    from vtx_keras import data, media

    random, files = np.random.default_rng(0), []
    paths = itertools.cycle(sorted(data.sample("photos/cat.jpg").parent.glob("*.jpg")))
    for path in itertools.islice(paths, COUNT):
        picture = Image.fromarray(media.read(path))
        x, y = random.uniform(0, 0.3, 2) * picture.size
        box = (x, y, x + picture.width * 0.7, y + picture.height * 0.7)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
        grain = random.normal(0, 4, (height, width, 3))  # a camera's noise, which the enlargement removed
        picture = Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype("uint8"))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=88)
        files.append(file.getvalue())
    return files


def captions() -> list[str]:
    """Make sentences as long as those of COCO from words of the bundled vocabulary."""
    import numpy as np

    from vtx_keras import text

    words = [piece for piece in text.vocabulary() if piece.isalpha() and piece.isascii() and len(piece) > 2]
    random = np.random.default_rng(0)
    return [" ".join(random.choice(words, random.integers(8, 15))).capitalize() + "." for _ in range(20_000)]


def pictures_row(width: int, height: int) -> dict:
    """Measure images per CPU-second on both sides, in turns."""
    import numpy as np
    import tensorflow as tf
    import torch
    from PIL import Image

    from vtx_keras.data import _tensors as tensors

    files, random, windows = photographs(width, height), np.random.default_rng(1), []
    for _ in files:
        part = np.sqrt(random.uniform(0.5, 1))
        h, w = int(height * part), int(width * part)
        windows.append((random.integers(0, height + 1 - h), random.integers(0, width + 1 - w), h, w))
    windows = np.array(windows, "int32")

    shares = (windows / np.array([height, width, height, width])).astype("float32")

    def cut(data: tf.Tensor, parts: tf.Tensor) -> tf.Tensor:
        return tensors.fitted(data, (SIDE, SIDE, 3), "stretch", parts)

    pipeline = tf.data.Dataset.from_tensor_slices((files, shares)).batch(32).map(cut)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    pipeline = pipeline.with_options(options)

    class Crops(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> torch.Tensor:
            y, x, height, width = windows[index]
            picture = Image.open(io.BytesIO(files[index])).convert("RGB").crop((x, y, x + width, y + height))
            return torch.from_numpy(np.array(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)))

    loader = torch.utils.data.DataLoader(Crops(), batch_size=32)
    crops = np.concatenate([batch.numpy() for batch in pipeline]).astype(int)
    peer_crops = np.concatenate([batch.numpy() for batch in loader]).astype(int)
    differences = np.abs(crops - peer_crops)
    times = _turns({"vtx_keras": lambda: list(pipeline), "peer": lambda: list(loader)})
    return {
        "what": f"random crops of {width} x {height} JPEGs to 224 px, batches of 32",
        "peer_is": "torch DataLoader with PIL",
        **{side: {"images_per_cpu_s": round(COUNT / seconds, 1)} for side, seconds in times.items()},
        "ratio": round(times["peer"] / times["vtx_keras"], 2),
        "jpeg_kilobytes": round(sum(map(len, files)) / COUNT / 1000),
        "mean_difference": round(float(differences.mean()), 3),
    }


def tokens_row(texts: list[str], plain: bool) -> dict:
    """Measure captions per CPU-second on both sides, in a tf.data pipeline each."""
    import numpy as np
    import tensorflow as tf
    from tokenizers import BertWordPieceTokenizer

    from vtx_keras import text
    from vtx_keras.data import _tensors as tensors

    vocabulary = text.vocabulary()
    rust = BertWordPieceTokenizer(
        {piece: number for number, piece in enumerate(vocabulary)},
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True,
        unk_token="[UNK]", pad_token="[PAD]", cls_token="[START]", sep_token="[END]", mask_token="[MASK]",
    )  # fmt: skip
    rust.enable_truncation(LENGTH)
    rust.enable_padding(length=LENGTH)

    def by_rust(batch: np.ndarray) -> np.ndarray:
        return np.array([row.ids for row in rust.encode_batch([one.decode() for one in batch])], "int32")

    source = tf.data.Dataset.from_tensor_slices(texts).batch(32)
    encode = tensors.encoder(vocabulary, start=True, end=True, plain=plain)
    pipeline = source.map(lambda batch: encode(batch, LENGTH))
    peer = source.map(lambda batch: tf.numpy_function(by_rust, [batch], tf.int32))
    both = zip(pipeline.as_numpy_iterator(), peer.as_numpy_iterator(), strict=True)
    same = sum(int((a == b).all(axis=1).sum()) for a, b in both)
    times = _turns({"vtx_keras": lambda: list(pipeline), "peer": lambda: list(peer)})
    return {
        "what": "captions to ids in tf.data, batches of 32" + ", known to be ASCII" * plain,
        "peer_is": "Hugging Face tokenizers (Rust WordPiece)",
        **{side: {"captions_per_cpu_s": round(len(texts) / seconds)} for side, seconds in times.items()},
        "ratio": round(times["peer"] / times["vtx_keras"], 2),
        "identical_ids": f"{same} of {len(texts)}",
    }


def _turns(sides: dict) -> dict[str, float]:
    """Return the median CPU seconds of each side, timed in turns after a warm-up round."""
    import statistics

    times = {name: [] for name in sides}
    for turn in range(ROUNDS + 1):
        for name, run in sides.items():
            start = time.process_time()
            run()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


if __name__ == "__main__":
    one_thread()
    store(
        Path(__file__).stem,
        [*(pictures_row(*size) for size in SIZES), *(tokens_row(captions(), plain) for plain in (True, False))],
    )
