"""Database of a study: opening it, continuing it, refusing what is not the same search."""

from __future__ import annotations

import sqlite3
import stat
import sys
import traceback
from datetime import UTC, datetime, timedelta

import optuna
import pytest
from processes import run_together
from sqlalchemy import text
from test_space import DESIGN, RunConfig, design_space, make_space, make_study

from dtme_search.errors import ConfigError, StorageError
from dtme_search.search.space.known_points import enqueued_point
from dtme_search.search.storage import database as engine
from dtme_search.search.storage.database import mask_url
from dtme_search.search.storage.studies import (
    FINGERPRINT_ATTR,
    check_continues,
    check_storage,
    default_storage_url,
    load_existing,
    open_storage,
    open_study,
)
from dtme_search.search.study.sampling import build_pruner, build_sampler, sampler_seed
from dtme_search.search.trial.heartbeat import silent_seconds, vouch_for

PASSWORD = "hunter2-marker"


@pytest.fixture
def storage(storage_url):
    opened = open_storage(storage_url)
    yield opened
    opened.remove_session()
    opened.engine.dispose()


@pytest.fixture
def local_storage(tmp_path):
    opened = open_storage(default_storage_url("test", tmp_path))
    yield opened
    opened.engine.dispose()


def start(storage, study=None, space=None, seed=0):
    study = study or make_study()
    return open_study(
        storage,
        study,
        space or design_space(),
        sampler=build_sampler(study, seed),
        pruner=build_pruner(study, 8),
    )


