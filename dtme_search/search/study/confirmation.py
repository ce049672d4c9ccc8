"""Repeat the leaders of a study with further seeds: how much of their lead was luck?

A repeat trains what an export would train: the resolved config with its plan written out. It is judged
against single-task baselines of the same seed, if they are wanted, and against the unexpanded network of the
same seed, which is repeated too. The search's own seed is excluded, because the trial was selected for its
high value with that seed [ours].
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dtme_search.config import RunConfig, StudySource, dump_yaml, validate
from dtme_search.data import TaskData
from dtme_search.errors import BaselineError, ConfigError, TrainingError
from dtme_search.search.data_shelf import DataShelf
from dtme_search.search.reuse.context import TrialContext
from dtme_search.search.reuse.trunks import TrialTrunk
from dtme_search.search.stopping import StopSwitch
from dtme_search.search.storage.rows import BaselineRow, ConfirmationRow, RunRow
from dtme_search.search.storage.studies import stored_base_config
from dtme_search.search.study.baselines import Baselines
from dtme_search.search.study.leaders import FAILED_REPEAT_ATTR, leaders, origins, why_no_leader
from dtme_search.search.study.lifecycle import put_right
from dtme_search.search.study.loading import LoadedStudy, load_study
from dtme_search.search.study.place import DEFAULT_WORKDIR
from dtme_search.search.study.preparation import check_same_inputs
from dtme_search.search.study.presence import present
from dtme_search.search.study.threads import same_threads
from dtme_search.search.trial.events import tee
from dtme_search.search.trial.listener import Listener
from dtme_search.search.trial.outcome import compare
from dtme_search.search.workspace import Workspace, private_folder
from dtme_search.training import (
    Callbacks,
    Trainer,
    TrainingInterrupted,
    check_run,
    run_within_memory,
)
from dtme_search.training.disk import remove_checkpoint
from dtme_search.training.runtime import device_name
from dtme_search.training.team.leader import pick_team
from dtme_search.version import __version__

_LOOK_AGAIN_SECONDS = 1.0
"""Seconds between two looks at repeats that another process is training."""

_Against = Mapping[int, Mapping[str, BaselineRow]]
"""Seed -> task -> baseline."""


@dataclass(frozen=True)
class Repeat:
    """A trial to be trained again: its resolved config with another seed."""

    trial: int
    config: RunConfig


def confirm(
    study: StudySource,
    *,
    top: int = 3,
    seeds: int = 3,
    new_baselines: bool = True,
    storage: str | None = None,
    workdir: str | Path = DEFAULT_WORKDIR,
    device: str | None = None,
    devices_per_trial: int = 1,
    data_root: str | Path | None = None,
    listener: Listener | None = None,
) -> LoadedStudy:
    """Repeat the leaders of a study (front first, then by delta_m) with further seeds.

    Only missing repeats are trained; an interrupted one resumes from its checkpoint. Two processes share the
    work. All leaders get the same seeds, those after the seed of the base config, and so does the unexpanded
    trial that their gains are paired with, if the study has one.

    Args:
        study: Name of the study, the path of its YAML, or the study as it was built in Python.
        top: Number of leaders; trials of the same configuration count as one.
        seeds: Further seeds of each, including those it already has.
        new_baselines: Whether to train single-task baselines for each seed. Without them delta_m is over
            those of the search, which only scale the gains over the unexpanded network.
        storage: Database URL; see :func:`storage_url`.
        workdir: Default folder of studies.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default the best available.
        devices_per_trial: Devices that divide each batch: this one and those after it.
        data_root: Folder of the data set; by default that of the search.
        listener: Receives progress.

    Raises:
        TrainingError: If the study has no leader, or a repeat failed; the others are done by then.
        TrainingInterrupted: If a signal stopped it; the same call continues.
        DtmeSearchError: If something else is wrong that the user can fix.
    """
    for name, number in (("top", top), ("seeds", seeds)):
        if number < 1:
            raise ConfigError(f"confirm: {name} must be at least 1, got {number}.")
    hears = listener or Listener()
    loaded = load_study(study, storage=storage, workdir=workdir, writes=True)
    put_right(loaded.optuna, Workspace.of_study(loaded.place.workdir, loaded.name), loaded.records)
    base = stored_base_config(loaded.optuna)
    repeats = list(_planned(loaded, base.seed, top, seeds, data_root))
    if not repeats:
        raise TrainingError(why_no_leader(loaded))
    base = base.with_data_root(repeats[0].config.data.root)
    team = pick_team(device, devices_per_trial)
    shelf = DataShelf(team.device, on_progress=hears.data_reading, team=team)
    data = shelf.get(base)
    check_same_inputs(loaded.optuna, base, data.fingerprint)
    check_run(base, data, team.size)
    workspace = Workspace.of_study(Path(workdir), loaded.name)
    with StopSwitch() as switch, present(loaded.records.engine, loaded.name, "confirm") as told, team:
        hears = tee(hears, told)
        baselines = Baselines(loaded.records, shelf, workspace.baseline, hears, switch, tells_known=False)
        steps = tuple(sorted({repeat.config.expansion_step or 0 for repeat in repeats} - {0}))
        repeater = _Repeater(
            study=loaded,
            base=base,
            shelf=shelf,
            baselines=baselines,
            workspace=workspace,
            listener=hears,
            should_stop=switch,
            expansion_steps=steps,
            new_baselines=new_baselines,
        )
        with same_threads(loaded.optuna, shelf.device):
            failed = repeater.run(repeats)
    if failed:
        raise TrainingError(
            f"study {loaded.name}: {len(failed)} of {len(repeats)} repeats failed, the last with "
            f"{failed[-1].rstrip('.')}. Run the same command again to retry them."
        )
    return loaded


def _planned(
    study: LoadedStudy, base_seed: int, top: int, seeds: int, data_root: str | Path | None
) -> Iterator[Repeat]:
    """Seed by seed, so that leaders can be compared early and baselines are needed for one seed at a time."""
    chosen = []
    first = base_seed + study.config.seeds
    best = leaders(study, top)
    for run in [*best, *_unexpanded(study, best)]:
        config = validate(RunConfig, json.loads(run.config or ""), f"trial {run.trial}")
        # A study may search the seed itself.
        further = list(islice((seed for seed in count(first) if seed != config.seed), seeds))
        chosen.append((run.trial, config.with_data_root(data_root), further))
    for index in range(seeds):
        for number, config, further in chosen:
            yield Repeat(number, config.model_copy(update={"seed": further[index]}))


def _unexpanded(study: LoadedStudy, first: Sequence[RunRow]) -> list[RunRow]:
    """Runs without growth that the leaders are paired with and that are not leaders themselves."""
    runs = study.records.runs(study.name)
    origin = origins(runs)
    partners = {origin[run.paired_trial] for run in first if run.paired_trial in origin}
    return [run for run in runs if run.trial in partners - {run.trial for run in first} and run.config]


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
    new_baselines: bool

    def run(self, repeats: Sequence[Repeat]) -> list[str]:
        """Train the missing repeats; returns the reasons of those that failed."""
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
        row = self._standing(repeat)
        return row is not None and (row.baseline_seed is None or not self.new_baselines)

    def _standing(self, repeat: Repeat) -> ConfirmationRow | None:
        rows = self.study.records.confirmations(self.study.name)
        place = repeat.trial, repeat.config.seed
        return next((row for row in rows if (row.trial, row.seed) == place), None)

    def _wait(self, waiting: Sequence[Repeat]) -> None:
        self.listener.waiting(f"{len(waiting)} repeats that another process is training")
        if self.should_stop():
            raise TrainingInterrupted("stopped while waiting for another process")
        time.sleep(_LOOK_AGAIN_SECONDS)

    def _one(self, repeat: Repeat, folder: Path, index: int, total: int) -> str | None:
        """Train a repeat and store its result; returns the reason if it failed."""
        number, seed = repeat.trial, repeat.config.seed
        standing = self._standing(repeat)
        if standing is not None:
            data = self.shelf.get(repeat.config)
            judged = self._judged(json.loads(standing.metrics), self._against(repeat), seed, data)
            self.study.records.save_confirmation(self.study.name, replace(standing, **judged))
            return None
        self.listener.repeat_started(number, seed, index, total)
        attr = FAILED_REPEAT_ATTR.format(trial=number, seed=seed)
        try:
            row = self._train(repeat, self._against(repeat), folder)
        except (TrainingError, BaselineError) as error:
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

    def _against(self, repeat: Repeat) -> _Against:
        """Baselines for the seed of the search and, if wanted, for the repeat's own seed."""
        seeds = {self.base.seed, *([repeat.config.seed] if self.new_baselines else [])}
        configs = {seed: repeat.config.model_copy(update={"seed": seed}) for seed in sorted(seeds)}
        tasks = self.base.primary_tasks
        return {seed: self.baselines.get(config, tasks) for seed, config in configs.items()}

    def _train(self, repeat: Repeat, against: _Against, folder: Path) -> ConfirmationRow:
        config, data = repeat.config, self.shelf.get(repeat.config)
        (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
        callbacks = Callbacks(on_progress=self.listener.progress, should_stop=self.should_stop)
        trunk = self._trunk(repeat, data)
        trainer, result = run_within_memory(
            lambda parts: Trainer.of_config(
                config,
                data,
                folder=folder,
                callbacks=callbacks,
                trunk=trunk,
                parts=parts,
                team=self.shelf.team,
            )
        )
        return ConfirmationRow(
            trial=repeat.trial,
            seed=config.seed,
            **self._judged(result.metrics, against, config.seed, data),
            metrics=json.dumps(dict(result.metrics)),
            steps_trained=result.total_steps - result.steps_reused,
            steps_reused=result.steps_reused,
            seconds=sum(result.seconds.values()),
            split=trainer.split,
            device=device_name(data.device, self.shelf.team.size),
            code_version=__version__,
            created_at=datetime.now(UTC),
        )

    def _judged(
        self, metrics: Mapping[str, float], against: _Against, seed: int, data: TaskData
    ) -> dict[str, Any]:
        """What a repeat is worth over the baselines of its seed (or of the search), and over the latter."""
        of_search = compare(metrics, against[self.base.seed], data.specs)
        chosen = of_search
        if self.new_baselines:
            chosen = compare(metrics, against[seed], data.specs)
        return {
            "delta_m_percent": chosen.delta_m_percent,
            "gains_percent": json.dumps(dict(chosen.gains_percent)),
            "search_gains_percent": json.dumps(dict(of_search.gains_percent)),
            "baseline_seed": None if self.new_baselines else self.base.seed,
        }

    def _trunk(self, repeat: Repeat, data: TaskData) -> TrialTrunk:
        """Leaders that grow later share the training before that, as trials do; seeds share no trunks."""
        context = TrialContext(
            study=self.study.config,
            number=repeat.trial,
            first=repeat.trial,
            config=repeat.config,
            data=data,
            records=self.study.records,
            workspace=self.workspace,
            expansion_steps=self.expansion_steps,
            should_stop=self.should_stop,
            on_wait=self.listener.waiting,
            devices=self.shelf.team.size,
        )
        return TrialTrunk(context)
