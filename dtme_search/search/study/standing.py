"""What a study knows at one moment, in numbers, and the proposal that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dtme_search.config import Scalar, StudyConfig
from dtme_search.search.proposal.choice import Candidates, Choice, Evidence, choose
from dtme_search.search.proposal.cost import Shape, cost_to_go, fitted_line, step_costs
from dtme_search.search.proposal.front import Array, front
from dtme_search.search.proposal.gaussian import Observations
from dtme_search.search.proposal.plans import Plans
from dtme_search.search.space.paths import SEED
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.study.pool import Params, Pool
from dtme_search.search.study.resolving import Resolved
from dtme_search.words import cell, heading

_MANY_LAYERS = 8
"""Number of layers above which the number of operations also gets a linear part [ours, by replays]."""


@dataclass(frozen=True)
class Entry:
    """A plan that a trial has trained, is training, or must not train again.

    Attributes:
        plan: The plan.
        gain: What the study is after (delta_m in percent), higher is better; ``None`` while it runs.
        step_cost_ratio: Mean cost of a step, if measured.
        source: Name of the study it comes from, if it is another one.
        closed: Failed or pruned: not tried again, and no gain to learn from.
        price: Value of the second objective, where it was measured.
    """

    plan: Resolved
    gain: float | None
    step_cost_ratio: float | None = None
    source: str | None = None
    closed: bool = False
    price: float | None = None


@dataclass(frozen=True)
class Proposed:
    """Parameters to train next, and why."""

    params: Mapping[str, Scalar]
    plan: Resolved
    seed: int
    choice: Choice
    reason: str


@dataclass
class Standing:
    """What is known, and which training already exists.

    Attributes:
        study: The study.
        space: Its search space.
        resolve: What parameters lead to.
        entries: Trials of this study, and of others whose knowledge it received.
    """

    study: StudyConfig
    space: SearchSpace
    resolve: Callable[[Params], Resolved]
    entries: Sequence[Entry]
    _paid: dict[Hashable, int] = field(default_factory=dict)
    _closed: set[Hashable] = field(default_factory=set)

    def __post_init__(self) -> None:
        own = [entry for entry in self.entries if entry.source is None]
        self._closed |= {(entry.plan.key, entry.plan.seed) for entry in own}
        self._finished = _each_once([entry for entry in self.entries if entry.gain is not None])
        self._running = [entry for entry in own if entry.gain is None and not entry.closed]
        first = self.space.base.seed
        self.seeds = tuple(range(first, first + self.study.seeds))
        sources = dict.fromkeys(entry.source for entry in self.entries if entry.source is not None)
        self._index = {source: len(self.seeds) + at for at, source in enumerate(sources)}
        self._by_name: dict[str, Resolved] = {}
        for entry in self._running:  # another worker is training the trunk they share
            self.pay(entry.plan, entry.plan.start)

    def pay(self, plan: Resolved, step: int) -> None:
        """Record that the trunk of a plan has been trained, or is in training, up to a step."""
        if self.study.reuse.trunks:
            place = plan.trunk, plan.seed
            self._paid[place] = max(self._paid.get(place, 0), step)

    def close(self, plan: Resolved, seed: int) -> None:
        """Record that a plan must not be proposed with a seed."""
        self._closed.add((plan.key, seed))

    def propose(self, pool: Pool) -> Proposed | None:
        """The best plan of a pool; ``None`` if it has no new work."""
        draw = self.study.seed, len(self.entries)
        good = [plan.params for plan in self._good()]
        candidates = self.candidates(pool.around(good, draw))

        def more(names: Sequence[str]) -> Candidates | None:
            if pool.listed is not None:
                return None
            return self.candidates(pool.near([self._by_name[name].params for name in names], draw))

        choice = choose(self.evidence, candidates, self.study.seed, more)
        if choice is None:
            return None
        plan, seed = self._by_name[choice.name], self.seeds[choice.seed]
        params = {**plan.params, SEED: seed} if self.study.seeds > 1 else plan.params
        return Proposed(params, plan, seed, choice, self._reason(choice, plan))

    @property
    def evidence(self) -> Evidence:
        """What is finished and what is running."""
        limit = self.study.limits.get(self.study.price or "")
        return Evidence(
            self._observed(self._finished),
            self._prices(self._finished),
            self._observed(self._running),
            self._prices(self._running),
            limit,
        )

    def candidates(self, sets: Sequence[Params]) -> Candidates:
        """What parameter sets lead to, each plan once, within the limits."""
        plans: dict[Hashable, Resolved] = {}
        for params in sets:
            plan = self.resolve(params)
            plans.setdefault(plan.key, plan)
        kept = [plan for plan in plans.values() if self._within_limits(plan)]
        names = [plan.name for plan in kept]
        self._by_name |= dict(zip(names, kept, strict=True))
        steps = self._step_costs(kept)
        costs = np.array([self._costs(kept, steps, seed) for seed in self.seeds]).T
        is_open = [[(plan.key, seed) not in self._closed for seed in self.seeds] for plan in kept]
        shape = len(kept), len(self.seeds)
        prices = self._prices_of(kept, steps)
        return Candidates(
            in_numbers(kept),
            prices,
            costs.reshape(shape),
            np.array(is_open, dtype=bool).reshape(shape),
            names,
        )

    def _within_limits(self, plan: Resolved) -> bool:
        # Where no conflicts are measured yet, nobody knows how many layers have several streams: let it be.
        known = {"param_overhead_percent": plan.overhead, "inference_flops_ratio": plan.flops}
        return all((known.get(name) or 0.0) <= limit for name, limit in self.study.limits.items())

    def _good(self) -> list[Resolved]:
        own = [entry for entry in self._finished if entry.source is None]
        rows = front(np.array([entry.gain for entry in own], dtype=float), self._prices(own))
        return [own[int(row)].plan for row in rows]

    def _observed(self, entries: Sequence[Entry]) -> Observations:
        seeds = [
            self.seeds.index(entry.plan.seed) if entry.source is None else self._index[entry.source]
            for entry in entries
        ]
        gains = np.array([entry.gain or 0.0 for entry in entries], dtype=float)
        return Observations(
            in_numbers([entry.plan for entry in entries], like=self._like),
            np.array(seeds, dtype=np.intp),
            gains,
        )

    @property
    def _like(self) -> Plans:
        """A plan whose columns serve as a template if there are no plans."""
        return in_numbers([self.resolve(self._any_params())])

    def _any_params(self) -> Params:
        params: dict[str, Scalar] = {}
        for parameter in self.space.parameters:
            if parameter.unmet(params) is None:
                params[parameter.path] = parameter.nearest([])
        return params

    def _prices(self, entries: Sequence[Entry]) -> Array:
        plans = [entry.plan for entry in entries]
        prices = self._prices_of(plans, self._step_costs(plans))
        for row, entry in enumerate(entries):
            # An overhead is exact in any case.
            if entry.price is not None and self.study.price != "param_overhead_percent":
                prices[row] = entry.price
        return prices

    def _prices_of(self, plans: Sequence[Resolved], step_costs: Array) -> Array:
        match self.study.price:
            case None:
                return np.zeros(len(plans))
            case "param_overhead_percent":
                return np.array([plan.overhead for plan in plans], dtype=float)
            case "step_cost_ratio":
                starts, ends = _steps(plans)
                return (starts + (ends - starts) * step_costs) / ends
            case "inference_flops_ratio":
                return _operations(plans)
        return self._of_inference(plans)

    def _of_inference(self, plans: Sequence[Resolved]) -> Array:
        """Time or memory of a prediction: as measured of equal plans, else a line in its operations."""
        seen = [entry for entry in self._finished if entry.price is not None]
        known = {entry.plan.shape: entry.price for entry in seen}
        line = fitted_line(
            _operations([entry.plan for entry in seen]),
            np.array([entry.price for entry in seen], dtype=float),
        )
        predicted = line[0] + line[1] * _operations(plans)
        return np.array(
            [known.get(plan.shape, value) for plan, value in zip(plans, predicted, strict=True)], dtype=float
        )

    def _step_costs(self, plans: Sequence[Resolved]) -> Array:
        measured = [entry for entry in self._finished if entry.step_cost_ratio and entry.plan.grows]
        starts, ends = _steps([entry.plan for entry in measured])
        ratios = np.array([entry.step_cost_ratio for entry in measured], dtype=float)
        costs = (ratios * ends - starts) / np.maximum(ends - starts, 1.0)
        return step_costs(_shape(plans), _shape([entry.plan for entry in measured]), costs)

    def _costs(self, plans: Sequence[Resolved], step_costs: Array, seed: int) -> Array:
        starts, ends = _steps(plans)
        paid = np.array([self._paid.get((plan.trunk, seed), 0) for plan in plans], dtype=float)
        return cost_to_go(starts, ends, step_costs, paid)

    def _reason(self, choice: Choice, plan: Resolved) -> str:
        paid = min(self._paid.get((plan.trunk, self.seeds[choice.seed]), 0), plan.start)
        shares = f", {paid} of {plan.end} steps reused from a trunk" if paid else ""
        cost = f"costs about {choice.cost:.0f} unexpanded steps{shares}"
        if choice.expected is None or choice.deviation is None:
            why = "to explore plans unlike known ones" if plan.grows else "as the network that never grows"
            return f"Proposed {why}; {cost}."
        goal = self.study.goal or ""
        unit = " %" if goal.endswith("_percent") else ""
        value = cell(goal, self.study.sign * choice.expected)
        expected = f"{heading(goal)} of {value} ± {choice.deviation:.2g}{unit} expected"
        return f"Proposed for what it is expected to add to the front for its cost: {expected}; {cost}."


def in_numbers(plans: Sequence[Resolved], like: Plans | None = None) -> Plans:
    """Plans as the model sees them; ``like`` gives the columns if there is no plan."""
    if not plans:
        assert like is not None
        return like[slice(0, 0)]
    starts, ends = _steps(plans)
    reach = 1 - starts / ends
    operations = [np.array([plan.shares[name] for plan in plans]) for name in plans[0].shares]
    further = [np.array([plan.further[at] for plan in plans]) for at in range(len(plans[0].further))]
    summary = np.zeros((len(plans), 0))
    if operations[0].shape[1] > _MANY_LAYERS:
        streams = np.array([plan.streams for plan in plans], dtype=float)
        grown = sum(operations[1:], operations[0]).mean(1)
        summary = np.stack([grown * reach, reach, reach * streams / streams.max()], axis=1)
    return Plans(((starts / ends)[:, None], *further, *operations), summary, reach)


def _steps(plans: Sequence[Resolved]) -> tuple[Array, Array]:
    starts = np.array([plan.start for plan in plans], dtype=float)
    return starts, np.array([plan.end for plan in plans], dtype=float)


def _shape(plans: Sequence[Resolved]) -> Shape:
    return Shape(
        np.array([plan.depth for plan in plans], dtype=float),
        np.array([plan.streams for plan in plans], dtype=float),
        _shares_above_0(plans),
    )


def _shares_above_0(plans: Sequence[Resolved]) -> Array:
    """Share of the layers with each operation, shape (n, operations)."""
    shares = [[(np.array(of) > 0).mean() for of in plan.shares.values()] for plan in plans]
    return np.array(shares, dtype=float).reshape(len(plans), len(plans[0].shares) if plans else 0)


def _operations(plans: Sequence[Resolved]) -> Array:
    """Operations of a prediction of each plan; by a formula where nobody has counted them."""
    counted = np.array([np.nan if plan.flops is None else plan.flops for plan in plans], dtype=float)
    return np.where(np.isnan(counted), _shape(plans).formula() if len(plans) else counted, counted)


def _each_once(entries: Sequence[Entry]) -> list[Entry]:
    """Equal work with one seed in one study counts once, as its first trial."""
    first: dict[Hashable, Entry] = {}
    for entry in entries:
        first.setdefault((entry.plan.key, entry.plan.seed, entry.source), entry)
    return list(first.values())
