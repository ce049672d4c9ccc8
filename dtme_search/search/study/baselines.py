"""Single-task baselines: trained when missing, stored by fingerprint, shared by all studies of a database.

Which recipe they follow is part of the config of a run, see :mod:`dtme_search.search.space.recipes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from dtme_search.config import RunConfig, canonical
from dtme_search.errors import BaselineError, DivergedError
from dtme_search.search.data_shelf import DataShelf
from dtme_search.search.locks import held
from dtme_search.search.storage.records import Records
from dtme_search.search.storage.rows import BaselineRow
from dtme_search.search.trial.listener import Listener
from dtme_search.search.workspace import private_folder
from dtme_search.training import (
    Callbacks,
    Trainer,
    no_image_priors,
    run_within_memory,
    with_smaller_batches,
)
from dtme_search.training.disk import remove_checkpoint
from dtme_search.training.identity import RunContext, result_fingerprint
from dtme_search.version import __version__


@dataclass(frozen=True)
class Baselines:
    """Loads or trains baselines.

    Attributes:
        records: Where they are stored.
        shelf: Data.
        folder: Fingerprint -> folder of checkpoints.
        listener: Receives progress.
        should_stop: Called between steps; a stopped baseline resumes later.
        tells_known: Whether the listener also receives baselines that the database already has.
    """

    records: Records
    shelf: DataShelf
    folder: Callable[[str], Path]
    listener: Listener = field(default_factory=Listener)
    should_stop: Callable[[], bool] = lambda: False
    tells_known: bool = True

    def get(self, config: RunConfig, tasks: Sequence[str] = ()) -> dict[str, BaselineRow]:
        """Baselines of a run by task, training the missing ones.

        Args:
            config: The run.
            tasks: Which tasks; its primary ones by default.

        Raises:
            BaselineError: If one of them diverges.
            TrainingInterrupted: If ``should_stop`` returned true.
        """
        wanted = list(tasks or config.primary_tasks)
        rows = self.of_runs([(task, config.for_single_task(task)) for task in wanted])
        return {task: row for task, row in zip(wanted, rows, strict=True) if row is not None}

    def of_runs(
        self, runs: Sequence[tuple[str, RunConfig]], *, may_diverge: bool = False
    ) -> list[BaselineRow | None]:
        """Rows of single-task runs, given with their task, in order; the missing ones are trained.

        With ``may_diverge`` a run that diverges gives ``None``; otherwise it raises.
        """
        rows: dict[int, BaselineRow | None] = {}
        # Workers that start together take one each, then wait for those that others are training.
        for waits in (False, True):
            for index, (task, single) in enumerate(runs):
                if index in rows:
                    continue
                try:
                    row = self._one(single, task, index + 1, len(runs), waits=waits)
                except BaselineError:
                    if not may_diverge:
                        raise
                    rows[index] = None
                else:
                    rows |= {index: row} if row is not None else {}
        return [rows[index] for index in range(len(runs))]

    def _one(
        self, single: RunConfig, task: str, index: int, count: int, *, waits: bool
    ) -> BaselineRow | None:
        """A baseline, trained if missing; ``None`` if another worker is training it and this one moves on."""
        data = self.shelf.get(single)
        arithmetic = RunContext.of(single, data.device, self.shelf.team.size)
        fingerprint = result_fingerprint(single, data.fingerprint, arithmetic)
        if not self.tells_known and (stored := self.records.find_baseline(fingerprint)) is not None:
            return stored
        folder = private_folder(self.folder(fingerprint))
        lock = FileLock(folder / "running.lock")
        try:
            if not waits:
                lock.acquire(timeout=0)
            with held(lock, self.should_stop, lambda: self.listener.waiting(f"baseline {task}")):
                row = self.records.find_baseline(fingerprint)
                known = row is not None
                if row is None:
                    self.listener.baseline_started(task, index, count)
                    row = self.records.save_baseline(self._train(single, task, fingerprint, folder))
                remove_checkpoint(folder / "checkpoint.pt")
        except Timeout:
            return None
        except DivergedError as error:
            raise BaselineError(f"baseline {task}: {error}") from error
        finally:
            lock.release(force=True)
        self.listener.baseline_ended(task, row, trained=not known)
        self.listener.on_baseline_end(row, not known)
        return row

    def _train(self, config: RunConfig, task: str, fingerprint: str, folder: Path) -> BaselineRow:
        data = self.shelf.get(config)
        spec = data.specs[task]
        callbacks = Callbacks(on_progress=self.listener.progress, should_stop=self.should_stop)
        trainer, result = run_within_memory(
            lambda parts: Trainer.of_config(
                config, data, folder=folder, callbacks=callbacks, parts=parts, team=self.shelf.team
            )
        )
        priors = with_smaller_batches(
            lambda size: no_image_priors(data, trainer.split, size), config.train.eval_batch_size, data.device
        )
        return BaselineRow(
            fingerprint=fingerprint,
            task=task,
            metric=spec.metric,
            unit=spec.unit,
            value=result.metrics[task],
            prior_value=priors[task],
            higher_is_better=spec.higher_is_better,
            dataset=config.data.name,
            data_fingerprint=data.fingerprint,
            backbone=config.model.backbone,
            split=trainer.split,
            seed=config.seed,
            num_steps=result.total_steps,
            num_images=len(data.splits.train),
            seconds=sum(result.seconds.values()),
            seconds_per_step=result.seconds_per_step,
            config=json.dumps(canonical(config), sort_keys=True),
            code_version=__version__,
            created_at=datetime.now(UTC),
        )
