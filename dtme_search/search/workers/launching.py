"""What starts the workers of a study, and what is known about a started one, wherever it runs."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dtme_search.search.study.preparation import Prepared
from dtme_search.search.workers.process import WorkerOrder


def worker_order(prepared: Prepared, index: int) -> WorkerOrder:
    """What worker ``index`` of a study must know to join it."""
    workdir = str(prepared.workspace.root.parent.absolute())
    return WorkerOrder(
        prepared.config.name,
        index,
        workdir,
        prepared.url,
        callbacks=prepared.callbacks,
        devices_per_trial=prepared.shelf.team.size,
    )


@dataclass(frozen=True)
class Ended:
    """How a worker ended.

    Attributes:
        code: Exit code; negative for a signal; ``None`` if the machine or Dask worker it ran on is gone.
        how: The same in words.
        last_words: The last line that it wrote to stderr.
    """

    code: int | None
    how: str
    last_words: str = ""


class Started(Protocol):
    """A worker that was started."""

    @property
    def place(self) -> str:
        """Where it runs, for a table; may become known later."""

    @property
    def log(self) -> str:
        """Where its messages are written."""

    def ended(self) -> Ended | None:
        """How it ended; ``None`` while it runs. Does not wait."""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its process, if there is one. Does not wait."""


class Launcher(Protocol):
    """Starts workers."""

    @property
    def num_workers(self) -> int:
        """How many run at once."""

    def start(self, index: int, hear: Callable[[str], None]) -> Started:
        """Start worker ``index``.

        Args:
            index: Its number, from 0.
            hear: Called with each line that the worker sends, from any thread.
        """
