"""A delta_m is against baselines of the trial's recipe, of tuned ones, or of those that every place names."""

import pytest
from tiny import write_tiny_study

from dtme_search.config import RunConfig, load_run_config
from dtme_search.errors import StorageError
from dtme_search.reporting import export_best, trials_table, write_report
from dtme_search.search import optimize, train_baselines
from dtme_search.search.study.leaders import leaders

pytestmark = pytest.mark.slow

ALONE = {"tasks": {"depth": {}}, "train.num_steps": 6}
LR = {"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}}


def of_trials(study):
    return [(run, RunConfig.model_validate_json(run.config)) for run in study.records.runs(study.name)]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    file = write_tiny_study(folder, ALONE, search=LR, trials=2, baselines={"tune": 2})
    return optimize(file, workdir=folder / "runs", device="cpu"), folder


def test_a_study_of_one_task_gains_nothing_whatever_its_recipe(tmp_path):
    search = {"train.lr": {"choices": [1e-4, 5e-3]}, "tasks.depth.weight": {"choices": [1.0, 3.0]}}
    file = write_tiny_study(tmp_path, ALONE, search=search, trials=3)
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    assert [run.delta_m_percent for run in study.records.runs("tiny")] == [0.0, 0.0, 0.0]
    trained = {(config.train.lr, config.tasks["depth"].weight) for _, config in of_trials(study)}
    # Only recipes that a trial asked for are paid for.
    assert len(study.records.baselines()) == len(trained) > 1


def test_tuned_baselines_are_the_best_of_their_recipes_and_all_trials_have_them(tuned):
    study, _ = tuned
    rows = study.records.baselines()
    best = min(rows, key=lambda row: row.value)  # a distance
    assert len(rows) == 2
    for run, config in of_trials(study):
        assert best.fingerprint in run.baselines
        assert config.baselines.tried == 2
        assert config.for_single_task("depth").train.lr == config.baselines.recipes["depth"]["train.lr"]
        value = study.records.evaluations("tiny", run.trial)[-1].value
        assert run.delta_m_percent == pytest.approx(100 * (best.value - value) / best.value)


def test_what_a_delta_m_is_against_is_said_by_export_and_report(tuned):
    study, folder = tuned
    words = "single-task baselines tuned over 2 recipes each"
    exported = export_best(study, folder / "best.yaml", force=True)
    assert words in exported.read_text(encoding="utf-8")
    assert words in write_report(study, folder / "report.md").read_text(encoding="utf-8")
    # Whoever trains the file compares with the same recipe.
    (run,) = leaders(study, 1)
    assert load_run_config(str(exported)).baselines == RunConfig.model_validate_json(run.config).baselines


def test_fixed_baselines_are_named_and_shared_by_all_trials(tmp_path):
    search = {"train.lr": {"choices": [1e-4, 5e-3]}}
    file = write_tiny_study(tmp_path, ALONE, search=search, trials=2, baselines={"recipe": "base"})
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    assert len(study.records.baselines()) == 1
    assert all(abs(gain) > 0 for gain in trials_table(study)["delta_m_percent"])
    text = write_report(study, tmp_path / "report.md").read_text(encoding="utf-8")
    assert "baselines of the base recipe (train.lr 0.001), not of the trial's own" in text
    assert "of the same recipe" not in text


def test_a_study_keeps_the_rule_it_began_with(tmp_path):
    search = {"train.lr": {"choices": [1e-4, 5e-3]}}
    for rule in ({"recipe": "base"}, {"recipe": "trial"}):
        file = write_tiny_study(tmp_path, ALONE, search=search, trials=1, baselines=rule)
        if rule["recipe"] == "trial":
            with pytest.raises(StorageError, match="baselines was absent, is"):
                optimize(file, workdir=tmp_path / "runs", device="cpu")
        else:
            optimize(file, workdir=tmp_path / "runs", device="cpu")


def test_the_command_trains_every_recipe_that_trials_may_ask_for(tmp_path):
    search = {"train.lr": {"choices": [1e-4, 5e-3]}}
    file = write_tiny_study(tmp_path, ALONE, search=search)
    (row,) = train_baselines(file, workdir=tmp_path / "runs", device="cpu").values()
    study = optimize(file, workdir=tmp_path / "runs", trials=1, device="cpu")
    assert len(study.records.baselines()) == 3  # those of both choices, and the base config's 0.001
    assert row.value in {each.value for each in study.records.baselines()}
