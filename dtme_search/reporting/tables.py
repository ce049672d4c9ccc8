"""Tables of a study as pandas DataFrames: one row per trial, the front, the failures, the baselines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import pandas as pd
from optuna.trial import TrialState

from dtme_search.config import RunConfig
from dtme_search.config.measures import INFERENCE, is_result
from dtme_search.operations import legend, letter_of
from dtme_search.reporting.measures import baselines_of_trials, last_evaluations, measured
from dtme_search.search import (
    Confirmed,
    LoadedStudy,
    RunRow,
    confirmations,
    expectations,
    front_numbers,
    own_trials,
)
from dtme_search.search.study.states import trial_states
from dtme_search.words import COUNTS

Frame = pd.DataFrame


def trials_table(study: LoadedStudy) -> pd.DataFrame:
    """One row per trial of the study itself, in order; for an interrupted trial, its last attempt.

    Columns: ``trial``, ``state``, ``delta_m_percent``, ``gain_<task>_percent``, ``delta_m_mean``,
    ``delta_m_std`` and ``num_seeds`` (in percent, over the further seeds of ``confirm`` only, because the
    search chose by its own seed; NaN where unconfirmed), ``paired_gain_percent`` (delta_m less that of
    ``paired_trial``, the unexpanded trial of the same seed), with several ``seeds`` ``expected_delta_m`` and
    ``expected_std`` (of the plan over seeds), ``param_overhead_percent``, ``step_cost_ratio``, further
    measures that the study names (``latency_ms``, ``metric.semseg``, ...),
    ``start`` (fraction of all steps), ``layers`` (see :func:`layers_legend`), ``feasible``, ``dead_tasks``,
    ``seconds``, ``on_front``, ``error`` (first line). Where a study has such trials: ``reason`` (why it was
    pruned or took a result over), ``origin_trial`` (whose result it took), ``steps_reused``,
    ``step_flops_ratio`` (step cost by counted operations); where the
    architecture is searched, ``delta_m_base_percent`` (over the baselines of the base config, those of
    ``delta_m_percent`` being of the trial's own architecture). delta_m of a trial without a result is that
    of its last evaluation, and so are ``metric_<task>`` (of all tasks, in its unit: fractions, m, deg), with
    ``baseline_<task>`` and ``prior_<task>`` beside it. A searched parameter has a column of the name of its
    path.
    """
    return table_of_runs(study, {run.trial: run for run in study.records.runs(study.name)})


def table_of_runs(study: LoadedStudy, runs: Mapping[int, RunRow]) -> pd.DataFrame:
    """``trials_table`` for runs that have already been read."""
    front = front_numbers(study)
    confirmed, expected = confirmations(study), expectations(study)
    last, baselines = last_evaluations(study), baselines_of_trials(study, runs.values())
    rows = []
    states = trial_states(study.optuna, study.records.engine)
    for trial in own_trials(study.optuna):
        if trial.number not in states:
            continue  # an earlier attempt; the trial that continues it is listed instead
        run = runs.get(trial.number)
        row: dict[str, Any] = {
            "trial": trial.number,
            "state": states[trial.number],
            "on_front": trial.number in front,
            "error": next(iter(trial.user_attrs.get("error", "").splitlines()), ""),
        }
        if run is not None:
            row |= _facts_of(run)
            row |= measured(last.get(trial.number, {}), baselines.get(trial.number, {}))
            row |= trial.params
        if trial.number in expected:
            each = expected[trial.number]
            row |= {"expected_delta_m": each.mean, "expected_std": each.deviation}
        if trial.number in confirmed:
            repeats = confirmed[trial.number]
            row |= {
                "delta_m_mean": repeats.delta_m_mean,
                "delta_m_std": repeats.delta_m_std,
                "num_seeds": len(repeats.seeds),
            }
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.reindex(columns=_ordered(list(table.columns)))


def whole_counts(table: pd.DataFrame) -> pd.DataFrame:
    """A table to export: numbers of trials and counts stay whole where some are missing."""
    return table.astype({name: "Int64" for name in COUNTS if name in table})


def _facts_of(run: RunRow) -> dict[str, Any]:
    """Columns of a table of trials that come from the facts of a run."""
    facts = {
        "delta_m_percent": run.delta_m_percent,
        # Always a float column: one of None alone would not be numeric.
        "paired_gain_percent": _or_nan(run.paired_gain_percent),
        "paired_trial": _or_nan(run.paired_trial),
        "param_overhead_percent": run.param_overhead_percent,
        "step_cost_ratio": run.step_cost_ratio,
        **run.further_measures,
        "start": _start(run.expansion_step, run.total_steps, run.operations),
        "layers": compact_layers(run.operations),
        "feasible": run.feasible,
        "dead_tasks": run.dead_tasks or "",
        "seconds": run.seconds_total,
    }
    sometimes = ("reason", "origin_trial", "steps_reused", "delta_m_base_percent", "step_flops_ratio")
    known = {name: getattr(run, name) for name in sometimes}
    return facts | {name: value for name, value in known.items() if value is not None}


def front_table(study: LoadedStudy, trials: pd.DataFrame | None = None) -> pd.DataFrame:
    """Feasible trials that no other feasible trial beats in every objective.

    Confirmed ones first, by their mean, then the others by the delta_m of the search. ``trials`` is the
    study's ``trials_table`` if it is already available, because making it is most of the work in a large
    study.
    """
    table = trials_table(study) if trials is None else trials
    if table.empty:
        return table
    chosen = table[table["on_front"]]
    order = ["delta_m_mean", "expected_delta_m" if "expected_delta_m" in chosen else "delta_m_percent"]
    return chosen.sort_values(order, ascending=False).drop(columns=["on_front", "error"])


def confirmed_table(study: LoadedStudy, trials: pd.DataFrame | None = None) -> pd.DataFrame:
    """Confirmed configurations, best mean first: their results with further seeds.

    Columns: ``trial``, ``delta_m_mean`` and ``delta_m_std`` (percent, further seeds only), ``num_seeds``,
    where known ``paired_mean`` and ``paired_se`` (points over the unexpanded network of each further seed,
    and the standard error of that), ``delta_m_percent`` (of the search), ``gain_<task>_percent`` (means
    over the further seeds), ``param_overhead_percent``. ``trials`` as for :func:`front_table`.
    """
    known = confirmations(study)
    if not known:
        return pd.DataFrame()
    table = trials_table(study) if trials is None else trials
    rows = [
        {
            **{name: row[name] for name in ("trial", "delta_m_mean", "delta_m_std", "num_seeds")},
            **_over_unexpanded(known[row["trial"]]),
            "delta_m_percent": row["delta_m_percent"],
            **{f"gain_{task}_percent": gain for task, gain in known[row["trial"]].gains_percent.items()},
            "param_overhead_percent": row["param_overhead_percent"],
        }
        for row in table.to_dict("records")
        if row["trial"] in known
    ]
    found = pd.DataFrame(rows)
    if found.empty:
        return found
    found = found.astype({"num_seeds": int}).sort_values(["delta_m_mean", "trial"], ascending=[False, True])
    unpaired = [name for name in ("paired_mean", "paired_se") if found[name].isna().all()]
    return found.drop(columns=unpaired).reset_index(drop=True)


def _over_unexpanded(repeats: Confirmed) -> dict[str, float]:
    """Mean gain over the unexpanded network of each seed, with its standard error if there are two."""
    gains, lead = repeats.paired_by_seed.values(), repeats.paired
    return {
        "paired_mean": fmean(gains) if gains else math.nan,
        "paired_se": lead.standard_error if lead else math.nan,
    }


def failed_table(study: LoadedStudy, trials: pd.DataFrame | None = None) -> pd.DataFrame:
    """Trials that failed, with the first line of the reason. ``trials`` as for :func:`front_table`."""
    table = trials_table(study) if trials is None else trials
    if table.empty:
        return table
    return table[table["state"] == "failed"][["trial", "state", "error"]]


def pruned_table(study: LoadedStudy) -> pd.DataFrame:
    """Trials that the study's pruner stopped, with the reason. Columns: ``trial``, ``reason``."""
    pruned = study.optuna.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    rows = [(trial.number, trial.user_attrs.get("pruned", "")) for trial in pruned]
    return pd.DataFrame(rows, columns=["trial", "reason"])


def baselines_table(study: LoadedStudy) -> pd.DataFrame:
    """Single-task baselines of the database, each with its no-image prior."""
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


def over_base_legend(table: pd.DataFrame) -> str:
    """What the column ``delta_m_base_percent`` means, if a table of trials has it."""
    if "delta_m_base_percent" not in table:
        return ""
    return "base: delta_m over baselines\nof the base config, not of the trial's own architecture; "


def against(run: RunRow) -> str:
    """What the delta_m of a trial is against, to be read after "against"."""
    if run.baselines is None or run.config is None:
        return "single-task baselines of the base config"  # from a release that had no others
    return RunConfig.model_validate_json(run.config).baselines.in_words()


def compact_layers(operations: str | None) -> str:
    """One letter per layer.

    Example:
        >>> compact_layers("none modulate both")
        '.MB'
    """
    return "".join(letter_of(operation) for operation in (operations or "").split())


def layers_legend(layers: Iterable[str]) -> str:
    """What the letters in columns of :func:`compact_layers` mean."""
    return f"layers: {legend(''.join(map(str, layers)))}; one letter per layer, input first"


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _start(step: int | None, total: int | None, operations: str | None) -> float:
    grown = operations is not None and set(operations.split()) != {"none"}
    return round(step / total, 4) if grown and step is not None and total else math.nan


def _ordered(columns: list[str]) -> list[str]:
    first = ["trial", "state", "delta_m_percent"]
    gains = [name for name in columns if name.startswith("gain_")]
    rest = [
        "delta_m_base_percent",
        "paired_gain_percent",
        "expected_delta_m",
        "expected_std",
        "delta_m_mean",
        "delta_m_std",
        "num_seeds",
        "param_overhead_percent",
        "step_cost_ratio",
        "start",
        "layers",
        "feasible",
        "dead_tasks",
        "seconds",
        "on_front",
        "error",
        "paired_trial",
    ]
    further = [name for name in columns if name in INFERENCE or (is_result(name) and name not in first)]
    at = rest.index("start")
    rest[at:at] = further
    where_known = ("paired", "expected", "delta_m_base")
    listed = [name for name in (*first, *gains, *rest) if not name.startswith(where_known) or name in columns]
    return [*listed, *(name for name in columns if name not in listed)]
