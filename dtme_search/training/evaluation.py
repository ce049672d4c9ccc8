"""Metrics of a model on a split, and of the predictor that never looks at the image.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dtme_search.config import RunConfig, TrainConfig
from dtme_search.data import Batch, OwnLabels, Split, TaskData
from dtme_search.errors import ConfigError
from dtme_search.metrics import Meter, build_meter, extra_meters
from dtme_search.models import MultiTaskViT
from dtme_search.tasks import TaskSpec
from dtme_search.training.runtime import autocast


def check_scoring(config: RunConfig, split: Split) -> None:
    """Refuse a run in which the test split would influence the training.

    Raises:
        ConfigError: If task weights follow evaluations and only the test split is available for them.
    """
    if split == "test" and config.auxiliary_tasks and config.schedule.patience is not None:
        raise ConfigError(
            "schedule.patience must be empty in a final training, which could only follow the test split, "
            f"got {config.schedule.patience}. Export a trial, which holds the step that its search found, or "
            "set schedule.switch_at and schedule.patience=null."
        )


def evaluation_steps(config: RunConfig, split: Split) -> set[int]:
    """Numbers of steps after which a run is measured; the test split is measured only once."""
    total, count = config.total_steps, config.train.num_evaluations
    if split == "test":
        return {total}
    return {max(1, round(total * (index + 1) / count)) for index in range(count)}


def evaluate(
    model: MultiTaskViT, data: TaskData, split: Split, train: TrainConfig, tasks: Sequence[str] | None = None
) -> dict[str, float]:
    """Metric of every task (or of ``tasks``) on a split; the model's mode does not change."""
    meters = {name: build_meter(data.specs[name]) for name in tasks or data.specs}
    _measure(model, data, split, train, {name: (meter,) for name, meter in meters.items()})
    return {name: meter.compute() for name, meter in meters.items()}


def evaluate_extra(
    model: MultiTaskViT,
    data: TaskData,
    split: Split,
    train: TrainConfig,
    tasks: Sequence[str],
    on_images: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, dict[str, float]]:
    """Further metrics for comparison with publications, for example the exact odsF of edges.

    Exact matching takes a third of a second of processor time for an image of 425x560, so use it only in
    final evaluations.

    Args:
        model: Its mode does not change.
        data: Its data.
        split: Where to measure.
        train: Batch size and precision.
        tasks: Tasks that were evaluated.
        on_images: Called with the number of images done and in total; may raise to stop.

    Returns:
        Task -> metric -> value, in the unit of the task; only tasks with such metrics.
    """
    meters = {name: extra_meters(data.specs[name]) for name in tasks}
    meters = {name: of_task for name, of_task in meters.items() if of_task}
    if meters:
        lists = {name: tuple(of_task.values()) for name, of_task in meters.items()}
        _measure(model, data, split, train, lists, on_images)
    return {
        name: {metric: meter.compute() for metric, meter in of_task.items()}
        for name, of_task in meters.items()
    }


def evaluate_each(
    model: MultiTaskViT, data: TaskData, split: Split, train: TrainConfig
) -> list[tuple[str, dict[str, float | None]]]:
    """Id and metric of every task for each single image of a split; ``None`` if no pixel of it counts.

    Their mean is not the metric of the split, which pools pixels or uses one threshold for all images.
    """
    meters = {name: (build_meter(spec),) for name, spec in data.specs.items()}
    ids, rows = data.splits.ids(split), []

    def value(meter: Meter) -> float | None:
        try:
            return meter.compute()
        except ValueError:
            return None
        finally:
            meter.reset()

    def shown(done: int, _total: int) -> None:
        if done:
            rows.append((ids[done - 1], {name: value(meter) for name, (meter,) in meters.items()}))

    _measure(model, data, split, train.model_copy(update={"eval_batch_size": 1}), meters, shown)
    return rows


