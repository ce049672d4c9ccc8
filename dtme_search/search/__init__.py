"""From a study to its trials and the SQL database that holds all they measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtme_search.lazy import lazily

if TYPE_CHECKING:
    from dtme_search.search.api import join, optimize, train_baselines
    from dtme_search.search.doctor import Check, can_run, examine
    from dtme_search.search.final import FinalResult, evaluate_checkpoint, train_final
    from dtme_search.search.manage.known import KnownStudy, known_studies
    from dtme_search.search.storage.database import mask_url
    from dtme_search.search.storage.rows import BaselineRow, ConfirmationRow, RunRow
    from dtme_search.search.storage.trials import PROPOSAL_ATTR, own_trials
    from dtme_search.search.study.confirmation import confirm
    from dtme_search.search.study.expectation import Expectation, expectations
    from dtme_search.search.study.leaders import (
        Confirmed,
        confirmations,
        doubt_about_leader,
        feasible_values,
        front_numbers,
        lead_of,
        ranking,
        why_no_leader,
    )
    from dtme_search.search.study.lifecycle import put_right
    from dtme_search.search.study.loading import LoadedStudy, load_study, storage_url
    from dtme_search.search.study.place import DEFAULT_WORKDIR
    from dtme_search.search.study.preparation import read_study
    from dtme_search.search.study.presence import AtWork, at_work
    from dtme_search.search.study.states import STATES, counts_in_words, dead_among, state_of, trial_states
    from dtme_search.search.trackers.mlflow import MLflow
    from dtme_search.search.trackers.tensorboard import TensorBoard
    from dtme_search.search.trackers.tracker import Tracker, TrackerKind
    from dtme_search.search.trackers.wandb import WandB
    from dtme_search.search.trial.callback import Callback, EvaluationInfo, StudyInfo, TrialEnd, TrialInfo
    from dtme_search.search.trial.diary import DrawFiles
    from dtme_search.search.trial.listener import Listener, WorkerStatus
    from dtme_search.search.trial.outcome import Outcome
    from dtme_search.search.workers.wire import Reporter
    from dtme_search.search.workspace import Workspace

__all__ = [
    "DEFAULT_WORKDIR",
    "PROPOSAL_ATTR",
    "STATES",
    "AtWork",
    "BaselineRow",
    "Callback",
    "Check",
    "ConfirmationRow",
    "Confirmed",
    "DrawFiles",
    "EvaluationInfo",
    "Expectation",
    "FinalResult",
    "KnownStudy",
    "Listener",
    "LoadedStudy",
    "MLflow",
    "Outcome",
    "Reporter",
    "RunRow",
    "StudyInfo",
    "TensorBoard",
    "Tracker",
    "TrackerKind",
    "TrialEnd",
    "TrialInfo",
    "WandB",
    "WorkerStatus",
    "Workspace",
    "at_work",
    "can_run",
    "confirm",
    "confirmations",
    "counts_in_words",
    "dead_among",
    "doubt_about_leader",
    "evaluate_checkpoint",
    "examine",
    "expectations",
    "feasible_values",
    "front_numbers",
    "join",
    "known_studies",
    "lead_of",
    "load_study",
    "mask_url",
    "optimize",
    "own_trials",
    "put_right",
    "ranking",
    "read_study",
    "state_of",
    "storage_url",
    "train_baselines",
    "train_final",
    "trial_states",
    "why_no_leader",
]

_get = lazily(
    __name__,
    {
        "api": ("join", "optimize", "train_baselines"),
        "doctor": ("Check", "can_run", "examine"),
        "final": ("FinalResult", "evaluate_checkpoint", "train_final"),
        "manage.known": ("KnownStudy", "known_studies"),
        "storage.database": ("mask_url",),
        "storage.rows": ("BaselineRow", "ConfirmationRow", "RunRow"),
        "storage.trials": ("PROPOSAL_ATTR", "own_trials"),
        "study.confirmation": ("confirm",),
        "study.expectation": ("Expectation", "expectations"),
        "study.leaders": (
            "Confirmed",
            "confirmations",
            "doubt_about_leader",
            "feasible_values",
            "front_numbers",
            "lead_of",
            "ranking",
            "why_no_leader",
        ),
        "study.lifecycle": ("put_right",),
        "study.loading": ("LoadedStudy", "load_study", "storage_url"),
        "study.place": ("DEFAULT_WORKDIR",),
        "study.preparation": ("read_study",),
        "study.presence": ("AtWork", "at_work"),
        "study.states": ("STATES", "counts_in_words", "dead_among", "state_of", "trial_states"),
        "trackers.mlflow": ("MLflow",),
        "trackers.tensorboard": ("TensorBoard",),
        "trackers.tracker": ("Tracker", "TrackerKind"),
        "trackers.wandb": ("WandB",),
        "trial.callback": ("Callback", "EvaluationInfo", "StudyInfo", "TrialEnd", "TrialInfo"),
        "trial.diary": ("DrawFiles",),
        "trial.listener": ("Listener", "WorkerStatus"),
        "trial.outcome": ("Outcome",),
        "workers.wire": ("Reporter",),
        "workspace": ("Workspace",),
    },
)

if not TYPE_CHECKING:  # type checkers would take any name
    __getattr__ = _get
