"""Which plan to train next, and with which seed: what it may add to the front for what it still costs.

With one seed the front consists of the gains that were seen, which is what a study shows. With several seeds
it consists of the expected gains: a plan that was lucky with one seed must not stop the search for better
ones. No state is kept: equal evidence gives equal choices in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from dtme_search.search.proposal.front import (
    Array,
    Rows,
    expected_hypervolume_improvement,
    front,
)
from dtme_search.search.proposal.gaussian import Observations, PlanModel, fit
from dtme_search.search.proposal.plans import Plans

NUM_FIRST = 2
"""Plans that must have been trained, or be in training, before a model is used [ours, by replays]."""
NUM_BEFORE_NEXT_SEED = 8
"""Trainings with one seed after which the next seed opens [ours]."""
_SHARE_DRAWN = 1 / 8
"""Share of the candidates from which the first plans are chosen [ours]."""
_MOST_LEARNT_FROM = 60
_MOST_SEEN = 300
_MOST_CLIMBED = 20
_TIE = 1e-9


@dataclass(frozen=True)
class Candidates:
    """Plans that could be trained next.

    Attributes:
        plans: The n plans.
        prices: Their known prices, shape (n,).
        costs: Compute each would cost now, by seed, shape (n, S).
        open: Whether it may be trained with a seed, shape (n, S): false if it was trained, is running, or
            fails.
        names: Different for different plans; break ties.
    """

    plans: Plans
    prices: Array
    costs: Array
    open: NDArray[np.bool_]
    names: Sequence[str]


@dataclass(frozen=True)
class Evidence:
    """What a study knows. Its own seeds are 0 to S - 1; other studies come after them.

    Attributes:
        finished: Results of finished trainings; ``prices`` of their plans, shape (n,).
        running: Plans and seeds in training; their gains are not read.
        running_prices: Their prices.
        limit: Highest price that counts, if the study has a limit.
    """

    finished: Observations
    prices: Array
    running: Observations
    running_prices: Array
    limit: float | None = None


@dataclass(frozen=True)
class Choice:
    """A plan to train, and the reason.

    Attributes:
        name: Of the candidate; ``seed`` to train it with.
        expected: Its expected gain, with standard deviation ``deviation``; ``None`` without a model.
        improvement: Expected growth of the hypervolume, in units of gain times price.
        cost: Compute it will cost, in unexpanded steps; ``price`` is what it costs permanently.
    """

    name: str
    seed: int
    cost: float
    price: float = 0.0
    expected: float | None = None
    deviation: float | None = None
    improvement: float | None = None

    @property
    def score(self) -> float:
        """Logarithm of the improvement per step still to be trained."""
        return float(np.log((self.improvement or 0.0) + 1e-300) - np.log(max(self.cost, 1.0)))


def choose(
    evidence: Evidence,
    candidates: Candidates,
    draw: int,
    more: Callable[[Sequence[str]], Candidates | None] = lambda _: None,
) -> Choice | None:
    """The open candidate with the largest expected growth of the hypervolume for what it still costs.

    Args:
        evidence: What is known.
        candidates: What could be trained.
        draw: Seeds the choice of the first plans, before there is a model, and nothing else.
        more: Further candidates near the given best ones, for spaces too large to list.

    Returns:
        ``None`` if nothing is open.
    """
    # On matrices this small, BLAS threads that spin made a fit 60 times slower.
    with threadpool_limits(limits=1, user_api="blas"):
        seeds = _seeds_open(evidence, candidates)
        for seed in seeds:
            first = _unexpanded(candidates, seed)
            if first is not None:
                return Choice(candidates.names[first], seed, float(candidates.costs[first, seed]))
        if not candidates.open[:, seeds].any():
            return None
        if not len(evidence.finished) or _num_grown(evidence) < NUM_FIRST:
            return _first_plan(evidence, candidates, draw)
        model = model_of(evidence)
        best = _ranked(evidence, candidates, model, seeds)
        further = more([choice.name for choice in best[:_MOST_CLIMBED]])
        if further is not None:
            best = sorted([*best, *_ranked(evidence, further, model, seeds)], key=_order)
        return _first_of(best)


def model_of(evidence: Evidence) -> PlanModel:
    """The model of what is finished; running plans are assumed to turn out as expected."""
    finished = evidence.finished
    seen = finished.take(_spread_over(evidence, min(len(finished), _MOST_SEEN)))
    learnt_from = finished.take(_spread_over(evidence, min(len(finished), _MOST_LEARNT_FROM)))
    model = fit(seen, learnt_from)
    if not len(evidence.running):
        return model
    running = evidence.running
    gains = np.array(
        [
            float(model.shown_by(running.plans[slice(row, row + 1)], int(seed))[0][0])
            for row, seed in enumerate(running.seeds)
        ]
    )
    return model.also(Observations(running.plans, running.seeds, gains))


def _seeds_open(evidence: Evidence, candidates: Candidates) -> list[int]:
    """Seeds that may be used: the next one opens once the one before has taught something."""
    begun = np.concatenate([evidence.finished.seeds, evidence.running.seeds])
    num_seeds = candidates.costs.shape[1]
    counts = [int((begun == seed).sum()) for seed in range(num_seeds)]
    num_open = 1
    while num_open < num_seeds and counts[num_open - 1] >= NUM_BEFORE_NEXT_SEED:
        num_open += 1
    return list(range(num_open))


def _unexpanded(candidates: Candidates, seed: int) -> int | None:
    """The plan that never grows, if it must still be trained with a seed."""
    rows = np.flatnonzero((candidates.plans.reach == 0) & candidates.open[:, seed])
    return int(rows[0]) if len(rows) else None


def _num_grown(evidence: Evidence) -> int:
    """Plans that grow, finished or running, in this or another study."""
    return int((evidence.finished.plans.reach > 0).sum() + (evidence.running.plans.reach > 0).sum())


def _first_plan(evidence: Evidence, candidates: Candidates, draw: int) -> Choice:
    """Before there is a model: cheap plans, far from the known ones, from a share drawn at random."""
    rows = np.flatnonzero(candidates.open[:, 0])
    rng = np.random.default_rng([draw, len(evidence.finished), len(evidence.running)])
    rows = rng.permutation(rows)[: max(1, round(len(rows) * _SHARE_DRAWN))]
    known = Plans.join([evidence.finished.plans, evidence.running.plans])
    there = np.concatenate([group / np.sqrt(group.shape[1]) for group in known.groups], axis=1)
    here = np.concatenate(
        [group[rows] / np.sqrt(group.shape[1]) for group in candidates.plans.groups], axis=1
    )
    square = ((here[:, None] - there[None]) ** 2).sum(2)
    distance = square.min(1, initial=4.0)
    row = int(rows[np.argmax(distance / np.maximum(candidates.costs[rows, 0], 1.0))])
    return Choice(candidates.names[row], 0, float(candidates.costs[row, 0]))


def _ranked(
    evidence: Evidence, candidates: Candidates, model: PlanModel, seeds: Sequence[int]
) -> list[Choice]:
    """The best pairs of a plan and a seed, best first."""
    own = np.flatnonzero(np.isin(evidence.finished.seeds, seeds))
    known = Plans.join([evidence.finished.plans[own], evidence.running.plans])
    prices = np.concatenate([evidence.prices[own], evidence.running_prices])
    several = candidates.costs.shape[1] > 1
    reached = model.average(known)[0] if several else model.shown_by(known, 0)[0]
    if not several:
        reached[: len(own)] = evidence.finished.gains[own]
    highest = evidence.limit
    if highest is None:
        highest = max(float(candidates.prices.max(initial=0.0)), float(prices.max()))
    # A little beyond the most expensive plan, so that it counts, too.
    reference = float(reached.min()), highest * 1.0001 + _TIE
    mean, deviation = model.average(candidates.plans) if several else model.shown_by(candidates.plans, 0)
    found = []
    for seed in seeds:
        rows = np.flatnonzero(candidates.open[:, seed])
        sure = model.lesson(candidates.plans[rows], seed) if several else deviation[rows]
        improvement = expected_hypervolume_improvement(
            mean[rows], sure, candidates.prices[rows], (reached, prices), reference
        )
        costs = candidates.costs[rows, seed]
        scores = np.log(improvement + 1e-300) - np.log(np.maximum(costs, 1.0))
        for at in np.argsort(-scores, kind="stable")[:_MOST_CLIMBED]:
            row = int(rows[at])
            found.append(
                Choice(
                    candidates.names[row],
                    seed,
                    cost=float(costs[at]),
                    price=float(candidates.prices[row]),
                    expected=float(mean[row]),
                    deviation=float(deviation[row]),
                    improvement=float(improvement[at]),
                )
            )
    return sorted(found, key=_order)


def _order(choice: Choice) -> float:
    return -choice.score


def _first_of(best: Sequence[Choice]) -> Choice | None:
    """The best; ties go to the cheaper, the smaller, then by name, so workers in equal states agree."""
    equal = [choice for choice in best if choice.score >= best[0].score - _TIE]
    return min(equal, key=lambda choice: (choice.cost, choice.price, choice.name, choice.seed), default=None)


def _spread_over(evidence: Evidence, most: int) -> Rows:
    """Rows of finished trainings, at most that many: the front, and the others spread evenly over time."""
    finished = evidence.finished
    if most >= len(finished):
        return np.arange(len(finished))
    on_front = front(finished.gains, evidence.prices)[-most:]
    others = np.setdiff1d(np.arange(len(finished)), on_front)
    picked = others[np.linspace(0, len(others) - 1, most - len(on_front)).round().astype(int)]
    return np.unique(np.concatenate([on_front, picked]))
