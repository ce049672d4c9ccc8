"""``StudyConfig``: what a study searches, for what, within which limits; content of ``studies/*.yaml``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dtme_search.config.measures import KNOWN, check_measures, is_result, tasks_of
from dtme_search.config.paths import is_whole_number
from dtme_search.config.section import OptionsByName, Section, one_of_parts
from dtme_search.errors import nearest

Scalar = bool | int | float | str | None
Direction = Literal["maximize", "minimize"]

KNOWN_POINTS = ("unexpanded", "paper")
"""Known names of points in ``enqueue``."""


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
                raise ValueError("choices and low/high/step/log cannot be combined, got both")
            if not self.choices:
                raise ValueError("choices must not be empty")
            # 1 and true are equal in Python, but not in YAML.
            if len({(isinstance(choice, bool), choice) for choice in self.choices}) != len(self.choices):
                raise ValueError(f"choices must differ from each other, got {list(self.choices)}")
            return self
        if self.low is None or self.high is None:
            given = [name for name in ("low", "high") if getattr(self, name) is not None]
            raise ValueError(f"must have choices, or both low and high, got {' '.join(given) or 'neither'}")
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got low {self.low} and high {self.high}")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step must be above 0, got {self.step}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 with log, got {self.low}")
        if self.log and self.step is not None:
            raise ValueError(f"step must be left out with log, got {self.step}")
        return self

    def with_bounds_for(self, path: str) -> Distribution:
        """The same range with bounds of the type of the field at ``path``, if possible."""
        whole = is_whole_number(path)
        bounds = {name: getattr(self, name) for name in ("low", "high", "step")}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        if whole is None or (whole and any(bound != int(bound) for bound in given.values())):
            return self
        number = int if whole else float
        return self.model_copy(update={name: number(bound) for name, bound in given.items()})

    @property
    def is_integer(self) -> bool:
        """Whether the range contains only integers."""
        return all(isinstance(bound, int) for bound in (self.low, self.high, self.step or 1))


SAMPLERS = ("tpe", "plan", "nsga2", "random", "gp")
"""Names of the built-in samplers."""


class SamplerConfig(Section):
    """Which sampler proposes trials."""

    name: Annotated[str, one_of_parts(SAMPLERS)] = "tpe"
    """tpe: multivariate and grouped. plan: expected improvement per remaining cost. nsga2: many trials.
    random: control. gp: small spaces without when. Or your own, from plugins of the study."""
    options: OptionsByName = {}
    """Options of samplers of your own by their names; only those of the chosen one are read."""
    num_startup_trials: Annotated[int, Field(ge=1)] = 10
    """Random trials before tpe or gp model anything."""


class PrunerConfig(Section):
    """What stops weak trials: one of Optuna's pruners with one objective, ``pareto`` with several."""

    name: Literal["none", "pareto", "median", "halving", "hyperband"] = "none"
    """pareto: by dominance among all trials at an evaluation. Others: Optuna's pruners of these names."""
    num_startup_trials: Annotated[int, Field(ge=0)] = 5
    """median: trials that are never pruned."""
    num_warmup_evaluations: Annotated[int, Field(ge=0)] = 1
    """median, pareto: evaluations of a trial before it may be pruned."""
    eta: Annotated[float, Field(gt=1.0)] = 2.0
    """pareto: one trial in eta continues, plus all that no other trial dominates."""
    min_trials: Annotated[int, Field(ge=2)] = 8
    """pareto: trials that must have reached an evaluation before one is pruned there."""
    min_correlation: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.7
    """pareto: rank correlation with the final delta_m that an evaluation must have shown; -1 = trust any."""


class ReuseConfig(Section):
    """Work that the trials of a study share; the numbers stay the same."""

    trunks: bool = True
    """Fork trials from snapshots of the unexpanded training that they have in common."""
    conflicts: bool = True
    """Reuse conflicts measured at the same step of the same trunk."""
    equal_work: bool = True
    """Reuse the result of a finished trial whose training was the same."""
    trunk_limit_gb: Annotated[float, Field(gt=0)] = 10.0
    """Disk space for snapshots and reports of the study; the least recently used are deleted first."""


class InferenceConfig(Section):
    """How ``latency_ms`` and ``inference_memory_mb`` are measured, where a study names them."""

    batch_size: Annotated[int, Field(ge=1)] = 1
    """Images of a prediction."""
    device: Literal["trial", "cpu"] = "trial"
    """trial: the device that trains. cpu: the processor, whatever trains."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """As train.precision."""
    warmup: Annotated[int, Field(ge=0)] = 5
    """Predictions before the clock runs."""
    repeats: Annotated[int, Field(ge=3)] = 30
    """Predictions that are timed; the median counts."""


class BaselinesConfig(Section):
    """How the single-task baselines of a study are trained; every delta_m names the rule."""

    recipe: Literal["auto", "trial", "base"] = "auto"
    """trial: as the trial that is compared. base: as the base config, whatever a trial's recipe. auto: trial
    where trials ask for at most 8 recipes of a task, else tuned."""
    tune: Annotated[int, Field(ge=2)] | None = None
    """Recipes of the search space to train for each task (8 with recipe auto); the best is the baseline."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.tune is not None and self.recipe != "auto":
            raise ValueError(f"recipe and tune cannot be combined, got {self.recipe} and {self.tune}")
        return self


RESERVED = ("train",)
"""Folders below the work folder that are not studies."""
LONGEST_STUDY = 200
"""Letters allowed in a database and in the name of a folder."""


