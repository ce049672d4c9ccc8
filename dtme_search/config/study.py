"""``StudyConfig``: what a study searches, for what, within which limits; the content of ``studies/*.yaml``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dtme_search.config.run import Section

Scalar = bool | int | float | str | None
Direction = Literal["maximize", "minimize"]

OBJECTIVES = ("delta_m_percent", "param_overhead_percent", "step_cost_ratio")
"""What a trial measures and a study may optimise or limit."""

KNOWN_POINTS = ("unexpanded", "paper")
"""Settings that ``enqueue`` knows by name."""


class Distribution(Section):
    """Values of one searched field: ``choices``, or ``low`` and ``high`` with ``step`` or ``log``."""

    choices: tuple[Scalar, ...] | None = None
    """The values themselves."""
    low: float | int | None = None
    """Smallest value."""
    high: float | int | None = None
    """Largest value."""
    step: float | int | None = None
    """Distance between values, counted from low."""
    log: bool = False
    """Sample in the logarithm."""
    when: dict[str, Scalar | tuple[Scalar, ...]] = {}
    """Only searched while these searched paths have this value, or one of these values."""

    @model_validator(mode="after")
    def _choices_or_range(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.step is not None or self.log:
                raise ValueError("choices and low/high/step/log exclude each other, got both")
            if not self.choices:
                raise ValueError("choices must not be empty")
            if len(set(map(repr, self.choices))) != len(self.choices):
                raise ValueError(f"choices must differ from each other, got {list(self.choices)}")
            return self
        if self.low is None or self.high is None:
            raise ValueError("must give choices, or both low and high")
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got low {self.low} and high {self.high}")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step must be above 0, got {self.step}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError(f"log needs low above 0 and no step, got low {self.low}, step {self.step}")
        return self

    @property
    def is_integer(self) -> bool:
        """Whether the range holds whole numbers only."""
        return all(isinstance(bound, int) for bound in (self.low, self.high, self.step or 1))


class SamplerConfig(Section):
    """Which Optuna sampler proposes."""

    name: Literal["tpe", "nsga2", "random", "gp"] = "tpe"
    """tpe: multivariate and grouped. nsga2: many trials. random: control. gp: small spaces without when."""
    num_startup_trials: Annotated[int, Field(ge=1)] = 10
    """Random trials before tpe or gp model anything."""


class PrunerConfig(Section):
    """Which Optuna pruner stops weak trials; studies with one objective only."""

    name: Literal["none", "median", "halving", "hyperband"] = "none"
    """none, or Optuna's MedianPruner, SuccessiveHalvingPruner, HyperbandPruner."""
    num_startup_trials: Annotated[int, Field(ge=0)] = 5
    """median: trials that are never pruned."""
    num_warmup_evaluations: Annotated[int, Field(ge=0)] = 1
    """median: evaluations of a trial before it may be pruned."""


class StudyConfig(Section):
    """One search, from base config to objectives."""

    name: str
    """Name of the study in the database."""
    description: str = ""
    """One line for ``dtme-search studies``."""
    config: str | dict[str, Any]
    """Base config: a name from configs/, a path, or the config itself."""
    trials: Annotated[int, Field(ge=1)] = 64
    """Finished trials the study should reach, over all runs of optimize."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sampler."""
    objectives: dict[str, Direction] = {"delta_m_percent": "maximize", "param_overhead_percent": "minimize"}
    """One or two of delta_m_percent, param_overhead_percent, step_cost_ratio."""
    limits: dict[str, float] = {}
    """Upper limits; a trial above one is infeasible."""
    search: dict[str, Distribution]
    """Dotted config path -> values. ``*`` spreads a path over all layers."""
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = PrunerConfig()
    enqueue: tuple[str | dict[str, Scalar], ...] = ("unexpanded", "paper")
    """Points tried first: known names, or path: value mappings."""
    max_failures_in_a_row: Annotated[int, Field(ge=1)] = 3
    """The study stops when this many trials in a row fail with the same cause."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if not 1 <= len(self.objectives) <= 3:
            raise ValueError("objectives must name one to three measures, got none")
        if not self.search:
            raise ValueError("search must name at least one path, got none")
        for path, distribution in self.search.items():
            for other in distribution.when:
                if other not in self.search:
                    raise ValueError(f"search.{path}.when must name a searched path, got '{other}'")
        if self.pruner.name != "none" and len(self.objectives) > 1:
            raise ValueError(
                f"pruner.name must be none with {len(self.objectives)} objectives, got '{self.pruner.name}': "
                "Optuna's pruners compare one value"
            )
        return self
