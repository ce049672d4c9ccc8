"""What a search finds, judged by truth: on one seed it may find what was lucky there, and nothing else.

    python benchmarks/search_truth.py                            20 repeats of every way, a table of numbers
    python benchmarks/search_truth.py --json t.json --plot t.png the numbers as a file, and as a picture
    python benchmarks/search_truth.py --ways tpe plan --repeats 4

Nothing is trained: 121 plans were, with four seeds each (``data/quality_seeds.csv``). What decides is the
program's own: Optuna's TPE as it is built for a study, and ``sampler: plan``. Compute is counted as in
``search_quality.py``: steps paid, each at the measured cost of a step of its plan.

observed   hypervolume of the gains seen on the searched seed, as ``search_quality.py`` has it
true       hypervolume of the reported plans by their gain over the unexpanded network, in the mean over the
           seeds that were not searched, as a share of the largest there is
best gain  the same mean for the plan that is called best, in points of delta_m

tpe        plain TPE: every proposal is trained to its end
reused     TPE, trunks and equal work paid for once, as with all that follow
plan       ``sampler: plan``; plan4: with four workers; warm: another seed's study of 60 plans is known
seeds2     ``sampler: plan`` with ``seeds: 2``: both recorded seeds are searched, the two others judge
drawn      below the recorded seeds: the same plans, their gains drawn from a process like the one fitted to
           them, with a seed moving alike plans alike twice as far as the plan itself (``--bias``); judged by
           the gains that it is drawn around, not by two more noisy seeds
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from search_quality import DATA, NUM_LAYERS, Point, Table

from dtme_search.config import SamplerConfig
from dtme_search.search.proposal.choice import model_of
from dtme_search.search.proposal.front import front, hypervolume
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.study.pool import Pool
from dtme_search.search.study.resolving import Resolved
from dtme_search.search.study.sampling import build_sampler
from dtme_search.search.study.standing import Entry, Standing, in_numbers

NUM_SEEDS = 4
TRIALS = 64
"""Of a plain search."""
SHARES = (0.2, 1 / 3, 0.5, 1.0)
"""Of plain TPE's compute, at which searches are looked at."""
WAYS = ("tpe", "reused", "plan", "plan4", "warm", "seeds2")


