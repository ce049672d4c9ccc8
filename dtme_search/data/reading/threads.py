"""Read with several threads, in order."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_MAX_THREADS = 8

numpy_header_lock = threading.Lock()
"""Held while numpy reads an array file: it parses the header with ``ast.literal_eval``, which in CPython 3.11
sometimes fails when two threads do so at once (SystemError: AST constructor recursion depth mismatch)."""


def map_in_threads(function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> Iterator[ResultT]:
    """``map`` with up to 8 threads that runs at most two calls per thread ahead of its consumer.

    Results come in the order of ``items``, and so does the first error. However the iteration ends, no call
    keeps running afterwards: a thread inside compiled code when the interpreter exits can abort the process,
    which is the risk with joblib's thread pools after an error.

    Example:
        >>> list(map_in_threads(lambda n: n * n, range(4)))
        [0, 1, 4, 9]
    """
    num_threads = min(_MAX_THREADS, os.cpu_count() or 1)
    pending: deque[Future[ResultT]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * num_threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
