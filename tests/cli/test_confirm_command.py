"""``confirm`` and what it adds to ``show`` and ``export``; ``--warm-start-from`` and its mistakes."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from tiny import write_tiny_study

from dtme_search.search import ConfirmationRow
from dtme_search.search.study.leaders import leaders

TASKS = ("semseg", "depth", "normals", "edge")


@pytest.fixture
def confirmed(study_copy):
    """A copy of the finished study whose two leaders have two further seeds; gives their numbers."""
    numbers = [run.trial for run in leaders(study_copy, 2)]
    for number, values in zip(numbers, ((-3.0, -2.0), (4.0, 6.5)), strict=True):
        for seed, value in enumerate(values, start=1):
            row = ConfirmationRow(
                trial=number,
                seed=seed,
                delta_m_percent=value,
                gains_percent=json.dumps(dict.fromkeys(TASKS, value)),
                metrics="{}",
                steps_trained=10,
                steps_reused=0,
                seconds=1.0,
                split="holdout",
                device="cpu",
                code_version="0",
                created_at=datetime.now(UTC),
            )
            study_copy.records.save_confirmation("tiny", row)
    return numbers


def test_confirm_of_what_is_confirmed_trains_nothing_and_shows_it(run, confirmed):
    ran = run("confirm", "--study", "tiny", "--workdir", "copied-runs", "--top", 2, "--seeds", 2)
    assert ran.code == 0 and "with seed" not in ran.out and "trained" not in ran.out
    second, first = confirmed
    table = ran.out.split("Confirmed with further seeds")[1].splitlines()
    assert all(len(line.rstrip()) <= 80 for line in table[:5])
    assert re.match(rf" +{first} +\+5\.25 +1\.77 +2 ", table[3])
    assert re.match(rf" +{second} +-2\.50 +0\.71 +2 ", table[4])
    assert f"Best: trial {first}, delta_m on the hold-out: mean +5.25 %, standard deviation 1.77" in ran.out
    assert "% in the search; against " in ran.out


def test_show_has_them_too_and_asks_for_confirmation_only_until_then(run, finished_study, confirmed):
    ran = run("show", "--study", "tiny", "--workdir", "copied-runs")
    assert "Confirmed with further seeds" in ran.out and f"Best: trial {confirmed[1]}," in ran.out
    assert "dtme-search confirm" not in ran.out
    before = run("show", "--study", "tiny", "--workdir", finished_study.workdir)
    assert "Confirmed" not in before.out and "one seed" in before.out
    assert f"dtme-search confirm --study tiny --workdir {finished_study.workdir} --top 3" in before.out


def test_export_takes_the_confirmed_best(run, confirmed, tmp_path):
    ran = run("export", "--study", "tiny", "--workdir", "copied-runs", "--best", "--out", "best.yaml")
    assert ran.code == 0 and ran.err == ""
    text = (tmp_path / "best.yaml").read_text()
    assert text.startswith(f"# Trial {confirmed[1]} of study tiny")
    assert "# Confirmed: mean +5.25 %, standard deviation 1.77 over 2 further seeds (1, 2)." in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("confirm --study nothing", "nothing/study.db: no such database."),
        ("optimize --study new.yaml --warm-start-storage sqlite:///x.db", "needs --warm-start-from"),
        ("optimize --study new.yaml --warm-start-from tinny", "holds no study 'tinny'. Did you mean 'tiny'?"),
        (
            "optimize --study new.yaml --warm-start-from a --warm-start-storage nonsense",
            "'nonsense' must be a database URL.",
        ),
    ],
    ids=["unknown study", "storage alone", "misspelt", "no URL"],
)
def test_a_mistake_is_one_line(run, study_copy, tmp_path, words, message):
    write_tiny_study(tmp_path, {"tasks": {"depth": {}}}, name="new")
    ran = run(*words.split(), "--workdir", "copied-runs")
    assert ran.code == 2 and ran.out == ""
    assert ran.err.startswith("dtme-search: ") and message in ran.err and ran.err.count("\n") == 1
    assert not (tmp_path / "copied-runs" / "new").exists()
