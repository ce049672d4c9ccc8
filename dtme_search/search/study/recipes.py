"""Baselines before the first trial: those that all trials share, and the small search for tuned ones."""

from __future__ import annotations

from dataclasses import replace

from dtme_search.config import BaselineRecipes, RunConfig
from dtme_search.errors import BaselineError
from dtme_search.search.space.recipes import Recipe, candidates, recipes_of_trials
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.study.baselines import Baselines


def settled(space: SearchSpace, baselines: Baselines, *, all_recipes: bool = False) -> SearchSpace:
    """The space whose trials know what they are compared with; shared baselines are trained.

    Args:
        space: Its base config contains the rule for baselines.
        baselines: Trains them.
        all_recipes: Also train those that only some trials use now, not when such a trial comes.

    Raises:
        BaselineError: If a shared baseline diverges, or every recipe of a tuned one.
        TrainingInterrupted: If a signal stopped it; the same call continues.
    """
    base = space.base
    if base.baselines.rule == "tuned" and not base.baselines.recipes:
        base = _with(base, base.baselines.model_copy(update={"recipes": _tuned(space, baselines)}))
    if base.baselines.rule == "same":
        runs = [(task, run) for task in base.primary_tasks for run in recipes_of_trials(space, task)]
        if all_recipes or len(runs) == len(base.primary_tasks):
            baselines.of_runs(runs)
    else:
        baselines.get(base)
    return replace(space, base=base)


def _tuned(space: SearchSpace, baselines: Baselines) -> dict[str, Recipe]:
    """Task -> recipe with the best result on the hold-out when trained alone; diverging ones are out."""
    tried = [
        (task, recipe)
        for task in space.base.primary_tasks
        for recipe in candidates(space, task, space.base.baselines.tried or 1)
    ]
    singles = [
        (task, _with(space.base, BaselineRecipes(recipes={task: recipe})).for_single_task(task))
        for task, recipe in tried
    ]
    best: dict[str, tuple[float, Recipe]] = {}
    for row, (task, recipe) in zip(baselines.of_runs(singles, may_diverge=True), tried, strict=True):
        if row is not None:
            score = row.value if row.higher_is_better else -row.value
            best[task] = max(best.get(task, (score, recipe)), (score, recipe), key=lambda each: each[0])
    for task in space.base.primary_tasks:
        if task not in best:
            raise BaselineError(f"baseline {task}: must not diverge with every recipe of the search space.")
    return {task: recipe for task, (_, recipe) in best.items()}


def _with(base: RunConfig, rules: BaselineRecipes) -> RunConfig:
    return base.model_copy(update={"baselines": rules})
