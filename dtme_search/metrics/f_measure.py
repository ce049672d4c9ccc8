"""F-measures at the best threshold of a whole set: counts pooled over images, one F for each threshold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from dtme_search.metrics.base import bounding_boxes, count_values, no_valid_pixels
from dtme_search.tasks import TaskSpec


class BestThresholdMeter:
    """Pools counts at T thresholds and returns the best F; subclasses decide what is counted.

    F = (1 + b) P R / (b P + R) with precision P, recall R, b = ``beta_squared``; 0 where neither is defined.

    Args:
        spec: Task of kind ``mask`` with one channel.
    """

    thresholds: ClassVar[tuple[float, ...]]
    beta_squared: ClassVar[float] = 1.0

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self._levels = torch.tensor(self.thresholds)
        self.reset()

    def reset(self) -> None:
        self._num_valid: int | Tensor = 0
        self._num_true: int | Tensor = 0
        self._predicted: int | Tensor = 0
        self._matched: int | Tensor = 0

    def _level(self, probability: Tensor, *, reached: bool) -> Tensor:
        """How many thresholds each value reaches or exceeds; the first call on a device waits for it."""
        self._levels = self._levels.to(probability.device)
        return torch.bucketize(probability, self._levels, right=reached)

    def _add(self, num_valid: Tensor, num_true: Tensor, predicted: Tensor, matched: Tensor) -> None:
        """Add valid and true pixels, int64 (), and predicted and matched ones at each threshold, int64
        (T,)."""
        self._num_valid = num_valid + self._num_valid
        self._num_true = num_true + self._num_true
        self._predicted = predicted + self._predicted
        self._matched = matched + self._matched

    def compute(self) -> float:
        if not int(self._num_valid):
            raise no_valid_pixels(self.spec)
        # With P = matched / predicted and R = matched / true, F = (1 + b) matched / (b true + predicted).
        total = self.beta_squared * int(self._num_true) + torch.as_tensor(self._predicted).cpu().double()
        scores = (1 + self.beta_squared) * torch.as_tensor(self._matched).cpu().double() / total
        return float(scores.nan_to_num(0.0).max())


def count_reaching(level: Tensor, mask: Tensor, num_thresholds: int) -> Tensor:
    """How many pixels of ``mask`` lie above each threshold, int64 (T,); ``level`` says above how many."""
    histogram = count_values(level, mask, num_thresholds + 1)
    # Not a cumulative sum, which not every version of torch supports with deterministic algorithms on CUDA.
    return histogram.expand(len(histogram), -1).triu().sum(1)[1:]


def valid_boxes(prediction: Tensor, target: Tensor, valid: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each image of a batch (B, 1, H, W), cut to the bounding box of its valid pixels so that padding does
    not count: output, whether the target is above 0.5, and validity. Images without valid pixels are left
    out."""
    boxes = bounding_boxes(valid[:, 0])
    for logits_HW, target_HW, valid_HW, box in zip(
        prediction[:, 0], target[:, 0], valid[:, 0], boxes, strict=True
    ):
        if box is not None:
            yield logits_HW[box], target_HW[box] > 0.5, valid_HW[box]
