"""Many pictures: each once, whatever stops a run, and the same rows on every engine that is installed."""

from __future__ import annotations

import glob
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import toys
from paths import SUPPORT
from PIL import Image
from toys import toy

from vtx_keras import batch, zoo
from vtx_keras.batch import _run as running
from vtx_keras.batch._work import outcomes

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="once is enough")
COUNT, BAD = 21, 3


@pytest.fixture(scope="module")
def captioner(tmp_path_factory) -> str:
    return str(zoo.save(toys.decisive("gated_captioner"), tmp_path_factory.mktemp("model") / "mine.keras"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("many [pictures]")
    random = np.random.default_rng(0)
    for number in range(COUNT - BAD):
        place = home / f"day {number % 3}"
        place.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), "uint8")).save(place / f"{number}.png")
    for number in range(BAD):
        (home / f"bad\u2028{number}.jpg").write_bytes(b"no picture" * number)
    (home / "notes.txt").write_text("not a picture")
    return home


@pytest.fixture(scope="module")
def expected(captioner, folder) -> dict[str, str]:
    paths = sorted(folder.glob("*/*.png"))
    return dict(zip(map(str, paths), zoo.load(captioner).generate(paths), strict=True))


def as_dict(out) -> dict[str, str]:
    """What a folder has, by picture, after checking that each is there once."""
    found = list(batch.rows(out))
    results = {row["picture"]: row["result"] for row in found if "result" in row}
    errors = {row["picture"] for row in found if "error" in row}
    assert len(found) == len(results) + len(errors) == COUNT
    assert {Path(name).name for name in errors} == {f"bad\u2028{number}.jpg" for number in range(BAD)}
    return results


def parts_in(out: Path) -> list[Path]:
    """The parts that are whole: a killed writer leaves a hidden file."""
    return [*out.glob("part-*"), *out.glob("_part-*")]


def test_every_picture_is_captioned_once_and_bad_ones_are_told_apart(captioner, folder, expected, tmp_path):
    work = batch.work(captioner)
    assert batch.run(work, [folder], tmp_path / "out", per_part=4) == {"pictures": COUNT, "new": COUNT, "bad": BAD}
    assert as_dict(tmp_path / "out") == expected
    names = sorted(path.name for path in (tmp_path / "out").glob("[!.]*"))
    assert len([name for name in names if name.startswith("part-")]) == 6
    again = batch.run(work, [f"{glob.escape(str(folder))}/*/*.png", folder], tmp_path / "out")
    assert again == {"pictures": COUNT, "new": 0, "bad": BAD}
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == names


def test_new_pictures_are_added(captioner, folder, tmp_path):
    work = batch.work(captioner)
    assert batch.run(work, [folder / "day 0"], tmp_path / "out")["new"] == 6
    assert batch.run(work, [folder], tmp_path / "out") == {"pictures": COUNT, "new": COUNT - 6, "bad": BAD}
    as_dict(tmp_path / "out")


def test_several_processes_and_parquet(captioner, folder, expected, tmp_path):
    pytest.importorskip("pyarrow")
    made = batch.run(batch.work(captioner), [folder], tmp_path / "out", workers=2, form="parquet")
    assert made == {"pictures": COUNT, "new": COUNT, "bad": BAD}
    assert as_dict(tmp_path / "out") == expected


def test_vectors_of_a_retriever_in_either_form(folder, tmp_path):
    retriever = toy("retriever")
    zoo.save(retriever, tmp_path / "retriever.keras")
    work = batch.work(str(tmp_path / "retriever.keras"))
    paths = sorted(folder.glob("*/*.png"))
    tower = retriever.tower("image")
    wanted = tower.predict_on_batch({"image": retriever.prepare(paths)[0]})
    forms = ("jsonl", "parquet") if importlib.util.find_spec("pyarrow") else ("jsonl",)
    for form in forms:
        batch.run(work, [folder], tmp_path / form, form=form)
        found = as_dict(tmp_path / form)
        np.testing.assert_allclose([found[str(path)] for path in paths], wanted, atol=1e-5)


