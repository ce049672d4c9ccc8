"""The search space: dotted paths of a study file, suggested by a trial, returned as a ``RunConfig``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import BaseTrial

from dtme_search.config import (
    RunConfig,
    Scalar,
    StudyConfig,
    canonical,
    check_path,
    check_value,
    fingerprint,
    set_path,
    validate,
)
from dtme_search.config.dotted import value_at
from dtme_search.config.identity import NUMERICS_VERSION, expansion_in_full
from dtme_search.config.study import Distribution
from dtme_search.errors import ConfigError, nearest
from dtme_search.search.space.parameter import OptunaDistribution, Parameter, make_parameter
from dtme_search.search.space.paths import ARCHITECTURE, LAYERS, POLICY, SEED, SEEDS, START

_MEETING_POINTS = 8
"""Number of parts into which a range of expansion starts without a grid is cut."""


class SpaceRow(NamedTuple):
    """One searched path in words."""

    path: str
    values: str
    when: str


@dataclass(frozen=True)
class SearchSpace:
    """What a study searches around its base config.

    A conditional parameter is suggested only while its ``when`` holds; otherwise the base config's value is
    used. With policy ``per_layer``, layers that are not listed are ``none``.

    Attributes:
        study_name: Name of the study, for messages.
        base: Config that every trial starts from.
        num_layers: Transformer layers of the backbone.
        parameters: Searched paths; a path that another one depends on comes before it, else YAML order.
        against: Rule for the baselines of trials, in words, if it matters; a study keeps it.
    """

    study_name: str
    base: RunConfig
    num_layers: int
    parameters: tuple[Parameter, ...]
    against: str = ""

    @property
    def searches_architecture(self) -> bool:
        """Whether trials, and therefore their baselines, differ in their network."""
        return any(parameter.path in ARCHITECTURE for parameter in self.parameters)

    @classmethod
    def from_study(cls, study: StudyConfig, base: RunConfig, num_layers: int) -> SearchSpace:
        """Spread ``expansion.layers.*`` over the layers and check all that can be known before a trial.

        Raises:
            ConfigError: For an unknown path, a value that its field refuses, a layer that does not exist, a
                ``when`` that can never hold or is circular.
        """
        parameters: dict[str, Parameter] = {}
        # A layer named on its own overrides its share of the *, in any order.
        for pattern in sorted(study.search, key=lambda pattern: "*" not in pattern):
            where = f"study {study.name}: search.{pattern}"
            check_path(pattern, where, base)
            if pattern.startswith("baselines."):
                raise ConfigError(f"{where}: is set by the study. Set it in `baselines:`.")
            for path in _spread(pattern, num_layers, where):
                parameters[path] = make_parameter(path, pattern, study.search[pattern], where)
        if study.seeds > 1:
            choices = tuple(range(base.seed, base.seed + study.seeds))
            parameters[SEED] = make_parameter(SEED, SEEDS, Distribution(choices=choices), "seeds")
        patterns = [*study.search, SEEDS]
        in_order = sorted(parameters.values(), key=lambda parameter: patterns.index(parameter.pattern))
        space = cls(study.name, base, num_layers, _dependencies_first(in_order, study.name))
        space._check_values()
        space._check_layers()
        return space

    def suggest(self, trial: BaseTrial) -> RunConfig:
        """Config of a trial; works for running, frozen (replayed) and fixed trials.

        Raises:
            ConfigError: If the values cannot be combined; names the trial and its parameters.
        """
        params: dict[str, Scalar] = {}
        for parameter in self.parameters:
            if parameter.unmet(params) is None:
                params[parameter.path] = parameter.suggest(trial)
        return self.config(params, f"trial {trial.number}")

    def config(self, params: Mapping[str, Scalar], what: str = "point") -> RunConfig:
        """The base config with ``params`` set; ``what`` describes them in messages.

        Raises:
            ConfigError: If the values cannot be combined; names them.
        """
        listed = ", ".join(f"{path}={value}" for path, value in params.items())
        return validate(RunConfig, self._values(params), f"study {self.study_name}: {what} ({listed})")

    def with_each_choice(self, section: str) -> Iterator[tuple[str, RunConfig]]:
        """For each choice of a searched field of a section, a config with that choice near the base config.

        A range is represented by its upper end. Also gives the place of the choice in words. This allows
        checks before any trial that the fields alone do not allow, for example whether a decoder suits the
        images.
        """
        for parameter in self.parameters:
            if parameter.path.startswith(f"{section}."):
                for choice in parameter.extremes:
                    what = f"search.{parameter.pattern}: {choice}"
                    yield what, self.config(self._params_with(parameter, choice), what)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of every parameter, inactive ones included."""
        return {parameter.path: parameter.distribution for parameter in self.parameters}

    def point(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of a point to try first, for ``study.enqueue_trial``.

        A mapping may leave paths out (the sampler chooses them) and may use ``expansion.layers.*``. Values
        that are off the grid by rounding are moved onto it.

        Raises:
            ConfigError: If a value is outside the space or inactive next to the others.
        """
        where = f"study {self.study_name}: enqueue"
        # A layer named on its own overrides the *, in any order.
        names = sorted(point, key=lambda name: "*" not in name)
        wanted = {path: point[name] for name in names for path in self._matching(name, where)}
        params: dict[str, Scalar] = {}
        for parameter in self.parameters:
            if parameter.path not in wanted:
                continue
            unmet = parameter.unmet(params)
            if unmet is not None:
                path, values = unmet
                now = f"got {params[path]!r}" if path in params else "which the point does not name"
                raise ConfigError(
                    f"{where}: {parameter.path} is searched only when {path} is {_in_words(values)}, {now}."
                )
            params[parameter.path] = parameter.exact(wanted[parameter.path], where)
        return params

    @property
    def definition(self) -> dict[str, Any]:
        """Plain, readable form of everything that determines the runs of the space.

        The base config is in its canonical form, but sections with searched fields count in full, because any
        of their fields may become active in some trial.
        """
        search = {
            parameter.pattern: {
                **_distribution_form(parameter.distribution),
                "when": {path: list(values) for path, values in parameter.when},
            }
            for parameter in self.parameters
        }
        return {
            "numerics_version": NUMERICS_VERSION,
            "num_layers": self.num_layers,
            "search": search,
            "config": self._base_form(),
            **({"baselines": self.against} if self.against else {}),
        }

    @property
    def fingerprint(self) -> str:
        """Changes with the names, choices, ranges and conditions, and with what the base config trains."""
        return fingerprint(self.definition)

    def expansion_steps(self, config: RunConfig) -> tuple[int, ...]:
        """Steps after 0 at which runs with the same beginning as ``config`` may grow, ascending.

        A range without a grid has no such steps in common, so runs get a few at which to meet [ours].
        """
        if config.train.count_from == "expansion":
            return (config.expansion_step,) if config.expansion_step else ()
        expansion, ranged = config.expansion, {p.path: p.distribution for p in self.parameters}.get(START)
        starts = self.base.expansion.starts if ranged is None else _grid(ranged, expansion.auto_starts)
        return tuple(sorted({expansion.step_of(start, config.train.num_steps) for start in starts} - {0}))

    def describe(self) -> list[SpaceRow]:
        """One row per path of the study file, for tables."""
        rows = {
            parameter.pattern: SpaceRow(
                parameter.pattern,
                parameter.values,
                " and ".join(f"{path} = {_in_words(values)}" for path, values in parameter.when),
            )
            for parameter in self.parameters
        }
        return list(rows.values())

    def _params_with(self, chosen: Parameter, choice: Scalar) -> dict[str, Scalar]:
        """Parameters with one choice: its conditions hold, everything else is near the base config."""
        by_path = {parameter.path: parameter for parameter in self.parameters}
        wanted, open_conditions = {chosen.path: choice}, list(chosen.when)
        while open_conditions:
            path, values = open_conditions.pop()
            wanted.setdefault(path, values[0])
            open_conditions += by_path[path].when
        base = self.base.model_dump(mode="json")
        params: dict[str, Scalar] = {}
        for path, parameter in by_path.items():
            if parameter.unmet(params) is None:
                params[path] = (
                    wanted[path] if path in wanted else parameter.nearest([value_at(base, path, None)])
                )
        return params

    def _values(self, params: Mapping[str, Scalar]) -> dict[str, Any]:
        values = self.base.model_dump(mode="json")
        policy = params.get(POLICY, self.base.expansion.policy)
        if policy == "per_layer" or any(path.startswith(LAYERS) for path in params):
            layers = self.base.expansion.layers or ("none",) * self.num_layers
            values = set_path(values, LAYERS, list(layers))
        for path, value in params.items():
            values = set_path(values, path, value)
        return values

    def _matching(self, name: str, where: str) -> list[str]:
        known = [parameter.path for parameter in self.parameters]
        prefix = f"{LAYERS}." if name == f"{LAYERS}.*" else None
        paths = [path for path in known if path == name or (prefix and path.startswith(prefix))]
        if not paths:
            raise ConfigError(f"{where}: '{name}' is not searched.{nearest(name, known)}")
        return paths

    def _base_form(self) -> dict[str, Any]:
        form = canonical(self.base)
        full = self.base.model_dump(mode="json")
        searched = {parameter.path.split(".")[0] for parameter in self.parameters}
        if "expansion" in searched:
            form["expansion"] = expansion_in_full(self.base)
            form["train"]["count_from"] = full["train"]["count_from"]
        if searched & {"schedule", "tasks"}:
            form["schedule"] = full["schedule"]
        if "data" in searched:
            form["data"] |= {name: full["data"][name] for name in ("scenes", "nyud")}
        return form

    def _check_values(self) -> None:
        by_pattern = {parameter.pattern: parameter for parameter in self.parameters}
        for parameter in by_pattern.values():
            ranged = parameter.distribution
            # A third of the way up is fractional, which shows a fraction in an integer field.
            probes: Sequence[Scalar] = (
                ranged.choices
                if isinstance(ranged, CategoricalDistribution)
                else (ranged.low, ranged.high, parameter.nearest([(2 * ranged.low + ranged.high) / 3]))
            )
            for value in probes:
                place = f"study {self.study_name}: search.{parameter.pattern}"
                check_value(value, parameter.path, place, self.base)

    def _check_layers(self) -> None:
        policies: set[Scalar] = {self.base.expansion.policy}
        for parameter in self.parameters:
            if parameter.path == POLICY and isinstance(parameter.distribution, CategoricalDistribution):
                policies = set(parameter.distribution.choices)
        has_layers = any(parameter.path.startswith(f"{LAYERS}.") for parameter in self.parameters)
        given = len(self.base.expansion.layers)
        if "per_layer" in policies and not has_layers and not given:
            raise ConfigError(
                f"study {self.study_name}: search.{POLICY}: per_layer needs a choice for every layer. "
                f"Search {LAYERS}.* or list {LAYERS} in the base config."
            )
        if given not in (0, self.num_layers) and ("per_layer" in policies or has_layers):
            raise ConfigError(
                f"study {self.study_name}: config: {LAYERS} must have one choice for each of the "
                f"{self.num_layers} layers, got {given}."
            )


def _spread(pattern: str, num_layers: int, where: str) -> list[str]:
    parent, _, last = pattern.rpartition(".")
    if "*" in pattern and pattern != f"{LAYERS}.*":
        raise ConfigError(f"{where}: * stands for all layers and is allowed in {LAYERS}.* only.")
    if parent == LAYERS and last != "*" and int(last) >= num_layers:
        raise ConfigError(f"{where}: the layer must be between 0 and {num_layers - 1}, got {last}.")
    return [f"{parent}.{layer}" for layer in range(num_layers)] if last == "*" else [pattern]


def _dependencies_first(parameters: Sequence[Parameter], study_name: str) -> tuple[Parameter, ...]:
    """Order by ``when``, else YAML order; the conditions get the exact values they refer to."""
    by_path = {parameter.path: parameter for parameter in parameters}
    done: dict[str, Parameter] = {}

    def visit(parameter: Parameter, waiting: tuple[str, ...]) -> None:
        if parameter.path in done:
            return
        if parameter.path in waiting:
            circle = " -> ".join((*waiting[waiting.index(parameter.path) :], parameter.path))
            raise ConfigError(f"study {study_name}: search: when must not be circular, got {circle}.")
        where = f"study {study_name}: search.{parameter.pattern}.when"
        conditions = []
        for path, values in parameter.when:
            if path not in by_path:
                hint = nearest(path, by_path)
                raise ConfigError(f"{where}: must name one searched path, got '{path}'.{hint}")
            if not values:
                raise ConfigError(f"{where}: {path} must have at least one value, got none.")
            visit(by_path[path], (*waiting, parameter.path))
            conditions.append((path, tuple(by_path[path].exact(value, where) for value in values)))
        done[parameter.path] = Parameter(
            parameter.path, parameter.pattern, parameter.distribution, tuple(conditions)
        )

    for parameter in parameters:
        visit(parameter, ())
    return tuple(done.values())


def _distribution_form(ranged: OptunaDistribution) -> dict[str, Any]:
    if isinstance(ranged, CategoricalDistribution):
        return {"choices": list(ranged.choices)}
    return {"low": ranged.low, "high": ranged.high, "step": ranged.step, "log": ranged.log}


def _grid(ranged: OptunaDistribution, auto: tuple[float, ...]) -> tuple[float, ...]:
    """All starts of a distribution, or a few between its ends without a grid; ``auto`` stands for some."""
    if isinstance(ranged, CategoricalDistribution):
        numbers = [float(choice) for choice in ranged.choices if isinstance(choice, (int, float))]
        return (*numbers, *(auto if "auto" in ranged.choices else ()))
    count = round((ranged.high - ranged.low) / ranged.step) if ranged.step else _MEETING_POINTS
    return tuple(
        ranged.low + (ranged.high - ranged.low) * index / max(count, 1) for index in range(count + 1)
    )


def _in_words(values: Sequence[Scalar]) -> str:
    return " or ".join("empty" if value is None else str(value) for value in values)
