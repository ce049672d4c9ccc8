"""Wait for another worker without missing a request to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from dtme_search.training import TrainingInterrupted

_LOOK_EVERY = 0.2
"""Seconds between two tries to take a lock; each try also checks whether the run should stop."""


@contextmanager
def held(
    lock: FileLock,
    should_stop: Callable[[], bool],
    on_wait: Callable[[], None],
    meanwhile: Callable[[], bool] = lambda: False,
    on_waited: Callable[[float], None] = lambda _: None,
) -> Iterator[None]:
    """Hold a lock, waiting as long as its owner lives; the system frees the lock of a dead process.

    Args:
        lock: The lock.
        should_stop: Called while waiting.
        on_wait: Called once if this process has to wait; ``on_waited`` with the seconds it waited.
        meanwhile: Does other work while the lock is taken, and returns whether there was any.

    Raises:
        TrainingInterrupted: If ``should_stop`` returns true while waiting.
    """
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            if meanwhile():
                continue
            on_wait()
            started = time.monotonic()
            wait_for(lock, should_stop)
            on_waited(time.monotonic() - started)
            break
    try:
        yield
    finally:
        lock.release()


def wait_for(lock: FileLock, should_stop: Callable[[], bool]) -> None:
    """Acquire a lock; raises like :func:`held`."""
    while True:
        try:
            lock.acquire(timeout=_LOOK_EVERY)
            return
        except Timeout:
            if should_stop():
                raise TrainingInterrupted("stopped while waiting for another worker") from None
