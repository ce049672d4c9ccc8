"""Ten kinds of studies whose rows are written and not trained, in seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from tiny import SEARCH, TINY, grown

from dtme_search.config import StudyConfig, run_fingerprint
from dtme_search.search import LoadedStudy, optimize, read_study
from dtme_search.search.storage.rows import BaselineRow, ConflictRow, EvaluationRow, RunRow
from dtme_search.search.study.preparation import space_of
from dtme_search.search.trial.result import Result

UNITS = {"semseg": ("miou", "fraction"), "depth": ("rmse", "m"), "normals": ("mean_angle", "deg")}
BASE = {"semseg": 0.5, "depth": 1.0, "normals": 30.0}
TIME = datetime(2026, 11, 28, tzinfo=UTC)
BOTH = {"semseg": {}, "depth": {}}
AUXILIARY = {"semseg": {}, "depth": {"role": "auxiliary"}}


@dataclass(frozen=True)
class Trial:
    """What is written of a trial: its point, primary task -> gain, how it ended."""

    params: Mapping[str, Any]
    gains: Mapping[str, float]
    state: str = "complete"
    layers: str = "none none none"
    cost: float = 1.0
    overhead: float = 0.0
    dead: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of study: its tasks, what it searches, its trials, changes of study and base config."""

    tasks: Mapping[str, Any]
    search: Mapping[str, Any]
    trials: tuple[Trial, ...]
    fields: Mapping[str, Any]
    base: Mapping[str, Any]


def kind(tasks: Any, search: Any, *trials: Trial, base: Any = None, **fields: Any) -> Kind:
    return Kind(tasks, search, trials, fields, base or {})


def gains(semseg: float, depth: float | None = None) -> dict[str, float]:
    return {"semseg": semseg} | ({} if depth is None else {"depth": depth})


def grew(layers: tuple[str, ...], of: Mapping[str, float], cost: float) -> Trial:
    overhead = 0.5 * sum(2 if layer == "both" else 1 for layer in layers if layer != "none")
    return Trial(grown(*layers), of, layers=" ".join(layers), cost=cost, overhead=overhead)


