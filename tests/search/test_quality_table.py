"""The recorded table that searches are judged by: whole, and equal where work is equal."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path

import pytest

from dtme_search.config import load_study_config

DATA = Path(__file__).parents[2] / "benchmarks" / "data"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (DATA / "quality.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_point_of_the_space_is_there_once(rows):
    search = load_study_config(str(DATA / "quality.yaml")).search
    everything = set(product(*(searched.choices for searched in search.values())))
    recorded = [tuple(float(row[path]) for path in search) for row in rows]
    assert len(recorded) == len(everything) >= 200 and set(recorded) == everything


def test_equal_work_has_equal_numbers_and_was_trained_once(rows):
    results = {}
    for row in rows:
        curve = [value for name, value in row.items() if name.startswith("delta_m_at_")]
        assert len(curve) == 8 and row["work"]
        results.setdefault(row["work"], []).append(
            (row["param_overhead_percent"], row["grown_step_cost"], curve)
        )
    assert all(equal.count(equal[0]) == len(equal) for equal in results.values())
    assert sum(int(row["trained"]) for row in rows) == len(results)


def test_it_says_where_it_comes_from(rows):
    origin = json.loads((DATA / "quality.json").read_text(encoding="utf-8"))
    assert origin["trials"] == len(rows) and origin["trained"] == sum(int(row["trained"]) for row in rows)
    assert {"command", "date", "seed", "torch", "space_fingerprint", "data_fingerprint"} <= set(origin)
