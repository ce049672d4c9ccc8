"""Tables of a study as pandas DataFrames: one row per trial, the front, the failures, the baselines."""

from __future__ import annotations

from typing import Any

import pandas as pd
from optuna.trial import TrialState

from dtme_search.search import LoadedStudy

Frame = pd.DataFrame

_COMPACT = {"none": ".", "modulate": "M", "expand": "E", "both": "B"}

LEGEND = (
    "layers: . none, M token modulation, E token expansion, B both; one letter per layer from the input on"
)


def trials_table(study: LoadedStudy) -> pd.DataFrame:
    """One row per trial, in order.

    Columns: ``trial``, ``state``, ``delta_m_percent``, ``gain_<task>_percent``, ``param_overhead_percent``,
    ``step_cost_ratio``, ``start`` (fraction of all steps), ``layers`` (see ``LEGEND``), ``feasible``,
    ``dead_tasks``, ``seconds``, ``on_front``, ``error`` (first line).
    """
    runs = {run.trial: run for run in study.records.runs(study.name)}
    front = front_numbers(study)
    rows = []
    for trial in study.optuna.get_trials(deepcopy=False):
        run = runs.get(trial.number)
        row: dict[str, Any] = {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "on_front": trial.number in front,
            "error": next(iter(trial.user_attrs.get("error", "").splitlines()), ""),
        }
        if trial.state == TrialState.FAIL and "error" not in trial.user_attrs:
            row["state"] = "interrupted"  # stopped or killed; a later trial continues it
        if run is not None:
            row |= {
                "delta_m_percent": run.delta_m_percent,
                "param_overhead_percent": run.param_overhead_percent,
                "step_cost_ratio": run.step_cost_ratio,
                "start": _start(run.expansion_step, run.total_steps, run.operations),
                "layers": compact_layers(run.operations),
                "feasible": run.feasible,
                "dead_tasks": run.dead_tasks or "",
                "seconds": run.seconds_total,
            }
            for task, gain in trial.user_attrs.get("gains_percent", {}).items():
                row[f"gain_{task}_percent"] = gain
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.reindex(columns=_ordered(list(table.columns)))


def front_table(study: LoadedStudy) -> pd.DataFrame:
    """Feasible trials that no other feasible trial beats in every objective, best delta_m first."""
    table = trials_table(study)
    if table.empty:
        return table
    chosen = table[table["on_front"]]
    return chosen.sort_values("delta_m_percent", ascending=False).drop(columns=["on_front", "error"])


def failed_table(study: LoadedStudy) -> pd.DataFrame:
    """Trials that failed, with the first line of the reason."""
    table = trials_table(study)
    if table.empty:
        return table
    return table[table["state"] == "fail"][["trial", "state", "error"]]


def baselines_table(study: LoadedStudy) -> pd.DataFrame:
    """Single-task baselines of the database with the no-image prior beside each."""
    rows = [
        {
            "task": row.task,
            "metric": row.metric,
            "unit": row.unit,
            "baseline": row.value,
            "no_image_prior": row.prior_value,
            "steps": row.num_steps,
            "seed": row.seed,
            "split": row.split,
            "dataset": row.dataset,
            "backbone": row.backbone,
            "fingerprint": row.fingerprint,
        }
        for row in study.records.baselines()
    ]
    return pd.DataFrame(rows)


def front_numbers(study: LoadedStudy) -> set[int]:
    """Numbers of the best feasible trial (one objective) or of the feasible front (several)."""
    states = (TrialState.COMPLETE,)
    if not study.optuna.get_trials(deepcopy=False, states=states):
        return set()
    if len(study.optuna.directions) > 1:
        return {trial.number for trial in study.optuna.best_trials}
    try:
        return {study.optuna.best_trial.number}
    except ValueError:  # Optuna's word for: none is feasible
        return set()


def compact_layers(operations: str | None) -> str:
    """One letter per layer.

    Example:
        >>> compact_layers("none modulate both")
        '.MB'
    """
    return "".join(_COMPACT[operation] for operation in (operations or "").split())


def _start(step: int | None, total: int | None, operations: str | None) -> float | None:
    grown = operations is not None and set(operations.split()) != {"none"}
    return round(step / total, 4) if grown and step is not None and total else None


def _ordered(columns: list[str]) -> list[str]:
    first = ["trial", "state", "delta_m_percent"]
    gains = [name for name in columns if name.startswith("gain_")]
    rest = [
        "param_overhead_percent",
        "step_cost_ratio",
        "start",
        "layers",
        "feasible",
        "dead_tasks",
        "seconds",
        "on_front",
        "error",
    ]
    return [*first, *gains, *rest]
