"""F-measure of saliency at the best threshold, in its correct and in its widespread form.

Shapes: B images, H height, W width, T thresholds.
"""

from __future__ import annotations

from torch import Tensor

from dtme_search.metrics.base import check_batch
from dtme_search.metrics.f_measure import BestThresholdMeter, count_reaching

THRESHOLDS = tuple(percent / 100 for percent in range(5, 100, 5))
"""The published 19 thresholds; a pixel is salient if its probability is at least the threshold."""
BETA_SQUARED = 0.3
"""Published weight of recall against precision."""


class MaxFMeter(BestThresholdMeter):
    """Saliency F-measure (beta^2 = 0.3) at the best of 19 thresholds of the whole set, a fraction.

    F = 1.3 P R / (0.3 P + R) with precision P and recall R from counts pooled over the set; 0 where
    neither is defined. The probability is the sigmoid of the output, once.

    Args:
        spec: Task of kind ``mask`` with one channel. Target values above 0.5 are salient.
    """

    thresholds = THRESHOLDS
    beta_squared = BETA_SQUARED

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        check_batch(self.spec, prediction, target, valid)
        probability = self._probability(prediction.float())
        salient = (target > 0.5) & valid
        level = self._level(probability, reached=True)
        predicted, matched = (count_reaching(level, mask, len(THRESHOLDS)) for mask in (valid, salient))
        self._add(valid.sum(), salient.sum(), predicted, matched)

    def _probability(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


class MaxFDoubleSigmoidMeter(MaxFMeter):
    """``MaxFMeter`` with a second sigmoid on the probability, a fraction.

    The evaluation code of InvPT, TaskPrompter and MLoRE (MLoRE issue 9) applies the sigmoid twice. Values
    then lie between 0.5 and 0.731, and the thresholds 0.55, 0.60, 0.65 and 0.70 act like 0.201, 0.405, 0.619
    and 0.847; those up to 0.5 call every pixel salient. Published numbers of these papers are affected, so
    compare only them with this metric.
    """

    def _probability(self, logits: Tensor) -> Tensor:
        return logits.sigmoid().sigmoid()