@dataclass(frozen=True)
class Seeds:
    """Different plans of the table, in its order, and their final delta_m with each seed, shape (n, S).

    ``expected`` is what a drawn landscape is drawn around: delta_m in the mean over all seeds there could be.
    """

    table: Table
    plans: Sequence[Resolved]
    points: Sequence[Point]
    values: np.ndarray
    expected: np.ndarray | None = None

    @classmethod
    def read(cls) -> Seeds:
        """The recorded seeds."""
        table = Table.read(DATA / "quality.csv")
        with (DATA / "quality.csv").open(newline="", encoding="utf-8") as stream:
            rows = {row["work"]: row for row in reversed(list(csv.DictReader(stream)))}
        first: dict[str, tuple[Any, Point]] = {}
        for key, point in table.points.items():
            first.setdefault(point.work, (key, point))
        paths = list(table.study.search)
        plans = [
            resolved(dict(zip(paths, key, strict=True)), rows[work]["operations"].split(), point)
            for work, (key, point) in first.items()
        ]
        with (DATA / "quality_seeds.csv").open(newline="", encoding="utf-8") as stream:
            values = [
                [float(row[f"seed{seed}"]) for seed in range(NUM_SEEDS)] for row in csv.DictReader(stream)
            ]
        return cls(table, plans, [point for _, point in first.values()], np.array(values))

    @property
    def prices(self) -> np.ndarray:
        return np.array([plan.overhead for plan in self.plans])

    @property
    def unexpanded(self) -> int:
        return int(np.argmin(self.prices))

    def row_of(self, params: Mapping[str, Any]) -> int:
        work = self.table.at(params).work
        return next(row for row, point in enumerate(self.points) if point.work == work)

    def drawn(self, number: int, bias: float) -> Seeds:
        """Other gains of the same plans: spread 1, a seed moves plans by ``bias`` and all by 1.3."""
        rng = np.random.default_rng([number, 5])
        plans = in_numbers(self.plans)
        square = sum(
            ((group[:, None] - group[None]) ** 2).sum(2) / (2 * scale**2)
            for group, scale in zip(plans.groups, (0.35, 0.9, 1.7, 1.9), strict=True)
        )
        root = np.linalg.cholesky(np.exp(-square) + 1e-8 * np.eye(len(self.plans)))
        size = np.where(plans.reach > 0, plans.reach + 0.1, 0.03)

        def field_() -> np.ndarray:
            return size * (root @ rng.standard_normal(len(size)))

        truth = field_()
        columns = [
            truth + bias * field_() + 1.3 * rng.standard_normal() + 0.1 * rng.standard_normal(len(size))
            for _ in range(NUM_SEEDS)
        ]
        return replace(self, values=np.array(columns).T, expected=truth)

    def truth(self, searched: Sequence[int]) -> np.ndarray:
        """Gain of every plan over the unexpanded network: expected, or the mean over seeds not searched."""
        if self.expected is not None:
            return self.expected - self.expected[self.unexpanded]
        gains = self.values - self.values[self.unexpanded]
        others = [seed for seed in range(NUM_SEEDS) if seed not in searched]
        return gains[:, others].mean(1)

    def true_volume(self, rows: Sequence[int], truth: np.ndarray) -> float:
        """Share of the largest true volume that the plans ``rows`` reach, with the unexpanded network."""
        reference = 0.0, float(self.prices.max()) * 1.0001
        rows = [*rows, self.unexpanded]
        whole = hypervolume(truth, self.prices, reference)
        return hypervolume(truth[rows], self.prices[rows], reference) / whole if whole else 0.0


def resolved(params: Mapping[str, Any], operations: Sequence[str], point: Point) -> Resolved:
    """A plan of the table as the sampler sees it."""
    grows = point.overhead > 0
    rate = (float(grows and params["expansion.lr_multiplier"] > 1),)
    modulated = tuple(float(operation in ("modulate", "both")) for operation in operations)
    expanded = tuple(float(operation in ("expand", "both")) for operation in operations)
    start = point.start if grows else point.total
    return Resolved(
        params,
        point.work,
        (),
        {"modulate": modulated, "expand": expanded},
        3 if grows else 1,
        start,
        point.total,
        (rate,),
        point.overhead,
        0,
    )


@dataclass
class Search:
    """One search: what it paid, trained and would report, after each training.

    Attributes:
        seeds: The landscape.
        searched: Seeds that may be trained with; all but the first are opened by the sampler.
        reuse: Whether trunks and equal work are paid for once.
        spent: Compute in total after each training; ``done`` its plan and seed; ``reports`` the plans that
            would be reported then, best last.
    """

    seeds: Seeds
    searched: Sequence[int]
    reuse: bool = True
    spent: list[float] = field(default_factory=list)
    done: list[tuple[int, int]] = field(default_factory=list)
    reports: list[list[int]] = field(default_factory=list)
    _trunk: dict[int, int] = field(default_factory=dict)

    def pay(self, row: int, seed: int) -> float:
        """Compute that a training costs now."""
        plan, point = self.seeds.plans[row], self.seeds.points[row]
        if not self.reuse:
            return point.paid(0, plan.end) if plan.grows else float(plan.end)
        if (row, seed) in self.done:
            return 0.0
        first = min(self._trunk.get(seed, 0), plan.start)
        self._trunk[seed] = max(self._trunk.get(seed, 0), plan.start)
        return plan.start - first + point.cost * (plan.end - plan.start)

    def end(self, row: int, seed: int, paid: float, report: Sequence[int] | None = None) -> None:
        self.spent.append((self.spent[-1] if self.spent else 0.0) + paid)
        self.done.append((row, seed))
        rows = sorted({row for row, _ in self.done})
        gains = self.seeds.values[rows, self.searched[0]]
        on_front = front(gains, self.seeds.prices[rows]) if report is None else []
        self.reports.append([rows[int(at)] for at in on_front] if report is None else list(report))

    def at(self, compute: float) -> int:
        """Trainings that were done for ``compute``."""
        return int(np.searchsorted(self.spent, compute * (1 + 1e-9), side="right"))

    def observed(self, count: int) -> float:
        """Hypervolume after so many trainings of what the first seed showed."""
        values = self.seeds.values[:, self.searched[0]]
        rows = [row for row, seed in self.done[:count] if seed == self.searched[0]]
        reference = float(values.min()), float(self.seeds.prices.max())
        return hypervolume(values[rows], self.seeds.prices[rows], reference)


