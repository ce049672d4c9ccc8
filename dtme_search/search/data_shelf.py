"""Data of the study in hand: read once, shared by baselines and trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from dtme_search.config import RunConfig
from dtme_search.data import Split, TaskData, build_data
from dtme_search.data.reading.cache import trim_cache
from dtme_search.training.choices import as_chosen
from dtme_search.training.team.leader import Team


class DataShelf:
    """Keeps the data of the last data config; the trials of a study nearly always share it."""

    def __init__(
        self,
        device: torch.device,
        *,
        final: bool = False,
        read: Sequence[Split] = ("train", "holdout"),
        on_progress: Callable[[int, int], None] | None = None,
        team: Team | None = None,
    ) -> None:
        self.device = device
        self.team = team or Team([device])  # the devices of each run; the data are on the first
        self._final = final
        self._read = read
        self._on_progress = on_progress
        self._key: tuple[object, tuple[str, ...]] | None = None
        self._data: TaskData | None = None

    def get(self, config: RunConfig) -> TaskData:
        """Data of a run, limited to its tasks.

        Raises:
            DataError: If a file is missing or broken.
            ConfigError: If the config chooses a loss or metric that cannot be used.
        """
        tasks = tuple(config.tasks)
        known = self._key is not None and self._key[0] == config.data and set(tasks) <= set(self._key[1])
        if self._data is None or not known:
            self._data = build_data(
                config.data,
                tasks,
                self.device,
                final=self._final,
                read=self._read,
                on_progress=self._on_progress,
            )
            self._key = (config.data, tasks)
            trim_cache()
        return as_chosen(self._data, config)

    def clear(self) -> None:
        """Free the memory; the data is read again when it is needed."""
        self._key = self._data = None
