"""Which single-task recipes the trials of a study use, and with which recipes its baselines are trained.

A searched field may also shape a single-task run: learning rate, length, decoder, weight. A tuned trial must
not be compared with an untuned baseline. So baselines follow the trial if that takes only a few of them, and
are tuned themselves if it would take too many [ours].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import optuna

from dtme_search.config import BaselineRecipes, RunConfig, Scalar, StudyConfig, run_fingerprint
from dtme_search.config.dotted import value_at
from dtme_search.errors import ConfigError
from dtme_search.search.space.paths import ARCHITECTURE, SEEDS
from dtme_search.search.space.search_space import SearchSpace

FEW = 8
"""Number of recipes trained for a task: all that trials use or, if there are more, for tuning [ours]."""
_LOOKED_AT = 48
"""Points drawn from the space to count recipes [ours]."""
Recipe = dict[str, Scalar]
_NEVER_READ = ("expansion.", "schedule.", "train.combine.")
_OF_RECIPE = ("train.", "model.", "data.augment.", "data.normalize")
"""Fields in which a baseline may differ from the trial. What is measured, on which data and with which seed
always match the trial, and so does the architecture: a delta_m compares networks of one kind."""


def with_rule(study: StudyConfig, space: SearchSpace) -> SearchSpace:
    """The space with the rule for baselines in its base config; for tuned baselines ``recipes`` are empty.

    Trials inherit the rule, and so do exports and confirmations. A study keeps its rule.
    """
    tasks = space.base.primary_tasks
    fixed = BaselineRecipes(
        rule="base", recipes={task: _recipe(space, space.base, task, weights=True) for task in tasks}
    )
    wanted = study.baselines
    most = max(len(recipes_of_trials(space, task)) for task in tasks)
    if most == 1:
        return space
    if wanted.recipe == "base":
        return replace(space, base=_with(space.base, fixed))  # the only behaviour before there were rules
    if wanted.recipe == "trial" or (wanted.tune is None and most <= FEW):
        return replace(space, against="the recipe of the trial")
    tried = max(len(candidates(space, task, wanted.tune or FEW)) for task in tasks)
    # If only loss weights are searched, there is nothing to tune.
    rule = BaselineRecipes(rule="tuned", tried=tried) if tried > 1 else fixed
    return replace(space, base=_with(space.base, rule), against=rule.in_words())


def candidates(space: SearchSpace, task: str, count: int) -> list[Recipe]:
    """Different recipes of a task, the base config's first: dotted path -> value of what is searched.

    Weights stay those of the base config: Adam is almost insensitive to the scale of a single loss.
    """
    found: dict[str, Recipe] = {}
    for config in islice(_points(space), 0, max(_LOOKED_AT, 8 * count)):
        recipe = _recipe(space, config, task, weights=False)
        single = _with(space.base, BaselineRecipes(rule="tuned", recipes={task: recipe}))
        found.setdefault(run_fingerprint(single.for_single_task(task)), recipe)
        if len(found) == count:
            break
    return list(found.values())


def judged_as(space: SearchSpace, config: RunConfig) -> RunConfig:
    """The run whose baselines judge another: all ``seeds`` of a study are judged by those of the first."""
    if any(each.pattern == SEEDS for each in space.parameters):
        return config.model_copy(update={"seed": space.base.seed})
    return config


def recipes_of_trials(space: SearchSpace, task: str) -> list[RunConfig]:
    """Different single-task runs of a task that trials may use, at most one more than :data:`FEW`."""
    found: dict[str, RunConfig] = {}
    if _all_alike(space):
        return [space.base.for_single_task(task)]
    for config in islice(_points(space), _LOOKED_AT):
        single = config.for_single_task(task)
        found.setdefault(run_fingerprint(single), single)
        if len(found) > FEW:
            break
    return list(found.values())


def _all_alike(space: SearchSpace) -> bool:
    """Whether nothing is searched that could affect a single-task run; then no points need to be drawn."""
    paths = [each.path for each in space.parameters if each.pattern != SEEDS]
    return space.base.train.count_from == "start" and all(path.startswith(_NEVER_READ) for path in paths)


def _recipe(space: SearchSpace, config: RunConfig, task: str, *, weights: bool) -> Recipe:
    """Values of the searched fields that belong to the recipe of a task, in a config of the space."""
    paths = [each.path for each in space.parameters if not each.path.startswith(_NEVER_READ)]
    values, base = config.model_dump(mode="json"), space.base.model_dump(mode="json")
    recipe = {
        path: value_at(values, path, None)
        for path in paths
        if path.startswith(_OF_RECIPE) and path not in ARCHITECTURE
    }
    own = [path for path in paths if path.startswith(f"tasks.{task}.")]
    return recipe | {path: value_at(values if weights else base, path, None) for path in own}


def _points(space: SearchSpace) -> Iterator[RunConfig]:
    """The base config, then points drawn from the space, always the same."""
    yield space.base
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    while True:
        try:
            yield judged_as(space, space.suggest(study.ask()))
        except ConfigError:  # values that cannot be combined
            continue


def _with(base: RunConfig, recipes: BaselineRecipes) -> RunConfig:
    return base.model_copy(update={"baselines": recipes})
