"""Write the stored figures into the README and pages of docs/, between markers: python tools/readme.py

A table begins with `<!-- name -->` and ends with `<!-- end -->`. A test compares both with what is stored.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from recipes import cards, page  # noqa: E402  (the checkout's recipes, whatever the current folder)
from recipes.systems import page as systems  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
FORMATS = {"savedmodel": "SavedModel", "litert": "LiteRT", "onnx": "ONNX"}
RUNTIMES = {
    "litert int8": "LiteRT int8",
    "litert float32": "LiteRT float32",
    "onnx float32": "ONNX float32",
    "savedmodel float32": "SavedModel",
    "keras": "`generate`",
}
LOADS = {
    ("base", 1, 1): "`base`, one picture",
    ("base", 1, 4): "`base`, 4 beams",
    ("base", 32, 1): "`base`, batch of 32",
    ("tiny", 1, 1): "`tiny`, one picture",
    ("tiny", 1, 4): "`tiny`, 4 beams",
    ("tiny", 32, 1): "`tiny`, batch of 32",
}


def exports() -> str:
    """Return the table of the released captioner in other formats."""
    rows = [
        [f"{FORMATS[row['format']]} {row['quantize']}", row["identical"], metrics(row), f"{row['megabytes']:.1f}"]
        for row in json.loads((RESULTS / "export_tasks.json").read_text())["rows"]
        if row["task"] == "captioner"
    ]
    return cards.table(["released captioner, 274 pictures", "captions identical", "word F1", "MB"], rows)


def metrics(row: dict) -> str:
    """Return the file's metric beside the model's."""
    return f"{row['metric_artifact']:.3f} (model {row['metric_model']:.3f})"


def speed() -> str:
    """Return the table of how many times less CPU time than the peer each format takes."""
    by_load = {
        (row["shape"], row["batch"], row["beams"]): row["times_faster"]
        for row in json.loads((RESULTS / "export.json").read_text())["rows"]
        if "times_faster" in row
    }
    rows = [[title, *(f"{by_load[load][runtime]:.1f} ×" for runtime in RUNTIMES)] for load, title in LOADS.items()]
    return cards.table(["captions, times faster", *RUNTIMES.values()], rows)


def fusions() -> str:
    """Return the comparison of fusions with its advice, once it has been measured."""
    if not page.STORED.is_file():
        return "`python -m recipes.ablation train` compares them on equal terms: data, budget, search, seeds."
    advice = page.ADVICE.read_text(encoding="utf-8").strip()
    return f"{page.overview()}\n\n{advice}\n\nOn equal terms: [zoo/README.md](zoo/README.md) tells how."


def catalogue() -> str:
    """Return the table of published checkpoints that have a tag."""
    from vtx_keras.checkpoints.published import CATALOGUE

    rows = [
        [
            f"`{tag}`",
            f"`{one.name}`",
            one.repository,
            f"{one.parameters} M",
            f"{one.megabytes:,d} MB",
            f"{one.figure} ({one.source})",
            one.licence,
        ]
        for tag, one in CATALOGUE.items()
    ]
    return cards.table(["tag", "model", "repository", "weights", "file", "published figure", "licence"], rows)


def published() -> str:
    """Return the table of CPU time beside that of transformers, and the memory of loading."""
    report = json.loads((RESULTS / "published.json").read_text())
    rows = {row["what"]: row for row in report["rows"]}
    titles = {"blip": "BLIP-base, 20 words, greedy", "clip": "CLIP B/32, a picture"}
    names = ["transformers", *(name for name in (*RUNTIMES, "keras") if name in {*rows["blip"], *rows["clip"]})]
    names = list(dict.fromkeys(["transformers", "transformers, compiled", *names]))
    lines = [[title, *(_times(rows[what], name, "times_faster") for name in names)] for what, title in titles.items()]
    head = [
        "CPU time, one thread",
        *(RUNTIMES.get(name, {"transformers": "transformers, eager"}.get(name, name)) for name in names),
    ]
    loading, same = rows["loading"], rows["blip"]["same_ids"]["litert int8 of 20 pictures"]
    exporting = max(row["times_the_weights"] for row in json.loads((RESULTS / "memory.json").read_text())["rows"])
    notes = [
        f"On {report['hardware']}, random weights, in turns (`python benchmarks/published.py`).",
        "The files in float32 give the same words as transformers; BLIP-base in int8 gives them",
        f"for {same} of 20 pictures, ten of them noise, with random weights, whose words are nearly tied:",
        "verify a file of yours (`vtx export` does). A process that runs the file alone takes, for BLIP-base,",
        f"{', '.join(f'{RUNTIMES[name]} {peak:,d} MB' for name, peak in rows['blip']['peak_megabytes'].items())}.",
        f"Loading BLIP-base takes {loading['times_the_file']:.1f} × its file of {loading['file_gb']:.1f} GB in memory;",
        f"an export up to {exporting:.1f} × the float32 weights (`benchmarks/memory.py`).",
    ]
    return f"{cards.table(head, lines)}\n\n{' '.join(notes)}"


def _times(row: dict, name: str, faster: str) -> str:
    if name not in row:
        return "–"
    return f"{row[name]['median_ms']:,.0f} ms" + ("" if name == "transformers" else f", {row[faster][name]:.1f} ×")


def tuning() -> str:
    """Return what a fine-tune of BLIP-base takes."""
    rows = {row["what"]: row for row in json.loads((RESULTS / "published.json").read_text())["rows"]}
    row = rows["tuning"]
    return (
        f"Measured on two CPU cores: {row['peak_gb']:.1f} GB at most; {row['encoding_64_pictures_s']:.0f} s to encode "
        f"64 pictures once, and {row['next_epoch_s']:.0f} s for an epoch over them (four updates of 16)."
    )


CHECKPOINTS = {"catalogue": catalogue, "speed": published, "tuning": tuning}
TABLES = {"released": lambda: page.released("zoo/"), "exports": exports, "speed": speed, "fusions": fusions}


def with_language() -> str:
    """Return the table of captioners whose words are a language model's."""
    lines = ["| | learns | CPU minutes | validation loss | CIDEr | BLEU-4 |", "|---|---|---|---|---|---|"]
    for row in json.loads((RESULTS / "language.json").read_text())["rows"]:
        figures = [f"{row[name]:.3f} [{row[f'{name}_interval'][0]:.3f}, {row[f'{name}_interval'][1]:.3f}]"
                   for name in ("cider", "bleu_4")]  # fmt: skip
        learns = f"{row['trainable_million']:.1f} M" if "steps" in row else ""
        trained = [f"{row['cpu_minutes']:.0f}", f"{row['validation_loss']:.2f}"] if "steps" in row else ["", ""]
        lines.append(f"| {' | '.join([row['model'], learns, *trained, *figures])} |")
    return "\n".join(lines)


