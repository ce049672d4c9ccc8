"""Runs one function in several processes that begin at the same moment; finds processes to kill."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def run_together(work: Callable[..., Any], count: int, *arguments: Any) -> list[Any]:
    """Results of ``work(number, *arguments)`` of each process; the traceback where one failed.

    Forked, because importing everything anew in each process takes longer than the tests. The parent must
    not hold database connections meanwhile.
    """
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(count), context.SimpleQueue()
    processes = [
        context.Process(target=_begin, args=(work, number, arguments, barrier, results))
        for number in range(count)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join(timeout=60)
    return found


def _begin(work, number, arguments, barrier, results) -> None:
    barrier.wait(timeout=60)
    try:
        results.put(work(number, *arguments))
    except BaseException:
        results.put(traceback.format_exc())


def children_of(pid: int) -> list[int]:
    """Processes that a process started and that still run."""
    lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for found in lists for child in found]


def opener(file: Path, pids: list[int]) -> int | None:
    """The one of these processes that has a file open."""
    for pid in pids:
        for open_file in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(FileNotFoundError):  # closed since it was listed
                if open_file.samefile(file):
                    return pid
    return None
