"""``sampler: {name: plan}``: weighs what a plan may gain against what it still costs.

Everything is read from the database at every proposal, under the study's lock: what is finished, what is
running, which trunks exist. Nothing else is kept. So resuming, several workers and a warm start need no
special handling, and a killed worker leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from dtme_search.config import RunConfig, Scalar, StudyConfig
from dtme_search.config.measures import INFERENCE
from dtme_search.errors import ConfigError
from dtme_search.models import BackboneInfo
from dtme_search.search.space.paths import SEED
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.storage.optuna_internals import id_of_trial, storage_of
from dtme_search.search.storage.records import Records
from dtme_search.search.storage.rows import RunRow
from dtme_search.search.storage.trials import FOREIGN_ATTR, PROPOSAL_ATTR, is_foreign
from dtme_search.search.study.pool import Params, Pool
from dtme_search.search.study.resolving import Resolver
from dtme_search.search.study.sampling import build_sampler
from dtme_search.search.study.standing import Entry, Standing
from dtme_search.token_space import ExpansionPlan

_SERVED = ("param_overhead_percent", "step_cost_ratio", *INFERENCE)
"""Second objectives whose value is known, or well predicted, before a plan is trained."""
_TRIES = 20


def serves(study: StudyConfig) -> bool:
    """Whether the sampler can handle the objectives: a result, alone or against a price known in advance."""
    others = [name for name in study.objectives if name != study.goal]
    if study.goal is None or len(others) > 1:
        return False
    is_better_above = study.goal.startswith("metric.") or study.objectives[study.goal] == "maximize"
    return is_better_above and all(
        name in _SERVED and study.objectives[name] == "minimize" for name in others
    )


def predicts_inference(study: StudyConfig) -> bool:
    """Whether proposals go by the operations of a prediction, on which its time and memory depend, too."""
    return study.sampler.name == "plan" and bool(set(INFERENCE) & set(study.measures))


def study_sampler(
    study: StudyConfig,
    seed: int,
    space: SearchSpace,
    records: Records,
    backbone: BackboneInfo,
    flops: Callable[[RunConfig, ExpansionPlan], float] | None = None,
) -> BaseSampler:
    """The sampler of an existing study; TPE instead of ``plan`` if it cannot handle the objectives."""
    sampler = build_sampler(study, seed)
    if study.sampler.name != "plan" or not serves(study):
        return sampler
    return PlanSampler(study, space, records, backbone, sampler, flops)


@dataclass
class PlanSampler(BaseSampler):
    """The sampler as Optuna sees it: parameters are returned one by one but chosen together.

    Attributes:
        study: The study.
        space: Its search space.
        records: Its own tables.
        backbone: The network that grows.
        fallback: Completes points that leave parameters out, and proposes when no new work is left.
        flops: Counts the operations of a prediction, where an objective or limit depends on them.
    """

    study: StudyConfig
    space: SearchSpace
    records: Records
    backbone: BackboneInfo
    fallback: BaseSampler
    flops: Callable[[RunConfig, ExpansionPlan], float] | None = None
    _chosen: tuple[int, Params] = field(init=False, default=(-1, {}))

    def __post_init__(self) -> None:
        self._resolver = Resolver(self.space, self.backbone, self.flops)
        self._pool = Pool(self.space, {SEED: self.space.base.seed})

    def reseed_rng(self) -> None:
        """Does nothing: the only randomness comes from the state of the study."""
        self.fallback.reseed_rng()

    def infer_relative_search_space(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """Empty: which parameters are active depends on their values."""
        return {}

    def sample_relative(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        """Empty, for the same reason."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Value of one parameter of the set, which is chosen when its first parameter is asked for."""
        if self._chosen[0] != trial.number:
            is_given = "fixed_params" in trial.system_attrs
            self._chosen = trial.number, {} if is_given else self._choose(study, trial)
        params = self._chosen[1]
        if param_name in params:
            return params[param_name]
        if param_name == SEED:
            return self.space.base.seed
        return self.fallback.sample_independent(study, trial, param_name, param_distribution)

    def _choose(self, study: optuna.Study, trial: FrozenTrial) -> Params:
        """Parameters of the next plan; empty if no new work is left."""
        standing = self.standing(study, trial.number)
        for _ in range(_TRIES):
            proposed = standing.propose(self._pool)
            if proposed is None:
                break
            try:
                self.space.config(proposed.params)
            except ConfigError:  # an impossible combination; only the chosen candidate is checked
                standing.close(proposed.plan, proposed.seed)
                continue
            storage_of(study).set_trial_user_attr(id_of_trial(trial), PROPOSAL_ATTR, proposed.reason)
            return proposed.params
        return {}

    def standing(self, study: optuna.Study, asking: int | None = None) -> Standing:
        """What the study knows, from the point of view of the trial that asks."""
        name = self.study.name
        runs = {run.trial: run for run in self.records.runs(name)}
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number != asking]
        for trial in trials:
            run = runs.get(trial.number)
            if run is not None and run.operations and self._resolver.is_unknown(trial.params):
                rows = self.records.conflicts(name, trial.number)
                self._resolver.learn(
                    trial.params, rows, self.records.gains(name, trial.number), run.expansion_step
                )
        entries = [entry for trial in trials for entry in self._entries(trial, runs.get(trial.number))]
        standing = Standing(self.study, self.space, self._resolver, entries)
        by_trial = {trial.number: trial for trial in trials}
        for row in self.records.trunks(name):
            if self.study.reuse.trunks and row.trial in by_trial and by_trial[row.trial].params:
                standing.pay(self._resolver(by_trial[row.trial].params), row.to_step)
        return standing

    def _entries(self, trial: FrozenTrial, run: RunRow | None) -> Iterator[Entry]:
        known = trial.params or trial.system_attrs.get("fixed_params", {})
        params: dict[str, Scalar] = {}
        for parameter in self.space.parameters:
            if parameter.unmet(params) is None:
                if parameter.path not in known:
                    return  # its plan is not known yet
                params[parameter.path] = parameter.nearest([known[parameter.path]])
        plan = self._resolver(params)
        source = str(trial.user_attrs[FOREIGN_ATTR]["study"]) if is_foreign(trial) else None
        if trial.state == TrialState.COMPLETE:
            goal, price = self.study.goal, self.study.price
            values = dict(zip(self.study.objectives, trial.values, strict=True))
            yield Entry(
                plan,
                self.study.sign * values[goal or ""],
                run.step_cost_ratio if run is not None else None,
                source,
                price=None if price is None else values[price],
            )
        elif trial.state in (TrialState.RUNNING, TrialState.WAITING):
            yield Entry(plan, None, None, source)
        elif trial.state == TrialState.PRUNED or "error" in trial.user_attrs:
            yield Entry(plan, None, None, source, closed=True)
