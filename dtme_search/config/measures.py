"""What a study may optimise or limit: results of a training, and what the trained network costs."""

from __future__ import annotations

from collections.abc import Iterable

from dtme_search.errors import nearest

RESULTS = ("delta_m_percent", "worst_gain_percent")
"""Known after a training only; so are ``delta_m_percent.TASK+TASK`` and ``metric.TASK``."""
RECORDED = ("delta_m_percent", "param_overhead_percent", "step_cost_ratio")
"""Measured in every trial, whatever its study asks for."""
INFERENCE = ("inference_flops_ratio", "latency_ms", "inference_memory_mb")
"""What a prediction of all tasks costs: counted, or measured as the section ``inference`` says."""
KNOWN = (*RESULTS, *(name for name in RECORDED if name not in RESULTS), *INFERENCE)
_OF_TASKS = ("delta_m_percent", "metric")


def tasks_of(name: str) -> tuple[str, ...]:
    """Tasks that a measure names; none where it is of all.

    Example:
        >>> tasks_of("delta_m_percent.semseg+depth"), tasks_of("metric.edge"), tasks_of("latency_ms")
        (('semseg', 'depth'), ('edge',), ())
    """
    kind, dot, tasks = name.partition(".")
    return tuple(tasks.split("+")) if dot and kind in _OF_TASKS else ()


def is_result(name: str) -> bool:
    """Whether only a training tells, which is what a search is for; all others are prices."""
    return name in RESULTS or bool(tasks_of(name))


def check_measures(rule: str, names: Iterable[str]) -> None:
    """Refuse names that mean nothing.

    Raises:
        ValueError: In one line, with what was meant.
    """
    for name in names:
        tasks = tasks_of(name)
        if name in KNOWN or (all(tasks) and tasks and (name.startswith("delta_m") or len(tasks) == 1)):
            continue
        known = (*KNOWN, "delta_m_percent.TASK+TASK", "metric.TASK")
        raise ValueError(f"{rule}, got '{name}'.{nearest(name, known) or ' Known are ' + ', '.join(known)}")
