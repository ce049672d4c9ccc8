"""Order, look-ahead and errors of `map_in_threads`."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from dtme_search.data.reading.threads import map_in_threads


def test_results_keep_the_order_of_the_items():
    def slow_at_first(n):
        time.sleep(0.03 if n == 0 else 0)
        return 2 * n

    assert list(map_in_threads(slow_at_first, range(40))) == list(range(0, 80, 2))
    assert list(map_in_threads(slow_at_first, [])) == []


def test_an_endless_source_is_read_only_a_little_ahead():
    taken = itertools.count()
    results = map_in_threads(lambda item: item, taken)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    results.close()
    assert next(taken) < 50


def test_after_an_error_nothing_runs_on():
    running = threading.Semaphore(0)

    def fail_at_three(n):
        if n == 3:
            raise KeyError("three")
        time.sleep(0.01)
        running.release()

    with pytest.raises(KeyError, match="three"):
        list(map_in_threads(fail_at_three, range(1000)))
    finished = running._value
    time.sleep(0.05)
    assert running._value == finished < 100
