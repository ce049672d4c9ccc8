"""F-measures at the best threshold of a whole set: counts pooled over images, one F for each threshold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from dtme_search.metrics.base import bounding_box, no_valid_pixels
from dtme_search.tasks import TaskSpec


class BestThresholdMeter:
    """Pools counts at T thresholds and gives the best F; what is counted is up to its subclasses.

    F = (1 + b) P R / (b P + R) with precision P, recall R, b = ``beta_squared``; 0 where neither is defined.

    Args:
        spec: Task of kind ``mask`` with one channel.
    """

    num_thresholds: ClassVar[int]
    beta_squared: ClassVar[float] = 1.0

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.reset()

    def reset(self) -> None:
        self._num_valid = 0
        self._num_true = 0
        self._predicted = torch.zeros(self.num_thresholds, dtype=torch.int64)
        self._matched = torch.zeros(self.num_thresholds, dtype=torch.int64)

    def _add(self, num_true: int, predicted: Tensor, matched: Tensor) -> None:
        """Take in true pixels, and predicted and matched ones at each threshold, int64 (T,)."""
        self._num_true += num_true
        self._predicted += predicted.cpu()
        self._matched += matched.cpu()

    def compute(self) -> float:
        if not self._num_valid:
            raise no_valid_pixels(self.spec)
        # With P = matched / predicted and R = matched / true, F = (1 + b) matched / (b true + predicted).
        total = self.beta_squared * self._num_true + self._predicted.double()
        scores = (1 + self.beta_squared) * self._matched.double() / total
        return float(scores.nan_to_num(0.0).max())


def valid_boxes(prediction: Tensor, target: Tensor, valid: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each image of a batch (B, 1, H, W) cut to the bounding box of its valid pixels, so that padding counts
    for nothing: output, whether the target is above 0.5, and validity. Images without valid pixels are left
    out."""
    for logits_HW, target_HW, valid_HW in zip(prediction[:, 0], target[:, 0], valid[:, 0], strict=True):
        if valid_HW.any():
            box = bounding_box(valid_HW)
            yield logits_HW[box], target_HW[box] > 0.5, valid_HW[box]
