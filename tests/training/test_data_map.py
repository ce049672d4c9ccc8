"""Scores of images by hand, and what does not change when they are kept."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import TINY

from dtme_search.config import RunConfig, run_fingerprint, set_path
from dtme_search.tasks import TaskSpec, depth, edge, normals, sal, semseg
from dtme_search.training.data_map import _in_numbers, _per_image


def of_one_image(spec: TaskSpec, prediction: list, target: list, valid: list) -> float:
    shape = torch.tensor(prediction, dtype=torch.float32)[None]
    wanted = torch.tensor(target)[None]
    return float(_per_image(spec, shape, wanted, torch.tensor(valid)[None, None])[0])


def test_classes_by_hand():
    """Probabilities of the truth are 3/4 and 1/2; the third pixel does not count, whatever it holds."""
    prediction = [[[math.log(3.0), 0.0, 9.0]], [[0.0, 0.0, 0.0]]]
    score = of_one_image(semseg(("a", "b")), prediction, [[0, 1, 255]], [[True, True, False]])
    assert score == pytest.approx((0.75 + 0.5) / 2)


def test_edges_are_scored_on_edge_pixels_and_regions_everywhere():
    prediction, target = [[[0.0, math.log(3.0)]]], [[[1.0, 0.0]]]
    everywhere = [[True, True]]
    assert of_one_image(edge(), prediction, target, everywhere) == pytest.approx(0.5)
    assert of_one_image(sal(), prediction, target, everywhere) == pytest.approx((0.5 + 0.25) / 2)


def test_numbers_are_scored_against_the_best_constant():
    errors = torch.tensor([0.5, 1.0, float("nan")], dtype=torch.float64)
    constant = torch.tensor([1.0, 1.0, float("nan")], dtype=torch.float64)
    first, second, third = _in_numbers(errors, constant)
    assert (first, second, third) == (round(math.exp(-0.5), 4), round(math.exp(-1.0), 4), None)
    assert of_one_image(depth(), [[[1.0, 4.0]]], [[[3.0, 4.0]]], [[True, True]]) == pytest.approx(1.0)
    right_angle = of_one_image(normals(), [[[1.0]], [[0.0]], [[0.0]]], [[[0.0]], [[1.0]], [[0.0]]], [[True]])
    assert right_angle == pytest.approx(90.0)


def test_an_image_without_a_label_has_no_score():
    score = of_one_image(depth(), [[[1.0]]], [[[0.0]]], [[False]])
    assert math.isnan(score)


def test_keeping_a_map_changes_no_number_and_no_name():
    from dtme_search.data import build_data
    from dtme_search.training import Trainer

    plain = RunConfig.model_validate(TINY)
    kept = RunConfig.model_validate(set_path(TINY, "train.statistics.map_images", 5))
    assert run_fingerprint(plain) == run_fingerprint(kept)
    data = build_data(plain.data, tuple(plain.tasks), torch.device("cpu"))
    without = Trainer.of_config(plain, data).run()
    with_map = Trainer.of_config(kept, data).run()
    assert with_map.metrics == without.metrics and not without.evaluations[0].scores
    for evaluation in with_map.evaluations:
        assert set(evaluation.scores) == set(plain.tasks)
        for scores in evaluation.scores.values():
            assert len(scores) == 5 and all(score is None or 0 <= score <= 1 for score in scores)
