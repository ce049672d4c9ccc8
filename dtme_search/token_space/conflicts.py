"""Conflicts between task gradients in the range and the null space of each layer's tokens.

Source: arXiv 2507.07485v2, Sec. 4.2. Two tasks conflict at a token when the projections of their gradients
onto a subspace have a non-positive dot product. Only signs count, so losses may be scaled by any positive
factor. Taken literally, the rule makes a zero gradient conflict with every other; images without a label,
whose gradient is always zero, are left out if they are known (ours).

Shapes: B images of a batch, L tokens of an image, P embedding dim, K tasks, D layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from dtme_search.errors import TrainingError
from dtme_search.token_space.gain import GAINS, expansion_gradients, layer_gains, modulation_gradients
from dtme_search.token_space.report import ConflictReport, pair_matrices
from dtme_search.token_space.subspace import CovarianceAccumulator, TokenSpace, split_token_spaces

BatchT = TypeVar("BatchT")
Forward = Callable[[BatchT], tuple[Mapping[str, Tensor], Sequence[Tensor]]]
"""Batch -> scalar loss of each task, and the tokens that enter each layer, (B, L, P)."""
Progress = Callable[[int, int], None]
"""Called with the number of batches done and in total."""


def conflict_rates(gradients: Tensor, token_space: TokenSpace) -> tuple[Tensor, Tensor]:
    """Fraction of tokens at which each pair of tasks conflicts, in the range and in the null space.

    In an empty subspace the rate is 0 (ours; taken literally, ``0 <= 0`` would always conflict).

    Args:
        gradients: Gradient of each task's loss for every token, shape (K, B, L, P).
        token_space: Subspaces of the layer that the tokens enter.

    Returns:
        Two symmetric matrices, float64, shape (K, K), zero on the diagonal.

    Raises:
        ValueError: If the gradients have another shape, or another P than the token space.

    Example:
        >>> from dtme_search.token_space.subspace import split_token_space
        >>> space = split_token_space(torch.diag(torch.tensor([9.0, 0.01])), variance_ratio=100.0)
        >>> gradients = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).reshape(2, 1, 1, 2)
        >>> range_rates, null_rates = conflict_rates(gradients, space)
        >>> range_rates.tolist(), null_rates.tolist()
        ([[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]])
    """
    if gradients.ndim != 4 or gradients.shape[3] != token_space.embed_dim:
        raise ValueError(
            f"gradients must have shape (tasks, images, tokens, {token_space.embed_dim}), "
            f"got {tuple(gradients.shape)}."
        )
    num_tasks, num_images, num_tokens, _ = gradients.shape
    counts = _count_conflicts(gradients, token_space).sum(1).to(torch.float64)
    range_rates, null_rates = pair_matrices(counts / (num_images * num_tokens), num_tasks)
    return range_rates, null_rates


def measure_conflicts(
    batches: Callable[[], Iterable[BatchT]],
    forward: Forward[BatchT],
    *,
    variance_ratio: float,
    first_token: int = 0,
    on_progress: Progress | None = None,
    labelled: Callable[[BatchT], Tensor] | None = None,
    attended: Callable[[], Sequence[Tensor]] = tuple,
) -> ConflictReport:
    """Measure the conflicts of all tasks at every layer on a set of images.

    Makes two passes over the same batches, so that memory does not grow with the number of images. The first
    accumulates the covariance of the tokens of each layer. The second takes one backward pass per task for
    the gradients at all layers and counts conflicts. All tasks of a batch share one forward pass. On a device
    it waits for results between the passes and at the end, never in between.

    Args:
        batches: Returns the same batches each time it is called.
        forward: Runs the model; called outside autocast, which it may use inside. The first pass calls it
            without gradients. In the second, every layer input must be part of the graph of every loss.
            Images must not influence each other (no batch statistics), otherwise the errors by image are
            misleading.
        variance_ratio: Splits the token space, see :func:`split_token_space`.
        first_token: Tokens before this one are not shared by the tasks and do not count.
        on_progress: Called after each batch of the second pass, which takes nearly all of the time.
        labelled: Batch -> whether each image has a label of each task, bool (B, K). A pair counts on images
            that have both labels; images with fewer than two labels are skipped. By default all images have
            all labels.
        attended: What each layer's attention gave before its output map in the last call of ``forward``, (B,
            L, U) per layer, in the graph; none if the layers do not show it. Gains of expansion need it.

    Returns:
        The report, on the CPU. Parameters and their ``grad`` do not change.

    Raises:
        ValueError: If there are no batches, they differ between the passes, or inputs are not (B, L, P).
        TrainingError: If a loss is not finite, or no image has the labels of two tasks.
    """
    covariances, num_batches, mean_losses = _first_pass(batches, forward, first_token)
    tasks = tuple(mean_losses)
    spaces = split_token_spaces([one.covariance() for one in covariances], variance_ratio)

    num_positions: set[int] = set()
    counts, both, complete = list[Tensor](), list[Tensor](), list[Tensor]()
    pulls: dict[str, list[list[Tensor]]] = {operation: [] for operation in GAINS}
    seen: list[Mapping[str, Tensor]] = []
    for batch in batches():
        with torch.enable_grad():
            losses, layer_inputs = _run(forward, batch)
        num_positions.add(layer_inputs[0].shape[1] - first_token)
        gradients = _gradients([losses[task] for task in tasks], [*layer_inputs, *attended()])
        of_inputs = [of_layer[:, :, first_token:] for of_layer in gradients[: len(layer_inputs)]]
        counts.append(_count_batch(of_inputs, spaces))
        shared = [each.detach()[:, first_token:] for each in layer_inputs]
        of_batch = _pulls(of_inputs, shared, gradients[len(shared) :])
        for operation, of_layers in zip(GAINS, of_batch, strict=True):
            pulls[operation].append(of_layers)
        if labelled is not None:
            labels_BK = labelled(batch)
            both.append(_pairs_of(labels_BK))
            complete.append(labels_BK.all(1))
        seen.append({task: loss.detach() for task, loss in losses.items()})
        if on_progress is not None:
            on_progress(len(counts), num_batches)
    _check_finite(seen)
    if len(counts) != num_batches:
        raise ValueError(
            f"batches must give the same batches twice, got {num_batches} and then {len(counts)}. "
            "Pass a function that makes a new iterator each time."
        )
    if len(num_positions) != 1:
        raise ValueError(f"images must have equally many tokens, got {sorted(num_positions)}.")
    report = ConflictReport(
        tasks,
        float(variance_ratio),
        embed_dim=spaces[0].embed_dim,
        num_positions=num_positions.pop(),
        range_dims=tuple(space.range_dim for space in spaces),
        **dict(zip(("range_counts", "null_counts"), torch.cat(counts, dim=1).cpu(), strict=True)),
    )
    kept_I = torch.cat(complete).cpu() if complete else None
    report = replace(report, gains=layer_gains(pulls, torch.stack([*mean_losses.values()]).cpu(), kept_I))
    return report if not both or len(tasks) == 1 else _labelled_only(report, torch.cat(both).cpu())


def _first_pass(
    batches: Callable[[], Iterable[BatchT]], forward: Forward[BatchT], first_token: int
) -> tuple[list[CovarianceAccumulator], int, dict[str, Tensor]]:
    """Covariances of each layer's tokens, number of batches, and mean loss of each task over the images."""
    covariances: list[CovarianceAccumulator] = []
    seen: list[Mapping[str, Tensor]] = []
    sizes: list[int] = []
    with torch.no_grad():
        for batch in batches():
            losses, layer_inputs = _run(forward, batch)
            covariances = covariances or [CovarianceAccumulator() for _ in layer_inputs]
            for accumulator, tokens in zip(covariances, layer_inputs, strict=True):
                accumulator.update(tokens[:, first_token:])
            seen.append(losses)
            sizes.append(len(layer_inputs[0]))
    if not seen:
        raise ValueError("batches must give at least one batch, got none.")
    _check_finite(seen)
    by_batch = torch.stack([torch.stack([one[task] for task in seen[0]]) for one in seen]).to(torch.float64)
    shares = torch.tensor(sizes, dtype=torch.float64, device=by_batch.device) / sum(sizes)
    return covariances, len(seen), dict(zip(seen[0], (by_batch * shares[:, None]).sum(0), strict=True))


