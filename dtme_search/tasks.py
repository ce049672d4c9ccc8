"""What a task is: one description for data, losses, meters and tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

TargetKind = Literal["classes", "distance", "normals", "mask", "values"]
"""How a target behaves: ``classes`` integer labels; ``distance`` shrinks when the image is zoomed in;
``normals`` unit vectors whose x changes sign in a mirror; ``mask`` zeros and ones; ``values`` any numbers.
Labels of a whole image are classes, masks or values of one pixel (``TaskSpec.of_image``)."""

LossName = Literal[
    "cross_entropy",
    "parts_cross_entropy",
    "l1",
    "mse",
    "normals_l1",
    "bce",
    "balanced_bce",
    "batch_balanced_bce",
]
"""Defined in ``training/losses.py``."""
MetricName = Literal[
    "miou",
    "parts_miou",
    "iou",
    "l1",
    "rmse",
    "mean_angle",
    "edge_f",
    "ods_f",
    "max_f",
    "max_f_double_sigmoid",
    "accuracy",
    "macro_f1",
    "mean_ap",
]
"""Defined in ``metrics/``. ``edge_f`` is the edge measure for the training loop, ``ods_f`` the exact one.
``max_f_double_sigmoid`` repeats a widespread mistake, for comparison with numbers that contain it."""
LabelLevel = Literal["any", "pixels", "image"]
"""What a loss or metric is about: labels of every pixel, of the whole image, or either."""
Unit = Literal["fraction", "m", "deg", "none"]
"""``none``: the target is a plain number."""

EDGE_TOLERANCE = 0.011
"""Largest distance of a match as a fraction of the image diagonal: the published value for NYUD."""


@dataclass(frozen=True)
class TaskSpec:
    """One task: a label for every pixel, or one for the whole image.

    Attributes:
        name: Key of the task in configs, tables and SQL, for example ``semseg``.
        channels: Output channels of its decoder.
        kind: How its target behaves under augmentation.
        loss: Name of the training loss: a ``LossName``, or one from a user.
        metric: Name of the evaluation metric, one per task: a ``MetricName``, or one from a user.
        unit: Unit of the metric. Fractions are shown as percent.
        higher_is_better: Direction of the metric.
        class_names: Names of the classes, or of several labels or numbers of an image; empty for other tasks.
        derived_from: Set if the labels were computed rather than annotated, for example ``"depth"``.
        edge_tolerance: Largest distance between a predicted and a true edge pixel that match, as a fraction
            of the image diagonal. Read by the metrics of edges only.
        loss_options: Names and values of the options of the loss.
        metric_options: The same for the metric.
        plugins: Files that may provide loss and metric.
        of_image: Whether the label belongs to the whole image. Label, prediction and mask then have one
            pixel: (B, C, 1, 1) where a dense task has (B, C, H, W).
    """

    name: str
    channels: int
    kind: TargetKind
    loss: str
    metric: str
    unit: Unit
    higher_is_better: bool
    class_names: tuple[str, ...] = ()
    derived_from: str | None = None
    edge_tolerance: float = EDGE_TOLERANCE
    loss_options: tuple[tuple[str, Any], ...] = ()
    metric_options: tuple[tuple[str, Any], ...] = ()
    plugins: tuple[str, ...] = ()
    of_image: bool = False

    def label_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of a label of an image of this size.

        Example:
            >>> depth().label_size((64, 96)), image_class("room", ("bath", "hall")).label_size((64, 96))
            ((64, 96), (1, 1))
        """
        return (1, 1) if self.of_image else image_size

    @property
    def channel_names(self) -> tuple[str, ...]:
        """A name for each channel: those of the classes, or numbers."""
        return self.class_names or tuple(map(str, range(self.channels)))

    @property
    def labelled_thing(self) -> str:
        """What has a label, in messages: pixel or image."""
        return "image" if self.of_image else "pixel"

    def display(self, value: float) -> str:
        """Write a metric value with its unit.

        Example:
            >>> depth().display(0.63701)
            '0.6370 m'
            >>> semseg(("wall", "floor")).display(0.38271)
            '38.27 %'
        """
        return display_metric(value, self.unit)


def display_metric(value: float, unit: str) -> str:
    """Write a metric value with its unit; fractions as percent.

    Example:
        >>> display_metric(12.3456, "deg"), display_metric(0.0123, "none")
        ('12.35 deg', '0.0123')
    """
    if unit == "fraction":
        return f"{100 * value:.2f} %"
    if unit == "none":
        return f"{value:.4f}"
    return f"{value:.4f} m" if unit == "m" else f"{value:.2f} {unit}"


