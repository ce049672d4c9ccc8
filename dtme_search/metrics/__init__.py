"""One meter per metric, and the gain over single-task baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dtme_search.metrics.average_precision import MeanApMeter
from dtme_search.metrics.base import Meter
from dtme_search.metrics.edges import EdgeFMeter
from dtme_search.metrics.gain import beats_prior, dead_tasks, delta_m, task_gains
from dtme_search.metrics.kind import MetricKind, guarded_metric
from dtme_search.metrics.meters import (
    AccuracyMeter,
    IouMeter,
    MacroF1Meter,
    MeanAbsoluteMeter,
    MeanAngleMeter,
    MiouMeter,
    PartsMiouMeter,
    RmseMeter,
)
from dtme_search.metrics.ods import OdsFMeter
from dtme_search.metrics.saliency import MaxFDoubleSigmoidMeter, MaxFMeter
from dtme_search.plugins import Family
from dtme_search.tasks import LabelLevel, MetricName, TargetKind, TaskSpec

__all__ = [
    "METRICS",
    "AccuracyMeter",
    "EdgeFMeter",
    "IouMeter",
    "MacroF1Meter",
    "MaxFDoubleSigmoidMeter",
    "MaxFMeter",
    "MeanAbsoluteMeter",
    "MeanAngleMeter",
    "MeanApMeter",
    "Meter",
    "MetricKind",
    "MiouMeter",
    "OdsFMeter",
    "PartsMiouMeter",
    "RmseMeter",
    "beats_prior",
    "build_meter",
    "dead_tasks",
    "delta_m",
    "extra_meters",
    "guarded_metric",
    "task_gains",
]


def _plain(meter: Callable[[TaskSpec], Meter], *kinds: TargetKind, level: LabelLevel = "any") -> MetricKind:
    return MetricKind(lambda spec, _: meter(spec), kinds, level=level)


METRICS = Family(
    "metrics",
    MetricKind,
    {
        "miou": _plain(MiouMeter, "classes"),
        "parts_miou": _plain(PartsMiouMeter, "classes", level="pixels"),
        "iou": _plain(IouMeter, "mask"),
        "l1": _plain(MeanAbsoluteMeter, "distance", "values"),
        "rmse": _plain(RmseMeter, "distance", "values"),
        "mean_angle": _plain(MeanAngleMeter, "normals"),
        "edge_f": _plain(EdgeFMeter, "mask", level="pixels"),
        "ods_f": _plain(OdsFMeter, "mask", level="pixels"),
        "max_f": _plain(MaxFMeter, "mask", level="pixels"),
        "max_f_double_sigmoid": _plain(MaxFDoubleSigmoidMeter, "mask", level="pixels"),
        "accuracy": _plain(AccuracyMeter, "classes"),
        "macro_f1": _plain(MacroF1Meter, "classes"),
        "mean_ap": _plain(MeanApMeter, "mask", level="image"),
    },
    guarded_metric,
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
