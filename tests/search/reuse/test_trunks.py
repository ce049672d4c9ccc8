"""Runs that share their unexpanded beginning: the same numbers as alone, and nothing trained twice."""

from __future__ import annotations

import dataclasses
import logging
import os
import resource
import signal
import threading
import time

import pytest
import torch
from runs import CPU, assert_same_run, trainer, with_

from dtme_search.config import RunConfig, StudyConfig
from dtme_search.data import build_data
from dtme_search.search.reuse.context import TrialContext
from dtme_search.search.reuse.trunks import TrialTrunk, TrunkStore
from dtme_search.search.workspace import Workspace
from dtme_search.training import Callbacks, Trainer, TrainingInterrupted, identity

CONFLICT = {"expansion__policy": "conflict", "expansion__start": 0.5}
AUXILIARY = {
    "tasks": {"semseg": {}, "depth": {}, "normals": {"role": "auxiliary"}, "edge": {"role": "auxiliary"}}
}
STUDY = StudyConfig(name="s", config="demo", search={"train.lr": {"choices": [0.1]}})


class Ledger:
    """Stands for the SQL tables: remembers every stretch that was paid for."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, int]] = []

    def save_trunk(self, study: str, row) -> None:
        self.rows.append((row.fingerprint, row.from_step, row.to_step))


@pytest.fixture(scope="module")
def data():
    from tiny import TINY

    config = RunConfig.model_validate(TINY)
    return build_data(config.data, ("semseg", "depth", "normals", "edge"), CPU)


@pytest.fixture
def store(tmp_path) -> TrunkStore:
    return TrunkStore(tmp_path / "trunks", 2**30)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def forked(data, store, ledger):
    """Build the trainer of a run on the shared store."""

    def build(config: RunConfig, *, folder=None, candidates=(3, 5), in_store=store, **callbacks) -> Trainer:
        context = TrialContext(
            study=STUDY,
            number=0,
            first=0,
            config=config,
            data=data,
            records=ledger,
            workspace=Workspace(in_store.root.parent),
            expansion_steps=candidates,
        )
        trunk = TrialTrunk(context, in_store)
        return Trainer.of_config(config, data, folder=folder, callbacks=Callbacks(**callbacks), trunk=trunk)

    return build


def assert_equals_alone(run: Trainer, config: RunConfig, data) -> None:
    """A finished run against the same one without any trunk, bit for bit."""
    alone = trainer(config, data)
    expected = alone.run()
    assert_same_run(run, run.state.result(), alone, expected)
    assert run.state.report == alone.state.report
    assert [e.losses for e in run.state.evaluations] == [e.losses for e in alone.state.evaluations]


class TestAForkedRun:
    @pytest.mark.parametrize(
        "fields",
        [
            CONFLICT,
            {**CONFLICT, "expansion__start": 0.0},
            {**CONFLICT, "model__drop_path": 0.2, "train__grad_clip": 1.0, "train__warmup_steps": 3},
            {**CONFLICT, **AUXILIARY, "schedule__kind": "diminish", "schedule__half_life": 0.3},
            {**CONFLICT, **AUXILIARY, "schedule__kind": "switch", "schedule__switch_at": 0.2},
            {"expansion__policy": "none"},
            {**CONFLICT, "train__combine__kind": "famo"},
            {**CONFLICT, "train__ema": 0.9},
            {**CONFLICT, "expansion__range_operation": "lora", "model__drop_path": 0.2},
        ],
        ids=[
            *(
                "middle",
                "step-0",
                "stochastic-depth",
                "diminish",
                "switched-before",
                "never-grows",
                "famo",
                "average",
            ),
            "lora",
        ],
    )
    def test_equals_the_run_from_scratch(self, tiny_config, data, forked, fields):
        config = with_(tiny_config, **fields)
        forked(config).run()
        run = forked(with_(config, expansion__lr_multiplier=2.0))
        result = run.run()
        assert result.steps_reused == (0 if fields.get("expansion__start") == 0.0 else 5)
        assert_equals_alone(run, run.config, data)

    def test_after_an_interruption_between_fork_and_end(self, tiny_config, data, forked, tmp_path):
        config = with_(tiny_config, **CONFLICT)
        forked(config).run()
        steps = []
        first = forked(
            config, folder=tmp_path / "trial", should_stop=lambda: len(steps) > 0 and first.state.step >= 7,
            on_reuse=lambda reused, seconds: steps.append(reused),
        )  # fmt: skip
        with pytest.raises(TrainingInterrupted):
            first.run()
        assert first.state.step == 7 and steps == [5]
        again = forked(config, folder=tmp_path / "trial", on_reuse=lambda reused, _: steps.append(reused))
        assert again.run().steps_reused == 5 and steps == [5, 5]
        assert_equals_alone(again, config, data)

    def test_hears_the_evaluations_of_the_trunk_as_its_own(self, tiny_config, forked):
        config = with_(tiny_config, **CONFLICT, train__num_evaluations=5)
        heard = []
        forked(config, on_evaluate=heard.append).run()
        told = list(heard)
        heard.clear()
        forked(config, on_evaluate=heard.append).run()
        assert heard == told and [evaluation.step for evaluation in heard] == [2, 4, 6, 8, 10]

    def test_trains_each_stretch_once_whoever_comes_first(self, tiny_config, forked, ledger):
        """The late one first: the early one finds its snapshot on the way that the late one came."""
        for start in (0.5, 0.3, 0.5):
            forked(with_(tiny_config, **{**CONFLICT, "expansion__start": start})).run()
        forked(tiny_config).run()
        assert [(begin, end) for _, begin, end in ledger.rows] == [(0, 3), (3, 5)]

    def test_measures_conflicts_once_per_setting(self, tiny_config, forked, monkeypatch):
        from dtme_search.training.growth import Growth

        measured = []
        measure = Growth.measure
        monkeypatch.setattr(Growth, "measure", lambda self, *args: measured.append(1) or measure(self, *args))
        config = with_(tiny_config, **CONFLICT)
        first = forked(config).run()
        other = forked(with_(config, expansion__range_layer_ratio=0.0)).run()
        assert len(measured) == 1 and other.report == first.report and other.plan != first.plan
        assert other.seconds_saved > 0
        forked(with_(config, expansion__variance_ratio=10.0)).run()
        assert len(measured) == 2
        for _ in range(2):  # gradients are compared once, beside conflicts that alone would not do
            by_gradients = forked(with_(config, expansion__selection="gradient_similarity")).run()
            assert len(measured) == 3 and by_gradients.report.cosines is not None

    def test_two_at_once_share_one_training(self, tiny_config, data, forked, ledger):
        """One trains the trunk, the other waits for it; both go their own way from there."""
        configs = [with_(tiny_config, **CONFLICT, expansion__lr_multiplier=m) for m in (1.0, 2.0)]
        runs = [forked(config) for config in configs]
        threads = [threading.Thread(target=run.run) for run in runs]
        # Deterministic algorithms are a setting of the process: the first one to end must not switch it off.
        torch.use_deterministic_algorithms(True)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            torch.use_deterministic_algorithms(False)
        assert [(begin, end) for _, begin, end in ledger.rows] == [(0, 3), (3, 5)]
        assert sorted(run.state.steps_reused for run in runs)[-1] > 0
        for run, config in zip(runs, configs, strict=True):
            assert_equals_alone(run, config, data)


class TestWhenTheDiskFails:
    @pytest.mark.parametrize("damage", ["truncated", "corrupted"])
    def test_a_damaged_snapshot_is_named_removed_and_trained_again(
        self, tiny_config, data, forked, store, ledger, caplog, damage
    ):
        config = with_(tiny_config, **CONFLICT)
        forked(config, candidates=(5,)).run()
        (path,) = store.root.glob("*/snapshot-*.pt")
        content = bytearray(path.read_bytes())
        if damage == "truncated":
            del content[len(content) // 2 :]
        else:
            content[len(content) // 2] ^= 0xFF
        path.write_bytes(bytes(content))
        with caplog.at_level(logging.WARNING):
            run = forked(config, candidates=(5,))
            assert run.run().steps_reused == 0
        assert str(path) in caplog.text and "checksum" in caplog.text
        assert len(ledger.rows) == 2 and not path.exists()
        assert len(list(store.root.glob("*/snapshot-*.pt"))) == 1
        assert_equals_alone(run, config, data)

    def test_a_broken_report_is_measured_again(self, tiny_config, data, forked, store, caplog):
        config = with_(tiny_config, **CONFLICT)
        forked(config).run()
        (path,) = store.root.glob("*/conflicts-*.json")
        path.write_text(path.read_text()[:100])
        run = forked(config)
        with caplog.at_level(logging.WARNING):
            run.run()
        assert str(path) in caplog.text
        assert_equals_alone(run, config, data)

    def test_a_full_disk_leaves_the_run_without_a_snapshot(self, tiny_config, data, forked, store, caplog):
        """The limit on file sizes makes writing fail as a full disk does, in the middle of the file."""
        config = with_(tiny_config, **CONFLICT)
        run = forked(config)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            with caplog.at_level(logging.WARNING):
                run.run()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, ignored)
        assert caplog.text.count("continuing without it") == 2
        assert not list(store.root.glob("*/*snapshot*"))
        assert_equals_alone(run, config, data)

    def test_deleting_everything_costs_time_only(self, tiny_config, data, forked, store, ledger):
        import shutil

        config = with_(tiny_config, **CONFLICT)
        forked(config).run()
        shutil.rmtree(store.root)
        run = forked(config)
        assert run.run().steps_reused == 0 and len(ledger.rows) == 4
        assert_equals_alone(run, config, data)


class TestTheStore:
    def test_what_was_used_longest_ago_leaves_first(self, tiny_config, forked, store):
        forked(with_(tiny_config, **CONFLICT), candidates=(5,)).run()
        (old,) = store.root.glob("*/snapshot-*.pt")
        size = sum(path.stat().st_size for path in store.root.glob("*/*"))
        small = dataclasses.replace(store, limit_bytes=int(1.5 * size))
        os.utime(old, (time.time() - 100,) * 2)
        forked(with_(tiny_config, **CONFLICT, seed=1), candidates=(5,), in_store=small).run()
        (new,) = store.root.glob("*/snapshot-*.pt")
        assert new.parent != old.parent

    def test_one_that_is_in_use_stays(self, tiny_config, forked, store):
        forked(with_(tiny_config, **CONFLICT), candidates=(5,)).run()
        (path,) = store.root.glob("*/snapshot-*.pt")
        full = dataclasses.replace(store, limit_bytes=0)
        with store.lock(path.parent.name):
            full.tidy()
            assert path.exists()
        full.tidy()
        assert not path.exists() and not list(store.root.glob("*/conflicts-*"))

    def test_another_version_of_the_code_is_another_trunk(self, tiny_config, forked, ledger, monkeypatch):
        config = with_(tiny_config, **CONFLICT)
        forked(config).run()
        monkeypatch.setattr(identity, "code_fingerprint", lambda: "of tomorrow")
        assert forked(config).run().steps_reused == 0
        assert len(ledger.rows) == 4

    def test_whoever_waits_can_be_stopped(self, tiny_config, forked, store):
        config = with_(tiny_config, **CONFLICT)
        run = forked(config, candidates=(5,))
        told = []
        run.trunk.context = dataclasses.replace(
            run.trunk.context, should_stop=lambda: True, on_wait=told.append
        )
        with store.lock(run.trunk._fingerprint(5)), pytest.raises(TrainingInterrupted, match="waiting"):
            run.run()
        assert told == ["the trunk up to step 5"]
