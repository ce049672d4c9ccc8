"""Every query of docs/sql.md, typed as it stands there, against the same question asked of the rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from dtme_search.search.storage.records import Records
from dtme_search.search.storage.rows import EvaluationRow

PAGE = (Path(__file__).parents[1] / "docs" / "sql.md").read_text(encoding="utf-8")
QUERIES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).*?)```sql\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
STUDY, TRIAL = "tiny", 3


class Rows(NamedTuple):
    """The rows of the finished study."""

    runs: pd.DataFrame
    conflicts: pd.DataFrame
    evaluations: pd.DataFrame


@pytest.fixture(scope="module")
def rows(finished_study) -> Rows:
    records = finished_study.study.records
    runs = records.runs(STUDY)
    conflicts = [
        {**asdict(row), "trial": run.trial} for run in runs for row in records.conflicts(STUDY, run.trial)
    ]
    evaluations = [asdict(row) for row in records.evaluations(STUDY)]
    return Rows(pd.DataFrame(map(asdict, runs)), pd.DataFrame(conflicts), pd.DataFrame(evaluations))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine(request, finished_study) -> Engine:
    """The finished study where it is, and copied to a PostgreSQL database."""
    source = finished_study.study.records
    if request.param == "sqlite":
        yield source.engine
        return
    copy = Records(request.getfixturevalue("postgres_url"))
    copy.create_tables()
    for run in source.runs(STUDY):
        copy.save_run(run)
        copy.save_conflicts(STUDY, run.trial, source.conflicts(STUDY, run.trial))
    for row in source.evaluations(STUDY):
        values = asdict(row)
        trial, step = values.pop("trial"), values.pop("step")
        known = [
            EvaluationRow(**{name: getattr(other, name) for name in values})
            for other in source.evaluations(STUDY, trial)
            if other.step == step
        ]
        copy.save_evaluation(STUDY, trial, step, known)
    yield copy.engine
    copy.engine.dispose()


def by_start(rows: Rows) -> pd.DataFrame:
    runs = rows.runs[rows.runs["state"] == "complete"].copy()
    grown = runs["operations"].str.contains("modulate|expand|both")
    runs["start"] = np.where(grown, runs["expansion_step"] / runs["total_steps"], np.nan)
    groups = runs.groupby("start", dropna=False)
    return pd.DataFrame(
        {
            "trials": groups.size(),
            "mean_delta_m_percent": groups["delta_m_percent"].mean(),
            "best_delta_m_percent": groups["delta_m_percent"].max(),
            "mean_step_cost": groups["step_cost_ratio"].mean(),
        }
    ).reset_index()


def over_unexpanded(rows: Rows) -> pd.DataFrame:
    runs = rows.runs[rows.runs["state"] == "complete"]
    never = runs[runs["param_overhead_percent"] == 0].sort_values("trial").iloc[0]
    grown = runs[runs["trial"] != never["trial"]]
    gains = grown["delta_m_percent"] - never["delta_m_percent"]
    table = grown.assign(paired_trial=never["trial"], paired_gain_percent=gains)
    columns = ["trial", "seed", "paired_trial", "paired_gain_percent", "delta_m_percent", "operations"]
    return table[columns]


def by_layer(rows: Rows) -> pd.DataFrame:
    groups = rows.conflicts.groupby("layer")
    table = groups[["range_rate", "null_rate"]].mean()
    return table.assign(trials=groups["trial"].nunique()).reset_index()


def curves(rows: Rows) -> pd.DataFrame:
    table = rows.evaluations[rows.evaluations["trial"] == TRIAL].sort_values(["task", "step"])
    return table[["step", "task", "metric", "value", "gain_percent", "loss"]]


def time(rows: Rows) -> pd.DataFrame:
    runs = rows.runs[rows.runs["state"] == "complete"]
    phases = {
        name: [runs[f"seconds_{name}"].sum()] for name in ("train", "evaluate", "measure", "checkpoint")
    }
    inside = sum(total for (total,) in phases.values())
    del phases["checkpoint"]
    return pd.DataFrame({**phases, "around": [runs["seconds_total"].sum() - inside]})


EXPECTED: dict[str, Callable[[Rows], pd.DataFrame]] = {
    "delta_m by expansion start": by_start,
    "Gains over the unexpanded network": over_unexpanded,
    "Conflicts by layer": by_layer,
    "Metric curves of a trial": curves,
    "Where the time of a study went": time,
}


def test_every_query_of_the_page_is_checked():
    assert QUERIES.keys() == EXPECTED.keys() and PAGE.count("```sql") == len(QUERIES)


@pytest.mark.parametrize("title", EXPECTED)
def test_a_query_answers_as_the_rows_do(title, engine, rows):
    query = QUERIES[title].replace("'demo'", f"'{STUDY}'").replace("trial = 1", f"trial = {TRIAL}")
    found = pd.read_sql(query, engine)
    expected = EXPECTED[title](rows)
    assert list(found.columns) == list(expected.columns) and len(found) > 0
    order = list(found.columns[:2])
    pd.testing.assert_frame_equal(
        found.sort_values(order, ignore_index=True),
        expected.sort_values(order, ignore_index=True),
        check_dtype=False,
        rtol=1e-9,
    )


def test_the_queries_meet_trials_of_every_kind(rows):
    """Else agreement would prove little: grown at two starts, never grown, failed, several steps."""
    assert by_start(rows)["start"].tolist()[:2] == [0.0, 0.5] and len(by_start(rows)) == 3
    assert set(rows.runs["state"]) == {"complete", "failed"}
    assert len(by_layer(rows)) == 3 and set(by_layer(rows)["trials"]) == {2}
    assert len(curves(rows)) == 2 * 4
    assert (time(rows) > 0).all(axis=None)


def test_the_page_names_the_tables_that_are_there(finished_study):
    named = set(re.findall(r"^\| `(dtme_\w+)` \|", PAGE, re.MULTILINE))
    found = pd.read_sql(
        "SELECT name FROM sqlite_master WHERE type = 'table'", finished_study.study.records.engine
    )
    assert named == {name for name in found["name"] if name.startswith("dtme_")}


def test_the_python_of_the_page_reads_a_database(finished_study, monkeypatch, tmp_path):
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    path = finished_study.workdir / "tiny" / "study.db"
    code = snippet.replace("dtme-runs/demo/study.db", str(path).removeprefix("/"))
    code = code.replace("sqlite:///", "sqlite:////").replace("SELECT ...", "SELECT 1 AS one")
    names: dict[str, object] = {}
    exec(code, names)
    assert names["frame"]["one"].tolist() == [1]
