"""Ctrl-C, SIGTERM and time limits: stop at the next step with a checkpoint, or at once the second time."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

_log = logging.getLogger(__name__)


class StopSwitch:
    """Tells a run to stop: after the first SIGINT or SIGTERM, or when the time is up.

    A second signal raises ``KeyboardInterrupt`` at once. Outside the main thread (a notebook's worker, a
    test) signal handlers stay as they are and only the time limit applies.

    Args:
        timeout: Seconds from now, or ``None`` for no limit.
        also: A further condition for stopping.
    """

    def __init__(self, timeout: float | None = None, also: Callable[[], bool] = lambda: False) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._also = also
        self.asked = False
        """Whether a signal arrived."""
        self._before: dict[signal.Signals, object] = {}

    def __call__(self) -> bool:
        """Whether to stop."""
        is_over = self._deadline is not None and time.monotonic() >= self._deadline
        return self.asked or is_over or self._also()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        _log.warning("stopping after this step with a checkpoint; repeat to stop immediately")
