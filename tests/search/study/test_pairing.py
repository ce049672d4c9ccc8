"""Gains over the unexpanded run of the same seed: who is paired with whom, in SQL and after `confirm`."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import permutations
from statistics import fmean

import pytest
from tiny import grown, write_tiny_study
from watching import HeardRepeats

from dtme_search.config import RunConfig
from dtme_search.reporting import confirmed_table, trials_table
from dtme_search.search import RunRow, confirm, confirmations, optimize
from dtme_search.search.storage.records import Records
from dtme_search.search.study.leaders import leaders


def complete(trial: int, delta_m: float, overhead: float, *, same: str = "a", seed: int = 0) -> RunRow:
    return RunRow(
        study="s", trial=trial, state="complete", fingerprint=f"f{trial}", seed=seed,
        unexpanded_fingerprint=same, delta_m_percent=delta_m, param_overhead_percent=overhead,
    )  # fmt: skip


def paired(records: Records) -> dict[int, tuple[int | None, float | None]]:
    return {run.trial: (run.paired_trial, run.paired_gain_percent) for run in records.runs("s")}


RUNS = (
    complete(0, 1.0, 0.0),
    complete(1, 3.0, 0.2),
    complete(2, 7.0, 0.2, same="b"),
    complete(3, 2.0, 0.0, same="b"),
    complete(4, 9.0, 0.2, seed=1),
)


@pytest.mark.parametrize("order", list(permutations(range(5)))[::17])
def test_whichever_ends_last_all_gains_of_a_seed_stand(tmp_path, order):
    records = Records(f"sqlite:///{tmp_path}/s.db")
    records.create_tables()
    for index in order:
        records.save_complete(RUNS[index])
    expected = {0: (None, None), 1: (0, 2.0), 2: (3, 5.0), 3: (None, None), 4: (None, None)}
    assert paired(records) == expected, "equal in all but growth, never of another seed"


def test_what_has_no_result_is_no_partner(tmp_path):
    records = Records(f"sqlite:///{tmp_path}/s.db")
    records.create_tables()
    records.save_run(replace(RUNS[0], state="failed"))
    records.save_complete(RUNS[1])
    assert paired(records)[1] == (None, None)


def test_a_study_writes_the_gain_of_every_trial_whatever_comes_first(tmp_path):
    enqueue = [grown("none", "none", "expand"), "unexpanded", grown("both", "none", "none", start=0.0)]
    changes = {"tasks": {"depth": {}}, "train.num_steps": 4}
    file = write_tiny_study(tmp_path, changes, trials=3, enqueue=enqueue)
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    table = trials_table(study).set_index("trial")
    expected = table["delta_m_percent"] - table.loc[1, "delta_m_percent"]
    assert table["paired_gain_percent"].tolist()[::2] == pytest.approx(expected.tolist()[::2])
    assert math.isnan(table.loc[1, "paired_gain_percent"]) and table["paired_trial"].dropna().tolist() == [
        1,
        1,
    ]


def test_confirm_pairs_without_new_baselines_and_adds_them_without_training_again(place):
    heard = HeardRepeats()
    study = confirm("tiny", top=1, seeds=2, new_baselines=False, workdir=place, device="cpu", listener=heard)
    (leader,) = leaders(study, 1)
    partner = leader.paired_trial if leader.paired_trial is not None else leader.trial
    wanted = {leader.trial, partner}
    assert {trial for trial, _ in heard.repeats} == wanted and heard.trained == []
    rows = {(row.trial, row.seed): row for row in study.records.confirmations("tiny")}
    assert all(
        row.baseline_seed == 0 and row.gains_percent == row.search_gains_percent for row in rows.values()
    )

    again = HeardRepeats()
    study = confirm("tiny", top=3, seeds=2, workdir=place, device="cpu", listener=again)
    assert again.trained == ["depth", "edge"] * 2
    assert {trial for trial, _ in again.repeats}.isdisjoint(wanted), (
        "what was trained is judged, not repeated"
    )
    later = {(row.trial, row.seed): row for row in study.records.confirmations("tiny")}
    for at, row in rows.items():
        assert later[at].metrics == row.metrics and later[at].baseline_seed is None
        assert later[at].search_gains_percent == row.search_gains_percent != later[at].gains_percent

    level = {seed: fmean(json.loads(later[0, seed].search_gains_percent).values()) for seed in (1, 2)}
    for number, each in confirmations(study).items():
        if number == 0:
            assert not each.paired_by_seed
            continue
        assert (
            RunConfig.model_validate_json(study.records.runs("tiny")[number].config).expansion.policy
            == "fixed"
        )
        own = {seed: fmean(json.loads(later[number, seed].search_gains_percent).values()) for seed in (1, 2)}
        gains = [own[seed] - level[seed] for seed in (1, 2)]
        assert list(each.paired_by_seed.values()) == pytest.approx(gains)
        assert each.paired.points == pytest.approx(fmean(gains))
        assert each.paired.standard_error == pytest.approx(abs(gains[0] - gains[1]) / 2)
        shown = confirmed_table(study).set_index("trial").loc[number]
        assert shown["paired_mean"] == pytest.approx(each.paired.points)
        assert shown["paired_se"] == pytest.approx(each.paired.standard_error)
