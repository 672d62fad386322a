"""The commands that show pictures: vtx draw, from words; vtx explain, where a model looked; vtx search, in a folder."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import click

from vtx_keras.cli._console import USUAL, quiet, reporting_errors, show_rows
from vtx_keras.cli._predict import check_suffix

STILL, MOVING = (".png", ".jpg", ".jpeg", ".webp"), (".gif", ".webp", ".png")
PACE = 120  # milliseconds that a frame of a clip is shown


def _check_suffix(context: click.Context, parameter: click.Parameter, out: Path) -> Path:
    del context, parameter
    if out.suffix.lower() not in {*STILL, *MOVING}:
        raise click.BadParameter(f"{out}: expected a name that ends in {', '.join(sorted({*STILL, *MOVING}))}")
    return out


@click.command()
@click.argument("model")
@click.argument("texts", nargs=-1, required=True)
@click.option("--weights", default="default", help="A released tag, or a weights folder.", show_default=True)
@click.option("--count", type=click.IntRange(1, 64), default=1, show_default=True, help="Pictures of each text.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise.")
@click.option(
    "--truncation", type=click.FloatRange(0, 1), default=1.0, show_default=True,
    help="Scale of the noise: less is more alike, and mostly cleaner.",
)  # fmt: skip
@click.option("--side", type=click.IntRange(1), help="Longer side in pixels [default: the model's].")
@click.option("--between", type=click.IntRange(3, 64), help="So many pictures from the first text to the second.")
@click.option("--attention", is_flag=True, help="Show which words each place attended to (a .png of one text).")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default="drawn.png", show_default=True, callback=_check_suffix,
    help="A .png, .jpg or .webp; of a clip a .gif or .webp, which move, or a .png with the frames side by side.",
)  # fmt: skip
def draw(
    model: str,
    texts: tuple[str, ...],
    weights: str,
    count: int,
    seed: int,
    truncation: float,
    side: int | None,
    between: int | None,
    attention: bool,
    out: Path,
) -> None:
    """Draw pictures from words.

    MODEL is a generator: a name of the zoo, or a saved model. One picture becomes a file of its own size; several
    become a sheet, with a row for each text.

    \b
    vtx draw cross_attn_generator "a small red triangle" --count 8 --seed 3 --out sheet.png
    vtx draw cross_attn_generator "a red circle" "a blue circle" --between 8
    vtx draw runs/mine "a smiling face" --out face.gif
    """
    with reporting_errors():
        with quiet():
            from keras import ops

            from vtx_keras import explain, zoo
            from vtx_keras._files import write
            from vtx_keras.evaluate._pages import sheet
            from vtx_keras.models._drawing import Generator

            ops.zeros(1)  # initialises the devices, which logs
        network = zoo.named(model, weights)
        if not isinstance(network, Generator):
            raise ValueError(f"{model} draws nothing: expected a generator, such as cross_attn_generator")
        allowed = MOVING if len(network.image_shape) == 4 else STILL
        if out.suffix.lower() not in allowed:
            moves = "moves" if allowed == MOVING else "does not move"
            raise ValueError(f"what {model} draws {moves}: expected a name that ends in {', '.join(allowed)}")
        if attention:
            if len(texts) > 1 or count > 1 or between or side or out.suffix.lower() != ".png":
                raise ValueError("--attention shows one picture of one text, in a .png: leave out the rest")
            explanation = explain.drawing(network, texts[0], seed=seed, truncation=truncation)
            click.echo(explanation.save(out))
            return
        how: dict[str, Any] = {"seed": seed, "truncation": truncation}
        if between:
            if len(texts) != 2:
                raise ValueError(f"--between goes from one text to another: expected two, and got {len(texts)}")
            if count > 1 or side:
                raise ValueError("--between has its own number of pictures, of the model's size: leave out the rest")
            rows = [(f"{texts[0]} … {texts[1]}", network.interpolate(*texts, between, **how))]
        else:
            drawn = network.draw([text for text in texts for _ in range(count)], size=side, **how)
            rows = [(text, drawn[place * count : (place + 1) * count]) for place, text in enumerate(texts)]
        write(out, encoded(rows, out.suffix.lower(), sheet))
    click.echo(out)


def encoded(rows: list[tuple[str, Any]], suffix: str, sheet: Any) -> bytes:
    """Return the file of rows of pictures or clips: a single one as it is, several as a sheet."""
    import numpy as np
    from PIL import Image

    alone = len(rows) == 1 and len(rows[0][1]) == 1
    first = rows[0][1][0]
    moves = first.ndim == 4
    beside = moves and suffix == ".png"  # the frames of each clip, side by side
    if alone:
        frames = first if moves else [first]
        pages = [Image.fromarray(one) for one in ([np.concatenate(list(frames), axis=1)] if beside else frames)]
    elif beside:
        pages = sheet([(f"{text} ({i + 1})", list(clip)) for text, clips in rows for i, clip in enumerate(clips)])
    else:
        pages = sheet(rows)
    file = io.BytesIO()
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".gif": "GIF", ".webp": "WEBP"}[suffix]
    more: dict[str, Any] = {"quality": 92} if kind in ("JPEG", "WEBP") else {}
    if len(pages) > 1:
        more |= {"save_all": True, "append_images": pages[1:], "duration": PACE, "loop": 0}
    pages[0].save(file, kind, **more)
    return file.getvalue()


@click.command()
@click.argument("model")
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--text", help="Question or candidate text; for a captioner, a caption to explain instead of its own.")
@click.option("--word", "words", multiple=True, help="Draw only this word; repeatable.")
@click.option(
    "--method",
    type=click.Choice(["attention", "gradcam"]),
    help="How to compute maps [default: attention, if the fusion has it].",
)
@click.option("--block", help='Number of a fusion block, or "rollout" [default: the mean of all blocks].')
@click.option("--target", help="Class that Grad-CAM explains [default: the most likely].")
@click.option("--weights", default="default", help="A released tag, or a weights folder.", show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), default="maps.png", show_default=True)
def explain(
    model: str,
    picture: Path,
    text: str | None,
    words: tuple[str, ...],
    method: str | None,
    block: str | None,
    target: str | None,
    weights: str,
    out: Path,
) -> None:
    """Draw attention or Grad-CAM maps of a picture, one per word.

    MODEL is a name of the zoo or a saved model.

    \b
    vtx explain cross_attn_captioner photo.png --out maps.png
    vtx explain runs/mine photo.png --text "what colour is the cat?" --word cat
    """
    if out.suffix.lower() != ".png":
        raise click.BadParameter(f"{out}: expected a name that ends in .png", param_hint="--out")
    with reporting_errors():
        with quiet():
            from keras import ops

            from vtx_keras import zoo
            from vtx_keras.explain._maps import attention
            from vtx_keras.inputs import media

            ops.zeros(1)  # initialises the devices, which logs
        network = zoo.named(model, weights)
        block_id = int(block) if block is not None and block.lstrip("-").isdigit() else block
        try:
            maps = attention(network, picture, text, method=method, block=block_id, target=target)
        except media.BadItems as error:
            raise ValueError(f"{picture}: {error.errors[0]}") from error
        assert not isinstance(maps, list)  # it was one picture
        path = maps.save(out, list(words) or None)
    click.echo(f"{maps.said}\n{path}")


@click.command()
@click.argument("pictures", type=click.Path(path_type=Path))
@click.argument("query", required=False)
@click.option("--like", type=click.Path(path_type=Path), help="A picture that the found ones should be like.")
@click.option("--duplicates", is_flag=True, help="Show all groups of pictures that are nearly the same.")
@click.option("--model", default="retriever", show_default=True, help="A name of the zoo, or a saved retriever.")
@click.option("--weights", default="default", show_default=True, help="A released tag, or a weights folder.")
@click.option("--runtime", type=click.Choice(["keras", "litert"]), help="What computes, as for vtx predict.")
@click.option("-k", "--count", type=click.IntRange(1), default=10, show_default=True, help="Pictures to find.")
@click.option("--index", type=click.Path(path_type=Path), help="Folder of the index [default: one in the cache].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), callback=check_suffix((".html",)), help="Write a contact sheet."
)
def search(
    pictures: Path,
    query: str | None,
    like: Path | None,
    duplicates: bool,
    model: str,
    weights: str,
    runtime: str | None,
    count: int,
    index: Path | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Search a folder of pictures by words, by a picture, or by both.

    PICTURES is a folder, read with the folders in it; QUERY is what to find, in words. The first search reads all
    pictures; later ones read only what is new or changed. Without QUERY and --like, pictures are only indexed. Pictures
    that show nearly the same stand behind the best of them.

    \b
    vtx search holiday "two dogs in the snow"
    vtx search holiday --like dog.jpg --out dogs.html
    vtx search holiday "on a beach" --like dog.jpg
    vtx search holiday --duplicates --out doubles.html
    """
    with reporting_errors():
        from vtx_keras.search import Hit, Index

        if not pictures.is_dir():
            raise ValueError(f"{pictures} is no folder: expected one with pictures")
        if duplicates and (query or like):
            raise ValueError("--duplicates compares all pictures: leave out the words and --like")
        towers = _towers(model, weights, runtime)
        found = Index(index or _place(pictures, towers.name), towers)
        counts = found.update(pictures)
        told = f"{counts['pictures']:,} pictures in {found.folder}: {counts['new']:,} new, {counts['gone']:,} gone"
        unreadable = f", {counts['unreadable']:,} cannot be read" if counts["unreadable"] else ""
        click.echo(f"vtx: {told}{unreadable}", err=True)
        if not counts["pictures"]:
            raise ValueError(f"{pictures} holds no picture that can be read")
        if duplicates:
            groups = found.duplicates()
            click.echo(f"vtx: {len(groups):,} groups of pictures that are nearly the same", err=True)
            hits = [Hit(first, 1.0, tuple(others)) for first, *others in groups]
        else:
            hits = found.find(query, like=like, count=count) if query or like else []
    if out:
        _sheet(out, query, like, hits)
        click.echo(str(out))
    elif duplicates:
        for hit in hits:
            paths = [hit.path, *hit.alike]
            click.echo(json.dumps({"alike": paths}, ensure_ascii=False) if as_json else "\n".join([*paths, ""]))
    elif as_json:
        for hit in hits:
            click.echo(json.dumps({"picture": hit.path, "score": hit.score, "alike": hit.alike}, ensure_ascii=False))
    else:
        rows = [(f"{hit.score:.3f}", hit.path + (f" (+{len(hit.alike)})" if hit.alike else "")) for hit in hits]
        if rows:
            show_rows(("score", "picture"), rows)
    sys.exit(0)


