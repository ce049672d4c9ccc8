"""What sharing work saved a study, from the facts recorded for each trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dtme_search.search.storage.rows import RunRow


@dataclass(frozen=True)
class Savings:
    """Steps of the finished trials of a study, by source.

    Attributes:
        trained: Trained by the trial itself.
        from_trunks: Taken from a trunk.
        from_equal_work: Not trained because another trial had done the same training.
        pruned_away: Not trained because the trial was pruned.
        seconds: What the reused steps and measurements took when they were done.
        trials_taken_over: Trials that took over a whole result.
        seconds_waited: Time in which workers could only wait for each other.
    """

    trained: int = 0
    from_trunks: int = 0
    from_equal_work: int = 0
    pruned_away: int = 0
    seconds: float = 0.0
    trials_taken_over: int = 0
    seconds_waited: float = 0.0

    @property
    def total(self) -> int:
        """Steps of the same trials if each were trained from start to end."""
        return self.trained + self.from_trunks + self.from_equal_work + self.pruned_away

    @property
    def trained_percent(self) -> float:
        """Share of the steps that were trained."""
        return 100.0 * self.trained / self.total if self.total else 100.0

    def sentence(self) -> str:
        """In words; empty when nothing was saved.

        Example:
            >>> Savings(trained=31, from_trunks=50, from_equal_work=19, seconds=2520.0).sentence()
            'Trained 31 % of the steps (trunks 50 %, equal work 19 %), saved 42 minutes.'
        """
        waited = f" Workers waited {_duration(self.seconds_waited)}." if self.seconds_waited >= 1 else ""
        if self.trained == self.total:
            return waited.lstrip()
        parts = {
            "trunks": self.from_trunks,
            "equal work": self.from_equal_work,
            "pruning": self.pruned_away,
        }
        shares = ", ".join(
            f"{name} {100 * steps / self.total:.0f} %" for name, steps in parts.items() if steps
        )
        return (
            f"Trained {self.trained_percent:.0f} % of the steps ({shares}), saved {_duration(self.seconds)}."
            f"{waited}"
        )


def savings(runs: Sequence[RunRow]) -> Savings:
    """Add up the finished runs of a study, pruned ones included."""
    trained = from_trunks = from_equal_work = pruned_away = taken_over = 0
    seconds = 0.0
    for run in runs:
        if run.state not in ("complete", "pruned") or run.total_steps is None:
            continue
        own, reused = run.steps_trained or 0, run.steps_reused or 0
        trained += own
        if run.origin_trial is not None:
            from_equal_work += reused
            taken_over += 1
        else:
            from_trunks += reused
        pruned_away += run.total_steps - own - reused
        seconds += run.seconds_saved or 0.0
    waited = sum(run.seconds_waited or 0.0 for run in runs)
    return Savings(
        trained,
        from_trunks,
        from_equal_work,
        pruned_away,
        seconds=seconds,
        trials_taken_over=taken_over,
        seconds_waited=waited,
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
