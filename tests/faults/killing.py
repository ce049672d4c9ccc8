"""A study of small trials that other processes work on, and what must hold however they ended."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from filelock import FileLock
from optuna.trial import TrialState
from tiny import grown, write_tiny_study

from dtme_search.search import LoadedStudy, optimize

CHANGES = {
    "tasks": {"depth": {}, "edge": {}},
    "train.num_steps": 8,
    "train.num_evaluations": 4,
    "train.checkpoint_seconds": 0.0,
}
"""Trials of about a second, evaluated after steps 2, 4, 6 and 8, with a checkpoint after every step."""
POINTS = [
    {"expansion.policy": "none"},
    grown(start=0.0),
    grown(start=0.5),
    *(
        grown(*layers, start=start)
        for start in (0.0, 0.5)
        for layers in (
            ("modulate", "none", "none"),
            ("none", "expand", "none"),
            ("none", "none", "both"),
            ("modulate", "expand", "none"),
            ("both", "both", "both"),
        )
    ),
]
"""Growth at two steps, by conflicts and by layer; trunks, reports and equal work are shared."""


def write(folder: Path, name: str = "tiny") -> str:
    return write_tiny_study(folder, CHANGES, name=name, trials=len(POINTS), enqueue=POINTS)


def values_by_point(study: LoadedStudy) -> dict[str, list[float]]:
    """Values of every finished trial by what it proposed."""
    return {
        repr(sorted(trial.params.items())): trial.values
        for trial in study.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    }


def assert_nothing_was_lost(study: LoadedStudy, undisturbed: dict[str, list[float]], *folders: Path) -> None:
    """Every point once, with the value of the undisturbed study; nothing twice, nothing left behind."""
    trials = study.optuna.get_trials(deepcopy=False)
    states = Counter(trial.state.name for trial in trials)
    assert states["COMPLETE"] == len(POINTS), states
    assert not states["RUNNING"] and not states["WAITING"], states
    assert values_by_point(study) == undisturbed
    failures = [trial.user_attrs["error"] for trial in trials if "error" in trial.user_attrs]
    assert failures == []

    runs = Counter(run.state for run in study.records.runs(study.name))
    assert runs["complete"] == len(POINTS) and not runs["running"] and not runs["failed"], runs
    baselines = study.records.baselines()
    assert sorted(row.task for row in baselines) == ["depth", "edge"]
    if len(folders) == 1:  # machines with folders of their own train trunks of their own
        trunks = Counter(row.fingerprint for row in study.records.trunks(study.name))
        assert set(trunks.values()) <= {1}, f"trained twice: {trunks}"
    for folder in folders:
        for lock in folder.rglob("*.lock"):
            with FileLock(lock, timeout=0):
                pass
        # A machine that lost a trial to another one keeps the checkpoint: that one may die, too.
        left = [path for path in (folder / study.name).rglob("*") if is_of_one_run(path)]
        assert left == [] or len(folders) > 1


def is_of_one_run(path: Path) -> bool:
    """Whether a file serves a run only until it ends."""
    return path.suffix == ".partial" or path.name in ("checkpoint.pt", "result.json")


@dataclass
class Crew:
    """Processes that each run ``optimize`` on one study.

    Forked, because importing everything takes longer than a trial.

    Attributes:
        file: The study; beside it tracebacks are left.
        workdir: Folders; of each worker, its own below it where ``apart``.
        storage: Database; in the study's folder by default.
    """

    file: str
    workdir: Path
    storage: str | None = None
    apart: bool = False
    processes: dict[int, BaseProcess] = field(default_factory=dict)
    kills: int = 0

    def start(self, place: int) -> None:
        """A worker in a place whose last one has ended."""
        process = multiprocessing.get_context("fork").Process(target=self._work, args=(place,))
        process.start()
        self.processes[place] = process

    def folder(self, place: int) -> Path:
        return self.workdir / str(place) if self.apart else self.workdir

    def kill(self, places: list[int]) -> None:
        """End workers without a word, at one moment."""
        for place in places:
            os.kill(self.processes[place].pid or 0, signal.SIGKILL)
        for place in places:
            self.processes[place].join()
            self.kills += 1

    @property
    def alive(self) -> list[int]:
        return [place for place, process in self.processes.items() if process.is_alive()]

    @property
    def mistakes(self) -> list[str]:
        """Tracebacks of workers that ended by themselves."""
        return [path.read_text() for path in sorted(Path(self.file).parent.glob("*.traceback"))]

    def join(self, timeout: float = 240.0) -> None:
        """Wait until all of them have ended."""
        until = time.monotonic() + timeout
        for process in self.processes.values():
            process.join(max(0.0, until - time.monotonic()))
            assert not process.is_alive(), "a worker hangs"

    def end(self) -> None:
        """Leave no process behind, whatever the test found."""
        self.kill(self.alive)

    def _work(self, place: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            optimize(self.file, workdir=self.folder(place), storage=self.storage, device="cpu")
        except BaseException:
            Path(self.file).with_name(f"{os.getpid()}.traceback").write_text(traceback.format_exc())
            os._exit(1)
        os._exit(0)


def kill_at_random(crew: Crew, size: int, most: int, dice: random.Random) -> None:
    """Keep ``size`` workers at work and kill one every so often, sometimes all, until the study is done.

    Args:
        crew: The workers.
        size: How many.
        most: Kills after which they are left alone.
        dice: Where, when and whom.
    """
    for place in range(size):
        crew.start(place)
    while crew.alive:
        time.sleep(dice.expovariate(1 / 0.7))
        assert crew.mistakes == []
        if crew.kills >= most:
            break
        victims = crew.alive if dice.random() < 0.1 else [dice.choice(crew.alive)] if crew.alive else []
        crew.kill(victims)
        for place in victims:
            crew.start(place)
    crew.join()
    assert crew.mistakes == []
