"""Averaged weights: what a run is measured by and leaves behind, while its own weights train on."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from runs import assert_same_run, state, trainer, with_
from tiny import TINY
from torch import nn

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.training import TrainingInterrupted, evaluate, load_checkpoint, restore_model
from dtme_search.training.average import WeightAverage
from dtme_search.training.weights import save_weights

PLAIN = with_(
    RunConfig.model_validate(TINY), expansion={"policy": "conflict", "start": 0.5}, model__drop_path=0.2
)
CONFIG = with_(PLAIN, train__ema=0.6)
# Every kind of parameter that a growth brings.
ALL_OPERATIONS = with_(
    CONFIG, expansion={"policy": "per_layer", "start": 0.5, "layers": ["both", "lora", "modulate+lora"]}
)


@pytest.fixture(scope="module")
def data():
    return build_data(CONFIG.data, tuple(CONFIG.tasks), DEVICE)


def one_weight(value: float) -> nn.Module:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_two_steps_by_hand():
    model = one_weight(1.0)
    average = WeightAverage(model, 0.15)
    nn.init.constant_(model.weight, 2.0)
    average.update(0)  # d = min(0.15, 1 / 10): 0.1 * 1 + 0.9 * 2
    assert average.values["weight"].item() == pytest.approx(1.9)
    nn.init.constant_(model.weight, 4.0)
    average.update(1)  # d = min(0.15, 2 / 11): 0.15 * 1.9 + 0.85 * 4
    assert average.values["weight"].item() == pytest.approx(3.685)
    with average.shown():
        assert model.weight.item() == pytest.approx(3.685)
    assert model.weight.item() == 4.0


def test_the_decay_grows_to_its_limit():
    model = one_weight(0.0)
    average = WeightAverage(model, 0.999)
    nn.init.constant_(model.weight, 1.0)
    share = 1.0  # of the initial weight
    for step in range(50):
        average.update(step)
        share *= (1 + step) / (10 + step)
    assert 1 - average.values["weight"].item() == pytest.approx(share, abs=1e-6)


def test_an_average_shown_in_vain_is_taken_back():
    model = one_weight(1.0)
    average = WeightAverage(model, 0.9)
    nn.init.constant_(model.weight, 2.0)
    with pytest.raises(RuntimeError), average.shown():
        raise RuntimeError
    assert (model.weight.item(), average.values["weight"].item()) == (2.0, 1.0)


def test_decay_0_equals_no_average_bit_for_bit(data):
    plain, averaged = trainer(PLAIN, data), trainer(with_(PLAIN, train__ema=0.0), data)
    assert_same_run(plain, plain.run(), averaged, averaged.run())


def test_the_weights_train_and_grow_as_without_an_average(data, tmp_path):
    plain, averaged = trainer(PLAIN, data), trainer(CONFIG, data, tmp_path)
    expected, result = plain.run(), averaged.run()
    assert result.report == expected.report and result.plan == expected.plan
    assert [each.losses for each in result.evaluations] == [each.losses for each in expected.evaluations]
    assert result.metrics != expected.metrics
    saved = load_checkpoint(averaged.checkpoint_path, None, DEVICE)
    for name, value in state(plain).items():
        assert torch.equal(saved["model"][name], value), name


@pytest.mark.parametrize("step", [2, 5, 6, 9])
def test_a_stopped_run_goes_on_bit_for_bit(data, tmp_path, step):
    straight = trainer(ALL_OPERATIONS, data)
    expected = straight.run()
    done = []

    def stop() -> bool:
        done.append(1)
        return len(done) >= step

    with pytest.raises(TrainingInterrupted):
        trainer(ALL_OPERATIONS, data, tmp_path, should_stop=stop).run()
    resumed = trainer(ALL_OPERATIONS, data, tmp_path)
    assert_same_run(straight, expected, resumed, resumed.run())
    finished = trainer(ALL_OPERATIONS, data, tmp_path)
    assert_same_run(straight, expected, finished, finished.run())


@pytest.mark.parametrize("kept", [False, True], ids=["checkpoint", "weights"])
def test_what_a_run_leaves_behind_is_what_was_measured(data, tmp_path, kept):
    run = trainer(ALL_OPERATIONS, data, tmp_path)
    result = run.run()
    path = run.checkpoint_path
    if kept:
        path = tmp_path / "weights.pt"
        save_weights(path, "work", run)
    model = restore_model(path, run.config, data.specs, DEVICE)
    assert evaluate(model, data, "holdout", run.config.train) == result.metrics
    assert evaluate(run.model, data, "holdout", run.config.train) == result.metrics


def test_new_parameters_join_with_their_value_at_the_growth(data):
    grown = []
    run = trainer(ALL_OPERATIONS, data)
    grow = run.state.grow

    def watched(plan) -> None:
        before = {name: value.clone() for name, value in run.state.average.values.items()}
        grow(plan)
        after, now = run.state.average.values, dict(run.model.named_parameters())
        assert after.keys() == now.keys() and set(before) < set(after)
        for name, value in after.items():
            assert torch.equal(value, before[name] if name in before else now[name]), name
        grown.append(plan)

    run.state.grow = watched
    run.run()
    assert len(grown) == 1
