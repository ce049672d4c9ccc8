"""Selective fine-tuning: once auxiliary tasks have stopped, only the parts that matter keep training.

A summary of MT2ST says that its last phase "updates only the most relevant parts"; the paper (arXiv
2406.18038v6) has no formula for it, so all of this is [ours]. Parts are the embedding, every block and the
final norm. Decoders, modulations and task tokens always train. Frozen parts keep their optimiser state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dtme_search.config import FinetuneConfig
from dtme_search.data import Purpose, make_generator
from dtme_search.models import MultiTaskViT
from dtme_search.training.forward import TaskLosses
from dtme_search.training.gradient_statistics import layer_groups
from dtme_search.training.task_gradients import Draws, task_gradients, trained_parameters


def choose_parts(
    losses: TaskLosses, tasks: Sequence[str], settings: FinetuneConfig, seed: int
) -> tuple[str, ...]:
    """Parts that keep training, in the order of the model.

    Args:
        losses: Losses of the run, with the model, which does not change.
        tasks: Primary tasks.
        settings: How many parts, and which.
        seed: Chooses images, and parts for the control ``random``.
    """
    names = list(layer_groups(losses.model))
    if settings.parts:
        return tuple(name for name in names if name in settings.parts)
    count = math.ceil(round(settings.fraction * len(names), 9))
    if settings.selection == "last":
        order = names[::-1]
    elif settings.selection == "random":
        generator = make_generator("cpu", seed, Purpose.ANALYSIS, 1)
        order = [names[index] for index in torch.randperm(len(names), generator=generator).tolist()]
    else:
        scores = importances(losses, tasks, settings, seed)
        sign = -1.0 if settings.selection == "importance" else 1.0
        order = sorted(names, key=lambda name: sign * scores[name])  # stable: ties go to the lower layer
    chosen = set(order[:count])
    return tuple(name for name in names if name in chosen)


def importances(
    losses: TaskLosses, tasks: Sequence[str], settings: FinetuneConfig, seed: int
) -> dict[str, float]:
    """Importance of each part: a mean over its parameters, over images, summed over tasks.

    For a parameter theta with gradient g of a single image it is g^2 (``fisher_trace``), |theta g|
    (``taylor``) or |g| (``magnitude``). It is divided by the number of parameters, because otherwise large
    parts would always win.
    """
    model, draws = losses.model, Draws(losses.data.device)
    groups = layer_groups(model)
    place = {parameter: index for index, parameter in enumerate(trained_parameters(model)[0])}
    was_training = model.training
    sums = dict.fromkeys(groups, 0.0)
    num_images = 0
    model.eval()
    try:
        # One graph serves a backward pass per task, which compiled blocks may refuse.
        with torch.compiler.set_stance("force_eager"):
            for batch in losses.data.analysis_batches(settings.images, 1, seed):
                num_images += 1
                for row in task_gradients(losses, batch, tasks).rows.values():
                    for name, parameters in groups.items():
                        terms = [_term(settings.importance, each, row[place[each]]) for each in parameters]
                        sums[name] += float(torch.stack(terms).sum())
    finally:
        model.train(was_training)
        draws.repeat()
    sizes = {name: sum(each.numel() for each in parameters) for name, parameters in groups.items()}
    return {name: total / num_images / sizes[name] for name, total in sums.items()}


def freeze_all_but(model: MultiTaskViT, parts: Sequence[str]) -> None:
    """Freeze the shared parameters of all other parts."""
    for name, parameters in layer_groups(model).items():
        if name not in parts:
            for parameter in parameters:
                parameter.requires_grad_(False)
                parameter.grad = None


def _term(importance: str, parameter: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return torch.zeros((), dtype=torch.float64, device=parameter.device)
    return _TERMS[importance](parameter.detach(), gradient).sum().double()


_TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "fisher_trace": lambda _, gradient: gradient.square(),
    "taylor": lambda parameter, gradient: (parameter * gradient).abs(),
    "magnitude": lambda _, gradient: gradient.abs(),
}
"""From a parameter and its gradient to the importance of each entry."""
