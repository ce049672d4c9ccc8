"""One trial for one worker: the only file that knows in which order a trial takes and frees its locks.

1. The lock of the study: held from checking whether a trial is left until that trial has a sign of life, the
   lock of its folder and parameters. If two workers see the last trial, only one takes it.
2. The lock of the trial's folder: held until Optuna knows how the trial ended. The system frees it when the
   process dies, so whoever gets it knows that the process is gone.
3. The lock of the study again, while the end is reported: whoever looks for dead trials finds a trial
   running or reported, never in between.

The heart beats from the first lock until the values are on disk. What trials share (``reuse``) has its own
locks, taken and freed inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import optuna
from filelock import FileLock, Timeout
from optuna.trial import TrialState

from dtme_search.config import RunConfig
from dtme_search.search.locks import wait_for
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.storage.study_lock import AskingLock
from dtme_search.search.trial.heartbeat import Heartbeat
from dtme_search.search.trial.process import PROCESS_ATTR, Process
from dtme_search.search.trial.retries import ask, first_number, goes_on_later
from dtme_search.search.workspace import Workspace


@dataclass(frozen=True)
class Ending:
    """How a trial ended.

    Attributes:
        state: What Optuna records.
        values: Values of the objectives of a complete trial.
        error: What ended it, if it has no result and was not pruned.
    """

    state: TrialState
    values: tuple[float, ...] | None = None
    error: BaseException | None = None


@contextmanager
def next_trial(
    study: optuna.Study,
    asking: AskingLock,
    workspace: Workspace,
    is_left: Callable[[], bool],
    should_stop: Callable[[], bool],
) -> Iterator[ClaimedTrial | None]:
    """Ask for a trial and hold it while the context is open; ``None`` if none is left.

    Args:
        study: The study.
        asking: Its lock.
        workspace: Its folders.
        is_left: Called under the lock; may do things that no other worker must do at the same time.
        should_stop: Called while waiting for another process that has the trial's folder.
    """
    with asking:
        if not is_left():
            yield None
            return
        claimed = ClaimedTrial(ask(study), asking, workspace, should_stop)
        try:
            yield claimed
        finally:
            claimed.let_go()


class ClaimedTrial:
    """A trial held by this worker.

    Attributes:
        trial: Optuna's trial.
        first: Number of the attempt that started its work.
    """

    def __init__(
        self,
        trial: optuna.Trial,
        asking: AskingLock,
        workspace: Workspace,
        should_stop: Callable[[], bool],
    ) -> None:
        self.trial = trial
        self.first = first_number(trial)
        self._asking = asking
        self._workspace = workspace
        self._should_stop = should_stop
        self._folder: FileLock | None = None
        self._heart: Heartbeat | None = None

    @contextmanager
    def begun(self, space: SearchSpace) -> Iterator[RunConfig]:
        """Start the trial, let the next worker ask, and return the config; the heart beats until the end.

        Raises:
            TrainingInterrupted: If asked to stop while another process still has the folder.
            ConfigError: If the proposed values cannot be combined.
        """
        self.trial.set_user_attr(PROCESS_ATTR, Process.here().plain())
        self._workspace.claim_trial(self.first, self.trial.number)
        # Not earlier: a trial with a sign of life that is not known to run here is assumed to run elsewhere.
        with Heartbeat(self.trial.study, self.trial) as self._heart:
            try:
                self._hold(FileLock(self._workspace.trial_lock(self.first)))
                config = space.suggest(self.trial)
            finally:
                # Not earlier: a trial without parameters that nobody is asking for belongs to a dead process.
                self._asking.release()
            yield config

    def should_stop(self) -> bool:
        """Whether the run should stop: it was asked to, or others treated this process as dead."""
        return self._should_stop() or (self._heart is not None and self._heart.is_lost)

    def tell(self, ending: Ending) -> None:
        """Report to Optuna how the trial ended; then its checkpoint is obsolete, unless it will resume."""
        self._asking.release()  # still held if the trial ended before it had started
        with self._asking:
            # Already finished: others treated it as dead, so it must not be reported twice.
            told = self.trial.study.tell(
                self.trial.number, ending.values, state=ending.state, skip_if_finished=True
            )
        if told.state == ending.state and (ending.error is None or not goes_on_later(ending.error)):
            self._workspace.forget(self.first)

    def let_go(self) -> None:
        """Free the trial's folder."""
        if self._folder is not None:
            self._folder.release()

    def _hold(self, folder: FileLock) -> None:
        self._folder = folder
        try:
            folder.acquire(timeout=0)
        except Timeout:
            # Others treated its former process as dead, but it lives: it will notice and leave a checkpoint.
            self._asking.release()
            wait_for(folder, self.should_stop)
