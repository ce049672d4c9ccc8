"""Which tasks are alike, and which auxiliary tasks helped.

Two tasks are alike if the same images are hard for both: their data maps correlate. That does not prove that
one helps the other (STG-MTL, arXiv 2307.03374, compares no other grouping), so the results of training with
and without a task are shown beside it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from dtme_search.config import RunConfig
from dtme_search.search import LoadedStudy
from dtme_search.search.storage.rows import StoredEvaluation

Array = npt.NDArray[np.float64]
Pair = tuple[str, str]


@dataclass(frozen=True)
class DataMap:
    """Scores of a fixed set of training images in one trial.

    Attributes:
        trial: Its number.
        scores: Task -> scores, shape (evaluations, images), between 0 and 1; NaN without a label.
        hits: Task about whole images -> 1 where the prediction is right, else 0; same shape.
    """

    trial: int
    scores: Mapping[str, Array]
    hits: Mapping[str, Array] = field(default_factory=dict)

    def confidence(self, task: str) -> Array:
        """Mean score of each image over the evaluations, shape (images,)."""
        mean: Array = self.scores[task].mean(axis=0)
        return mean

    def variability(self, task: str) -> Array:
        """Standard deviation of each image's score over the evaluations, (images,); 0 for a single one.

        Divided by their number, as in Dataset Cartography (STG-MTL divides by one less).
        """
        spread: Array = self.scores[task].std(axis=0)
        return spread

    def correctness(self, task: str) -> Array | None:
        """Share of the evaluations in which each image was predicted right, (images,); ``None`` if the label
        of the task is no class and no labels of the whole image."""
        if task not in self.hits:
            return None
        mean: Array = self.hits[task].mean(axis=0)
        return mean

    def correctness_known(self, task: str) -> Array:
        """Correctness of the images that have a label."""
        found = self.hits[task].mean(axis=0)
        known: Array = found[~np.isnan(found)]
        return known

    def likeness(self, one: str, other: str) -> float:
        """Correlation of confidence and variability of two tasks over the images with labels for both.

        Each is standardised over the images first [ours], because raw values would mostly say how easy a task
        is. NaN if nothing varies.
        """
        both = ~(np.isnan(self.confidence(one)) | np.isnan(self.confidence(other)))
        if both.sum() < 2:
            return float("nan")
        parts = [
            (_standardised(of(one)[both]), _standardised(of(other)[both]))
            for of in (self.confidence, self.variability)
        ]
        known = [float((first * second).mean()) for first, second in parts if first.any() and second.any()]
        return float(np.mean(known)) if known else float("nan")


def _standardised(values: Array) -> Array:
    spread = values.std()
    nothing: Array = np.zeros_like(values)
    return (values - values.mean()) / spread if spread > 1e-12 else nothing


def data_maps(study: LoadedStudy) -> list[DataMap]:
    """Data map of each complete trial that kept one and evaluated at least once, by number."""
    complete = {run.trial for run in study.records.runs(study.name) if run.state == "complete"}
    found: dict[int, dict[str, list[StoredEvaluation]]] = {}
    for row in study.records.scored_evaluations(study.name):
        if row.trial in complete:
            found.setdefault(row.trial, {}).setdefault(row.task, []).append(row)
    return [
        DataMap(
            trial,
            {task: _numbers(row.scores for row in rows) for task, rows in of_task.items()},
            {
                task: _numbers(row.hits for row in rows)
                for task, rows in of_task.items()
                if all(row.hits is not None for row in rows)
            },
        )
        for trial, of_task in sorted(found.items())
    ]


def _numbers(lists: Iterable[str | None]) -> Array:
    # null becomes NaN
    return np.array([json.loads(each or "[]") for each in lists], dtype=np.float64)


class PairLikeness(NamedTuple):
    """Two tasks over the trials of a study; NaN if no trial measured it."""

    task_a: str
    task_b: str
    likeness: float
    cosine: float
    range_rate: float
    null_rate: float


def pair_table(study: LoadedStudy, maps: Sequence[DataMap], tasks: Sequence[str]) -> list[PairLikeness]:
    """Every pair of tasks, the most alike first."""
    trials = [run.trial for run in study.records.runs(study.name)]
    cosines: dict[Pair, list[float]] = {}
    conflicts: dict[Pair, list[tuple[float, float]]] = {}
    for trial in trials:
        for look in study.records.gradients(study.name, trial):
            if (look.layer_group, look.pair) == ("all", "tasks"):
                cosines.setdefault(_pair(look.task_a, look.task_b), []).append(look.cosine)
        for row in study.records.conflicts(study.name, trial):
            rates = (row.range_rate, row.null_rate)
            conflicts.setdefault(_pair(row.task_a, row.task_b), []).append(rates)
    rows = []
    for one, other in combinations(tasks, 2):
        likeness = [kept.likeness(one, other) for kept in maps if {one, other} <= set(kept.scores)]
        in_range, in_null = zip(*conflicts.get(_pair(one, other), [(float("nan"),) * 2]), strict=True)
        rows.append(
            PairLikeness(
                one,
                other,
                _mean(likeness),
                _mean(cosines.get(_pair(one, other), [])),
                _mean(in_range),
                _mean(in_null),
            )
        )
    return sorted(rows, key=lambda row: -np.nan_to_num(row.likeness, nan=-2.0))


def _pair(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else float("nan")


def groups_of(rows: Sequence[PairLikeness], tasks: Sequence[str], count: int) -> list[list[str]]:
    """Divide the tasks into ``count`` groups: average linkage on 1 - likeness [ours]; unknown counts as 0.

    With four to eleven tasks the result of k-means, which STG-MTL uses, depends on its start.
    """
    if len(tasks) < 2 or count >= len(tasks):
        return [[task] for task in tasks]
    distance = np.zeros((len(tasks), len(tasks)))
    place = {task: index for index, task in enumerate(tasks)}
    for row in rows:
        apart = 1.0 - (row.likeness if row.likeness == row.likeness else 0.0)
        one, other = place[row.task_a], place[row.task_b]
        distance[one, other] = distance[other, one] = max(apart, 0.0)
    labels = fcluster(linkage(squareform(distance), "average"), count, criterion="maxclust")
    of_label: dict[int, list[str]] = {}
    for task, label in zip(tasks, labels, strict=True):
        of_label.setdefault(int(label), []).append(task)
    return list(of_label.values())


class Worth(NamedTuple):
    """What a primary task gains with an auxiliary task, in points of its gain.

    Attributes:
        difference: Mean gain of the trials with it minus that of those without.
        standard_error: Of the difference (Welch); NaN if there is a single trial on a side.
        likeness: Of the two tasks.
    """

    primary: str
    auxiliary: str
    likeness: float
    difference: float
    standard_error: float
    trials_with: int
    trials_without: int


def worth_of_auxiliaries(
    study: LoadedStudy, rows: Sequence[PairLikeness], primary: Sequence[str], auxiliary: Sequence[str]
) -> list[Worth]:
    """Each primary task with each auxiliary task, by primary task and then by effect or likeness.

    Trials differ in more than one task, and a sampler returns to where it did well. So a difference is a
    hint, unless the trials without a task are otherwise like those with it.
    """
    gains: dict[int, dict[str, float]] = {}
    for row in study.records.last_evaluations(study.name):
        if row.gain_percent is not None:
            gains.setdefault(row.trial, {})[row.task] = row.gain_percent
    runs = [run for run in study.records.runs(study.name) if run.state == "complete" and run.config]
    tasks = {run.trial: set(RunConfig.model_validate_json(run.config or "{}").tasks) for run in runs}
    alike = {_pair(row.task_a, row.task_b): row.likeness for row in rows}
    found = []
    for one in primary:
        for other in auxiliary:
            known = {trial: gains[trial][one] for trial in tasks if one in gains.get(trial, {})}
            with_it = [gain for trial, gain in known.items() if other in tasks[trial]]
            without = [gain for trial, gain in known.items() if other not in tasks[trial]]
            found.append(
                Worth(
                    primary=one,
                    auxiliary=other,
                    likeness=alike.get(_pair(one, other), float("nan")),
                    difference=_mean(with_it) - _mean(without),
                    standard_error=_welch(with_it, without),
                    trials_with=len(with_it),
                    trials_without=len(without),
                )
            )

    def rank(row: Worth) -> tuple[int, float, float]:
        shown = [-np.nan_to_num(value, nan=-1e9) for value in (row.difference, row.likeness)]
        return (list(primary).index(row.primary), shown[0], shown[1])

    return sorted(found, key=rank)


def _welch(one: Sequence[float], other: Sequence[float]) -> float:
    if min(len(one), len(other)) < 2:
        return float("nan")
    return float(np.sqrt(np.var(one, ddof=1) / len(one) + np.var(other, ddof=1) / len(other)))


def points_to_try(
    rows: Sequence[Worth], auxiliary: Sequence[str], searched: Collection[str]
) -> list[dict[str, str]]:
    """Points for ``enqueue``: no auxiliary task, the best one, the best two and so on up to all.

    The rank of a task is its mean over the primary tasks. Only roles that the study searches are named.
    """
    order = {
        one: float(np.mean([index for index, row in enumerate(rows) if row.auxiliary == one]))
        for one in auxiliary
    }
    ranked = sorted(auxiliary, key=order.__getitem__)
    paths = [path for path in (f"tasks.{task}.role" for task in ranked) if path in searched]
    return [
        {path: "auxiliary" if index < count else "absent" for index, path in enumerate(paths)}
        for count in range(len(paths) + 1)
    ]
