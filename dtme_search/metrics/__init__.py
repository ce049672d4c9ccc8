"""One meter per metric, and the gain over single-task baselines."""

from __future__ import annotations

from collections.abc import Callable

from dtme_search.metrics.base import Meter
from dtme_search.metrics.edges import EdgeFMeter
from dtme_search.metrics.gain import beats_prior, delta_m, task_gains
from dtme_search.metrics.meters import (
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
    "task_gains",
]

_METERS: dict[MetricName, Callable[[TaskSpec], Meter]] = {
    "miou": MiouMeter,
    "parts_miou": PartsMiouMeter,
    "l1": MeanAbsoluteMeter,
    "rmse": RmseMeter,
    "mean_angle": MeanAngleMeter,
    "edge_f": EdgeFMeter,
    "ods_f": OdsFMeter,
    "max_f": MaxFMeter,
    "max_f_double_sigmoid": MaxFDoubleSigmoidMeter,
}


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
