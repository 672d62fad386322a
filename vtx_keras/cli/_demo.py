"""The command vtx demo: a page on this machine, with a model behind it."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vtx_keras.cli._console import USER_ERRORS, message_of, quiet, reporting_errors

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_BYTES = 64_000_000  # of a picture
MOST_BEAMS = 8
SECONDS = 30  # without a byte, and a connection ends
PAGES = ("index.html", "style.css", "page.mjs", "model.mjs")
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".mjs": "text/javascript"}
POLICY = "default-src 'self'; img-src 'self' data: blob:; media-src blob:; frame-ancestors 'none'"
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@click.command()
@click.argument("model")
@click.option("--weights", default="default", help="A released tag, or a weights folder.", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--public", is_flag=True, help="Allow a --host that other machines reach. There is no password.")
def demo(model: str, weights: str, port: int, host: str, public: bool) -> None:
    """Show a model on a page of this machine: a picture in, words out, and where it looked for each.

    MODEL is a name of the zoo or a saved model. Pictures are not kept, and nothing leaves this machine. Ctrl-C ends it.

    \b
    vtx demo cross_attn_captioner
    vtx demo runs/mine/best --port 8080
    """
    with reporting_errors():
        if host not in LOOPBACK and not public:
            raise ValueError(f"--host {host}: other machines could reach it; add --public if they may")
        with quiet():
            from keras import ops

            from vtx_keras import zoo

            ops.zeros(1)  # initialises the devices, which logs
        server = serve(zoo.named(model, weights), host, port, public)
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"{model} at http://{shown}:{server.server_address[1]}/ (Ctrl-C ends it)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        click.echo()
    finally:
        server.server_close()


def page_root() -> Path:
    """Return the folder of the page: inside an installed package, else `export/web` of the checkout."""
    package = Path(__file__).parents[1]
    installed = package / "page"
    return installed if installed.is_dir() else package.parent / "export" / "web"


def serve(network: Any, host: str = "127.0.0.1", port: int = 0, public: bool = False) -> ThreadingHTTPServer:
    """Return a server of the page and of `network`; `serve_forever` runs it."""
    import socket
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # slow to load
    from urllib.parse import parse_qs, urlsplit

    description = json.dumps(described(network)).encode()
    pages = {f"/{name}": (TYPES[Path(name).suffix], (page_root() / name).read_bytes()) for name in PAGES}
    pages |= {"/": pages["/index.html"], "/model.json": ("application/json", description)}
    turn = threading.Lock()  # a model answers one at a time

    class Handler(BaseHTTPRequestHandler):
        timeout = SECONDS

        def do_GET(self) -> None:
            self.send(self.page())

        def do_HEAD(self) -> None:
            self.send(self.page(), body=False)

        def page(self) -> tuple[int, str, bytes]:
            if not self.is_own():
                return 403, "text/plain", b"this page is for this machine alone\n"
            kind, content = pages.get(urlsplit(self.path).path, ("", b""))
            return (200, kind, content) if kind else (404, "text/plain", b"there is nothing here\n")

        def do_POST(self) -> None:
            address = urlsplit(self.path)
            if not self.is_own() or address.path != "/ask":
                return self.send((403 if address.path == "/ask" else 404, "text/plain", b""))
            length = self.headers.get("Content-Length") or "0"
            if not length.isdecimal() or int(length) > MOST_BYTES:
                said = f"a picture may have {MOST_BYTES // 1_000_000} MB"
                return self.send((413, "application/json", json.dumps({"error": said}).encode()))
            picture = self.rfile.read(int(length))
            self.head(200, "application/x-ndjson")
            asked = {name: values[-1] for name, values in parse_qs(address.query).items()}
            lines = answered(network, picture, asked)
            while True:
                with turn:  # not while a slow browser reads
                    line = next(lines, None)
                if line is None:
                    return
                self.wfile.write(json.dumps(line).encode() + b"\n")
                self.wfile.flush()

        def is_own(self) -> bool:
            """Tell whether the page itself asks: another site's script, or a name that leads here, may not."""
            if public:
                return True
            host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
            name = host.rpartition(":")[0] or host  # without the port
            return name.strip("[]") in LOOPBACK and origin in (None, f"http://{host}")

        def send(self, answer: tuple[int, str, bytes], body: bool = True) -> None:
            self.head(*answer[:2], len(answer[2]))
            if body:
                self.wfile.write(answer[2])

        def head(self, status: int, kind: str, length: int | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, **HEADERS}.items():
                self.send_header(name, value)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()

        def log_message(self, *about: Any) -> None:
            del about

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing of a browser that has left."""
            if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
                super().handle_error(request, client_address)

    try:
        return Server((host, port), Handler)
    except OSError as error:
        advice = f"port {port} is taken: choose another with --port" if error.errno in (48, 98) else str(error)
        raise ValueError(f"{host}: {advice}") from error


def described(network: Any) -> dict[str, Any]:
    """Return what the page must know of a model."""
    return {
        "engine": "keras",
        "name": network.spec["name"],
        "task": network.name,
        "talks": isinstance(network.options.get("text_decoder"), dict),
        "image_shape": list(network.image_shape[-3:]),
        "resize": network.options.get("resize", "stretch"),
    }


def answered(network: Any, picture: bytes, asked: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield what the page shows: parts of what is said, then all of it with its time, then where each word looked."""
    from vtx_keras.inputs.media import BadItems

    try:
        yield from _answered(network, picture, asked)
    except BadItems as error:
        yield {"error": next(iter(error.errors.values()))}
    except USER_ERRORS as error:
        yield {"error": message_of(error)}
    except Exception as error:  # the page must not wait for ever
        click.echo(f"vtx: {type(error).__name__}: {error}", err=True)
        yield {"error": f"the model failed ({type(error).__name__}); vtx demo says more where it runs"}


