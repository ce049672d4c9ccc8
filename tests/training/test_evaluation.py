"""Where a run is measured, how often, and what must not follow from it."""

from __future__ import annotations

import pytest
from device import DEVICE
from runs import trainer, with_

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.errors import ConfigError
from dtme_search.training import check_run, evaluate, no_image_priors

STEERED = {
    "tasks": {"semseg": {}, "depth": {"role": "auxiliary"}},
    "schedule": {"kind": "switch", "switch_at": 0.9, "patience": 1},
}


@pytest.fixture(scope="module")
def config():
    from tiny import TINY

    return RunConfig.model_validate(TINY)


@pytest.fixture(scope="module")
def final(config):
    return build_data(config.data, tuple(config.tasks), DEVICE, final=True)


def test_a_run_without_a_holdout_looks_at_the_test_split_once(config, final):
    config = with_(config, train__num_evaluations=5)
    looked = []
    result = trainer(config, final, on_evaluate=looked.append).run()
    assert final.scoring_split == "test"
    assert [evaluation.step for evaluation in looked] == [10]
    assert result.metrics == looked[0].metrics


@pytest.mark.parametrize("begin", [trainer, check_run], ids=["trained", "checked"])
def test_a_schedule_that_follows_results_is_refused_there(config, final, begin):
    config = with_(config, **STEERED)
    with pytest.raises(ConfigError, match=r"schedule\.patience must be empty in a final training.*got 1\."):
        begin(config, final.for_tasks(tuple(config.tasks)))
    begin(with_(config, schedule__patience=None), final.for_tasks(tuple(config.tasks)))


def test_a_patience_that_nothing_follows_is_not_refused(config, final):
    check_run(with_(config, schedule__kind="switch", schedule__patience=1), final)


@pytest.mark.parametrize("split", ["holdout", "test"])
def test_metrics_and_priors_do_not_depend_on_the_batch_size(config, split):
    data = build_data(config.data, tuple(config.tasks), DEVICE, final=split == "test")
    model = trainer(config, data).model
    sizes = (1, 3, 4)
    metrics = [evaluate(model, data, split, with_(config, train__eval_batch_size=n).train) for n in sizes]
    priors = [no_image_priors(data, split, size) for size in sizes]
    for found in (metrics, priors):
        assert found[1] == pytest.approx(found[0], rel=1e-5)
        assert found[2] == pytest.approx(found[0], rel=1e-5)
