"""How measures are written wherever people read them: column headings and numbers in cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_HEADINGS = {
    "delta_m_percent": "delta_m",
    "delta_m_base_percent": "base",
    "worst_gain_percent": "worst gain",
    "inference_flops_ratio": "FLOPs",
    "latency_ms": "latency ms",
    "inference_memory_mb": "memory MB",
    "param_overhead_percent": "overhead",
    "step_cost_ratio": "step cost",
    "delta_m_mean": "mean",
    "delta_m_std": "std",
    "num_seeds": "seeds",
    "paired_gain_percent": "paired",
    "paired_trial": "paired with",
    "paired_mean": "paired",
    "expected_delta_m": "expected",
    "expected_std": "± seeds",
    "paired_se": "s.e.",
    "origin_trial": "taken from",
}
_DECIMALS = {
    "search": 2,
    "delta_m_percent": 2,
    "delta_m_base_percent": 2,
    "worst_gain_percent": 2,
    "inference_flops_ratio": 3,
    "latency_ms": 2,
    "delta_m_mean": 2,
    "delta_m_std": 2,
    "paired_gain_percent": 2,
    "paired_mean": 2,
    "expected_delta_m": 2,
    "expected_std": 2,
    "paired_se": 2,
    "param_overhead_percent": 3,
    "step_cost_ratio": 2,
    "start": 2,
}
_SIGNED = {
    "search",
    "delta_m_percent",
    "delta_m_base_percent",
    "worst_gain_percent",
    "delta_m_mean",
    "paired_gain_percent",
    "paired_mean",
    "expected_delta_m",
}
_OF_TASKS = {"delta_m_percent": "delta_m", "metric": "metric"}
COUNTS = {"num_seeds", "origin_trial", "steps_reused", "paired_trial"}
"""Whole numbers; a column with gaps holds them as floats."""


def heading(column: object) -> str:
    """Column title of a measure.

    Example:
        >>> heading("gain_depth_percent"), heading("param_overhead_percent"), heading("dead_tasks")
        ('depth', 'overhead', 'dead tasks')
        >>> heading("delta_m_percent.semseg+depth"), heading("metric.edge")
        ('delta_m of semseg and depth', 'metric of edge')
    """
    name = str(column)
    kind, _, tasks = name.partition(".")
    if tasks and kind in _OF_TASKS:
        return f"{_OF_TASKS[kind]} of {enumerated(tasks.split('+'))}"
    if "." in name:
        return name  # a searched path
    if name.startswith("gain_"):
        return name.removeprefix("gain_").removesuffix("_percent")
    return _HEADINGS.get(name, name.replace("_", " "))


def cell(column: str, value: Any) -> str:
    """A value rounded for reading; gains and delta_m have a sign, missing values are empty.

    Example:
        >>> cell("delta_m_percent", 1.234), cell("start", None), cell("train.lr", 2e-5)
        ('+1.23', '', '2e-05')
    """
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column in COUNTS:
        return str(int(value))
    if column == "dead_tasks":
        return str(value).replace(",", ", ")
    column = "delta_m_percent" if column.startswith("delta_m_percent.") else column
    if isinstance(value, float) and "." in column:  # a searched path, a metric
        return f"{value:.4g}"
    if isinstance(value, float):
        signed = column in _SIGNED or column.startswith("gain_")
        return f"{value:{'+' if signed else ''}.{_DECIMALS.get(column, 1)}f}"
    return str(value)


def enumerated(words: Sequence[str]) -> str:
    """A list in a sentence.

    Example:
        >>> enumerated(["1"]), enumerated(["1", "2"]), enumerated(["1", "2", "3"])
        ('1', '1 and 2', '1, 2 and 3')
    """
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def doubted(tasks: str | Sequence[str]) -> str:
    """Which tasks are no better than what follows; as a list, or as the database holds it.

    Example:
        >>> doubted("depth"), doubted("depth,edge")
        ('depth does not clearly beat', 'depth and edge do not clearly beat')
    """
    names = tasks.split(",") if isinstance(tasks, str) else tasks
    return f"{enumerated(names)} {'does' if len(names) == 1 else 'do'} not clearly beat"


def numbered(noun: str, numbers: Sequence[int]) -> str:
    """Numbered things in a sentence.

    Example:
        >>> numbered("trial", [3]), numbered("trial", [3, 5])
        ('trial 3', 'trials 3 and 5')
    """
    return f"{noun}{'s' if len(numbers) != 1 else ''} {enumerated([str(number) for number in numbers])}"
