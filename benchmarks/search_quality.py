"""How good a search is for the training it pays: samplers, pruning and savings replayed on a recorded table.

    python benchmarks/search_quality.py                      20 repeats, a table of numbers
    python benchmarks/search_quality.py --plot quality.png   and the curves as a picture
    python benchmarks/search_quality.py --pruners            which eta and which correlation

Nothing is trained: proposals are looked up in ``data/quality.csv``, trained by ``data/record_table.py``.
Sampler, search space and pruning are the program's own. The quality of a search is the hypervolume of what
it completed, over (delta_m, overhead), as a share of that of the whole table. The reference point is the
worst value of the table in each objective. Compute is counted in unexpanded training steps: steps paid, each
at the measured cost of a step of its plan; measuring conflicts, evaluating and sampling are not counted.

plain      every proposal is trained to its end
pruned     pruning by dominance
reused     nothing pruned, but the trunk up to the growth is trained once, in stretches between the starts
           that the space knows, and work equal to finished work is not trained again
both       pruned and reused
"""

from __future__ import annotations

import argparse
import csv
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from dtme_search.config import PrunerConfig, SamplerConfig, StudyConfig, base_config, load_study_config
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.storage.rows import RungRow
from dtme_search.search.study.sampling import build_sampler
from dtme_search.search.trial.pruning import ParetoPruner

DATA = Path(__file__).parent / "data"
SAMPLERS = ("random", "nsga2", "tpe")
WAYS = ("plain", "pruned", "reused", "both")
NUM_LAYERS = 4


@dataclass(frozen=True)
class Point:
    """A row of the table.

    Attributes:
        work: Fingerprint of what was trained; equal for equal work.
        delta_m: At every evaluation, the last one is the result.
        overhead: Added parameters in percent.
        start: Step of the growth.
        total: Steps of the run.
        cost: Of a step after the growth, in unexpanded steps.
    """

    work: str
    delta_m: tuple[float, ...]
    overhead: float
    start: int
    total: int
    cost: float

    @property
    def values(self) -> tuple[float, float]:
        return self.delta_m[-1], self.overhead

    def step_of(self, rung: int) -> int:
        return round(self.total * (rung + 1) / len(self.delta_m))

    def paid(self, first: int, end: int) -> float:
        """Compute of the steps from ``first`` to ``end``."""
        return max(0, min(end, self.start) - first) + self.cost * max(0, end - max(first, self.start))


Key = tuple[Any, ...]


@dataclass(frozen=True)
class Table:
    """All points of the study."""

    study: StudyConfig
    space: SearchSpace
    points: Mapping[Key, Point]

    @classmethod
    def read(cls, file: Path) -> Table:
        study = load_study_config(str(DATA / "quality.yaml"))
        space = SearchSpace.from_study(study, base_config(study), NUM_LAYERS)
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        points = {}
        for row in rows:
            gains = tuple(float(row[name]) for name in row if name.startswith("delta_m_at_"))
            points[tuple(float(row[path]) for path in study.search)] = Point(
                row["work"],
                gains,
                float(row["param_overhead_percent"]),
                int(row["expansion_step"]),
                int(row["total_steps"]),
                float(row["grown_step_cost"]),
            )
        return cls(study, space, points)

    def at(self, params: Mapping[str, Any]) -> Point:
        return self.points[tuple(params[path] for path in self.study.search)]

    @cached_property
    def starts(self) -> list[int]:
        return sorted({point.start for point in self.points.values()})

    @cached_property
    def everything(self) -> float:
        return area((point.values for point in self.points.values()), self.reference)

    @cached_property
    def reference(self) -> tuple[float, float]:
        values = [point.values for point in self.points.values()]
        return min(gain for gain, _ in values), max(overhead for _, overhead in values)

    def hypervolume(self, values: Iterable[tuple[float, float]]) -> float:
        """Share of the hypervolume of the whole table that ``values`` reach."""
        return area(values, self.reference) / self.everything


