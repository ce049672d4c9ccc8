"""From the tasks of a description to their ``TaskSpec``."""

from __future__ import annotations

from dataclasses import replace

from dtme_search.config import FolderTask, ImageTask
from dtme_search.config.description import LOSSES, METRICS, UNITS
from dtme_search.tasks import TaskSpec, image_class, image_labels, image_value


def spec_of(name: str, task: FolderTask | ImageTask) -> TaskSpec:
    """What data, losses and meters need to know about a described task."""
    return _of_image(name, task) if isinstance(task, ImageTask) else _dense(name, task)


def _of_image(name: str, task: ImageTask) -> TaskSpec:
    if task.kind == "image_class":
        spec = image_class(name, task.names)
    elif task.kind == "image_labels":
        spec = image_labels(name, task.names)
    else:
        spec = image_value(name, task.columns)
    return replace(
        spec,
        loss=task.loss or spec.loss,
        metric=task.metric or spec.metric,
        derived_from=task.derived_from,
    )


def _dense(name: str, task: FolderTask) -> TaskSpec:
    channels = {"classes": len(task.classes), "normals": 3, "values": task.channels}.get(task.kind, 1)
    unit = UNITS[task.kind]
    metric = task.metric or METRICS[task.kind][0]
    # A mask that is measured as an edge is learnt as one.
    usual = LOSSES["edge" if metric in METRICS["edge"] else task.kind][0]
    return TaskSpec(
        name=name,
        channels=channels,
        kind=task.target,
        loss=task.loss or usual,
        metric=metric,
        unit=unit,
        higher_is_better=unit == "fraction",
        class_names=tuple(task.classes),
        derived_from=task.derived_from,
        edge_tolerance=task.edge_tolerance,
    )