def chat() -> str:
    """Return the table of a language model's speed."""
    lines = ["| | ms | as fast | MB |", "|---|---|---|---|"]
    rows = json.loads((RESULTS / "chat.json").read_text())["rows"]
    for row in (row for row in rows if row["what"] != "question"):
        size = f"{row['megabytes']:.0f}" if "megabytes" in row else ""
        lines.append(f"| {row['side']} | {row['median_ms']:.0f} | {row['speed']:.1f} × | {size} |")
    first, second = (row["median_ms"] for row in rows if row["what"] == "question")
    told = (
        f"A second question about a picture, of `cross_attn_vqa`: {second:.0f} ms, after {first:.0f} ms for the first."
    )
    return "\n".join([*lines, "", told])


LANGUAGE = {"fusions": with_language, "chat": chat}


def drawing() -> str:
    """Return the table of the fusions that draw, or a line where they were not compared yet."""
    path = RESULTS / "drawing.json"
    if not path.is_file():
        return "Not compared yet: `python benchmarks/drawing.py` does it."
    report = json.loads(path.read_text())
    names = ("colour_right", "size_right", "shape_right", "frechet_mobilenet_v2", "diversity")
    rows = []
    for row in report["rows"]:
        digits = {name: 1 if row[name] > 9 else 3 for name in names}
        figures = [f"{row[one]:.{digits[one]}f} ± {row[f'{one}_spread'] / 2:.{digits[one]}f}" for one in names]
        size = f"{row['parameters'] / 1e6:.2f} M" if "parameters" in row else ""
        rows.append([row["fusion"] if row["fusion"] == "real" else f"`{row['fusion']}`", size, *figures])
    table = cards.table(["", "generator", *(name.replace("_", " ") for name in names)], rows)
    about = f"At equal steps, 32 px, three seeds (± half of their range): `{report['command']}`, {report['hardware']}."
    return f"{table}\n\n{about}"


DRAWING = {"drawing": drawing}


def _compressed(part: str) -> tuple[list[dict], str]:
    path = RESULTS / "compress.json"
    report = json.loads(path.read_text()) if path.is_file() else {"rows": [], "hardware": ""}
    return [row for row in report["rows"] if row["part"] == part], report["hardware"]


def alone() -> str:
    """Return the table of single ways to a smaller model."""
    rows, hardware = _compressed("alone")
    if not rows:
        return "Not measured yet: `python benchmarks/compress.py alone` does it."
    lines = [[row["model"], f"{row['parameters'] / 1e6:.2f} M", _interval(row)] for row in rows]
    about = f"{rows[0]['rows']:,} pictures of Flickr8k's validation split, greedy, {hardware}."
    return f"{cards.table(['', 'parameters', 'CIDEr'], lines)}\n\n{about}"


