"""Losses and metrics chosen instead of those of the data set; and whether the other parts can be found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dtme_search.combine import find_method
from dtme_search.config import RunConfig, TaskConfig, validate
from dtme_search.data import TaskData
from dtme_search.errors import ConfigError
from dtme_search.metrics import METRICS
from dtme_search.models import check_operations
from dtme_search.operations import Linears
from dtme_search.schedules import find_schedule
from dtme_search.tasks import TaskSpec
from dtme_search.training.losses import LOSSES


def as_chosen(data: TaskData, config: RunConfig) -> TaskData:
    """The same data for the tasks of a run, described as in ``tasks`` of its config.

    Raises:
        ConfigError: If a loss or metric is unknown, does not suit the kind of its task, or has wrong options.
    """
    given = data.for_tasks(tuple(config.tasks))
    chosen = {name: _chosen(given.specs[name], task, config.plugins) for name, task in config.tasks.items()}
    return given if chosen == given.specs else given.with_specs(chosen)


def check_parts(config: RunConfig, linears: Linears) -> None:
    """Find schedule, way to combine and operations, before anything is trained.

    Args:
        config: The run.
        linears: Linear maps of the blocks that grow.

    Raises:
        ConfigError: If one is unknown, cannot be loaded or does not fit, or has wrong options.
    """
    check_operations(config.expansion, linears, config.plugins)
    find_schedule(config)
    find_method(config.train.combine, config.plugins)


def _chosen(spec: TaskSpec, task: TaskConfig, files: tuple[str, ...]) -> TaskSpec:
    changes: dict[str, Any] = {}
    if task.loss is not None:
        loss = LOSSES.find(task.loss, f"tasks.{spec.name}.loss", files)
        changes |= _changes(spec, "loss", task.loss, loss, task.loss_options)
    if task.metric is not None:
        meter = METRICS.find(task.metric, f"tasks.{spec.name}.metric", files)
        changes |= _changes(spec, "metric", task.metric, meter, task.metric_options)
        own = {name: getattr(meter, name) for name in ("unit", "higher_is_better")}
        changes |= {name: value for name, value in own.items() if value is not None}
    return replace(spec, **changes, plugins=files) if changes else spec


def _changes(
    spec: TaskSpec, part: str, name: str, found: Any, given: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """What a chosen loss or metric changes in a task's description, with options checked by its own model."""
    _check_kind(spec, part, name, found)
    where = f"tasks.{spec.name}.{part}_options"
    options = validate(found.options, given.get(name, {}), f"{where}.{name}")
    return {part: name, f"{part}_options": _pairs(options.model_dump(mode="json"))}


def _check_kind(spec: TaskSpec, part: str, name: str, found: Any) -> None:
    if spec.kind not in found.kinds:
        raise ConfigError(
            f"tasks.{spec.name}.{part} must suit targets of kind {spec.kind}, got '{name}', which takes "
            f"{' or '.join(found.kinds)}. Choose another."
        )
    level = "image" if spec.of_image else "pixels"
    if found.level not in ("any", level):
        of = {"image": "of whole images", "pixels": "of every pixel"}
        raise ConfigError(
            f"tasks.{spec.name}.{part} must suit labels {of[level]}, got '{name}', which takes labels "
            f"{of[found.level]}. Choose another."
        )


def _pairs(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(options.items())