def area(values: Iterable[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Hypervolume of (delta_m, overhead) pairs: what they dominate up to the reference point."""
    worst_gain, worst_overhead = reference
    total, best = 0.0, worst_gain
    for gain, overhead in sorted(set(values), key=lambda value: (value[1], -value[0])):
        if gain > best:
            total += (gain - best) * (worst_overhead - overhead)
            best = gain
    return total


@dataclass
class Replay:
    """One search on the table.

    Attributes:
        compute: Spent in total, after each trial; ``quality`` the hypervolume share, likewise.
        finished: Work -> its point and whether it was completed (else pruned).
        trunk: Steps of the trunk that were trained.
    """

    table: Table
    way: str
    pruner: ParetoPruner
    compute: list[float] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    finished: dict[str, tuple[Point, bool]] = field(default_factory=dict)
    rungs: dict[int, list[RungRow]] = field(default_factory=dict)
    trunk: int = 0

    def run(self, sampler: str, seed: int, num_trials: int, budget: float) -> None:
        """Propose until there are ``num_trials`` trials or the compute is spent."""
        config = self.table.study.model_copy(update={"sampler": SamplerConfig(name=sampler)})
        study = optuna.create_study(
            directions=list(config.objectives.values()), sampler=build_sampler(config, seed)
        )
        spent = 0.0
        while len(self.compute) < num_trials and spent < budget:
            trial = study.ask()
            self.table.space.suggest(trial)
            point = self.table.at(trial.params)
            paid, complete = self._train(trial.number, point)
            spent += paid
            if complete:
                study.tell(trial, point.values)
            else:
                study.tell(trial, state=TrialState.PRUNED)
            self.compute.append(spent)
            self.quality.append(self.table.hypervolume(self.completed))

    @property
    def reuses(self) -> bool:
        return self.way in ("reused", "both")

    @property
    def prunes(self) -> bool:
        return self.way in ("pruned", "both")

    @property
    def completed(self) -> list[tuple[float, float]]:
        return [point.values for point, complete in self.finished.values() if complete]

    @property
    def lost(self) -> bool:
        """Whether something was pruned that would have been on the final front."""
        done = self.completed
        return any(
            not complete
            and not any(gain >= point.values[0] and cost <= point.values[1] for gain, cost in done)
            for point, complete in self.finished.values()
        )

    def _train(self, number: int, point: Point) -> tuple[float, bool]:
        """Compute paid for a trial, and whether it was completed."""
        if self.reuses and point.work in self.finished:
            return 0.0, self.finished[point.work][1]
        end, complete = self._end(number, point)
        self.finished[point.work] = (point, complete or self.finished.get(point.work, (point, False))[1])
        if not self.reuses:
            return point.paid(0, end), complete
        first = min(self.trunk, max(start for start in self.table.starts if start <= point.start))
        self.trunk = max(self.trunk, min(point.start, end))
        return point.paid(first, end), complete

    def _end(self, number: int, point: Point) -> tuple[int, bool]:
        last = len(point.delta_m) - 1
        for rung, gain in enumerate(point.delta_m):
            step = point.step_of(rung)
            overhead = point.overhead if step > point.start else None
            rows = self.rungs.setdefault(rung, [])
            rows.append(
                RungRow(
                    trial=number,
                    rung=rung,
                    step=step,
                    delta_m_percent=gain,
                    param_overhead_percent=overhead,
                )
            )
            at_the_end = self.rungs.setdefault(last, [])
            if self.prunes and self.pruner.reason(number, rows, at_the_end) is not None:
                return step, False
        return point.total, True


@dataclass(frozen=True)
class Curves:
    """Repeats of one sampler in one way."""

    sampler: str
    way: str
    replays: Sequence[Replay]

    def at(self, compute: float) -> np.ndarray:
        """Hypervolume share that each repeat had when it had spent ``compute``."""
        return np.array(
            [
                ([0.0, *replay.quality])[int(np.searchsorted(replay.compute, compute, side="right"))]
                for replay in self.replays
            ]
        )

    def compute_for(self, quality: float) -> np.ndarray:
        """Compute each repeat needed for a hypervolume share; infinite where it never got there."""
        needed = []
        for replay in self.replays:
            place = next((i for i, reached in enumerate(replay.quality) if reached >= quality), None)
            needed.append(np.inf if place is None else replay.compute[place])
        return np.array(needed)

    @property
    def share_lost(self) -> float:
        return float(np.mean([replay.lost for replay in self.replays]))


def repeat(
    table: Table,
    sampler: str,
    way: str,
    pruner: PrunerConfig,
    repeats: int,
    trials: int,
    budget: float = float("inf"),
) -> Curves:
    study = table.study.model_copy(update={"pruner": pruner})
    num_evaluations = len(next(iter(table.points.values())).delta_m)
    replays = []
    for seed in range(repeats):
        replay = Replay(table, way, ParetoPruner.of_study(study, num_evaluations))
        replay.run(sampler, seed, trials, budget)
        replays.append(replay)
    return Curves(sampler, way, replays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=DATA / "quality.csv")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--trials", type=int, default=64, help="trials of a plain search")
    parser.add_argument("--eta", type=float, default=PrunerConfig().eta)
    parser.add_argument("--plot", type=Path, help="where to save the curves")
    parser.add_argument("--pruners", action="store_true", help="compare settings of the pruner instead")
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    table = Table.read(chosen.table)
    works = {point.work for point in table.points.values()}
    print(
        f"{len(table.points)} points, {len(works)} of them different work; reference point: "
        "delta_m {:+.2f} %, overhead {:.3f} %".format(*table.reference)
    )
    if chosen.pruners:
        compare_pruners(table, chosen.repeats, chosen.trials)
        return
    curves = compare_samplers(
        table, PrunerConfig(name="pareto", eta=chosen.eta), chosen.repeats, chosen.trials
    )
    if chosen.plot is not None:
        draw(curves, chosen.plot)
        print(f"curves: {chosen.plot}")


def compare_samplers(table: Table, pruner: PrunerConfig, repeats: int, trials: int) -> list[Curves]:
    """Every sampler in every way, with the compute that plain TPE has after all its trials as the measure."""
    plain = {name: repeat(table, name, "plain", pruner, repeats, trials) for name in SAMPLERS}
    budget = float(np.median([replay.compute[-1] for replay in plain["tpe"].replays]))
    goal = float(np.median([replay.quality[-1] for replay in plain["tpe"].replays]))
    print(f"plain TPE after {trials} trials: hypervolume {goal:.3f}, compute {budget:.0f} unexpanded steps\n")
    print("hypervolume, median (quartiles), at a share of that compute; compute to reach plain TPE's")
    print("sampler  way     at 1/3                at 1/1                compute needed       lost  trials")
    curves = []
    for name in SAMPLERS:
        for way in WAYS:
            # Cheaper trials: more of them for the same compute.
            these = (
                plain[name]
                if way == "plain"
                else repeat(table, name, way, pruner, repeats, 4 * trials, budget)
            )
            curves.append(these)
            needed = these.compute_for(goal) / budget
            count = np.median([np.searchsorted(replay.compute, budget) for replay in these.replays])
            print(
                f"{name:7s}  {way:6s}  {spread(these.at(budget / 3))}  {spread(these.at(budget))}  "
                f"{spread(needed)}  {these.share_lost:4.0%}  {count:.0f}"
            )
    return curves


def compare_pruners(table: Table, repeats: int, trials: int) -> None:
    """What eta and the correlation that an evaluation must have shown do to plain TPE."""
    plain = repeat(table, "tpe", "plain", PrunerConfig(), repeats, trials)
    budget = float(np.median([replay.compute[-1] for replay in plain.replays]))
    print("TPE with pruning, the same number of trials: compute of plain, hypervolume, front lost")
    print(
        f"none                    1.00  {spread(np.array([replay.quality[-1] for replay in plain.replays]))}"
    )
    for eta in (2.0, 3.0, 4.0):
        for least in (-1.0, 0.3, 0.5, 0.7):
            pruner = PrunerConfig(name="pareto", eta=eta, min_correlation=least)
            pruned = repeat(table, "tpe", "pruned", pruner, repeats, trials)
            spent = np.median([replay.compute[-1] for replay in pruned.replays]) / budget
            quality = spread(np.array([replay.quality[-1] for replay in pruned.replays]))
            print(f"eta {eta}, correlation {least:4.1f}  {spent:.2f}  {quality}  {pruned.share_lost:4.0%}")


def spread(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], method="nearest")
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def draw(curves: Sequence[Curves], file: Path) -> None:
    """One panel per sampler, one line per way: the median over repeats in a band of its quartiles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    plain = next(these for these in curves if (these.sampler, these.way) == ("tpe", "plain"))
    budget = float(np.median([replay.compute[-1] for replay in plain.replays]))
    goal = float(np.median(plain.at(budget)))
    # Okabe and Ito's colours, told apart with any colour vision; the line styles tell them apart in print.
    styles = {
        "plain": ("#555555", "-"),
        "pruned": ("#E69F00", "--"),
        "reused": ("#0072B2", "-."),
        "both": ("#009E73", (0, (1, 1))),
    }
    labels = {"plain": "plain", "pruned": "pruning", "reused": "trunks and equal work", "both": "both"}
    names = {"random": "random", "nsga2": "NSGA-II", "tpe": "TPE"}
    figure, panels = pyplot.subplots(1, len(SAMPLERS), figsize=(11, 4.2), sharey=True, layout="constrained")
    grid = np.linspace(0, budget, 200)
    for panel, sampler in zip(panels, SAMPLERS, strict=True):
        for these in curves:
            if these.sampler != sampler:
                continue
            color, style = styles[these.way]
            low, middle, high = np.quantile([these.at(x) for x in grid], [0.25, 0.5, 0.75], axis=1)
            panel.fill_between(grid / budget, low, high, color=color, alpha=0.15, linewidth=0)
            panel.plot(grid / budget, middle, linestyle=style, color=color, label=labels[these.way])
        panel.axhline(goal, color="black", linewidth=0.8, linestyle=":")
        panel.axvline(1 / 3, color="black", linewidth=0.8, linestyle=":")
        panel.set(title=names[sampler], xlim=(0, 1), xlabel="compute, share of plain TPE's")
        panel.set_ylim(0, 1.02)
    panels[0].set_ylabel("hypervolume, share of the whole table's")
    panels[0].annotate("plain TPE, all trials", (0.02, goal - 0.01), ha="left", va="top", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