def _pairs_of(labelled_BK: Tensor) -> Tensor:
    """Whether each image has both labels of each pair, bool (B, pairs)."""
    num_tasks = labelled_BK.shape[1]
    first, second = torch.triu_indices(num_tasks, num_tasks, offset=1, device=labelled_BK.device)
    return labelled_BK[:, first] & labelled_BK[:, second]


def _labelled_only(report: ConflictReport, both_IX: Tensor) -> ConflictReport:
    """The report over the images and pairs that have labels."""
    if both_IX.all():
        return report
    kept = both_IX.any(1)
    if not kept.any():
        raise TrainingError(
            f"conflict measurement: some of {report.num_images} images must have labels of two of the tasks "
            f"{', '.join(report.tasks)}, got none. Label some for both, or set expansion.policy to none."
        )
    both_IX = both_IX[kept]
    return replace(
        report,
        range_counts=report.range_counts[kept] * both_IX[:, None],
        null_counts=report.null_counts[kept] * both_IX[:, None],
        both=None if both_IX.all() else both_IX,
    )


def _run(forward: Forward[BatchT], batch: BatchT) -> tuple[Mapping[str, Tensor], Sequence[Tensor]]:
    losses, layer_inputs = forward(batch)
    if not losses or not layer_inputs:
        raise ValueError("forward must give at least one loss and one layer input.")
    for tokens in layer_inputs:
        if tokens.ndim != 3:
            raise ValueError(f"layer inputs must have shape (B, L, P), got {tuple(tokens.shape)}.")
    return losses, layer_inputs


