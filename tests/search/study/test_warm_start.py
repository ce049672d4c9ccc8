"""Trials of another study as knowledge for the sampler: translated, marked, added once, never a result."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from tiny import SEARCH, grown, write_tiny_study
from watching import Heard

from dtme_search.config import base_config, load_study_config
from dtme_search.errors import ConfigError, ExportError, StorageError, TrainingError
from dtme_search.reporting import best_trial, export_trial, front_table, trials_table
from dtme_search.search import load_study, optimize, own_trials
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.storage.trials import FOREIGN_ATTR, enqueue, is_foreign
from dtme_search.search.study.lifecycle import check_failures, num_finished, num_left
from dtme_search.search.study.warm_start import read_knowledge

TWO = {"tasks": {"depth": {}, "edge": {}}, "train.num_steps": 2}


class HeardKnowledge(Heard):
    """Also remembers what is taken over."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[str, int, int]] = []
        self.added: list[tuple[str, int, float | None]] = []

    def knowledge_found(self, study, num_fitting, num_trials):
        self.found.append((study, num_fitting, num_trials))

    def knowledge_added(self, study, num_added, delta_m_shift):
        self.added.append((study, num_added, delta_m_shift))


def space_of(file: str) -> SearchSpace:
    study = load_study_config(file)
    return SearchSpace.from_study(study, base_config(study, Path(file).parent), num_layers=3)


def knowledge(finished_study, folder, **fields):
    """What the finished study (0 unexpanded, 1 paper, 3 conflict, 4 and 5 per layer) knows for a new one."""
    file = write_tiny_study(folder, name="new", **fields)
    return read_knowledge(
        "tiny",
        load_study_config(file),
        space_of(file),
        storage=None,
        here=f"sqlite:///{folder / 'new.db'}",
        workdir=finished_study.workdir,
    )


