"""Data maps image by image: which images are easy, undecided, hard, or perhaps labelled wrongly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dtme_search.config import RunConfig
from dtme_search.data import TaskData, build_data
from dtme_search.errors import ConfigError, ExportError
from dtme_search.reporting.targets import write_csv
from dtme_search.reporting.task_likeness import DataMap
from dtme_search.search import LoadedStudy
from dtme_search.training import pick_device

COLUMNS = ("trial", "task", "image", "confidence", "variability", "correctness")


def save_image_map(study: LoadedStudy, maps: Sequence[DataMap], path: Path, data_root: str | None) -> None:
    """Write the measures of every image, task and trial as csv; an image without a label is left out.

    Args:
        study: The study of the maps.
        maps: Data maps of its trials.
        path: File to write.
        data_root: Folder of the data set, if the study does not know it. Only names of images are read.

    Raises:
        ConfigError: If the data set cannot be opened, or the file exists.
        ExportError: If it cannot be written.
    """
    if path.exists():
        raise ConfigError(f"{path} already exists. Give --images another name.")
    runs = {run.trial: run for run in study.records.runs(study.name)}
    configs = [RunConfig.model_validate_json(runs[kept.trial].config or "{}") for kept in maps]
    data = _names_only(configs, data_root)
    try:
        rows = (
            row
            for kept, config in zip(maps, configs, strict=True)
            for row in _rows(kept, _ids(data.for_tasks(tuple(config.tasks)), config))
        )
        write_csv(path, COLUMNS, rows, mode="x")
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror}. Give another --images.") from error


def _names_only(configs: Sequence[RunConfig], data_root: str | None) -> TaskData:
    """The data of some trials, for all of their tasks; no image is read beyond a look at the first ones."""
    section = configs[0].data
    root = section.root if data_root is None else data_root
    behind = section.model_copy(update={"storage": "loader", "loader_workers": 0, "root": root})
    tasks = tuple(dict.fromkeys(task for config in configs for task in config.tasks))
    return build_data(behind, tasks, pick_device("cpu"), read=())


def _ids(data: TaskData, config: RunConfig) -> list[str]:
    """Ids of the scored images, in the order of the scores."""
    count = config.train.statistics.map_images
    assert count is not None, "only such trials keep a data map"
    order = data.analysis_order(count, config.data.holdout_seed)
    return [data.splits.train[index] for index in order]


def _rows(kept: DataMap, ids: Sequence[str]) -> Iterator[tuple[object, ...]]:
    for task in kept.scores:
        measures = kept.confidence(task), kept.variability(task)
        right = kept.correctness(task)
        for index, sample_id in enumerate(ids):
            if not np.isnan(measures[0][index]):
                numbers = [f"{measure[index]:.4f}" for measure in measures]
                yield kept.trial, task, sample_id, *numbers, "" if right is None else f"{right[index]:.4f}"