def by_tpe(seeds: Seeds, seed: int, repeat: int, budget: float, *, reuse: bool) -> Search:
    """Optuna's TPE as a study builds it."""
    table, search = seeds.table, Search(seeds, (seed,), reuse)
    config = table.study.model_copy(update={"sampler": SamplerConfig(name="tpe")})
    directions = list(config.objectives.values())
    study = optuna.create_study(directions=directions, sampler=build_sampler(config, repeat))
    while (len(search.spent) < TRIALS or reuse) and (not search.spent or search.spent[-1] < budget):
        trial = study.ask()
        table.space.suggest(trial)
        row = seeds.row_of(trial.params)
        search.end(row, seed, search.pay(row, seed))
        study.tell(trial, [seeds.values[row, seed], seeds.prices[row]])
        if len(search.spent) >= 8 * TRIALS:
            break
    return search


def by_plan(
    seeds: Seeds,
    searched: Sequence[int],
    repeat: int,
    budget: float,
    *,
    workers: int = 1,
    known: Sequence[tuple[int, int]] = (),
) -> Search:
    """``sampler: plan``. ``known`` are plans and seeds of another study."""
    study = seeds.table.study.model_copy(update={"seeds": len(searched), "seed": repeat})
    study = study.model_copy(update={"sampler": SamplerConfig(name="plan")})
    space = SearchSpace.from_study(study, seeds.table.space.base, NUM_LAYERS)
    search, pool = Search(seeds, searched), Pool(space, {"seed": 0})
    by_work = {plan.key: row for row, plan in enumerate(seeds.plans)}
    running: list[tuple[int, int, float]] = []

    def resolve(params: Mapping[str, Any]) -> Resolved:
        return seeds.plans[seeds.row_of({path: params[path] for path in seeds.table.study.search})]

    def entry(row: int, place: int, gain: float | None, source: str | None = None) -> Entry:
        plan, point = seeds.plans[row], seeds.points[row]
        ratio = (plan.start + point.cost * (plan.end - plan.start)) / plan.end
        return Entry(_with_seed(plan, place), gain, ratio if gain is not None else None, source)

    others = [entry(row, 0, seeds.values[row, seed], f"seed {seed}") for row, seed in known]
    while not search.spent or search.spent[-1] < budget:
        done = [entry(row, searched.index(seed), seeds.values[row, seed]) for row, seed in search.done]
        busy = [entry(row, searched.index(seed), None) for row, seed, _ in running]
        standing = Standing(study, space, resolve, [*others, *done, *busy])
        for each in done:
            standing.pay(each.plan, each.plan.start)
        proposed = standing.propose(pool)
        if proposed is None:
            break
        row, seed = by_work[proposed.plan.key], searched[proposed.choice.seed]
        running.append((row, seed, search.pay(row, seed)))
        if len(running) >= workers:
            row, seed, paid = running.pop(0)
            report = None
            if len(searched) > 1 and len(done) > 3:
                report = expected_front(seeds, search, standing)
            search.end(row, seed, paid, report)
    return search


