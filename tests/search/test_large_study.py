"""Studies of many trials: made at once for the benchmark, and a trial of theirs asks no more than others."""

from __future__ import annotations

import pytest
from _drawn import draw_study, draw_trials, write_definition
from _pretend import Pretender
from sqlalchemy import event

from dtme_search.reporting import trials_table
from dtme_search.search import api as study
from dtme_search.search import front_numbers, optimize
from dtme_search.search.trial import objective

POINT = {"expansion.policy": "conflict", "expansion.start": 0.0} | {
    f"expansion.{space}_{what}": value
    for space in ("range", "null")
    for what, value in (("layer_ratio", 0.4999998), ("threshold", 0.0))
}


@pytest.mark.slow
def test_trials_inserted_at_once_are_those_that_optuna_would_have_added(tmp_path, storage_url):
    drawn = draw_study(tmp_path, 40, storage=storage_url)
    other = draw_study(tmp_path, 0, name="added", storage=storage_url)
    for one in draw_trials(drawn.space, 40):
        other.optuna.add_trial(one.trial)
    first, second = (
        [vars(trial) | {"_trial_id": None} for trial in made.optuna.get_trials(deepcopy=False)]
        for made in (drawn, other)
    )
    for made in (drawn, other):
        made.records.engine.dispose()
    assert first == second and len(first) == 40
    assert len({trial["state"] for trial in first}) == 3


def test_the_front_is_what_no_feasible_trial_dominates(tmp_path):
    drawn = draw_study(tmp_path, 300).loaded()
    points = {
        trial.number: (trial.values[0], -trial.values[1])
        for trial in drawn.optuna.get_trials(deepcopy=False)
        if trial.values is not None and trial.values[1] <= drawn.config.limits["param_overhead_percent"]
    }

    def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and all(a >= b for a, b in zip(one, other, strict=True))

    front = {
        number
        for number, point in points.items()
        if not any(dominates(other, point) for other in points.values())
    }
    assert front_numbers(drawn) == front and 1 < len(front) < len(points)
    table = trials_table(drawn)
    drawn.records.engine.dispose()
    assert set(table[table["on_front"]]["trial"]) == front


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_trial_asks_a_large_study_no_more_than_a_small_one(tmp_path, monkeypatch, sampler):
    """All evaluations of a trial that is compared with all others: as many statements, whatever the study."""
    monkeypatch.setattr(objective, "Trainer", Pretender)
    assert _statements(tmp_path / "small", 30, monkeypatch, sampler) == _statements(
        tmp_path / "large", 300, monkeypatch, sampler
    )


def _statements(folder, num_trials, monkeypatch, sampler) -> list[str]:
    # A correlation of 1 is never reached: the trial is compared at every evaluation, and goes on.
    fields = {
        "sampler": {"name": sampler},
        "pruner": {"name": "pareto", "min_correlation": 1.0},
        "reuse": {"equal_work": False},
    }
    prepared = draw_study(folder, num_trials, **fields)
    # What decides how often a trial is compared is given; the sampler proposes the rest.
    prepared.optuna.enqueue_trial(POINT)
    finished = sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in prepared.optuna.get_trials())
    statements: list[str] = []
    plain = study.run_trials

    def counted(loaded, *given, **named) -> None:
        @event.listens_for(loaded.records.engine, "before_cursor_execute")
        def note(_connection, _cursor, statement, *_) -> None:
            statements.append(statement)

        plain(loaded, *given, **named)

    monkeypatch.setattr(study, "run_trials", counted)
    file = write_definition(folder, trials=finished + 1, **fields)
    prepared.records.engine.dispose()
    optimize(str(file), workdir=folder, device="cpu").records.engine.dispose()
    monkeypatch.setattr(study, "run_trials", plain)
    assert sum("dtme_rungs" in statement and "JOIN" in statement for statement in statements) >= 4
    return sorted(statements)
