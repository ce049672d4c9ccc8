"""What a run reports to its owner, and how the owner ends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dtme_search.token_space import ConflictReport, ExpansionPlan
    from dtme_search.training.gradient_statistics import PairSimilarity
    from dtme_search.training.result import Evaluation


class TrainingInterrupted(Exception):
    """The run was asked to stop; its checkpoint is on disk and the same call resumes it."""


@dataclass(frozen=True)
class Progress:
    """A sign of life: steps done of all steps, and the latest losses by task."""

    step: int
    total_steps: int
    losses: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True)
class Callbacks:
    """The functions that a run calls.

    Attributes:
        on_progress: A sign of life, every few steps.
        on_expand: The plan and the conflicts behind it, right before the growth, and again when a run that
            has already grown is resumed; may raise to end the run.
        on_evaluate: An evaluation, made here or taken from a trunk; may raise to end the run.
        on_gradients: Gradient statistics: steps done, whether the network has grown, the statistics.
        on_reuse: Steps taken from a trunk, and the seconds that saved.
        should_stop: Called after every step.
    """

    on_progress: Callable[[Progress], None] = lambda _: None
    on_expand: Callable[[ExpansionPlan, ConflictReport | None], None] = lambda _plan, _report: None
    on_evaluate: Callable[[Evaluation], None] = lambda _: None
    on_gradients: Callable[[int, bool, Sequence[PairSimilarity]], None] = lambda _step, _grown, _seen: None
    on_reuse: Callable[[int, float], None] = lambda _steps, _seconds: None
    should_stop: Callable[[], bool] = lambda: False
