"""Trials per minute with 1, 2, 4, 8 workers, and how long they wait for each other to propose.

    python benchmarks/throughput.py [--workers 1 2 4 8] [--kinds real waiting empty] [--seconds 30]
                                    [--databases sqlite postgres] [--json FILE]
    python benchmarks/throughput.py --from benchmarks/data/throughput.json --into docs/scaling-costs.md

Workers are processes as `dtme-search worker` starts them. They begin together when all are ready, so imports
and reading the data do not count; what a start takes is printed beside. Kinds of trials:

- `real`: ten steps of a tiny network on built-in scenes, a second or two of one core;
- `waiting`: the same machinery around two seconds of sleep, as if every worker had a device of its own;
- `empty`: the machinery alone, which tells how many proposals a second the asking lock lets through.

Nothing is shared between trials (`--no-reuse`), so that all of them are alike.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from _page import put_table

PAUSE = 2.0
"""Seconds that a waiting trial sleeps."""
KINDS = ("real", "waiting", "empty")
ENDLESS = 100_000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--kinds", nargs="+", default=["empty"], choices=KINDS)
    arguments.add_argument("--databases", nargs="+", default=["sqlite"], choices=["sqlite", "postgres"])
    arguments.add_argument("--seconds", type=float, default=10.0, help="how long each count is measured")
    arguments.add_argument("--json", type=Path, help="write what was measured")
    arguments.add_argument("--from", dest="recorded", type=Path, help="print the table of a --json file")
    arguments.add_argument("--into", type=Path, help="and put it into this page")
    arguments.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.one:
        kind, workdir, seconds = chosen.one
        work(kind, Path(workdir), float(seconds))
        return
    if chosen.recorded:
        lines = table(json.loads(chosen.recorded.read_text(encoding="utf-8")))
        print("\n".join(lines))
        if chosen.into:
            put_table(chosen.into, "throughput", lines)
        return
    from scaling import database_server

    results = []
    print("database  kind     workers  trials/min  of one worker  asking: held  waited  of a trial  start s")
    with tempfile.TemporaryDirectory(prefix="dtme-throughput-") as name:
        for database in chosen.databases:
            with database_server(database, Path(name)) as url_of:
                for kind in chosen.kinds:
                    rows: list[dict[str, Any]] = []
                    for count in chosen.workers:
                        workdir = Path(name) / f"{database}-{kind}-{count}"
                        url = url_of(workdir.name.replace("-", "_"))
                        rows.append({"database": database, "kind": kind, "workers": count})
                        rows[-1] |= measure(kind, workdir, url, count, chosen.seconds)
                        print_row(rows[-1], rows[0])
                    results += rows
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(kind: str, workdir: Path, url: str | None, count: int, seconds: float) -> dict[str, Any]:
    """Make a study and let so many workers work on it at once, for so long."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"DTME_STORAGE": url} if url else {})
    command = [sys.executable, __file__, "--one"]
    subprocess.run([*command, f"make-{kind}", str(workdir), "0"], env=environment, check=True)
    began = time.perf_counter()
    workers = [
        subprocess.Popen(
            [*command, kind, str(workdir), str(seconds)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    started = time.perf_counter() - began
    answers = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        assert worker.stdout is not None
        answers.append(json.loads(worker.stdout.readline()))
        if worker.wait() != 0:
            raise SystemExit(f"a worker ended with exit code {worker.returncode}")
    return {
        "trials": sum(answer["trials"] for answer in answers),
        "trials_per_minute": sum(answer["trials"] for answer in answers) * 60 / seconds,
        "held": _median([held for answer in answers for held in answer["held"]]),
        "waited": _median([waited for answer in answers for waited in answer["waited"]]),
        "lasted": _median([lasted for answer in answers for lasted in answer["lasted"]]),
        "start_seconds": started,
    }


def work(kind: str, workdir: Path, seconds: float) -> None:
    """One worker, or the making of the study."""
    import optuna
    import timm  # noqa: F401
    import torch
    from _drawn import CONFIG, NAME, save_baselines, write_definition
    from _pretend import Meter, pretend

    from dtme_search.reporting import draw_trial
    from dtme_search.search import Listener, join
    from dtme_search.search import api as study
    from dtme_search.search.stopping import StopSwitch
    from dtme_search.search.study.preparation import prepare
    from dtme_search.search.study.settings import Settings
    from dtme_search.training.team.leader import Team

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if kind.startswith("make-"):
        options = CONFIG["model"]["backbone_options"] | ({"depth": 3} if kind == "make-real" else {})
        config = CONFIG | {"model": CONFIG["model"] | {"backbone_options": options}}
        file = write_definition(workdir, config=config, trials=ENDLESS)
        save_baselines(prepare(str(file), Settings(workdir=workdir, reuse=False), Team([device]), Listener()))
        return
    if kind != "real":
        pretend(PAUSE if kind == "waiting" else 0.0)
    meter = Meter()
    meter.install()
    plain = study.run_trials

    def together(*given: Any, **named: Any) -> None:
        (switch,) = [one for one in given if isinstance(one, StopSwitch)]
        print("ready", flush=True)
        sys.stdin.readline()
        switch._deadline = time.monotonic() + seconds
        plain(*given, **named)

    study.run_trials = together
    join(NAME, workdir=workdir, device="cpu", draw=draw_trial)
    answer = {
        "trials": len(meter.trials),
        "held": meter.asking,
        "waited": meter.waiting,
        "lasted": [trial["whole trial"][0] for trial in meter.trials],
    }
    print(json.dumps(answer), flush=True)


def print_row(row: dict[str, Any], first: dict[str, Any]) -> None:
    ratio = row["trials_per_minute"] / max(first["trials_per_minute"], 1e-9)
    print(
        f"{row['database']:9} {row['kind']:8} {row['workers']:7d}  {row['trials_per_minute']:10.1f}  "
        f"{ratio:13.2f}  {row['held']:10.3f} s  {row['waited']:6.3f}  {row['lasted']:8.2f} s  "
        f"{row['start_seconds']:9.1f}",
        flush=True,
    )


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of a Markdown table."""
    titles = {"sqlite": "SQLite", "postgres": "PostgreSQL"}
    lines = [
        "| database | trials | workers | trials a minute | of one worker | waited to propose | start |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        alike = [one for one in rows if (one["database"], one["kind"]) == (row["database"], row["kind"])]
        rate, first = row["trials_per_minute"], alike[0]["trials_per_minute"]
        cells = [
            titles[row["database"]],
            row["kind"],
            row["workers"],
            f"{rate:.0f}",
            f"{rate / first:.1f}",
            f"{row['waited']:.2f} s",
            f"{row['start_seconds']:.0f} s",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _median(values: Sequence[float]) -> float:
    return median(values) if values else float("nan")


if __name__ == "__main__":
    main()
