"""From a study to its trials and the SQL database that holds all they measured."""

from dtme_search.search.diary import DrawFiles
from dtme_search.search.final import FinalResult, evaluate_checkpoint, train_final
from dtme_search.search.listener import Listener
from dtme_search.search.outcome import Outcome
from dtme_search.search.records import BaselineRow, RunRow
from dtme_search.search.storage import mask_url
from dtme_search.search.study import (
    DEFAULT_WORKDIR,
    LoadedStudy,
    load_study,
    optimize,
    read_study,
    storage_url,
    train_baselines,
)
from dtme_search.search.workspace import Workspace

__all__ = [
    "DEFAULT_WORKDIR",
    "BaselineRow",
    "DrawFiles",
    "FinalResult",
    "Listener",
    "LoadedStudy",
    "Outcome",
    "RunRow",
    "Workspace",
    "evaluate_checkpoint",
    "load_study",
    "mask_url",
    "optimize",
    "read_study",
    "storage_url",
    "train_baselines",
    "train_final",
]
