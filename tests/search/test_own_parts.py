"""Parts of the user's in a study: searched, planned with, and named where a trial fails by one."""

import re

import pytest
from own_parts import write_parts
from tiny import write_tiny_study

from dtme_search.errors import TrainingError
from dtme_search.search import load_study, optimize

CHANGES = {
    "tasks": {"semseg": {}, "depth": {}, "normals": {"role": "auxiliary"}},
    "expansion.policy": "per_layer",
    "expansion.layers": ["none", "none", "none"],
    "schedule.kind": "ramp",
}
SEARCH = {
    "expansion.layers.*": {"choices": ["none", "shift", "modulate+shift"]},
    "expansion.operation_options.shift.size": {"choices": [1.0, 2.0]},
    "schedule.options.ramp.size": {"low": 0.5, "high": 1.0},
}


def found(tmp_path, file, **study):
    path = write_tiny_study(tmp_path, CHANGES, plugins=[file], search=SEARCH, **study)
    optimize(path, workdir=tmp_path, device="cpu")
    return load_study(path, workdir=tmp_path)


@pytest.mark.slow
def test_operations_and_schedules_are_searched_and_priced(tmp_path):
    study = found(tmp_path, write_parts(tmp_path), sampler={"name": "plan"}, trials=2)
    for trial in study.optuna.trials:
        row = study.records.runs(study.name, trial.number)[0]
        layers = [trial.params[f"expansion.layers.{index}"] for index in range(3)]
        assert trial.state.name == "COMPLETE" and row.operations.split() == layers
        groups = [sum(name in layer for layer in layers) for name in ("shift", "modulate")]
        grows = 2 * (24 * groups[0] + 48 * groups[1]) > 0
        assert (row.param_overhead_percent > 0) == grows


@pytest.mark.slow
def test_a_mistake_fails_the_trial_with_part_method_and_rule(tmp_path):
    wrong = ("return tokens + vectors[groups][:, None, None]", "return tokens[:, :, 1:]")
    search = {"expansion.layers.*": {"choices": ["shift", "modulate+shift"]}}
    file = write_parts(tmp_path, wrong)
    path = write_tiny_study(tmp_path, CHANGES, plugins=[file], search=search, trials=1)
    told = r"BrokenRule: operation 'shift' of own_parts\.py: enter must give tokens of shape .*, got "
    with pytest.raises(TrainingError, match=f"trials in a row failed with the same cause, .* {told}"):
        optimize(path, workdir=tmp_path, device="cpu")
    trials = load_study(path, workdir=tmp_path).optuna.trials
    assert {trial.state.name for trial in trials} == {"FAIL"}
    assert all(re.match(told, trial.user_attrs["error"]) for trial in trials)
