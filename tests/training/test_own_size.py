"""Predictions measured at the size of the labels: by hand, and where it happens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import TINY

from dtme_search.config import DataConfig, RunConfig, run_fingerprint, set_path
from dtme_search.data import Sample, build_data
from dtme_search.tasks import depth, semseg
from dtme_search.training import Trainer, evaluate, no_image_priors

SPECS = {spec.name: spec for spec in (semseg(("a", "b")), depth())}


class Wide:
    """Images of 8x16 whose left half is class 0 and 1 m away, whose right half is class 1 and 3 m away."""

    tasks = SPECS
    fingerprint = test_fingerprint = "wide"

    def ids(self, split):
        return tuple(f"{split}{number}" for number in range(4))

    def groups(self, _ids):
        return None

    def class_presence(self, _ids):
        return None

    def read(self, _sample_id, tasks):
        right = np.broadcast_to(np.arange(16) >= 8, (8, 16))
        labels = {"semseg": right.astype(np.uint8), "depth": np.where(right, 3.0, 1.0).astype(np.float32)}
        valid = np.ones((8, 16), bool)
        valid[0] = False
        return Sample(
            np.zeros((8, 16, 3), np.uint8), {t: labels[t] for t in tasks}, dict.fromkeys(tasks, valid)
        )


class Always(torch.nn.Module):
    """Says class 1 at 2 m on the right of an image of 4x8 in tensors of 8x8, class 0 at 1 m on its left."""

    def forward(self, images, _tasks):
        assert images.shape[-2:] == (8, 8)
        right = (torch.arange(8) >= 4).float().expand(len(images), 1, 8, 8)
        return {"semseg": torch.cat((1 - right, right), dim=1), "depth": 1 + right}


def data_of(score_at="auto", *, final=True):
    config = DataConfig(image_size=(8, 8), score_at=score_at, storage="device", holdout_fraction=0.5)
    return build_data(config, tuple(SPECS), torch.device("cpu"), final=final, dataset=Wide())


def test_by_hand():
    """Enlarged from 4x8 to 8x16, depth 1 and 2 meet in two columns: 1.25 and 1.75."""
    train = RunConfig().train
    own = evaluate(Always(), data_of(), "test", train)
    errors = np.array([0.0] * 7 + [0.25, 1.25] + [1.0] * 7)
    assert own["depth"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert own["semseg"] == pytest.approx(1.0)
    at_tensor = evaluate(Always(), data_of("tensor"), "test", train)
    assert at_tensor["depth"] == pytest.approx(np.sqrt(0.5))


def test_a_search_measures_at_its_own_size_and_a_final_run_at_that_of_the_labels():
    assert not data_of(final=False).scores_at_own_size
    assert data_of("label", final=False).scores_at_own_size
    assert data_of().scores_at_own_size and not data_of("tensor").scores_at_own_size


def test_priors_are_measured_there_too():
    own, at_tensor = (no_image_priors(data_of(how), "test", 2) for how in ("label", "tensor"))
    assert at_tensor["depth"] == pytest.approx(0.0)
    # 1 and 3 meet in two columns: half a metre off in each.
    assert own["depth"] == pytest.approx(np.sqrt(2 * 0.5**2 / 16))


def test_the_batch_size_changes_nothing():
    train = RunConfig().train
    first, second = (
        evaluate(Always(), data_of(), "test", train.model_copy(update={"eval_batch_size": size}))
        for size in (1, 3)
    )
    assert first == second


def test_images_of_the_size_of_the_tensors_are_measured_as_before():
    values = set_path(TINY, "tasks", {"depth": {}, "edge": {}})
    config = RunConfig.model_validate(values)
    cpu = torch.device("cpu")
    results = []
    for how in ("tensor", "label"):
        data_config = config.data.model_copy(update={"score_at": how})
        data = build_data(data_config, tuple(config.tasks), cpu, final=True)
        results.append(Trainer.of_config(config, data).run().metrics)
    assert results[0] == pytest.approx(results[1], rel=1e-12)


def test_it_is_part_of_the_name_of_a_run_unless_nothing_was_asked():
    plain = RunConfig()
    asked = RunConfig.model_validate({"data": {"score_at": "label"}})
    assert run_fingerprint(plain) != run_fingerprint(asked)
