"""What a metric is, and how one from a user is watched."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dtme_search.config import NoOptions, Section
from dtme_search.guards import Guard
from dtme_search.metrics.base import Meter
from dtme_search.tasks import LabelLevel, TargetKind, TaskSpec, Unit


@dataclass(frozen=True)
class MetricKind:
    """Entry of the registry.

    Attributes:
        build: Returns an empty meter for the task and the checked options.
        kinds: Kinds of targets that it suits.
        options: Section that checks ``tasks.<task>.metric_options.<name>``.
        unit: Its unit; ``None`` = that of the task in the data set's description.
        higher_is_better: Its direction; ``None`` = that of the task in the data set's description.
        level: Whether labels belong to pixels or whole images (of one pixel, H = W = 1); either by default.
    """

    build: Callable[[TaskSpec, Any], Meter]
    kinds: tuple[TargetKind, ...]
    options: type[Section] = NoOptions
    unit: Unit | None = None
    higher_is_better: bool | None = None
    level: LabelLevel = "any"


def guarded_metric(kind: MetricKind, part: str) -> MetricKind:
    """The same metric; its meters tell which rule of :class:`Meter` they break."""
    guard = Guard(part)

    def build(spec: TaskSpec, options: Any) -> Meter:
        with guard.calling("build"):
            made = kind.build(spec, options)
        guard.has(made, ("update", "compute", "reset"))
        return GuardedMeter(made, guard)

    return replace(kind, build=build)


class GuardedMeter:
    """A meter from a user.

    Args:
        meter: The meter.
        guard: Names it.
    """

    def __init__(self, meter: Meter, guard: Guard) -> None:
        self._meter, self._guard = meter, guard

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        with self._guard.calling("update"):
            self._meter.update(prediction, target, valid)

    def compute(self) -> float:
        with self._guard.calling("compute", ValueError):
            value = self._meter.compute()
        holds = isinstance(value, float) and math.isfinite(value)
        got = repr(value) if isinstance(value, float) else type(value).__name__
        self._guard.hold(holds, "compute", f"give a finite float, got {got}")
        return value

    def reset(self) -> None:
        with self._guard.calling("reset"):
            self._meter.reset()
