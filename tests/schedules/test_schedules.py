"""One suite over all schedules, then what is particular to each."""

import json
import math

import pytest

from dtme_search.config import RunConfig
from dtme_search.errors import ConfigError
from dtme_search.schedules import ScheduleKind, build_schedule
from dtme_search.testing import check_schedule

STEPS = 200
TASKS = {
    "semseg": {"weight": 1.5},
    "depth": {"role": "auxiliary", "weight": 2.0},
    "normals": {},
    "edge": {"role": "auxiliary"},
}
KINDS = {
    "constant": {"kind": "constant"},
    "diminish": {"kind": "diminish"},
    "diminish_raw": {"kind": "diminish", "decay_rate": 1e-4, "decay_power": 2.0, "initial_weight": 0.7},
    "diminish_steep": {"kind": "diminish", "half_life": 0.001, "decay_power": 3.0},
    "switch": {"kind": "switch", "switch_at": 0.25},
    "switch_never": {"kind": "switch", "switch_at": 1.0},
    "switch_at_once": {"kind": "switch", "switch_at": 0.0},
    "plateau": {"kind": "switch", "switch_at": 0.9, "patience": 2},
    "fading plateau": {"kind": "diminish", "patience": 2},
    "stopped": {"kind": "constant", "stop_at": 0.25},
    "loud down": {"kind": "inverse_gradient_norm"},
    "loud up": {"kind": "fisher_trace", "patience": 3},
}
AT_START = {"diminish_raw": 0.7, "switch_at_once": 0.0}
"""gamma at step 0 where it is not 1."""


def make(schedule, tasks=TASKS, **train):
    return build_schedule(
        RunConfig.model_validate(
            {"tasks": tasks, "schedule": schedule, "train": {"num_steps": STEPS, **train}}
        )
    )


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def run(schedule, start=0, improved=lambda step: False):
    """Weights of every step of a run that evaluates every 20 steps."""
    history = []
    for step in range(start, STEPS):
        if schedule.wants(step) is not None:
            schedule.refresh({"depth": 1.0, "edge": 1.0})
        history.append(schedule.weights(step))
        if (step + 1) % 20 == 0:
            schedule.observe(step + 1, improved(step + 1))
    return history


def test_weights_at_the_first_step(kind):
    gamma = AT_START.get(kind, 1.0)
    assert make(KINDS[kind]).weights(0) == {
        "semseg": 1.5,
        "depth": 2.0 * gamma,
        "normals": 1.0,
        "edge": gamma,
    }


def test_it_keeps_the_rules_that_authors_of_schedules_are_told(kind):
    """Those of its options, its state and its weights; with ``Switch`` around it, as a run has it."""

    def build(setting):
        roles = {name: "auxiliary" if name in setting.tasks.auxiliary else "primary" for name in TASKS}
        weights = setting.tasks.weights
        tasks = {name: {"weight": weights[name], "role": roles[name]} for name in weights}
        return make(KINDS[kind], tasks, num_steps=setting.total_steps)

    check_schedule(ScheduleKind(build), name=kind)


def test_auxiliary_weights_never_rise_and_are_never_negative(kind):
    for task in ("depth", "edge"):
        history = [weights[task] for weights in run(make(KINDS[kind]))]
        assert history == sorted(history, reverse=True)
        assert min(history) >= 0.0


def test_same_step_same_weights(kind):
    schedule = make(KINDS[kind])
    assert [schedule.weights(step) for step in (150, 3, 150)] == [
        make(KINDS[kind]).weights(step) for step in (150, 3, 150)
    ]


@pytest.mark.parametrize("stop", [20, 30, 40, 60, 160])
def test_a_restored_schedule_goes_on_as_if_undisturbed(kind, stop):
    straight = run(make(KINDS[kind]))
    stopped = make(KINDS[kind])
    for step in range(20, stop + 1, 20):
        stopped.observe(step, False)
    resumed = make(KINDS[kind])
    resumed.restore(json.loads(json.dumps(stopped.state())))
    assert resumed.state() == stopped.state()
    assert run(resumed, start=stop) == straight[stop:]


def test_without_auxiliary_tasks_every_kind_is_plain_multi_task_training(kind):
    tasks = {"semseg": {"weight": 1.5}, "edge": {}}
    assert all(weights == {"semseg": 1.5, "edge": 1.0} for weights in run(make(KINDS[kind], tasks)))


def test_switch_happens_exactly_at_its_step():
    schedule = make({"kind": "switch", "switch_at": 0.25})
    assert schedule.weights(49)["depth"] == 2.0
    assert schedule.weights(50)["depth"] == 0.0
    assert schedule.weights(STEPS - 1)["depth"] == 0.0


def test_fractions_are_those_of_all_steps():
    config = RunConfig.model_validate(
        {
            "tasks": TASKS,
            "schedule": {"kind": "switch", "switch_at": 0.5},
            "expansion": {"start": 0.5},
            "train": {"num_steps": 100, "count_from": "expansion"},
        }
    )
    schedule = build_schedule(config)
    assert (schedule.weights(74)["edge"], schedule.weights(75)["edge"]) == (1.0, 0.0)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_diminish_halves_at_its_half_life(power):
    schedule = make({"kind": "diminish", "half_life": 0.3, "decay_power": power, "initial_weight": 0.8})
    assert schedule.weights(60)["edge"] == pytest.approx(0.4, rel=1e-12)


