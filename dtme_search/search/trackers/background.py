"""Calls that may fail or hang, kept away from the training: one thread, a bounded queue, one warning."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Full, Queue

from dtme_search.search.trackers.masking import masked_text

MOST_WAITING = 1000
"""Calls that may wait; a tracker that is further behind is given up [ours]."""
LAST_SECONDS = 60.0
"""How long the end of a study waits for what is left [ours]."""

_log = logging.getLogger(__name__)


class Background:
    """Runs calls in order on a daemon thread, until one fails.

    Args:
        name: Whose calls they are, for the warning.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: Queue[Callable[[], None] | None] = Queue(MOST_WAITING)
        self._is_off = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def do(self, call: Callable[[], None]) -> None:
        """Run a call when those before it are done. Never waits, never raises."""
        self._put(call)

    def finish(self) -> None:
        """Wait until all calls are done, at most ``LAST_SECONDS``."""
        self._put(None)
        if not self._is_off:
            self._thread.join(LAST_SECONDS)
        if not self._is_off and self._thread.is_alive():
            self._give_up(f"still busy after {LAST_SECONDS:.0f} s, so what it has not written is lost")

    def _put(self, call: Callable[[], None] | None) -> None:
        if self._is_off:
            return
        try:
            self._calls.put_nowait(call)
        except Full:
            self._give_up(f"does not keep up, {MOST_WAITING} entries wait")

    def _work(self) -> None:
        while not self._is_off and (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException as error:  # also what a library ends programs with: this is only a thread
                self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, why: str) -> None:
        if not self._is_off:
            self._is_off = True
            line = " ".join(masked_text(why).split())
            _log.warning("tracker %s: %s; it is off, the search continues", self._name, line[:300])
