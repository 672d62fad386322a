"""Send images and texts to TensorFlow Serving. Needs Python alone; `--grpc` needs the package tensorflow-serving-api.

    python client.py photo.jpg logo.png --model captions
    python client.py photos/ --connections 8 > captions.jsonl
    python client.py photo.jpg --model answers --question "what colour is the boat?"
    python client.py --model search --signature text --text "a red boat"
    python client.py frame1.png frame2.png --clip --model clips

Prints one JSON object per image (or text), in order; "ok" is false where it could not be read. Of a folder all files
are sent. A request that gets no answer is sent again, after pauses that grow. An image without an answer is named on
stderr, the others are printed, and the exit code is 1.
"""

import argparse
import base64
import functools
import http.client
import json
import os
import random
import sys
import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

AGAIN = {0, 429, 502, 503, 504}  # after which a request is sent again; 0: no answer came
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds
MOST_PATIENCE = 600.0  # seconds that a server may ask for
MOST_BYTES = 16_000_000  # of files in one request, unless a single one is larger

Item = Path | list[Path] | None  # an image, the frames of a clip, or a text alone


class NoAnswer(Exception):
    """Why a request has no answer: an HTTP status, 0 where none came, and the seconds that the server asks to wait."""

    def __init__(self, reason: str, status: int, pause: float = 0.0):
        super().__init__(reason)
        self.status, self.pause = status, pause


# --- one request


