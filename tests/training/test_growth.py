"""What a run finds out at its growth: conflicts of the model alone, and a config that need not look again."""

from __future__ import annotations

import pytest
from device import DEVICE
from runs import assert_same_run, trainer, with_

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.training.growth import Growth, resolved_config


@pytest.fixture(scope="module")
def config():
    from tiny import TINY

    return with_(RunConfig.model_validate(TINY), expansion__policy="conflict", expansion__start=0.5)


@pytest.fixture(scope="module")
def data(config):
    return build_data(config.data, tuple(config.tasks), DEVICE)


@pytest.mark.parametrize(
    "fields",
    [{}, {"model__drop_path": 0.5}, {"expansion__decoder_warmup_steps": 2}],
    ids=["batch-norm", "stochastic-depth", "after-warm-up"],
)
def test_conflicts_do_not_depend_on_which_images_share_a_batch(config, data, fields):
    """Else standard errors by image say nothing: images of a batch would move together."""
    config = with_(config, **fields)
    run = trainer(config, data)
    run.model.train()
    reports = [
        Growth(
            with_(config, expansion__analysis_batch_size=size),
            run.model,
            data,
            run.losses,
            tuple(config.tasks),
        ).measure()
        for size in (1, 2, 3, 6)
    ]
    assert run.model.training, "it is given back in the mode in which it came"
    for report in reports[1:]:
        for space in ("range", "null"):
            # Sums in another order may turn a dot product that is nearly zero.
            assert (report.rates(space) - reports[0].rates(space)).abs().max() < 0.005
            difference = report.pair_errors(space) - reports[0].pair_errors(space)
            assert difference.nan_to_num().abs().max() < 0.002


PLATEAU = {
    "tasks": {"semseg": {}, "depth": {"role": "auxiliary"}},
    "train__num_evaluations": 10,
    "train__lr": 1e-7,
    "schedule": {"kind": "switch", "switch_at": 0.9, "patience": 1},
}
"""Metrics that hardly move: some evaluation is no better than those before it."""


@pytest.mark.parametrize("policy", ["none", "conflict"])
def test_a_switch_that_a_run_found_is_written_down(config, data, policy):
    config = with_(config, **PLATEAU, expansion__policy=policy)
    held = data.for_tasks(tuple(config.tasks))
    searched = trainer(config, held)
    expected = searched.run()
    assert expected.plateau_step is not None and expected.plateau_step < 9
    resolved = resolved_config(config, expected.plan, expected.plateau_step)
    assert resolved.schedule.patience is None
    again = trainer(resolved, held)
    assert_same_run(searched, expected, again, again.run())


@pytest.mark.parametrize(("plateau", "step"), [(None, 9), (4, 4), (10, 9)])
def test_the_switch_is_the_first_of_the_planned_one_and_the_plateau(config, plateau, step):
    resolved = resolved_config(with_(config, **PLATEAU).unexpanded(), _nothing(config), plateau)
    assert round(resolved.schedule.switch_at * resolved.total_steps) == step


def _nothing(config):
    from dtme_search.token_space import ExpansionPlan

    return ExpansionPlan.empty(("semseg", "depth"), 3)
