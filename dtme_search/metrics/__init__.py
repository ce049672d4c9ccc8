"""One meter per metric, and the gain over single-task baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from dtme_search.config import NoOptions, Section
from dtme_search.metrics.base import Meter
from dtme_search.metrics.edges import EdgeFMeter
from dtme_search.metrics.gain import beats_prior, delta_m, task_gains
from dtme_search.metrics.meters import (
    IouMeter,
    MeanAbsoluteMeter,
    MeanAngleMeter,
    MiouMeter,
    PartsMiouMeter,
    RmseMeter,
)
from dtme_search.metrics.ods import OdsFMeter
from dtme_search.metrics.saliency import MaxFDoubleSigmoidMeter, MaxFMeter
from dtme_search.plugins import Family
from dtme_search.tasks import MetricName, TargetKind, TaskSpec, Unit

__all__ = [
    "METRICS",
    "EdgeFMeter",
    "IouMeter",
    "MaxFDoubleSigmoidMeter",
    "MaxFMeter",
    "MeanAbsoluteMeter",
    "MeanAngleMeter",
    "Meter",
    "MetricKind",
    "MiouMeter",
    "OdsFMeter",
    "PartsMiouMeter",
    "RmseMeter",
    "beats_prior",
    "build_meter",
    "delta_m",
    "extra_meters",
    "task_gains",
]


@dataclass(frozen=True)
class MetricKind:
    """Entry of the registry.

    Attributes:
        build: Returns an empty meter for the task and the checked options.
        kinds: Kinds of targets that it suits.
        options: Section that checks ``tasks.<task>.metric_options.<name>``.
        unit: Its unit; ``None`` = that of the task in the data set's description.
        higher_is_better: Its direction; ``None`` = that of the task in the data set's description.
    """

    build: Callable[[TaskSpec, Any], Meter]
    kinds: tuple[TargetKind, ...]
    options: type[Section] = NoOptions
    unit: Unit | None = None
    higher_is_better: bool | None = None


def _plain(meter: Callable[[TaskSpec], Meter], *kinds: TargetKind) -> MetricKind:
    return MetricKind(lambda spec, _: meter(spec), kinds)


METRICS = Family(
    "metrics",
    MetricKind,
    {
        "miou": _plain(MiouMeter, "classes"),
        "parts_miou": _plain(PartsMiouMeter, "classes"),
        "iou": _plain(IouMeter, "mask"),
        "l1": _plain(MeanAbsoluteMeter, "distance", "values"),
        "rmse": _plain(RmseMeter, "distance", "values"),
        "mean_angle": _plain(MeanAngleMeter, "normals"),
        "edge_f": _plain(EdgeFMeter, "mask"),
        "ods_f": _plain(OdsFMeter, "mask"),
        "max_f": _plain(MaxFMeter, "mask"),
        "max_f_double_sigmoid": _plain(MaxFDoubleSigmoidMeter, "mask"),
    },
)
"""``TaskSpec.metric`` -> how a task is measured."""

_EXTRA: dict[str, tuple[MetricName, ...]] = {
    "edge_f": ("ods_f",),
    "max_f": ("max_f_double_sigmoid",),
}
"""Metrics shown beside a metric in a final evaluation, for comparison with publications."""


def build_meter(spec: TaskSpec) -> Meter:
    """Make an empty meter for the metric of a task.

    Example:
        >>> import torch
        >>> from dtme_search.tasks import depth
        >>> meter = build_meter(depth())
        >>> meter.update(torch.full((1, 1, 2, 2), 3.0), torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2).bool())
        >>> meter.compute()
        2.0
    """
    kind = METRICS.find(spec.metric, f"metric of task {spec.name}", spec.plugins)
    return kind.build(spec, kind.options.model_validate(dict(spec.metric_options)))


def extra_meters(spec: TaskSpec) -> dict[MetricName, Meter]:
    """Empty meters of the metrics that publications report, if the task's own is a different one.

    Example:
        >>> from dtme_search.tasks import depth, edge
        >>> list(extra_meters(edge())), list(extra_meters(depth()))
        (['ods_f'], [])
    """
    return {name: build_meter(replace(spec, metric=name)) for name in _EXTRA.get(spec.metric, ())}
