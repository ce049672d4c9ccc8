"""The options of a command, apart from the study: where everything is, and how much to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dtme_search.config import StudySource
from dtme_search.search.study.place import DEFAULT_WORKDIR


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of one call of ``optimize``, or of one worker.

    Attributes:
        storage: Database URL, which may contain a password; see ``storage_url``.
        workdir: Folder for checkpoints, pictures and, by default, the database.
        data_root: Folder of the data set; by default that of the config.
        overrides: ``path=value`` strings for the base config.
        trials: Finished trials to reach; the study's own number by default.
        reuse: Whether trials may share work as the study's ``reuse`` section says.
        warm_start_from: Another study whose finished trials the sampler should know.
        warm_start_storage: Its database; that of this study by default.
        callbacks: Import paths of the callbacks of its workers, and names of trackers.
    """

    storage: str | None = field(default=None, repr=False)
    workdir: Path = DEFAULT_WORKDIR
    data_root: str | Path | None = None
    overrides: tuple[str, ...] = ()
    trials: int | None = None
    reuse: bool = True
    warm_start_from: StudySource | None = None
    warm_start_storage: str | None = field(default=None, repr=False)
    callbacks: tuple[str, ...] = ()