@torch.no_grad()
def _measure(
    model: MultiTaskViT,
    data: TaskData,
    split: Split,
    train: TrainConfig,
    meters: Mapping[str, Sequence[Meter]],
    on_images: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Pass the outputs of a model on a split to the meters of each task."""
    names = tuple(meters)
    done, total = 0, len(data.splits.ids(split))
    was_training = model.training
    own = data.for_tasks(names).own_labels(split) if data.scores_at_own_size else None
    model.eval()
    try:
        for batch in data.for_tasks(names).eval_batches(split, train.eval_batch_size):
            on_images(done, total)
            with autocast(train, data.device):
                outputs = model(batch.images, names)
            for name in names:
                outputs[name] = outputs[name].float()
            _show(meters, outputs, batch, own)
            done += len(batch.images)
        on_images(done, total)
    finally:
        model.train(was_training)


def _show(
    meters: Mapping[str, Sequence[Meter]],
    outputs: Mapping[str, Tensor],
    batch: Batch,
    own: Iterator[OwnLabels] | None,
) -> None:
    """Pass outputs (B, C, H, W) to the meters, at their size or at that of each image's labels."""
    if own is None:
        for name, of_task in meters.items():
            for meter in of_task:
                meter.update(outputs[name], batch.targets[name], batch.valid[name])
        return
    for index, labels in zip(range(len(batch.images)), own, strict=False):
        for name, of_task in meters.items():
            enlarged = labels.enlarged(outputs[name][index : index + 1])
            for meter in of_task:
                meter.update(enlarged, labels.targets[name], labels.valid[name])


@torch.no_grad()
def no_image_priors(data: TaskData, split: Split, batch_size: int) -> dict[str, float]:
    """Metric of the best guess that ignores the image: per pixel the mean or most frequent training label,
    and the same for labels of whole images.

    A model that does not clearly beat this has only learnt the average scene, and a delta_m built on it says
    nothing about sharing [ours].
    """
    maps = _average_labels(data, batch_size)
    meters = {name: (build_meter(spec),) for name, spec in data.specs.items()}
    own = data.own_labels(split) if data.scores_at_own_size else None
    for batch in data.eval_batches(split, batch_size):
        _show(
            meters,
            {name: each.expand(len(batch.images), -1, -1, -1) for name, each in maps.items()},
            batch,
            own,
        )
    return {name: meter.compute() for name, (meter,) in meters.items()}


def _average_labels(data: TaskData, batch_size: int) -> dict[str, Tensor]:
    """Per task a map (C, H, W) in the form of a decoder output: counts, logits or means."""

    def zeros(channels: int, spec: TaskSpec) -> Tensor:
        size = spec.label_size(data.image_size)
        return torch.zeros(channels, *size, dtype=torch.float64, device=data.device)

    sums = {name: zeros(spec.channels, spec) for name, spec in data.specs.items()}
    counts = {name: zeros(1, spec) for name, spec in data.specs.items()}
    for batch in data.average_batches(batch_size):
        for name, spec in data.specs.items():
            valid, target = batch.valid[name], batch.targets[name]
            counts[name] += valid.sum(dim=0)
            if spec.kind == "classes":
                # Count in place: one plane per class and image would take gigabytes.
                sums[name].scatter_add_(0, target.clamp(0, spec.channels - 1), valid[:, 0].double())
            else:
                sums[name] += torch.where(valid, target.double(), 0).sum(dim=0)
    maps = {}
    for name, spec in data.specs.items():
        mean = sums[name] / counts[name].clamp(min=1)
        if spec.kind == "mask":
            # The best guess of a region: as many pixels as that takes, where the mean is highest.
            level = _best_region(mean) if spec.metric == "iou" else torch.tensor(0.5)
            mean = torch.logit(mean, eps=1e-6) - torch.logit(level.to(mean), eps=1e-6)
        maps[name] = mean.float()
    return maps


def _best_region(mean: Tensor) -> Tensor:
    """A threshold just below the lowest mean of the pixel set with the best average IoU with the labels."""
    ranked = mean.flatten().sort(descending=True).values
    hits = ranked.cumsum(0)
    union = hits[-1] + torch.arange(1, len(ranked) + 1, device=mean.device) - hits
    return ranked[(hits / union).argmax()] * (1 - 1e-6)
