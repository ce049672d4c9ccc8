"""Final training: all training ids, then the test split, against baselines trained the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dtme_search.config import RunConfig, TrainConfig, dump_yaml
from dtme_search.data import Split, TaskData
from dtme_search.models import MultiTaskViT, check_model, check_weights
from dtme_search.search.data_shelf import DataShelf
from dtme_search.search.stopping import StopSwitch
from dtme_search.search.storage.records import records_for
from dtme_search.search.storage.rows import BaselineRow
from dtme_search.search.storage.studies import check_storage, default_storage_url, open_storage
from dtme_search.search.study.baselines import Baselines
from dtme_search.search.study.weights import TrainedTrial
from dtme_search.search.trial.listener import Listener
from dtme_search.search.trial.outcome import Comparison, compare
from dtme_search.search.workspace import Workspace, private_folder
from dtme_search.tasks import TaskSpec, save_specs
from dtme_search.training import (
    Callbacks,
    Trainer,
    TrainingInterrupted,
    check_run,
    evaluate,
    evaluate_extra,
    pick_device,
    restore_model,
    run_within_memory,
    with_smaller_batches,
)
from dtme_search.training.identity import RunContext, result_fingerprint
from dtme_search.training.image_size import with_image_size
from dtme_search.training.published import has_seen_holdout
from dtme_search.training.runtime import run_numerics
from dtme_search.training.team.leader import pick_team

FINAL = "train"
"""Folder below the workdir for final training: its checkpoints and the database of its baselines."""
_READ: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class FinalResult:
    """Metrics of a model on a split.

    Attributes:
        split: The split they were measured on.
        num_images: Its number of images.
        size: Size of the labels that they were compared with, in words.
        specs: The tasks.
        metrics: Task -> metric; baselines, gains and delta_m refer to these.
        baselines: Task -> single-task baseline trained on the same ids; empty if none were wanted.
        folder: Where checkpoint and config are.
        against: What the baselines are, in words.
        extra_metrics: Task -> further metric -> value, to compare with publications (exact odsF of edges).
        has_seen_holdout: Whether it was trained on all training ids; a trial of a search was not.
    """

    split: str
    num_images: int
    size: str
    specs: Mapping[str, TaskSpec]
    metrics: Mapping[str, float]
    baselines: Mapping[str, BaselineRow]
    folder: Path
    against: str = ""
    extra_metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    has_seen_holdout: bool = True

    @property
    def gains_percent(self) -> Mapping[str, float]:
        """Signed gain by primary task; empty without baselines."""
        return self._comparison.gains_percent if self._comparison else {}

    @property
    def delta_m_percent(self) -> float | None:
        """Mean gain over the primary tasks, ``None`` without baselines."""
        return self._comparison.delta_m_percent if self._comparison else None

    @property
    def dead_tasks(self) -> tuple[str, ...]:
        """Tasks whose baseline or result does not clearly beat the no-image prior."""
        return self._comparison.dead_tasks if self._comparison else ()

    @cached_property
    def _comparison(self) -> Comparison | None:
        return compare(self.metrics, self.baselines, self.specs) if self.baselines else None


def train_final(
    config: RunConfig,
    name: str,
    *,
    workdir: Path,
    device: str | None = None,
    devices_per_trial: int = 1,
    storage: str | None = None,
    with_baselines: bool = True,
    listener: Listener | None = None,
) -> FinalResult:
    """Train a config on all training ids and measure it on the test split; resumes where it stopped.

    Args:
        config: The run, for example an export.
        name: Names the folder of the run together with its fingerprint.
        workdir: Where runs lie.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default the best available.
        devices_per_trial: Devices that divide each batch: this one and those after it.
        storage: Database for the baselines; SQLite below ``workdir`` by default.
        with_baselines: Also train single-task baselines on the same ids; delta_m needs them.
        listener: Receives progress.

    Raises:
        DtmeSearchError: If something is wrong that the user can fix.
        TrainingInterrupted: If a signal stopped it; the same call continues.
    """
    hears, config = listener or Listener(), with_image_size(config)
    # Read the test images now, so that a broken one is found before the training, not after it.
    team = pick_team(device, devices_per_trial)
    shelf = DataShelf(team.device, final=True, read=_READ, on_progress=hears.data_reading, team=team)
    url = storage or default_storage_url(FINAL, workdir)
    if with_baselines:
        check_storage(url)
    check_model(config.model, config.data.image_size, plugins=config.plugins)
    check_weights(config.model, config.data.image_size)
    data = shelf.get(config)
    check_run(config, data, team.size)

    workspace = Workspace.of_study(workdir, FINAL)
    arithmetic = RunContext.of(config, data.device, team.size)
    fingerprint = result_fingerprint(config, data.fingerprint, arithmetic)
    folder = private_folder(workspace.root / f"{name}-{fingerprint[:8]}")
    (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    save_specs(folder / "tasks.json", data.specs)
    baselines: dict[str, BaselineRow] = {}
    with StopSwitch() as switch, team:
        if with_baselines:
            records = records_for(open_storage(url))
            records.create_tables()
            baselines = Baselines(records, shelf, workspace.baseline, hears, switch).get(config)
        callbacks = Callbacks(on_progress=hears.progress, should_stop=switch)
        trainer, run = run_within_memory(
            lambda parts: Trainer.of_config(
                config, data, folder=folder, callbacks=callbacks, parts=parts, team=team
            )
        )
        extra = _extra(trainer.model, data, "test", config, tuple(run.metrics), _scored(hears, switch))
    result = FinalResult(
        split="test",
        num_images=len(data.splits.test),
        size=size_in_words(data),
        specs=data.specs,
        metrics=run.metrics,
        baselines=baselines,
        folder=folder,
        against=config.baselines.in_words(),
        extra_metrics=extra,
    )
    _write_metrics(result)
    return result


def _scored(listener: Listener, switch: StopSwitch) -> Callable[[int, int], None]:
    """Reports how many images are scored, and stops if it should."""

    def scored(done: int, total: int) -> None:
        listener.scoring(done, total)
        if switch():
            raise TrainingInterrupted("stopped while the trained model was measured")

    return scored


def _write_metrics(result: FinalResult) -> None:
    values = {
        "split": result.split,
        "size": result.size,
        "metrics": dict(result.metrics),
        "extra_metrics": result.extra_metrics,
        "delta_m_percent": result.delta_m_percent,
        "against": result.against,
        "baselines": [row.plain() for row in result.baselines.values()],
    }
    (result.folder / "metrics.json").write_text(json.dumps(values, indent=1), encoding="utf-8")


def evaluate_checkpoint(
    config: RunConfig,
    checkpoint: Path,
    split: Split,
    *,
    device: str | None = None,
    listener: Listener | None = None,
    look: Callable[[MultiTaskViT, TaskData], None] | None = None,
    trained: TrainedTrial | None = None,
) -> FinalResult:
    """Metrics of a checkpoint on the hold-out or the test split; only that split is read.

    Args:
        config: Config of the checkpoint.
        checkpoint: The file.
        split: Split to measure on.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default the best available.
        listener: Receives progress.
        look: Called with the model and the data afterwards, for pictures.
        trained: The trial whose network it is; on the hold-out its baselines are compared with.
    """
    hears = listener or Listener()
    final = split == "test"
    shelf = DataShelf(pick_device(device), final=final, read=(split,), on_progress=hears.data_reading)
    data = shelf.get(config)
    model = restore_model(checkpoint, config, data.specs, data.device)
    size = config.train.eval_batch_size
    with run_numerics(config.train, data.device):  # as the run itself was measured
        metrics = with_smaller_batches(
            lambda size: evaluate(model, data, split, _with_batches_of(size, config)), size, data.device
        )
    extra = _extra(model, data, split, config, tuple(metrics), hears.scoring)
    if look is not None:
        look(model, data)
    baselines, against = _written_baselines(checkpoint.parent, split, size_in_words(data))
    if trained is not None and split == "holdout":
        baselines, against = dict(trained.baselines), trained.against
    return FinalResult(
        split=split,
        num_images=len(data.splits.ids(split)),
        size=size_in_words(data),
        specs=data.specs,
        metrics=metrics,
        baselines=baselines,
        folder=checkpoint.parent,
        against=against,
        extra_metrics=extra,
        has_seen_holdout=has_seen_holdout(checkpoint),
    )


def _written_baselines(folder: Path, split: str, size: str) -> tuple[dict[str, BaselineRow], str]:
    """Baselines that `train` compared a run with, and what they are, if it measured the same thing."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        values = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        if (values["split"], values["size"]) == (split, size):
            rows = [BaselineRow.from_plain(each) for each in values["baselines"]]
            return {row.task: row for row in rows}, values["against"]
    return {}, ""


def size_in_words(data: TaskData) -> str:
    """Size at which the metrics of a run are measured."""
    return "the labels' own size" if data.scores_at_own_size else "{}x{}".format(*data.image_size)


def _extra(
    model: MultiTaskViT,
    data: TaskData,
    split: Split,
    config: RunConfig,
    tasks: Sequence[str],
    on_images: Callable[[int, int], None],
) -> dict[str, dict[str, float]]:
    return with_smaller_batches(
        lambda size: evaluate_extra(model, data, split, _with_batches_of(size, config), tasks, on_images),
        config.train.eval_batch_size,
        data.device,
    )


def _with_batches_of(size: int, config: RunConfig) -> TrainConfig:
    return config.train.model_copy(update={"eval_batch_size": size})
