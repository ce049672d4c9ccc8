"""What a run finds out at its growth: conflicts of the model alone, and a config that need not look again."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from device import DEVICE
from runs import assert_same_run, state, trainer, with_

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.training import TrainingInterrupted
from dtme_search.training.growth import Growth, resolved_config, waits


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


def test_gradients_are_compared_on_the_weights_of_each_layer(config, data):
    """Recomputed with nothing but autograd, image by image."""
    tasks = ("semseg", "depth", "normals", "edge")
    config = with_(config, expansion__selection="gradient_similarity", model__drop_path=0.3)
    run = trainer(config, data)
    growth = Growth(config, run.model, data, run.losses, tasks)
    before, random_state = state(run), torch.get_rng_state()
    report = growth.measure()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(before[name], value) for name, value in state(run).items())
    plain = Growth(with_(config, expansion__selection="conflict"), run.model, data, run.losses, tasks)
    assert plain.measure().cosines is None
    assert torch.equal(plain.measure().range_counts, report.range_counts)

    model = run.model.eval()
    expected = torch.zeros(3, 6, dtype=torch.float64)
    for batch in data.analysis_batches(6, 1, config.seed):
        losses = run.losses(batch, tasks)
        for layer, block in enumerate(model.backbone.blocks):
            rows = []
            for task in tasks:
                gradients = torch.autograd.grad(losses[task], list(block.parameters()), retain_graph=True)
                rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
            for index, (one, other) in enumerate(combinations(rows, 2)):
                expected[layer, index] += torch.cosine_similarity(one, other, dim=0).item() / 6
    torch.testing.assert_close(report.cosines, expected, rtol=1e-3, atol=1e-4)
    assert report.cosines.abs().max() > 0.01


def test_a_run_by_gradient_similarity_grows_and_resumes_to_the_same(config, data, tmp_path):
    config = with_(config, expansion__selection="gradient_similarity", expansion__max_streams=2)
    straight = trainer(config, data)
    expected = straight.run()
    order = sorted(range(3), key=lambda layer: -expected.report.dissimilarities()[layer].sum())
    assert set(expected.plan.groups["modulate"]) == set(order[:2]) == set(expected.plan.groups["expand"])
    assert len(expected.plan.groups["modulate"][order[0]]) == 2
    stopped = trainer(config, data, tmp_path, should_stop=lambda: stopped.state.step >= 7)
    with pytest.raises(TrainingInterrupted):
        stopped.run()
    resumed = trainer(config, data, tmp_path)
    assert_same_run(straight, expected, resumed, resumed.run())


AUTO = {"expansion__start": "auto", "expansion__auto_starts": [0.2, 0.6, 0.4]}


@pytest.mark.parametrize(("level", "found"), [(2.0, 2), (0.0, 6)], ids=["at once", "at the last"])
def test_a_run_grows_when_layers_differ_from_chance_and_equals_one_that_starts_there(
    config, data, tmp_path, monkeypatch, level, found
):
    monkeypatch.setattr("dtme_search.training.growth.SIGNIFICANCE", level)
    heard = []
    automatic = trainer(with_(config, **AUTO), data, on_expand=lambda plan, _: heard.append(plan))
    result = automatic.run()
    given = trainer(with_(config, expansion__start=found / 10), data)
    assert_same_run(automatic, result, given, given.run())
    assert heard == [result.plan]
    assert result.grown_at == found
    told = resolved_config(automatic.config, result.plan, grown_at=result.grown_at)
    assert (told.expansion.policy, told.expansion.start, told.expansion_step) == ("fixed", found / 10, found)
    again = trainer(told, data)
    assert_same_run(automatic, result, again, again.run())
    for stop in (found - 1, found, found + 1):
        folder = tmp_path / str(stop)
        stopped = stopping_at(stop, automatic.config, data, folder)
        with pytest.raises(TrainingInterrupted):
            stopped.run()
        resumed = trainer(automatic.config, data, folder)
        assert_same_run(automatic, result, resumed, resumed.run())
        assert resumed.state.grown_at == found


def stopping_at(step, config, data, folder):
    stopped = trainer(config, data, folder, should_stop=lambda: stopped.state.step >= step)
    return stopped


def test_a_layer_that_differs_in_one_space_is_enough_at_half_the_level(config):
    auto = with_(config, **AUTO)

    class Report:
        def __init__(self, *p_values: float) -> None:
            self.distinguishable = dict(zip(("range", "null"), p_values, strict=True)).get

    assert auto.growth_steps == (2, 4, 6)
    assert waits(auto, 2, Report(0.03, 0.9)), "two spaces: half of 0.05 each"
    assert not waits(auto, 2, Report(0.9, 0.02))
    assert not waits(auto, 6, Report(0.9, 0.9)), "at the last start it grows anyway"
    assert not waits(config, 5, Report(0.9, 0.9))


def test_a_start_that_is_found_cannot_decide_how_long_a_run_is(config):
    with pytest.raises(ValueError, match=r"train\.count_from must be start with expansion\.start auto"):
        with_(config, **AUTO, train__count_from="expansion")


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
