"""Measured step costs compared with counted ones: contradictions, and the number of threads of a study."""

from __future__ import annotations

import pandas as pd

from dtme_search.search import LoadedStudy
from dtme_search.search.study.threads import threads_of
from dtme_search.words import enumerated, numbered

MARK = "?"
"""Mark after a measured cost that contradicts the counted operations."""
_MOST_OFF = 0.5
"""Fraction of the counted ratio by which a measured one may differ from it [ours]."""


def doubtful_costs(trials: pd.DataFrame) -> pd.DataFrame:
    """The rows of a ``trials_table`` whose measured step cost is off by more than half of the counted one."""
    if "step_flops_ratio" not in trials:
        return trials.iloc[:0]
    counted = trials["step_flops_ratio"].astype(float)
    return trials[(trials["step_cost_ratio"].astype(float) - counted).abs() > _MOST_OFF * counted]


def marked_costs(trials: pd.DataFrame) -> pd.DataFrame:
    """The table with measured costs as text, doubtful ones marked, and without the counts."""
    doubtful = doubtful_costs(trials).index
    if len(doubtful):
        texts = {
            index: "" if value != value else f"{value:.2f}{MARK if index in doubtful else ''}"
            for index, value in trials["step_cost_ratio"].items()
        }
        trials = trials.assign(step_cost_ratio=pd.Series(texts))
    return trials.drop(columns="step_flops_ratio", errors="ignore")


def cost_doubt(trials: pd.DataFrame) -> str:
    """One sentence on doubtful measured costs; empty if there are none."""
    rows = doubtful_costs(trials)
    if rows.empty:
        return ""
    whose = "their" if len(rows) > 1 else "its"
    measured = numbered("trial", rows["trial"].tolist())
    counted = enumerated([f"{ratio:.2f}" for ratio in rows["step_flops_ratio"]])
    return (
        f"{MARK} The step cost measured in {measured} differs by more than half from the one "
        f"counted from {whose} operations ({counted}). Small networks spend their time otherwise; "
        "for a large one do not trust it."
    )


def threads_in_words(study: LoadedStudy) -> str:
    """How many CPU threads each trial of the study uses; empty if that is not fixed."""
    threads = threads_of(study.optuna)
    if threads is None:
        return ""
    return f"Each trial computes with {threads} CPU thread{'s' * (threads != 1)}, on every worker."