def _answered(network: Any, picture: bytes, asked: dict[str, str]) -> Iterator[dict[str, Any]]:
    import numpy as np

    from vtx_keras import explain
    from vtx_keras.batch._work import outcomes
    from vtx_keras.cli._predict import as_words
    from vtx_keras.cli._runtime import answering
    from vtx_keras.models._drawing import Generator
    from vtx_keras.models._methods import Captioner

    text, start = asked.get("text", "").strip(), time.perf_counter()
    if isinstance(network, Generator):
        drawn = network.draw([text], seed=_whole(asked, "seed", 0))[0]
        yield {"said": text, "drawn": _as_address(drawn), **_since(start)}
        return
    if isinstance(network, Captioner) and text and isinstance(network.options.get("text_decoder"), dict):
        said = ""
        for part in network.chat(picture).stream(text):
            said += part
            yield {"part": said}
        yield {"said": said, **_since(start)}
        return
    beams = min(MOST_BEAMS, max(1, _whole(asked, "beams", 1)))
    captions = isinstance(network, Captioner)
    settings = {"prompt": None, "beams": beams if captions else 1, "max_length": None}
    run = answering(network, network.spec["name"], None if captions else text, settings)
    (row,) = outcomes(run, [picture])
    if "error" in row:
        yield row
        return
    result = row["result"]
    said = f"{result:.3f}" if isinstance(result, float) else as_words(result)
    yield {"said": said, **_since(start)}
    read = said if captions else text
    if len(network.image_shape) == 3 and read and not isinstance(network.options.get("text_decoder"), dict):
        found = explain.attention(network, picture, read)
        (rows, columns), pairs = found.maps.shape[1:], zip(found.words, found.maps, strict=True)
        maps = [{"word": word, "heat": np.round(heat.ravel().astype("float64"), 6).tolist()} for word, heat in pairs]
        yield {"words": [{**one, "rows": rows, "columns": columns} for one in maps]}


def _whole(asked: dict[str, str], name: str, default: int) -> int:
    if not (given := asked.get(name, str(default))).isdecimal():
        raise ValueError(f"{name}={given}: expected a whole number")
    return int(given)


def _since(start: float) -> dict[str, float]:
    return {"ms": round(1000 * (time.perf_counter() - start), 1)}


def _as_address(drawn: Any) -> str:
    """Return a picture, or the frames of a clip, as an address that holds it."""
    import base64
    import io

    import numpy as np
    from PIL import Image

    frames = [Image.fromarray(one) for one in (drawn if np.ndim(drawn) == 4 else [drawn])]
    file = io.BytesIO()
    form = "WEBP" if len(frames) > 1 else "PNG"
    frames[0].save(file, form, save_all=len(frames) > 1, append_images=frames[1:], duration=250, loop=0, lossless=True)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
