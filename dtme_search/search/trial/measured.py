"""Rows of what a trial measured and built, for SQL."""

from __future__ import annotations

from dtme_search.search.storage.rows import ConflictRow, GainRow, PlanRow
from dtme_search.token_space import ConflictReport, ExpansionPlan
from dtme_search.token_space.gain import GAINS


def plan_rows(plan: ExpansionPlan) -> list[PlanRow]:
    """One row per layer, operation and group of tasks."""
    return [
        PlanRow(layer=layer, operation=operation, group_index=index, tasks=",".join(group))
        for operation, by_layer in plan.groups.items()
        for layer, groups in by_layer.items()
        for index, group in enumerate(groups)
    ]


def gain_rows(report: ConflictReport) -> list[GainRow]:
    """One row per layer and operation; none if gains were not measured."""
    if report.gains is None:
        return []
    return [
        GainRow(layer=layer, operation=operation, gain=gain, gain_se=error, z=z)
        for operation, by_layer in zip(GAINS, report.gains.permute(1, 2, 0).tolist(), strict=True)
        for layer, (gain, error, z) in enumerate(by_layer)
    ]


def conflict_rows(report: ConflictReport) -> list[ConflictRow]:
    """One row per layer and pair of tasks."""
    range_errors, null_errors = report.pair_errors("range"), report.pair_errors("null")
    pairs = {pair: index for index, pair in enumerate(report.pairs)}

    def cosine(layer: int, a: str, b: str) -> float | None:
        return None if report.cosines is None else float(report.cosines[layer, pairs[a, b]])

    return [
        ConflictRow(
            layer=layer,
            task_a=report.tasks[a],
            task_b=report.tasks[b],
            range_rate=float(report.range_rates[layer, a, b]),
            null_rate=float(report.null_rates[layer, a, b]),
            range_se=float(range_errors[layer, a, b]),
            null_se=float(null_errors[layer, a, b]),
            cosine=cosine(layer, report.tasks[a], report.tasks[b]),
        )
        for layer in range(report.num_layers)
        for a in range(len(report.tasks))
        for b in range(a + 1, len(report.tasks))
    ]
