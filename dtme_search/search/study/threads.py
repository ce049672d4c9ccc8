"""How many CPU threads a study computes with: one number for all workers.

With another number of threads, sums differ in the last digits, and training amplifies that. So the first
worker fixes the number, and the results of a study do not depend on how many workers it had.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import optuna

if TYPE_CHECKING:  # looking at a study must not import torch
    import torch

THREADS_ATTR = "dtme:threads"
"""Study attribute: threads of its first worker."""


def threads_of(study: optuna.Study) -> int | None:
    """The fixed number of threads of a study; ``None`` before it has started, and on GPUs."""
    return study.user_attrs.get(THREADS_ATTR)


def fix_threads(study: optuna.Study, device: torch.device, otherwise: int | None = None) -> None:
    """Fix a study to ``otherwise`` threads, by default those of this process, unless it is already fixed.

    Call it with the lock for asking held: workers that start together must agree.
    """
    import torch

    if device.type == "cpu" and threads_of(study) is None:
        study.set_user_attr(THREADS_ATTR, otherwise or torch.get_num_threads())


@contextmanager
def same_threads(study: optuna.Study, device: torch.device) -> Iterator[None]:
    """Compute with the threads of the study; restores the caller's number at the end."""
    import torch

    here, fixed = torch.get_num_threads(), threads_of(study)
    if device.type == "cpu" and fixed is not None:
        torch.set_num_threads(fixed)
    try:
        yield
    finally:
        torch.set_num_threads(here)
