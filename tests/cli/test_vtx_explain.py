"""`vtx explain`: a drawing, and mistakes in a line."""

from __future__ import annotations

from PIL import Image
from toys import toy, vtx

from vtx_keras import zoo


def test_vtx_explain_draws_and_reports_mistakes(tmp_path):
    zoo.save(toy("cross_attn_vqa"), tmp_path / "model")
    picture = tmp_path / "a.png"
    Image.new("RGB", (40, 20), "red").save(picture)
    out = tmp_path / "maps.png"

    def run(*arguments):
        return vtx("explain", tmp_path / "model", picture, *arguments, "--out", out)

    result = run("--text", "w1 w2", "--word", "w2", "--block", "0")
    assert result.exit_code == 0, result.output
    assert str(out) in result.output
    assert Image.open(out).width < 500
    for arguments, told in (
        ([], "reads a text"),
        (["--text", "w1", "--word", "w3"], "there is no map of 'w3'"),
        (["--text", "w1", "--block", "7"], "expected one of 0 to 0"),
        (["--text", "w1", "--target", "yes"], "only method"),
    ):
        result = run(*arguments)
        assert (result.exit_code, told in result.output) == (2, True), result.output
