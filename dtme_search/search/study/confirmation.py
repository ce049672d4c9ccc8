"""Repeat the leaders of a study with further seeds: how much of their lead was luck?

A repeat trains what an export would train, the resolved config with its plan written out, and is judged
against single-task baselines of the same seed. The search's own seed is not among them: its value was
chosen for being high [ours].
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path

from filelock import FileLock, Timeout

from dtme_search.config import RunConfig, dump_yaml, validate
from dtme_search.data import TaskData
from dtme_search.errors import ConfigError, TrainingError
from dtme_search.search.data_shelf import DataShelf
from dtme_search.search.reuse.trunks import TrialTrunk, TrunkStore
from dtme_search.search.stopping import StopSwitch
from dtme_search.search.storage.records import BaselineRow, ConfirmationRow
from dtme_search.search.storage.studies import stored_base_config
from dtme_search.search.study.baselines import Baselines
from dtme_search.search.study.leaders import FAILED_REPEAT_ATTR, leaders, why_no_leader
from dtme_search.search.study.loading import DEFAULT_WORKDIR, LoadedStudy, load_study
from dtme_search.search.study.preparation import check_same_data
from dtme_search.search.trial.listener import Listener
from dtme_search.search.trial.outcome import compare
from dtme_search.search.workspace import Workspace, private_folder
from dtme_search.training import (
    Callbacks,
    Trainer,
    TrainingInterrupted,
    check_run,
    pick_device,
    run_within_memory,
)
from dtme_search.training.checkpoint import remove_checkpoint
from dtme_search.training.runtime import device_name
from dtme_search.version import __version__

_LOOK_AGAIN_SECONDS = 1.0
"""Time between two looks at repeats that another process trains."""


@dataclass(frozen=True)
class Repeat:
    """A trial to train again: its resolved config with another seed."""

    trial: int
    config: RunConfig


def confirm(
    study: str,
    *,
    top: int = 3,
    seeds: int = 3,
    storage: str | None = None,
    workdir: Path = DEFAULT_WORKDIR,
    device: str | None = None,
    data_root: str | None = None,
    listener: Listener | None = None,
) -> LoadedStudy:
    """Repeat the leaders of a study (front first, then by delta_m) with further seeds.

    Only repeats that are missing are trained; one that was interrupted goes on from its checkpoint. Two
    processes share the work. All leaders get the same seeds, those after the seed of the base config.

    Args:
        study: Name of the study, or the path of its YAML.
        top: Number of leaders; trials of the same configuration count as one.
        seeds: Further seeds of each, counted with those it already has.
        storage: Database URL; see :func:`storage_url`.
        workdir: Where studies lie by default.
        device: ``cpu``, ``cuda`` or ``cuda:N``; the best there is by default.
        data_root: Folder of the data set; that of the search by default.
        listener: Hears of progress.

    Raises:
        TrainingError: If the study has no leader, or a repeat failed; the others are done by then.
        TrainingInterrupted: If a signal stopped it; the same call goes on.
        DtmeSearchError: If something else is wrong that the user can mend.
    """
    for name, number in (("top", top), ("seeds", seeds)):
        if number < 1:
            raise ConfigError(f"confirm: {name} must be at least 1, got {number}.")
    hears = listener or Listener()
    loaded = load_study(study, storage=storage, workdir=workdir)
    base = stored_base_config(loaded.optuna)
    repeats = list(_planned(loaded, base.seed, top, seeds, data_root))
    if not repeats:
        raise TrainingError(why_no_leader(loaded))
    base = base.with_data_root(repeats[0].config.data.root)
    shelf = DataShelf(pick_device(device), on_progress=hears.data_reading)
    data = shelf.get(base)
    check_same_data(loaded.optuna, data.fingerprint)
    check_run(base, data)
    workspace = Workspace.of_study(workdir, loaded.name)
    with StopSwitch() as switch:
        baselines = Baselines(loaded.records, shelf, workspace.baseline, hears, switch)
        steps = tuple(sorted({repeat.config.expansion_step or 0 for repeat in repeats} - {0}))
        failed = _Repeater(loaded, base, shelf, baselines, workspace, hears, switch, steps).run(repeats)
    if failed:
        raise TrainingError(
            f"study {loaded.name}: {len(failed)} of {len(repeats)} repeats failed, the last with "
            f"{failed[-1].rstrip('.')}. The same command tries them again."
        )
    return loaded


def _planned(
    study: LoadedStudy, base_seed: int, top: int, seeds: int, data_root: str | None
) -> Iterator[Repeat]:
    """Seed by seed, so that leaders can be compared early, and baselines are needed one seed at a time."""
    chosen = []
    for run in leaders(study, top):
        config = validate(RunConfig, json.loads(run.config or ""), f"trial {run.trial}")
        # A study may search the seed itself.
        further = list(islice((seed for seed in count(base_seed + 1) if seed != config.seed), seeds))
        chosen.append((run.trial, config.with_data_root(data_root), further))
    for index in range(seeds):
        for number, config, further in chosen:
            yield Repeat(number, config.model_copy(update={"seed": further[index]}))


@dataclass
class _Repeater:
    study: LoadedStudy
    base: RunConfig
    shelf: DataShelf
    baselines: Baselines
    workspace: Workspace
    listener: Listener
    should_stop: Callable[[], bool]
    expansion_steps: tuple[int, ...]

    def run(self, repeats: Sequence[Repeat]) -> list[str]:
        """Do what is missing; gives the reasons of those that failed."""
        waiting = [repeat for repeat in repeats if not self._is_done(repeat)]
        total, failed = len(waiting), list[str]()
        while waiting:
            elsewhere = []
            for index, repeat in enumerate(waiting, start=1 + total - len(waiting)):
                folder = private_folder(self.workspace.repeat(repeat.trial, repeat.config.seed))
                try:
                    with FileLock(folder / "running.lock", timeout=0):
                        reason = None if self._is_done(repeat) else self._one(repeat, folder, index, total)
                except Timeout:
                    elsewhere.append(repeat)
                else:
                    failed += [reason] if reason else []
            waiting = elsewhere
            if waiting:
                self._wait(waiting)
        return failed

    def _is_done(self, repeat: Repeat) -> bool:
        rows = self.study.records.confirmations(self.study.name)
        return any((row.trial, row.seed) == (repeat.trial, repeat.config.seed) for row in rows)

    def _wait(self, waiting: Sequence[Repeat]) -> None:
        self.listener.waiting(f"{len(waiting)} repeats that another process trains")
        if self.should_stop():
            raise TrainingInterrupted("stopped while waiting for another process")
        time.sleep(_LOOK_AGAIN_SECONDS)

    def _one(self, repeat: Repeat, folder: Path, index: int, total: int) -> str | None:
        """Train a repeat and keep its result; gives the reason if it failed."""
        number, seed = repeat.trial, repeat.config.seed
        against = self.baselines.get(repeat.config, self.base.primary_tasks)
        self.listener.repeat_started(number, seed, index, total)
        attr = FAILED_REPEAT_ATTR.format(trial=number, seed=seed)
        try:
            row = self._train(repeat, against, folder)
        except TrainingError as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self.study.optuna.set_user_attr(attr, reason)
            self.listener.repeat_failed(number, seed, reason)
            return reason
        self.study.records.save_confirmation(self.study.name, row)
        if self.study.optuna.user_attrs.get(attr):
            self.study.optuna.set_user_attr(attr, "")
        remove_checkpoint(folder / "checkpoint.pt")
        self.listener.repeat_ended(row)
        return None

    def _train(self, repeat: Repeat, against: Mapping[str, BaselineRow], folder: Path) -> ConfirmationRow:
        config, data = repeat.config, self.shelf.get(repeat.config)
        (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
        callbacks = Callbacks(on_progress=self.listener.progress, should_stop=self.should_stop)
        trunk = self._trunk(repeat, data)
        trainer, result = run_within_memory(
            lambda parts: Trainer.of_config(
                config, data, folder=folder, callbacks=callbacks, trunk=trunk, parts=parts
            )
        )
        comparison = compare(result.metrics, against, data.specs)
        return ConfirmationRow(
            trial=repeat.trial,
            seed=config.seed,
            delta_m_percent=comparison.delta_m_percent,
            gains_percent=json.dumps(dict(comparison.gains_percent)),
            metrics=json.dumps(dict(result.metrics)),
            steps_trained=result.total_steps - result.steps_reused,
            steps_reused=result.steps_reused,
            seconds=sum(result.seconds.values()),
            split=trainer.split,
            device=device_name(data.device),
            code_version=__version__,
            created_at=datetime.now(UTC),
        )

    def _trunk(self, repeat: Repeat, data: TaskData) -> TrialTrunk:
        """Leaders that grow later share what comes before, as trials do; each seed has its own trunks."""
        return TrialTrunk(
            TrunkStore.of_study(self.workspace, self.study.config.reuse),
            repeat.config,
            data,
            self.expansion_steps,
            self.study.name,
            repeat.trial,
            self.study.records,
            self.should_stop,
            self.listener.waiting,
        )
