"""A study from its file to its rows: every number recomputed, nothing trained twice, failures told."""

from __future__ import annotations

import pytest
import torch
from optuna.trial import TrialState
from tiny import SEARCH, grown, write_tiny_study
from watching import Heard

from dtme_search.config import RunConfig, StudyConfig, load_run_config
from dtme_search.data import build_data
from dtme_search.errors import StorageError, TrainingError
from dtme_search.models import build_model, describe_backbone
from dtme_search.search import LoadedStudy, load_study, optimize, train_baselines
from dtme_search.training import Trainer

CPU = torch.device("cpu")


def states(study: LoadedStudy) -> list[str]:
    return [trial.state.name.lower() for trial in study.optuna.get_trials(deepcopy=False)]


def gains_by_hand(study: LoadedStudy, trial: int) -> dict[str, float]:
    """Signed gains at the last evaluation of a trial, from nothing but SQL rows."""
    baselines = {row.task: row for row in study.records.baselines()}
    rows = study.records.evaluations(study.name, trial)
    last = max(row.step for row in rows)
    return {
        row.task: 100
        * (row.value - baselines[row.task].value)
        / baselines[row.task].value
        * (1 if baselines[row.task].higher_is_better else -1)
        for row in rows
        if row.step == last
    }


def last_metrics(study: LoadedStudy, trial: int) -> dict[str, float]:
    rows = study.records.evaluations(study.name, trial)
    return {row.task: row.value for row in rows if row.step == rows[-1].step}


def retrained(config: RunConfig) -> dict[str, float]:
    """Metrics of a run of its own, without study and database."""
    data = build_data(config.data, tuple(config.tasks), CPU)
    means = data.target_means()
    model = build_model(config.model, data.specs, data.image_size, seed=config.seed, output_means=means)
    return dict(Trainer(config, model, data).run().metrics)


