"""Draws a search in the terminal: a bar for the trials, a bar for the run in hand, a line for each result."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dtme_search.search import BaselineRow, Listener, Outcome
from dtme_search.training import Progress as RunProgress

_log = logging.getLogger(__name__)
_SHOWN_PARAMS = 4


class TerminalListener(Listener):
    """Bars on a terminal, plain lines elsewhere; a context manager.

    Args:
        console: Where to draw.
        quiet: Only errors.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._trials = self._bars.add_task("trials", total=None, visible=False, note="")
        self._run = self._bars.add_task("run", total=None, visible=False, note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def data_reading(self, done: int, total: int) -> None:
        self._bars.update(
            self._run, description="reading data", completed=done, total=total, visible=done < total, note=""
        )

    def baseline_started(self, task: str, index: int, count: int) -> None:
        self._begin(f"baseline {task} ({index} of {count})")

    def baseline_ended(self, task: str, row: BaselineRow, *, trained: bool) -> None:
        how = f"trained in {row.seconds:.0f} s" if trained else "known"
        self._say(
            f"baseline {task}: {row.metric} {row.value:.4f} (no-image prior {row.prior_value:.4f}), {how}"
        )

    def trial_started(self, number: int, finished: int, total: int, params: Mapping[str, object]) -> None:
        self._bars.update(self._trials, completed=finished, total=total, visible=True)
        self._begin(f"trial {number}")
        _log.debug("trial %d: %s", number, dict(params))

    def progress(self, progress: RunProgress) -> None:
        losses = " ".join(f"{task} {loss:.3f}" for task, loss in progress.losses.items())
        self._bars.update(
            self._run, completed=progress.step, total=progress.total_steps, note=progress.note or losses
        )

    def trial_completed(self, number: int, outcome: Outcome) -> None:
        gains = ", ".join(f"{task} {gain:+.1f}" for task, gain in outcome.gains_percent.items())
        doubts = f" [not to be trusted: {', '.join(outcome.dead_tasks)}]" if outcome.dead_tasks else ""
        limits = "" if outcome.feasible else " [exceeds a limit]"
        self._say(
            f"trial {number}: delta_m {outcome.delta_m_percent:+.2f} % ({gains}), "
            f"overhead {outcome.param_overhead_percent:.3f} %, "
            f"step cost {outcome.step_cost_ratio:.2f}{limits}{doubts}"
        )
        self._bars.advance(self._trials)

    def trial_stopped(self, number: int, state: str, reason: str) -> None:
        self._say(f"trial {number}: {state}: {reason}" if reason else f"trial {number}: {state}")
        if state == "pruned":
            self._bars.advance(self._trials)

    def _begin(self, description: str) -> None:
        self._bars.reset(self._run, description=description, total=None, visible=True, note="")

    def _say(self, line: str) -> None:
        if not self._quiet:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
