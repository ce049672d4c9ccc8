"""Which plan to train next, with which seed: what it may add to the front, for what it still costs.

With one seed the front is that of the gains that were seen, which a study shows. With several it is that of
the expected gains: what was lucky with one seed is no reason to stop looking.
Nothing is remembered: equal evidence gives equal choices in every process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from dtme_search.search.proposal.front import (
    Array,
    Rows,
    expected_hypervolume_improvement,
    front,
)
from dtme_search.search.proposal.gaussian import Observations, PlanModel, fit
from dtme_search.search.proposal.plans import Plans

NUM_FIRST = 3
"""Plans that must have been trained, or be training, before a model says anything [ours, by replays]."""
NUM_BEFORE_NEXT_SEED = 8
"""Trainings of a seed after which the next one opens [ours]."""
_SHARE_DRAWN = 1 / 8
"""Share of the candidates among which the first plans are looked for [ours]."""
_MOST_LEARNT_FROM = 60
_MOST_SEEN = 300
_TIE = 1e-9


@dataclass(frozen=True)
class Candidates:
    """Plans that might be trained next.

    Attributes:
        plans: The n plans.
        prices: Their known prices, shape (n,).
        costs: Compute each would cost now, by seed, shape (n, S).
        open: Whether it may be trained with a seed at all, shape (n, S): not if it was or is, or fails.
        names: What decides between equals.
    """

    plans: Plans
    prices: Array
    costs: Array
    open: np.typing.NDArray[np.bool_]
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
        row: Of the candidates; ``seed`` to train it with.
        expected: Gain that is expected of it, ``deviation`` how sure that is; ``None`` without a model.
        improvement: Expected growth of the hypervolume, in units of gain times price.
        cost: Compute that it will cost, in unexpanded steps.
    """

    row: int
    seed: int
    cost: float
    expected: float | None = None
    deviation: float | None = None
    improvement: float | None = None


def choose(evidence: Evidence, candidates: Candidates, draw: int) -> Choice | None:
    """The open candidate that is expected to enlarge the hypervolume most for what it still costs.

    Args:
        evidence: What is known.
        candidates: What may be trained.
        draw: Decides the first plans, before there is a model, and nothing else.

    Returns:
        ``None`` if nothing is open.
    """
    # On matrices this small, BLAS threads that spin made a fit 60 times slower.
    with threadpool_limits(limits=1, user_api="blas"):
        seeds = _seeds_open(evidence, candidates)
        for seed in seeds:
            first = _unexpanded(candidates, seed)
            if first is not None:
                return Choice(first, seed, float(candidates.costs[first, seed]))
        if not candidates.open[:, seeds].any():
            return None
        if _num_grown(evidence, seeds) < NUM_FIRST:
            return _first_plan(evidence, candidates, draw)
        return _best_pair(evidence, candidates, model_of(evidence), seeds)


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


def _num_grown(evidence: Evidence, seeds: Sequence[int]) -> int:
    own = np.isin(evidence.finished.seeds, seeds)
    grown = int((evidence.finished.plans.reach[own] > 0).sum())
    return grown + int((evidence.running.plans.reach > 0).sum())


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
    return Choice(row, 0, float(candidates.costs[row, 0]))


def _best_pair(
    evidence: Evidence, candidates: Candidates, model: PlanModel, seeds: Sequence[int]
) -> Choice | None:
    own = np.flatnonzero(np.isin(evidence.finished.seeds, seeds))
    known = Plans.join([evidence.finished.plans[own], evidence.running.plans])
    prices = np.concatenate([evidence.prices[own], evidence.running_prices])
    several = candidates.costs.shape[1] > 1
    reached = model.average(known)[0] if several else model.shown_by(known, 0)[0]
    if not several:
        reached[: len(own)] = evidence.finished.gains[own]
    highest = max(float(candidates.prices.max(initial=0.0)), float(prices.max()))
    # A little beyond the dearest plan, so that this one counts, too.
    reference = float(reached.min()), (highest if evidence.limit is None else evidence.limit) * 1.0001 + _TIE
    mean, deviation = model.average(candidates.plans) if several else model.shown_by(candidates.plans, 0)
    best: list[tuple[float, float, float, str, Choice]] = []
    for seed in seeds:
        rows = np.flatnonzero(candidates.open[:, seed])
        if not len(rows):
            continue
        sure = model.lesson(candidates.plans[rows], seed) if several else deviation[rows]
        improvement = expected_hypervolume_improvement(
            mean[rows], sure, candidates.prices[rows], (reached, prices), reference
        )
        costs = np.maximum(candidates.costs[rows, seed], 1.0)
        score = np.log(improvement + 1e-300) - np.log(costs)
        for at in np.flatnonzero(score >= score.max() - _TIE):
            row = int(rows[at])
            choice = Choice(
                row, seed, float(candidates.costs[row, seed]),
                float(mean[row]), float(deviation[row]), float(improvement[at]),
            )  # fmt: skip
            best.append(
                (-float(score[at]), choice.cost, float(candidates.prices[row]), candidates.names[row], choice)
            )
    if not best:
        return None
    top = min(entry[0] for entry in best)
    return min(
        (entry for entry in best if entry[0] <= top + _TIE), key=lambda entry: (*entry[1:4], entry[4].seed)
    )[4]


def _spread_over(evidence: Evidence, most: int) -> Rows:
    """Rows of finished trainings, at most so many: the front, and the others evenly over time."""
    finished = evidence.finished
    if most >= len(finished):
        return np.arange(len(finished))
    on_front = front(finished.gains, evidence.prices)[-most:]
    others = np.setdiff1d(np.arange(len(finished)), on_front)
    picked = others[np.linspace(0, len(others) - 1, most - len(on_front)).round().astype(int)]
    return np.unique(np.concatenate([on_front, picked]))
