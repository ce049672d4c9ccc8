"""A Gaussian process over plans that separates the effect of a plan from the effect of a seed.

    gain(plan, seed) = mean(plan) + bias of the seed(plan) + offset of the seed + white noise

after Pearce, Poloczek and Branke, "Bayesian optimization allowing for common random numbers" (1910.09259).
Mean and bias are similar for similar plans: a product of squared exponentials, one length per group of
columns. The mean also has a linear part in the summary. The bias is scaled by the reach of the plan [ours]: a
seed can affect a plan only as much as its growth has time to. With one seed, bias and offset cannot be
separated from the mean and are left out. Trials of another study count as one more seed; the variances say
how much of them carries over.

Nothing is kept between fits: equal observations give equal models in every process.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize

from dtme_search.search.proposal.front import Array, Rows
from dtme_search.search.proposal.plans import Plans

Seeds = NDArray[np.intp]

_JITTER = 1e-8
_MOST_STEPS = 20
_LEAST_REACH = 0.1
"""Effect of a seed on a plan that grows at the very end; on one that never grows, a third of it."""

# Logarithms of length or standard deviation: centre and width of the prior, lowest and highest value.
_LENGTH = (0.0, 0.8, -3.0, 4.0)
_LINEAR = (float(np.log(0.3)), 1.0, -6.0, 2.0)
_MEAN, _WHITE = (0.0, 0.5, -2.0, 2.0), (float(np.log(0.1)), 1.0, -4.6, 1.0)
_OF_SEVERAL = dict.fromkeys(("mean", "bias", "offset"), (0.0, 0.7, -5.5, 2.0))
_WHITE_OF_SEVERAL = (float(np.log(0.15)), 1.0, -4.6, 1.0)


@dataclass(frozen=True)
class Observations:
    """Gains of n trainings, with their plans and seeds (numbered from 0); shape (n,) each."""

    plans: Plans
    seeds: Seeds
    gains: Array

    def __len__(self) -> int:
        return len(self.gains)

    @property
    def several(self) -> bool:
        """Whether there is more than one seed."""
        return bool(np.any(self.seeds != self.seeds[0]))

    def take(self, rows: Rows) -> Observations:
        """A subset of them."""
        return Observations(self.plans[rows], self.seeds[rows], self.gains[rows])

    def __add__(self, other: Observations) -> Observations:
        return Observations(
            Plans.join([self.plans, other.plans]),
            np.concatenate([self.seeds, other.seeds]),
            np.concatenate([self.gains, other.gains]),
        )


@dataclass(frozen=True)
class Parts:
    """Hyperparameters: a length per group of columns; variances, in units of the variance of the gains."""

    lengths: Array
    mean: float
    linear: float
    bias: float
    offset: float
    white: float


@dataclass(frozen=True)
class PlanModel:
    """What is believed about every plan after some observations."""

    seen: Observations
    parts: Parts
    level: float
    scale: float

    def average(self, plans: Plans) -> tuple[Array, Array]:
        """Mean and standard deviation of the gain that each plan has over seeds."""
        return self._posterior(self._of_average(plans, self._likeness(plans)), self._variance(plans))

    def shown_by(self, plans: Plans, seed: int) -> tuple[Array, Array]:
        """Mean and standard deviation of each plan's result with a seed, without white noise."""
        return self._posterior(self._with_seed(plans, seed), self._own(plans))

    def lesson(self, plans: Plans, seed: int) -> Array:
        """How far (one standard deviation) training a plan with a seed is expected to move its average."""
        likeness, of_seed = self._likeness(plans), self._with_seed(plans, seed)
        solved = cho_solve(self._factor, of_seed.T, check_finite=False).T
        covariance = self._variance(plans) - (self._of_average(plans, likeness) * solved).sum(1)
        variance = self._own(plans) + self.parts.white - (of_seed * solved).sum(1)
        moved: Array = self.scale * np.abs(covariance) / np.sqrt(np.maximum(variance, _JITTER))
        return np.maximum(moved, 1e-9)

    def also(self, more: Observations) -> PlanModel:
        """The same beliefs after further observations, with unchanged hyperparameters."""
        return PlanModel(self.seen + more, self.parts, self.level, self.scale)

    def _posterior(self, cross: Array, prior: Array) -> tuple[Array, Array]:
        solved = cho_solve(self._factor, cross.T, check_finite=False).T
        variance = prior - (cross * solved).sum(1)
        deviation: Array = self.scale * np.sqrt(np.maximum(variance, _JITTER))
        return self.level + self.scale * (cross @ self._weights), deviation

    def _own(self, plans: Plans) -> Array:
        own: Array = self._variance(plans) + self.parts.bias * _room(plans) ** 2 + self.parts.offset
        return own

    def _variance(self, plans: Plans) -> Array:
        variance: Array = self.parts.mean + self.parts.linear * (plans.summary**2).sum(1)
        return variance

    def _of_average(self, plans: Plans, likeness: Array) -> Array:
        linear = self.parts.linear * (plans.summary @ self.seen.plans.summary.T)
        covariance: Array = self.parts.mean * likeness + linear
        return covariance

    def _with_seed(self, plans: Plans, seed: int) -> Array:
        same = (self.seen.seeds == seed).astype(float)[None]
        likeness = self._likeness(plans)
        bias = self.parts.bias * same * np.outer(_room(plans), _room(self.seen.plans)) * likeness
        covariance: Array = self._of_average(plans, likeness) + bias + self.parts.offset * same
        return covariance

    def _likeness(self, plans: Plans) -> Array:
        likeness: Array = np.exp(-0.5 * _squares(self._scaled(plans), self._scaled(self.seen.plans)))
        return likeness

    def _scaled(self, plans: Plans) -> Array:
        columns = zip(plans.groups, self.parts.lengths, strict=True)
        return np.concatenate([group / length for group, length in columns], axis=1)

    @cached_property
    def _factor(self) -> tuple[Array, bool]:
        parts, plans, seeds = self.parts, self.seen.plans, self.seen.seeds
        same = (seeds[:, None] == seeds[None]).astype(float)
        likeness = self._likeness(plans)
        bias = parts.bias * same * np.outer(_room(plans), _room(plans)) * likeness
        matrix = self._of_average(plans, likeness) + bias + parts.offset * same
        matrix[np.diag_indices(len(seeds))] += parts.white + _JITTER
        factor: tuple[Array, bool] = cho_factor(matrix, lower=True, check_finite=False)
        return factor

    @cached_property
    def _weights(self) -> Array:
        z = (self.seen.gains - self.level) / self.scale
        weights: Array = cho_solve(self._factor, z, check_finite=False)
        return weights


