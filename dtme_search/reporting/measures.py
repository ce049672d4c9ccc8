"""What the trials of a study searched and measured, side by side: parameters, metrics, baselines, priors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from dtme_search.search import BaselineRow, LoadedStudy, RunRow
from dtme_search.search.storage.rows import StoredEvaluation
from dtme_search.tasks import display_metric

MOST_COLUMNS = 6
"""Number of trials side by side that fit on a page or in a terminal [ours]."""
_LAYERS = "expansion.layers."


def measured(
    last: Mapping[str, StoredEvaluation], baselines: Mapping[str, BaselineRow]
) -> dict[str, float | None]:
    """Columns of a trial: ``metric_<task>``, ``gain_<task>_percent``, ``baseline_<task>``, ``prior_<task>``.

    Metrics are those of all tasks, including auxiliary ones, each in its unit: fractions, m, deg.
    """
    row: dict[str, float | None] = {}
    # Tasks that count come first, in the order of the config.
    for task, found in sorted(last.items(), key=lambda each: [*baselines, each[0]].index(each[0])):
        row[f"metric_{task}"] = found.value
        if found.gain_percent is not None:
            row[f"gain_{task}_percent"] = found.gain_percent
    for task, baseline in baselines.items():
        row |= {f"baseline_{task}": baseline.value, f"prior_{task}": baseline.prior_value}
    return row


def without_measures(trials: pd.DataFrame, study: LoadedStudy, *, searched: bool = False) -> pd.DataFrame:
    """A ``trials_table`` without the columns that have tables of their own.

    ``searched`` keeps parameters, except the operations of layers, which are in the column ``layers``.
    """
    own = [name for name in map(str, trials) if name.startswith(("metric_", "baseline_", "prior_"))]
    paths = [path for path in searched_columns(study, trials) if not searched or path.startswith(_LAYERS)]
    return trials.drop(columns=[*own, *paths])


def last_evaluations(study: LoadedStudy) -> dict[int, dict[str, StoredEvaluation]]:
    """Trial -> task -> its last evaluation."""
    found: dict[int, dict[str, StoredEvaluation]] = {}
    for row in study.records.last_evaluations(study.name):
        found.setdefault(row.trial, {})[row.task] = row
    return found


def baselines_of_trials(study: LoadedStudy, runs: Iterable[RunRow]) -> dict[int, dict[str, BaselineRow]]:
    """Trial -> task -> single-task baseline that it is compared with."""
    known = {row.fingerprint: row for row in study.records.baselines()}
    return {
        run.trial: {task: known[name] for task, name in run.baseline_names().items() if name in known}
        for run in runs
    }


def searched_table(
    study: LoadedStudy, trials: pd.DataFrame, numbers: Sequence[int]
) -> tuple[list[str], list[list[str]]]:
    """Searched parameters (rows) of some trials (columns); choices of layers are part of the plans."""
    paths = [name for name in searched_columns(study, trials) if not name.startswith(_LAYERS)]
    chosen = trials.set_index("trial").loc[list(numbers)]
    rows = [[path, *(_value(value) for value in chosen[path])] for path in paths]
    return ["searched", *(f"trial {number}" for number in numbers)], [row for row in rows if any(row[1:])]


def searched_columns(study: LoadedStudy, trials: pd.DataFrame) -> list[str]:
    """Columns of ``trials_table`` that are searched parameters, in the order of the study file."""
    patterns = list(study.config.search)
    names = [name for name in map(str, trials.columns) if name in patterns or name.startswith(_LAYERS)]
    return sorted(names, key=lambda name: patterns.index(name) if name in patterns else len(patterns))


def metrics_table(study: LoadedStudy, numbers: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    """Metrics of all tasks (rows) of some trials (columns) beside baseline and no-image prior.

    A gain is in brackets; if trials have different baselines, their range is shown.
    """
    last, baselines = last_evaluations(study), baselines_of_trials(study, study.records.runs(study.name))
    counting = [task for number in numbers for task in baselines.get(number, {})]
    tasks = dict.fromkeys([*counting, *(task for number in numbers for task in last.get(number, {}))])
    rows = []
    for task in tasks:
        found = {number: last[number][task] for number in numbers if task in last.get(number, {})}
        if not found:
            continue  # a trial that was stopped before its first evaluation
        metric, unit = next((row.metric, row.unit or "none") for row in found.values())
        own = [baselines[number][task] for number in numbers if task in baselines.get(number, {})]
        role = "" if own else " (auxiliary)"
        rows.append(
            [
                f"{task}{role}",
                metric,
                *(_range([getattr(row, name) for row in own], unit) for name in ("prior_value", "value")),
                *(_with_gain(found[number], unit) if number in found else "" for number in numbers),
            ]
        )
    columns = ["task", "metric", "no-image prior", "baseline", *(f"trial {number}" for number in numbers)]
    return columns, rows


def _with_gain(row: StoredEvaluation, unit: str) -> str:
    gain = "" if row.gain_percent is None else f" ({row.gain_percent:+.1f} %)"
    return f"{display_metric(row.value, unit)}{gain}"


def _range(values: Sequence[float], unit: str) -> str:
    shown = dict.fromkeys(display_metric(value, unit) for value in sorted(values))
    return " to ".join(list(shown)[:: max(1, len(shown) - 1)])


def _value(value: object) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
