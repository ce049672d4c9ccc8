"""What the devices of a run are asked for, and how whoever computes it sees the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from dtme_search.data import Batch
from dtme_search.errors import ConfigError


@dataclass(frozen=True)
class Job:
    """What to compute of a batch.

    Attributes:
        kind: ``losses`` without gradients, ``gradients`` of their weighted sum, ``rows``: gradients by task.
        tasks: Tasks that take part.
        parts: Number of parts of the whole batch.
        weights: Factor of each task's loss, for ``gradients``.
        norms: Whether ``gradients`` also need the gradients of each task in the last shared block.
    """

    kind: Literal["losses", "gradients", "rows"]
    tasks: tuple[str, ...]
    parts: int
    weights: tuple[float, ...] = ()
    norms: bool = False


class Share(Protocol):
    """One of the devices among which a batch is divided."""

    @property
    def rank(self) -> int:
        """Its number; the leader is 0."""

    @property
    def size(self) -> int:
        """Number of devices."""

    def begin(self, step: int) -> None:
        """What is asked for from here on is about the batch of this step."""

    def ask(self, job: Job) -> None:
        """Let the others do the same as this one is about to do; only the leader can."""

    def skip(self, num_images: int) -> None:
        """Make the random draws of a part that another device computes."""

    def total(self, found: Sequence[Tensor]) -> list[Tensor]:
        """For the leader the sums over all devices; others send theirs and get nothing useful back."""


def own_parts(batch: Batch, parts: int, share: Share | None) -> Iterator[tuple[Batch, Batch | None]]:
    """Parts that go through the network here, one after the other, each with the whole batch.

    The whole batch is ``None`` where it is the only part.
    """
    if parts == 1:
        yield batch, None
        return
    pieces = batch.split(parts)
    if share is not None:
        each = len(pieces) // share.size
        first = share.rank * each
        for piece in pieces[:first]:
            share.skip(len(piece.images))
        pieces = pieces[first : first + each]
    for piece in pieces:
        yield piece, batch


def check_divides(batch_size: int, accumulate: int, devices: int) -> None:
    """Refuse batches that cannot be divided among the devices of a run.

    Raises:
        ConfigError: If the number of parts, and with it the batch size, is not a multiple of theirs.
    """
    if batch_size % devices:
        raise ConfigError(
            f"train.batch_size must be a multiple of --devices-per-trial ({devices}), got {batch_size}. "
            "Change one of them."
        )
    if accumulate % devices:
        # More parts than the config says would be other batches for batch norm, so other results.
        raise ConfigError(
            f"train.accumulate must be a multiple of --devices-per-trial ({devices}), got {accumulate}: the "
            f"devices divide the parts of a batch among them. Set train.accumulate={devices}."
        )
