"""Wait for what another worker does, without missing that this one was asked to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from dtme_search.training import TrainingInterrupted

_LOOK_EVERY = 0.2
"""Seconds between two looks at a lock, and at whether the run was asked to stop."""


@contextmanager
def held(
    lock: FileLock,
    should_stop: Callable[[], bool],
    on_wait: Callable[[], None],
    meanwhile: Callable[[], bool] = lambda: False,
    on_waited: Callable[[float], None] = lambda _: None,
) -> Iterator[None]:
    """Hold a lock, however long its owner lives; the system frees that of a dead one.

    Args:
        lock: The lock.
        should_stop: Asked while waiting.
        on_wait: Told that this one waits, once; ``on_waited`` for how many seconds it did.
        meanwhile: Does other work while the lock is taken, and tells whether there was any.

    Raises:
        TrainingInterrupted: If ``should_stop`` says so while waiting.
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
    """Acquire a lock; raises as :func:`held`."""
    while True:
        try:
            lock.acquire(timeout=_LOOK_EVERY)
            return
        except Timeout:
            if should_stop():
                raise TrainingInterrupted("stopped while waiting for another worker") from None