def test_a_killed_run_goes_on_with_what_is_left(captioner, folder, expected, tmp_path):
    """SIGKILL while it works; then a bad file without its part, which a worker left that died between the two."""
    script = (
        "import sys; from vtx_keras import batch\n"
        "print(batch.run(batch.work(sys.argv[1]), [sys.argv[2]], sys.argv[3], per_part=1), flush=True)"
    )
    command = [sys.executable, "-c", script, captioner, str(folder), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
        try:
            while first.poll() is None and len(parts_in(tmp_path / "out")) < 5:
                time.sleep(0.002)
        finally:
            os.kill(first.pid, signal.SIGKILL)
    kept = {path.name: path.stat().st_mtime_ns for path in parts_in(tmp_path / "out")}
    assert 5 <= len(kept) <= COUNT
    (tmp_path / "out" / "_bad-00000000000000aa.jsonl").write_text('{"picture": "lost", "error": "why"}\n')
    done = batch.run(batch.work(captioner), [folder], tmp_path / "out", per_part=2)
    assert done == {"pictures": COUNT, "new": COUNT - len(kept), "bad": BAD}
    assert as_dict(tmp_path / "out") == expected
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept} == kept


def test_workers_end_with_a_run_that_is_killed(captioner, folder, tmp_path):
    script = (
        "import sys; from vtx_keras import batch\n"
        "if __name__ == '__main__':\n"
        "    batch.run(batch.work(sys.argv[1]), [sys.argv[2]], sys.argv[3], per_part=1, workers=2)"
    )
    (tmp_path / "run.py").write_text(script)
    command = [sys.executable, str(tmp_path / "run.py"), captioner, str(folder), str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as first:
        try:
            while first.poll() is None and len(parts_in(tmp_path / "out")) < 2:
                time.sleep(0.002)
            workers = [
                int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if _parent(path) == first.pid
            ]
        finally:
            os.kill(first.pid, signal.SIGKILL)
    assert workers or not Path("/proc").is_dir()
    for _ in range(3000):  # one that was still importing ends when it has
        if not any(map(_lives, workers)):
            break
        time.sleep(0.02)
    assert not [worker for worker in workers if _lives(worker)]
    batch.run(batch.work(captioner), [folder], tmp_path / "out")
    as_dict(tmp_path / "out")


def _lives(worker: int) -> bool:
    try:
        return Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def test_a_first_command_that_fails_claims_no_folder(folder, tmp_path):
    model = str(zoo.save(toy("gated_vqa"), tmp_path / "vqa.keras"))
    given = ["predict", model, folder, "--runner", "here", "--out", tmp_path / "out"]
    for wrong, words in (([], "give it with --text"), (["--text", "w1", "--beams", 3], "writes no captions")):
        run = toys.vtx(*given, *wrong)
        assert run.exit_code == 2
        assert words in run.stderr
    assert toys.vtx(*given, "--text", "w1 w2").exit_code == 1
    assert set(as_dict(tmp_path / "out").values()) <= set(toys.ANSWERS)


def test_models_of_clips_are_refused(folder, tmp_path):
    work = batch.work(str(zoo.save(toy("gated_video_captioner"), tmp_path / "clips.keras")))
    with pytest.raises(ValueError, match="reads clips"):
        batch.run(work, [folder], tmp_path / "out")


def test_a_parquet_folder_is_one_table(captioner, folder, expected, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    batch.run(batch.work(captioner), [folder], tmp_path / "out", form="parquet", per_part=1)
    rows = parquet.read_table(tmp_path / "out").to_pylist()
    assert {row["picture"]: row["result"] for row in rows} == expected


def test_a_folder_keeps_one_work(captioner, folder, tmp_path):
    batch.run(batch.work(captioner), [folder / "day 0"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"holds results of .*choose another folder"):
        batch.run(batch.work(captioner, max_length=4), [folder], tmp_path / "out")
    with pytest.raises(ValueError, match="holds something else"):
        batch.run(batch.work(captioner), [folder], folder)
    with running.alone(tmp_path / "out"):
        script = (
            "import sys; from vtx_keras import batch; batch.run(batch.work(sys.argv[1]), sys.argv[2:3], sys.argv[3])"
        )
        command = [sys.executable, "-c", script, captioner, str(folder), str(tmp_path / "out")]
        assert "another process writes" in subprocess.run(command, capture_output=True, text=True).stderr


def test_a_damaged_part_is_named(captioner, folder, tmp_path):
    batch.run(batch.work(captioner), [folder / "day 0"], tmp_path / "out")
    (part,) = (tmp_path / "out").glob("part-*")
    part.write_bytes(part.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"part-\w+.jsonl is damaged .*remove it, and run again"):
        batch.run(batch.work(captioner), [folder / "day 0"], tmp_path / "out")
    part.unlink()
    assert batch.run(batch.work(captioner), [folder / "day 0"], tmp_path / "out")["new"] == 6


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"runner": "cluster"}, "expected one of here, direct"),
        ({"workers": 0}, "at least 1"),
        ({"options": ["--x"]}, "the runner here has none"),
    ],
)
def test_mistakes_are_named(captioner, folder, tmp_path, how, words):
    with pytest.raises(ValueError, match=words):
        batch.run(batch.work(captioner), [folder], tmp_path / "out", **how)


