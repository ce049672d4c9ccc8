"""What a run takes along when it is taken up again, and what it measures anew."""

from __future__ import annotations

import pytest
from device import DEVICE
from runs import trainer, with_

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.training import TrainingInterrupted
from dtme_search.training.growth import Growth
from dtme_search.training.result import Probe


@pytest.fixture(scope="module")
def config():
    from tiny import TINY

    return with_(
        RunConfig.model_validate(TINY),
        tasks={"semseg": {}, "normals": {}, "depth": {"role": "auxiliary"}},
        expansion__policy="conflict",
        expansion__start=0.3,
        schedule={"kind": "switch", "switch_at": 0.7},
    )


@pytest.fixture(scope="module")
def data(config):
    return build_data(config.data, tuple(config.tasks), DEVICE)


@pytest.fixture
def device(monkeypatch):
    """Devices on which a step costs what its tasks and the growth say: seconds of an unexpanded task."""

    def install(seconds: float) -> None:
        def probe(growth: Growth, tasks, combination=None) -> Probe:
            grown = growth.model.plan is not None and not growth.model.plan.is_empty
            times = len(tasks) * (1.5 if grown else 1.0)
            return Probe(seconds * times, round(1000 * times))

        monkeypatch.setattr(Growth, "probe", probe)

    return install


def stopped_at(step, config, data, folder):
    """Train up to a step and stop there."""
    done = []

    def stop() -> bool:
        done.append(1)
        return len(done) >= step

    with pytest.raises(TrainingInterrupted, match=f"step {step} of"):
        trainer(config, data, folder, should_stop=stop).run()


@pytest.mark.parametrize("step", [2, 3, 5, 7], ids=["before-growth", "at-growth", "between", "at-switch"])
def test_the_cost_of_a_step_is_the_same_after_a_move_to_a_slower_device(config, data, device, tmp_path, step):
    """Phases are ratios: whatever the second device takes, each must be measured in its own unit."""
    device(1.0)
    expected = trainer(config, data).run().cost.phases
    assert expected == ((0, 1.0), (3, 1.5), (7, 1.0))
    stopped_at(step, config, data, tmp_path)
    device(4.0)
    assert trainer(config, data, tmp_path).run().cost.phases == expected


@pytest.mark.parametrize(("step", "told"), [(2, 1), (5, 1), (9, 1)])
def test_a_run_taken_up_tells_its_plan_once_more(config, data, tmp_path, step, told):
    """Whoever names trials by their plan must hear it in every session, not in that of the growth alone."""
    stopped_at(step, config, data, tmp_path)
    plans = []
    result = trainer(config, data, tmp_path, on_expand=lambda *heard: plans.append(heard)).run()
    assert len(plans) == told
    assert plans[0][0] == result.plan and plans[0][1] is not None


def test_memory_of_the_whole_process_is_not_taken_for_that_of_a_run(config, data):
    """On the CPU nothing tells it; on a GPU see the tests that ask for one."""
    assert (trainer(config, data).run().peak_memory_mb is None) == (DEVICE.type == "cpu")