class TestStudy:
    def test_a_study_is_created_and_continued(self, storage):
        first = start(storage)
        assert first.metric_names == ["delta_m_percent", "param_overhead_percent"]
        assert [direction.name for direction in first.directions] == ["MAXIMIZE", "MINIMIZE"]
        first.enqueue_trial(enqueued_point(design_space(), "paper"))
        first.optimize(lambda trial: (design_space().suggest(trial).expansion.start, 0.0), n_trials=2)
        again = start(storage, seed=1)
        assert [trial.number for trial in again.trials] == [0, 1]
        assert again.user_attrs[FINGERPRINT_ATTR] == design_space().fingerprint
        assert design_space().suggest(again.trials[0]).expansion.policy == "conflict"

    def test_what_a_study_may_change(self, storage):
        start(storage)
        changed = make_study(
            trials=3, seed=5, sampler={"name": "random"}, enqueue=["paper"], description="text"
        )
        start(storage, changed, make_space(base=RunConfig.model_validate({"data": {"root": "/elsewhere"}})))

    def test_a_study_made_by_others_is_refused(self, storage):
        other = optuna.create_study(study_name="test", storage=storage, directions=["maximize", "minimize"])
        other.add_trial(optuna.create_trial(values=[0.0, 0.0]))
        with pytest.raises(StorageError, match="'test' was not made by dtme-search"):
            start(storage)

    def test_an_unknown_study_lists_those_that_are_there(self, storage, storage_url):
        with pytest.raises(StorageError, match="holds no study yet"):
            load_existing(storage, "nyud")
        start(storage)
        assert load_existing(storage, "test").study_name == "test"
        with pytest.raises(StorageError, match=r"no study is named 'tset'\. Did you mean 'test'"):
            load_existing(storage, "tset")

    def test_attributes_may_be_long(self, storage):
        """MySQL's plain text ends after 64 kB; our base config and search space are such attributes."""
        long = {"größe %": "ü{}" * 100_000}
        study = start(storage)
        study.set_user_attr("dtme:base", long)
        trial = study.ask()
        trial.set_user_attr("error", long)
        choices = [f"{number:04d}" * 5 for number in range(5000)]
        trial.suggest_categorical("expansion.start", choices)
        again = load_existing(storage, "test")
        assert again.user_attrs["dtme:base"] == again.trials[0].user_attrs["error"] == long
        assert list(again.trials[0].distributions["expansion.start"].choices) == choices

    def test_names_that_differ_in_case_are_two_studies(self, storage):
        start(storage)
        start(storage, make_study(name="Test"))
        assert sorted(optuna.get_all_study_names(storage)) == ["Test", "test"]

    def test_a_session_is_the_same_whatever_the_server_is_set_to(self, storage, storage_url):
        """Heartbeats are compared by the server's clock; a local one jumps when summer begins."""
        for opened in (storage.engine, engine.make_engine(storage_url)):
            with opened.connect() as connection:
                there = connection.scalar(text("SELECT CURRENT_TIMESTAMP"))
                there = datetime.fromisoformat(str(there)).replace(tzinfo=None)
                assert abs(there - datetime.now(UTC).replace(tzinfo=None)) < timedelta(minutes=5)
                if opened.dialect.name == "mysql":
                    assert connection.get_isolation_level() == "READ COMMITTED"
                    assert "STRICT" in connection.scalar(text("SELECT @@sql_mode"))
            opened.dispose()

    def test_silence_is_counted_by_the_clock_of_the_database(self, storage):
        study = start(storage)
        living, silent, mute = (study.ask()._trial_id for _ in range(3))
        for trial_id in (living, silent):
            vouch_for(study, trial_id)
        with storage.engine.begin() as connection:
            connection.execute(
                text("UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00:00' WHERE trial_id = :id"),
                {"id": silent},
            )
        found = silent_seconds(storage.engine, [living, silent, mute])
        assert found.keys() == {living, silent}
        assert abs(found[living]) < 60 and found[silent] > 5 * 365 * 24 * 3600

    def test_a_looker_creates_nothing(self, storage_url, tmp_path):
        for _ in range(2):
            with pytest.raises(StorageError, match="dtme-search optimize"):
                open_storage(storage_url, create=False)
        assert not (tmp_path / "studies").exists()

    def test_a_check_finds_what_opening_would_find_and_creates_nothing(self, storage_url, tmp_path):
        assert not check_storage(storage_url)
        assert not (tmp_path / "studies").exists()
        opened = open_storage(storage_url)
        assert check_storage(storage_url)
        check_continues(opened, make_study(), design_space())  # no study of this name
        assert optuna.get_all_study_names(opened) == []
        start(opened)
        check_continues(opened, make_study(trials=3), design_space())
        with pytest.raises(StorageError, match=r"limits\.step_cost_ratio was absent, is 2\.0"):
            check_continues(opened, make_study(limits={"step_cost_ratio": 2.0}), design_space())
        opened.remove_session()
        opened.engine.dispose()

    def test_a_looker_finds_what_is_there(self, storage, storage_url):
        start(storage)
        again = open_storage(storage_url, create=False)
        assert load_existing(again, "test").study_name == "test"
        again.engine.dispose()

    @pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
    def test_processes_that_start_at_once_share_one_study(self, storage_url):
        numbers = run_together(ask_at_once, 4, storage_url)
        assert set(numbers) == {0, 1, 2, 3}, "\n".join(map(str, numbers))


def ask_at_once(number: int, url: str) -> int:
    return start(open_storage(url), seed=number).ask().number


class TestRefusal:
    """What differs is worked out in Python, so one kind of database is enough."""

    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            ("low: 0.2", "low: 0.1", r"search.expansion.range_threshold.low was 0.2, is 0.1\. Give"),
            ("[conflict, per_layer]", "[per_layer, conflict]", "search.expansion.policy.choices was .*, is"),
            ("schedule.kind: diminish", "schedule.kind: switch", "half_life.when.schedule.kind was"),
            ("range_threshold:", "null_threshold:", "range_threshold was .*null_threshold was absent"),
        ],
    )
    def test_a_changed_space_is_refused(self, local_storage, old, new, told):
        start(local_storage)
        search = DESIGN.replace(old, new)
        with pytest.raises(StorageError, match=f"study 'test' in .* searches something else: .*{told}"):
            start(local_storage, make_study(search), make_space(search))

    def test_a_changed_base_config_is_refused(self, local_storage):
        start(local_storage)
        space = make_space(base=RunConfig.model_validate({"train": {"lr": 0.5}}))
        with pytest.raises(
            StorageError, match=r"config\.train\.lr was 2e-05, is 0\.5\. Give .* another `name:`"
        ):
            start(local_storage, space=space)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"objectives": {"delta_m_percent": "maximize"}}, "objectives was"),
            (
                {"objectives": {"delta_m_percent": "minimize", "step_cost_ratio": "minimize"}},
                "objectives was",
            ),
            ({"limits": {"param_overhead_percent": 1.0}}, "limits.param_overhead_percent was absent, is 1.0"),
        ],
    )
    def test_changed_objectives_and_limits_are_refused(self, local_storage, change, told):
        start(local_storage)
        with pytest.raises(StorageError, match=told):
            start(local_storage, make_study(**change))


