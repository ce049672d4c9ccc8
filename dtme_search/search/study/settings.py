"""What a command asks for, beside the study itself: where everything lies, and how much to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dtme_search.config import StudySource
from dtme_search.search.study.place import DEFAULT_WORKDIR


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One call of ``optimize``, or one worker.

    Attributes:
        storage: Database URL, which may hold a password; see ``storage_url``.
        workdir: Where checkpoints, pictures and by default the database lie.
        data_root: Folder of the data set; that of the config by default.
        overrides: ``path=value`` strings for the base config.
        trials: Finished trials to reach; the study's own number by default.
        reuse: Whether trials may share work as the study's ``reuse`` section says.
        warm_start_from: Another study whose finished trials the sampler should know.
        warm_start_storage: Its database; that of this study by default.
        callbacks: Import paths of the callbacks of its workers.
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
