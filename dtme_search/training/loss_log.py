"""Task losses between two evaluations: their means, and the first one that is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dtme_search.errors import DivergedError


class LossLog:
    """Collects losses on the device and reads them in blocks, because each read waits for the device."""

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}
        self._unread: list[tuple[int, dict[str, Tensor]]] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def record(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Record the losses of one step, by task; tasks that were not trained are absent."""
        self._unread.append((step, {name: loss.detach() for name, loss in losses.items()}))

    def read(self) -> None:
        """Read what was recorded.

        Raises:
            DivergedError: With the step, the task and its last finite loss.
        """
        if not self._unread:
            return
        values = iter(torch.stack([loss for _, row in self._unread for loss in row.values()]).tolist())
        for step, row in self._unread:
            for name in row:
                value = next(values)
                if not math.isfinite(value):
                    raise DivergedError(step, name, self.latest.get(name))
                self.latest[name] = value
                self._sums[name] = self._sums.get(name, 0.0) + value
                # Exactly 0 means a batch without a label of the task.
                self._counts[name] = self._counts.get(name, 0) + (value != 0)
        self._unread.clear()

    def take_means(self) -> dict[str, float]:
        """Mean loss by task since the last call; resets the log."""
        self.read()
        means = {name: total / max(self._counts[name], 1) for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        self.read()
        return {"latest": self.latest, "sums": self._sums, "counts": self._counts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.latest = dict(state["latest"])
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
