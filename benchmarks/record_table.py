"""Train every point of a small search space with the tool itself, and keep what came out as one table.

    python benchmarks/record_table.py                  about 20 minutes of one core; goes on where it stopped

Trains the study ``benchmarks/data/quality.yaml`` with all its points enqueued, then writes
``benchmarks/data/quality.csv``, one row per point, and ``quality.json``, where the numbers come from.
``search_quality.py`` replays searches on the table without training anything.

What a grown step costs is measured here for each plan, as processor time of this process against that of an
unexpanded step: other work on the machine disturbs the seconds that the study records, but not these.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from statistics import median

import optuna
import torch
import yaml

import dtme_search
from dtme_search.config import RunConfig, StudyConfig, load_study_config
from dtme_search.data import TaskData, build_data
from dtme_search.models import MultiTaskViT, build_model
from dtme_search.search import LoadedStudy, Listener, Outcome, optimize
from dtme_search.search.records import RunRow
from dtme_search.token_space import ExpansionPlan
from dtme_search.training.forward import TaskLosses

DATA = Path(__file__).parent / "data"
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("dtme-runs"))
    parser.add_argument("--trials", type=int, help="stop after this many trials; no table is written then")
    parser.add_argument("--out", type=Path, default=DATA / "quality.csv")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    definition = load_study_config(str(DATA / "quality.yaml"))
    points = every_point(definition)
    file = chosen.workdir / "quality.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    values = definition.model_dump(mode="json", exclude_defaults=True) | {"enqueue": points}
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    study = optimize(
        str(file), trials=chosen.trials, workdir=chosen.workdir, device="cpu", listener=Progress(len(points))
    )
    if study.stopped or chosen.trials is not None:
        return
    write_table(study, definition, chosen.out)


class Progress(Listener):
    """One line a trial."""

    def __init__(self, total: int) -> None:
        self.total = total

    def trial_completed(self, number: int, outcome: Outcome) -> None:
        print(f"{number + 1} of {self.total}: delta_m {outcome.delta_m_percent:+.2f} %", flush=True)


def every_point(study: StudyConfig) -> list[dict[str, object]]:
    """The whole space; the first path varies slowest, so equal work comes after what it is equal to."""
    choices = {path: searched.choices or () for path, searched in study.search.items()}
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


if __name__ == "__main__":
    main()