def test_what_is_not_here_is_said(tmp_path):
    with pytest.raises(ValueError, match="is not here: expected a name of the zoo"):
        batch.work("nowhere.keras")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no picture"):
        batch.pictures_of([tmp_path / "empty"])
    if importlib.util.find_spec("ray") is None:
        with pytest.raises(ImportError, match=r"pip install vtx_keras\[ray\]"):
            running.needed("ray", "ray")


def test_an_address_is_read_by_fsspec(captioner, folder, expected, tmp_path):
    pytest.importorskip("fsspec")
    done = batch.run(
        batch.work(captioner), [f"file://{glob.escape(str(folder))}/day 0/*.png"], f"file://{tmp_path}/out"
    )
    assert done == {"pictures": 6, "new": 6, "bad": 0}
    found = {row["picture"].removeprefix("file://"): row["result"] for row in batch.rows(f"file://{tmp_path}/out")}
    assert found == {path: words for path, words in expected.items() if "day 0" in path}


def test_the_command_writes_a_folder_and_says_how_many(captioner, folder, expected, tmp_path):
    run = toys.vtx("predict", captioner, folder, "--runner", "here", "--out", tmp_path / "out")
    assert run.exit_code == 1, run.stderr
    assert f"{COUNT} pictures in" in run.stderr
    assert f"{COUNT} new" in run.stderr
    assert f"{BAD} bad" in run.stderr
    assert as_dict(tmp_path / "out") == expected
    for arguments, words in (
        (["--runner", "here"], "say which with --out"),
        (["--workers", "2"], "go with --runner"),
        (["--out", tmp_path / "words"], "expected a name that ends in"),
    ):
        run = toys.vtx("predict", captioner, folder, *arguments)
        assert run.exit_code == 2
        assert words in run.stderr


def test_what_a_model_does_is_settled_in_one_place():
    def fails(pictures):
        raise running_error

    from vtx_keras.inputs.media import BadItems

    running_error = BadItems({1: "torn"}, ["a cat", None])
    assert outcomes(fails, ["a", "b"]) == [{"result": "a cat"}, {"error": "torn"}]
    with pytest.raises(ValueError, match="reads a text beside the picture"):
        batch._work.does(toy("gated_vqa"), None, {})


# --- engines, in an environment that has them: pytest -m engines tests/batch


def installed(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: the runners that need it were not tried")


@pytest.mark.engines
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("runner", "package"), [("direct", "apache_beam"), ("spark", "pyspark"), ("ray", "ray"), ("here", "keras")]
)
def test_every_engine_gives_the_same_rows(captioner, folder, expected, tmp_path, runner, package, workers):
    installed(package)
    command = ["predict", captioner, folder, "--runner", runner, "--workers", workers, "--out", tmp_path / "out"]
    script = "from vtx_keras.cli import main; main()"  # an engine keeps threads and servers: a process for each
    run = subprocess.run([sys.executable, "-c", script, *map(str, command)], capture_output=True, text=True)
    assert run.returncode == 1, run.stderr[-2000:]
    assert as_dict(tmp_path / "out") == expected


@pytest.mark.engines
def test_a_pipeline_of_beam_takes_the_handler(captioner, folder, expected, tmp_path):
    installed("apache_beam")
    run = subprocess.run([sys.executable, SUPPORT / "beam_pipeline.py", captioner, folder, tmp_path / "rows"])
    assert run.returncode == 0
    found = json.loads((tmp_path / "rows").read_text())
    assert {name: result for name, result in found.items() if isinstance(result, str)} == expected
    assert sum(isinstance(result, dict) for result in found.values()) == BAD


@pytest.mark.engines
@pytest.mark.parametrize(("to", "package"), [("lancedb", "lancedb"), ("qdrant", "qdrant_client")])
def test_vectors_move_to_a_database(folder, tmp_path, to, package):
    installed(package)
    from recipes import elsewhere

    zoo.save(toy("retriever"), tmp_path / "retriever.keras")
    batch.run(batch.work(str(tmp_path / "retriever.keras")), [folder], tmp_path / "vectors")
    place = tmp_path / "database"
    for _ in range(2):  # the second time replaces the first
        elsewhere.main([str(tmp_path / "vectors"), str(place), "--to", to])
    vectors = as_dict(tmp_path / "vectors")
    for path, vector in list(vectors.items())[:5]:
        nearest = elsewhere.found(place, to, vector, COUNT)
        assert nearest[0] == path
        assert sorted(nearest) == sorted(vectors)
