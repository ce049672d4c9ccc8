"""One searched config path: its Optuna distribution, its condition, and how values are matched to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeGuard

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from dtme_search.config import Distribution, Scalar
from dtme_search.errors import ConfigError, nearest

OptunaDistribution = CategoricalDistribution | IntDistribution | FloatDistribution

_GRID_TOLERANCE = 1e-3
"""Share of a step by which a typed value may be off the grid: 0.25 stands for 3 x 0.0833333."""


@dataclass(frozen=True)
class Parameter:
    """A searched path.

    Attributes:
        path: Dotted config path; also the name of the parameter in Optuna.
        pattern: The path as the study file writes it, with ``*`` where it was spread over the layers.
        distribution: What Optuna samples from.
        when: Searched paths and the values under which this one is active; all must hold.
    """

    path: str
    pattern: str
    distribution: OptunaDistribution
    when: tuple[tuple[str, tuple[Scalar, ...]], ...] = ()

    @property
    def extremes(self) -> tuple[Scalar, ...]:
        """All choices; of a range the upper end."""
        ranged = self.distribution
        return tuple(ranged.choices) if isinstance(ranged, CategoricalDistribution) else (ranged.high,)

    def unmet(self, params: Mapping[str, Scalar]) -> tuple[str, tuple[Scalar, ...]] | None:
        """First condition that ``params`` does not meet, ``None`` if this parameter is active."""
        for path, values in self.when:
            if path not in params or not any(same(params[path], value) for value in values):
                return path, values
        return None

    def suggest(self, trial: BaseTrial) -> Scalar:
        """Ask a trial for a value; on a grid it is rounded as one would type it (0.3, not 0.30...04)."""
        ranged = self.distribution
        if isinstance(ranged, CategoricalDistribution):
            choice: Scalar = trial.suggest_categorical(self.path, ranged.choices)
            return choice
        if isinstance(ranged, IntDistribution):
            return trial.suggest_int(self.path, ranged.low, ranged.high, step=ranged.step, log=ranged.log)
        value = trial.suggest_float(self.path, ranged.low, ranged.high, step=ranged.step, log=ranged.log)
        return self._on_grid(value)

    def exact(self, value: object, where: str) -> Scalar:
        """The value of the distribution that the user meant.

        Raises:
            ConfigError: ``<where>: <path> must ...`` if it is not a choice, out of range or off the grid.
        """
        ranged = self.distribution
        if isinstance(ranged, CategoricalDistribution):
            for choice in ranged.choices:
                if same(choice, value):
                    return choice
            hint = nearest(str(value), [str(choice) for choice in ranged.choices])
            raise ConfigError(f"{where}: {self.path} must be one of {self.values}, got {value!r}.{hint}")
        if not _is_number(value) or not math.isfinite(value):
            raise ConfigError(f"{where}: {self.path} must be a number, got {value!r}.")
        step = ranged.step or 1.0 if isinstance(ranged, IntDistribution) else ranged.step
        snapped = self._on_grid(value)
        slack = 0.0 if step is None else _GRID_TOLERANCE * step
        if not ranged.low - slack <= value <= ranged.high + slack:
            raise ConfigError(f"{where}: {self.path} must lie within {self.values}, got {value!r}.")
        if abs(snapped - value) > slack:
            raise ConfigError(
                f"{where}: {self.path} must be on the grid {self.values}, got {value!r}. "
                f"The nearest is {self.nearest([value])!r}."
            )
        return snapped

    def nearest(self, wanted: Sequence[Scalar]) -> Scalar:
        """Value closest to the first comparable one of ``wanted``; else the first choice or the low end."""
        ranged = self.distribution
        if isinstance(ranged, CategoricalDistribution):
            for value in wanted:
                for choice in ranged.choices:
                    if same(choice, value):
                        return choice
            numbers = [choice for choice in ranged.choices if _is_number(choice)]
            targets = [value for value in wanted if _is_number(value)]
            if not numbers or not targets:
                return ranged.choices[0]
            # inf stands for the largest value; all distances to it would be equal.
            target = min(targets[0], max(numbers))
            return min(numbers, key=lambda number: abs(number - target))
        for value in wanted:
            if _is_number(value):
                return self._on_grid(min(max(value, ranged.low), ranged.high))
        return ranged.low

    @property
    def values(self) -> str:
        """The distribution in words, for messages and tables.

        Example:
            >>> make_parameter("train.lr", "train.lr", Distribution(low=1e-5, high=1e-3, log=True), "").values
            '1e-05 to 0.001 (log)'
        """
        ranged = self.distribution
        if isinstance(ranged, CategoricalDistribution):
            return ", ".join("empty" if choice is None else str(choice) for choice in ranged.choices)
        step = "" if ranged.step is None or ranged.log else f" in steps of {ranged.step}"
        return f"{ranged.low} to {ranged.high}{step}{' (log)' if ranged.log else ''}"

    def _on_grid(self, value: float) -> float:
        ranged = self.distribution
        if isinstance(ranged, IntDistribution):
            steps = round((value - ranged.low) / ranged.step)
            return min(ranged.low + steps * ranged.step, ranged.high)
        if isinstance(ranged, FloatDistribution) and ranged.step is not None:
            # Decimal, so that 3 x 0.1 is 0.3.
            low, high, step = (Decimal(str(number)) for number in (ranged.low, ranged.high, ranged.step))
            return float(min(low + round((Decimal(str(value)) - low) / step) * step, high))
        return value


def make_parameter(path: str, pattern: str, searched: Distribution, where: str) -> Parameter:
    """Build the parameter of one path, its conditions not yet checked against the others.

    A ``high`` that is off the grid of ``low`` and ``step`` is lowered to it, as Optuna does.

    Raises:
        ConfigError: If two choices are equal for Optuna (``1`` and ``1.0``, ``1`` and ``true``).
    """
    conditions = tuple(
        (other, values if isinstance(values, tuple) else (values,)) for other, values in searched.when.items()
    )
    return Parameter(path, pattern, _distribution(searched, where), conditions)


def same(first: object, second: object) -> bool:
    """Whether two config values are the same: numbers to 9 digits, ``true`` is not 1.

    Example:
        >>> same(100, 100.0), same(0.1 + 0.2, 0.3), same(True, 1), same(None, None)
        (True, True, False, True)
    """
    if _is_number(first) and _is_number(second):
        return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-12)
    return type(first) is type(second) and first == second


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _distribution(searched: Distribution, where: str) -> OptunaDistribution:
    choices = searched.choices
    if choices is not None:
        if len(set(choices)) != len(choices):
            raise ConfigError(f"{where}: choices must differ from each other as values, got {list(choices)}.")
        return CategoricalDistribution(choices)
    # The config has checked that both bounds are given and ordered.
    low, high, step = searched.low or 0, searched.high or 0, searched.step
    if step is not None:
        exact_low, exact_step = Decimal(str(low)), Decimal(str(step))
        high = float((Decimal(str(high)) - exact_low) // exact_step * exact_step + exact_low)
    if searched.is_integer:
        return IntDistribution(int(low), int(high), log=searched.log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=searched.log, step=step)