class TestAFinishedStudy:
    @pytest.fixture
    def study(self, finished_study):
        return finished_study.study

    def test_it_has_its_total_and_the_known_points_come_first(self, study):
        assert states(study) == ["complete", "complete", "fail", "complete", "complete", "complete"]
        first, second = study.optuna.trials[:2]
        assert first.params == {"expansion.policy": "none", "train.lr": 1e-3}
        assert second.params == {"expansion.policy": "conflict", "expansion.start": 0.0, "train.lr": 1e-3}

    def test_values_follow_from_the_evaluations_and_the_baselines(self, study):
        runs = {run.trial: run for run in study.records.runs(study.name)}
        for trial in study.optuna.get_trials(states=(TrialState.COMPLETE,)):
            gains = gains_by_hand(study, trial.number)
            delta_m, overhead = trial.values
            run = runs[trial.number]
            assert (run.delta_m_percent, run.param_overhead_percent) == (delta_m, overhead)
            assert delta_m == pytest.approx(sum(gains.values()) / 4, abs=1e-9)
            assert trial.user_attrs["gains_percent"] == pytest.approx(gains, abs=1e-4)
            stored = study.records.evaluations(study.name, trial.number)
            assert {row.task: row.gain_percent for row in stored if row.step == 10} == pytest.approx(gains)

    def test_overhead_is_that_of_the_groups_in_the_plan(self, study, tiny_config):
        info = describe_backbone(tiny_config.model, tiny_config.data.image_size)
        overheads = {}
        for trial in study.optuna.get_trials(states=(TrialState.COMPLETE,)):
            # Weight and bias for a modulated group, one token for an expanded one.
            sizes = {"modulate": 2 * info.embed_dim, "expand": info.embed_dim}
            added = sum(sizes[row.operation] for row in study.records.plan(study.name, trial.number))
            assert trial.values[1] == pytest.approx(100 * added / info.num_parameters, abs=1e-12)
            overheads[trial.number] = added / info.embed_dim
        assert overheads == {0: 0, 1: 24, 3: 24, 4: 20, 5: 36}

    def test_a_limit_makes_a_trial_infeasible_and_keeps_it_off_the_front(self, study):
        runs = {run.trial: run for run in study.records.runs(study.name)}
        assert {number: run.feasible for number, run in runs.items()} == {
            0: True, 1: True, 2: None, 3: True, 4: True, 5: False,
        }  # fmt: skip
        violation = study.optuna.trials[5].constraints["param_overhead_percent"]
        assert violation == pytest.approx(runs[5].param_overhead_percent - 2.5)
        front = {trial.number for trial in study.optuna.best_trials}
        assert 0 in front and 5 not in front and 2 not in front

    def test_a_diverged_trial_is_told_and_the_study_goes_on(self, study):
        trial, run = study.optuna.trials[2], study.records.runs(study.name)[2]
        assert trial.user_attrs["error"].startswith("DivergedError: step ")
        assert run.state == "failed" and run.delta_m_percent is None
        assert run.error.startswith("Traceback") and "is not finite" in run.error
        assert study.records.evaluations(study.name, 2) == []

    def test_run_facts_are_complete(self, study):
        for run in study.records.runs(study.name):
            assert run.split == "holdout" and run.seed == 0 and run.total_steps == 10
            assert run.device and run.timm_version and run.started_at < run.finished_at
        run = study.records.runs(study.name)[3]
        inside = run.seconds_train + run.seconds_evaluate + run.seconds_measure + run.seconds_checkpoint
        assert run.seconds_measure > 0
        assert run.seconds_total == pytest.approx(inside + run.seconds_overhead)
        assert run.expansion_step == 5 and (run.steps_trained, run.steps_reused) == (5, 5)
        assert RunConfig.model_validate_json(run.config).expansion.policy == "fixed"
        pairs = study.records.conflicts(study.name, 3)
        assert len(pairs) == 3 * 6 and all(0 <= row.range_rate <= 1 for row in pairs)

    def test_no_checkpoint_outlives_its_trial(self, finished_study):
        assert not list(finished_study.workdir.rglob("checkpoint.pt"))

    @pytest.mark.parametrize("number", [0, 3, 4])
    def test_the_resolved_config_trains_to_the_same_metrics(self, finished_study, number):
        folder = finished_study.workdir / "tiny" / "trials" / f"{number:04d}"
        config = load_run_config(str(folder / "resolved.yaml"))
        assert config.expansion.policy == ("none" if number == 0 else "fixed")
        assert retrained(config) == last_metrics(finished_study.study, number)

    def test_it_opens_again_by_name_and_by_file(self, finished_study):
        for name in ("tiny", finished_study.file):
            study = load_study(name, workdir=finished_study.workdir)
            assert isinstance(study.config, StudyConfig) and study.config == finished_study.study.config
            assert len(study.optuna.trials) == 6

    def test_optimize_again_does_nothing_until_more_trials_are_asked_for(
        self, finished_study, study_copy, tmp_path
    ):
        heard = Heard()
        workdir = tmp_path / "copied-runs"
        again = optimize(finished_study.file, workdir=workdir, device="cpu", listener=heard)
        assert (heard.trained, heard.started, len(again.optuna.trials)) == ([], [], 6)
        assert heard.known == ["semseg", "depth", "normals", "edge"]

        more = optimize(finished_study.file, workdir=workdir, device="cpu", trials=6, listener=heard)
        assert heard.trained == [] and heard.completed[-1] == 6 + len(heard.stopped)
        finished = more.optuna.get_trials(states=(TrialState.COMPLETE,))
        assert len(finished) == 6
        number, before, total, params = heard.started[-1]
        assert (before, total) == (5, 6)
        assert params == more.optuna.trials[number].params


def test_the_searched_points_are_those_of_the_space_and_seeded(tmp_path):
    """Two equal studies in two databases propose and measure the same."""
    changes = {"tasks": {"depth": {}, "edge": {}}, "train.num_steps": 4}
    file = write_tiny_study(tmp_path, changes, trials=3)
    first, second = (optimize(file, workdir=tmp_path / name, device="cpu") for name in "ab")
    assert states(first) == ["complete"] * 3
    assert [trial.params for trial in first.optuna.trials] == [trial.params for trial in second.optuna.trials]
    assert [trial.values for trial in first.optuna.trials] == [trial.values for trial in second.optuna.trials]
    for trial in first.optuna.trials:
        layers = [name for name in trial.params if name.startswith("expansion.layers.")]
        assert len(layers) == (3 if trial.params["expansion.policy"] == "per_layer" else 0)


