"""Follow a trunk: reuse what another run has trained, and leave what this one trains for others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from dtme_search.training.callbacks import Callbacks
from dtme_search.training.state import RunState
from dtme_search.training.trunk import Snapshot, Trunk

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Follower:
    """One run on its way along a trunk.

    Attributes:
        trunk: Unexpanded training shared with other runs.
        state: State of the run, which has not grown or has grown by nothing.
        callbacks: Called with what was reused.
        train_until: Trains the run up to a step.
    """

    trunk: Trunk
    state: RunState
    callbacks: Callbacks
    train_until: Callable[[int], None]

    def follow(self, until: int) -> None:
        """Reach the last step of the trunk up to ``until``, over stretches shared with other runs."""
        for step in self.trunk.steps(self.state.step, until):
            with self.trunk.claim(step) as snapshot:
                if snapshot is None:
                    self._train(step)
                else:
                    self._fork(snapshot)

    def _train(self, step: int) -> None:
        """Train the stretch that ends at ``step`` and store it for others."""
        state = self.state
        begun_at, before = state.step, state.seconds_of_steps
        self.train_until(step)
        if state.parts > 1:  # batch norm saw other batches than in a run with enough memory
            return
        seconds = state.seconds_of_steps - before
        content = state.to_saved() | {"seconds_of_steps": state.seconds_saved + before + seconds}
        self.trunk.keep(step, begun_at, seconds, content)

    def _fork(self, snapshot: Snapshot) -> None:
        """Continue from the state of another run; its evaluations are reported as if made here."""
        known = len(self.state.evaluations)
        self.state.fork(snapshot)
        self.callbacks.on_reuse(self.state.steps_reused, self.state.seconds_saved)
        for evaluation in self.state.evaluations[known:]:
            self.callbacks.on_evaluate(evaluation)
        _log.info("took over the trunk up to step %d of %d", self.state.step, self.state.config.total_steps)
