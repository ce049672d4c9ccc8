"""What everything around a trial costs: sampling, SQL, files, pictures, against the whole trial.

    python benchmarks/machinery.py [STUDY] [--workdir dtme-runs]

Reads the seconds that a finished study recorded per trial and phase; run `make demo` first.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from dtme_search.search import load_study

ALLOWED_SECONDS = 0.6
"""1 % of a trial of one minute."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("study", nargs="?", default="demo")
    arguments.add_argument("--workdir", type=Path, default=Path("dtme-runs"))
    chosen = arguments.parse_args()
    study = load_study(chosen.study, workdir=chosen.workdir)
    rows = []
    print("trial  total s  train s  evaluate s  measure s  checkpoint s  around s")
    for run, trial in zip(
        study.records.runs(study.name), study.optuna.get_trials(deepcopy=False), strict=False
    ):
        if run.state != "complete" or run.seconds_total is None or trial.duration is None:
            continue
        # A trial that took a result over has no phases: all of it is around.
        measured = (run.seconds_train, run.seconds_evaluate, run.seconds_measure, run.seconds_checkpoint)
        phases = tuple(phase or 0.0 for phase in measured)
        whole = trial.duration.total_seconds()
        around = whole - sum(phases)
        rows.append(around)
        print(
            f"{run.trial:5d}  {whole:7.1f}  "
            + "  ".join(f"{phase:8.1f}" for phase in phases)
            + f"  {around:8.2f}"
        )
    print(f"median around a trial: {median(rows):.2f} s; allowed {ALLOWED_SECONDS} s (1 % of a minute)")


if __name__ == "__main__":
    main()
