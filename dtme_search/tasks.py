"""What a task is: the one description that data, losses, meters and tables share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TargetKind = Literal["classes", "distance", "normals", "mask", "values"]
"""How a target behaves: ``classes`` integer labels; ``distance`` shrinks when the image is zoomed in;
``normals`` unit vectors whose x changes sign in a mirror; ``mask`` zeros and ones; ``values`` any numbers."""

LossName = Literal["cross_entropy", "l1", "normals_l1", "balanced_bce"]
MetricName = Literal["miou", "rmse", "mean_angle", "edge_f"]


@dataclass(frozen=True)
class TaskSpec:
    """One dense prediction task.

    Attributes:
        name: Key of the task in configs, tables and SQL, for example ``semseg``.
        channels: Output channels of its decoder.
        kind: How its target behaves under augmentation.
        loss: Name of the training loss.
        metric: Name of the evaluation metric; one per task.
        unit: Unit of the metric: ``fraction``, ``m`` or ``deg``. Fractions are shown as percent.
        higher_is_better: Direction of the metric.
        class_names: Names of the classes, empty for other kinds.
        derived_from: Set when the labels are not annotated but computed, for example ``"depth"``.
    """

    name: str
    channels: int
    kind: TargetKind
    loss: LossName
    metric: MetricName
    unit: Literal["fraction", "m", "deg"]
    higher_is_better: bool
    class_names: tuple[str, ...] = ()
    derived_from: str | None = None

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
        >>> display_metric(12.3456, "deg")
        '12.35 deg'
    """
    if unit == "fraction":
        return f"{100 * value:.2f} %"
    return f"{value:.4f} m" if unit == "m" else f"{value:.2f} {unit}"


def semseg(class_names: tuple[str, ...]) -> TaskSpec:
    """Semantic segmentation: cross-entropy, mIoU over all classes."""
    return TaskSpec(
        "semseg", len(class_names), "classes", "cross_entropy", "miou", "fraction", True, class_names
    )


def depth() -> TaskSpec:
    """Depth in metres: L1, RMSE pooled over all pixels."""
    return TaskSpec("depth", 1, "distance", "l1", "rmse", "m", False)


def normals(derived_from: str | None = None) -> TaskSpec:
    """Surface normals in the camera frame: L1 on unit vectors, mean angle error."""
    return TaskSpec(
        "normals", 3, "normals", "normals_l1", "mean_angle", "deg", False, derived_from=derived_from
    )


def edge(derived_from: str | None = None) -> TaskSpec:
    """Boundaries: balanced binary cross-entropy, F-measure at the best threshold of the set."""
    return TaskSpec("edge", 1, "mask", "balanced_bce", "edge_f", "fraction", True, derived_from=derived_from)
