"""The tables of docs/scaling-costs.md are the recorded measurements, which keep what the page promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import scaling
import throughput

ROOT = Path(__file__).parents[3]
RECORDED = {
    name: json.loads((ROOT / "benchmarks" / "data" / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("scaling", "throughput")
}


@pytest.mark.parametrize(
    "lines", [scaling.short_table(RECORDED["scaling"]), throughput.table(RECORDED["throughput"])]
)
def test_the_page_has_the_recorded_tables(lines):
    assert "\n".join(lines) in (ROOT / "docs" / "scaling-costs.md").read_text(encoding="utf-8")


def test_the_sizes_are_those_that_were_asked_for():
    sizes = {(result["database"], result["size"]) for result in RECORDED["scaling"]}
    assert sizes == {(kind, size) for kind in ("sqlite", "postgres") for size in (100, 1000, 10_000)}
    assert {1, 2, 4, 8} == {row["workers"] for row in RECORDED["throughput"]}


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_nothing_grows_faster_than_the_study_and_recording_does_not_grow(database):
    here = [result for result in RECORDED["scaling"] if result["database"] == database]
    growth = {
        name: scaling.slopes([1000, 10_000], values[1:])[0] for name, values, _ in scaling.short_rows(here)
    }
    assert max(growth.values()) < 1.15, growth
    assert growth["beginning, telling, rows, files"] < 0.15
