"""What all code that works on one trial needs to know about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dtme_search.config import RunConfig, StudyConfig
from dtme_search.data import TaskData
from dtme_search.search.storage.records import Records
from dtme_search.search.storage.rows import BaselineRow
from dtme_search.search.workspace import Workspace


@dataclass(frozen=True)
class TrialContext:
    """One training run for a study: a trial, or the repeat of one.

    Attributes:
        study: The study.
        number: Number of the trial (of this attempt).
        first: Number of its first attempt, which names its folder and its lock.
        config: What it runs.
        data: Its data.
        records: Own SQL tables.
        workspace: Folders of the study.
        expansion_steps: Steps at which runs of the study may grow, ascending; used where runs share a trunk.
        baselines: Task -> single-task baseline that it is compared with.
        base_baselines: Those of the study's base config, if its trials differ in architecture.
        should_stop: Called between steps and while waiting.
        on_wait: Called once per wait for another worker, with what is waited for.
        meanwhile: Runs another trial while this one would wait before it has started; returns whether there
            was one.
        waits: Seconds of every wait.
        devices: Devices that divide each batch of the run.
    """

    study: StudyConfig
    number: int
    first: int
    config: RunConfig
    data: TaskData
    records: Records
    workspace: Workspace
    expansion_steps: tuple[int, ...] = ()
    baselines: Mapping[str, BaselineRow] = field(default_factory=dict)
    base_baselines: Mapping[str, BaselineRow] = field(default_factory=dict)
    should_stop: Callable[[], bool] = lambda: False
    on_wait: Callable[[str], None] = lambda _: None
    meanwhile: Callable[[], bool] = lambda: False
    waits: list[float] = field(default_factory=list)
    devices: int = 1