def semseg(class_names: tuple[str, ...]) -> TaskSpec:
    """Semantic segmentation: cross-entropy, mIoU over all classes."""
    return _of_classes("semseg", class_names, "classes", "cross_entropy", "miou")


def depth() -> TaskSpec:
    """Depth in metres: L1, RMSE pooled over all pixels."""
    return TaskSpec("depth", 1, "distance", "l1", "rmse", unit="m", higher_is_better=False)


def normals(derived_from: str | None = None) -> TaskSpec:
    """Surface normals in the camera frame: L1 on unit vectors, mean angle error."""
    return TaskSpec(
        name="normals",
        channels=3,
        kind="normals",
        loss="normals_l1",
        metric="mean_angle",
        unit="deg",
        higher_is_better=False,
        derived_from=derived_from,
    )


def edge(derived_from: str | None = None, tolerance: float = EDGE_TOLERANCE) -> TaskSpec:
    """Boundaries: balanced binary cross-entropy, F-measure at the best threshold of the set.

    Args:
        derived_from: What the labels were computed from, if they were.
        tolerance: Published values are 0.011 for NYUD and 0.0075 for PASCAL-Context and BSDS.
    """
    return TaskSpec(
        name="edge",
        channels=1,
        kind="mask",
        loss="balanced_bce",
        metric="edge_f",
        unit="fraction",
        higher_is_better=True,
        derived_from=derived_from,
        edge_tolerance=tolerance,
    )


def human_parts(class_names: tuple[str, ...]) -> TaskSpec:
    """Parts of persons: cross-entropy and mIoU, both over images that show a part; class 0 is background."""
    return _of_classes("human_parts", class_names, "classes", "parts_cross_entropy", "parts_miou")


def sal(derived_from: str | None = None) -> TaskSpec:
    """Saliency: cross-entropy balanced per batch, F-measure at the best threshold of the set.

    One output whose sigmoid is the probability. The papers' two outputs with a softmax are the same model,
    with the difference of the two as our output.
    """
    return TaskSpec(
        name="sal",
        channels=1,
        kind="mask",
        loss="batch_balanced_bce",
        metric="max_f",
        unit="fraction",
        higher_is_better=True,
        derived_from=derived_from,
    )


def regression(name: str, channels: int = 1, loss: LossName = "l1", metric: MetricName = "l1") -> TaskSpec:
    """Any numbers, for example a normalised target of Taskonomy: mean absolute error by default.

    Args:
        name: Key of the task.
        channels: Numbers per pixel.
        loss: ``l1`` or ``mse``.
        metric: ``l1`` or ``rmse``; a plain number either way.
    """
    return TaskSpec(name, channels, "values", loss, metric, unit="none", higher_is_better=False)


def image_class(name: str, class_names: tuple[str, ...], derived_from: str | None = None) -> TaskSpec:
    """One class of each image: cross-entropy, accuracy."""
    spec = _of_classes(name, class_names, "classes", "cross_entropy", "accuracy")
    return replace(spec, derived_from=derived_from, of_image=True)


def image_labels(name: str, class_names: tuple[str, ...]) -> TaskSpec:
    """Any number of labels of each image: binary cross-entropy, mean average precision."""
    return replace(_of_classes(name, class_names, "mask", "bce", "mean_ap"), of_image=True)


def image_value(name: str, names: tuple[str, ...] = ()) -> TaskSpec:
    """One number of each image, or several with names: L1, mean absolute error."""
    return replace(regression(name, max(1, len(names))), class_names=names, of_image=True)


def _of_classes(
    name: str, class_names: tuple[str, ...], kind: TargetKind, loss: LossName, metric: MetricName
) -> TaskSpec:
    """A task with one channel for each name, measured by a fraction."""
    return TaskSpec(
        name=name,
        channels=len(class_names),
        kind=kind,
        loss=loss,
        metric=metric,
        unit="fraction",
        higher_is_better=True,
        class_names=class_names,
    )


def save_specs(path: Path, specs: Mapping[str, TaskSpec]) -> None:
    """Write descriptions of tasks as JSON, so that a checkpoint can be used without its data set."""
    text = json.dumps([asdict(spec) for spec in specs.values()], indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def load_specs(path: Path) -> dict[str, TaskSpec]:
    """Read what :func:`save_specs` wrote."""
    specs = map(spec_from_plain, json.loads(path.read_text(encoding="utf-8")))
    return {spec.name: spec for spec in specs}


def spec_from_plain(values: Mapping[str, Any]) -> TaskSpec:
    """A description from its fields in JSON."""
    return TaskSpec(**{name: _frozen(value) for name, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
