"""Who leads a study: its front, and the results of the leaders with further seeds.

The search saw only its own seed when it chose, so the value of the chosen trial is biased upwards (the
winner's curse). Means and standard deviations are therefore over the further seeds only [ours]; the value
from the search is shown beside them and is never part of them.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from optuna.trial import FrozenTrial, TrialState

from dtme_search.search.storage.rows import ConfirmationRow, RunRow
from dtme_search.search.storage.trials import own_trials
from dtme_search.search.study.expectation import expectations
from dtme_search.search.study.loading import LoadedStudy

FAILED_REPEAT_ATTR = "dtme:failed_repeat:{trial}:{seed}"
"""Study attribute: why the repeat of a trial with a seed failed; empty when a later one succeeded."""


@dataclass(frozen=True)
class Lead:
    """By how much one configuration leads another, over the further seeds that both have.

    Attributes:
        points: Mean difference of delta_m, in points.
        standard_error: Of that mean, over the seeds.
    """

    points: float
    standard_error: float


@dataclass(frozen=True)
class Confirmed:
    """Results of a configuration with further seeds.

    Attributes:
        trial: Trial that the repeats belong to.
        by_seed: Further seed -> delta_m in percent, over baselines of the same seed.
        gains_percent: Task -> mean signed gain over these seeds.
        failed_seeds: Further seeds with which training failed; they are in no mean.
        paired_by_seed: Further seed -> delta_m less that of the unexpanded network of the same seed, both
            over the baselines of the search.
    """

    trial: int
    by_seed: Mapping[int, float]
    gains_percent: Mapping[str, float]
    failed_seeds: tuple[int, ...] = ()
    paired_by_seed: Mapping[int, float] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The further seeds behind the mean."""
        return tuple(sorted(self.by_seed))

    @property
    def delta_m_mean(self) -> float:
        """Mean delta_m in percent over the further seeds, without the seed of the search."""
        return fmean(self.by_seed.values())

    @property
    def delta_m_std(self) -> float:
        """Sample standard deviation in percent points (divisor n - 1); NaN for one seed."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else math.nan

    @property
    def paired(self) -> Lead | None:
        """By how much it leads the unexpanded network, seed by seed; ``None`` below two seeds."""
        return _lead(list(self.paired_by_seed.values()))

    def in_words(self) -> str:
        """Mean, standard deviation and seeds in a phrase.

        Example:
            >>> Confirmed(4, {1: 1.0, 2: 2.0}, {}).in_words()
            'mean +1.50 %, standard deviation 0.71 over 2 further seeds (1, 2)'
            >>> Confirmed(4, {1: 1.0}, {}, failed_seeds=(2,)).in_words()
            '+1.00 % with one further seed (1); training failed with seed 2'
        """
        seeds = ", ".join(map(str, self.seeds))
        text = (
            f"{self.delta_m_mean:+.2f} % with one further seed ({seeds})"
            if len(self.by_seed) == 1
            else f"mean {self.delta_m_mean:+.2f} %, standard deviation {self.delta_m_std:.2f} over "
            f"{len(self.by_seed)} further seeds ({seeds})"
        )
        failed = ", ".join(map(str, self.failed_seeds))
        return f"{text}; training failed with seed {failed}" if failed else text


def feasible_values(study: LoadedStudy) -> dict[int, tuple[float, ...]]:
    """Feasible trial -> values of the objectives: as seen or, with several seeds, as expected.

    With several seeds a plan counts once, as the first trial that trained it.
    """
    expected, place = expectations(study), list(study.config.objectives)
    values = {trial.number: tuple(trial.values) for trial in _feasible(study)}
    if not expected:
        return values
    at = place.index("delta_m_percent")
    return {
        number: (*seen[:at], expected[number].mean, *seen[at + 1 :])
        for number, seen in values.items()
        if number in expected
    }


def front_numbers(study: LoadedStudy) -> set[int]:
    """Numbers of the best feasible trial (one objective) or of the feasible front (several).

    By :func:`feasible_values`, even if further seeds of ``confirm`` disagree.
    """
    signs = [1 if direction == "maximize" else -1 for direction in study.config.objectives.values()]
    points = {
        number: tuple(sign * value for sign, value in zip(signs, values, strict=True))
        for number, values in feasible_values(study).items()
    }
    if len(signs) == 1:
        return {max(points, key=lambda number: (points[number], -number))} if points else set()
    front: list[tuple[float, ...]] = []
    # Trials that dominate a point come before it, and one of them is on the front or dominated by the front.
    for point in sorted(set(points.values()), reverse=True):
        if not any(_dominates(other, point) for other in reversed(front)):
            front.append(point)
    return {number for number, point in points.items() if point in front}


def leaders(study: LoadedStudy, top: int) -> list[RunRow]:
    """The first ``top`` feasible configurations: those on the front first, then by delta_m.

    Uses the values of the search, so that every call means the same trials. Trials with the same
    configuration count once, as the one that trained it.
    """
    feasible = {trial.number for trial in _feasible(study)}
    runs = [run for run in study.records.runs(study.name) if run.trial in feasible and run.config]
    front, origin = front_numbers(study), origins(runs)
    expected = expectations(study)
    gain = {run.trial: _number(run.delta_m_percent) for run in runs}
    gain |= {number: each.mean for number, each in expected.items()}
    runs = [run for run in runs if not expected or run.trial in expected]
    runs.sort(key=lambda run: (run.trial not in front, -gain[run.trial], run.trial))
    by_number = {run.trial: run for run in runs}
    first = dict.fromkeys(origin[run.trial] for run in runs)  # keeps the order, without repeats
    return [by_number[number] for number in first if number in by_number][:top]


def origins(runs: Sequence[RunRow]) -> dict[int, int]:
    """Complete trial -> trial that represents its configuration: the first that trained the same."""
    complete = {run.trial: run for run in runs if run.state == "complete"}

    def work(run: RunRow) -> str:
        trained = complete.get(-1 if run.origin_trial is None else run.origin_trial, run)
        return trained.resolved_fingerprint or f"trial {trained.trial}"

    first: dict[str, int] = {}
    for run in sorted(complete.values(), key=lambda run: (run.origin_trial is not None, run.trial)):
        first.setdefault(work(run), run.trial)
    return {number: first[work(run)] for number, run in complete.items()}


def confirmations(study: LoadedStudy) -> dict[int, Confirmed]:
    """Trial -> results of its configuration with further seeds; unconfirmed trials are absent."""
    by_trial: dict[int, list[ConfirmationRow]] = defaultdict(list)
    for row in study.records.confirmations(study.name):
        by_trial[row.trial].append(row)
    if not by_trial:
        return {}
    attrs, runs = study.optuna.user_attrs, study.records.runs(study.name)
    origin = origins(runs)
    partner = {run.trial: origin[run.paired_trial] for run in runs if run.paired_trial in origin}
    found = {
        number: _confirmed(number, rows, by_trial.get(partner.get(number, -1), []), attrs)
        for number, rows in by_trial.items()
    }
    return {number: found[first] for number, first in origin.items() if first in found}


def ranking(study: LoadedStudy) -> list[Confirmed]:
    """Confirmed feasible configurations by their mean, best first, each once."""
    feasible = {trial.number for trial in _feasible(study)}
    known = confirmations(study)
    different = {each.trial: each for number, each in known.items() if number in feasible}
    return sorted(different.values(), key=lambda each: (-each.delta_m_mean, each.trial))


def lead_of(first: Confirmed, second: Confirmed) -> Lead | None:
    """Compare two configurations seed by seed; ``None`` if they share fewer than two further seeds.

    Repeats with the same seed share its baselines and so their noise, which cancels in their difference: its
    standard error is that of the mean over the seeds that both have [ours].

    Example:
        >>> lead_of(Confirmed(4, {1: 1.0, 2: 2.0}, {}), Confirmed(7, {1: 2.0, 2: 0.5}, {}))
        Lead(points=0.25, standard_error=1.25)
        >>> lead_of(Confirmed(4, {1: 1.0, 2: 2.0}, {}), Confirmed(7, {1: 2.0, 3: 0.5}, {}))
    """
    common = sorted(first.by_seed.keys() & second.by_seed.keys())
    differences = [first.by_seed[seed] - second.by_seed[seed] for seed in common]
    return _lead(differences)


def doubt_about_leader(ranked: Sequence[Confirmed]) -> str | None:
    """Why the first of a :func:`ranking` may not be the best, or ``None``: its lead is within the error.

    Example:
        >>> doubt_about_leader([Confirmed(4, {1: 1.0, 2: 2.0}, {}), Confirmed(7, {1: 0.5, 2: 0.5}, {})])
        >>> doubt_about_leader([Confirmed(4, {1: 1.0, 2: 2.0}, {}), Confirmed(7, {1: 2.0, 2: 0.5}, {})])
        'trial 4 leads trial 7 by 0.25 points of delta_m, standard error 1.25: they cannot be distinguished'
    """
    if len(ranked) < 2:
        return None
    first, second = ranked[:2]
    lead = lead_of(first, second)
    if lead is None:
        return f"trial {first.trial} and trial {second.trial} share fewer than two further seeds"
    if lead.points > lead.standard_error:
        return None
    return (
        f"trial {first.trial} leads trial {second.trial} by {lead.points:.2f} points of delta_m, "
        f"standard error {lead.standard_error:.2f}: they cannot be distinguished"
    )


def why_no_leader(study: LoadedStudy) -> str:
    """One line for a study without a feasible result."""
    done = len(own_trials(study.optuna, (TrialState.COMPLETE,)))
    why = "no trial is finished" if done == 0 else f"none of {done} finished trials is within the limits"
    return f"study {study.name}: {why}. Run: {study.place.command('optimize')}"


def _feasible(study: LoadedStudy) -> list[FrozenTrial]:
    trials = own_trials(study.optuna, (TrialState.COMPLETE,))
    return [trial for trial in trials if all(value <= 0 for value in trial.constraints.values())]


def _dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    return first != second and all(a >= b for a, b in zip(first, second, strict=True))


def _confirmed(
    number: int,
    rows: Sequence[ConfirmationRow],
    unexpanded: Sequence[ConfirmationRow],
    attrs: Mapping[str, object],
) -> Confirmed:
    gains = [json.loads(row.gains_percent) for row in rows]
    prefix = FAILED_REPEAT_ATTR.format(trial=number, seed="")
    failed = [int(name.removeprefix(prefix)) for name in attrs if name.startswith(prefix) and attrs[name]]
    return Confirmed(
        number,
        {row.seed: row.delta_m_percent for row in rows},
        {task: fmean(gain[task] for gain in gains) for task in gains[0]},
        tuple(sorted(failed)),
        _paired(rows, unexpanded),
    )


def _paired(rows: Sequence[ConfirmationRow], unexpanded: Sequence[ConfirmationRow]) -> dict[int, float]:
    level = {
        row.seed: fmean(json.loads(row.search_gains_percent).values())
        for row in unexpanded
        if row.search_gains_percent is not None
    }
    return {
        row.seed: fmean(json.loads(row.search_gains_percent).values()) - level[row.seed]
        for row in rows
        if row.search_gains_percent is not None and row.seed in level
    }


def _lead(differences: Sequence[float]) -> Lead | None:
    if len(differences) < 2:
        return None
    return Lead(fmean(differences), stdev(differences) / math.sqrt(len(differences)))


def _number(value: float | None) -> float:
    return -math.inf if value is None else value
