"""One run on two devices: the numbers of one, one line when a device is lost, and nothing left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from runs import CPU, assert_same_run, trainer, with_
from tiny import TINY

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.errors import ConfigError, TrainingError
from dtme_search.training import Callbacks, Trainer, TrainingInterrupted
from dtme_search.training.team.leader import Team, pick_team

CONFIG = with_(RunConfig.model_validate(TINY), train__accumulate=2, train__num_steps=6)
GROWS_AT_ONCE = {
    "expansion": {"policy": "per_layer", "start": 0.0, "layers": ["both", "lora", "modulate+lora"]},
    "model__drop_path": 0.3,
}
RUNS = {
    "unexpanded": {"train__ema": 0.5},
    "grown in the middle": {"expansion": {"policy": "conflict", "start": 0.5, "freeze_backbone": True}},
    "all layers": {**GROWS_AT_ONCE, "train__grad_clip": 0.5},
    "pcgrad": {**GROWS_AT_ONCE, "train__combine__kind": "pcgrad"},
    "famo": {"model__drop_path": 0.3, "train__combine__kind": "famo", "train__accumulate": 4},
    "gradnorm": {"train__combine__kind": "gradnorm"},
    "optimal uncertainty": {**GROWS_AT_ONCE, "train__combine__kind": "optimal_uncertainty"},
    "fading": {
        "tasks": {"semseg": {}, "depth": {"role": "auxiliary"}, "edge": {}},
        "schedule": {"kind": "switch", "switch_at": 0.5, "finetune": {"fraction": 0.4}},
    },
}


@pytest.fixture(scope="module")
def data():
    return build_data(CONFIG.data, tuple(CONFIG.tasks), CPU)


@pytest.fixture(scope="module")
def team():
    with pick_team("cpu", 2) as team:
        yield team


def of_team(team: Team, config: RunConfig, data, folder=None, **callbacks) -> Trainer:
    return Trainer.of_config(config, data, folder=folder, callbacks=Callbacks(**callbacks), team=team)


def first_gradients(run: Trainer) -> dict[str, torch.Tensor]:
    """Filled during the run with the gradients of its first step."""
    found: dict[str, torch.Tensor] = {}
    step = run.state.optimizer.step

    def recording() -> None:
        if run.state.step == 0:
            found.update(
                {name: one.grad.clone() for name, one in run.model.named_parameters() if one.grad is not None}
            )
        step()

    run.state.optimizer.step = recording
    return found


def is_gone(process: int) -> bool:
    ran = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False
    )
    return ran.stdout.strip() in ("", "Z", "Zs", "ZN", "ZNs")  # not even waited for by a parent


@pytest.mark.slow
@pytest.mark.parametrize("fields", RUNS.values(), ids=RUNS)
def test_two_devices_give_the_numbers_of_one(team, data, fields):
    config = with_(CONFIG, **fields)
    alone, together = trainer(config, data), of_team(team, config, data)
    wanted, found = first_gradients(alone), first_gradients(together)
    expected, result = alone.run(), together.run()
    assert wanted.keys() == found.keys() and len(found) > 10
    for name, gradient in wanted.items():
        size = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * size + 1e-9, msg=name)
    assert result.plan == expected.plan and result.trained_parts == expected.trained_parts
    for one, other in zip(expected.evaluations, result.evaluations, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=2e-3)
        assert other.metrics == pytest.approx(one.metrics, rel=2e-2)
    for (name, one), other in zip(alone.model.named_buffers(), together.model.buffers(), strict=True):
        if "num_batches" in name:
            assert one == other, name
        torch.testing.assert_close(other, one, rtol=1e-2, atol=1e-3, msg=name)


def test_gradients_of_one_step_and_running_statistics(team, data):
    """The fast one of the tests above: nothing has had the time to drift apart."""
    config = with_(CONFIG, train__num_steps=1, train__combine__kind="famo", **GROWS_AT_ONCE)
    alone, together = trainer(config, data), of_team(team, config, data)
    wanted, found = first_gradients(alone), first_gradients(together)
    alone.run(), together.run()
    for name, gradient in wanted.items():
        size = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * size + 1e-9, msg=name)
    for (name, one), other in zip(alone.model.named_buffers(), together.model.buffers(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 3, 4], ids=["before-growth", "at-growth", "after-growth"])
def test_a_run_on_two_devices_stops_and_goes_on_bit_for_bit(team, data, tmp_path, step):
    config = with_(with_(CONFIG, **GROWS_AT_ONCE), expansion__start=0.5)
    straight = of_team(team, config, data)
    expected = straight.run()
    stopped = of_team(team, config, data, tmp_path, should_stop=lambda: stopped.state.step >= step)
    with pytest.raises(TrainingInterrupted):
        stopped.run()
    resumed = of_team(team, config, data, tmp_path)
    assert_same_run(straight, expected, resumed, resumed.run())


@pytest.mark.slow
def test_a_lost_device_ends_the_run_with_one_line_and_the_next_run_has_new_ones(data):
    with pick_team("cpu", 2) as team:
        killed = []

        def kill() -> bool:
            if run.state.step == 2:
                killed.append(team.processes[0])
                os.kill(killed[0], signal.SIGKILL)
            return False

        run = of_team(team, CONFIG, data, should_stop=kill)
        with pytest.raises(TrainingError) as raised:
            run.run()
        assert str(raised.value) == (
            "device 2 of 2 (cpu): its process was killed by SIGKILL before step 2 was done."
        )
        assert is_gone(killed[0]) and team.processes == ()
        assert of_team(team, CONFIG, data).run().total_steps == 6
        (again,) = team.processes
        os.kill(again, signal.SIGKILL)  # between two runs
        while not is_gone(again):
            time.sleep(0.1)
        assert of_team(team, CONFIG, data).run().total_steps == 6
        (last,) = team.processes
    assert is_gone(last)


@pytest.mark.slow
def test_a_leader_that_dies_takes_its_followers_with_it(tmp_path):
    code = (
        "import os, sys, time; sys.path[:0] = ['tests', 'tests/training']; from test_team import *; "
        "team = pick_team('cpu', 2); data = build_data(CONFIG.data, tuple(CONFIG.tasks), CPU); "
        "of_team(team, CONFIG, data).run(); print(*team.processes, flush=True); os._exit(9)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    follower = int(ran.stdout)
    for _ in range(100):
        if is_gone(follower):
            return
        time.sleep(0.1)
    os.kill(follower, signal.SIGKILL)
    raise AssertionError("the follower has outlived its leader")


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        (
            {"train__accumulate": 1},
            r"train.accumulate must be a multiple .*\(2\), got 1.* train.accumulate=2",
        ),
        ({"train__batch_size": 3, "train__accumulate": 3}, r"train.batch_size must be a multiple .*got 3"),
    ],
)
def test_batches_that_cannot_be_divided_are_refused(data, fields, rule):
    with pytest.raises(ConfigError, match=rule):
        of_team(pick_team("cpu", 2), with_(CONFIG, **fields), data)


def test_more_devices_than_there_are_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    assert [str(each) for each in pick_team("cuda:0", 2).devices] == ["cuda:0", "cuda:1"]
    with pytest.raises(ConfigError, match=r"--devices-per-trial must be at most .* devices, 2, got 3"):
        pick_team("cuda", 3)
    with pytest.raises(ConfigError, match=r"CUDA devices from cuda:1 on, 1, got 2"):
        pick_team("cuda:1", 2)
