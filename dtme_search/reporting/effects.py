"""What goes along with a better delta_m, and whether that differs from chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
from scipy import stats

from dtme_search.reporting.study_data import StudyData

SIGNIFICANCE = 0.05
_SMALLEST_P = 1e-4
_FEWEST = 3
"""Number of trials below which a value is ignored."""
_MOST_GROUPS = 6
"""Numbers with more distinct values are treated as a scale instead of groups."""


@dataclass(frozen=True)
class Effect:
    """How delta_m differs along one searched parameter.

    Attributes:
        parameter: Its dotted path.
        p_value: Probability of differences this large by chance, corrected for the number of parameters.
        best: What goes along with the highest delta_m: a value, or ``more`` or ``less``.
        worst: The opposite.
        difference: Mean delta_m of the best value minus that of the worst, in percent; for a scale the upper
            third against the lower third.
        num_trials: Trials compared.
    """

    parameter: str
    p_value: float
    best: str
    worst: str
    difference: float
    num_trials: int

    @property
    def is_distinguishable(self) -> bool:
        """Whether it differs from chance at 5 %."""
        return self.p_value <= SIGNIFICANCE


def effects(data: StudyData) -> list[Effect]:
    """Effects of the searched parameters on delta_m, smallest p-value first.

    Kruskal-Wallis test by value if there are few values, Spearman's rank correlation along a scale; p-values
    corrected by Holm's method. A sampler that returns to where it did well makes trials depend on each other,
    so these are guides, not proofs [ours].
    """
    trials = data.feasible.dropna(subset=["delta_m_percent"]).set_index("trial")["delta_m_percent"]
    found = []
    for name, column in data.parameters.reindex(trials.index).items():
        effect = _effect(str(name), column.dropna(), trials)
        if effect is not None:
            found.append(effect)
    corrected = holm([effect.p_value for effect in found])
    ranked = [replace(effect, p_value=p) for effect, p in zip(found, corrected, strict=True)]
    return sorted(ranked, key=lambda effect: (effect.p_value, -effect.difference))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values.

    Source: S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def p_in_words(value: float) -> str:
    """A p-value in words; never zero.

    Example:
        >>> p_in_words(0.0312), p_in_words(0.0)
        ('p = 0.031', 'p < 0.0001')
    """
    return f"p = {value:.2g}" if value >= _SMALLEST_P else f"p < {_SMALLEST_P:g}"


def _effect(name: str, values: pd.Series, delta_m: pd.Series) -> Effect | None:
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if numeric and values.nunique() > _MOST_GROUPS:
        return _along_scale(name, values, delta_m[values.index])
    groups = {value: delta_m[part.index] for value, part in values.groupby(values) if len(part) >= _FEWEST}
    if len(groups) < 2:
        return None
    everything = pd.concat(list(groups.values()))
    p_value = float(stats.kruskal(*groups.values()).pvalue) if everything.nunique() > 1 else 1.0
    means = {value: float(group.mean()) for value, group in groups.items()}
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return Effect(name, p_value, str(best), str(worst), means[best] - means[worst], len(everything))


def _along_scale(name: str, values: pd.Series, delta_m: pd.Series) -> Effect | None:
    result = stats.spearmanr(values, delta_m)
    if not math.isfinite(result.pvalue):
        return None
    third = max(1, len(values) // 3)
    ordered = delta_m[values.sort_values(kind="stable").index]
    difference = float(ordered.iloc[-third:].mean() - ordered.iloc[:third].mean())
    best, worst = ("more", "less") if result.statistic > 0 else ("less", "more")
    return Effect(name, float(result.pvalue), best, worst, abs(difference), len(values))