class TestTranslation:
    def test_by_name_and_without_what_the_space_lacks(self, finished_study, tmp_path):
        """The other study searched train.lr too."""
        found = knowledge(finished_study, tmp_path)
        assert (found.study, found.num_trials) == ("tiny", 5)
        assert [trial.number for trial in found.trials] == [0, 1, 3, 4, 5]
        by_number = {trial.number: trial for trial in found.trials}
        assert by_number[0].params == {"expansion.policy": "none"} and by_number[0].never_grew
        assert by_number[3].params == grown() and not by_number[3].never_grew
        assert by_number[4].params == grown("none", "modulate", "both")
        for trial in found.trials:
            assert list(trial.values) == finished_study.study.optuna.trials[trial.number].values

    def test_what_the_other_study_did_not_search_has_its_base_value(self, finished_study, tmp_path):
        search = SEARCH | {
            "train.batch_size": {"low": 2, "high": 8},
            "train.weight_decay": {"choices": [7.0]},
        }
        assert knowledge(finished_study, tmp_path, search=search).trials == ()
        del search["train.weight_decay"]
        found = knowledge(finished_study, tmp_path, search=search)
        assert {trial.params["train.batch_size"] for trial in found.trials} == {4} and len(found.trials) == 5

    def test_a_trial_that_does_not_fit_is_left_out(self, finished_study, tmp_path):
        search = SEARCH | {
            "expansion.start": {
                "low": 0.25,
                "high": 0.75,
                "when": {"expansion.policy": ["conflict", "per_layer"]},
            }
        }
        found = knowledge(finished_study, tmp_path, search=search)
        assert [trial.number for trial in found.trials] == [0, 3, 4], "1 and 5 grow at the start"

    def test_constraints_are_those_of_the_new_limits(self, finished_study, tmp_path):
        assert all(trial.constraints == {} for trial in knowledge(finished_study, tmp_path).trials)
        found = knowledge(finished_study, tmp_path, limits={"param_overhead_percent": 1.8})
        for trial in found.trials:
            assert trial.constraints == {"param_overhead_percent": trial.values[1] - 1.8}

    def test_other_objectives_are_refused(self, finished_study, tmp_path):
        with pytest.raises(
            ConfigError, match=r"same objectives \(delta_m_percent: maximize\), got 'tiny' with"
        ):
            knowledge(finished_study, tmp_path, objectives={"delta_m_percent": "maximize"})

    def test_a_sampler_that_would_not_learn_is_refused(self, finished_study, tmp_path):
        with pytest.raises(ConfigError, match=r"learns from .* got nsga2"):
            knowledge(finished_study, tmp_path, sampler={"name": "nsga2"})


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A study of two tasks warmed by one of fewer steps in another workdir; and what was heard."""
    folder = tmp_path_factory.mktemp("warm")
    points = ["unexpanded", grown(), grown("both", "both", "both")]
    limits = {"param_overhead_percent": 1.0}
    old = write_tiny_study(folder, TWO, name="old", trials=3, enqueue=points, limits=limits)
    optimize(old, workdir=folder / "there", device="cpu")
    new = write_tiny_study(
        folder, TWO | {"train.num_steps": 3}, name="new", trials=2, enqueue=["unexpanded"], limits=limits
    )
    heard = HeardKnowledge()
    options = {
        "workdir": folder / "here",
        "device": "cpu",
        "warm_start_from": "old",
        "warm_start_storage": f"sqlite:///{folder / 'there' / 'old' / 'study.db'}",
        "listener": heard,
    }
    return optimize(new, **options), heard, new, options


class TestAWarmStudy:
    def test_the_sampler_knows_the_others_before_its_first_proposal(self, warm):
        study, heard, *_ = warm
        assert heard.found == [("old", 3, 3)]
        trials = study.optuna.trials
        assert [is_foreign(trial) for trial in trials] == [False, True, True, True, False]
        assert all(trial.state == TrialState.COMPLETE for trial in trials)
        mark = trials[2].user_attrs[FOREIGN_ATTR]
        assert (mark["study"], mark["trial"]) == ("old", 1) and mark["storage"].endswith("there/old/study.db")
        assert (
            trials[3].constraints["param_overhead_percent"]
            > 0
            >= trials[1].constraints["param_overhead_percent"]
        )

    def test_delta_m_is_shifted_by_the_unexpanded_points(self, warm):
        study, heard, _, options = warm
        old = load_study("old", storage=options["warm_start_storage"]).optuna.trials
        trials = study.optuna.trials
        shift = trials[0].values[0] - old[0].values[0]
        assert heard.added == [("old", 3, pytest.approx(shift))] and shift != 0
        for theirs, taken in zip(old, trials[1:4], strict=True):
            assert taken.values == pytest.approx([theirs.values[0] + shift, theirs.values[1]])
        assert trials[1].values == pytest.approx(trials[0].values)

    def test_only_its_own_trials_are_results(self, warm, tmp_path):
        study, heard, *_ = warm
        assert [trial.number for trial in own_trials(study.optuna)] == [0, 4]
        assert [start[:3] for start in heard.started] == [(0, 0, 2), (4, 1, 2)]
        assert num_finished(study.optuna) == 2 and num_left(study.optuna, 3) == 1
        table = trials_table(study)
        assert table["trial"].tolist() == [0, 4] and table["delta_m_percent"].notna().all()
        assert set(front_table(study)["trial"]) <= {0, 4} and best_trial(study) in (0, 4)
        assert [run.trial for run in study.records.runs("new")] == [0, 4]
        with pytest.raises(ExportError, match=r"study new: trial 2 belongs to another study"):
            export_trial(study, 2, tmp_path / "out.yaml", force=True)

    def test_again_adds_nothing_twice_and_goes_on(self, warm):
        _, _, file, options = warm
        heard = HeardKnowledge()
        again = optimize(file, trials=3, **(options | {"listener": heard}))
        assert heard.found == [("old", 3, 3)] and heard.added == []
        assert sum(map(is_foreign, again.optuna.trials)) == 3
        assert [trial.number for trial in own_trials(again.optuna)] == [0, 4, 5]

    def test_a_warm_study_passes_on_only_its_own(self, warm, tmp_path):
        *_, options = warm
        target = write_tiny_study(tmp_path, TWO, name="third")
        found = read_knowledge(
            "new", load_study_config(target), space_of(target), storage=None,
            here=f"sqlite:///{tmp_path / 'x.db'}", workdir=options["workdir"],
        )  # fmt: skip
        assert {trial.number for trial in found.trials} <= {0, 4, 5} and found.num_trials in (2, 3)


def foreign(study: optuna.Study, **attrs) -> None:
    mark = {FOREIGN_ATTR: {"study": "old", "trial": 0, "storage": "x"}}
    room = optuna.distributions.FloatDistribution(0.0, 1.0)
    study.add_trial(
        optuna.create_trial(params={"x": 0.5}, distributions={"x": room}, user_attrs=mark | attrs, value=1.0)
    )


def test_a_point_that_only_a_foreign_trial_has_is_queued_once():
    study = optuna.create_study()
    foreign(study)
    for _ in range(2):
        enqueue(study, {"x": 0.5})
    assert [trial.state for trial in own_trials(study)] == [TrialState.WAITING]


def test_foreign_trials_do_not_break_a_row_of_failures():
    study = optuna.create_study()
    for _ in range(2):
        failed = optuna.create_trial(state=TrialState.FAIL, user_attrs={"error": "OSError: disk"})
        study.add_trial(failed)
        foreign(study)
    with pytest.raises(TrainingError, match="2 trials in a row failed"):
        check_failures(study, 2)


def test_foreign_trials_do_not_make_the_median_pruner_start_early(tmp_path):
    from dtme_search.search.study.sampling import build_pruner

    file = write_tiny_study(
        tmp_path,
        objectives={"delta_m_percent": "maximize"},
        pruner={"name": "median", "num_startup_trials": 2},
    )
    study = optuna.create_study(direction="maximize", pruner=build_pruner(load_study_config(file), 4))
    for _ in range(5):
        foreign(study)
    verdicts = []
    for level in (3.0, 2.0, 1.0):
        trial = study.ask()
        for step in range(3):
            trial.report(level, step)
        verdicts.append(trial.should_prune())
        study.tell(trial, level)
    assert verdicts == [False, False, True]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tinny", r"--warm-start-from: .* holds no study 'tinny'\. Did you mean 'tiny'\?"),
        ("zzz", r"holds no study 'zzz'\. Known: tiny\."),
    ],
)
def test_an_unknown_study_is_told_with_the_nearest(finished_study, tmp_path, name, reason):
    file = write_tiny_study(tmp_path, TWO, name="new")
    with pytest.raises(StorageError, match=reason):
        optimize(file, workdir=finished_study.workdir, device="cpu", warm_start_from=name)
    assert not (finished_study.workdir / "new").exists()


def test_an_unknown_study_of_a_database_is_told_with_the_nearest(finished_study, tmp_path):
    storage = f"sqlite:///{finished_study.workdir / 'tiny' / 'study.db'}"
    file = write_tiny_study(tmp_path, TWO, name="new")
    with pytest.raises(StorageError, match=r"no study is named 'tinny'\. Did you mean 'tiny'\?"):
        optimize(file, workdir=tmp_path, device="cpu", warm_start_from="tinny", warm_start_storage=storage)


def test_a_study_cannot_warm_itself(finished_study):
    with pytest.raises(StorageError, match="must name another study, got 'tiny' itself"):
        optimize(finished_study.file, workdir=finished_study.workdir, device="cpu", warm_start_from="tiny")
