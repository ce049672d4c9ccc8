"""What a run measured: its evaluations, the cost of its steps, and everything together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dtme_search.tasks import TaskSpec
from dtme_search.token_space import ConflictReport, ExpansionPlan
from dtme_search.training.data_map import Hits, Scores


@dataclass(frozen=True)
class Evaluation:
    """What is known about a run at one step.

    Attributes:
        step: Optimiser steps done.
        metrics: Task -> metric on the split, in the units of its ``TaskSpec``.
        losses: Task -> mean training loss since the previous evaluation.
        scores: Task -> scores of training images, if the run keeps a data map.
        hits: Task about whole images -> whether each of these images is predicted right.
    """

    step: int
    metrics: Mapping[str, float]
    losses: Mapping[str, float]
    scores: Scores = field(default_factory=dict)
    hits: Hits = field(default_factory=dict)

    def improves(self, earlier: Sequence[Evaluation], tasks: Sequence[TaskSpec]) -> bool:
        """Whether the metric of any of ``tasks`` is better than in all earlier evaluations."""
        for task in tasks:
            sign = 1.0 if task.higher_is_better else -1.0
            before = [sign * old.metrics[task.name] for old in earlier]
            if not before or sign * self.metrics[task.name] > max(before):
                return True
        return False


@dataclass(frozen=True)
class Probe:
    """Forward and backward pass of a batch: seconds, and floating point operations of its matrix products."""

    seconds: float
    flops: int


@dataclass(frozen=True)
class StepCost:
    """What a training step costs, in units of one step of the unexpanded model with all its tasks.

    Comparisons at equal steps flatter anything that makes steps more expensive, so every run measures this
    [ours].

    Attributes:
        phases: ``(first step, ratio)`` of each stretch of steps with equal cost, in order.
        reference_seconds: Seconds of the unit, measured right before the first change; ``None`` before that.
        flops: The same stretches with the ratio of floating point operations.
        reference_flops: Floating point operations of the unit.
    """

    phases: tuple[tuple[int, float], ...] = ((0, 1.0),)
    reference_seconds: float | None = None
    flops: tuple[tuple[int, float], ...] = ((0, 1.0),)
    reference_flops: int | None = None

    @property
    def reference(self) -> Probe | None:
        """Seconds of a step of the unexpanded model; ``None`` before it was measured."""
        if self.reference_seconds is None or self.reference_flops is None:
            return None
        return Probe(self.reference_seconds, self.reference_flops)

    def entering(self, step: int, probe: Probe, reference: Probe) -> StepCost:
        """The cost record with a new stretch that starts at ``step``."""
        counted = [(step, probe.flops / reference.flops)] if reference.flops else []
        return StepCost(
            phases=(*self.phases, (step, probe.seconds / reference.seconds)),
            reference_seconds=reference.seconds,
            flops=(*self.flops, *counted),
            reference_flops=reference.flops,
        )

    def mean(self, total_steps: int) -> float:
        """Mean ratio over a run.

        Example:
            >>> StepCost(((0, 1.0), (25, 3.0))).mean(100)
            2.5
        """
        return _mean(self.phases, total_steps)

    def mean_flops(self, total_steps: int) -> float | None:
        """The mean by counted operations; ``None`` for a run whose first steps were not counted."""
        return _mean(self.flops, total_steps) if len(self.flops) == len(self.phases) else None


@dataclass(frozen=True)
class RunResult:
    """Everything a finished run measured.

    Attributes:
        evaluations: All evaluations; the last one is the result.
        plan: What was built; an empty plan if nothing was.
        report: Conflicts as measured, ``None`` when nothing had to be measured.
        total_steps: Steps of the run.
        steps_reused: Steps taken from a trunk, not trained for this run.
        seconds: Seconds per phase (``train``, ``evaluate``, ``measure``, ``checkpoint``), over all restarts.
        seconds_saved: What those steps, and a reused conflict report, took when they were done.
        cost: Cost of a step, in units of a step of the unexpanded model with all tasks.
        peak_memory_mb: Peak GPU memory since the run was started or resumed; ``None`` on the CPU.
        precision: ``float32`` or ``bfloat16``.
        parts: Number of parts in which a batch went through the network at the end; 1 unless memory was
            short.
        plateau_step: First step without auxiliary tasks, if ``schedule.patience`` stopped them early.
        grown_at: Step before which it grew, by a plan that may be empty; ``None`` if it was not to grow.
        trained_parts: Parts of the shared network that trained after the switch; ``None`` for all.
    """

    evaluations: tuple[Evaluation, ...]
    plan: ExpansionPlan
    report: ConflictReport | None
    total_steps: int
    steps_reused: int
    seconds: Mapping[str, float]
    seconds_saved: float
    cost: StepCost
    peak_memory_mb: float | None
    precision: str
    parts: int = 1
    plateau_step: int | None = None
    trained_parts: tuple[str, ...] | None = None
    grown_at: int | None = None

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics of the last evaluation."""
        return self.evaluations[-1].metrics

    @property
    def step_cost_ratio(self) -> float:
        """Mean cost of the run's steps in units of an unexpanded step."""
        return self.cost.mean(self.total_steps)

    @property
    def step_flops_ratio(self) -> float | None:
        """The same ratio by counted floating point operations, which other processes cannot disturb."""
        return self.cost.mean_flops(self.total_steps)

    @property
    def seconds_per_step(self) -> float:
        """Mean seconds of a training step in this run."""
        return self.seconds.get("train", 0.0) / max(1, self.total_steps - self.steps_reused)


def _mean(phases: Sequence[tuple[int, float]], total_steps: int) -> float:
    ends = [step for step, _ in phases[1:]] + [total_steps]
    return sum(ratio * (end - step) for (step, ratio), end in zip(phases, ends, strict=True)) / total_steps