class TestSqlite:
    def test_default_url_lies_in_a_private_folder_of_the_study(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        url = default_storage_url("demo")
        assert url == f"sqlite:///{tmp_path}/dtme-runs/demo/study.db"
        open_storage(url).engine.dispose()
        folder = tmp_path / "dtme-runs" / "demo"
        assert (folder / "study.db").is_file()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_awkward_folder_names_work(self, tmp_path):
        url = default_storage_url("demo", tmp_path / "a {b} 100%#?")
        open_storage(url).engine.dispose()
        assert (tmp_path / "a {b} 100%#?" / "demo" / "study.db").is_file()

    @pytest.mark.parametrize(("kind", "mode"), [("ext4", "wal"), ("nfs4", "delete")])
    def test_write_ahead_log_on_local_disks_only(self, tmp_path, monkeypatch, kind, mode):
        mounts = tmp_path / "mounts"
        mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {tmp_path} {kind} rw 0 0\n")
        monkeypatch.setattr(engine, "_MOUNTS", mounts)
        opened = open_storage(default_storage_url("demo", tmp_path))
        with opened.engine.connect() as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == mode
            assert connection.execute(text("PRAGMA synchronous")).scalar() == (1 if mode == "wal" else 2)
        opened.engine.dispose()

    def test_a_file_that_is_no_database_is_refused(self, tmp_path):
        path = tmp_path / "study.db"
        path.write_text("something else " * 100)
        with pytest.raises(StorageError, match=r"study\.db: file is not a database"):
            open_storage(f"sqlite:///{path}")

    def test_tables_of_another_optuna_are_refused(self, tmp_path):
        url = default_storage_url("demo", tmp_path)
        open_storage(url).engine.dispose()
        with sqlite3.connect(tmp_path / "demo" / "study.db") as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'v99'")
        connection.close()
        with pytest.raises(StorageError, match="of another version of Optuna"):
            open_storage(url)

    def test_a_folder_that_cannot_be_made_is_one_line(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="file: the database or its folder cannot be created"):
            open_storage(f"sqlite:///{tmp_path}/file/study.db")

    def test_a_database_in_memory_is_refused(self):
        with pytest.raises(StorageError, match="must name a file"):
            open_storage("sqlite://")


class TestUrls:
    @pytest.mark.parametrize(
        "url",
        [
            f"postgresql://ann:{PASSWORD}@127.0.0.1:1/studies",
            f"postgresql+psycopg://ann:{PASSWORD}@127.0.0.1:1/studies",
            f"postgresql://127.0.0.1:1/studies?user=ann&password={PASSWORD}",
        ],
    )
    def test_an_unreachable_server_is_one_line_without_the_password(self, url, caplog):
        with pytest.raises(StorageError, match=r"^postgresql\+psycopg://.*refused") as caught:
            open_storage(url)
        shown = "".join(traceback.format_exception(caught.value)) + caplog.text
        assert PASSWORD not in shown
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            (f"postgresql//ann:{PASSWORD}@host/studies", "'postgresql://...' must be a database URL"),
            (f"postgresql://ann:{PASSWORD}@host:port/studies", "'postgresql://...' must be a database URL"),
            (f"postgresql://ann:{PASSWORD}@x@host/studies", "an @ in a password as %40"),
            (f"ann:{PASSWORD}@host/studies", "must be a database URL"),
            ("study.db", "'study.db' must be a database URL"),
            ("", "must be a database URL"),
            (f"postgrsql://ann:{PASSWORD}@host/studies", "must begin with a kind of database"),
        ],
    )
    def test_a_malformed_url_is_one_line_without_the_password(self, url, message):
        with pytest.raises(StorageError, match=message.replace("...", r"\*\*\*")) as caught:
            open_storage(url)
        shown = "".join(traceback.format_exception(caught.value))
        assert PASSWORD not in shown and PASSWORD not in mask_url(url)

    @pytest.mark.parametrize(
        ("module", "url", "extra"),
        [
            ("psycopg", "postgresql://ann:pw@host/studies", "postgres"),
            ("pymysql", "mysql://ann:pw@host/studies", "mysql"),
            ("pymysql", "mariadb://ann:pw@host/studies", "mysql"),
        ],
    )
    def test_a_missing_driver_names_the_extra(self, monkeypatch, module, url, extra):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(StorageError, match=rf"pip install 'dtme-search\[{extra}\]'"):
            open_storage(url)

    @pytest.mark.parametrize(
        ("url", "masked"),
        [
            ("postgresql://a:secret@h/d", "postgresql+psycopg://a:***@h/d"),
            ("postgresql://a:s:e/c%40@h:5/d", "postgresql+psycopg://a:***@h:5/d"),
            ("mariadb://a:secret@h/d", "mysql+pymysql://a:***@h/d"),
            ("mysql://h/d?passwd=secret&ssl=1", "mysql+pymysql://h/d?passwd=***&ssl=1"),
            ("sqlite:////data/study.db", "sqlite:////data/study.db"),
        ],
    )
    def test_mask_url(self, url, masked):
        assert mask_url(url) == masked


