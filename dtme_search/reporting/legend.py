"""Which columns of a table of trials are meaningful for a study, and what they mean."""

from __future__ import annotations

import pandas as pd

from dtme_search.reporting.tables import layers_legend, over_base_legend
from dtme_search.search import LoadedStudy
from dtme_search.search.storage.studies import stored_base_config

_OF_GROWTH = ["layers", "start", "param_overhead_percent", "paired_gain_percent", "paired_trial"]


def could_grow(study: LoadedStudy) -> bool:
    """Whether growth is part of the study, so that its absence is meaningful."""
    searched = any(path.startswith("expansion.") for path in study.config.search)
    return searched or stored_base_config(study.optuna).expansion.policy != "none"


def telling(trials: pd.DataFrame, study: LoadedStudy) -> pd.DataFrame:
    """The table without meaningless columns: empty ones, and those of growth if there can be none."""
    silent = [name for name in trials if trials[name].isna().all() or (trials[name] == "").all()]
    silent += [] if could_grow(study) else _OF_GROWTH
    if "steps_reused" in trials and not trials["steps_reused"].fillna(0).any():
        silent.append("steps_reused")
    return trials.drop(columns=silent, errors="ignore")


def front_legend(front: pd.DataFrame) -> str:
    """What the columns of a front mean, for those it has."""
    grows = "param_overhead_percent" in front
    parts = [
        "delta_m, gain by task and overhead in percent" if grows else "delta_m and gain by task in percent",
        over_base_legend(front).rstrip("; ").replace("\n", " "),
        "paired: delta_m minus that of the unexpanded network of the same seed"
        if "paired_gain_percent" in front
        else "",
        f"step cost in steps of the {'unexpanded' if grows else 'plain'} network with all tasks",
        "start as share of the training" if "start" in front else "",
        layers_legend(front["layers"]) if "layers" in front else "",
    ]
    return "; ".join(filter(None, parts)) + "."
