"""Meters for mIoU, accuracy, macro F1, mean absolute error, RMSE and mean angle.

Each is pooled over all valid pixels of the set; a label of a whole image is one pixel.

Written here rather than taken from torchmetrics: importing that package costs about 20 s because it loads
torchvision, each meter is a few lines, and boolean masks with int64 and float64 sums need care.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dtme_search.metrics.base import check_batch, count_values, no_valid_pixels, pick
from dtme_search.tasks import TaskSpec


class ConfusionMeter:
    """One confusion matrix of the argmax for the whole set; subclasses say what follows from it.

    Args:
        spec: Task with C classes.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.reset()

    def reset(self) -> None:
        self._confusion: int | Tensor = 0  # label, prediction
        self._labels: list[Tensor] = []  # smallest and largest of each batch

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        check_batch(self.spec, prediction, target, valid)
        mask, num_classes = valid[:, 0], self.spec.channels
        # max also returns indices, several times faster than argmax over this axis on a CPU (torch 2.15).
        classes = prediction.max(1).indices
        labels = torch.where(mask, target, 0)
        self._labels.append(torch.stack([labels.min(), labels.max()]))
        pairs = labels.clamp(0, num_classes - 1) * num_classes + classes
        counts = count_values(pairs, mask, num_classes**2)
        self._confusion = counts.view(num_classes, num_classes) + self._confusion

    def compute(self) -> float:
        if not self._labels:
            raise no_valid_pixels(self.spec)
        ends = torch.stack(self._labels)
        lowest, highest = int(ends.min()), int(ends.max())
        if lowest < 0 or highest >= self.spec.channels:
            raise ValueError(
                f"meter of task '{self.spec.name}': valid labels must lie in 0..{self.spec.channels - 1}, "
                f"got {lowest}..{highest}. Mark unlabelled pixels as not valid."
            )
        confusion = torch.as_tensor(self._confusion).cpu()
        if not confusion.any():
            raise no_valid_pixels(self.spec)
        return self._score(confusion.double())

    def _score(self, confusion: Tensor) -> float:
        """The metric from counts of (label, prediction), float64 (C, C), not all 0."""
        raise NotImplementedError


class MiouMeter(ConfusionMeter):
    """Mean intersection over union of the argmax, a fraction.

    IoU = TP / (TP + FP + FN) per class and the plain mean over all classes of the task. A class that is
    absent from both predictions and labels counts as 0, as in the literature (InvPT, TaskPrompter), so on
    small sets the ideal value is below 1.
    """

    def _score(self, confusion: Tensor) -> float:
        hits = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - hits
        return float((hits / union.clamp(min=1)).mean())


class AccuracyMeter(ConfusionMeter):
    """Share of the labels that the argmax predicts, a fraction."""

    def _score(self, confusion: Tensor) -> float:
        return float(confusion.trace() / confusion.sum())


class MacroF1Meter(ConfusionMeter):
    """Mean of the F1 of the classes, a fraction: a rare class counts as much as a frequent one.

    F1 = 2 TP / (2 TP + FP + FN). A class that is absent from both predictions and labels is left out, as
    scikit-learn does by default.
    """

    def _score(self, confusion: Tensor) -> float:
        both = confusion.sum(0) + confusion.sum(1)
        return float((2 * confusion.diagonal()[both > 0] / both[both > 0]).mean())


class PartsMiouMeter(MiouMeter):
    """Mean intersection over union of the parts of persons, background included, a fraction.

    Like ``MiouMeter`` (one confusion matrix, plain mean over all classes, an absent class is 0), but over the
    images that show a part. An image whose valid pixels are all background (class 0) is ignored, as in the
    ATRC pipeline that InvPT and later papers use: it may well show persons whose parts nobody annotated.
    """

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        check_batch(self.spec, prediction, target, valid)
        shows_part = (valid[:, 0] & (target > 0)).flatten(1).any(1)
        super().update(prediction, target, valid & shows_part[:, None, None, None])


class IouMeter:
    """Intersection over union of a mask, a fraction, its pixels pooled over the set.

    IoU = TP / (TP + FP + FN), where the probability is above 0.5; 1 if neither labels nor predictions have a
    pixel [ours].

    Args:
        spec: Task of kind ``mask`` with one channel. Target values above 0.5 belong to it.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.reset()

    def reset(self) -> None:
        self._both: int | Tensor = 0
        self._either: int | Tensor = 0
        self._valid: int | Tensor = 0

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        check_batch(self.spec, prediction, target, valid)
        predicted, true = (prediction > 0) & valid, (target > 0.5) & valid
        self._both = (predicted & true).sum() + self._both
        self._either = (predicted | true).sum() + self._either
        self._valid = valid.sum() + self._valid

    def compute(self) -> float:
        if not int(self._valid):
            raise no_valid_pixels(self.spec)
        either = int(self._either)
        return int(self._both) / either if either else 1.0


class PooledErrorMeter:
    """Pools an error over all valid pixels of the set; subclasses define the error.

    If a target has several channels, all of them are pooled [ours].

    Args:
        spec: Task of kind ``distance`` or ``values``.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.reset()

    def reset(self) -> None:
        self._sum: float | Tensor = 0.0
        self._count: int | Tensor = 0

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        check_batch(self.spec, prediction, target, valid)
        mask = valid.expand_as(prediction)
        predicted, true = pick(mask, prediction, target)
        self._sum = self._errors(predicted.double(), true).sum() + self._sum
        self._count = mask.sum() + self._count

    def compute(self) -> float:
        count = int(self._count)
        if not count:
            raise no_valid_pixels(self.spec)
        return float(self._sum) / count

    def _errors(self, predicted: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError


class MeanAbsoluteMeter(PooledErrorMeter):
    """Absolute error averaged over all valid pixels of the set, in the unit of the target."""

    def _errors(self, predicted: Tensor, target: Tensor) -> Tensor:
        return (predicted - target).abs()


class RmseMeter(PooledErrorMeter):
    """Root of the squared error pooled over all valid pixels of the set, in the unit of the target.

    Predictions of distances are clamped at 0 first, as in the literature.
    """

    def _errors(self, predicted: Tensor, target: Tensor) -> Tensor:
        if self.spec.kind == "distance":
            predicted = predicted.clamp(min=0.0)
        return (predicted - target).square()

    def compute(self) -> float:
        return math.sqrt(super().compute())


class MeanAngleMeter:
    """Mean angle between predicted and true directions over all valid pixels of the set, in degrees.

    Both sides are scaled to unit length (a zero vector stays zero, which gives 90 degrees to any direction).
    The angle is 2 atan2(|p - g|, |p + g|), which is exact for small angles where an arc cosine is not.

    Args:
        spec: Task of kind ``normals``.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.reset()

    def reset(self) -> None:
        self._degrees: float | Tensor = 0.0
        self._count: int | Tensor = 0

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        check_batch(self.spec, prediction, target, valid)
        mask = valid[:, 0]
        predicted, true = (
            normalize(vectors.double(), dim=-1)
            for vectors in pick(mask, prediction.movedim(1, -1), target.movedim(1, -1))
        )
        angles = 2.0 * torch.atan2((predicted - true).norm(dim=-1), (predicted + true).norm(dim=-1))
        self._degrees = angles.sum() * math.degrees(1.0) + self._degrees
        self._count = mask.sum() + self._count

    def compute(self) -> float:
        count = int(self._count)
        if not count:
            raise no_valid_pixels(self.spec)
        return float(self._degrees) / count
