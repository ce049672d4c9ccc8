"""What a leader and its followers tell each other beside tensors, over a pipe for each follower."""

from __future__ import annotations

from dataclasses import dataclass

from dtme_search.config import RunConfig
from dtme_search.training.team.job import Job

HERE = "here"
"""A follower has read a message and takes part in what follows."""
READY = "ready"
"""A follower has computed its share."""
GO = "go"
"""All are ready: add up."""


@dataclass(frozen=True)
class Begin:
    """A run begins.

    Attributes:
        config: The run.
        tasks: Tasks of the network, at least those of the run.
        final: Whether it trains on all training ids.
        data: Fingerprint of its data.
        threads: Threads to compute with.
        meeting: File through which the devices find each other.
    """

    config: RunConfig
    tasks: tuple[str, ...]
    final: bool
    data: str
    threads: int
    meeting: str


@dataclass(frozen=True)
class Shape:
    """What the network has become.

    Attributes:
        plan: The plan by which it has grown, as JSON; ``None`` before.
        frozen: Names of the parameters that do not train.
    """

    plan: str | None
    frozen: frozenset[str]


@dataclass(frozen=True)
class Task:
    """Compute a share of a batch.

    Attributes:
        step: 0-based; names the batch and the draws.
        job: What to compute.
        shape: If it has changed since the last one.
    """

    step: int
    job: Job
    shape: Shape | None


@dataclass(frozen=True)
class Failed:
    """A follower cannot go on.

    Attributes:
        reason: One line.
        of_memory: Whether it is out of memory.
    """

    reason: str
    of_memory: bool
