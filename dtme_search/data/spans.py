"""Whether labels carry information: the smallest and largest number of each task in each split."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dtme_search.data.base import Split
from dtme_search.errors import DataError
from dtme_search.tasks import TaskSpec

_log = logging.getLogger(__name__)

Span = tuple[float, float]


def span_of(label: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Span | None:
    """Smallest and largest of the numbers that count, ``None`` if none does.

    Args:
        label: (H, W) or (H, W, C).
        valid: (H, W).

    Example:
        >>> span_of(np.array([[1, 5, 9]]), np.array([[True, True, False]]))
        (1.0, 5.0)
    """
    counted = label[valid]
    return (float(counted.min()), float(counted.max())) if counted.size else None


class LabelSpans:
    """Collects the spans of the samples that a run reads."""

    def __init__(self) -> None:
        self._found: dict[tuple[Split, str], Span | None] = {}

    def add(self, split: Split, spans: Mapping[str, Span | None]) -> None:
        """Add one sample."""
        for task, span in spans.items():
            known = self._found.get((split, task))
            both = [each for each in (known, span) if each is not None]
            self._found[split, task] = (min(a for a, _ in both), max(b for _, b in both)) if both else None

    def check(self, specs: Mapping[str, TaskSpec]) -> None:
        """Warn about tasks whose labels are one number everywhere in a split.

        Raises:
            DataError: Names a task and a split in which no pixel counts.
        """
        for (split, task), span in self._found.items():
            if task not in specs:
                continue
            thing = specs[task].labelled_thing
            images = {"train": "training", "holdout": "hold-out", "test": "test"}[split]
            if span is None:
                raise DataError(
                    f"tasks.{task}: at least one {thing} of the {images} images must count, got none. Give "
                    "them labels, choose other images (data.holdout_seed, splits), or leave the task out."
                )
            if span[0] == span[1]:
                _log.warning(
                    "tasks.%s: every %s of the %s images has the value %g, so there is nothing to learn.",
                    task, thing, images, span[0],
                )  # fmt: skip
