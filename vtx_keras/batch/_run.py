"""Work on pictures in parts, on any engine; a part is whole or absent, so that a run goes on where one was killed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtx_keras._files import alone, progress, write
from vtx_keras.batch._work import AT_ONCE, Work, needed, outcomes, pictures_of, remote

PER_PART = 256  # most pictures in a part, which is what is lost and done again where a worker dies
PARTS_EACH = 4  # parts for a worker, or more, so that none waits long for the last
FORMS = ("jsonl", "parquet")
BEAM = {
    "direct": "DirectRunner", "prism": "PrismRunner", "flink": "FlinkRunner", "portable": "PortableRunner",
    "dataflow": "DataflowRunner",
}  # fmt: skip
RUNNERS = ("here", *BEAM, "spark", "ray")
ABOUT = "_job.json"  # what begins so is not read with the parts by Arrow and Spark


def run(
    work: Work,
    pictures: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    runner: str = "here",
    workers: int = 1,
    form: str = "jsonl",
    per_part: int | None = None,
    options: Sequence[str] = (),
) -> dict[str, int]:
    """Do work on pictures (see `pictures_of`) and write its results to a folder; return how many it now has.

    `runner` "here" uses `workers` processes of this machine; "ray" and "spark" theirs; the others are Apache Beam's
    ("direct" is Beam on this machine). `options` go to the runner: Beam's flags ("--flink_master=host:8081"), Spark's
    settings ("spark.master=spark://host:7077"), Ray's address. Its workers reach the pictures, the model and `out`.

    Pictures that `out` already has are not read again; to do other work, choose another folder. A script that uses
    several processes calls this below `if __name__ == "__main__":`.

    >>> import tempfile
    >>> from PIL import Image
    >>> from vtx_keras.batch import work
    >>> home = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (64, 64), (200, 30, 30)).save(home / "red.png")
    >>> _ = (home / "broken.png").write_text("no picture")
    >>> run(work("retriever"), [home], home / "vectors")
    {'pictures': 2, 'new': 2, 'bad': 1}
    """
    if runner not in RUNNERS or form not in FORMS or workers < 1 or (per_part is not None and per_part < 1):
        raise ValueError(
            f"runner={runner!r}, form={form!r}, workers={workers}, per_part={per_part}: expected one of "
            f"{', '.join(RUNNERS)}, one of {', '.join(FORMS)}, and at least 1"
        )
    job = Job(work, os.fspath(out) if "://" in os.fspath(out) else str(Path(out).absolute()), form)
    if form == "parquet":
        _arrow()  # now, not after the first part
    with contextlib.ExitStack() as held:
        if "://" not in job.out and not held.enter_context(alone(Path(job.out))):
            raise ValueError(f"another process writes to {out}: wait for it, or choose another folder")
        _check_same(job)
        wanted, done = pictures_of(pictures), {row["picture"] for row in _written(job, ())}
        left = [name for name in wanted if _text(name) not in done]
        per_part = per_part or min(PER_PART, max(AT_ONCE, -(-len(left) // (PARTS_EACH * workers))))
        parts = [left[at : at + per_part] for at in range(0, len(left), per_part)]
        if parts:
            engine = {"here": _here, "spark": _spark, "ray": _ray}.get(runner) or functools.partial(_beam, runner)
            engine(job, parts, workers, options)
        bad = sum("error" in row for row in _written(job, ("error",)))
    return {"pictures": len(done) + len(left), "new": len(left), "bad": bad}


def rows(out: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """Yield what a folder has: {"picture": …, "result": …}, or "error" instead of "result", in no particular order."""
    yield from _written(Job(Work("", lambda: list), os.fspath(out), ""), ("result", "error"))


# --- a part: what one worker does at a time


class Job(NamedTuple):
    """What a worker is told, beside the names of the pictures of its part."""

    work: Work
    out: str
    form: str


_loaded: dict[str, Callable[[list], Iterable]] = {}  # by the name of its work, once in a process
_turn = threading.Lock()


def do_part(job: Job, names: list[str]) -> int:
    """Work on the pictures of a part and write the results: first those that are bad, then the part, which counts."""
    done = list[dict[str, Any]]()
    with _turn:  # some engines have many threads; the model has one
        does = _loaded[job.work.name] = _loaded.get(job.work.name) or job.work.load()
        for at in range(0, len(names), AT_ONCE):
            opened = [_opened(name) for name in names[at : at + AT_ONCE]]
            found = iter(outcomes(does, [one for one in opened if not isinstance(one, OSError)]))
            for name, one in zip(names[at:], opened, strict=False):
                row = {"error": f"could not be read: {one}"} if isinstance(one, OSError) else next(found)
                done.append({"picture": _text(name), **row})
    key = hashlib.sha256(json.dumps([job.work.name, names]).encode()).hexdigest()[:16]
    good, bad = ([row for row in done if name in row] for name in ("result", "error"))
    if bad:
        _put(f"{job.out}/_bad-{key}.jsonl", _lines(bad))
    empty = "" if good else "_"  # a table without rows would have another type than the others
    _put(f"{job.out}/{empty}part-{key}.{job.form}", _lines(good) if job.form == "jsonl" or not good else _table(good))
    return len(names)


def _opened(name: str) -> Any:
    """Return what a name stands for: a path, or the bytes at an address, or the error of reading them."""
    try:
        return remote(name).cat_file(name) if "://" in name else Path(name)
    except OSError as error:
        return error


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")  # a file name may contain any bytes


def _lines(found: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found).encode()


def _table(found: list[dict]) -> bytes:
    """Return rows as a Parquet file: picture, result (text, a number, names, or a vector of fixed width)."""
    pyarrow, parquet = _arrow()
    results = [row["result"] for row in found]
    vectors = bool(results) and isinstance(results[0], list) and isinstance((results[0] or [0])[0], float)
    kind = pyarrow.list_(pyarrow.float32(), len(results[0])) if vectors else None
    names = pyarrow.array([row["picture"] for row in found], pyarrow.string())
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"picture": names, "result": pyarrow.array(results, kind)}), file)
    return file.getvalue()


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('form="parquet" is written by pyarrow: pip install pyarrow') from error
    return pyarrow, pyarrow.parquet


# --- the folder


def _put(path: str, content: bytes) -> None:
    if "://" in path:
        remote(path).pipe_file(path, content)
    else:
        write(path, content)


def _get(path: str) -> bytes:
    return remote(path).cat_file(path) if "://" in path else Path(path).read_bytes()


def _names_in(out: str) -> list[str]:
    if "://" in out:
        files = remote(out)
        return [path.rpartition("/")[2] for path in files.ls(out, detail=False)] if files.exists(out) else []
    return os.listdir(out) if os.path.isdir(out) else []


def _check_same(job: Job) -> None:
    """Refuse a folder with results of other work, or with something else."""
    about = {"work": job.work.name, "form": job.form}
    names = [name for name in _names_in(job.out) if name[0] != "."]
    if ABOUT in names:
        found = json.loads(_get(f"{job.out}/{ABOUT}"))
        if found != about and any("part-" in name for name in names):
            raise ValueError(f"{job.out} holds results of {found}, not of {about}: choose another folder")
    elif names:
        raise ValueError(f"{job.out} holds something else ({min(names)}): choose another folder")
    if "://" in job.out:
        remote(job.out).makedirs(job.out, exist_ok=True)
    _put(f"{job.out}/{ABOUT}", json.dumps(about, indent=1, ensure_ascii=False).encode())


def _written(job: Job, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the parts that are whole; remove what killed workers left, whose pictures are done again.

    A picture is yielded once, even if a worker that outlived its run wrote it beside another.
    """
    names, seen = _names_in(job.out), set[str]()
    parts = {match[1]: name for name in names if (match := re.fullmatch(r"_?part-(\w+)\.(jsonl|parquet)", name))}
    for key, name in parts.items():
        files = [one for one in (name, f"_bad-{key}.jsonl") if one in names and not one.startswith("_part")]
        for file in files:  # `_part-…` has no rows
            for row in _read(f"{job.out}/{file}", ("picture", *fields)):
                if row["picture"] not in seen:
                    seen.add(row["picture"])
                    yield row
    if job.form:  # a run's; readers change nothing
        for name in names:
            if (match := re.fullmatch(r"_bad-(\w+)\.jsonl", name)) and match[1] not in parts:
                remote(job.out).rm_file(f"{job.out}/{name}") if "://" in job.out else os.remove(f"{job.out}/{name}")