def fit(seen: Observations, learn_from: Observations | None = None) -> PlanModel:
    """The model of some observations, its hyperparameters by penalised likelihood.

    Args:
        seen: At least one observation.
        learn_from: Subset used to fit the hyperparameters, if all would take too long.
    """
    sample = seen if learn_from is None else learn_from
    level, scale = float(sample.gains.mean()), float(sample.gains.std())
    if len(sample) < 3 or scale < 1e-9:
        scale = scale if scale >= 1e-9 else 1.0
    objective = _Likelihood(sample, level, scale)
    start = objective.centre
    if len(sample) >= 3:
        bounds = list(zip(objective.low, objective.high, strict=True))
        options = {"maxiter": _MOST_STEPS}
        start = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return PlanModel(seen, objective.parts(start), level, scale)


class _Likelihood:
    """Negative log likelihood of standardised gains plus the penalty of the priors, with its gradient."""

    def __init__(self, sample: Observations, level: float, scale: float) -> None:
        plans = sample.plans
        priors = {"mean": _MEAN, "white": _WHITE}
        if sample.several:
            priors = _OF_SEVERAL | {"white": _WHITE_OF_SEVERAL}
        if plans.summary.shape[1]:
            priors["linear"] = _LINEAR
        self.names = tuple(priors)
        self.centre, self.width, self.low, self.high = np.array(
            [_LENGTH] * len(plans.groups) + list(priors.values())
        ).T
        self.z = (sample.gains - level) / scale
        self.distances = [_squares(group, group) for group in plans.groups]
        self.same = (sample.seeds[:, None] == sample.seeds[None]).astype(float)
        self.room = np.outer(_room(plans), _room(plans)) * self.same
        self.products = plans.summary @ plans.summary.T

    def parts(self, theta: Array) -> Parts:
        num = len(self.distances)
        variances = dict.fromkeys(("mean", "linear", "bias", "offset", "white"), 0.0)
        variances |= {name: float(np.exp(2 * log)) for name, log in zip(self.names, theta[num:], strict=True)}
        return Parts(np.exp(theta[:num]), **variances)

    def __call__(self, theta: Array) -> tuple[float, Array]:
        parts = self.parts(theta)
        shares = [d / length**2 for d, length in zip(self.distances, parts.lengths, strict=True)]
        likeness = np.exp(-0.5 * np.sum(shares, axis=0))
        alike = likeness * (parts.mean + parts.bias * self.room)
        matrix = alike + parts.linear * self.products + parts.offset * self.same
        identity = np.eye(len(self.z))
        try:
            factor = cho_factor(matrix + (parts.white + _JITTER) * identity, lower=True, check_finite=False)
        except LinAlgError:
            return 1e10, np.zeros_like(theta)
        inverse = cho_solve(factor, identity, check_finite=False)
        weights = inverse @ self.z
        slope = 0.5 * (inverse - np.outer(weights, weights))
        kernels = {
            "mean": likeness,
            "linear": self.products,
            "bias": likeness * self.room,
            "offset": self.same,
            "white": identity,
        }
        along_alike = slope * alike
        gradient = [float((along_alike * share).sum()) for share in shares]
        gradient += [2 * getattr(parts, name) * float((slope * kernels[name]).sum()) for name in self.names]
        off = (theta - self.centre) / self.width
        value = 0.5 * self.z @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
        return float(value), np.array(gradient) + off / self.width


def _room(plans: Plans) -> Array:
    """How far a seed can move each plan, relative to a plan that grows at once."""
    grown: Array = np.where(plans.reach > 0, _LEAST_REACH + plans.reach, _LEAST_REACH / 3)
    return grown


def _squares(first: Array, second: Array) -> Array:
    square: Array = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * first @ second.T
    return np.maximum(square, 0.0)