def rest(url: str, model: str, signature: str, inputs: dict, seconds: float = 60) -> dict:
    """Send `inputs`, lists of bytes and str, to the server by REST, and return its outputs by name."""
    body = {"signature_name": signature, "inputs": {name: encoded(value) for name, value in inputs.items()}}
    request = urllib.request.Request(
        f"{url}/v1/models/{model}:predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        try:
            with urllib.request.urlopen(request, timeout=seconds) as response:
                return json.load(response)["outputs"]
        except urllib.error.HTTPError as error:
            with error:
                reason = f"{url} refused ({error.code}): {error.read(10_000).decode(errors='replace')}"
            raise NoAnswer(reason, error.code, asked_pause(error.headers)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise NoAnswer(f"{url} does not answer as a model does: is it TensorFlow Serving?", 200) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise NoAnswer(f"{url} does not answer ({reason}): is the server running?", 0) from error


def asked_pause(headers) -> float:
    """Return the seconds that Retry-After tells, as a number or as a date; 0 without it."""
    value = headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def encoded(value):
    """Encode bytes for TensorFlow Serving's JSON, in lists of any depth."""
    if isinstance(value, list):
        return [encoded(item) for item in value]
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def grpc(address: str, model: str, signature: str, inputs: dict, seconds: float = 60) -> dict:
    """Do the same by gRPC, which sends bytes without encoding them."""
    try:
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis.predict_pb2 import PredictRequest
        from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
    except ImportError as error:
        raise SystemExit(f"--grpc needs more packages ({error}): pip install tensorflow-serving-api") from error

    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value, tf.string))
    with grpc.insecure_channel(address) as channel:
        try:
            response = PredictionServiceStub(channel).Predict(request, seconds)
        except grpc.RpcError as error:
            status = {"UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504, "RESOURCE_EXHAUSTED": 429}
            reason = f"{address}: {error.code().name}: {error.details()}"
            raise NoAnswer(reason, status.get(error.code().name, 400)) from error
    return {name: plain(tf.make_ndarray(value).tolist()) for name, value in response.outputs.items()}


def plain(value):
    """Decode bytes to str, in lists of any depth."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


# --- requests that wait and come again


def patient(send: Callable[[dict], dict], inputs: dict, retries: int, stop: threading.Event) -> dict:
    """Send until an answer comes or `retries` are spent, with pauses that double, by chance up to half shorter."""
    for turn in count():
        try:
            return send(inputs)
        except NoAnswer as error:
            if error.status not in AGAIN or error.pause > MOST_PATIENCE or turn >= retries:
                raise
            pause = error.pause + random.uniform(0.5, 1) * min(LONGEST_PAUSE, FIRST_PAUSE * 2**turn)
            if turn == 1:
                print(f"{error}: trying up to {retries - turn} times more", file=sys.stderr, flush=True)
            if stop.wait(pause):
                raise


def ask(send: Callable[[dict], dict], texts: dict, items: list[Item]) -> list[tuple[Item, dict | str]]:
    """Return a row for each item, or the reason why there is none."""
    loaded, results = [], {}
    for place, item in enumerate(items):
        try:
            loaded.append((place, content(item)))
        except OSError as error:
            results[place] = f"cannot be read: {error}"
    results |= rows_of(send, texts, loaded)
    return [(item, results[place]) for place, item in enumerate(items)]


def rows_of(send: Callable[[dict], dict], texts: dict, loaded: list[tuple]) -> dict[int, dict | str]:
    """Return rows or reasons by place. A request that is too large is sent in halves."""
    if not loaded:
        return {}
    places, contents = zip(*loaded, strict=True)
    inputs = {} if contents[0] is None else {"image_bytes": list(contents)}
    try:
        outputs = send(inputs | {name: [value] * len(places) for name, value in texts.items()})
        lists = isinstance(outputs, dict) and all(isinstance(value, list) for value in outputs.values())
        if not lists or any(len(value) != len(places) for value in outputs.values()):
            raise NoAnswer(f"the answer does not have {len(places)} rows: is it TensorFlow Serving?", 200)
    except NoAnswer as error:
        half = len(loaded) // 2
        if error.status == 413 and half:
            return rows_of(send, texts, loaded[:half]) | rows_of(send, texts, loaded[half:])
        return dict.fromkeys(places, str(error))
    return {place: {name: value[row] for name, value in outputs.items()} for row, place in enumerate(places)}


def content(item: Item):
    """Return the bytes of an image, or a list of them for a clip."""
    return [content(one) for one in item] if isinstance(item, list) else item and item.read_bytes()


# --- many requests at once


def files(given: Iterable[Path]) -> Iterator[Path]:
    """Yield the given files, and all files of the given folders in order, but none that is hidden."""
    for path in given:
        if not os.path.isdir(path):
            yield path
            continue
        unread: list[OSError] = []
        for folder, folders, names in os.walk(path, onerror=unread.append):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))
        yield from (Path(error.filename) for error in unread)  # so that they are named among what has no answer


def portions(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """Yield lists of up to `most` items, and of fewer where files are large."""
    portion, size = [], 0
    for item in items:
        more = os.path.getsize(item) if isinstance(item, Path) and os.path.isfile(item) else 0
        if portion and (len(portion) == most or size + more > MOST_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(item)
        size += more
    if portion:
        yield portion


def in_order(pool: ThreadPoolExecutor, work: Callable, items: Iterable, ahead: int) -> Iterator:
    """Yield `work` of each item in order; at most `ahead` of them are under way or wait for an earlier one."""
    pending: deque[Future] = deque()
    for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) == ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def run(send: Callable[[dict], dict], texts: dict, items: Iterable[Item], args: argparse.Namespace) -> None:
    """Print the row of each item; name those without one."""
    stop, failed, total, last = threading.Event(), 0, 0, ""
    work = functools.partial(ask, lambda inputs: patient(send, inputs, args.retries, stop), texts)
    with ThreadPoolExecutor(args.connections) as pool:
        try:
            for answers in in_order(pool, work, portions(items, args.batch), 2 * args.connections):
                for item, row in answers:
                    total += 1
                    if isinstance(row, str):
                        failed, last = failed + 1, row
                        print(f"{named(item)}: {row}", file=sys.stderr)
                    else:
                        name = {"picture": str(item)} if isinstance(item, Path) else {}
                        line = json.dumps(name | row, ensure_ascii=False)
                        print(line.encode(errors="backslashreplace").decode())  # names of files that are no UTF-8
                sys.stdout.flush()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    if failed:
        raise SystemExit(f"{failed} of {total} have no answer; the last: {last}")
    if not total:
        raise SystemExit("nothing to send: the folders hold no files")


def named(item: Item) -> str:
    """Return what stderr calls an item."""
    return ", ".join(map(str, item)) if isinstance(item, list) else str(item or "the text")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Send images and texts to TensorFlow Serving.")
    parser.add_argument("pictures", nargs="*", type=Path, help="files and folders")
    parser.add_argument("--model", default="captions", help="the model's name on the server")
    parser.add_argument("--signature", default="serving_default")
    parser.add_argument("--question", help="for vqa models and classifiers; the same for all pictures")
    parser.add_argument("--text", help="for matchers, and for --signature text")
    parser.add_argument("--clip", action="store_true", help="the pictures are the frames of one clip")
    parser.add_argument("--url", default="http://localhost:8501", help="of the REST interface")
    parser.add_argument("--grpc", metavar="HOST:PORT", help="use gRPC instead of REST, usually at localhost:8500")
    parser.add_argument("--batch", type=positive, default=16, help="pictures in one request")
    parser.add_argument("--connections", type=positive, default=4, help="requests at the same time")
    parser.add_argument("--retries", type=int, default=8, help="of a request; the pauses double, from 0.5 to 30 s")
    parser.add_argument("--timeout", type=float, default=60, help="seconds that a server may be silent")
    args = parser.parse_args(arguments)
    if not args.pictures and args.text is None:
        parser.error("nothing to send: expected pictures, or --text with --signature text")
    if not args.grpc and not is_address(args.url):
        raise SystemExit(f"--url {args.url}: expected an address such as http://localhost:8501")
    texts = {name: getattr(args, name) for name in ("question", "text") if getattr(args, name) is not None}
    server, address = (grpc, args.grpc) if args.grpc else (rest, args.url.rstrip("/"))
    send = functools.partial(server, address, args.model, args.signature, seconds=args.timeout)
    items: Iterable[Item] = files(args.pictures) if args.pictures else [None]
    run(send, texts, [list(items)] if args.clip else items, args)


def is_address(url: str) -> bool:
    """Tell whether a request can be sent there."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False


def positive(value: str) -> int:
    """Return a number of one or more."""
    if int(value) < 1:
        raise ValueError
    return int(value)


if __name__ == "__main__":
    main(sys.argv[1:])
