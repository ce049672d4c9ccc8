"""How hard each training image is for each task, at one step of a training.

The scores of several steps form a data map: the mean of an image's scores is its confidence, their spread its
variability.

Source: Swayamdipta et al., "Dataset Cartography" (arXiv 2009.10795), for classes of whole images; Islam et
al., STG-MTL (arXiv 2307.03374), groups tasks by it. Ours: scores for dense tasks, and a fixed set of images
without augmentation instead of every batch, so that runs can be compared.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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

_ERRORS = ("distance", "normals", "values")
_DIGITS = 4


@torch.no_grad()
def image_scores(
    model: MultiTaskViT, data: TaskData, tasks: Sequence[str], train: TrainConfig, num_images: int, seed: int
) -> Scores:
    """Score training images chosen by ``seed``, always in the same order.

    - classes: mean probability of the true class over the valid pixels;
    - masks: the same, but edges are scored on edge pixels only, because the background would dominate;
      several labels of an image are averaged;
    - numbers: exp(-e / e0), where e is the mean error of the image (L1, for normals degrees) and e0 that of
      the best constant, as a mean over these images.

    The model's mode does not change.
    """
    means = {name: mean.to(data.device) for name, mean in data.target_means().items()}
    found: dict[str, list[Tensor]] = {name: [] for name in tasks}
    plain: dict[str, list[Tensor]] = {name: [] for name in tasks}
    was_training = model.training
    model.eval()
    try:
        batches = data.for_tasks(tasks).analysis_batches(num_images, train.eval_batch_size, seed)
        for batch in batches:
            with autocast(train, data.device):
                outputs = model(batch.images, tuple(tasks))
            for name in tasks:
                spec, target, valid = data.specs[name], batch.targets[name], batch.valid[name]
                prediction = outputs[name].float()
                found[name].append(_per_image(spec, prediction, target, valid))
                if spec.kind in _ERRORS:
                    constant = means[name].view(1, -1, 1, 1).expand_as(prediction)
                    plain[name].append(_per_image(spec, constant, target, valid))
    finally:
        model.train(was_training)
    return {
        name: _in_numbers(torch.cat(found[name]), torch.cat(plain[name]) if plain[name] else None)
        for name in tasks
    }


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