def _towers(model: str, weights: str, runtime: str | None) -> Any:
    """Return the towers of a retriever, by a file of it if there is one; either has the same name."""
    from vtx_keras import search
    from vtx_keras.cli._runtime import named, towers, wanted

    light = wanted(model, weights, USUAL, runtime)
    name = named(model, weights)
    if light:
        return towers(light, name)
    with quiet():
        from keras import ops

        from vtx_keras import zoo

        ops.zeros(1)  # initialises the devices, which logs
    of = search.towers(zoo.named(model, weights))
    return of._replace(name=name) if name else of


def _place(pictures: Path, name: str) -> Path:
    """Return where the index of a folder is kept, one for each model."""
    from vtx_keras._files import cache

    key = hashlib.sha256(f"{pictures.resolve()} {name}".encode()).hexdigest()[:16]
    return cache() / "indexes" / f"{pictures.resolve().name}-{key}"


def _sheet(out: Path, query: str | None, like: Path | None, hits: list) -> None:
    from vtx_keras.evaluate import _pages as pages

    asked = [pages.Card([like], [("like", str(like))])] if like else []
    if not query and not like:
        groups = [[hit.path, *hit.alike] for hit in hits]
        cards = [pages.Card(list(map(Path, paths)), [("", path) for path in paths]) for paths in groups]
        pages.write_page(out, "nearly the same", [("", cards)])
        return
    cards = [
        pages.Card([Path(hit.path)], [(f"{hit.score:.3f}", hit.path), *(("nearly the same", one) for one in hit.alike)])
        for hit in hits
    ]
    pages.write_page(out, query or f"like {like}", [*([("Asked", asked)] if asked else []), ("Found", cards)])
