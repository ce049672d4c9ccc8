"""What a trainer needs in order to share unexpanded training; the search layer stores it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from dtme_search.token_space import ConflictReport

Snapshot = Mapping[str, Any]
"""State of an unexpanded run after a step: the content of a checkpoint, without a plan."""


class Trunk(Protocol):
    """The unexpanded training that a run has in common with others."""

    def steps(self, after: int, until: int) -> Sequence[int]:
        """Steps at which the trunk is shared, ascending, starting with the last one that has a snapshot.

        Args:
            after: Steps the run has done.
            until: Last step of the trunk that the run can use.
        """
        ...

    def claim(self, step: int) -> AbstractContextManager[Snapshot | None]:
        """Hold the stretch that ends at ``step``, so that nobody else trains it.

        Yields its snapshot, possibly after waiting for the run that trains it, or ``None``: then the holder
        trains the stretch and stores the snapshot.

        Raises:
            TrainingInterrupted: If the run was asked to stop while it waited.
        """
        ...

    def keep(self, step: int, begun_at: int, seconds: float, snapshot: Snapshot) -> None:
        """Store the snapshot of a stretch that was trained from ``begun_at`` to ``step`` in ``seconds``.

        If a trunk cannot be written, later runs lose the saved time, but this run never loses its result.
        """
        ...

    def report(
        self, step: int, tasks: tuple[str, ...], measure: Callable[[], ConflictReport]
    ) -> tuple[ConflictReport, float]:
        """Conflicts of ``tasks`` at ``step``, measured unless known, and the seconds saved if known."""
        ...
