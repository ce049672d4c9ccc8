"""Losses and metrics that a config chooses in place of those that its data set gives the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dtme_search.config import RunConfig, TaskConfig, validate
from dtme_search.data import TaskData
from dtme_search.errors import ConfigError
from dtme_search.metrics import METRICS
from dtme_search.tasks import TaskSpec
from dtme_search.training.losses import LOSSES


def as_chosen(data: TaskData, config: RunConfig) -> TaskData:
    """The same data for the tasks of a run, described as ``tasks`` of its config says.

    Raises:
        ConfigError: If a loss or metric is unknown, does not suit the kind of its task, or has wrong options.
    """
    given = data.for_tasks(tuple(config.tasks))
    chosen = {name: _chosen(given.specs[name], task, config.plugins) for name, task in config.tasks.items()}
    return given if chosen == given.specs else given.with_specs(chosen)


def _chosen(spec: TaskSpec, task: TaskConfig, files: tuple[str, ...]) -> TaskSpec:
    changes: dict[str, Any] = {}
    if task.loss is not None:
        part = LOSSES.find(task.loss, f"tasks.{spec.name}.loss", files)
        _check_kind(spec, "loss", task.loss, part.kinds)
        given = task.loss_options.get(task.loss, {})
        options = validate(part.options, given, f"tasks.{spec.name}.loss_options.{task.loss}")
        changes |= {"loss": task.loss, "loss_options": _pairs(options.model_dump(mode="json"))}
    if task.metric is not None:
        meter = METRICS.find(task.metric, f"tasks.{spec.name}.metric", files)
        _check_kind(spec, "metric", task.metric, meter.kinds)
        given = task.metric_options.get(task.metric, {})
        options = validate(meter.options, given, f"tasks.{spec.name}.metric_options.{task.metric}")
        changes |= {"metric": task.metric, "metric_options": _pairs(options.model_dump(mode="json"))}
        changes |= {
            name: getattr(meter, name)
            for name in ("unit", "higher_is_better")
            if getattr(meter, name) is not None
        }
    return replace(spec, **changes, plugins=files) if changes else spec


def _check_kind(spec: TaskSpec, part: str, name: str, kinds: tuple[str, ...]) -> None:
    if spec.kind not in kinds:
        raise ConfigError(
            f"tasks.{spec.name}.{part} must suit targets of kind {spec.kind}, got '{name}', which takes "
            f"{' or '.join(kinds)}. Choose another."
        )


def _pairs(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(options.items())