def together() -> str:
    """Return the tables of the search: its steps, the result on the test split, and what exported files cost."""
    rows, _ = _compressed("search")
    if not rows:
        return "Not measured yet: `python benchmarks/compress.py together` does it."
    steps = [
        [row["model"].partition(": ")[2], f"{row['parameters'] / 1e6:.2f} M", f"{row['gigaflops']:.2f}", _interval(row),
         "yes" if row["kept"] else "no", f"{row['cpu_minutes']:.0f}"]
        for row in rows
    ]  # fmt: skip
    held, others = (
        [[row["model"], f"{row['parameters'] / 1e6:.2f} M", _interval(row)] for row in _compressed(part)[0]]
        for part in ("test", "elsewhere")
    )
    files = [
        [row["model"], f"{row['megabytes']:.1f}", f"{row['ms']:.1f}", f"{row['identical']}/{row['of']}"]
        for row in _compressed("files")[0]
    ]
    parts = [
        cards.table(["step", "parameters", "GFLOP", "CIDEr, validation", "held", "CPU minutes"], steps),
        cards.table(["official test split", "parameters", "CIDEr"], held),
        cards.table(["photographs of other things (`coco_sample`)", "parameters", "CIDEr"], others),
        cards.table(["file", "MB", "ms per picture, one thread", "identical to its model"], files),
    ]
    parts.append(f"`{rows[0]['command']}`.")
    return "\n\n".join(parts)


def _interval(row: dict) -> str:
    return f"{row['cider']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def starting() -> str:
    """Return what vtx predict takes, by runtime."""
    path = RESULTS / "start.json"
    if not path.is_file():
        return "Not measured yet: `python benchmarks/start.py` does it."
    report = json.loads(path.read_text())
    rows = [
        [row["what"], row["runtime"], f"{row['seconds']:.2f}", f"{row['cpu_seconds']:.2f}",
         f"{row['peak_megabytes']:.0f}", "yes" if row["same_words"] else "no"]
        for row in report["rows"]
    ]  # fmt: skip
    head = ["", "runtime", "seconds", "CPU seconds", "peak MB", "same words"]
    return f"{cards.table(head, rows)}\n\n{report['hardware']} (`{report['command']}`)."


COMPRESS = {"alone": alone, "together": together, "start": starting}


def searching() -> str:
    """Return what a search takes, exact and by the graph."""
    report = json.loads((RESULTS / "search.json").read_text())
    rows = [
        [
            f"{row['pictures']:,}",
            f"{row['exact_ms']:.0f}",
            f"{row['find_ms']:.0f} ({row['recall_10']:.3f})" if "find_ms" in row else "-",
            f"{row['build_s']:.0f}" if "build_s" in row else "-",
            f"{row['open_s']:.2f}",
            f"{row['megabytes']:,.0f}",
        ]
        for row in report["rows"]
    ]
    head = ["pictures", "ms, exact", "ms by the graph (recall@10)", "s to build it", "s to open", "MB of index"]
    return f"{cards.table(head, rows)}\n\n{report['hardware']} (`{report['command']}`)."


def many() -> str:
    """Return how fast each runner is."""
    report = json.loads((RESULTS / "many.json").read_text())
    timed = [row for row in report["rows"] if "a_second" in row]
    rows = [
        [f"`{row['runner']}`", row["runtime"], str(row["workers"]), f"{row['a_second']:.1f}", f"{row['seconds']:.0f}",
         str(row["lost"]), str(row["twice"])]
        for row in timed
    ]  # fmt: skip
    head = ["runner", "runtime", "workers", "pictures a second, start included", "seconds", "lost", "twice"]
    count = sum(row["bad"] for row in timed) // len(timed)
    return (
        f"{cards.table(head, rows)}\n\n1,000 files, of which {count} are no pictures, by the released captioner; "
        f"{report['hardware']} (`{report['command']}`)."
    )


def killed() -> str:
    """Return what a kill in the middle loses."""
    rows = [
        [
            f"`{row['runner']}`",
            str(row["killed_after_parts"]),
            str(row["done_again"]),
            str(row["lost"]),
            str(row["twice"]),
        ]
        for row in json.loads((RESULTS / "many.json").read_text())["rows"]
        if "killed_after_parts" in row
    ]
    return cards.table(["runner", "parts written before", "pictures of the second run", "lost", "twice"], rows)


BATCH = {"many": many, "killed": killed}


