"""Pruning by dominance: which trials of a study with several objectives are worth their remaining steps.

Optuna's ``report`` and ``should_prune`` support one objective only. Here the trials that reached an
evaluation (a *rung*) are ranked by dominance on delta_m at that rung and the cost, which is exact from the
growth on. Only the best 1 / ``eta`` of them continue, as in successive halving without waiting (ASHA, arXiv
1810.05934, section 3). The order below and three exceptions are [ours]:

- A trial's rank is the number of trials that dominate it (Fonseca and Fleming, 1993). It stays while fewer
  than 1 / ``eta`` of the trials have a smaller rank. So a trial on the front always stays, and every trial
  that dominates a trial that stays also stays.
- A trial that has not grown yet is neither judged nor used for comparison, because its delta_m is that of
  the shared network. One that never grows takes part at cost 0.
- A trial above a limit is dominated by every trial within the limits, as in Optuna's samplers.
- A rung prunes only after it has proved predictive: among the trials that were trained to their end, delta_m
  at the rung must correlate with delta_m at the end (Spearman's rank correlation). In short runs, and soon
  after a growth, evaluations say nothing, and a rule that trusts them loses the front (benchmarks/diary.md).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NoReturn

import optuna
import torch
from torch import Tensor

from dtme_search.config import StudyConfig
from dtme_search.config.measures import is_result
from dtme_search.config.study import Direction
from dtme_search.search.storage.records import Records
from dtme_search.search.storage.rows import RungRow, RunRow
from dtme_search.words import cell, heading

_SHARES = {2.0: "half", 3.0: "third", 4.0: "quarter", 5.0: "fifth"}


@dataclass(frozen=True)
class ParetoPruner:
    """Says whether a trial should stop, and why, from the numbers at one rung. Has no state.

    Attributes:
        objectives: Measure -> direction, as in the study.
        limits: Measure -> upper limit.
        eta: One trial in ``eta`` continues.
        min_trials: Trials that must have reached a rung, including the judged one, before one is pruned
            there.
        first_rung: First rung (from 0) at which a trial may be pruned.
        num_evaluations: Evaluations of a trial; at the last one it is finished anyway.
        min_correlation: Rank correlation with the end that a rung must have shown, over at least
            ``min_trials`` finished trials; -1 trusts every rung at once.

    Example:
        >>> pruner = ParetoPruner({"delta_m_percent": "maximize", "param_overhead_percent": "minimize"},
        ...                       {}, eta=3.0, min_trials=3, first_rung=0, num_evaluations=4,
        ...                       min_correlation=-1.0)
        >>> rows = [RungRow(trial=0, rung=1, step=50, delta_m_percent=1.0, param_overhead_percent=0.2),
        ...         RungRow(trial=1, rung=1, step=50, delta_m_percent=0.0, param_overhead_percent=0.0),
        ...         RungRow(trial=2, rung=1, step=50, delta_m_percent=-3.1, param_overhead_percent=0.41)]
        >>> print(pruner.reason(2, rows).replace('; ', ';\\n'))
        outside the best third at evaluation 2 of 4: delta_m -3.10 %, overhead 0.410 %;
        2 of 3 trials dominate it
        >>> pruner.reason(1, rows) is None
        True
    """

    objectives: Mapping[str, Direction]
    limits: Mapping[str, float]
    eta: float
    min_trials: int
    first_rung: int
    num_evaluations: int
    min_correlation: float

    @classmethod
    def of_study(cls, study: StudyConfig, num_evaluations: int) -> ParetoPruner:
        """The pruner that a study asks for with ``pruner.name: pareto``."""
        return cls(
            objectives=study.objectives,
            limits=study.limits,
            eta=study.pruner.eta,
            min_trials=study.pruner.min_trials,
            first_rung=study.pruner.num_warmup_evaluations,
            num_evaluations=num_evaluations,
            min_correlation=study.pruner.min_correlation,
        )

    def judges(self, row: RungRow) -> bool:
        """Whether a trial with this row may be stopped at all: it has grown, and is not at its end."""
        is_grown = all(row.measure(name) is not None for name in self.objectives)
        return is_grown and self.first_rung <= row.rung < self.num_evaluations - 1

    def reason(self, trial: int, rows: Sequence[RungRow], finished: Sequence[RungRow] = ()) -> str | None:
        """Why ``trial`` should stop, in words, or ``None`` if it should continue.

        Args:
            trial: Number of the trial.
            rows: What every trial that counts was worth at this rung, ``trial`` included.
            finished: What every trial that counts was worth at the last rung.

        Raises:
            ValueError: If ``trial`` is not among ``rows``, or ``rows`` are of several rungs.
        """
        rungs = {row.rung for row in rows}
        if len(rungs) > 1 or all(row.trial != trial for row in rows):
            raise ValueError(f"rows must hold trial {trial} and one rung, got the rungs {sorted(rungs)}")
        (rung,) = rungs
        grown = [row for row in rows if self.judges(row)]
        place = next((index for index, row in enumerate(grown) if row.trial == trial), None)
        if place is None or len(grown) < self.min_trials:
            return None
        if not self._can_tell(grown, finished):
            return None
        losses = torch.tensor([self._losses(row) for row in grown], dtype=torch.float64)
        violation = torch.tensor([self._violation(row) for row in grown], dtype=torch.float64)
        ranks = dominance_ranks(losses, violation)
        if stays(ranks, self.eta)[place]:
            return None
        return (
            f"outside the best {_share(self.eta)} at evaluation {rung + 1} of {self.num_evaluations}: "
            f"{self._in_words(grown[place])}; {int(ranks[place])} of {len(grown)} trials dominate it"
        )

    def _can_tell(self, rows: Sequence[RungRow], finished: Sequence[RungRow]) -> bool:
        """Whether the result (delta_m) at this rung has correlated with that at the end."""
        if self.min_correlation == -1:
            return True
        ends = {row.trial: _number(row, self.goal) for row in finished}
        here = [row for row in rows if row.trial in ends]
        return len(here) >= self.min_trials and (
            rank_correlation([_number(row, self.goal) for row in here], [ends[row.trial] for row in here])
            >= self.min_correlation
        )

    @property
    def goal(self) -> str:
        """The objective that only a training tells."""
        return next(filter(is_result, self.objectives), "delta_m_percent")

    def _losses(self, row: RungRow) -> tuple[float, ...]:
        """The objectives, with signs such that smaller is better."""
        return tuple(
            -_number(row, name) if direction == "maximize" else _number(row, name)
            for name, direction in self.objectives.items()
        )

    def _violation(self, row: RungRow) -> float:
        return sum(max(0.0, violation) for violation in violations(row, self.limits).values())

    def _in_words(self, row: RungRow) -> str:
        words = [
            f"{heading(name)} {cell(name, row.measure(name))}{' %' if name.endswith('_percent') else ''}"
            for name in self.objectives
        ]
        above = [
            f"{heading(name)} above the limit of {self.limits[name]:g}"
            for name, violation in violations(row, self.limits).items()
            if violation > 0
        ]
        return ", ".join([*words, *above])


def judge_rung(
    trial: optuna.Trial, study: StudyConfig, rung: RungRow, num_evaluations: int, records: Records
) -> str | None:
    """Why the study's pruner would stop a trial at a rung, or ``None`` if it should continue.

    With several objectives nothing is reported to Optuna, because its TPE fails on intermediate values there.
    """
    pruner = study.pruner.name
    if pruner == "pareto":
        ranking = ParetoPruner.of_study(study, num_evaluations)
        if not ranking.judges(rung):
            return None
        here, at_the_end = (
            records.competitors(study.name, number) for number in (rung.rung, num_evaluations - 1)
        )
        return ranking.reason(trial.number, here, at_the_end)
    if pruner == "none":
        return None
    known = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
    goal = study.goal or "delta_m_percent"
    if rung.rung not in known:  # a continued trial may evaluate a rung again
        trial.report(_number(rung, goal), rung.rung)
    if not trial.should_prune():
        return None
    unit = " %" if goal.endswith("_percent") else ""
    return f"{pruner}: {heading(goal)} {cell(goal, rung.measure(goal))}{unit} at step {rung.step}"


def dominance_ranks(losses: Tensor, violations: Tensor) -> Tensor:
    """For each of N points, the number of points that dominate it.

    One point dominates another if it violates the limits less or, if both meet them, if no objective is worse
    and at least one is better.

    Args:
        losses: (N, M) objectives, smaller is better.
        violations: (N,) total by which the limits are exceeded, 0 if they are met.

    Returns:
        (N,) counts; 0 on the front.

    Example:
        >>> dominance_ranks(torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), torch.zeros(3)).tolist()
        [0, 0, 2]
    """
    keeps = violations == 0
    # Points that meet the limits come before all others; among the others only the violation counts.
    ranks = torch.searchsorted(violations.sort().values, violations.contiguous())
    ranks[keeps] = _dominating(losses[keeps])
    return ranks


def _dominating(losses: Tensor) -> Tensor:
    """For each of N points, the number of points that are nowhere worse and somewhere better: (N,)."""
    if losses.shape[1] > 2:
        counts = [((losses <= point).all(1) & (losses < point).any(1)).sum() for point in losses]
        return torch.stack(counts) if counts else torch.zeros(0, dtype=torch.int64)
    # With 10,000 trials all pairs would take too much memory and time. In this order the points that dominate
    # one come before it: they are those before it whose second loss is not larger.
    points = [tuple(point) for point in losses.tolist()]
    rank_of: dict[tuple[float, ...], int] = {}
    seconds: list[float] = []
    for point, equal in groupby(sorted(points)):
        rank = rank_of[point] = bisect_right(seconds, point[-1])
        seconds[rank:rank] = [point[-1]] * sum(1 for _ in equal)
    return torch.tensor([rank_of[point] for point in points], dtype=torch.int64)


def stays(ranks: Tensor, eta: float) -> Tensor:
    """Which of N points belong to the best 1 / ``eta``; equal ranks stay or go together.

    Example:
        >>> stays(torch.tensor([0, 3, 0, 1, 2, 2]), eta=3.0).tolist()
        [True, False, True, False, False, False]
    """
    ahead = torch.searchsorted(ranks.sort().values, ranks)
    return ahead < len(ranks) / eta


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, between -1 and 1; 0 where all values of one side are equal.

    Example:
        >>> round(rank_correlation([1.0, 2.0, 3.0, 4.0], [0.1, 0.3, 0.2, 0.9]), 6)
        0.8
    """
    ranks = torch.stack(
        [_mean_ranks(torch.tensor(values, dtype=torch.float64)) for values in (first, second)]
    )
    if not (ranks != ranks[:, :1]).any(dim=1).all():
        return 0.0
    return float(torch.corrcoef(ranks)[0, 1])


def violations(row: RungRow | RunRow, limits: Mapping[str, float]) -> dict[str, float]:
    """Limit -> by how much it is exceeded, at most 0 if met; limits on unknown values are left out."""
    measured = {name: row.measure(name) for name in limits}
    return {name: value - limits[name] for name, value in measured.items() if value is not None}


def stop(trial: optuna.Trial, reason: str, row: RungRow | RunRow, limits: Mapping[str, float]) -> NoReturn:
    """End a trial as pruned, with its reason and the constraints that the sampler learns from.

    No intermediate values: with several objectives Optuna's TPE fails on a pruned trial that has one.
    """
    trial.set_user_attr("pruned", reason)
    for name, violation in violations(row, limits).items():
        trial.set_constraint(name, violation)
    raise optuna.TrialPruned(reason)


def _number(row: RungRow, name: str) -> float:
    value = row.measure(name)
    assert value is not None  # rows that do not have it are not judged
    return value


def _mean_ranks(values: Tensor) -> Tensor:
    """Ranks; equal values share the mean of theirs."""
    ordered = values.sort().values
    return (torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)) / 2


def _share(eta: float) -> str:
    return _SHARES.get(eta, f"{100 / eta:.0f} %")
