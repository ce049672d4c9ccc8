"""Parameter sets that could be proposed: all of a small space, else random ones and some near good ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from optuna.distributions import CategoricalDistribution

from dtme_search.config import Scalar
from dtme_search.search.space.parameter import Parameter
from dtme_search.search.space.paths import LAYERS
from dtme_search.search.space.search_space import SearchSpace

Params = Mapping[str, Scalar]

_MOST_LISTED = 2000
_NUM_RANDOM, _NUM_NEIGHBOURS = 300, 350
_LONGEST_GRID = 50


@dataclass(frozen=True)
class Pool:
    """Draws parameter sets of a space; the same for the same ``draw``.

    Attributes:
        space: The space.
        fixed: Paths that are not drawn, with their values.
    """

    space: SearchSpace
    fixed: Mapping[str, Scalar]

    @cached_property
    def listed(self) -> list[Params] | None:
        """All sets of the space, if there are at most a few thousand."""
        sets: list[dict[str, Scalar]] = [{}]
        for parameter in self.space.parameters:
            values = [self.fixed[parameter.path]] if parameter.path in self.fixed else _grid(parameter)
            if values is None:
                return None
            spread = []
            for params in sets:
                if parameter.unmet(params) is None:
                    spread += [{**params, parameter.path: value} for value in values]
                else:
                    spread.append(params)
            if len(spread) > _MOST_LISTED:
                return None
            sets = spread
        return list(sets)

    def around(self, good: Sequence[Params], draw: Sequence[int]) -> list[Params]:
        """All sets, or random ones and variants of good ones that differ in one to three values."""
        if self.listed is not None:
            return self.listed
        rng = np.random.default_rng(draw)
        return [self._random(rng) for _ in range(_NUM_RANDOM)] + self.near(good, draw)

    def near(
        self, good: Sequence[Params], draw: Sequence[int], number: int = _NUM_NEIGHBOURS
    ) -> list[Params]:
        """Variants of good sets that differ in one to three values."""
        rng = np.random.default_rng([*draw, 1])
        return [self._changed(good[int(rng.integers(len(good)))], rng) for _ in range(number if good else 0)]

    def _random(self, rng: np.random.Generator) -> Params:
        """Draws the number of grown layers first: drawn layer by layer, plans would hardly ever be sparse."""
        share = rng.uniform(0.05, 0.95)
        params: dict[str, Scalar] = {}
        for parameter in self.space.parameters:
            if parameter.unmet(params) is not None:
                continue
            if parameter.path in self.fixed:
                params[parameter.path] = self.fixed[parameter.path]
            elif _may_stay(parameter) and rng.random() > share:
                params[parameter.path] = "none"
            else:
                params[parameter.path] = _draw(parameter, rng)
        return params

    def _changed(self, params: Params, rng: np.random.Generator) -> Params:
        free = [p for p in self.space.parameters if p.path in params and p.path not in self.fixed]
        if not free:
            return params
        chosen = rng.permutation(len(free))[: int(rng.integers(1, 4))]
        changed = {**params, **{free[at].path: _draw(free[at], rng) for at in chosen}}
        # A change may make other parameters active or inactive.
        active: dict[str, Scalar] = {}
        for parameter in self.space.parameters:
            if parameter.unmet(active) is None:
                path = parameter.path
                active[path] = self.fixed.get(
                    path, changed[path] if path in changed else _draw(parameter, rng)
                )
        return active


def _may_stay(parameter: Parameter) -> bool:
    ranged = parameter.distribution
    return (
        parameter.path.startswith(f"{LAYERS}.")
        and isinstance(ranged, CategoricalDistribution)
        and "none" in ranged.choices
    )


def _grid(parameter: Parameter) -> Sequence[Scalar] | None:
    """All values of a parameter, if it has a grid that is not too long."""
    ranged = parameter.distribution
    if isinstance(ranged, CategoricalDistribution):
        return ranged.choices
    if ranged.log or not ranged.step:
        return None
    count = round((ranged.high - ranged.low) / ranged.step) + 1
    if count > _LONGEST_GRID:
        return None
    return [parameter.nearest([ranged.low + index * ranged.step]) for index in range(count)]


def _draw(parameter: Parameter, rng: np.random.Generator) -> Scalar:
    ranged = parameter.distribution
    if isinstance(ranged, CategoricalDistribution):
        return ranged.choices[int(rng.integers(len(ranged.choices)))]
    if ranged.log:
        return parameter.nearest([float(np.exp(rng.uniform(np.log(ranged.low), np.log(ranged.high))))])
    return parameter.nearest([float(rng.uniform(ranged.low, ranged.high))])