def test_studies_of_one_database_share_baselines(tmp_path):
    storage = f"sqlite:///{tmp_path / 'all.db'}"
    options = {"storage": storage, "workdir": tmp_path / "runs", "device": "cpu"}
    first, second, other = (Heard() for _ in range(3))
    file = write_tiny_study(tmp_path, {"train.num_steps": 4}, name="one", trials=1)
    rows = train_baselines(file, listener=first, **options)
    assert first.trained == ["semseg", "depth", "normals", "edge"] == list(rows)

    file = write_tiny_study(tmp_path, {"train.num_steps": 4}, name="two", trials=1)
    study = optimize(file, listener=second, **options)
    assert second.trained == [] and second.known == first.trained and states(study) == ["complete"]
    assert study.records.baselines() == list(rows.values())

    changes = {"train.num_steps": 4, "tasks": {"depth": {}}, "data.holdout_seed": 1}
    train_baselines(write_tiny_study(tmp_path, changes, name="three"), listener=other, **options)
    assert other.trained == ["depth"], "another hold-out is other work"
    assert len(study.records.baselines()) == 5


def test_one_objective_with_a_pruner(tmp_path):
    """The second trial learns nothing sensible, so its first delta_m lies below the median of the first."""
    file = write_tiny_study(
        tmp_path,
        trials=2,
        objectives={"delta_m_percent": "maximize"},
        search=SEARCH | {"train.lr": {"choices": [1e-3, 10.0]}},
        baselines={"recipe": "base"},
        pruner={"name": "median", "num_startup_trials": 1, "num_warmup_evaluations": 0},
        enqueue=[{"expansion.policy": "none", "train.lr": lr} for lr in (1e-3, 10.0)],
    )
    heard = Heard()
    study = optimize(file, workdir=tmp_path / "runs", device="cpu", listener=heard)
    assert states(study) == ["complete", "pruned"], "a pruned trial counts towards the total"
    good, bad = study.optuna.trials
    assert list(good.intermediate_values) == [0, 1] and list(bad.intermediate_values) == [0]
    assert good.value == good.intermediate_values[1] and bad.value < good.intermediate_values[0]
    assert study.optuna.best_trial.number == 0
    run = study.records.runs("tiny")[1]
    assert run.state == "pruned" and run.steps_trained == 5
    assert run.reason == f"median: delta_m {bad.value:+.2f} % at step 5" and run.error is None
    assert bad.user_attrs["pruned"] == run.reason
    assert heard.stopped == [(1, "pruned", run.reason)]
    assert not list((tmp_path / "runs" / "tiny" / "trials").rglob("checkpoint.pt"))


def test_a_study_whose_trials_all_diverge_stops_with_the_cause(tmp_path):
    """The message of each differs: another task, another step, another last value."""
    search = {"train.lr": {"low": 1e19, "high": 1e20}}
    fixed = {"recipe": "base"}
    file = write_tiny_study(tmp_path, trials=8, max_failures_in_a_row=2, search=search, baselines=fixed)
    with pytest.raises(TrainingError, match=r"study tiny: 2 trials in a row .*DivergedError: step .*\. Fix"):
        optimize(file, workdir=tmp_path / "runs", device="cpu")
    study = load_study("tiny", workdir=tmp_path / "runs")
    assert states(study) == ["fail", "fail"]
    assert study.optuna.trials[0].params != study.optuna.trials[1].params
    for run in study.records.runs("tiny"):
        assert run.state == "failed" and run.error.startswith("Traceback") and "DivergedError" in run.error


