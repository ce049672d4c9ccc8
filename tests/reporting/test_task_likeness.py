"""Likeness of tasks on maps made by hand; groups; what an auxiliary task was worth."""

from __future__ import annotations

import numpy as np
import pytest

from dtme_search.reporting.task_likeness import (
    DataMap,
    PairLikeness,
    Worth,
    groups_of,
    points_to_try,
)

NAN = float("nan")
BASE = np.array([[0.1, 0.4, 0.8, 0.3], [0.3, 0.5, 0.9, 0.7]])


def test_tasks_with_the_same_hard_images_are_alike_however_easy_they_are():
    kept = DataMap(0, {"a": BASE, "easier": 0.5 + 0.4 * BASE, "opposite": 1.0 - BASE})
    assert kept.likeness("a", "easier") == pytest.approx(1.0)
    # The confidence is mirrored, the variability the same.
    assert kept.likeness("a", "opposite") == pytest.approx(0.0)


def test_confidence_and_variability_by_hand():
    kept = DataMap(0, {"a": BASE})
    assert kept.confidence("a") == pytest.approx([0.2, 0.45, 0.85, 0.5])
    # Divided by the number of evaluations, as in Dataset Cartography: half the distance of two scores.
    assert kept.variability("a") == pytest.approx(np.array([0.2, 0.1, 0.1, 0.4]) / 2)


def test_correctness_is_the_share_of_right_evaluations():
    right = np.array([[1.0, 0.0, NAN], [1.0, 1.0, NAN], [0.0, 0.0, NAN], [1.0, 0.0, NAN]])
    kept = DataMap(0, {"room": right, "depth": right}, {"room": right})
    assert kept.correctness("room")[:2] == pytest.approx([3 / 4, 1 / 4])
    assert np.isnan(kept.correctness("room")[2])
    assert kept.correctness_known("room") == pytest.approx([3 / 4, 1 / 4])
    assert kept.correctness("depth") is None


def test_images_without_a_label_are_left_out():
    holes = BASE.copy()
    holes[:, 1] = NAN
    kept = DataMap(0, {"a": BASE, "b": holes, "none": np.full_like(BASE, NAN)})
    assert kept.likeness("a", "b") == pytest.approx(1.0)
    assert np.isnan(kept.likeness("a", "none"))


def test_one_evaluation_has_no_variability():
    kept = DataMap(0, {"a": BASE[:1], "b": BASE[:1]})
    assert kept.likeness("a", "b") == pytest.approx(1.0)


def pair(one: str, other: str, likeness: float) -> PairLikeness:
    return PairLikeness(one, other, likeness, NAN, NAN, NAN)


def test_groups():
    rows = [pair("a", "b", 0.9), pair("c", "d", 0.8), *(pair(x, y, -0.1) for x in "ab" for y in "cd")]
    assert groups_of(rows, "abcd", 2) == [["a", "b"], ["c", "d"]]
    assert groups_of(rows, "abcd", 1) == [["a", "b", "c", "d"]]
    assert groups_of(rows, "abcd", 4) == [["a"], ["b"], ["c"], ["d"]]


def test_points_name_only_roles_that_are_searched():
    worth = [Worth("p", name, NAN, NAN, NAN, 0, 0) for name in ("good", "fixed", "bad")]
    points = points_to_try(worth, ["bad", "fixed", "good"], ["tasks.bad.role", "tasks.good.role"])
    good, bad = "tasks.good.role", "tasks.bad.role"
    assert points == [
        {good: "absent", bad: "absent"},
        {good: "auxiliary", bad: "absent"},
        {good: "auxiliary", bad: "auxiliary"},
    ]
