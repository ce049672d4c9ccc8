"""One meter per metric, and the gain over single-task baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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
from dtme_search.tasks import MetricName, TaskSpec

__all__ = [
    "EdgeFMeter",
    "IouMeter",
    "MaxFDoubleSigmoidMeter",
    "MaxFMeter",
    "MeanAbsoluteMeter",
    "MeanAngleMeter",
    "Meter",
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

_METERS: dict[MetricName, Callable[[TaskSpec], Meter]] = {
    "miou": MiouMeter,
    "parts_miou": PartsMiouMeter,
    "iou": IouMeter,
    "l1": MeanAbsoluteMeter,
    "rmse": RmseMeter,
    "mean_angle": MeanAngleMeter,
    "edge_f": EdgeFMeter,
    "ods_f": OdsFMeter,
    "max_f": MaxFMeter,
    "max_f_double_sigmoid": MaxFDoubleSigmoidMeter,
}

_EXTRA: dict[MetricName, tuple[MetricName, ...]] = {
    "edge_f": ("ods_f",),
    "max_f": ("max_f_double_sigmoid",),
}
"""Metrics that stand beside a metric in a final evaluation, to compare with publications."""


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
    return _METERS[spec.metric](spec)


def extra_meters(spec: TaskSpec) -> dict[MetricName, Meter]:
    """Empty meters of the metrics that publications report where the task's own is another one.

    Example:
        >>> from dtme_search.tasks import depth, edge
        >>> list(extra_meters(edge())), list(extra_meters(depth()))
        (['ods_f'], [])
    """
    return {name: build_meter(replace(spec, metric=name)) for name in _EXTRA.get(spec.metric, ())}