NONE = {"expansion.policy": "none"}
KINDS = {
    "expansion": kind(
        BOTH,
        SEARCH,
        Trial(NONE, gains(-2.0, 1.0)),
        grew(("both", "none", "none"), gains(3.0, 2.0), 1.4),
        grew(("none", "none", "expand"), gains(-1.0, -4.0), 1.1),
    ),
    "schedule": kind(
        AUXILIARY,
        {"schedule.kind": {"choices": ["constant", "switch", "diminish"]}},
        *(
            Trial({"schedule.kind": name}, gains(gain))
            for name, gain in [("constant", -1.5), ("switch", 2.5), ("diminish", 0.5)]
        ),
    ),
    "combine": kind(
        BOTH,
        {"train.combine.kind": {"choices": ["sum", "pcgrad"]}},
        Trial({"train.combine.kind": "sum"}, gains(-1.0, -2.0)),
        Trial({"train.combine.kind": "pcgrad"}, gains(4.0, -1.0), cost=1.9),
    ),
    "decoder": kind(
        BOTH,
        {"model.decoder": {"choices": ["simple", "dpt"]}},
        Trial({"model.decoder": "simple"}, gains(1.0, 1.0)),
        Trial({"model.decoder": "dpt"}, gains(2.0, 6.0)),
    ),
    "weights": kind(
        BOTH,
        {"tasks.depth.weight": {"low": 0.1, "high": 4.0, "log": True}},
        *(Trial({"tasks.depth.weight": 0.25 * (each + 1)}, gains(-each, each / 2)) for each in range(8)),
    ),
    "rates": kind(
        BOTH,
        {"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
        Trial({"train.lr": 1e-3}, gains(-1.0, 0.5)),
        Trial({"train.lr": 2e-3}, gains(0.5, 1.5)),
        baselines={"tune": 2},
    ),
    "one-task": kind(
        {"semseg": {}},
        {"train.num_steps": {"choices": [10, 20]}},
        Trial({"train.num_steps": 10}, gains(0.0)),
        Trial({"train.num_steps": 20}, gains(0.0)),
    ),
    "auxiliary": kind(
        AUXILIARY,
        {"tasks.depth.role": {"choices": ["auxiliary", "absent"]}},
        Trial({"tasks.depth.role": "auxiliary"}, gains(-3.0)),
        Trial({"tasks.depth.role": "absent"}, gains(0.0)),
    ),
    "seeds": kind(
        BOTH,
        SEARCH,
        Trial(NONE, gains(0.0, 0.0)),
        grew(("both", "none", "none"), gains(2.0, 2.0), 1.3),
        grew(("none", "both", "none"), gains(1.0, 2.0), 1.2),
        grew(("none", "none", "both"), gains(3.0, 1.0), 1.1),
        seeds=2,
        sampler={"name": "plan"},
    ),
    "failed": kind(
        BOTH,
        SEARCH,
        Trial(NONE, {}, state="failed"),
        Trial(grown("both", "none", "none"), {}, state="failed"),
    ),
}


def make(name: str, folder: Path) -> LoadedStudy:
    """A study of a kind, with the rows that its workers would have written."""
    of = KINDS[name]
    values = {
        "name": name,
        "config": {**TINY, "tasks": dict(of.tasks), **of.base},
        "search": dict(of.search),
        "enqueue": [],
        "trials": len(of.trials),
        **of.fields,
    }
    study = StudyConfig.model_validate(values)
    # The time is up before anything is trained.
    loaded = optimize(study, workdir=folder, device="cpu", timeout=0.0)
    space = space_of(*read_study(study))
    loaded.optuna.sampler = optuna.samplers.RandomSampler()
    for task in of.tasks:
        if dict(of.tasks[task]).get("role") != "auxiliary":
            loaded.records.save_baseline(_baseline(task))
    for planned in of.trials:
        _write(loaded, space, planned)
    return loaded


def _baseline(task: str) -> BaselineRow:
    metric, unit = UNITS[task]
    return BaselineRow(
        fingerprint=f"base-{task}", task=task, metric=metric, unit=unit, value=BASE[task],
        prior_value=BASE[task] * (0.2 if task == "semseg" else 2.0), higher_is_better=task == "semseg",
        dataset="scenes", data_fingerprint="d", backbone="vit_tiny_patch16_224", split="holdout", seed=0,
        num_steps=10, num_images=20, seconds=1.0, seconds_per_step=0.1, config=json.dumps({}),
        code_version="0", created_at=TIME,
    )  # fmt: skip


def _write(loaded: LoadedStudy, space: Any, planned: Trial) -> None:
    loaded.optuna.enqueue_trial(dict(planned.params))
    trial = loaded.optuna.ask()
    config = space.suggest(trial)
    row = RunRow(
        study=loaded.name, trial=trial.number, state=planned.state, fingerprint=f"f{trial.number}",
        config=config.model_dump_json(), seed=config.seed, split="holdout", total_steps=config.total_steps,
        expansion_step=config.expansion_step, device="cpu", seconds_total=90.0, code_version="0",
        baselines=json.dumps({task: f"base-{task}" for task in config.primary_tasks}),
        unexpanded_fingerprint=run_fingerprint(config.unexpanded(), "data", config.seed),
    )  # fmt: skip
    if planned.state == "failed":
        trial.set_user_attr("error", "DivergedError: loss of depth is nan")
        loaded.records.save_run(row)
        loaded.optuna.tell(trial, state=TrialState.FAIL)
        return
    delta_m = sum(planned.gains.values()) / len(planned.gains)
    for step in (config.total_steps // 2, config.total_steps):
        rows = [_evaluation(task, planned.gains.get(task)) for task in config.tasks]
        loaded.records.save_evaluation(loaded.name, trial.number, step, rows)
    if set(planned.layers.split()) != {"none"} and len(config.tasks) > 1:
        rates = [
            ConflictRow(layer=layer, task_a="semseg", task_b="depth", range_rate=0.1 * layer, null_rate=0.3)
            for layer in range(3)
        ]
        loaded.records.save_conflicts(loaded.name, trial.number, rates)
    facts = {
        "delta_m_percent": delta_m,
        "param_overhead_percent": planned.overhead,
        "step_cost_ratio": planned.cost,
        "step_flops_ratio": planned.cost,
        "feasible": True,
        "dead_tasks": planned.dead,
        "operations": planned.layers,
        "steps_trained": config.total_steps,
        "steps_reused": 0,
        "finished_at": TIME,
    }
    row = RunRow(**{**row.__dict__, **facts})
    values = tuple(facts[name] for name in loaded.config.objectives)
    attributes = {"gains_percent": dict(planned.gains), "feasible": True, "dead_tasks": []}
    Result(row, attributes, {}, values).write_down(trial, loaded.records)
    loaded.optuna.tell(trial, values)


def _evaluation(task: str, gain: float | None) -> EvaluationRow:
    metric, unit = UNITS[task]
    sign = 1 if task == "semseg" else -1
    value = BASE[task] * (1 + sign * (gain or 0.0) / 100)
    return EvaluationRow(task=task, metric=metric, value=value, gain_percent=gain, loss=0.5, unit=unit)
