"""The size of task gradients, for schedules that follow them."""

from __future__ import annotations

from collections.abc import Sequence

from dtme_search.data import Batch
from dtme_search.training.combination import kept_buffers
from dtme_search.training.forward import TaskLosses
from dtme_search.training.task_gradients import Draws, task_gradients


def gradient_norms(losses: TaskLosses, batch: Batch, tasks: Sequence[str], parts: int) -> dict[str, float]:
    """Norm of each task's gradient of a batch on the shared parameters, with the draws of its step.

    Running statistics and random generators are restored, as by :func:`fisher_traces`.
    """
    draws = Draws(losses.data.device)
    with kept_buffers(losses.model):
        gram = task_gradients(losses, batch, tasks, parts).gram()
    draws.repeat()
    return dict(zip(tasks, gram.diagonal().sqrt().tolist(), strict=True))


def fisher_traces(
    losses: TaskLosses, batch: Batch, tasks: Sequence[str], num_images: int
) -> dict[str, float]:
    """Mean over the first images of a batch of the squared norm of each task's gradient.

    Every image goes through the network alone, with running statistics in the decoders and without stochastic
    depth [ours], because batch norm would mix the images. Images without valid pixels of a task do not count
    for it.
    """
    model, draws = losses.model, Draws(losses.data.device)
    was_training = model.training
    seen: dict[str, list[float]] = {name: [] for name in tasks}
    model.eval()
    try:
        for image in batch.split(len(batch.images))[:num_images]:
            squares = task_gradients(losses, image, tasks).gram().diagonal().tolist()
            for name, square in zip(tasks, squares, strict=True):
                seen[name] += [square] if square > 0 else []
    finally:
        model.train(was_training)
        draws.repeat()
    return {name: sum(values) / len(values) if values else 0.0 for name, values in seen.items()}
