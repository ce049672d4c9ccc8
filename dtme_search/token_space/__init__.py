"""Token space analysis and expansion plans (DTME, arXiv 2507.07485)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtme_search.lazy import lazily

if TYPE_CHECKING:
    from dtme_search.token_space.conflicts import conflict_rates, measure_conflicts
    from dtme_search.token_space.plan import ExpansionPlan, options_of
    from dtme_search.token_space.planning import merge_tasks, plan_expansion
    from dtme_search.token_space.report import ConflictReport, Space
    from dtme_search.token_space.subspace import CovarianceAccumulator, TokenSpace, split_token_space

__all__ = [
    "ConflictReport",
    "CovarianceAccumulator",
    "ExpansionPlan",
    "Space",
    "TokenSpace",
    "conflict_rates",
    "measure_conflicts",
    "merge_tasks",
    "options_of",
    "plan_expansion",
    "split_token_space",
]

_get = lazily(
    __name__,
    {
        "conflicts": ("conflict_rates", "measure_conflicts"),
        "plan": ("ExpansionPlan", "options_of"),
        "planning": ("merge_tasks", "plan_expansion"),
        "report": ("ConflictReport", "Space"),
        "subspace": ("CovarianceAccumulator", "TokenSpace", "split_token_space"),
    },
)

if not TYPE_CHECKING:  # type checkers would take any name
    __getattr__ = _get
