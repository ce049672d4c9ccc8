"""Train every plan of four layers, four operations and two starts with four seeds, and keep one table.

    python benchmarks/data/record_per_layer.py              70 minutes of one core; goes on where it stopped
    python benchmarks/data/record_per_layer.py --steps 400  the same plans, trained five times as long
    python benchmarks/data/record_per_layer.py --trials 8   a look at the first ones; no table is written

Writes ``per_layer.csv``: one row per plan, and for each seed its delta_m over the baselines of the first seed
and its gain over the unexpanded network of the same seed, in points.
"""

from __future__ import annotations

import argparse
import csv
from itertools import product
from pathlib import Path
from typing import Any

import torch
from record_table import DATA, train

from dtme_search.config import StudyConfig, load_study_config
from dtme_search.search import LoadedStudy

NUM_LAYERS, AT_ONCE = 4, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("dtme-runs"))
    parser.add_argument("--steps", type=int, default=80, help="of every training")
    parser.add_argument("--trials", type=int, help="stop after this many trials; no table is written then")
    parser.add_argument("--out", type=Path, help="by default per_layer.csv beside this file")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    definition = load_study_config(str(DATA / "per_layer.yaml"))
    name = "per_layer" if chosen.steps == 80 else f"per_layer_{chosen.steps}"
    definition = definition.model_copy(update={"name": name.replace("_", "-")})
    overrides = (f"train.num_steps={chosen.steps}",)
    everything = points(definition)
    # Not all at once: Optuna reads every waiting trial whenever one is added.
    for end in range(AT_ONCE, len(everything) + AT_ONCE, AT_ONCE):
        study = train(definition, everything[:end], chosen.workdir, chosen.trials, overrides)
        if study.stopped or chosen.trials is not None:
            return
    write_table(study, definition.seeds, chosen.out or DATA / f"{name}.csv")


def points(definition: StudyConfig) -> list[dict[str, Any]]:
    """All points, the network that never grows first, each with every seed before the next one begins."""
    operations = definition.search["expansion.layers.*"].choices or ()
    starts = definition.search["expansion.start"].choices or ()
    found = []
    for start, *layers in product(starts, *[operations] * NUM_LAYERS):
        by_layer = {f"expansion.layers.{layer}": choice for layer, choice in enumerate(layers)}
        found += [{"expansion.start": start, **by_layer, "seed": seed} for seed in range(definition.seeds)]
    return found


def write_table(study: LoadedStudy, seeds: int, file: Path) -> None:
    """One row per plan, each once."""
    by_plan: dict[tuple[str, int], dict[str, Any]] = {}
    for run in study.records.runs(study.name):
        if run.state != "complete" or run.origin_trial is not None:
            continue
        row = by_plan.setdefault((run.operations or "", run.expansion_step or 0), {})
        row |= {
            "operations": run.operations,
            "expansion_step": run.expansion_step,
            "param_overhead_percent": round(run.param_overhead_percent or 0.0, 6),
            f"delta_m_seed{run.seed}": round(run.delta_m_percent or 0.0, 4),
            f"gain_seed{run.seed}": round(run.paired_gain_percent or 0.0, 4),
        }
        row.setdefault("step_cost_ratio", round(run.step_cost_ratio or 1.0, 3))
    columns = ["operations", "expansion_step", "param_overhead_percent", "step_cost_ratio"]
    columns += [f"{kind}_seed{seed}" for kind in ("delta_m", "gain") for seed in range(seeds)]
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(by_plan.values())
    print(f"{len(by_plan)} plans: {file}")


if __name__ == "__main__":
    main()