def _read(path: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    try:
        if path.endswith(".parquet"):
            table = _arrow()[1].ParquetFile(io.BytesIO(_get(path)))
            return table.read([name for name in fields if name in table.schema_arrow.names]).to_pylist()
        lines = [json.loads(line) for line in _get(path).splitlines()]
    except ImportError:
        raise
    except Exception as error:  # pyarrow's and JSON's; a disk that was full or lost power
        raise ValueError(f"{path} is damaged ({error}): remove it, and run again, which makes it anew") from error
    return [{name: row[name] for name in fields if name in row} for row in lines]


# --- engines


def _here(job: Job, parts: list[list[str]], workers: int, options: Sequence[str]) -> None:
    """Work in this process, or in processes of this machine that share its cores."""
    if options:
        raise ValueError(f"options {list(options)}: the runner here has none")
    total, done = sum(map(len, parts)), 0
    with progress("pictures", total) as update:
        for count in _counts(job, parts, min(workers, len(parts))):
            done += count
            update(done)


def _counts(job: Job, parts: list[list[str]], workers: int) -> Iterator[int]:
    if workers == 1:
        yield from (do_part(job, names) for names in parts)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    fresh = multiprocessing.get_context("spawn")  # a fork of a process that has TensorFlow hangs
    pool = ProcessPoolExecutor(workers, fresh, initializer=_share_cores, initargs=(workers,))
    try:
        yield from (one.result() for one in as_completed([pool.submit(do_part, job, names) for names in parts]))
    except BrokenProcessPool as error:
        raise RuntimeError("a worker died (of memory?): run again, which goes on with what is left") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _share_cores(workers: int) -> None:
    """Give a worker its share of the cores, before it loads what computes, and let it end with its parent."""
    each = str(max(1, (os.cpu_count() or 1) // workers))
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, each)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """End a worker whose parent was killed: the next run would otherwise work on the same pictures beside it."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _beam(runner: str, job: Job, parts: list[list[str]], workers: int, options: Sequence[str]) -> None:
    beam = needed("apache_beam", "beam")
    flags = [f"--runner={BEAM[runner]}", *options]
    if runner == "direct":
        flags += [f"--direct_num_workers={workers}"] + ["--direct_running_mode=multi_processing"] * (workers > 1)
    with beam.Pipeline(options=beam.options.pipeline_options.PipelineOptions(flags)) as pipeline:
        _ = pipeline | beam.Create(parts) | beam.Reshuffle() | beam.Map(functools.partial(do_part, job))


def _spark(job: Job, parts: list[list[str]], workers: int, options: Sequence[str]) -> None:
    """Work in the processes of a Spark session: the one that is open, or a new one."""
    builder = needed("pyspark.sql", "spark").SparkSession.builder.appName("vtx_keras")
    settings = {"spark.master": f"local[{workers}]", **dict(one.split("=", 1) for one in options)}
    for name, value in settings.items():
        builder = builder.config(name, value)
    builder.getOrCreate().sparkContext.parallelize(parts, len(parts)).foreach(functools.partial(do_part, job))


def _ray(job: Job, parts: list[list[str]], workers: int, options: Sequence[str]) -> None:
    """Work in a pool of Ray's actors, each of which loads the model once."""
    ray, data = needed("ray", "ray"), needed("ray.data", "ray")
    if not ray.is_initialized():
        ray.init(*options, num_cpus=None if options else workers + 1, log_to_driver=False, include_dashboard=False)

    class Worker:
        def __call__(self, batch: dict) -> dict:
            return {"done": [do_part(job, json.loads(names)) for names in batch["names"]]}

    todo = data.from_items([{"names": json.dumps(names)} for names in parts])
    todo.repartition(len(parts)).map_batches(Worker, batch_size=1, concurrency=workers).materialize()
