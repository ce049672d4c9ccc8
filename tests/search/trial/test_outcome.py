"""What a run is worth: hand-worked gains, limits and doubts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dtme_search.config import StudyConfig
from dtme_search.errors import BaselineError
from dtme_search.models import BackboneInfo
from dtme_search.search import BaselineRow
from dtme_search.search.trial.outcome import judge
from dtme_search.tasks import depth, semseg
from dtme_search.token_space import ExpansionPlan
from dtme_search.training import Evaluation, RunResult
from dtme_search.training.result import StepCost

SPECS = {"semseg": semseg(("wall", "floor")), "depth": depth()}
BACKBONE = BackboneInfo(
    num_layers=4,
    embed_dim=10,
    num_heads=2,
    num_parameters=1000,
    num_prefix_tokens=1,
    patch_size=8,
    grid=(4, 6),
)
ALONE = (("semseg",), ("depth",))
PLAN = ExpansionPlan(
    tuple(SPECS),
    4,
    {"modulate": {1: ALONE}, "expand": {1: (("semseg", "depth"),), 3: ALONE}},
    {"num_task_tokens": 2},
)
"""2 x 20 for the modulation, 20 for the shared pair of tokens, 2 x 20 for one pair each: 100 parameters."""


def baseline(task: str, value: float, prior: float) -> BaselineRow:
    spec = SPECS[task]
    return BaselineRow(
        fingerprint=task, task=task, metric=spec.metric, unit=spec.unit, value=value, prior_value=prior,
        higher_is_better=spec.higher_is_better, dataset="d", data_fingerprint="f", backbone="b",
        split="holdout", seed=0, num_steps=1, num_images=1, seconds=1.0, seconds_per_step=1.0, config="{}",
        code_version="0", created_at=datetime.now(UTC),
    )  # fmt: skip


def run(semseg: float, depth: float) -> RunResult:
    return RunResult(
        evaluations=(
            Evaluation(50, {"semseg": 0.0, "depth": 9.0}, {}),
            Evaluation(100, {"semseg": semseg, "depth": depth}, {}),
        ),
        plan=PLAN,
        report=None,
        total_steps=100,
        steps_reused=0,
        seconds={"train": 1.0},
        seconds_saved=0.0,
        cost=StepCost(((0, 1.0), (50, 3.0))),
        peak_memory_mb=1.0,
        precision="float32",
    )


def study(**limits: float) -> StudyConfig:
    objectives = {"step_cost_ratio": "minimize", "delta_m_percent": "maximize"}
    search = {"train.lr": {"low": 0.1, "high": 0.2}}
    return StudyConfig(name="s", config="demo", objectives=objectives, limits=limits, search=search)


BASELINES = {"semseg": baseline("semseg", 0.40, 0.20), "depth": baseline("depth", 0.50, 1.00)}


def test_gains_overhead_and_cost_by_hand():
    outcome = judge(run(0.44, 0.60), BASELINES, SPECS, BACKBONE, study())
    assert outcome.gains_percent == pytest.approx({"semseg": 10.0, "depth": -20.0})
    assert outcome.delta_m_percent == pytest.approx(-5.0)
    assert outcome.param_overhead_percent == pytest.approx(10.0)
    assert outcome.step_cost_ratio == pytest.approx(2.0)
    assert outcome.metrics == {"semseg": 0.44, "depth": 0.60}
    assert outcome.values(study()) == (outcome.step_cost_ratio, outcome.delta_m_percent)
    assert outcome.violations == {} and outcome.feasible and outcome.dead_tasks == ()


def test_only_primary_tasks_count():
    outcome = judge(run(0.44, 0.99), {"semseg": BASELINES["semseg"]}, SPECS, BACKBONE, study())
    assert outcome.delta_m_percent == pytest.approx(10.0) and outcome.dead_tasks == ()


def test_a_limit_is_kept_when_it_is_just_reached():
    limits = {"param_overhead_percent": 10.0, "step_cost_ratio": 1.5, "delta_m_percent": 0.0}
    outcome = judge(run(0.44, 0.60), BASELINES, SPECS, BACKBONE, study(**limits))
    assert outcome.violations == pytest.approx(
        {"param_overhead_percent": 0.0, "step_cost_ratio": 0.5, "delta_m_percent": -5.0}
    )
    assert not outcome.feasible
    assert judge(run(0.44, 0.60), BASELINES, SPECS, BACKBONE, study(param_overhead_percent=10.0)).feasible


@pytest.mark.parametrize(
    ("metrics", "priors", "dead"),
    [
        ((0.44, 0.60), (0.20, 1.00), ()),
        ((0.21, 0.60), (0.20, 1.00), ("semseg",)),  # the result hardly beats the prior
        ((0.44, 0.95), (0.20, 1.00), ("depth",)),
        ((0.44, 0.30), (0.20, 0.52), ("depth",)),  # the baseline hardly does, whatever the result
        ((0.21, 0.95), (0.20, 1.00), ("semseg", "depth")),
    ],
)
def test_a_task_is_dead_when_baseline_or_result_is_no_better_than_not_looking(metrics, priors, dead):
    baselines = {
        "semseg": baseline("semseg", 0.40, priors[0]),
        "depth": baseline("depth", 0.50, priors[1]),
    }
    assert judge(run(*metrics), baselines, SPECS, BACKBONE, study()).dead_tasks == dead


def test_a_baseline_of_zero_is_an_error_that_names_the_task():
    with pytest.raises(BaselineError, match="'semseg' must be finite and not zero"):
        judge(run(0.4, 0.5), BASELINES | {"semseg": baseline("semseg", 0.0, 0.0)}, SPECS, BACKBONE, study())
