"""How task gradients compare during training: between tasks, and between images of one task.

Source: Elich et al., "Examining Common Paradigms in Multi-Task Learning" (arXiv 2311.04698); DTME-MTL shows
the cosines between tasks (arXiv 2507.07485v2, Fig. 4). The question behind both is whether tasks conflict
more than images of one task do. Measuring changes nothing: neither the model, nor its running statistics, nor
later random draws.

Every image goes through the network alone, with the decoders' running statistics and without stochastic
depth, because batch norm would couple the gradients of one batch [ours].
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dtme_search.models import MultiTaskViT
from dtme_search.training.forward import TaskLosses
from dtme_search.training.task_gradients import Draws, Gradients, task_gradients, trained_parameters

ALL = "all"
"""The layer group with all shared parameters."""


@dataclass(frozen=True)
class PairSimilarity:
    """One kind of pair in one layer group, as a mean over images (or neighbouring images).

    Attributes:
        layer_group: ``all``, or one of :func:`layer_groups`.
        pair: ``tasks``: two tasks, one image. ``images``: one task, two images.
        task_a: First task.
        task_b: Second task; the first one again for two images.
        num_pairs: Pairs averaged over; a gradient of 0 (no valid pixel) is left out.
        cosine: g h / (|g| |h|).
        cosine_std: Its standard deviation, 0 for one pair.
        magnitude_similarity: 2 |g| |h| / (|g|^2 + |h|^2), between 0 and 1.
        conflicting: Fraction of entries with g h < 0.
    """

    layer_group: str
    pair: str
    task_a: str
    task_b: str
    num_pairs: int
    cosine: float
    cosine_std: float
    magnitude_similarity: float
    conflicting: float


def layer_groups(model: MultiTaskViT) -> dict[str, list[nn.Parameter]]:
    """Shared parameters that train, by layer: ``embedding``, ``block 0`` and so on, ``norm``."""
    parameters, shared = trained_parameters(model)
    of_block = {
        parameter: f"block {index}"
        for index, block in enumerate(model.backbone.blocks)
        for parameter in block.parameters()
    }
    of_norm = set(model.backbone.vit.norm.parameters())
    groups: dict[str, list[nn.Parameter]] = {}
    for parameter in parameters[:shared]:
        name = of_block.get(parameter) or ("norm" if parameter in of_norm else "embedding")
        groups.setdefault(name, []).append(parameter)
    return groups


def compare_gradients(
    losses: TaskLosses, tasks: Sequence[str], num_images: int, seed: int
) -> list[PairSimilarity]:
    """Compare the gradients of ``tasks`` on training images without augmentation, chosen by ``seed``.

    Costs ``num_images`` times the number of tasks single-image gradients.
    """
    model = losses.model
    if not layer_groups(model):  # no shared parameter trains
        return []
    draws, was_training = Draws(losses.data.device), model.training
    tally = _Tally(model)
    before: dict[str, Gradients] = {}
    model.eval()
    try:
        # One graph serves a backward pass per task, which compiled blocks may refuse.
        with torch.compiler.set_stance("force_eager"):
            for batch in losses.data.analysis_batches(num_images, 1, seed):
                rows = task_gradients(losses, batch, tasks).rows
                for first, second in itertools.combinations(rows, 2):
                    tally.add("tasks", first, second, rows[first], rows[second])
                for task, row in before.items():
                    tally.add("images", task, task, row, rows[task])
                before = rows
    finally:
        model.train(was_training)
        draws.repeat()
    return list(tally.means())


@dataclass
class _Tally:
    """Cosine, magnitude similarity and share of conflicting entries of all pairs so far, by layer group."""

    model: MultiTaskViT
    seen: dict[tuple[str, str, str, str], list[tuple[float, float, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parameters, shared = trained_parameters(self.model)
        place = {parameter: index for index, parameter in enumerate(parameters[:shared])}
        self.groups: Mapping[str, list[int]] = {
            name: [place[each] for each in group] for name, group in layer_groups(self.model).items()
        }

    def add(self, pair: str, first: str, second: str, one: Gradients, other: Gradients) -> None:
        """Add one pair of gradients."""
        of_group = {
            name: torch.stack([_sums(one[index], other[index]) for index in group]).sum(0)
            for name, group in self.groups.items()
        }
        # All groups are read with a single wait for the device.
        table = torch.stack(list(of_group.values()))
        table = torch.cat((table, table.sum(0, keepdim=True)))
        for name, (inner, square, square_other, opposed, count) in zip(
            [*of_group, ALL], table.tolist(), strict=True
        ):
            if square > 0 and square_other > 0:
                lengths = (square * square_other) ** 0.5
                values = (inner / lengths, 2 * lengths / (square + square_other), opposed / count)
                self.seen.setdefault((name, pair, first, second), []).append(values)

    def means(self) -> Iterator[PairSimilarity]:
        """Mean of each pair, in the order of first occurrence."""
        for key, values in self.seen.items():
            cosines, magnitudes, opposed = zip(*values, strict=True)
            yield PairSimilarity(
                *key,
                num_pairs=len(values),
                cosine=statistics.fmean(cosines),
                cosine_std=statistics.stdev(cosines) if len(values) > 1 else 0.0,
                magnitude_similarity=statistics.fmean(magnitudes),
                conflicting=statistics.fmean(opposed),
            )


def _sums(one: Tensor | None, other: Tensor | None) -> Tensor:
    """Inner product, both squared norms, entries of opposite signs, entries."""
    if one is None or other is None:
        known = one if one is not None else other
        device = None if known is None else known.device
        return torch.zeros(5, dtype=torch.float64, device=device)
    product = one * other
    numbers = (product.sum(), one.square().sum(), other.square().sum(), (product < 0).sum())
    return torch.stack(
        [*(each.double() for each in numbers), torch.full_like(numbers[0], one.numel()).double()]
    )
