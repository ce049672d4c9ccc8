"""Which images are in which training batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch

from dtme_search.data.batches.randomness import Purpose, make_generator

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Labelled = Mapping[str, Bools]
"""For each task with missing labels: whether each image has its label, shape (N,)."""


def training_order(
    num_images: int, batch_size: int, seed: int, start_step: int = 0, labelled: Labelled | None = None
) -> Iterator[list[int]]:
    """Indices of the training batches from ``start_step`` on, with a new permutation for each epoch.

    Args:
        num_images: N.
        batch_size: Images per batch.
        seed: Seed of the permutations.
        start_step: Step of the first batch.
        labelled: Tasks for which images are exchanged until each batch has a label, see
            :func:`spread_labels`.

    Example:
        >>> later = training_order(5, 2, seed=0, start_step=3)
        >>> whole = training_order(5, 2, seed=0)
        >>> [next(whole) for _ in range(4)][3] == next(later)
        True
    """
    steps_per_epoch = max(1, num_images // batch_size)
    for epoch in itertools.count(start_step // steps_per_epoch):
        shuffled = torch.randperm(num_images, generator=make_generator("cpu", seed, Purpose.ORDER, epoch))
        places = np.arange(steps_per_epoch * batch_size).reshape(steps_per_epoch, batch_size)
        batches: Ints = shuffled.numpy()[places % num_images]
        if labelled:
            spread_labels(batches, shuffled.numpy(), labelled)
        first = start_step % steps_per_epoch if epoch == start_step // steps_per_epoch else 0
        yield from batches[first:].tolist()


def spread_labels(batches: Ints, shuffled: Ints, labelled: Labelled) -> None:
    """Give each batch of an epoch an image with a label of each task, if there are enough images [ours].

    The task with the fewest labels comes first. A batch without one exchanges an image with a batch that has
    several. If no batch can spare one, an image is repeated in place of another one; the repeated images go
    through all of the task in turn. No batch loses its only label of a task this way, so a batch with fewer
    images than tasks may lack some.

    Args:
        batches: Images of the batches, shape (steps, batch size); changed in place.
        shuffled: All images, in the order in which they are repeated.
        labelled: For each task, whether each image has its label.
    """
    order = sorted(labelled, key=lambda task: (int(labelled[task].sum()), task))
    has = np.stack([labelled[task] for task in order], axis=1)
    # Kept alongside the batches and updated with them: an epoch may have a hundred thousand images.
    shown, spare = np.empty((*batches.shape, len(order)), bool), np.empty(batches.shape, bool)

    def look(steps: slice | int) -> None:
        shown[steps] = has[batches[steps]]
        alone = shown[steps].sum(axis=-2, keepdims=True) == 1
        # Images all of whose labels occur at least twice in their batch.
        spare[steps] = ~(shown[steps] & alone).any(axis=-1)

    look(slice(None))
    for task in range(len(order)):
        in_turn = itertools.cycle(shuffled[has[shuffled, task]].tolist())
        for step in np.flatnonzero(~shown[:, :, task].any(axis=1)) if has[:, task].any() else ():
            out = int(spare[step].argmax())
            if not spare[step, out]:
                continue
            can_give = spare & shown[:, :, task]
            giver, place = divmod(int(can_give.argmax()), batches.shape[1])
            if can_give[giver, place]:
                batches[step, out], batches[giver, place] = batches[giver, place], batches[step, out]
                look(giver)
            else:
                batches[step, out] = next(in_turn)
            look(int(step))
