"""The model of plans and seeds: against dense linear algebra, its own gradient, and known truths."""

from __future__ import annotations

import numpy as np
import pytest

from dtme_search.search.proposal.gaussian import Observations, PlanModel, _Likelihood, fit
from dtme_search.search.proposal.plans import Plans


def some_plans(number: int, rng: np.random.Generator, summary: int = 0) -> Plans:
    reach = rng.random(number) * (rng.random(number) > 0.2)
    groups = rng.random((number, 1)), rng.integers(0, 2, (number, 3)).astype(float)
    return Plans(groups, rng.random((number, summary)), reach)


def observed(number: int, num_seeds: int, seed: int = 0, summary: int = 0) -> Observations:
    rng = np.random.default_rng(seed)
    plans = some_plans(number, rng, summary)
    return Observations(plans, rng.integers(0, num_seeds, number), rng.standard_normal(number) * 3 + 7)


@pytest.mark.parametrize(("num_seeds", "summary"), [(1, 0), (3, 0), (1, 2), (3, 2)])
def test_the_gradient_is_that_of_the_likelihood(num_seeds, summary):
    seen = observed(11, num_seeds, summary=summary)
    function = _Likelihood(seen, 7.0, 3.0)
    theta = function.centre + np.random.default_rng(1).standard_normal(len(function.centre)) * 0.3
    step = 1e-5 * np.eye(len(theta))
    numeric = [(function(theta + each)[0] - function(theta - each)[0]) / 2e-5 for each in step]
    assert function(theta)[1] == pytest.approx(numeric, rel=1e-5, abs=1e-6)


def dense(model: PlanModel, first: Observations, second: Observations) -> np.ndarray:
    """Covariance of gains by the definition, one pair at a time."""
    parts, rows = model.parts, []
    for i in range(len(first)):
        row = []
        for j in range(len(second)):
            square = sum(
                ((a[i] - b[j]) ** 2).sum() / length**2
                for a, b, length in zip(first.plans.groups, second.plans.groups, parts.lengths, strict=True)
            )
            alike = np.exp(-0.5 * square)
            rooms = [0.1 + r if r > 0 else 0.1 / 3 for r in (first.plans.reach[i], second.plans.reach[j])]
            value = parts.mean * alike + parts.linear * first.plans.summary[i] @ second.plans.summary[j]
            if first.seeds[i] == second.seeds[j]:
                value += parts.bias * alike * rooms[0] * rooms[1] + parts.offset
            row.append(value)
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_beliefs_are_those_of_a_conditioned_normal(num_seeds):
    seen, asked = observed(9, num_seeds, summary=1), observed(4, 1, seed=5, summary=1)
    model = fit(seen)
    inside = dense(model, seen, seen) + (model.parts.white + 1e-8) * np.eye(9)
    across = dense(model, asked, seen)
    z = (seen.gains - model.level) / model.scale
    mean = model.level + model.scale * across @ np.linalg.solve(inside, z)
    left = dense(model, asked, asked) - across @ np.linalg.solve(inside, across.T)
    shown = model.shown_by(asked.plans, 0)
    assert shown[0] == pytest.approx(mean) and shown[1] == pytest.approx(model.scale * np.sqrt(np.diag(left)))

    # How far one more training with seed 1 would move the average: add it and look.
    gain_mean, gain_sd = model.shown_by(asked.plans, 1)
    for row in range(4):
        plan = asked.plans[[row]]
        total = np.sqrt(gain_sd[row] ** 2 + model.scale**2 * model.parts.white)
        up = model.also(Observations(plan, np.array([1]), gain_mean[[row]] + total))
        moved = up.average(plan)[0][0] - model.average(plan)[0][0]
        assert abs(moved) == pytest.approx(model.lesson(plan, 1)[0], rel=1e-3)


def test_a_model_learns_what_is_smooth_and_says_where_it_does_not_know():
    rng = np.random.default_rng(3)
    plans = some_plans(60, rng)
    gains = 2 * plans.groups[0][:, 0] - plans.groups[1][:, 0]
    model = fit(Observations(plans[:40], np.zeros(40, int), gains[:40]))
    mean, deviation = model.average(plans[40:])
    assert np.abs(mean - gains[40:]).max() < 0.2 and deviation.max() < 0.5
    far = Plans((np.full((1, 1), 9.0), np.zeros((1, 3))), np.zeros((1, 0)), np.ones(1))
    assert model.average(far)[1][0] > 4 * deviation.max()
    again = fit(Observations(plans[:40], np.zeros(40, int), gains[:40]))
    assert np.array_equal(again.average(plans)[0], model.average(plans)[0]), "equal observations, equal model"


def test_what_is_the_seeds_is_not_taken_for_the_plans():
    """Four seeds agree on what a plan does, each in the mean over the others."""
    rng = np.random.default_rng(4)
    plans = some_plans(24, rng)
    common, own = 2 * plans.groups[1][:, 0], rng.standard_normal((4, 3))
    rows, seeds = np.tile(np.arange(24), 4), np.repeat(np.arange(4), 24)
    bias = (plans.reach[:, None] * (plans.groups[1] @ own.T)).T
    gains = common[rows] + bias.ravel() + 5.0 * seeds
    model = fit(Observations(plans[rows], seeds, gains))
    assert model.parts.offset > 0.05 and model.parts.bias > 0.05
    average = model.average(plans)[0]
    assert np.corrcoef(average, common + bias.mean(0))[0, 1] > 0.9
    moved = fit(Observations(plans[rows], seeds, gains + np.repeat([0.0, 9.0, -9.0, 0.0], 24)))
    assert np.corrcoef(average, moved.average(plans)[0])[0, 1] > 0.95, (
        "a level of a seed is no merit of a plan"
    )
    alone = fit(Observations(plans, np.zeros(24, int), gains[:24]))
    assert alone.parts.bias == alone.parts.offset == 0.0, "one seed cannot tell them apart"


@pytest.mark.parametrize("gains", [[1.0], [2.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
def test_few_or_equal_gains_are_no_trouble(gains):
    plans = some_plans(len(gains), np.random.default_rng(0))
    model = fit(Observations(plans, np.zeros(len(gains), int), np.array(gains)))
    mean, deviation = model.average(plans)
    assert np.isfinite(mean).all() and (deviation > 0).all()
