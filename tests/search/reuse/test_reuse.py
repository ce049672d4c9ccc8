"""Work that the trials of a study share: the same results as without, and nothing paid for twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState
from processes import run_together
from sqlalchemy import text
from tiny import SEARCH, grown, write_tiny_study
from watching import Heard, once

from dtme_search.config import RunConfig, canonical
from dtme_search.search import LoadedStudy, load_study, optimize
from dtme_search.search.trial.retries import retry_history
from dtme_search.training.growth import Growth

CHANGES = {
    "tasks": {"depth": {}, "edge": {}},
    "train.num_steps": 4,
    "expansion.null_layer_ratio": 0.0,
}
"""Evaluations after steps 2 and 4, growth before step 2 or at once, token modulation only."""
BY_CONFLICT = {"when": {"expansion.policy": "conflict"}}
SPACE = SEARCH | {
    "expansion.range_layer_ratio": {"choices": [0.4, 0.5, 1.0], **BY_CONFLICT},
    "expansion.range_threshold": {"choices": [0.0, 0.01, 1.0], **BY_CONFLICT},
}
LIMITS = {"param_overhead_percent": 0.6}
"""Kept by the growth of two layers, exceeded by that of three."""


def by_conflict(start: float, ratio: float, threshold: float = 0.0) -> dict[str, object]:
    point = grown(start=start)
    return point | {"expansion.range_layer_ratio": ratio, "expansion.range_threshold": threshold}


UNEXPANDED = {"expansion.policy": "none"}
EVERY_LAYER = by_conflict(0.5, 1.0)
EVERY_LAYER_BY_HAND = grown("modulate", "modulate", "modulate")
TWO_LAYERS = by_conflict(0.5, 0.5)
POINTS = [
    UNEXPANDED,
    EVERY_LAYER,
    EVERY_LAYER_BY_HAND,
    TWO_LAYERS,
    by_conflict(0.5, 0.4),  # two layers, rounded up
    by_conflict(0.5, 0.5, 0.01),  # below both measured rates
    by_conflict(0.5, 1.0, 1.0),  # above all of them
    by_conflict(0.0, 1.0),
    grown("modulate", "modulate", "modulate", start=0.0),
    grown("none", "none", "none"),
]
ORIGINS = {2: 1, 4: 3, 5: 3, 6: 0, 8: 7, 9: 0}
"""Trials that come to the work of an earlier one."""
FEW = [UNEXPANDED, EVERY_LAYER, EVERY_LAYER_BY_HAND, TWO_LAYERS]


def write(folder: Path, points: list[dict[str, object]], changes=(), **fields) -> str:
    values = {"search": SPACE, "limits": LIMITS, "trials": len(points), **fields}
    return write_tiny_study(folder, CHANGES | dict(changes), enqueue=points, **values)


def share_baselines(plain: LoadedStudy, workdir: Path) -> None:
    """Put the baselines of the plain study into the database that a study in ``workdir`` will have."""
    from dtme_search.search.storage.records import Records

    (workdir / "tiny").mkdir(parents=True)
    records = Records(f"sqlite:///{workdir / 'tiny' / 'study.db'}")
    records.create_tables()
    for row in plain.records.baselines():
        records.save_baseline(row)
    records.engine.dispose()


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> LoadedStudy:
    """Every trial trained from its first step to its last."""
    folder = tmp_path_factory.mktemp("plain")
    return optimize(write(folder, POINTS), workdir=folder / "runs", device="cpu", reuse=False)


@pytest.fixture(scope="module")
def shared_workdir(plain, tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def shared(plain, shared_workdir) -> LoadedStudy:
    """The same trials, sharing what they can."""
    share_baselines(plain, shared_workdir)
    return optimize(write(shared_workdir, POINTS), workdir=shared_workdir, device="cpu")


def complete(study: LoadedStudy) -> list[FrozenTrial]:
    return study.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def assert_same_results(study: LoadedStudy, plain: LoadedStudy) -> None:
    """Each finished trial has the values, constraints, metrics, plan, conflicts of the plain one."""
    plain_runs = {run.trial: run for run in plain.records.runs("tiny")}
    runs = {run.trial: run for run in study.records.runs("tiny")}
    for trial in complete(study):
        (one,) = [other for other in complete(plain) if other.params == trial.params]
        assert (trial.values, trial.constraints) == (one.values, one.constraints), trial.params
        for rows in ("evaluations", "plan", "conflicts"):
            mine, theirs = (
                [{**vars(row), "trial": 0} for row in getattr(of.records, rows)("tiny", number)]
                for of, number in ((study, trial.number), (plain, one.number))
            )
            assert mine == theirs, (rows, trial.params)
        for fact in ("operations", "feasible", "dead_tasks", "total_steps", "expansion_step"):
            assert getattr(runs[trial.number], fact) == getattr(plain_runs[one.number], fact)
        mine, theirs = (
            canonical(RunConfig.model_validate_json(run.config))
            for run in (runs[trial.number], plain_runs[one.number])
        )
        assert mine == theirs


def trained(study: LoadedStudy) -> list[tuple[int | None, int | None]]:
    """Steps trained and steps reused of every finished trial."""
    runs = [run for run in study.records.runs("tiny") if run.state in ("complete", "pruned")]
    return [(run.steps_trained, run.steps_reused) for run in runs]


def artifacts(trial: FrozenTrial) -> set[str]:
    attrs = trial.system_attrs.items()
    return {json.loads(value)["filename"] for name, value in attrs if name.startswith("artifacts:")}


class TestAStudyThatShares:
    def test_every_trial_has_the_result_that_it_has_alone(self, plain, shared):
        assert len(complete(plain)) == len(complete(shared)) == len(POINTS)
        assert [trial.params for trial in complete(shared)] == [trial.params for trial in complete(plain)]
        assert_same_results(shared, plain)
        assert {run.feasible for run in shared.records.runs("tiny")} == {True, False}

    def test_only_what_is_new_is_trained(self, plain, shared):
        assert trained(plain) == [(4, 0)] * 10
        new = {0: (4, 0), 1: (2, 2), 3: (2, 2), 7: (4, 0)}
        assert trained(shared) == [new.get(number, (0, 4)) for number in range(10)]
        assert [(row.trial, row.from_step, row.to_step) for row in shared.records.trunks("tiny")] == [
            (0, 0, 2)
        ]
        assert plain.records.trunks("tiny") == []

    def test_a_result_taken_over_names_its_origin(self, shared):
        runs = shared.records.runs("tiny")
        assert {run.trial: run.origin_trial for run in runs if run.origin_trial is not None} == ORIGINS
        for number, origin in ORIGINS.items():
            run, trial = runs[number], shared.optuna.trials[number]
            assert run.reason == f"trains the same as trial {origin}"
            assert trial.user_attrs["origin_trial"] == origin
            assert run.resolved_fingerprint == runs[origin].resolved_fingerprint
            assert run.seconds_saved > 0 and not run.seconds_train
        assert not any(
            "origin_trial" in shared.optuna.trials[n].user_attrs for n in {*range(10)} - {*ORIGINS}
        )

    def test_it_has_the_files_of_a_trial(self, plain, shared, shared_workdir):
        for one, other in zip(complete(plain), complete(shared), strict=True):
            assert artifacts(one) == artifacts(other) >= {"resolved.yaml", "plan.txt", "curves.csv"}
        folder = shared_workdir / "tiny" / "trials"
        curves = [(folder / name / "curves.csv").read_text() for name in ("0004", "0003", "0000")]
        assert curves[0] == curves[1] != curves[2]
        assert not list(shared_workdir.rglob("checkpoint.pt"))

    def test_the_savings_add_up(self, plain, shared):
        saved = shared.savings()
        assert (saved.trained, saved.from_trunks, saved.from_equal_work, saved.pruned_away) == (12, 4, 24, 0)
        assert saved.total == plain.savings().trained == 40
        assert saved.trials_taken_over == 6 and saved.seconds > 0
        assert saved.sentence().startswith("Trained 30 % of the steps (trunks 10 %, equal work 60 %), saved ")
        assert plain.savings().sentence() == ""


@pytest.mark.parametrize(
    ("switch", "steps", "measured", "trunks", "origins"),
    [
        ("trunks", [(4, 0), (4, 0), (0, 4), (4, 0)], 1, 0, [None, None, 1, None]),
        ("conflicts", [(4, 0), (2, 2), (0, 4), (2, 2)], 2, 1, [None, None, 1, None]),
        ("equal_work", [(4, 0), (2, 2), (2, 2), (2, 2)], 1, 1, [None] * 4),
    ],
)
def test_each_saving_can_be_switched_off(
    plain, tmp_path, monkeypatch, switch, steps, measured, trunks, origins
):
    times = []
    measure = Growth.measure
    monkeypatch.setattr(Growth, "measure", lambda *given: times.append(1) or measure(*given))
    share_baselines(plain, tmp_path / "runs")
    file = write(tmp_path, FEW, reuse={switch: False})
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    assert_same_results(study, plain)
    assert trained(study) == steps
    assert (len(times), len(study.records.trunks("tiny"))) == (measured, trunks)
    assert [run.origin_trial for run in study.records.runs("tiny")] == origins
    kept = {path.name.split("-")[0] for path in (tmp_path / "runs" / "tiny" / "trunks").glob("*/*-*")}
    assert kept == {"trunks": {"conflicts"}, "conflicts": {"snapshot"}}.get(switch, {"conflicts", "snapshot"})


def test_what_is_equal_to_a_pruned_trial_is_pruned(tmp_path):
    """The second trial learns nothing sensible; the third would grow, but nowhere."""
    points = [UNEXPANDED, UNEXPANDED, grown("none", "none", "none")]
    file = write_tiny_study(
        tmp_path,
        CHANGES,
        trials=3,
        objectives={"delta_m_percent": "maximize"},
        search=SEARCH | {"train.lr": {"choices": [1e-3, 10.0]}},
        baselines={"recipe": "base"},
        pruner={"name": "median", "num_startup_trials": 1, "num_warmup_evaluations": 0},
        enqueue=[point | {"train.lr": lr} for point, lr in zip(points, (1e-3, 10.0, 10.0), strict=True)],
    )
    heard = Heard()
    study = optimize(file, workdir=tmp_path / "runs", device="cpu", listener=heard)
    _, pruned, same = study.optuna.trials
    assert (pruned.state, same.state) == (TrialState.PRUNED, TrialState.PRUNED)
    _, origin, run = study.records.runs("tiny")
    assert (run.state, run.origin_trial, run.delta_m_percent) == ("pruned", 1, origin.delta_m_percent)
    assert run.reason == f"trains the same as trial 1, which was pruned: {origin.reason}"
    assert heard.stopped[-1] == (2, "pruned", run.reason)
    assert (run.steps_trained, run.steps_reused) == (0, origin.steps_trained)
    assert same.intermediate_values == pruned.intermediate_values, "the sampler learns the same from both"
    first, second = (study.records.evaluations("tiny", number) for number in (1, 2))
    assert [row.without_place() for row in first] == [row.without_place() for row in second] != []
    saved = study.savings()
    assert saved.trained + saved.from_equal_work + saved.pruned_away == saved.total == 12


def test_a_growth_that_comes_to_nothing_at_once_trains_the_trunk(plain, tmp_path):
    """The first one makes it and the second forks from it; alone, both would have trained these steps."""
    share_baselines(plain, tmp_path / "runs")
    file = write(tmp_path, [by_conflict(0.0, 1.0, 1.0), TWO_LAYERS])
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    nothing, grown_later = study.optuna.trials
    assert trained(study) == [(4, 0), (2, 2)]
    assert [(row.trial, row.from_step, row.to_step) for row in study.records.trunks("tiny")] == [(0, 0, 2)]
    assert nothing.values == plain.optuna.trials[0].values, "as the one that never grows"
    assert grown_later.values == plain.optuna.trials[3].values


@pytest.mark.slow
def test_deleting_what_is_shared_costs_time_only(plain, tmp_path):
    """Once while the study runs, once between two runs of it."""
    share_baselines(plain, tmp_path / "runs")
    file, trunks = write(tmp_path, FEW), tmp_path / "runs" / "tiny" / "trunks"
    heard = Heard(once("trial_completed", 0, lambda: shutil.rmtree(trunks)))
    study = optimize(file, workdir=tmp_path / "runs", device="cpu", trials=3, listener=heard)
    assert trained(study) == [(4, 0), (4, 0), (0, 4)]
    shutil.rmtree(trunks)
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    assert trained(study)[3:] == [(4, 0)]
    assert_same_results(study, plain)


TWICE = {
    "dtme_trunks": "select fingerprint from dtme_trunks group by fingerprint having count(*) > 1",
    "dtme_runs": (
        "select resolved_fingerprint from dtme_runs where state = 'complete' and origin_trial is null "
        "group by resolved_fingerprint having count(*) > 1"
    ),
    "dtme_baselines": "select task from dtme_baselines group by task having count(*) > 1",
}


def work_on(number: int, file: str, workdir: Path, trials: int) -> list[str]:
    """One of several workers; gives the baselines that it trained."""
    heard = Heard()
    optimize(file, workdir=workdir, device="cpu", trials=trials, listener=heard)
    return heard.trained


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_two_workers_train_nothing_twice(plain, tmp_path):
    """Each takes one of two equal proposals at the same moment; equal seeds propose the last ones."""
    points = [EVERY_LAYER_BY_HAND, EVERY_LAYER, TWO_LAYERS, by_conflict(0.5, 0.4)]
    file, workdir = write(tmp_path, points), tmp_path / "runs"
    first, second = run_together(work_on, 2, file, workdir, 6)
    assert isinstance(first, list) and isinstance(second, list), (first, second)
    assert sorted(first + second) == ["depth", "edge"]
    study = load_study("tiny", workdir=workdir)
    trials = study.optuna.trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    assert [trial.params for trial in trials[:4]] == points, "each point once"
    for trial in trials[:4]:
        (one,) = [other for other in complete(plain) if other.params == trial.params]
        assert trial.values == one.values
    with study.records.engine.connect() as connection:
        for table, query in TWICE.items():
            assert connection.execute(text(query)).all() == [], table
        num_shared = connection.execute(
            text("select count(*) from dtme_runs where origin_trial >= 0")
        ).scalar()
        assert num_shared >= 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 600.0], ids=["with a checkpoint", "without"])
def test_kill_9_between_fork_and_end(plain, tmp_path, checkpoint_seconds):
    """It goes on from its checkpoint, or forks again."""
    share_baselines(plain, tmp_path / "runs")
    changes = {"train.checkpoint_seconds": checkpoint_seconds}
    file, workdir = write(tmp_path, [UNEXPANDED, TWO_LAYERS], changes), tmp_path / "runs"
    heard = Heard()

    def die_at_step_4() -> None:
        heard.act = once("trial_evaluated", 4, lambda: os.kill(os.getpid(), signal.SIGKILL))

    heard.act = once("trial_started", 1, die_at_step_4)
    process = multiprocessing.get_context("fork").Process(
        target=optimize, args=(file,), kwargs={"workdir": workdir, "device": "cpu", "listener": heard}
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (workdir / "tiny" / "trials" / "0001" / "checkpoint.pt").is_file() == (checkpoint_seconds == 0)

    study = optimize(file, workdir=workdir, device="cpu")
    assert [retry_history(trial) for trial in complete(study)] == [[], [1]]
    assert_same_results(study, plain)
    assert trained(study) == [(4, 0), (2, 2)] and len(study.records.trunks("tiny")) == 1
