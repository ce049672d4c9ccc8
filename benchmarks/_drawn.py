"""A large study whose numbers are drawn instead of trained: what 10,000 trials leave behind, in a minute.

The search is that of `nyud`; the network has as many layers and is tiny, on built-in scenes, so that the
study can be worked on by whoever has no data. Trials are written straight into Optuna's tables and ours, a
thousand at a time: `Study.add_trial` takes 50 ms for each.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import insert
from sqlalchemy.orm import Session

from dtme_search.config import RunConfig, Scalar, load_study_config
from dtme_search.search import Listener
from dtme_search.search.space.known_points import enqueued_point
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.storage.rows import (
    BaselineRow,
    ConflictRow,
    EvaluationRow,
    PlanRow,
    RungRow,
    RunRow,
    TrunkRow,
)
from dtme_search.search.storage.tables import (
    CONFLICTS,
    EVALUATIONS,
    PLANS,
    RUNGS,
    RUNS,
    TRUNKS,
)
from dtme_search.search.study.preparation import Prepared, prepare
from dtme_search.search.study.settings import Settings
from dtme_search.training.identity import RunContext, result_fingerprint
from dtme_search.training.team.leader import Team

NAME = "drawn"
TASKS = {"semseg": "mIoU", "depth": "RMSE", "normals": "mean angle error", "edge": "maxF"}
OPERATIONS = {"none": 0, "modulate": 2, "expand": 1, "both": 3}
"""Operation of a layer -> what it adds, in streams."""
LAYERS = 12
NUM_EVALUATIONS = 6
STEPS = 12
AT_ONCE = 1000
CONFIG: dict[str, Any] = {
    "data": {
        "name": "scenes",
        "image_size": [32, 48],
        "scenes": {"num_train": 24, "num_test": 4},
    },
    "model": {
        "backbone": "vit_tiny_patch16_224",
        "backbone_options": {"patch_size": 8, "embed_dim": 24, "depth": LAYERS, "num_heads": 2},
    },
    "expansion": {"policy": "none", "num_images": 6, "analysis_batch_size": 3},
    "train": {
        "num_steps": STEPS,
        "batch_size": 4,
        "optimizer": "adamw",
        "lr": 1e-3,
        "num_evaluations": NUM_EVALUATIONS,
        "eval_batch_size": 4,
    },
}
_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Drawn:
    """One trial, as Optuna has it and as we do."""

    trial: FrozenTrial
    run: RunRow
    evaluations: Sequence[tuple[int, EvaluationRow]]
    rungs: Sequence[RungRow]
    conflicts: Sequence[ConflictRow] = ()
    plan: Sequence[PlanRow] = ()
    trunk: TrunkRow | None = None


def write_definition(folder: Path, *, config: dict[str, Any] | None = None, **fields: Any) -> Path:
    """Write the study as a user would; gives its YAML."""
    nyud = load_study_config("nyud").model_dump(mode="json", exclude_defaults=True)
    # Trials that pretend to train have no network to keep.
    ours = {"name": NAME, "pruner": {"name": "pareto"}, "keep_weights": "none"}
    values = nyud | ours | fields | {"config": config or CONFIG}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{values['name']}.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return file


def draw_study(workdir: Path, num_trials: int, *, storage: str | None = None, **fields: Any) -> Prepared:
    """Make a study of so many finished trials."""
    # Points that are to be tried first would be there before the trials that are drawn.
    empty = write_definition(workdir, enqueue=[], **fields)
    device = torch.device("cpu")
    prepared = prepare(str(empty), Settings(storage=storage, workdir=workdir), Team([device]), Listener())
    write_definition(workdir, **fields)
    save_baselines(prepared)
    insert_trials(prepared, draw_trials(prepared.space, num_trials))
    return prepared


def save_baselines(prepared: Prepared) -> None:
    """The baselines that workers of the study look for, so that they train none."""
    for task, metric in TASKS.items():
        single = prepared.base.for_single_task(task)
        data = prepared.shelf.get(single)
        spec = data.specs[task]
        row = BaselineRow(
            fingerprint=result_fingerprint(single, data.fingerprint, RunContext.of(single, data.device)),
            task=task,
            metric=metric,
            unit=spec.unit,
            value=0.5,
            prior_value=0.1 if spec.higher_is_better else 1.2,
            higher_is_better=spec.higher_is_better,
            dataset="scenes",
            data_fingerprint=data.fingerprint,
            backbone=single.model.backbone,
            split="holdout",
            seed=single.seed,
            num_steps=STEPS,
            num_images=24,
            seconds=60.0,
            seconds_per_step=5.0,
            config="{}",
            code_version="0",
            created_at=_START,
        )
        prepared.records.save_baseline(row)


def draw_trials(space: SearchSpace, count: int, seed: int = 0) -> Iterator[Drawn]:
    """Trials of a space, the two known points first. Growth helps a little, noise is of the same size."""
    artist = _Artist(space, random.Random(seed))
    points = [enqueued_point(space, name) for name in ("unexpanded", "paper")]
    for number in range(count):
        yield artist.trial(number, points[number] if number < len(points) else None)


@dataclass
class _Artist:
    space: SearchSpace
    dice: random.Random
    trained: list[Drawn] = field(default_factory=list)

    def trial(self, number: int, point: dict[str, Any] | None) -> Drawn:
        params = self._params() if point is None else point
        config = self.space.config(params, f"trial {number}")
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        state = TrialState.COMPLETE if point else self.dice.choices(states, weights=(76, 18, 6))[0]
        origin = None
        if state == TrialState.COMPLETE and len(self.trained) > 10 and self.dice.random() < 0.1:
            origin = self.dice.choice(self.trained)
        drawn = self._drawn(number, config, params, state, origin, is_enqueued=point is not None)
        if state == TrialState.COMPLETE and origin is None:
            self.trained.append(drawn)
        return drawn

    def _params(self) -> dict[str, Scalar]:
        params: dict[str, Scalar] = {}
        for parameter in self.space.parameters:
            if parameter.unmet(params) is None:
                ranged = parameter.distribution
                if isinstance(ranged, CategoricalDistribution):
                    params[parameter.path] = self.dice.choice(ranged.choices)
                else:
                    params[parameter.path] = parameter.nearest([self.dice.uniform(ranged.low, ranged.high)])
        return params

    def _drawn(
        self,
        number: int,
        config: RunConfig,
        params: dict[str, Scalar],
        state: TrialState,
        origin: Drawn | None,
        *,
        is_enqueued: bool,
    ) -> Drawn:
        dice = self.dice
        operations = self._operations(config) if origin is None else str(origin.run.operations).split()
        added = sum(OPERATIONS[name] for name in operations)
        overhead, cost = 0.053 * added, 1 + 0.02 * added
        gains = {task: dice.gauss(-2 + 0.05 * added, 1.5) for task in TASKS}
        if origin is not None:
            gains = dict(origin.trial.user_attrs["gains_percent"])
        delta_m = sum(gains.values()) / len(gains)
        num_rungs = NUM_EVALUATIONS if state == TrialState.COMPLETE else dice.randint(1, NUM_EVALUATIONS - 1)
        steps = [STEPS * (rung + 1) // NUM_EVALUATIONS for rung in range(num_rungs)]
        began = _START + timedelta(minutes=number)
        ended = began + timedelta(minutes=1)
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
        finished = state != TrialState.FAIL
        reason = "outside the best half at evaluation 2 of 6: drawn" if state == TrialState.PRUNED else None
        run = RunRow(
            study=self.space.study_name,
            trial=number,
            state=names[state.name],
            fingerprint=f"{number:016x}",
            resolved_fingerprint=f"{number if origin is None else origin.trial.number:016x}",
            config=config.model_dump_json(),
            operations=" ".join(operations),
            delta_m_percent=delta_m,
            param_overhead_percent=overhead,
            step_cost_ratio=cost,
            feasible=overhead <= 1.0 if state == TrialState.COMPLETE else None,
            dead_tasks="",
            expansion_step=config.expansion_step,
            total_steps=STEPS,
            steps_trained=0 if origin is not None else steps[-1],
            steps_reused=0 if origin is None else STEPS,
            origin_trial=None if origin is None else origin.trial.number,
            seconds_saved=0.0,
            seconds_total=60.0,
            seconds_train=50.0,
            seconds_evaluate=8.0,
            seconds_measure=1.0,
            seconds_checkpoint=0.5,
            seconds_overhead=0.5,
            peak_memory_mb=900.0,
            device="cpu",
            precision="float32",
            seed=0,
            split="holdout",
            torch_version="2",
            timm_version="1",
            optuna_version="5",
            python_version="3",
            code_version="0",
            started_at=began,
            finished_at=ended,
            reason=reason if origin is None else f"trains the same as trial {origin.trial.number}",
            error=None if finished else "Traceback (most recent call last)\nOutOfMemoryError: drawn",
        )
        attrs: dict[str, Any] = {"fingerprint": run.fingerprint, "plan": run.operations}
        if state == TrialState.COMPLETE:
            attrs |= {
                "gains_percent": {task: round(gain, 4) for task, gain in gains.items()},
                "step_cost_ratio": round(cost, 4),
                "feasible": overhead <= 1.0,
                "dead_tasks": [],
            }
        if reason is not None:
            attrs["pruned"] = reason
        if origin is not None:
            attrs["origin_trial"] = origin.trial.number
        if not finished:
            attrs["error"] = "OutOfMemoryError: drawn"
        measured = config.expansion.needs_conflicts and origin is None
        trial = create_trial(
            state=state,
            params=params,
            distributions={name: self.space.distributions()[name] for name in params},
            values=[delta_m, overhead] if state == TrialState.COMPLETE else None,
            user_attrs=attrs,
            system_attrs=self._system_attrs(number, params, state, measured, is_enqueued),
            constraints={"param_overhead_percent": overhead - 1.0} if finished else None,
        )
        trial.number = number
        # Optuna's times have no zone and are those of this machine.
        trial.datetime_start, trial.datetime_complete = (
            when.astimezone().replace(tzinfo=None) for when in (began, ended)
        )
        return Drawn(
            trial,
            run,
            [(step, row) for step in steps for row in _evaluations(gains, 20 * (1 - step / STEPS))],
            [
                RungRow(
                    trial=number,
                    rung=rung,
                    step=step,
                    delta_m_percent=delta_m - 20 * (1 - step / STEPS) + dice.gauss(0, 0.5),
                    param_overhead_percent=overhead,
                    step_cost_ratio=cost,
                )
                for rung, step in enumerate(steps)
                if origin is None
            ],
            self._conflicts() if measured else (),
            _plan(operations),
            self._trunk(number, ended) if number % 20 == 0 else None,
        )

    def _operations(self, config: RunConfig) -> list[str]:
        match config.expansion.policy:
            case "per_layer":
                return list(config.expansion.layers)
            case "conflict":
                return self.dice.choices(list(OPERATIONS), weights=(6, 2, 2, 1), k=LAYERS)
            case _:
                return ["none"] * LAYERS

    def _system_attrs(
        self,
        number: int,
        params: dict[str, Scalar],
        state: TrialState,
        measured: bool,
        is_enqueued: bool,
    ) -> dict[str, Any]:
        attrs: dict[str, Any] = {"fixed_params": params} if is_enqueued else {}
        if number >= 10 and not is_enqueued:
            attrs["tpe:relative_params:0"] = json.dumps(params)
        files = ["resolved.yaml", "plan.txt", "curves.csv"] if state == TrialState.COMPLETE else []
        for index, name in enumerate([*files, *(("conflicts.json", "conflicts.png") if measured else ())]):
            key = f"{number:08x}-0000-4000-8000-{index:012x}"
            meta = {"artifact_id": key, "filename": name, "mimetype": "text/plain", "encoding": None}
            attrs[f"artifacts:{key}"] = json.dumps(meta)
        return attrs

    def _conflicts(self) -> list[ConflictRow]:
        tasks = list(TASKS)
        return [
            ConflictRow(
                layer=layer,
                task_a=a,
                task_b=b,
                range_rate=self.dice.gauss(0.4 + 0.005 * layer, 0.01),
                null_rate=self.dice.gauss(0.45, 0.01),
                range_se=0.003,
                null_se=0.003,
            )
            for layer in range(LAYERS)
            for index, a in enumerate(tasks)
            for b in tasks[index + 1 :]
        ]

    def _trunk(self, number: int, when: datetime) -> TrunkRow:
        return TrunkRow(
            fingerprint=f"{number:016x}", trial=number, from_step=0, to_step=6, seconds=20.0, created_at=when
        )


def _evaluations(gains: dict[str, float], behind: float) -> list[EvaluationRow]:
    return [
        EvaluationRow(
            task=task,
            metric=TASKS[task],
            value=0.5 * (1 + gain / 100),
            gain_percent=gain - behind,
            loss=1.0,
        )
        for task, gain in gains.items()
    ]


def _plan(operations: Sequence[str]) -> list[PlanRow]:
    parts = {"none": (), "modulate": ("modulate",), "expand": ("expand",), "both": ("expand", "modulate")}
    return [
        PlanRow(layer=layer, operation=part, group_index=index, tasks=tasks)
        for layer, operation in enumerate(operations)
        for part in parts[operation]
        for index, tasks in enumerate(("semseg,edge", "depth,normals"))
    ]


def insert_trials(prepared: Prepared, drawn: Iterator[Drawn]) -> None:
    """Write trials that have ended, as Optuna and the trials themselves would have."""
    known: dict[str, str] = {}
    batch: list[Drawn] = []
    for one in drawn:
        batch.append(one)
        if len(batch) == AT_ONCE:
            _insert(prepared, batch, known)
            batch = []
    if batch:
        _insert(prepared, batch, known)


def _insert(prepared: Prepared, batch: Sequence[Drawn], known: dict[str, str]) -> None:
    study, study_id = prepared.config.name, prepared.optuna._study_id
    rows = [
        {
            "number": one.trial.number,
            "study_id": study_id,
            "state": one.trial.state,
            "_datetime_start_utc": _in_utc(one.trial.datetime_start),
            "_datetime_complete_utc": _in_utc(one.trial.datetime_complete),
        }
        for one in batch
    ]
    with Session(prepared.records.engine) as session, session.begin():
        new = insert(models.TrialModel).returning(models.TrialModel.trial_id, sort_by_parameter_order=True)
        ids = list(session.scalars(new, rows))
        pairs = [(key, one.trial) for key, one in zip(ids, batch, strict=True)]
        tables: dict[Any, list[dict[str, Any]]] = {
            models.TrialParamModel: [
                {
                    "trial_id": key,
                    "param_name": name,
                    "param_value": trial.distributions[name].to_internal_repr(value),
                    "distribution_json": _as_json(name, trial.distributions[name], known),
                }
                for key, trial in pairs
                for name, value in trial.params.items()
            ],
            models.TrialValueModel: [
                {
                    "trial_id": key,
                    "objective": objective,
                    "value": value,
                    "value_type": models.TrialValueModel.TrialValueType.FINITE,
                }
                for key, trial in pairs
                for objective, value in enumerate(trial.values or ())
            ],
            models.TrialUserAttributeModel: [
                {"trial_id": key, "key": name, "value_json": json.dumps(value)}
                for key, trial in pairs
                for name, value in trial.user_attrs.items()
            ],
            models.TrialSystemAttributeModel: [
                {"trial_id": key, "key": name, "value_json": json.dumps(value)}
                for key, trial in pairs
                for name, value in trial.system_attrs.items()
            ],
            models.TrialHeartbeatModel: [
                {"trial_id": key, "heartbeat": _in_utc(trial.datetime_complete)} for key, trial in pairs
            ],
            RUNS: [vars(one.run) for one in batch],
            EVALUATIONS: [
                {"study": study, "trial": one.trial.number, "step": step, **vars(row)}
                for one in batch
                for step, row in one.evaluations
            ],
            RUNGS: [{"study": study, **vars(row)} for one in batch for row in one.rungs],
            CONFLICTS: _placed(study, [(one, row) for one in batch for row in one.conflicts]),
            PLANS: _placed(study, [(one, row) for one in batch for row in one.plan]),
            TRUNKS: [{"study": study, **vars(one.trunk)} for one in batch if one.trunk],
        }
        for table, values in tables.items():
            if values:
                session.execute(insert(table), values)


def _in_utc(when: datetime | None) -> datetime | None:
    return None if when is None else when.astimezone(UTC).replace(tzinfo=None)


def _placed(study: str, rows: Sequence[tuple[Drawn, Any]]) -> list[dict[str, Any]]:
    return [{"study": study, "trial": one.trial.number, **vars(row)} for one, row in rows]


def _as_json(name: str, distribution: BaseDistribution, known: dict[str, str]) -> str:
    if name not in known:
        known[name] = distribution_to_json(distribution)
    return known[name]
