"""Signs of life for readers of a file instead of a terminal: one line per evaluation and one a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from dtme_search.search import WorkerStatus
from dtme_search.search.trial.events import EVALUATED, Doing

SECONDS_BETWEEN = 60.0
_LOOK_EVERY = 1.0


class Signs:
    """Turns the events of a search into lines; a context manager.

    Args:
        tell: Called with each line.
        between: Seconds after which a line is printed even if nothing happened.
    """

    def __init__(self, tell: Callable[[str], None], between: float = SECONDS_BETWEEN) -> None:
        self._tell, self._between = tell, between
        self._doing: dict[int, Doing] = {0: Doing()}
        self._told: dict[int, float] = {0: time.monotonic()}
        self._several = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def hear(self, event: str, facts: Mapping[str, Any]) -> None:
        """Process an event."""
        if event == "workers":
            self._hear_of(facts["statuses"])
        elif event == "trial_evaluated" and self._several:
            self._evaluated_elsewhere(facts["number"], facts["step"], facts["delta_m_percent"])
        elif not self._several:
            self._doing[0] = self._doing[0].after(event, facts, time.monotonic())
            note = str(facts.get("note", "")) if event == "progress" else ""
            if note.startswith(EVALUATED):
                self._say(0, f"; {note}")

    def _hear_of(self, statuses: Sequence[WorkerStatus]) -> None:
        if not self._several:
            self._several = True
            self._doing.clear()
        for status in statuses:
            what = f"trial {status.trial}" if status.trial is not None else status.doing
            self._doing[status.index] = Doing(f"worker {status.index}: {what or 'ended'}", status)
            self._told.setdefault(status.index, time.monotonic())

    def _evaluated_elsewhere(self, trial: int, step: int, gain: float) -> None:
        for index, doing in self._doing.items():
            if doing.status.trial == trial:
                # The last sign of life of the worker may be a few steps older than the evaluation.
                status = replace(doing.status, step=step, delta_m_percent=gain)
                self._doing[index] = replace(doing, status=status)
                self._say(index)
                return
        self._tell(f"trial {trial}: step {step}, delta_m {gain:+.2f} %")

    def _watch(self) -> None:
        while not self._ended.wait(min(_LOOK_EVERY, self._between)):
            for index in list(self._doing):
                if time.monotonic() - self._told.get(index, 0.0) >= self._between:
                    self._say(index)

    def _say(self, index: int, more: str = "") -> None:
        self._told[index] = time.monotonic()
        self._tell(self._doing[index].in_words + more)
