"""Conflict reports, put together again from the rows in the database."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

import torch

from dtme_search.search.storage.rows import ConflictRow, GainRow
from dtme_search.token_space import ConflictReport
from dtme_search.token_space.gain import GAINS

_POSITIONS = 10**9
"""Rates of a report that is put together again are exact to one in this many."""


def report_of(
    rows: Sequence[ConflictRow], gains: Sequence[GainRow], everything: Iterable[str], num_layers: int
) -> ConflictReport:
    """A report that ranks layers like the one that the rows were written from."""
    named = {name for row in rows for name in (row.task_a, row.task_b)}
    tasks = tuple(task for task in everything if task in named)
    pairs = {pair: index for index, pair in enumerate(combinations(tasks, 2))}
    counts = torch.zeros(2, 1, num_layers, len(pairs), dtype=torch.int64)
    cosines = torch.zeros(num_layers, len(pairs), dtype=torch.float64)
    for row in rows:
        index = pairs[row.task_a, row.task_b]
        counts[0, 0, row.layer, index] = round(row.range_rate * _POSITIONS)
        counts[1, 0, row.layer, index] = round(row.null_rate * _POSITIONS)
        cosines[row.layer, index] = row.cosine or 0.0
    numbers = torch.full((3, len(GAINS), num_layers), math.nan, dtype=torch.float64)
    for gain in gains:
        values = [math.nan if each is None else each for each in (gain.gain, gain.gain_se, gain.z)]
        numbers[:, GAINS.index(gain.operation), gain.layer] = torch.tensor(values, dtype=torch.float64)
    return ConflictReport(
        tasks=tasks,
        variance_ratio=1.0,
        embed_dim=1,
        num_positions=_POSITIONS,
        range_dims=(1,) * num_layers,
        range_counts=counts[0],
        null_counts=counts[1],
        cosines=None if any(row.cosine is None for row in rows) else cosines,
        gains=numbers if gains else None,
    )
