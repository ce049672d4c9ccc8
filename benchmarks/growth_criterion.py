"""Does the conflict ranking, or the first-order gain, predict what growth at one layer is worth?

    python benchmarks/growth_criterion.py [--workdir DIR]      72 trainings, some minutes of one core

The setting is that of ``benchmarks/data/per_layer.yaml``: four layers, two operations, four seeds, growth at
0 and 25 %. For each start, seed and operation: Spearman's rank correlation over the layers between what was
measured right before the growth and the gain over the unexpanded network of the same seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent / "data"))
from record_per_layer import points
from record_table import DATA, train

from dtme_search.config import RunConfig, StudyConfig, load_study_config, set_path, validate
from dtme_search.data import build_data
from dtme_search.search.trial.pruning import rank_correlation
from dtme_search.token_space import ConflictReport
from dtme_search.token_space.gain import GAINS
from dtme_search.training import conflicts_at_expansion


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("dtme-runs"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    study = load_study_config(str(DATA / "per_layer.yaml")).model_copy(update={"name": "growth-criterion"})
    found = train(study, [each for each in points(study) if is_single(each)], chosen.workdir, None, ())
    if found.stopped:
        return
    runs = [run for run in found.records.runs(study.name) if run.state == "complete"]
    correlations: dict[str, list[float]] = {"conflicts": [], "S": [], "z": []}
    for start in (0.0, 0.25):
        for seed in range(study.seeds):
            report, step = measured(study, start, seed)
            for number, operation in enumerate(GAINS):
                gains = {
                    str(run.operations).split().index(operation): run.paired_gain_percent
                    for run in runs
                    if (run.seed, run.expansion_step) == (seed, step) and operation in str(run.operations)
                }
                layers = sorted(gains)
                assert report.gains is not None
                rated = {
                    "conflicts": report.scores("range" if operation == "modulate" else "null").tolist(),
                    "S": report.gains[0, number].tolist(),
                    "z": report.gains[2, number].tolist(),
                }
                worth = [gains[layer] or 0.0 for layer in layers]
                for name, values in rated.items():
                    correlations[name].append(rank_correlation([values[layer] for layer in layers], worth))
    for name, values in correlations.items():
        error = stdev(values) / len(values) ** 0.5
        print(
            f"{name}: mean rank correlation {fmean(values):+.2f}, standard error {error:.2f}, n {len(values)}"
        )


def is_single(point: dict[str, Any]) -> bool:
    """Whether at most one layer grows, by one operation."""
    grown = [value for path, value in point.items() if "layers" in path and value != "none"]
    return len(grown) <= 1 and "both" not in grown


def measured(study: StudyConfig, start: float, seed: int) -> tuple[ConflictReport, int]:
    """Conflicts and gains of the unexpanded network at a start, and its step."""
    assert isinstance(study.config, dict)
    values = set_path(study.config, "seed", seed)
    values["expansion"] = {"policy": "conflict", "start": start}
    config = validate(RunConfig, values, "per_layer.yaml")
    data = build_data(config.data, tuple(config.tasks), torch.device("cpu"))
    return conflicts_at_expansion(config, data)[0], config.expansion_step or 0


if __name__ == "__main__":
    main()
