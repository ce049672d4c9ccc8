"""Plans in numbers: groups of columns, each with its own length scale in the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dtme_search.search.proposal.front import Array, Rows


@dataclass(frozen=True)
class Plans:
    """n plans as rows of numbers, roughly from 0 to 1.

    Attributes:
        groups: Columns that share a length scale, shape (n, width) each: the start of the growth, each
            further choice, each operation by layer.
        summary: Columns that get a linear part, shape (n, width); may be empty.
        reach: Share of the training during which the growth takes part, shape (n,); 0 for a plan that never
            grows. It bounds the effect of a seed, because without growth there is nothing a seed could
            change.
    """

    groups: tuple[Array, ...]
    summary: Array
    reach: Array

    def __len__(self) -> int:
        return len(self.reach)

    def __getitem__(self, rows: Rows | slice) -> Plans:
        return Plans(tuple(group[rows] for group in self.groups), self.summary[rows], self.reach[rows])

    @classmethod
    def join(cls, parts: Sequence[Plans]) -> Plans:
        """The plans of all parts, concatenated."""
        return cls(
            tuple(np.concatenate(columns) for columns in zip(*(part.groups for part in parts), strict=True)),
            np.concatenate([part.summary for part in parts]),
            np.concatenate([part.reach for part in parts]),
        )