def limits() -> str:
    """Return how near each part is to what the machine can do."""
    report = json.loads((RESULTS / "limits.json").read_text())
    named = {"encode": "the image encoder", "word": "a further word", "step": "a training step, batch 8"}
    sides = {"litert": "LiteRT", "onnx": "ONNX", "keras": "Keras", "xla": "Keras under XLA"}
    rows = [
        [f"`{row['shape']}`, {named[row['side'].split()[-1]]}", sides[row["side"].split()[0]],
         f"{row['ms']:.{0 if row['ms'] > 100 else 2}f}", f"{row['limit_ms']:.{0 if row['limit_ms'] > 100 else 2}f}",
         f"{row['of_limit']:.0%}"]
        for row in sorted(report["rows"], key=lambda row: list(named).index(row["side"].split()[-1]))
    ]  # fmt: skip
    machines = dict.fromkeys((row["machine_gigaflops"], row["machine_gigabytes"]) for row in report["rows"])
    rates = " and ".join(f"{flops:.0f} GFLOP/s and {size:.0f} GB/s" for flops, size in machines)
    head = ["part", "runtime", "ms", "ms at least", "of limit"]
    machine = f"{report['hardware']}: {rates}, by the size of what a word reads"
    return f"{cards.table(head, rows)}\n\n{machine} (`{report['command']}`)."


SEARCH = {"speed": searching}
SPEED = {"limits": limits}


def page_in_browsers() -> str:
    """Return how many captions are the model's own in a browser and in Node."""
    report = json.loads((RESULTS / "page.json").read_text())
    rows = [
        [row["side"], f"{row['same']} of {row['pictures']}", f"{row['ms']:.0f}" if "ms" in row else "",
         ", ".join(row["other"])]
        for row in report["rows"]
    ]  # fmt: skip
    head = ["", "same words as Keras", "ms per picture", "others"]
    return f"{cards.table(head, rows)}\n\n{report['hardware']} (`{report['command']}`)."


WEB = {"page": page_in_browsers}


def served() -> str:
    """Return what a server took under load, and what client and server took of the cores."""
    report = json.loads((RESULTS / "load.json").read_text())
    rows = []
    for row in (row for row in report["rows"] if row["part"] == "load"):
        times = [f"{row[name]:,.0f}" if name in row else "" for name in ("p50_ms", "p99_ms")]
        cpu = [f"{1000 * row[name] / row['pictures']:.1f}" if name in row else ""
               for name in ("client_cpu_s", "server_cpu_s")]  # fmt: skip
        memory = " to ".join(map(str, row.get("server_megabytes", ())))
        rows.append([row["side"], f"{row['connections']}", f"{row['per_s']:.0f}", *times, f"{row['lost']}",
                     f"{row['wrong']}", *cpu, memory])  # fmt: skip
    head = ["", "connections", "pictures/s", "p50 ms", "p99 ms", "lost", "wrong", "client, CPU ms", "server, CPU ms",
            "server, MB"]  # fmt: skip
    about = [row for row in report["rows"] if row["part"] == "load"][-1]
    told = (
        f"{about['pictures']:,} pictures, {about['unreadable']} of them garbage; {report['hardware']}, shared by "
        f"client and server (`{report['command']}`). CPU ms are per picture. Killed, the server was away for "
        f"{about['away_s']:.0f} s."
    )
    return f"{cards.table(head, rows)}\n\n{told}"


def batched() -> str:
    """Return what a picture takes in a batch."""
    rows = [row for row in json.loads((RESULTS / "load.json").read_text())["rows"] if row["part"] == "batch"]
    sizes = list(dict.fromkeys(row["batch"] for row in rows))
    lines = [
        [FORMATS[name], *(f"{row['cpu_ms']:.0f}" for row in rows if row["runtime"] == name)]
        for name in ("savedmodel", "onnx")
    ]
    return cards.table(["CPU ms per picture, in a batch of", *map(str, sizes)], lines)


SERVE = {"load": served, "batch": batched}
SYSTEMS = systems.TABLES


def filled(text: str, tables: dict[str, Callable[[], str]] = TABLES) -> str:
    """Return the text with the stored figures between its markers."""
    for name, make in tables.items():
        before, begin, after = text.partition(f"<!-- {name} -->\n")
        assert begin, f"the page has no place for {name}"
        _, end, after = after.partition("<!-- end -->")
        text = f"{before}{begin}\n{make()}\n\n{end}{after}"
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
    guides = {"checkpoints": CHECKPOINTS, "language": LANGUAGE, "drawing": DRAWING, "systems": SYSTEMS}
    guides |= {"compress": COMPRESS, "search": SEARCH, "speed": SPEED, "web": WEB, "batch": BATCH, "serve": SERVE}
    for name, tables in guides.items():
        guide = ROOT / "docs" / f"{name}.md"
        guide.write_text(filled(guide.read_text(encoding="utf-8"), tables), encoding="utf-8")
