"""Which plan to train next, with which seed: what it may add to the front, for what it still costs.

With one seed the front is that of the gains that were seen, which a study shows. With several it is that of
the expected gains: what was lucky with one seed is no reason to stop looking.
Nothing is remembered: equal evidence gives equal choices in every process.
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
"""Plans that must have been trained, or be training, before a model says anything [ours, by replays]."""
NUM_BEFORE_NEXT_SEED = 8
"""Trainings of a seed after which the next one opens [ours]."""
_SHARE_DRAWN = 1 / 8
"""Share of the candidates among which the first plans are looked for [ours]."""
_MOST_LEARNT_FROM = 60
_MOST_SEEN = 300
_MOST_CLIMBED = 20
_TIE = 1e-9


@dataclass(frozen=True)
class Candidates:
    """Plans that might be trained next.

    Attributes:
        plans: The n plans.
        prices: Their known prices, shape (n,).
        costs: Compute each would cost now, by seed, shape (n, S).
        open: Whether it may be trained with a seed at all, shape (n, S): not if it was or is, or fails.
        names: Different for different plans; decide between equals.
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
        finished: What trainings showed; ``prices`` of their plans, shape (n,).
        running: Plans and seeds in training; their gains are not read.
        running_prices: Prices of these.
        limit: Highest price that counts, where the study has a limit.
    """

    finished: Observations
    prices: Array
    running: Observations
    running_prices: Array
    limit: float | None = None


@dataclass(frozen=True)
class Choice:
    """A plan to train, and why.

    Attributes:
        name: Of the candidate; ``seed`` to train it with.
        expected: Gain that is expected of it, ``deviation`` how sure that is; ``None`` without a model.
        improvement: Expected growth of the hypervolume, in units of gain times price.
        cost: Compute that it will cost, in unexpanded steps; ``price`` what it costs for ever.
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
        """Logarithm of the improvement for each step that is still to pay."""
        return float(np.log((self.improvement or 0.0) + 1e-300) - np.log(max(self.cost, 1.0)))


def choose(
    evidence: Evidence,
    candidates: Candidates,
    draw: int,
    more: Callable[[Sequence[str]], Candidates | None] = lambda _: None,
) -> Choice | None:
    """The open candidate that is expected to enlarge the hypervolume most for what it still costs.

    Args:
        evidence: What is known.
        candidates: What may be trained.
        draw: Decides the first plans, before there is a model, and nothing else.
        more: Further candidates near the named best ones, where not all plans can be listed.

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
    """The model of what is finished; what runs is believed to come out as expected."""
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
    """Seeds that plans may be trained with: the next one opens when the one before has taught something."""
    begun = np.concatenate([evidence.finished.seeds, evidence.running.seeds])
    num_seeds = candidates.costs.shape[1]
    counts = [int((begun == seed).sum()) for seed in range(num_seeds)]
    num_open = 1
    while num_open < num_seeds and counts[num_open - 1] >= NUM_BEFORE_NEXT_SEED:
        num_open += 1
    return list(range(num_open))


def _unexpanded(candidates: Candidates, seed: int) -> int | None:
    """The plan that never grows, if it is still to be trained with a seed."""
    rows = np.flatnonzero((candidates.plans.reach == 0) & candidates.open[:, seed])
    return int(rows[0]) if len(rows) else None


def _num_grown(evidence: Evidence) -> int:
    """Plans that grow, finished or running, here or in another study."""
    return int((evidence.finished.plans.reach > 0).sum() + (evidence.running.plans.reach > 0).sum())


def _first_plan(evidence: Evidence, candidates: Candidates, draw: int) -> Choice:
    """Before there is a model: far from what is known, and cheap, among a share drawn at random."""
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
    # A little beyond the dearest plan, so that this one counts, too.
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
    """The best; of equals the cheaper, then the smaller, then by name: workers with equal states agree."""
    equal = [choice for choice in best if choice.score >= best[0].score - _TIE]
    return min(equal, key=lambda choice: (choice.cost, choice.price, choice.name, choice.seed), default=None)


def _spread_over(evidence: Evidence, most: int) -> Rows:
    """Rows of finished trainings, at most so many: the front, and the others evenly over time."""
    finished = evidence.finished
    if most >= len(finished):
        return np.arange(len(finished))
    on_front = front(finished.gains, evidence.prices)[-most:]
    others = np.setdiff1d(np.arange(len(finished)), on_front)
    picked = others[np.linspace(0, len(others) - 1, most - len(on_front)).round().astype(int)]
    return np.unique(np.concatenate([on_front, picked]))
