"""A thousand pictures, a twentieth of them garbage, through `export/serving/client.py` and a server of its own.

The released captioner is exported as a SavedModel and served by `export/serving/stand_in.py` in another process. Every
answer is compared with that of the SavedModel called with one picture at a time. In the last run the server is killed
in the middle and started again. Before that, what a batch saves, by runtime.

    python benchmarks/load.py      # 8 minutes; client and server share the cores
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from common import processor, store
from PIL import Image

ROOT = Path(__file__).parents[1]
SERVING, SAMPLE = ROOT / "export/serving", ROOT / "vtx_keras/sample"
COUNT, GARBAGE = 1000, 50
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    from vtx_keras import export, zoo

    model = zoo.build("cross_attn_captioner")
    with tempfile.TemporaryDirectory() as home:
        folder, shown = Path(home) / "captions", Path(home) / "pictures"
        export.saved_model(model, folder / "1")
        export.onnx(model, Path(home) / "model.onnx")
        files = pictures(shown)
        rows, expected = batches(model, folder / "1", Path(home) / "model.onnx", files)
        unread = [path.name for path, one in zip(files, expected, strict=True) if not one["ok"]]
        assert unread == [path.name for path in files if path.suffix == ".bad"], unread
        with serving(folder) as server:
            rows += [singly(server, files, expected, connections) for connections in (1, 8, 64)]
            rows += [by_command(server, shown, expected, again) for again in ("", ", once more")]
        rows.append(restarted(folder, shown, expected))
    store("load", rows, hardware=f"{processor()}, two cores", command="python benchmarks/load.py")


# --- pictures


def pictures(folder: Path) -> list[Path]:
    """Write pictures of many forms and garbage, in an order of chance that is always the same."""
    folder.mkdir()
    random = np.random.default_rng(0)
    sample = [*sorted(SAMPLE.glob("photos/*.jpg")), *sorted(SAMPLE.glob("emoji/*.png"))]
    bad = set(random.choice(COUNT, GARBAGE, replace=False).tolist())
    paths = []
    for number in range(COUNT):
        source = sample[number % len(sample)]
        suffix = ".bad" if number in bad else (".jpg", ".png", ".gif", ".bmp")[number // len(sample) % 4]
        content = garbage(source, random) if number in bad else drawn(source, suffix, random, number < len(sample))
        paths.append(folder / f"{number:04d}{suffix}")
        paths[-1].write_bytes(content)
    return paths


def drawn(source: Path, suffix: str, random: np.random.Generator, whole: bool) -> bytes:
    """Return a picture of the sample as it is, or a part of it, turned and in a size of chance."""
    if whole:
        return source.read_bytes()
    image = Image.open(source).convert("RGB")
    left, top = random.uniform(0, 0.4, 2) * image.size
    image = image.crop((int(left), int(top), *image.size)).rotate(90 * int(random.integers(4)), expand=True)
    image = image.resize([int(size) for size in random.integers(40, 700, 2)])
    file = io.BytesIO()
    image.save(file, {".jpg": "JPEG", ".png": "PNG", ".gif": "GIF", ".bmp": "BMP"}[suffix])
    return file.getvalue()


def garbage(source: Path, random: np.random.Generator) -> bytes:
    """Return bytes that are no picture, of one of seven kinds."""
    whole, file = source.read_bytes(), io.BytesIO()
    Image.open(source).convert("RGB").save(file, "WEBP")
    kinds = [
        b"",
        b"<html><body>404 Not Found</body></html>",
        random.bytes(20_000),
        whole[: len(whole) // 2],
        whole[:20],
        b"GIF89a" + random.bytes(100),
        file.getvalue(),
    ]
    return kinds[random.integers(len(kinds))]


# --- what a batch saves


def batches(model, folder: Path, file: Path, files: list[Path]) -> tuple[list[dict], list[dict]]:
    """Return the time of a picture by runtime and batch size, and the row of every file, asked for alone."""
    import onnxruntime
    import tensorflow as tf

    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # as in Triton's config.pbtxt
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    good = [path for path in files if path.suffix != ".bad"][:192]
    contents, images = [path.read_bytes() for path in good], model.prepare(good)[0]
    images = np.asarray(images).astype("uint8")

    def saved(start: int, size: int) -> None:
        signature(image_bytes=tf.constant(contents[start : start + size]))

    def onnx(start: int, size: int) -> None:
        session.run(None, {"image": images[start : start + size]})

    rows = [row_of(name, run, size) for name, run in (("savedmodel", saved), ("onnx", onnx)) for size in SIZES]
    alone = [signature(image_bytes=tf.constant([path.read_bytes()])) for path in files]
    plain = [{name: value.numpy()[0] for name, value in one.items()} for one in alone]
    return rows, [{**one, "caption": one["caption"].decode()} for one in plain]


SIZES = (1, 2, 4, 8, 16, 32, 64)


def row_of(name: str, run: Callable[[int, int], None], size: int) -> dict:
    """Return milliseconds per picture, by the clock and of CPU, over the same 192 pictures for every size."""
    run(0, size)
    walls, cpus = [], []
    for start in range(0, 192, size):
        wall, cpu = time.perf_counter(), time.process_time()
        run(start, size)
        walls.append(1000 * (time.perf_counter() - wall) / size)
        cpus.append(1000 * (time.process_time() - cpu) / size)
    ms, cpu_ms = statistics.median(walls), statistics.median(cpus)
    return {"part": "batch", "runtime": name, "batch": size, "ms": round(ms, 1), "cpu_ms": round(cpu_ms, 1)}


# --- the server


class Server:
    """A stand-in in a process of its own."""

    def __init__(self, folder: Path, port: int = 0):
        command = [sys.executable, str(SERVING / "stand_in.py"), str(folder), "--port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().partition("/v1")[0]
        assert self.url, "the server did not start"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def cpu(self) -> float:
        """Return the seconds of CPU that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def megabytes(self) -> int:
        """Return the memory that it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) // 1000


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server
    finally:
        server.kill()


# --- the load


def singly(server: Server, files: list[Path], expected: list[dict], connections: int) -> dict:
    """Send one picture per request over so many connections."""
    spec = importlib.util.spec_from_file_location("serving_client", SERVING / "client.py")
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    stop = threading.Event()

    def send(inputs: dict) -> dict:
        return client.rest(server.url, "captions", "serving_default", inputs)

    def timed(path: Path) -> tuple[float, dict | str]:
        start = time.perf_counter()
        ((_, row),) = client.ask(lambda inputs: client.patient(send, inputs, 6, stop), {}, [path])
        return time.perf_counter() - start, row

    before, cpu, own, start = server.megabytes(), server.cpu(), time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        timed_rows = list(pool.map(timed, files))
    seconds = time.perf_counter() - start
    own, cpu = time.process_time() - own, server.cpu() - cpu
    times = [1000 * took for took, _ in timed_rows]
    p50, p99 = np.percentile(times, [50, 99])
    rows = [None if isinstance(row, str) else row for _, row in timed_rows]
    return {
        "part": "load",
        "side": "one picture per request",
        "connections": connections,
        **compared(rows, expected),
        "per_s": round(len(files) / seconds, 1),
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
        "client_cpu_s": round(own, 1),
        "server_cpu_s": round(cpu, 1),
        "server_megabytes": [before, server.megabytes()],
    }


def by_command(server: Server, shown: Path, expected: list[dict], again: str) -> dict:
    """Give the folder to client.py as it is; once more, to see whether the server's memory grows further."""
    before, cpu = server.megabytes(), server.cpu()
    times, start = os.times(), time.perf_counter()
    done = subprocess.run(command(server, shown), capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - start, os.times()
    assert done.returncode == 0, done.stderr
    own = after.children_user + after.children_system - times.children_user - times.children_system
    return {
        "part": "load",
        "side": f"client.py, 16 pictures per request{again}",
        "connections": 4,
        **compared(in_place(done.stdout.splitlines(), shown), expected),
        "per_s": round(len(expected) / seconds, 1),
        "client_cpu_s": round(own, 1),
        "server_cpu_s": round(server.cpu() - cpu, 1),
        "server_megabytes": [before, server.megabytes()],
    }


def restarted(folder: Path, shown: Path, expected: list[dict]) -> dict:
    """Kill the server after 300 answers, start it again three seconds later, and let client.py finish."""
    server = Server(folder)
    lines, start = [], time.perf_counter()
    arguments = [*command(server, shown), "--batch", "4", "--connections", "8"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        for line in client.stdout:
            lines.append(line)
            if len(lines) == 300:
                server.kill()
                away = time.perf_counter()
                time.sleep(3)
                server = Server(folder, int(server.url.rpartition(":")[2]))
                away = time.perf_counter() - away
    server.kill()
    return {
        "part": "load",
        "side": "client.py, 4 pictures per request, the server killed in the middle",
        "connections": 8,
        **compared(in_place(lines, shown), expected),
        "per_s": round(len(expected) / (time.perf_counter() - start), 1),
        "away_s": round(away, 1),
        "exit_code": client.returncode,
    }


def command(server: Server, shown: Path) -> list[str]:
    return [sys.executable, str(SERVING / "client.py"), str(shown), "--url", server.url]


def in_place(lines: list[str], shown: Path) -> list[dict | None]:
    """Return the rows by the order of files, None where a picture has none, after a look at the order of the lines."""
    rows = [json.loads(line) for line in lines]
    names = [row["picture"] for row in rows]
    assert names == sorted(set(names)), "lines are out of order, or twice there"
    by_name = dict(zip(names, rows, strict=True))
    return [by_name.get(str(path)) for path in sorted(shown.iterdir())]


def compared(rows: list[dict | None], expected: list[dict]) -> dict:
    """Count what is lost, and what differs from the answers of one picture at a time."""
    wrong = sum(row is not None and differs(row, one) for row, one in zip(rows, expected, strict=True))
    lost = sum(row is None for row in rows)
    return {
        "pictures": len(expected),
        "unreadable": sum(not one["ok"] for one in expected),
        "lost": lost,
        "wrong": wrong,
    }


def differs(row: dict, one: dict) -> bool:
    """Tell whether an answer is another; scores are rounded differently in batches."""
    same_words = (row["caption"], row["ok"]) == (one["caption"], bool(one["ok"]))
    return not same_words or bool(abs(row["score"] - one["score"]) > 1e-3)


if __name__ == "__main__":
    main()
