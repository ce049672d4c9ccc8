"""The trainer through its public face: repeatable, resumable at any step, growing and switching as told."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from device import DEVICE
from runs import assert_same_run, state, trainer, with_

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.errors import DivergedError, TrainingError
from dtme_search.training import Trainer, TrainingInterrupted


@pytest.fixture(scope="module")
def data_of():
    shelf = {}

    def get(config: RunConfig):
        key = config.data.model_dump_json()
        if key not in shelf:
            shelf[key] = build_data(config.data, ("semseg", "depth", "normals", "edge"), DEVICE)
        return shelf[key].for_tasks(tuple(config.tasks))

    return get


def stop_at(step: int):
    """Callbacks that ask to stop once ``step`` steps are done."""

    class Stop:
        trainer: Trainer | None = None

        def __call__(self) -> bool:
            return self.trainer is not None and self.trainer.state.step >= step

    return Stop()


GROWING = {
    "expansion__policy": "conflict",
    "expansion__start": 0.5,
    "model__drop_path": 0.2,
}


def test_same_seed_gives_the_same_numbers_and_another_seed_others(tiny_config, data_of):
    config = with_(tiny_config, **GROWING)
    runs = [trainer(config, data_of(config)) for _ in range(2)]
    results = [run.run() for run in runs]
    assert_same_run(runs[0], results[0], runs[1], results[1])
    other = with_(config, seed=1)
    assert trainer(other, data_of(other)).run().metrics != results[0].metrics


@pytest.mark.parametrize("step", [1, 4, 5, 6, 9])
def test_a_stopped_run_goes_on_bit_for_bit(tiny_config, data_of, tmp_path, step):
    """Stops lie before, at and after the growth (step 5) and the first evaluation (step 5)."""
    config = with_(
        tiny_config,
        **GROWING,
        tasks__edge={"role": "auxiliary", "weight": 0.5},
        schedule={"kind": "switch", "switch_at": 0.7},
    )
    straight = trainer(config, data_of(config))
    expected = straight.run()

    stop = stop_at(step)
    interrupted = trainer(config, data_of(config), tmp_path, should_stop=stop)
    stop.trainer = interrupted
    with pytest.raises(TrainingInterrupted, match=f"step {step} of 10"):
        interrupted.run()
    resumed = trainer(config, data_of(config), tmp_path)
    result = resumed.run()
    assert_same_run(straight, expected, resumed, result)
    assert [first for first, _ in result.cost.phases] == [first for first, _ in expected.cost.phases]


def test_a_finished_run_is_read_from_its_checkpoint(tiny_config, data_of, tmp_path):
    first = trainer(tiny_config, data_of(tiny_config), tmp_path)
    result = first.run()
    seen = []
    again = trainer(tiny_config, data_of(tiny_config), tmp_path, on_evaluate=seen.append)
    assert again.run().evaluations == result.evaluations
    assert seen == []


def test_losses_fall(tiny_config, data_of):
    config = with_(tiny_config, train__num_steps=60, train__num_evaluations=6)
    evaluations = trainer(config, data_of(config)).run().evaluations
    for task in config.tasks:
        assert evaluations[-1].losses[task] < evaluations[0].losses[task], task


def test_evaluations_are_evenly_spread_and_end_at_the_last_step(tiny_config, data_of):
    config = with_(tiny_config, train__num_evaluations=4)
    seen = []
    result = trainer(config, data_of(config), on_evaluate=seen.append).run()
    assert [evaluation.step for evaluation in seen] == [2, 5, 8, 10]
    assert result.evaluations == tuple(seen)
    assert set(result.metrics) == set(config.tasks)


def test_more_evaluations_than_steps_evaluate_every_step(tiny_config, data_of):
    config = with_(tiny_config, train__num_steps=2, train__num_evaluations=5)
    assert [e.step for e in trainer(config, data_of(config)).run().evaluations] == [1, 2]


def test_count_from_expansion_adds_the_steps_before(tiny_config, data_of):
    config = with_(tiny_config, **GROWING, train__count_from="expansion")
    result = trainer(config, data_of(config)).run()
    assert result.total_steps == 15
    assert result.evaluations[-1].step == 15
    assert result.cost.phases[-1][0] == 5


class TestGrowth:
    def test_optimiser_keeps_old_state_and_new_parameters_join_later(self, tiny_config, data_of):
        config = with_(tiny_config, **GROWING, expansion__lr_multiplier=3.0)
        before = {}

        def on_expand(plan, report):
            before["moments"] = {
                key: entry["exp_avg"].clone()
                for key, entry in run.state.optimizer.state.items()
                if "exp_avg" in entry
            }
            before["groups"] = len(run.state.optimizer.param_groups)

        run = trainer(config, data_of(config), on_expand=on_expand)
        old = set(run.model.parameters())
        run.run()
        assert before["groups"] == 1 and len(run.state.optimizer.param_groups) == 2
        assert before["moments"].keys() == old
        assert any(bool(moment.any()) for moment in before["moments"].values())
        lr_old, lr_new = (group["lr"] for group in run.state.optimizer.param_groups)
        assert lr_new == pytest.approx(3 * lr_old)
        added = run.state.optimizer.param_groups[1]["params"]
        assert sum(parameter.numel() for parameter in added) == run.state.plan.num_parameters(24)
        assert all(run.state.optimizer.state[parameter]["step"] == 5 for parameter in added)

    def test_measuring_changes_neither_model_nor_training(self, tiny_config, data_of):
        """A run that measures and grows nothing equals a run that never measures."""
        plain = trainer(tiny_config, data_of(tiny_config))
        expected = plain.run()
        config = with_(
            tiny_config,
            expansion__policy="conflict",
            expansion__start=0.3,
            expansion__range_threshold=1.0,
            expansion__null_threshold=1.0,
            expansion__decoder_warmup_steps=2,
        )
        measured = trainer(config, data_of(config))
        result = measured.run()
        assert result.report is not None
        assert result.plan.is_empty
        assert result.step_cost_ratio == 1.0
        assert_same_run(plain, expected, measured, dataclasses.replace(result, plan=expected.plan))

    def test_the_resolved_plan_trains_to_the_same_model_without_measuring(self, tiny_config, data_of):
        config = with_(tiny_config, **GROWING)
        searched = trainer(config, data_of(config))
        expected = searched.run()
        plan = expected.plan.to_config().model_dump(mode="json")
        fixed = with_(config, expansion__policy="fixed", expansion__plan=plan)
        run = trainer(fixed, data_of(fixed))
        result = run.run()
        assert result.report is None
        assert_same_run(searched, expected, run, result)

    def test_frozen_backbone_stays_and_the_rest_learns(self, tiny_config, data_of):
        config = with_(tiny_config, **GROWING, expansion__freeze_backbone=True)
        at_growth = {}
        run = trainer(config, data_of(config), on_expand=lambda plan, report: at_growth.update(state(run)))
        run.run()
        after = state(run)
        changed = {name for name, value in at_growth.items() if not torch.equal(value, after[name])}
        assert changed
        assert not any(name.startswith("backbone.") for name in changed)

    def test_cost_of_a_grown_step_is_measured(self, tiny_config, data_of):
        config = with_(tiny_config, **GROWING)
        cost = trainer(config, data_of(config)).run().cost
        assert [step for step, _ in cost.phases] == [0, 5]
        assert cost.reference_seconds > 0
        assert cost.mean(10) == pytest.approx((1.0 + cost.phases[1][1]) / 2)
        # Growth adds products and takes none away; of one run to the next they are exactly the same.
        assert [step for step, _ in cost.flops] == [0, 5] and 1.0 < cost.flops[1][1] < 4.0
        assert trainer(config, data_of(config)).run().cost.flops == cost.flops


class TestSchedule:
    def test_after_a_switch_auxiliary_tasks_cost_nothing(self, tiny_config, data_of):
        config = with_(
            tiny_config,
            tasks={"semseg": {}, "depth": {"role": "auxiliary"}},
            schedule={"kind": "switch", "switch_at": 0.5},
        )
        at_switch = {}

        def on_evaluate(evaluation):
            if evaluation.step == 5:
                at_switch.update(state(run))

        run = trainer(config, data_of(config), on_evaluate=on_evaluate)
        result = run.run()
        after = state(run)
        depth = [name for name in after if ".depth." in name]
        assert depth
        assert all(torch.equal(at_switch[name], after[name]) for name in depth)
        assert not all(torch.equal(at_switch[name], after[name]) for name in after if ".semseg." in name)
        assert set(result.evaluations[0].metrics) == {"semseg", "depth"}
        assert set(result.metrics) == {"semseg"}
        assert [step for step, _ in result.cost.phases] == [0, 5]

    def test_a_task_switched_off_before_the_growth_takes_no_part_in_it(self, tiny_config, data_of):
        config = with_(
            tiny_config,
            **GROWING,
            tasks={"semseg": {}, "normals": {}, "depth": {"role": "auxiliary"}},
            schedule={"kind": "switch", "switch_at": 0.2},
        )
        result = trainer(config, data_of(config)).run()
        assert result.report.tasks == ("semseg", "normals")
        grouped = {
            task for groups in result.plan.groups["modulate"].values() for group in groups for task in group
        }
        assert grouped == {"semseg", "normals"}


def test_divergence_names_step_task_and_last_good_value(tiny_config, data_of):
    config = with_(tiny_config, train__lr=1e20)
    message = r"step \d+: the loss of task '\w+' is not finite; the last"
    with pytest.raises(DivergedError, match=message) as caught:
        trainer(config, data_of(config)).run()
    assert caught.value.task in config.tasks
    assert math.isfinite(caught.value.last_good)


class TestCheckpoints:
    def test_a_broken_checkpoint_is_dropped(self, tiny_config, data_of, tmp_path, caplog):
        expected = trainer(tiny_config, data_of(tiny_config)).run()
        stop = stop_at(4)
        run = trainer(tiny_config, data_of(tiny_config), tmp_path, should_stop=stop)
        stop.trainer = run
        with pytest.raises(TrainingInterrupted):
            run.run()
        path = tmp_path / "checkpoint.pt"
        path.write_bytes(path.read_bytes()[:-2000])
        result = trainer(tiny_config, data_of(tiny_config), tmp_path).run()
        assert result.evaluations == expected.evaluations
        assert str(path) in caplog.text

    def test_a_checkpoint_of_other_work_is_refused(self, tiny_config, data_of, tmp_path):
        trainer(tiny_config, data_of(tiny_config), tmp_path).run()
        other = with_(tiny_config, train__lr=2e-3)
        with pytest.raises(TrainingError, match="belongs to other work"):
            trainer(other, data_of(other), tmp_path).run()

    def test_nothing_but_the_checkpoint_is_left_behind(self, tiny_config, data_of, tmp_path):
        trainer(tiny_config, data_of(tiny_config), tmp_path).run()
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
        torch.load(tmp_path / "checkpoint.pt", weights_only=True)