def test_another_search_under_the_same_name_is_refused(finished_study, study_copy, tmp_path):
    file = write_tiny_study(tmp_path, search=SEARCH, limits={"param_overhead_percent": 2.5})
    heard = Heard()
    with pytest.raises(StorageError, match=r"study 'tiny' .*search\.train\.lr was .*, is absent"):
        optimize(file, workdir=tmp_path / "copied-runs", device="cpu", listener=heard)
    assert heard.known == heard.trained == []
    assert len(study_copy.optuna.get_trials()) == 6


@pytest.mark.parametrize("what", ["data", "weights"])
def test_changed_inputs_under_the_same_name_are_refused(finished_study, study_copy, tmp_path, what):
    assert f"dtme:{what}" in study_copy.optuna.user_attrs
    study_copy.optuna.set_user_attr(f"dtme:{what}", "of before the files were replaced")
    heard = Heard()
    with pytest.raises(StorageError, match=f"study tiny: its {what} must stay the same, got"):
        optimize(finished_study.file, workdir=tmp_path / "copied-runs", device="cpu", listener=heard)
    assert heard.known == heard.trained == []


def test_dead_tasks_are_named(tmp_path):
    """After four steps no task beats the average training label."""
    changes = {"tasks": {"depth": {}, "edge": {}}, "train.num_steps": 4}
    file = write_tiny_study(tmp_path, changes, trials=1, enqueue=[grown()])
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    (run,) = study.records.runs("tiny")
    dead = run.dead_tasks.split(",")
    assert "depth" in dead and study.optuna.trials[0].user_attrs["dead_tasks"] == dead


@pytest.mark.parametrize("count_from", ["start", "expansion"])
def test_a_growth_that_comes_to_nothing_resolves_to_the_same_run(tmp_path, count_from):
    """No layer reaches the thresholds; the auxiliary task is switched off on the way."""
    changes = {
        "tasks": {"depth": {}, "edge": {"role": "auxiliary"}},
        "schedule": {"kind": "switch", "switch_at": 0.6},
        "expansion": {"num_images": 6, "range_threshold": 1.0, "null_threshold": 1.0},
        "train.count_from": count_from,
    }
    enqueue = [{"expansion.policy": "conflict", "expansion.start": 0.5}]
    file = write_tiny_study(tmp_path, changes, trials=1, enqueue=enqueue)
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    (run,) = study.records.runs("tiny")
    assert run.operations == "none none none" and run.param_overhead_percent == 0
    assert run.total_steps == run.steps_trained == (10 if count_from == "start" else 15)
    config = RunConfig.model_validate_json(run.config)
    assert (config.expansion.policy, config.total_steps) == ("none", run.total_steps)
    assert retrained(config) == last_metrics(study, 0)


@pytest.mark.parametrize(
    "chosen",
    [
        {"sampler": {"name": "nsga2"}},
        {"sampler": {"name": "random"}},
        {"sampler": {"name": "gp", "num_startup_trials": 1}, "objectives": {"delta_m_percent": "maximize"}},
        {"sampler": {"name": "gp", "num_startup_trials": 1}},
        {"sampler": {"name": "tpe", "num_startup_trials": 1}},
        {"pruner": {"name": "halving"}, "objectives": {"delta_m_percent": "maximize"}},
        {"pruner": {"name": "hyperband"}, "objectives": {"delta_m_percent": "maximize"}},
    ],
    ids=str,
)
def test_every_sampler_and_pruner_runs_under_a_limit(tmp_path, chosen):
    changes = {"tasks": {"depth": {}}, "train.num_steps": 2, "expansion.layers": ["none"] * 3}
    search = {"expansion.policy": {"choices": ["none", "per_layer"]}, "train.lr": {"low": 1e-4, "high": 1e-3}}
    search["expansion.layers.1"] = {"choices": ["none", "both"]}
    limits, fixed = {"param_overhead_percent": 0.1}, {"recipe": "base"}
    file = write_tiny_study(
        tmp_path, changes, trials=3, search=search, limits=limits, baselines=fixed, **chosen
    )
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    assert len(study.optuna.trials) == 3 and set(states(study)) <= {"complete", "pruned"}
