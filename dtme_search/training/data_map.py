"""How hard each training image is for each task, at one step of a training.

The scores of several steps form a data map: the mean of an image's scores is its confidence, their spread its
variability; for classes and labels of whole images the share of right predictions is its correctness.

Source: Swayamdipta et al., "Dataset Cartography" (arXiv 2009.10795), for classes of whole examples; Islam et
al., STG-MTL (arXiv 2307.03374), groups tasks by it. Ours: scores for dense tasks, for several labels (right
if all are) and for numbers; and a fixed set of images without augmentation at each evaluation instead of
every batch of every epoch, so that runs can be compared.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dtme_search.config import TrainConfig
from dtme_search.data import TaskData
from dtme_search.models import MultiTaskViT
from dtme_search.tasks import TaskSpec
from dtme_search.training.runtime import autocast

Scores = Mapping[str, tuple[float | None, ...]]
"""Task -> score of each image, between 0 and 1; ``None`` for an image that has no label for the task."""

Hits = Mapping[str, tuple[int | None, ...]]
"""Task about whole images -> 1 for each image that is predicted right, else 0, ``None`` without a label."""


@dataclass(frozen=True)
class ImageScores:
    """Scores of training images at one step, always in the same order.

    Attributes:
        scores: How right each image is.
        hits: Whether its class or all its labels are right, for tasks about whole images.
    """

    scores: Scores = field(default_factory=dict)
    hits: Hits = field(default_factory=dict)


_ERRORS = ("distance", "normals", "values")
_DIGITS = 4


@torch.no_grad()
def image_scores(
    model: MultiTaskViT, data: TaskData, tasks: Sequence[str], train: TrainConfig, num_images: int, seed: int
) -> ImageScores:
    """Score training images chosen by ``seed``, in the order of ``data.analysis_order``.

    - classes: mean probability of the true class over the valid pixels;
    - masks: the same, but edges are scored on edge pixels only, because the background would dominate;
      several labels of an image are averaged;
    - numbers: exp(-e / e0), where e is the mean error of the image (L1, for normals degrees) and e0 that of
      the best constant, as a mean over these images.

    The model's mode does not change.
    """
    means = {name: mean.to(data.device) for name, mean in data.target_means().items()}
    found: dict[str, list[Tensor]] = {name: [] for name in tasks}
    hits: dict[str, list[Tensor]] = {name: [] for name in tasks if _has_hits(data.specs[name])}
    plain: dict[str, list[Tensor]] = {name: [] for name in tasks}
    was_training = model.training
    model.eval()
    try:
        # The same images, whichever tasks still train.
        chosen = data.analysis_order(num_images, seed)
        for batch in data.for_tasks(tasks).chosen_batches(chosen, train.eval_batch_size):
            with autocast(train, data.device):
                outputs = model(batch.images, tuple(tasks))
            for name in tasks:
                spec, target, valid = data.specs[name], batch.targets[name], batch.valid[name]
                prediction = outputs[name].float()
                found[name].append(_per_image(spec, prediction, target, valid))
                if name in hits:
                    hits[name].append(_hit(spec, prediction, target, valid))
                if spec.kind in _ERRORS:
                    constant = means[name].view(1, -1, 1, 1).expand_as(prediction)
                    plain[name].append(_per_image(spec, constant, target, valid))
    finally:
        model.train(was_training)
    return ImageScores(
        {
            name: _in_numbers(torch.cat(found[name]), torch.cat(plain[name]) if plain[name] else None)
            for name in tasks
        },
        {name: _in_whole_numbers(torch.cat(each)) for name, each in hits.items()},
    )


def _has_hits(spec: TaskSpec) -> bool:
    return spec.of_image and spec.kind in ("classes", "mask")


def _in_whole_numbers(values: Tensor) -> tuple[int | None, ...]:
    return tuple(None if value != value else int(value) for value in values.tolist())


def _in_numbers(values: Tensor, constant: Tensor | None) -> tuple[float | None, ...]:
    if constant is not None:
        values = torch.exp(-values / constant.nanmean())
    return tuple(None if value != value else round(value, _DIGITS) for value in values.tolist())


def _per_image(spec: TaskSpec, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Probability of the truth, or the error, as a mean over the counted pixels: (B,), NaN if none."""
    counted = valid[:, 0]
    if spec.kind == "classes":
        true = target.clamp(0, spec.channels - 1).unsqueeze(1)
        per_pixel = F.softmax(prediction, dim=1).gather(1, true)[:, 0]
    elif spec.kind == "mask":
        positive = target > 0.5
        if spec.metric in ("edge_f", "ods_f"):
            counted = counted & positive[:, 0]
        per_pixel = torch.sigmoid(torch.where(positive, prediction, -prediction)).mean(dim=1)
    elif spec.kind == "normals":
        cosine = F.cosine_similarity(prediction, target, dim=1)
        per_pixel = torch.rad2deg(torch.acos(cosine.clamp(-1.0, 1.0)))
    else:
        per_pixel = (prediction - target).abs().mean(dim=1)
    total = torch.where(counted, per_pixel, 0.0).sum((1, 2), dtype=torch.float64)
    return total / counted.sum((1, 2))


def _hit(spec: TaskSpec, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 where the class, or every label, of an image (B, C, 1, 1) is right, else 0: (B,), NaN without one."""
    right = (
        prediction.argmax(1) == target
        if spec.kind == "classes"
        else ((prediction > 0) == (target > 0.5)).all(dim=1)
    )
    return torch.where(valid[:, 0, 0, 0], right[:, 0, 0].double(), torch.nan)