class StudyConfig(Section):
    """One search, from base config to objectives."""

    name: str
    """Name of the study in the database."""
    description: str = ""
    """One line for ``dtme-search studies``."""
    config: str | dict[str, Any]
    """Base config: a name from configs/, a path, or the config itself."""
    plugins: tuple[str, ...] = ()
    """Python files of your own that bring parts, for all runs of the study: docs/plugins.md."""
    trials: Annotated[int, Field(ge=1)] = 64
    """Finished trials the study should reach, over all runs of optimize."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sampler."""
    seeds: Annotated[int, Field(ge=1, le=4)] = 1
    """Training seeds, from that of the base config up; sampler plan chooses among them, others use one."""
    objectives: dict[str, Direction] = {"delta_m_percent": "maximize", "param_overhead_percent": "minimize"}
    """One or two measures. Results: delta_m_percent, delta_m_percent.TASK+TASK, worst_gain_percent,
    metric.TASK. Prices: param_overhead_percent, step_cost_ratio, inference_flops_ratio, latency_ms,
    inference_memory_mb."""
    limits: dict[str, float] = {}
    """Upper limits of the same measures; a trial above one is infeasible."""
    inference: InferenceConfig = InferenceConfig()
    search: dict[str, Distribution]
    """Dotted config path -> values. ``*`` spreads a path over all layers."""
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = PrunerConfig()
    reuse: ReuseConfig = ReuseConfig()
    keep_weights: Literal["front", "all", "none"] = "front"
    """Trials whose trained networks stay on disk, for ``predict`` and ``evaluate``: those on the front, all
    complete ones, or none."""
    baselines: BaselinesConfig = BaselinesConfig()
    enqueue: tuple[str | dict[str, Scalar], ...] = ("unexpanded", "paper")
    """Points tried first: known names, or path: value mappings. Default: those of the two that fit."""
    max_failures_in_a_row: Annotated[int, Field(ge=1)] = 3
    """The study stops when this many trials in a row fail with the same cause."""

    @field_validator("search")
    @classmethod
    def _bounds_like_their_field(cls, search: dict[str, Distribution]) -> dict[str, Distribution]:
        """Let ``{low: 0, high: 1}`` for a field that holds any number mean every number in between."""
        return {path: searched.with_bounds_for(path) for path, searched in search.items()}

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        # The name is also that of a folder.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(
                "name must be made of letters, digits, '.', '_' and '-' and begin with a letter or digit, "
                f"got '{self.name}'"
            )
        if self.name in RESERVED or len(self.name) > LONGEST_STUDY:
            raise ValueError(
                f"name must not be {' or '.join(RESERVED)}, the folder of final trainings, and have at "
                f"most {LONGEST_STUDY} letters, got '{self.name}'"
            )
        if not self.objectives:
            raise ValueError(f"objectives must name at least one of {', '.join(KNOWN)}, got none")
        check_measures("objectives must name measures", self.objectives)
        check_measures("limits must name measures", self.limits)
        named = [point for point in self.enqueue if isinstance(point, str)]
        _all_known("enqueue must name points", named, KNOWN_POINTS)
        if not self.search:
            raise ValueError("search must name at least one path, got none")
        for path, distribution in self.search.items():
            others = self.search.keys() - {path}
            _all_known(f"search.{path}.when must name other searched paths", distribution.when, others)
        self._check_pruner()
        self._check_seeds()
        return self

    @property
    def goal(self) -> str | None:
        """The first objective that only a training can tell."""
        return next((name for name in self.objectives if is_result(name)), None)

    @property
    def sign(self) -> int:
        """1 where the goal is to be high, -1 where it is to be low."""
        return -1 if self.objectives[self.goal or next(iter(self.objectives))] == "minimize" else 1

    @property
    def price(self) -> str | None:
        """The first objective beside the goal."""
        return next((name for name in self.objectives if name != self.goal), None)

    @property
    def measures(self) -> tuple[str, ...]:
        """All measures that the study names, objectives first."""
        return tuple(dict.fromkeys([*self.objectives, *self.limits]))

    @property
    def times_inference(self) -> bool:
        """Whether predictions have to be run to know a measure; operations are counted without."""
        return bool({"latency_ms", "inference_memory_mb"} & set(self.measures))

    def _check_seeds(self) -> None:
        if self.seeds == 1:
            return
        if self.sampler.name != "plan":
            raise ValueError(f"seeds must be 1 unless sampler.name is plan, got {self.seeds}")
        if "seed" in self.search:
            raise ValueError(
                f"seeds must be 1 while seed is searched, got {self.seeds}. Leave one of them out"
            )
        if self.objectives.get("delta_m_percent") != "maximize":
            raise ValueError(
                f"seeds must be 1 without delta_m_percent: maximize as objective, got {self.seeds}"
            )

    def _check_pruner(self) -> None:
        name, several = self.pruner.name, len(self.objectives) > 1
        if name == "none":
            return
        if several and name != "pareto":
            raise ValueError(
                f"pruner.name must be none or pareto with {len(self.objectives)} objectives, got '{name}': "
                "Optuna's pruners compare one value"
            )
        if not several and name == "pareto":
            raise ValueError(
                "pruner.name must be none, median, halving or hyperband with one objective, got 'pareto': "
                "it weighs objectives against each other"
            )
        if self.goal is None or (not tasks_of(self.goal) and self.objectives[self.goal] != "maximize"):
            raise ValueError(
                f"pruner.name must be none without delta_m_percent: maximize as objective, got '{name}': "
                "pruners look at delta_m"
            )
        if "train.num_evaluations" in self.search:
            raise ValueError(
                f"pruner.name must be none while train.num_evaluations is searched, got '{name}': "
                "evaluations of the same number would not be comparable"
            )


def _all_known(rule: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{rule}, got '{name}'.{nearest(name, known)}")
