"""The public names as a type checker sees them from outside, in an environment of a user."""

from __future__ import annotations

import re
import sys

import pytest

import dtme_search

CLIENT = '''
"""What a user writes, every public name with its types said."""

from collections.abc import Mapping
from pathlib import Path

import torch

import dtme_search
from dtme_search import (
    Callback,
    ConflictReport,
    DtmeSearchError,
    ExpansionPlan,
    MultiTaskViT,
    RunConfig,
    StudyConfig,
    TokenSpace,
    Trainer,
    conflict_rates,
    delta_m,
    export_best,
    load_study,
    measure_conflicts,
    optimize,
    plan_expansion,
    split_token_space,
)
from dtme_search.tasks import TaskSpec, depth, semseg
from dtme_search.search import EvaluationInfo, TrialInfo


class Curves(Callback):
    def on_evaluation(self, trial: TrialInfo, evaluation: EvaluationInfo) -> None:
        number: int = trial.number
        metrics: Mapping[str, float] = evaluation.metrics
        print(number, metrics)


def search(file: Path) -> float:
    study = StudyConfig(name="mine", config="demo", trials=1, search={})
    try:
        optimize(study, workdir="runs", device="cpu", callbacks=[Curves()])
        optimize(file, trials=2)
    except DtmeSearchError as error:
        print(str(error))
    return float(load_study("mine", workdir=Path("runs")).results().shape[0])


def grow(model: MultiTaskViT, config: RunConfig, report: ConflictReport) -> list[torch.nn.Parameter]:
    plan: ExpansionPlan = plan_expansion(report, config.expansion, ("depth",), num_layers=3, seed=0)
    outputs: dict[str, torch.Tensor] = model(torch.zeros(1, 3, 32, 48))
    print(outputs)
    return model.grow(plan, token_std=0.02, seed=config.seed)


specs: tuple[TaskSpec, ...] = (depth(), semseg(("wall", "floor")))
gain: float = delta_m({"depth": 1.0, "semseg": 50.0}, {"depth": 1.1, "semseg": 49.0}, specs)
version: str = dtme_search.__version__
parts = (TokenSpace, Trainer, conflict_rates, export_best, measure_conflicts, split_token_space)
'''

WRONG = {
    "optimize(3.5)": "arg-type",
    "optimize('demo', wrokdir='runs')": "call-arg",
    "delta_m({'depth': 'low'}, {}, [])": "dict-item",
    "ExpansionPlan(tasks=('a',), num_layers='3', groups={})": "arg-type",
    "RunConfig.model_validate({}).train.num_stepz": "attr-defined",
    "StudyConfig(name='mine', config='demo', trials='many', search={})": "arg-type",
    "load_study('demo').plan('two')": "arg-type",
    "dtme_search.optimise('demo')": "attr-defined",
    **{
        f"from dtme_search.{package} import nonsense": "attr-defined"
        for package in ("data", "reporting", "search", "token_space", "training")
    },
}
"""Wrong use -> the rule of mypy that refuses it."""


@pytest.mark.slow
def test_a_type_checker_takes_what_is_right_and_refuses_what_is_wrong(installed, tmp_path):
    lines = [*CLIENT.splitlines(), *WRONG]
    (tmp_path / "client.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = installed.call(
        sys.executable, "-m", "mypy", "--strict", "--python-executable", installed.python,
        "--config-file=", "--no-incremental", "--no-error-summary", "client.py", cwd=tmp_path,
    )  # fmt: skip
    assert done.stderr == ""
    found = re.findall(r"^client\.py:(\d+): error: .* \[([\w-]+)\]$", done.stdout, re.MULTILINE)
    refused = {lines[int(number) - 1]: rule for number, rule in found}
    assert refused == WRONG, done.stdout
    missing = [name for name in dtme_search.__all__ if not re.search(rf"\b{name}\b", CLIENT)]
    assert missing == []
