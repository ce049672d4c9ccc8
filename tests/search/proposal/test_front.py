"""Fronts, hypervolumes, and the expected growth of one: against hand-worked cases and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtme_search.search.proposal.front import (
    expected_hypervolume_improvement,
    expected_improvement,
    front,
    hypervolume,
)

POINTS = st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 4)), min_size=1, max_size=12)


def columns(points: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    gains, prices = np.array(points, dtype=float).T
    return gains, prices


def test_a_front_by_hand():
    gains, prices = columns([(1.0, 0.0), (3.0, 2.0), (2.0, 2.0), (2.5, 1.0), (2.5, 1.5), (0.0, 3.0)])
    assert front(gains, prices).tolist() == [0, 3, 1]
    # Stretches [0, 1), [1, 2), [2, 4] with heights 1, 2.5, 3 above 0.
    assert hypervolume(gains, prices, (0.0, 4.0)) == pytest.approx(1.0 + 2.5 + 6.0)
    assert hypervolume(gains, prices, (2.6, 1.9)) == 0.0, "what lies outside of the reference counts nothing"


@given(POINTS)
def test_the_front_is_what_no_other_dominates(points):
    gains, prices = columns(points)
    rows = front(gains, prices).tolist()
    for at, point in enumerate(points):
        beaten = [o for o in points if o[0] >= point[0] and o[1] <= point[1] and o != point]
        assert beaten or point in [points[row] for row in rows]
        assert at not in rows or not beaten


def test_expected_improvement_by_hand_and_by_draws():
    one = np.ones(1)
    assert expected_improvement(0 * one, one, 0.0)[0] == pytest.approx(1 / np.sqrt(2 * np.pi))
    assert expected_improvement(5 * one, 1e-9 * one, 3.0)[0] == pytest.approx(2.0)
    drawn = np.random.default_rng(0).normal(0.3, 0.7, 400_000)
    expected = expected_improvement(0.3 * one, 0.7 * one, 0.9)[0]
    assert np.maximum(drawn - 0.9, 0).mean() == pytest.approx(expected, rel=0.02)


@settings(max_examples=20, deadline=None)
@given(POINTS, st.floats(-3, 3), st.floats(0.1, 2), st.floats(0, 4))
def test_the_sum_of_stretches_is_the_mean_over_draws(points, mean, deviation, price):
    reached, reference = columns(points), (-4.0, 3.5)
    exact = expected_hypervolume_improvement(
        np.array([mean]), np.array([deviation]), np.array([price]), reached, reference
    )[0]
    before = hypervolume(*reached, reference)
    # Evenly spaced quantiles instead of random draws: no chance in a test.
    quantiles = (np.arange(800) + 0.5) / 800
    drawn = mean + deviation * np.sqrt(2) * _erfinv(2 * quantiles - 1)
    grown = [
        hypervolume(np.append(reached[0], y), np.append(reached[1], price), reference) - before for y in drawn
    ]
    assert np.mean(grown) == pytest.approx(exact, rel=0.02, abs=0.01)


def _erfinv(x: np.ndarray) -> np.ndarray:
    from scipy.special import erfinv

    return erfinv(x)


@given(POINTS, st.floats(-3, 3), st.floats(0.1, 2), st.floats(0, 3))
def test_a_cheaper_or_better_plan_never_improves_less(points, mean, deviation, price):
    reached, reference = columns(points), (-4.0, 3.5)

    def value(mean, price):
        args = np.array([mean]), np.array([deviation]), np.array([price])
        return expected_hypervolume_improvement(*args, reached, reference)[0]

    assert value(mean, price) >= -1e-12
    assert value(mean + 0.5, price) >= value(mean, price) - 1e-9
    assert value(mean, price + 0.3) <= value(mean, price) + 1e-9
