"""Does growing help on the test split, and is it the choice of layers? Variants, seeds, paired differences.

    python benchmarks/controls.py nyud_pretrained --data-root NYUDv2 --seeds 5
    python benchmarks/controls.py nyud_pretrained --best best.yaml --steps 600 --variants unexpanded paper
    python benchmarks/controls.py nyud_pretrained --longer 1.9        and unexpanded with 1.9 times the steps

Every run is a final training: all training ids, measured on the test ids (edges by the exact odsF, too). What
is done is kept in ``--json``; the same command goes on where it stopped. Printed is the gain of each variant
over the unexpanded network of the same seed, in percent of the single-task baseline (first seed, the config's
own number of steps), with the standard error over the seeds.

unexpanded  no growth; "longer" with more steps, for a comparison at equal compute
paper       the paper's layers and operations from step 0 on; half: the same from half of the steps on
reversed    the layers with the fewest conflicts; random: any; swapped: each with the other operation
modulate, expand  only one of the two operations
best        another config, such as that of the best trial of a search
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from dtme_search.config import RunConfig, load_run_config
from dtme_search.search import train_final

UNEXPANDED = "unexpanded"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    UNEXPANDED: {"policy": "none"},
    "paper": {},
    "half": {"start": 0.5},
    "reversed": {"selection": "reversed"},
    "random": {"selection": "random"},
    "swapped": {"selection": "swapped"},
    "modulate": {"null_layer_ratio": 0.0},
    "expand": {"range_layer_ratio": 0.0},
}
"""Name -> what differs in ``expansion`` from policy conflict as the paper sets it."""

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", help="a name from configs/, or a YAML file")
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="of the config")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--best", type=Path, help="one more variant: a config, for example an export")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of every training, by default the config's")
    parser.add_argument("--longer", type=float, help="unexpanded with so many times the steps, too")
    parser.add_argument("--workdir", type=Path, default=Path("dtme-runs"))
    parser.add_argument("--json", type=Path, default=Path("controls.json"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    overrides = (*chosen.set, f"data.root={chosen.data_root}")
    if chosen.steps:
        overrides += (f"train.num_steps={chosen.steps}",)
    base = load_run_config(chosen.config, overrides)
    configs = {name: with_expansion(base, VARIANTS[name]) for name in chosen.variants}
    if chosen.best:
        configs["best"] = load_run_config(str(chosen.best), overrides)
    if chosen.longer:
        steps = round(base.train.num_steps * chosen.longer)
        train = base.train.model_copy(update={"num_steps": steps})
        longer = with_expansion(base, VARIANTS[UNEXPANDED]).model_copy(update={"train": train})
        configs[f"longer {chosen.longer}"] = longer
    train_all(configs, chosen.seeds, chosen.workdir, chosen.json)
    print(table(json.loads(chosen.json.read_text(encoding="utf-8")), base.train.num_steps))


def with_expansion(base: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    return base.model_copy(update={"expansion": base.expansion.model_copy(update=dict(changes))})


def train_all(configs: Mapping[str, RunConfig], seeds: int, workdir: Path, file: Path) -> None:
    """Train what is missing in the file, seed by seed, and add it."""
    for seed in range(seeds):
        for name, config in configs.items():
            rows: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
            steps = config.train.num_steps
            if any((row["variant"], row["steps"], row["seed"]) == (name, steps, seed) for row in rows):
                continue
            config = config.model_copy(update={"seed": seed})
            with_baselines = not any(row["baselines"] for row in rows)
            begin = time.process_time()
            result = train_final(config, f"{name}-{seed}", workdir=workdir, with_baselines=with_baselines)
            row = {
                "variant": name,
                "steps": steps,
                "seed": seed,
                "metrics": dict(result.metrics),
                "extra": {task: dict(values) for task, values in result.extra_metrics.items()},
                "baselines": {task: baseline.value for task, baseline in result.baselines.items()},
                "higher_is_better": {task: spec.higher_is_better for task, spec in result.specs.items()},
                "processor_seconds": None if with_baselines else round(time.process_time() - begin, 1),
            }
            file.write_text(json.dumps([*rows, row], indent=1), encoding="utf-8")
            print(name, steps, seed, row["metrics"], flush=True)


def table(rows: Sequence[Row], steps: int) -> str:
    """Gains over the unexpanded network of the same seed and number of steps; Markdown."""
    baselines = next(row["baselines"] for row in rows if row["baselines"])
    plain = {row["seed"]: row for row in rows if (row["variant"], row["steps"]) == (UNEXPANDED, steps)}
    tasks = list(baselines)
    lines = [f"| variant | seeds | delta_m | {' | '.join(tasks)} |", "|---" * (3 + len(tasks)) + "|"]
    names = dict.fromkeys(row["variant"] for row in rows)
    for name in names:
        here = [row for row in rows if row["variant"] == name and row["seed"] in plain]
        here = [row for row in here if row["steps"] == steps or name.startswith("longer")]
        gains = {
            task: [gain(row, plain[row["seed"]], task, baselines[task]) for row in here] for task in tasks
        }
        mean = [fmean(values) for values in zip(*gains.values(), strict=True)]
        cells = [in_words(mean), *(in_words(gains[task]) for task in tasks)]
        lines.append(f"| {name} | {len(here)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gain(row: Row, plain: Row, task: str, baseline: float) -> float:
    """Gain over another run in percent of the baseline; positive is better."""
    sign = 1.0 if row["higher_is_better"][task] else -1.0
    return sign * 100.0 * (row["metrics"][task] - plain["metrics"][task]) / baseline


def in_words(values: Sequence[float]) -> str:
    """Mean and standard error."""
    if len(values) < 2:
        return " ".join(f"{value:+.2f}" for value in values)
    return f"{fmean(values):+.2f} ({stdev(values) / len(values) ** 0.5:.2f})"


if __name__ == "__main__":
    main()
