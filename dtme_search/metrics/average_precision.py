"""Mean average precision of several labels of an image.

Shapes: B images of a batch, N of the set, C labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dtme_search.metrics.base import check_batch, no_valid_pixels
from dtme_search.tasks import TaskSpec


class MeanApMeter:
    """Mean over the labels of their average precision, a fraction.

    The images are ranked by the score of a label. AP = sum over the distinct scores of (recall there minus
    recall before) times the precision there, without interpolation, as in scikit-learn. A label that no
    image has is left out of the mean, because its precision is not defined.

    Args:
        spec: Task with C labels, each yes or no; target values above 0.5 are yes.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.reset()

    def reset(self) -> None:
        # A number for each image and label: few enough to keep.
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        check_batch(self.spec, prediction, target, valid)
        self._batches.append(
            (_rows(prediction.float()).clone(), _rows(target > 0.5), _rows(valid)[:, 0].clone())
        )

    def compute(self) -> float:
        if not self._batches:
            raise no_valid_pixels(self.spec)
        scores_NC, truth_NC, valid_N = (torch.cat(parts).cpu() for parts in zip(*self._batches, strict=True))
        scores_NC, truth_NC = scores_NC[valid_N], truth_NC[valid_N]
        occurring = truth_NC.any(0).nonzero()[:, 0].tolist()
        if not len(truth_NC):
            raise no_valid_pixels(self.spec)
        if not occurring:
            raise ValueError(
                f"meter of task '{self.spec.name}': no image has any of its labels, so mean_ap is not "
                "defined. Update it with at least one that has."
            )
        return sum(_average_precision(scores_NC[:, c], truth_NC[:, c]) for c in occurring) / len(occurring)


def _rows(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * H * W, C)."""
    return maps.movedim(1, -1).flatten(0, -2)


def _average_precision(scores_N: Tensor, truth_N: Tensor) -> float:
    ranked = scores_N.sort(descending=True)
    hits = truth_N[ranked.indices].cumsum(0).double()
    # Images with one score are in no order, so they enter together.
    ends = torch.cat([ranked.values[1:] != ranked.values[:-1], torch.ones(1, dtype=torch.bool)])
    precision = (hits / torch.arange(1, len(hits) + 1))[ends]
    recall = hits[ends] / hits[-1]
    return float((precision * recall.diff(prepend=torch.zeros(1, dtype=recall.dtype))).sum())
