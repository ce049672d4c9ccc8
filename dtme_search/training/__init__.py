"""Train, grow, evaluate and resume one model; usable without Optuna."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtme_search.lazy import lazily

if TYPE_CHECKING:
    from dtme_search.training.callbacks import Callbacks, Progress, TrainingInterrupted
    from dtme_search.training.checkpoint import load_checkpoint, save_checkpoint
    from dtme_search.training.evaluation import evaluate, evaluate_each, evaluate_extra, no_image_priors
    from dtme_search.training.inspection import (
        check_run,
        config_beside,
        conflicts_at_expansion,
        restore_model,
        specs_beside,
    )
    from dtme_search.training.memory import run_within_memory, with_smaller_batches
    from dtme_search.training.prediction import Prediction, Predictor, as_label
    from dtme_search.training.result import Evaluation, RunResult
    from dtme_search.training.runtime import pick_device
    from dtme_search.training.trainer import Trainer

__all__ = [
    "Callbacks",
    "Evaluation",
    "Prediction",
    "Predictor",
    "Progress",
    "RunResult",
    "Trainer",
    "TrainingInterrupted",
    "as_label",
    "check_run",
    "config_beside",
    "conflicts_at_expansion",
    "evaluate",
    "evaluate_each",
    "evaluate_extra",
    "load_checkpoint",
    "no_image_priors",
    "pick_device",
    "restore_model",
    "run_within_memory",
    "save_checkpoint",
    "specs_beside",
    "with_smaller_batches",
]

_get = lazily(
    __name__,
    {
        "callbacks": ("Callbacks", "Progress", "TrainingInterrupted"),
        "checkpoint": ("load_checkpoint", "save_checkpoint"),
        "evaluation": ("evaluate", "evaluate_each", "evaluate_extra", "no_image_priors"),
        "inspection": (
            "check_run",
            "config_beside",
            "conflicts_at_expansion",
            "restore_model",
            "specs_beside",
        ),
        "memory": ("run_within_memory", "with_smaller_batches"),
        "prediction": ("Prediction", "Predictor", "as_label"),
        "result": ("Evaluation", "RunResult"),
        "runtime": ("pick_device",),
        "trainer": ("Trainer",),
    },
)

if not TYPE_CHECKING:  # type checkers would take any name
    __getattr__ = _get
