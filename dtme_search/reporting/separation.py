"""What trials on the front share: room in the tokens or in the weights, other gradients, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd
from scipy import stats

from dtme_search.config import RunConfig
from dtme_search.operations import OPERATIONS, operations_of
from dtme_search.reporting.document import Block, Heading, Paragraph, Table
from dtme_search.reporting.effects import SIGNIFICANCE, holm, p_in_words
from dtme_search.reporting.study_data import StudyData
from dtme_search.search.storage.rows import RunRow

_WORDS = {
    "tokens": "room in the tokens",
    "weights": "room in the weights",
    "gradients": "losses or gradients combined otherwise",
    "fading": "auxiliary tasks that fade",
}


@dataclass(frozen=True)
class Separation:
    """How often trials on the front and the others take one way to deal with conflicting tasks.

    Attributes:
        way: ``tokens``, ``weights`` (operations built into layers), ``gradients`` (``train.combine`` other
            than sum) or ``fading`` (a schedule other than constant).
        front: Trials on the front that take it, of ``num_front``.
        others: The same of the other feasible trials, of ``num_others``.
        difference: Mean delta_m of all trials that take it minus that of the rest, in percent.
        p_value: Fisher's exact test, front against others, corrected for the number of ways.
    """

    way: str
    front: int
    num_front: int
    others: int
    num_others: int
    difference: float
    p_value: float


def separations(data: StudyData) -> list[Separation]:
    """One entry for each way that some feasible trials take and some do not [ours].

    None unless there are two such ways. Results that were taken over count once.
    """
    trials = data.feasible.dropna(subset=["delta_m_percent"])
    if "origin_trial" in trials:
        trials = trials[trials["origin_trial"].isna()]
    taken = pd.DataFrame(
        {int(number): _ways(data.runs[int(number)]) for number in trials["trial"]}
    ).T.reindex(columns=list(_WORDS))
    on_front = trials.set_index("trial")["on_front"].astype(bool)
    delta_m = trials.set_index("trial")["delta_m_percent"].astype(float)
    varied = [way for way in _WORDS if taken[way].nunique() == 2]
    if len(varied) < 2 or on_front.all():
        return []
    found = []
    for way in varied:
        has = taken[way].astype(bool)
        front, others = int(has[on_front].sum()), int(has[~on_front].sum())
        num_front, num_others = int(on_front.sum()), int((~on_front).sum())
        table = [[front, num_front - front], [others, num_others - others]]
        difference = float(delta_m[has].mean() - delta_m[~has].mean())
        p_value = float(stats.fisher_exact(table).pvalue)
        found.append(
            Separation(way, front, num_front, others, num_others, difference=difference, p_value=p_value)
        )
    corrected = holm([each.p_value for each in found])
    return [replace(each, p_value=p) for each, p in zip(found, corrected, strict=True)]


def separation_sentence(data: StudyData) -> str:
    """What separates the front from the other trials, or that nothing does; empty if there is no question."""
    found = separations(data)
    if not found:
        return ""
    sure = [each for each in found if each.p_value <= SIGNIFICANCE]
    if not sure:
        listed = "; ".join(f"{_WORDS[each.way]}: {_counts(each)}" for each in found)
        return f"**Nothing separates the front** from the other trials beyond chance ({listed})."
    listed = "; ".join(
        f"**{_WORDS[each.way]}** ({_counts(each)}, {p_in_words(each.p_value)})" for each in sure
    )
    return f"What separates the front from the other trials: {listed}."


def separation_section(data: StudyData) -> list[Block]:
    """The same as a table."""
    found = separations(data)
    if not found:
        return []
    rows = [
        (
            _WORDS[each.way],
            f"{each.front} of {each.num_front}",
            f"{each.others} of {each.num_others}",
            p_in_words(each.p_value).removeprefix("p ").removeprefix("= "),
            f"{each.difference:+.2f}",
        )
        for each in found
    ]
    columns = ("way", "on the front", "among the others", "p", "difference of delta_m")
    return [
        Heading("What separates the front"),
        Table(columns, rows),
        Paragraph(
            "Difference: mean delta_m of the trials that take the way minus that of the rest. p: "
            "Fisher's exact test of front against other feasible trials, corrected for the number of ways by "
            "Holm's method. A trial may take several ways at once, and the sampler returns to where it was "
            "good: a guide, not proof."
        ),
    ]


def _ways(run: RunRow) -> Mapping[str, bool]:
    built = {name for word in (run.operations or "").split() for name in operations_of(word)}
    rooms = {OPERATIONS[name].room for name in built if name in OPERATIONS}
    config = None if run.config is None else RunConfig.model_validate_json(run.config)
    return {
        "tokens": "tokens" in rooms,
        "weights": "weights" in rooms,
        "gradients": config is not None and config.train.combine.kind != "sum",
        "fading": config is not None and config.schedule.kind != "constant" and bool(config.auxiliary_tasks),
    }


def _counts(each: Separation) -> str:
    return f"{each.front} of {each.num_front} on the front, {each.others} of {each.num_others} others"