def expected_front(seeds: Seeds, search: Search, standing: Standing) -> list[int]:
    """The front of the gains that are expected in the mean over seeds."""
    rows = sorted({row for row, _ in search.done})
    mean, _ = model_of(standing.evidence).average(in_numbers([seeds.plans[row] for row in rows]))
    return [rows[int(at)] for at in front(mean, seeds.prices[rows])]


def _with_seed(plan: Resolved, seed: int) -> Resolved:
    return Resolved(**{**vars(plan), "seed": seed})


def run(way: str, seeds: Seeds, seed: int, repeat: int, budget: float) -> Search:
    """One search on a seed; ``seeds2`` takes the next one, too."""
    match way:
        case "tpe" | "reused":
            return by_tpe(seeds, seed, repeat, budget, reuse=way == "reused")
        case "warm":
            rng = np.random.default_rng([seed, repeat, 3])
            other = int(rng.choice([each for each in range(NUM_SEEDS) if each != seed]))
            known = [(int(row), other) for row in rng.choice(len(seeds.plans), 60, replace=False)]
            return by_plan(seeds, (seed,), repeat, budget, known=known)
        case "seeds2":
            other = (seed + 1 + repeat % (NUM_SEEDS - 1)) % NUM_SEEDS
            return by_plan(seeds, (seed, other), repeat, budget)
        case _:
            return by_plan(seeds, (seed,), repeat, budget, workers=4 if way == "plan4" else 1)


@dataclass(frozen=True)
class Judged:
    """Repeats of one way on one landscape, each beside plain TPE's end."""

    way: str
    searches: Sequence[Search]
    goal: float
    budget: float

    @property
    def needed(self) -> list[float]:
        """Share of plain TPE's compute until its observed volume is reached; infinite if never."""
        found = []
        for search in self.searches:
            counts = range(1, len(search.done) + 1)
            first = next((n for n in counts if search.observed(n) >= self.goal * (1 - 1e-9)), None)
            found.append(np.inf if first is None else search.spent[first - 1] / self.budget)
        return found

    def true(self, share: float, judges: Sequence[Sequence[int]]) -> tuple[list[float], list[float]]:
        """True volume, and true gain of the plan called best, at a share of the compute."""
        volumes, gains = [], []
        for search, searched in zip(self.searches, judges, strict=True):
            truth = search.seeds.truth(searched)
            count = search.at(share * self.budget)
            report = search.reports[count - 1] if count else [search.seeds.unexpanded]
            volumes.append(search.seeds.true_volume(report, truth))
            gains.append(float(truth[report[-1]]))
        return volumes, gains


def compare(
    name: str, landscape: Callable[[int], Seeds], seed: int, ways: Sequence[str], repeats: int, *, stop: bool
) -> dict[str, Any]:
    """All ways on one landscape: observed volume on its seed, true volume on those that no way searched."""
    plain = [run("tpe", landscape(repeat), seed, repeat, np.inf) for repeat in range(repeats)]
    goals = [search.observed(len(search.done)) for search in plain]
    budget = float(np.median([search.spent[-1] for search in plain]))
    result: dict[str, Any] = {"budget": budget, "ways": {}}
    for way in ways:
        started = time.process_time()
        limit = budget * (1.0 if way in ("tpe", "reused") or not stop else 0.7)
        searches = plain if way == "tpe" else [run(way, landscape(r), seed, r, limit) for r in range(repeats)]
        judged = Judged(way, searches, float(np.median(goals)), budget)
        # The same judges for all: the seeds that the search with two seeds did not see.
        judges = [(seed, (seed + 1 + repeat % (NUM_SEEDS - 1)) % NUM_SEEDS) for repeat in range(repeats)]
        true = {
            f"{share:.2f}": judged.true(share, judges) for share in SHARES if share * budget <= limit * 1.001
        }
        result["ways"][way] = {
            "needed": quartiles(judged.needed) if name.startswith("seed") else None,
            "true_volume": {share: quartiles(volumes) for share, (volumes, _) in true.items()},
            "mean_true_volume": {share: float(np.mean(volumes)) for share, (volumes, _) in true.items()},
            "best_gain": {share: quartiles(gains) for share, (_, gains) in true.items()},
            "mean_best_gain": {share: float(np.mean(gains)) for share, (_, gains) in true.items()},
        }
        print(line(name, way, result["ways"][way]), f"[{time.process_time() - started:.0f} s]", flush=True)
    return result