def test_diminish_worked_by_hand():
    schedule = make({"kind": "diminish", "decay_rate": 0.01, "decay_power": 2.0, "half_life": 0.3})
    assert schedule.weights(10)["depth"] == pytest.approx(2.0 * math.exp(-1), rel=1e-12)


def test_diminish_far_out_is_zero_and_not_an_error():
    schedule = make({"kind": "diminish", "decay_rate": 1.0, "decay_power": 400.0})
    assert schedule.weights(100)["edge"] == 0.0


def test_a_power_that_float64_cannot_hold_is_a_user_error():
    with pytest.raises(ConfigError, match="decay_power must be"):
        make({"kind": "diminish", "decay_power": 400.0})


def test_a_plateau_switches_from_the_next_step_on():
    schedule = make({"kind": "switch", "switch_at": 0.9, "patience": 2})
    schedule.observe(20, True)
    schedule.observe(40, False)
    assert schedule.weights(59)["edge"] == 1.0
    schedule.observe(60, False)
    assert [schedule.weights(step)["edge"] for step in (59, 60, 61, 199)] == [1.0, 0.0, 0.0, 0.0]


def test_an_improvement_starts_the_count_anew():
    schedule = make({"kind": "switch", "switch_at": 0.9, "patience": 2})
    for step, improved in ((20, False), (40, True), (60, False), (80, True)):
        schedule.observe(step, improved)
    assert schedule.weights(80)["edge"] == 1.0


def test_what_comes_after_the_plateau_does_not_undo_it():
    schedule = make({"kind": "switch", "switch_at": 0.9, "patience": 1})
    schedule.observe(20, False)
    before = schedule.state()
    schedule.observe(40, True)
    assert schedule.state() == before
    assert schedule.weights(40)["edge"] == 0.0


def test_the_planned_step_holds_without_a_plateau():
    schedule = make({"kind": "switch", "switch_at": 0.5, "patience": 3})
    assert [weights["edge"] for weights in run(schedule, improved=lambda step: True)] == [1.0] * 100 + [
        0.0
    ] * 100


class TestWeightsFromGradients:
    @pytest.mark.parametrize(
        ("kind", "expected"), [("inverse_gradient_norm", (1.5, 0.5)), ("fisher_trace", (0.5, 1.5))]
    )
    def test_by_hand(self, kind, expected):
        """Sizes 1 and 3, total 2; the weight of depth is 2."""
        schedule = make({"kind": kind, "epsilon": 0.0})
        assert (schedule.weights(0)["depth"], schedule.weights(0)["edge"]) == (2.0, 1.0)
        schedule.refresh({"depth": 1.0, "edge": 3.0})
        found = schedule.weights(7)
        assert (found["depth"] / 2.0, found["edge"]) == pytest.approx(expected)
        assert (found["semseg"], found["normals"]) == (1.5, 1.0)

    def test_squared_norms_pull_the_other_way(self):
        """Norms 1 and 3 under Eq. 14."""
        schedule = make({"kind": "fisher_trace"})
        schedule.refresh({"depth": 1.0, "edge": 9.0})
        assert schedule.weights(0)["edge"] == pytest.approx(1.8)

    def test_the_total_is_that_of_the_config(self):
        schedule = make({"kind": "inverse_gradient_norm", "total": 0.5})
        for sizes in ({"depth": 1.0, "edge": 2.0}, {"depth": 0.0, "edge": 2.0}, {"depth": 0.0, "edge": 0.0}):
            schedule.refresh(sizes)
            found = schedule.weights(0)
            assert found["depth"] / 2.0 + found["edge"] == pytest.approx(0.5)
            assert found["edge"] == pytest.approx(0.5 / 3), "a task that was not seen keeps its weight"

    def test_when_it_looks(self):
        schedule = make({"kind": "inverse_gradient_norm", "every": 20, "stop_at": 0.5})
        assert [step for step in range(STEPS) if schedule.wants(step)] == [0, 20, 40, 60, 80]
        assert schedule.wants(0) == "gradient_norm"
        assert make({"kind": "fisher_trace"}).wants(0) == "fisher_trace"

    def test_between_two_looks_it_goes_on_after_a_kill(self):
        schedule = make({"kind": "inverse_gradient_norm", "patience": 2})
        schedule.refresh({"depth": 0.2, "edge": 0.7})
        schedule.observe(20, False)
        resumed = make({"kind": "inverse_gradient_norm", "patience": 2})
        resumed.restore(json.loads(json.dumps(schedule.state())))
        assert resumed.weights(21) == schedule.weights(21)
        for each in (schedule, resumed):
            each.observe(40, False)
            assert each.plateau_step == 40 and each.weights(40)["depth"] == 0.0
