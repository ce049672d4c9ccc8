"""How many threads a study computes with on CPUs: one number, whoever trains its trials.

Sums come out differently in the last digits with another number of threads, and a training enlarges that. So
the first worker fixes the number, and the results of a study do not depend on how many workers it had.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import optuna

if TYPE_CHECKING:  # looking at a study does without torch
    import torch

THREADS_ATTR = "dtme:threads"
"""Study attribute: threads of the worker that began it."""


def threads_of(study: optuna.Study) -> int | None:
    """Threads that a study is fixed to; ``None`` before it has begun, and on GPUs."""
    return study.user_attrs.get(THREADS_ATTR)


def fix_threads(study: optuna.Study, device: torch.device, otherwise: int | None = None) -> None:
    """Fix a study to ``otherwise`` threads, by default those of this process, unless it is fixed.

    To be called with the lock for asking: workers that start together must agree.
    """
    import torch

    if device.type == "cpu" and threads_of(study) is None:
        study.set_user_attr(THREADS_ATTR, otherwise or torch.get_num_threads())


@contextmanager
def same_threads(study: optuna.Study, device: torch.device) -> Iterator[None]:
    """Compute with the threads of the study; the caller's number comes back at the end."""
    import torch

    here, fixed = torch.get_num_threads(), threads_of(study)
    if device.type == "cpu" and fixed is not None:
        torch.set_num_threads(fixed)
    try:
        yield
    finally:
        torch.set_num_threads(here)