def quartiles(values: Sequence[float]) -> list[float]:
    """Median, lower and upper quartile."""
    low, middle, high = np.quantile(np.array(values, dtype=float), [0.25, 0.5, 0.75], method="nearest")
    return [float(middle), float(low), float(high)]


def spread(values: Sequence[float] | None) -> str:
    return " " * 18 if values is None else "{:5.2f} ({:.2f}-{:.2f})".format(*values).ljust(18)


def line(name: str, way: str, found: Mapping[str, Any]) -> str:
    at = "  ".join(spread(found["true_volume"].get(f"{share:.2f}")) for share in SHARES)
    return f"{name:8s} {way:7s} {spread(found['needed'])}  {at}  {spread(found['best_gain'].get('0.50'))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(range(NUM_SEEDS)))
    parser.add_argument("--drawn", type=int, default=20, help="drawn landscapes beside the table; 0 for none")
    parser.add_argument(
        "--bias", type=float, default=2.0, help="how far a seed moves plans, which spread by 1"
    )
    parser.add_argument("--json", type=Path, help="where to save the numbers")
    parser.add_argument("--plot", type=Path, help="where to save a picture")
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    recorded = Seeds.read()
    print("                 compute for plain   true volume, share of the largest, at a share of plain TPE's")
    print("landscape way    TPE's volume         compute: 1/5, 1/3, 1/2, 1; true gain of the best at 1/2")
    results = {
        f"seed {seed}": compare(
            f"seed {seed}", lambda _: recorded, seed, chosen.ways, chosen.repeats, stop=True
        )
        for seed in chosen.seeds
    }
    for way in chosen.ways if results else ():
        medians = [result["ways"][way]["needed"][0] for result in results.values()]
        print(f"{way}: mean of the medians {np.mean(medians):.3f}, largest {max(medians):.2f}")
    if chosen.drawn:
        ways = [way for way in chosen.ways if way not in ("plan4", "warm")]
        results["drawn"] = compare(
            "drawn", lambda r: recorded.drawn(r, chosen.bias), 0, ways, chosen.drawn, stop=False
        )
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if chosen.plot is not None:
        draw(results, chosen.plot)


def draw(results: Mapping[str, Any], file: Path) -> None:
    """Left, the compute that each way needs for plain TPE's volume; right, the true volume at half of it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    # Okabe and Ito's colours, told apart with any colour vision.
    colors = ("#555555", "#0072B2", "#009E73", "#56B4E9", "#E69F00", "#CC79A7")
    kinds = ("needed", "true_volume")
    titles = (
        "compute until plain TPE's observed volume, share of its own",
        "true volume at half of its compute",
    )
    for panel, kind, title in zip(panels, kinds, titles, strict=True):
        for place, result in enumerate(results.values()):
            for way, found in result["ways"].items():
                index = WAYS.index(way)
                values = found["needed"] if kind == "needed" else found["true_volume"].get("0.50")
                if values is None or not np.isfinite(values[0]):
                    continue
                at = place + (index - 2.5) * 0.13
                high = min(values[2], 1.2)
                panel.plot([at, at], [values[1], high], color=colors[index], linewidth=3, alpha=0.4)
                label = None if way in panel.get_legend_handles_labels()[1] else way
                panel.plot(at, values[0], "o", color=colors[index], label=label)
        shown = [name for name, result in results.items() if kind != "needed" or name.startswith("seed")]
        panel.set(title=title, xticks=range(len(shown)), xticklabels=shown, ylim=(0, 1.05))
    panels[1].legend(frameon=False, ncols=2, fontsize=8)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
