"""Metrics of a model on a split, and of the predictor that never looks at the image.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dtme_search.config import TrainConfig
from dtme_search.data import Split, TaskData
from dtme_search.metrics import build_meter
from dtme_search.models import MultiTaskViT
from dtme_search.tasks import TaskSpec
from dtme_search.training.runtime import autocast


@dataclass(frozen=True)
class Evaluation:
    """What is known about a run at one step.

    Attributes:
        step: Optimiser steps done.
        metrics: Task -> metric on the split, in the units of its ``TaskSpec``.
        losses: Task -> mean training loss since the evaluation before.
    """

    step: int
    metrics: Mapping[str, float]
    losses: Mapping[str, float]


@torch.no_grad()
def evaluate(
    model: MultiTaskViT, data: TaskData, split: Split, train: TrainConfig, tasks: Sequence[str] | None = None
) -> dict[str, float]:
    """Metric of every task (or of ``tasks``) on a split; the model's mode is left as it was."""
    names = tuple(tasks or data.specs)
    meters = {name: build_meter(data.specs[name]) for name in names}
    was_training = model.training
    model.eval()
    try:
        for batch in data.eval_batches(split, train.eval_batch_size):
            with autocast(train, data.device):
                outputs = model(batch.images, names)
            for name in names:
                meters[name].update(outputs[name].float(), batch.targets[name], batch.valid[name])
    finally:
        model.train(was_training)
    return {name: meter.compute() for name, meter in meters.items()}


@torch.no_grad()
def no_image_priors(data: TaskData, split: Split, batch_size: int) -> dict[str, float]:
    """Metric of the best guess without looking: per pixel, the mean or most frequent training label.

    A model that does not clearly beat this has learnt the average scene, and a delta_m built on it says
    nothing about sharing [ours].
    """
    maps = _average_labels(data, batch_size)
    meters = {name: build_meter(spec) for name, spec in data.specs.items()}
    for batch in data.eval_batches(split, batch_size):
        for name, meter in meters.items():
            prediction = maps[name].expand(len(batch.images), -1, -1, -1)
            meter.update(prediction, batch.targets[name], batch.valid[name])
    return {name: meter.compute() for name, meter in meters.items()}


def _average_labels(data: TaskData, batch_size: int) -> dict[str, Tensor]:
    """Per task a map (C, H, W) in the form of a decoder output: counts, logits or means."""
    height, width = data.image_size
    sums = {
        name: torch.zeros(spec.channels, height, width, dtype=torch.float64, device=data.device)
        for name, spec in data.specs.items()
    }
    counts = {name: torch.zeros(1, height, width, dtype=torch.float64, device=data.device) for name in sums}
    for batch in data.eval_batches("train", batch_size):
        for name, spec in data.specs.items():
            valid = batch.valid[name]
            target = _as_channels(batch.targets[name], spec)
            sums[name] += torch.where(valid, target, 0).sum(dim=0)
            counts[name] += valid.sum(dim=0)
    maps = {}
    for name, spec in data.specs.items():
        mean = sums[name] / counts[name].clamp(min=1)
        if spec.kind == "mask":
            mean = torch.logit(mean, eps=1e-6)
        maps[name] = mean.float()
    return maps


def _as_channels(target: Tensor, spec: TaskSpec) -> Tensor:
    """Targets with one channel per output: one-hot for classes, (B, C, H, W) as they are otherwise."""
    if spec.kind != "classes":
        return target.double()
    one_hot = torch.nn.functional.one_hot(target.clamp(0, spec.channels - 1), spec.channels)
    return one_hot.permute(0, 3, 1, 2).double()
