"""Selective fine-tuning: the parts that matter by a plain loop, the rest frozen, saved and resumed."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from runs import assert_same_run, state, trainer, with_
from tiny import TINY

from dtme_search.config import FinetuneConfig, RunConfig
from dtme_search.data import build_data
from dtme_search.models import build_model
from dtme_search.training import TrainingInterrupted
from dtme_search.training.finetune import choose_parts, importances
from dtme_search.training.forward import TaskLosses
from dtme_search.training.growth import resolved_config
from dtme_search.training.identity import RunContext, trunk_fingerprint

TASKS = ("semseg", "depth")
PARTS = ("embedding", "block 0", "block 1", "block 2", "norm")
SWITCH = {
    "tasks": {"semseg": {}, "depth": {"role": "auxiliary"}},
    "schedule": {"kind": "switch", "switch_at": 0.5, "finetune": {"fraction": 0.4, "images": 3}},
}


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return with_(RunConfig.model_validate(TINY), **SWITCH)


@pytest.fixture(scope="module")
def data(config):
    return build_data(config.data, TASKS, DEVICE)


@pytest.fixture
def losses(config, data):
    model = build_model(config.model, data.specs, data.image_size, seed=0).train()
    return TaskLosses(config.train, model, data)


RULES = {
    "fisher_trace": lambda theta, g: g.square(),
    "taylor": lambda theta, g: (theta * g).abs(),
    "magnitude": lambda theta, g: g.abs(),
}


@pytest.mark.parametrize("kind", RULES)
def test_importance_by_a_plain_loop(data, losses, kind):
    found = importances(losses, TASKS, FinetuneConfig(importance=kind, images=2), 5)
    assert tuple(found) == PARTS and losses.model.training
    model = losses.model.eval()
    total, block = 0.0, list(model.backbone.blocks[1].parameters())
    for batch in data.analysis_batches(2, 1, 5):
        for task in TASKS:
            model.zero_grad()
            losses(batch, (task,))[task].backward()
            total += sum(float(RULES[kind](each.detach(), each.grad).sum()) for each in block)
    assert found["block 1"] == pytest.approx(total / 2 / sum(each.numel() for each in block), rel=1e-4)


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.2, 1), (0.21, 2), (0.6, 3), (1.0, 5)])
def test_how_many_parts(losses, fraction, count):
    settings = FinetuneConfig(fraction=fraction, images=2)
    chosen = choose_parts(losses, TASKS, settings, 0)
    assert len(chosen) == count and chosen == tuple(name for name in PARTS if name in chosen)


def test_which_parts(losses):
    scores = importances(losses, TASKS, FinetuneConfig(images=2), 0)
    ranked = sorted(PARTS, key=lambda name: -scores[name])

    def chosen(**fields):
        return set(choose_parts(losses, TASKS, FinetuneConfig(fraction=0.4, images=2, **fields), 0))

    assert chosen() == set(ranked[:2])
    assert chosen(selection="reversed") == set(ranked[-2:])
    assert chosen(selection="last") == {"block 2", "norm"}
    assert chosen(selection="random") == chosen(selection="random")
    assert chosen(parts=("block 1",)) == {"block 1"}


def test_after_the_switch_only_the_chosen_parts_learn(config, data):
    config = with_(config, train__num_evaluations=2, train__combine__kind="pcgrad")
    at_switch = {}

    def on_evaluate(evaluation):
        if evaluation.step == 5:
            at_switch.update(state(run))

    run = trainer(config, data, on_evaluate=on_evaluate)
    result = run.run()
    assert len(result.trained_parts) == 2
    moved = {
        name.split(".decoders")[0]
        for name, value in state(run).items()
        if not torch.equal(value, at_switch[name]) and "num_batches" not in name
    }
    for index in range(3):
        learns = any(f"blocks.{index}." in name for name in moved)
        assert learns == (f"block {index}" in result.trained_parts)
    assert any(name.startswith("backbone.vit.patch_embed") for name in moved) == (
        "embedding" in result.trained_parts
    )
    assert any("decoders.semseg" in name or name.startswith("decoders") for name in moved)


@pytest.mark.parametrize("step", [3, 5, 7])
def test_a_stopped_run_goes_on_bit_for_bit(config, data, tmp_path, step):
    """Before the switch, right at it, and after it; the network grows later still."""
    grows = {
        "expansion__policy": "fixed",
        "expansion__start": 0.8,
        "expansion__plan": {"modulate": {1: [["semseg"]]}},
    }
    config = with_(config, model__drop_path=0.2, **grows)
    straight = trainer(config, data)
    expected = straight.run()
    run = trainer(config, data, tmp_path, should_stop=lambda: run.state.step >= step)
    with pytest.raises(TrainingInterrupted):
        run.run()
    resumed = trainer(config, data, tmp_path)
    result = resumed.run()
    assert_same_run(straight, expected, resumed, result)
    assert result.trained_parts == expected.trained_parts
    told = resolved_config(config, expected.plan, None, expected.trained_parts)
    again = trainer(told, data)
    assert_same_run(straight, expected, again, again.run())


def test_a_switch_at_once_freezes_from_the_first_step(config, data):
    run = trainer(with_(config, schedule__switch_at=0.0), data)
    assert len(run.run().trained_parts) == 2


def test_trunks_part_at_the_switch_and_not_before(config, data):
    context = RunContext.of(config, DEVICE)
    other = with_(config, schedule__finetune__fraction=0.2)
    for step, same in ((4, True), (5, True), (6, False)):
        names = {trunk_fingerprint(each, step, "data", context) for each in (config, other)}
        assert (len(names) == 1) == same, step