class TestSamplers:
    @pytest.mark.parametrize("name", ["tpe", "nsga2", "random", "gp"])
    def test_a_seed_gives_the_same_trials_again(self, name):
        search = "expansion.start: {low: 0.0, high: 0.9}\nexpansion.policy: {choices: [none, conflict]}"
        config, space = make_study(search, sampler={"name": name}), make_space(search)

        def params(seed):
            study = optuna.create_study(
                directions=["maximize", "minimize"], sampler=build_sampler(config, seed)
            )
            study.optimize(lambda trial: (space.suggest(trial).expansion.start, 1.0), n_trials=3)
            return [trial.params for trial in study.trials]

        assert params(1) == params(1)
        assert params(1) != params(2)

    def test_gp_needs_a_space_without_conditions(self):
        with pytest.raises(
            ConfigError, match=r"must not be gp .* search\.expansion\.range_layer_ratio\.when"
        ):
            build_sampler(make_study(sampler={"name": "gp"}), 0)

    def test_seeds_differ_by_worker_and_by_what_is_there(self):
        seeds = {sampler_seed(base, worker, n) for base in (0, 1) for worker in range(4) for n in range(50)}
        assert len(seeds) == 400
        assert max(seeds) < 2**32
        assert sampler_seed(3, 1, 7) == sampler_seed(3, 1, 7)

    @pytest.mark.parametrize("name", ["none", "median", "halving", "hyperband"])
    def test_pruners_spare_the_best_and_stop_the_worst(self, name):
        config = make_study(
            objectives={"delta_m_percent": "maximize"},
            pruner={"name": name, "num_startup_trials": 2, "num_warmup_evaluations": 2},
        )
        study = optuna.create_study(
            study_name="test", direction="maximize", pruner=build_pruner(config, num_evaluations=8)
        )
        stopped_at = {}

        def objective(trial):
            quality = -float(trial.number)
            for index in range(8):
                trial.report(quality, index)
                if trial.should_prune():
                    stopped_at[trial.number] = index
                    raise optuna.TrialPruned
            return quality

        study.optimize(objective, n_trials=12)
        assert 0 not in stopped_at
        assert bool(stopped_at) == (name != "none")
        if name == "median":
            assert stopped_at == dict.fromkeys(range(2, 12), 2)
