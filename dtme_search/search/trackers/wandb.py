"""Weights & Biases: its server, or a folder to synchronise later."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from dtme_search.search.trackers.background import LAST_SECONDS
from dtme_search.search.trackers.points import TrackedRun, Value, axis_of
from dtme_search.search.trackers.tracker import Tracker

if TYPE_CHECKING:
    import wandb


class WandB(Tracker):
    """Writes to Weights & Biases: the group of a study has a run for it and one for each trial.

    ``WANDB_MODE``, ``WANDB_API_KEY``, ``WANDB_PROJECT`` and so on say where and how, as for every program
    that uses W&B. It does not let two processes write to one run, so with several workers the run of the
    study is written by the first.
    """

    extra = "wandb"

    def __init__(self) -> None:
        super().__init__()
        self._runs: dict[str, wandb.Run] = {}
        self._lock: FileLock | None = None

    def begin(self, run: TrackedRun, settings: Mapping[str, Value]) -> None:
        if run.parent is not None or self._owns(run):
            self._open(run).config.update(dict(settings), allow_val_change=True)

    def values(self, run: TrackedRun, values: Mapping[str, float], step: int) -> None:
        if run.key in self._runs:
            opened = self._runs[run.key]
            for name in values:
                opened.define_metric(name, step_metric=axis_of(name))
            opened.log({**values, **{axis_of(name): step for name in values}})

    def text(self, run: TrackedRun, name: str, text: str) -> None:
        if run.key in self._runs:
            Path(self._runs[run.key].dir, name).write_text(text, encoding="utf-8")

    def picture(self, run: TrackedRun, name: str, path: Path) -> None:
        import wandb

        self._open(run).log({name: wandb.Image(str(path))})

    def end(self, run: TrackedRun, facts: Mapping[str, Value]) -> None:
        if run.key in self._runs:
            opened = self._runs.pop(run.key)
            opened.summary.update(dict(facts))
            opened.finish(exit_code=int(facts.get("state") == "failed"))
        if run.parent is None and self._lock is not None:
            self._lock.release()

    def _owns(self, run: TrackedRun) -> bool:
        """Whether this process writes the run of the study; the system frees the lock when it dies."""
        self._lock = FileLock(run.study.folder / "wandb.lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            self._lock = None
        return self._lock is not None

    def _open(self, run: TrackedRun) -> wandb.Run:
        import wandb

        if run.key not in self._runs:
            # Not silent, it would ask for a login in the middle of a search.
            wandb.setup(wandb.Settings(silent=True))
            # Nothing of the surroundings (arguments, git, machine), which nobody asked to publish.
            settings = wandb.Settings(
                console="off",
                disable_git=True,
                disable_job_creation=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
                finish_timeout=LAST_SECONDS,
            )
            self._runs[run.key] = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "dtme-search"),
                group=run.study.name,
                job_type=run.label.partition("-")[0],
                name=run.label,
                id=run.key,
                resume="allow",
                reinit="create_new",
                settings=settings,
            )
        return self._runs[run.key]
