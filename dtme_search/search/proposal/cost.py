"""What a plan still costs, in unexpanded training steps, given the trunks that already exist."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dtme_search.search.proposal.front import Array, Rows

_FEWEST_MEASURED = 5
_STREAM_SHARE = 0.5
_OPERATION_SHARE = 0.02


@dataclass(frozen=True)
class Shape:
    """What determines the cost of a step, for n plans; shape (n,) each.

    Attributes:
        depth: Share of the layers from the first grown one on, 0 without growth; these run once per stream.
        streams: Streams through the last layer.
        operations: Share of the layers with each operation, shape (n, operations).
    """

    depth: Array
    streams: Array
    operations: Array

    def __getitem__(self, rows: Rows | slice) -> Shape:
        return Shape(self.depth[rows], self.streams[rows], self.operations[rows])

    def formula(self) -> Array:
        """Cost of a step before any is measured: each further stream costs about half a step [ours]."""
        per_layer = self.operations.sum(1)
        cost: Array = 1 + (self.streams - 1) * _STREAM_SHARE * self.depth + _OPERATION_SHARE * per_layer
        return cost

    def columns(self) -> Array:
        """Terms in which the cost of a step beyond an unexpanded one is assumed to be linear."""
        return np.column_stack([self.depth * (self.streams - 1), self.operations])


def step_costs(shape: Shape, measured: Shape, costs: Array) -> Array:
    """Cost of a step of each plan: least squares on the measured ones, the formula if fewer than five are.

    Example:
        >>> one = np.ones(5)
        >>> seen = Shape(one * 0.5, np.array([2.0, 3, 4, 5, 6]), np.stack([one, 0 * one], axis=1))
        >>> costs = step_costs(seen[:1], seen, 1 + 0.2 * np.arange(1, 6))
        >>> [round(float(cost), 3) for cost in costs]
        [1.2]
    """
    if len(costs) < _FEWEST_MEASURED or not len(shape.depth):
        return shape.formula()
    # A small share of the formula steadies the fit where the measured plans do not determine it.
    columns, excess = measured.columns(), costs - measured.formula()
    steadied = columns.T @ columns + 1e-3 * np.eye(columns.shape[1])
    weights = np.linalg.solve(steadied, columns.T @ excess)
    return np.maximum(shape.formula() + shape.columns() @ weights, 1.0)


def cost_to_go(starts: Array, ends: Array, step_cost: Array, paid: Array) -> Array:
    """Compute that training each plan would cost now.

    Args:
        starts: Step of the growth; the last step for a plan that never grows. Shape (n,), as for all
            arguments.
        ends: Steps of the whole run.
        step_cost: Cost of a step after the growth.
        paid: Step up to which the plan's trunk has been trained or is in training.

    Example:
        >>> one = np.ones(1)
        >>> cost_to_go(20 * one, 80 * one, 1.5 * one, 5 * one).tolist()
        [105.0]
    """
    return np.maximum(0.0, starts - np.minimum(paid, starts)) + (ends - starts) * step_cost


def fitted_line(where: Array, values: Array) -> tuple[float, float]:
    """Offset and slope, not below 0, of the line nearest to the values; through 0 where they tell no slope.

    Example:
        >>> fitted_line(np.array([1.0, 2.0]), np.array([3.0, 5.0]))
        (1.0, 2.0)
        >>> fitted_line(np.array([2.0]), np.array([3.0])), fitted_line(np.zeros(0), np.zeros(0))
        ((0.0, 1.5), (0.0, 1.0))
    """
    if not len(where):
        return 0.0, 1.0
    spread = where - where.mean()
    if not spread.any():
        return 0.0, float(values.mean() / where.mean())
    slope = max(0.0, float((spread * values).sum() / (spread**2).sum()))
    return float(values.mean() - slope * where.mean()), slope
