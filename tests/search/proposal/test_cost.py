"""What a plan still costs."""

from __future__ import annotations

import numpy as np
import pytest

from dtme_search.search.proposal.cost import Shape, cost_to_go, step_costs


def shapes(number: int, seed: int = 0) -> Shape:
    rng = np.random.default_rng(seed)
    return Shape(rng.random(number), rng.integers(2, 5, number).astype(float), rng.random((number, 2)))


def test_paid_trunks_cost_nothing_and_a_plan_that_never_grows_is_all_trunk():
    starts, ends = np.array([0.0, 20.0, 80.0]), np.full(3, 80.0)
    step = np.array([1.5, 2.0, 1.0])
    assert cost_to_go(starts, ends, step, np.zeros(3)).tolist() == [120.0, 140.0, 80.0]
    assert cost_to_go(starts, ends, step, np.full(3, 20.0)).tolist() == [120.0, 120.0, 60.0]
    assert cost_to_go(starts, ends, step, np.full(3, 99.0)).tolist() == [120.0, 120.0, 0.0]


def test_measured_costs_stand_above_the_formula():
    measured = shapes(30)
    truth = 1 + 0.3 * measured.depth * (measured.streams - 1) + 0.1 * measured.operations[:, 0]
    asked = shapes(8, seed=1)
    expected = 1 + 0.3 * asked.depth * (asked.streams - 1) + 0.1 * asked.operations[:, 0]
    assert step_costs(asked, measured, truth) == pytest.approx(expected, abs=0.01)
    assert step_costs(asked, measured[:4], truth[:4]) == pytest.approx(asked.formula()), "four say too little"


def test_no_step_is_cheaper_than_an_unexpanded_one():
    measured = shapes(10)
    assert (step_costs(shapes(50, 2), measured, np.full(10, 0.2)) >= 1.0).all()


def test_the_unexpanded_network_costs_one_step_by_the_formula():
    zero = np.zeros(1)
    assert Shape(zero, np.ones(1), np.zeros((1, 2))).formula().tolist() == [1.0]
