"""Draws a search in the terminal: a bar for the trials, a bar for the current run, a line for each result."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from dtme_search.cli.screen import Screen
from dtme_search.cli.signs import Signs
from dtme_search.search import BaselineRow, ConfirmationRow, Listener, Outcome, WorkerStatus
from dtme_search.search.trial.events import duration, tee
from dtme_search.tasks import display_metric
from dtme_search.training import Progress as RunProgress
from dtme_search.words import cell, heading

_log = logging.getLogger(__name__)

_RECOVERED = {
    "told": "its result was on disk and has been recorded",
    "continued": "another trial resumes from its last checkpoint",
    "given up": "it died too often and counts as failed",
}
_ONE_DAY = 24 * 60 * 60
"""Seconds over which speed is averaged; rich's default of half a minute is too short for trials."""


@contextmanager
def listening(screen: Screen) -> Iterator[Listener]:
    """Bars in a terminal; elsewhere, lines that report progress."""
    with TerminalListener(screen) as bars, Signs(screen.sign) as signs:
        yield tee(bars, signs.hear)


class TerminalListener(Listener):
    """Bars in a terminal, plain lines elsewhere; a context manager.

    Args:
        screen: Where to draw.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
            console=screen.console,
            transient=True,
            expand=True,
            speed_estimate_period=_ONE_DAY,
            disable=not screen.is_live,
        )
        self._trials = self._bars.add_task("trials", total=None, visible=False, note="")
        self._run = self._bars.add_task("starting", total=None, note="")
        self._table: Live | None = None
        self._around = "training"

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._table is not None:
            self._table.stop()
        self._bars.stop()

    def data_reading(self, done: int, total: int) -> None:
        self._bars.update(self._run, description="reading data", completed=done, total=total, note="")

    def baseline_started(self, task: str, index: int, count: int) -> None:
        around = self._around
        self._begin(f"baseline {task} ({index} of {count})")
        self._around = around

    def baseline_ended(self, task: str, row: BaselineRow, *, trained: bool) -> None:
        value, prior = (display_metric(number, row.unit) for number in (row.value, row.prior_value))
        how = f"trained in {row.seconds:.0f} s" if trained else "known"
        self._screen.news(f"baseline {task}: {row.metric} {value} (no-image prior {prior}), {how}")
        self._begin(self._around)  # what the baseline was trained for

    def trial_started(self, number: int, finished: int, total: int, params: Mapping[str, object]) -> None:
        self._bars.update(self._trials, completed=finished, total=total, visible=True)
        self._begin(f"trial {number}")
        _log.debug("trial %d: %s", number, dict(params))

    def progress(self, progress: RunProgress) -> None:
        losses = " ".join(f"{task} {loss:.2f}" for task, loss in progress.losses.items())
        self._bars.update(
            self._run,
            completed=progress.step,
            total=progress.total_steps,
            note=progress.note or losses,
        )

    def waiting(self, what: str) -> None:
        self._bars.update(self._run, note=f"waiting for {what}, which another worker is training")

    def scoring(self, done: int, total: int) -> None:
        self._bars.update(self._run, description="exact metrics", completed=done, total=total, note="")

    def trial_evaluated(self, number: int, step: int, delta_m_percent: float) -> None:
        _log.info("trial %d: delta_m %+.2f %% after %d steps", number, delta_m_percent, step)

    def trial_completed(self, number: int, outcome: Outcome) -> None:
        gains = ", ".join(f"{task} {gain:+.1f}" for task, gain in outcome.gains_percent.items())
        doubts = f" [not to be trusted: {', '.join(outcome.dead_tasks)}]" if outcome.dead_tasks else ""
        limits = "" if outcome.feasible else " [exceeds a limit]"
        self._screen.news(
            f"trial {number}: delta_m {outcome.delta_m_percent:+.2f} % ({gains}), "
            f"overhead {outcome.param_overhead_percent:.3f} %, "
            f"{''.join(f'{heading(name)} {cell(name, value)}, ' for name, value in outcome.further.items())}"
            f"step cost {outcome.step_cost_ratio:.2f}{limits}{doubts}"
        )
        self._bars.advance(self._trials)

    def short_of_memory(self, number: int, reason: str) -> None:
        self._screen.news(f"trial {number}: {reason}")

    def trial_recovered(self, number: int, how: str) -> None:
        self._screen.news(f"trial {number}: its process had died; {_RECOVERED[how]}")

    def trial_stopped(self, number: int, state: str, reason: str) -> None:
        self._screen.news(f"trial {number}: {state}: {reason}" if reason else f"trial {number}: {state}")
        if state == "pruned":
            self._bars.advance(self._trials)

    def repeat_started(self, trial: int, seed: int, index: int, count: int) -> None:
        self._begin(f"trial {trial} with seed {seed} ({index} of {count})")

    def repeat_ended(self, row: ConfirmationRow) -> None:
        gains = ", ".join(f"{task} {gain:+.1f}" for task, gain in json.loads(row.gains_percent).items())
        self._screen.news(
            f"trial {row.trial} with seed {row.seed}: delta_m {row.delta_m_percent:+.2f} % ({gains})"
        )

    def repeat_failed(self, trial: int, seed: int, reason: str) -> None:
        self._screen.news(f"trial {trial} with seed {seed}: failed: {reason}")

    def knowledge_found(self, study: str, num_fitting: int, num_trials: int) -> None:
        self._screen.news(f"{num_fitting} of {num_trials} trials of {study} fit this space")

    def knowledge_added(self, study: str, num_added: int, delta_m_shift: float | None) -> None:
        shift = (
            "used as is: the studies share no unexpanded point"
            if delta_m_shift is None
            else f"shifted by {delta_m_shift:+.2f} points, the difference of the unexpanded points"
        )
        self._screen.news(f"the sampler knows {num_added} trials of {study}, their delta_m {shift}")

    def workers(self, statuses: Sequence[WorkerStatus]) -> None:
        if self._table is None:
            self._bars.stop()
            self._bars.update(self._run, visible=False)
            self._table = Live(console=self._screen.console, transient=True, auto_refresh=False)
            if self._screen.is_live:
                self._table.start()
        shown = Group(table_of_workers(statuses), self._bars.get_renderable())
        self._table.update(shown, refresh=self._screen.is_live)

    def worker_died(self, index: int, how: str, log: str) -> None:
        self._screen.news(f"worker {index} ended, {how}; another takes its place. See its log {log}")

    def _begin(self, description: str) -> None:
        self._around = description
        # A bar that is only reset would keep the old total until the first sign of life.
        self._bars.remove_task(self._run)
        self._run = self._bars.add_task(description, total=None, note="", visible=self._table is None)


def table_of_workers(statuses: Sequence[WorkerStatus]) -> Table:
    """One row per worker: what it is doing, its progress, the last evaluation of its trial."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("worker", "on", "trial", "step", "delta_m", "left"):
        table.add_column(name, justify="left" if name == "on" else "right", no_wrap=True)
    table.add_column("doing", ratio=1, no_wrap=True, overflow="ellipsis")
    for status in statuses:
        gain, total = status.delta_m_percent, status.total_steps
        table.add_row(
            str(status.index),
            status.place,
            "" if status.trial is None else str(status.trial),
            "" if total is None else f"{status.step}/{total}",
            "" if gain is None else f"{gain:+.2f} %",
            duration(status.seconds_left),
            (status.doing or "ended") + (f" (start {status.starts})" if status.starts > 1 else ""),
        )
    return table
