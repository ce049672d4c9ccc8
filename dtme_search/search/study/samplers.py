"""Samplers by name: Optuna's, with every default that changes results pinned, and those of users."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from dtme_search.config import NoOptions, Section, StudyConfig
from dtme_search.errors import ConfigError
from dtme_search.guards import Guard
from dtme_search.plugins import Family


@dataclass(frozen=True)
class SamplerSetting:
    """What a sampler may be built from.

    Attributes:
        study: The study, with objectives and space.
        seed: Below 2**32; another one for each worker.
        options: Its own options, checked.
    """

    study: StudyConfig
    seed: int
    options: Any


@dataclass(frozen=True)
class SamplerKind:
    """Entry of the registry.

    Attributes:
        build: Makes Optuna's sampler for one worker.
        options: Section that checks ``sampler.options.<name>``.
    """

    build: Callable[[SamplerSetting], BaseSampler]
    options: type[Section] = NoOptions


def _tpe(setting: SamplerSetting) -> BaseSampler:
    with warnings.catch_warnings():
        # group=True is marked experimental, but `when` and multivariate only work together with it.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            multivariate=True,
            group=True,
            constant_liar=True,
            n_startup_trials=setting.study.sampler.num_startup_trials,
            seed=setting.seed,
        )


def _gp(setting: SamplerSetting) -> BaseSampler:
    study = setting.study
    for path, searched in study.search.items():
        if searched.when:
            raise ConfigError(
                f"study {study.name}: sampler.name must not be gp with conditional parameters, "
                f"got search.{path}.when. Use tpe."
            )
    return GPSampler(seed=setting.seed, n_startup_trials=study.sampler.num_startup_trials)


def guarded_sampler(kind: SamplerKind, part: str) -> SamplerKind:
    """The same kind; its samplers tell which rule they break."""
    guard = Guard(part)

    def build(setting: SamplerSetting) -> BaseSampler:
        with guard.calling("build"):
            made = kind.build(setting)
        rule = f"give a sampler of Optuna, got {type(made).__name__}"
        guard.hold(isinstance(made, BaseSampler), "build", rule)
        return GuardedSampler(made, guard)

    return replace(kind, build=build)


class GuardedSampler(BaseSampler):
    """A sampler from a user.

    Args:
        sampler: The sampler.
        guard: Names it.
    """

    def __init__(self, sampler: BaseSampler, guard: Guard) -> None:
        self._sampler, self._guard = sampler, guard

    def reseed_rng(self) -> None:
        """Draw other numbers than other processes."""
        with self._guard.calling("reseed_rng"):
            self._sampler.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """What ``sample_relative`` chooses together."""
        method = "infer_relative_search_space"
        with self._guard.calling(method):
            space = self._sampler.infer_relative_search_space(study, trial)
        holds = isinstance(space, Mapping) and all(
            isinstance(each, BaseDistribution) for each in space.values()
        )
        self._guard.hold(holds, method, f"give names with distributions, got {space!r}")
        return space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values that belong together."""
        with self._guard.calling("sample_relative"):
            values = self._sampler.sample_relative(study, trial, search_space)
        self._guard.hold(isinstance(values, Mapping), "sample_relative", f"give a mapping, got {values!r}")
        for name, value in values.items():
            known = f"name parameters that it was asked for, {list(search_space)}, got {name!r}"
            self._guard.hold(name in search_space, "sample_relative", known)
            self._check(value, name, search_space[name], "sample_relative")
        return values

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Value of one parameter."""
        with self._guard.calling("sample_independent"):
            value = self._sampler.sample_independent(study, trial, param_name, param_distribution)
        self._check(value, param_name, param_distribution, "sample_independent")
        return value

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Called as a trial begins."""
        with self._guard.calling("before_trial"):
            self._sampler.before_trial(study, trial)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Called as a trial ends."""
        with self._guard.calling("after_trial"):
            self._sampler.after_trial(study, trial, state, values)

    def _check(self, value: Any, name: str, distribution: Any, method: str) -> None:
        if isinstance(distribution, CategoricalDistribution):
            inside, among = value in distribution.choices, str(list(distribution.choices))
        else:
            low, high, step = distribution.low, distribution.high, distribution.step
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            inside, among = is_number and low <= value <= high, f"{low} to {high}"
            if inside and step:
                inside, among = _is_whole((value - low) / step), f"{among} in steps of {step}"
        self._guard.hold(inside, method, f"stay inside the space, {name} from {among}, got {value!r}")


def _is_whole(number: float) -> bool:
    return abs(number - round(number)) < 1e-6


SAMPLERS = Family(
    "samplers",
    SamplerKind,
    {
        "tpe": SamplerKind(_tpe),
        "plan": SamplerKind(_tpe),  # its fallback, see ``plan_sampler``
        "nsga2": SamplerKind(lambda setting: NSGAIISampler(seed=setting.seed)),
        "random": SamplerKind(lambda setting: RandomSampler(seed=setting.seed)),
        "gp": SamplerKind(_gp),
    },
    guarded_sampler,
)
"""``sampler.name`` -> the sampler."""
