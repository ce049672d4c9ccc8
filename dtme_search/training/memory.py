"""What does not fit into memory is retried with batches in two parts, or with smaller ones."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from dtme_search.errors import BrokenRule, OutOfMemoryError
from dtme_search.training.result import RunResult
from dtme_search.training.trainer import Trainer

_PARTS = 2
_IN_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Unable to find a valid cuDNN",
)
"""Messages of torch's plain ``RuntimeError`` when an allocation failed, including its libraries."""

Result = TypeVar("Result")


def run_within_memory(
    make: Callable[[int], Trainer], on_short: Callable[[str], None] = lambda _: None
) -> tuple[Trainer, RunResult]:
    """Run to the end; if memory is short, retry once from the last checkpoint with batches in two parts.

    Args:
        make: Creates the trainer of the run for a number of parts.
        on_short: Called with a sentence that says that memory ran out and what is done about it.

    Returns:
        The trainer that reached the end, and its result.

    Raises:
        OutOfMemoryError: If that did not help, or a batch has one image.
        TrainingInterrupted: As ``Trainer.run``; so does everything else that a callback raises.
    """
    parts = 1
    while True:
        trainer = make(parts)
        try:
            return trainer, trainer.run()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            where, what = f"step {trainer.state.step}", str(error).strip().splitlines()[0].rstrip(".")
            size, parts = trainer.config.train.batch_size, trainer.state.parts
            device = trainer.data.device
        # Outside the handler, because the traceback keeps the tensors of the failed step alive.
        del trainer
        free_memory(device)
        if size < _PARTS or parts >= _PARTS:
            how = f"with batches of {size}" + (f" in {parts} parts" if parts > 1 else "")
            raise OutOfMemoryError(
                f"{where}: the memory of {device} must hold a training step, ran out {how} ({what}). Lower "
                "train.batch_size, data.image_size or expansion.analysis_batch_size, share the device with "
                "fewer trials (--trials-per-device), or set train.precision: bfloat16."
            )
        parts = _PARTS
        on_short(f"out of memory at {where} ({what}); continuing with each batch of {size} in {parts} parts")


def with_smaller_batches(work: Callable[[int], Result], size: int, device: torch.device) -> Result:
    """Do something over batches of ``size`` images; if memory is short, with half as many, down to one.

    For evaluations, whose result does not depend on it.
    """
    while True:
        try:
            return work(size)
        except Exception as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        free_memory(device)
        size = max(1, size // 2)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device or the machine is out of memory."""
    if isinstance(error, BrokenRule):  # a part of the user's that ran out of it
        error = error.__cause__ or error
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _IN_WORDS)


def free_memory(device: torch.device) -> None:
    """Return memory without references to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
