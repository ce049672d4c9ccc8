"""What a trainer needs to share unexpanded training with other runs; the search layer keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from dtme_search.token_space import ConflictReport

Snapshot = Mapping[str, Any]
"""State of an unexpanded run after a step: what a checkpoint holds, without a plan."""


class Trunk(Protocol):
    """The unexpanded training that a run has in common with others."""

    def steps(self, after: int, until: int) -> Sequence[int]:
        """Steps at which the trunk is shared, ascending, beginning with the last one whose snapshot is there.

        Args:
            after: Steps the run has done.
            until: Last step of the trunk that the run can use.
        """
        ...

    def claim(self, step: int) -> AbstractContextManager[Snapshot | None]:
        """Hold the stretch that ends at ``step``: nobody else trains it meanwhile.

        Gives the snapshot when there is one, which may mean waiting for the run that trains it, or
        ``None``: then whoever holds the stretch trains it and keeps the snapshot.

        Raises:
            TrainingInterrupted: If the run was asked to stop while it waited.
        """
        ...

    def keep(self, step: int, begun_at: int, seconds: float, snapshot: Snapshot) -> None:
        """Keep the snapshot of a stretch that was trained from ``begun_at`` to ``step`` in ``seconds``.

        A trunk that cannot be written costs later runs their share of time, never this one its result.
        """
        ...

    def report(
        self, step: int, tasks: tuple[str, ...], measure: Callable[[], ConflictReport]
    ) -> tuple[ConflictReport, float]:
        """Conflicts of ``tasks`` at ``step``, measured unless they are known; and the seconds that saved."""
        ...