def _check_finite(losses: Sequence[Mapping[str, Tensor]]) -> None:
    if not losses:
        return
    names = [task for of_batch in losses for task in of_batch]
    values = torch.stack([loss.detach() for of_batch in losses for loss in of_batch.values()]).tolist()
    for task, value in zip(names, values, strict=True):
        if not math.isfinite(value):
            raise TrainingError(
                f"conflict measurement: the loss of task '{task}' must be finite, got {value}. "
                "Lower train.lr or set train.grad_clip."
            )


def _gradients(losses: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Gradient of each task's loss with respect to each tensor: (K, B, L, ...) per tensor."""
    by_task = [
        torch.autograd.grad(loss, tensors, retain_graph=index < len(losses) - 1)
        for index, loss in enumerate(losses)
    ]
    return [torch.stack(of_tensor) for of_tensor in zip(*by_task, strict=True)]


def _count_batch(gradients: Sequence[Tensor], spaces: Sequence[TokenSpace]) -> Tensor:
    """Conflict counts of one batch, int64, shape (2, B, D, pairs): range, then null."""
    per_layer = [_count_conflicts(each, space) for each, space in zip(gradients, spaces, strict=True)]
    return torch.stack(per_layer, dim=2)


def _pulls(
    of_inputs: Sequence[Tensor], tokens: Sequence[Tensor], of_attended: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of what modulation and expansion would add, as of single images: (K, B, U) per layer."""

    def alone(gradients_KBLP: Tensor) -> Tensor:
        # A loss is the mean over the images of a batch.
        precise = torch.promote_types(gradients_KBLP.dtype, torch.float32)
        return gradients_KBLP.to(precise) * gradients_KBLP.shape[1]

    modulation = [
        torch.stack([modulation_gradients(one, tokens_BLP.to(one)) for one in alone(each)])
        for each, tokens_BLP in zip(of_inputs, tokens, strict=True)
    ]
    return modulation, [
        torch.stack([expansion_gradients(one) for one in alone(each)]) for each in of_attended
    ]


def _count_conflicts(gradients_KBLP: Tensor, space: TokenSpace) -> Tensor:
    """Tokens of each image at which a pair conflicts, int64, shape (2, B, pairs): range, then null."""
    # Half precision would round the small null components away.
    gradients_KBLP = gradients_KBLP.to(torch.promote_types(gradients_KBLP.dtype, torch.float32))
    return torch.stack(
        [
            _count_in(gradients_KBLP, basis.to(gradients_KBLP))
            for basis in (space.range_basis, space.null_basis)
        ]
    )


def _count_in(gradients_KBLP: Tensor, basis_PR: Tensor) -> Tensor:
    num_tasks, num_images = gradients_KBLP.shape[:2]
    first, second = torch.triu_indices(num_tasks, num_tasks, offset=1, device=gradients_KBLP.device)
    if not basis_PR.shape[1]:
        return torch.zeros(num_images, len(first), dtype=torch.int64, device=gradients_KBLP.device)
    # The basis is orthonormal, so dot products of coordinates equal those of the projections.
    coordinates_KBLR = gradients_KBLP @ basis_PR
    dots_KKBL = torch.einsum("iblr,jblr->ijbl", coordinates_KBLR, coordinates_KBLR)
    return (dots_KKBL[first, second] <= 0).sum(2).T
