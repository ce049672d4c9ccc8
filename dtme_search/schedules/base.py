"""The interface of every schedule, and what schedules without memory share.

MT2ST (arXiv 2406.18038v6, Sec. 3-4): the loss at step t is the sum over primary tasks of w L plus the sum
over auxiliary tasks of w gamma(t) L. A schedule gives the factors of both sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

ScheduleState = Mapping[str, int | float | None]
"""What a schedule has to remember, as plain numbers for a checkpoint."""


class Schedule(Protocol):
    """Weights of the task losses over a run. Primary tasks keep theirs."""

    @property
    def plateau_step(self) -> int | None:
        """First step without auxiliary tasks, if the primary metrics decided it; ``None`` before that."""
        ...

    def weights(self, step: int) -> dict[str, float]:
        """Task weight times gamma of every task of the run, in config order.

        Exactly 0.0 means that decoder and loss of that task must not be computed at this step.

        Args:
            step: 0-based step that is about to run.
        """
        ...

    def observe(self, step: int, improved: bool) -> None:
        """Tell the schedule about an evaluation.

        Args:
            step: Steps done so far, which is the index of the next step. Changes take effect from that step
                on.
            improved: Whether the primary metrics are better than in all earlier evaluations.
        """
        ...

    def wants(self, step: int) -> str | None:
        """Which size of the auxiliary gradients to measure before a step, ``None`` for none.

        ``gradient_norm`` is the norm of the gradient of the batch, ``fisher_trace`` the mean of the squared
        gradient norms of its images, both of the unweighted loss on the shared parameters.
        """
        ...

    def refresh(self, sizes: Mapping[str, float]) -> None:
        """Receive the requested sizes, by auxiliary task."""
        ...

    def state(self) -> dict[str, int | float | None]:
        """What ``restore`` needs; empty for schedules without memory."""
        ...

    def restore(self, state: ScheduleState) -> None:
        """Continue from the result of ``state``.

        Raises:
            ValueError: If the state belongs to another kind of schedule.
        """
        ...


@dataclass(frozen=True)
class TaskWeights:
    """Weight of every task of a run, and which of them follow the schedule.

    Attributes:
        weights: Weight of each task, in config order.
        auxiliary: Names of the auxiliary tasks.
    """

    weights: Mapping[str, float]
    auxiliary: frozenset[str]

    def scaled(self, gamma: float) -> dict[str, float]:
        """Weights with those of the auxiliary tasks multiplied by ``gamma``.

        Example:
            >>> TaskWeights({"semseg": 1.0, "depth": 2.0}, frozenset({"depth"})).scaled(0.25)
            {'semseg': 1.0, 'depth': 0.5}
        """
        return {
            task: weight * gamma if task in self.auxiliary else weight
            for task, weight in self.weights.items()
        }


class Memoryless:
    """The part of a schedule that depends on the step alone."""

    def observe(self, step: int, improved: bool) -> None:
        """Does nothing: evaluations have no effect."""

    @property
    def plateau_step(self) -> int | None:
        """``None``: no evaluation decides anything."""
        return None

    def wants(self, step: int) -> str | None:  # noqa: ARG002
        """``None``: nothing is measured."""
        return None

    def refresh(self, sizes: Mapping[str, float]) -> None:
        """Does nothing: gradients have no effect."""

    def state(self) -> dict[str, int | float | None]:
        """Empty: nothing to remember."""
        return {}

    def restore(self, state: ScheduleState) -> None:
        """Accept only the empty state."""
        check_state(self, state, expected=())


def check_state(schedule: object, state: ScheduleState, expected: tuple[str, ...]) -> None:
    """Refuse the state of another schedule.

    Raises:
        ValueError: Names what was expected and what was given.
    """
    if set(state) != set(expected):
        raise ValueError(
            f"{type(schedule).__name__}.restore: state must hold {sorted(expected) or 'nothing'}, "
            f"got {sorted(state) or 'nothing'}. Restore it into the schedule it was taken from."
        )
