"""vtx explain: what a model looked at, as a picture."""

from __future__ import annotations

from pathlib import Path

import click

from vtx_keras.polite import polite, quiet


@click.command()
@click.argument("model")
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--text", help="The question or candidate text; for a captioner, a caption in place of its own.")
@click.option("--word", "words", multiple=True, help="Draw this word only; may be given several times.")
@click.option("--method", type=click.Choice(["attention", "gradcam"]), help="[default: attention where there is any]")
@click.option("--block", help='One block of the fusion by number, or "rollout" [default: the mean of all].')
@click.option("--target", help="Grad-CAM: the class to ask about [default: the likeliest].")
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
    """Draw where MODEL, a name of the zoo or a saved model, looks in PICTURE: a heat map for each word.

    \b
    vtx explain cross_attn_captioner photo.png --out maps.png
    vtx explain runs/mine photo.png --text "what colour is the cat?" --word cat
    """
    if out.suffix.lower() != ".png":
        raise click.BadParameter(f"{out}: expected a name that ends in .png", param_hint="--out")
    with polite():
        with quiet():
            from keras import ops

            from vtx_keras import media, zoo
            from vtx_keras.explain.maps import attention

            ops.zeros(1)  # looks for a GPU
        network = zoo.named(model, weights)
        which = int(block) if block is not None and block.lstrip("-").isdigit() else block
        try:
            seen = attention(network, picture, text, method=method, block=which, target=target)
        except media.BadItems as error:
            raise ValueError(f"{picture}: {error.errors[0]}") from error
        assert not isinstance(seen, list)  # it was one picture
        path = seen.save(out, list(words) or None)
    click.echo(f"{seen.said}\n{path}")
