"""Train every point of a small search space with the tool itself, and keep what came out as one table.

    python benchmarks/data/record_table.py --seeds 1 2     20 minutes of one core; goes on where it stopped

Trains the study ``benchmarks/data/quality.yaml`` with all its points enqueued, then writes
``benchmarks/data/quality.csv``, one row per point, and ``quality.json``, where the numbers come from.
``benchmarks/search_quality.py`` replays searches on the table without training anything.

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
from typing import Any

import optuna
import torch
import yaml

import dtme_search
from dtme_search.config import RunConfig, StudyConfig, load_study_config
from dtme_search.data import TaskData, build_data
from dtme_search.models import MultiTaskViT, build_model
from dtme_search.search import Listener, LoadedStudy, Outcome, optimize
from dtme_search.search.storage.studies import FINGERPRINT_ATTR
from dtme_search.search.study.preparation import DATA_ATTR
from dtme_search.token_space import ExpansionPlan
from dtme_search.training.forward import TaskLosses

DATA = Path(__file__).parent
ROUNDS = 5


def _probe(start: float, rate: float, range_ratio: float, null_ratio: float) -> dict[str, Any]:
    return {
        "expansion.range_threshold": 0.0,
        "expansion.start": start,
        "expansion.lr_multiplier": rate,
        "expansion.range_layer_ratio": range_ratio,
        "expansion.null_layer_ratio": null_ratio,
    }


PROBED = [
    _probe(0.0, 1.0, 0.0, 0.0),
    _probe(0.0, 10.0, 0.75, 0.75),
    _probe(0.0, 1.0, 0.5, 0.5),
    _probe(0.5, 10.0, 0.5, 0.0),
    _probe(0.25, 10.0, 0.25, 0.5),
]
"""Points that are trained with further seeds, to tell noise from signal."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("dtme-runs"))
    parser.add_argument("--trials", type=int, help="stop after this many trials; no table is written then")
    parser.add_argument("--out", type=Path, default=DATA / "quality.csv")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="train a few points with these too")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    definition = load_study_config(str(DATA / "quality.yaml"))
    study = train(definition, every_point(definition), chosen.workdir, chosen.trials)
    if study.stopped or chosen.trials is not None:
        return
    write_table(study, definition, chosen.out)
    by_seed = {"0": gains(study, PROBED)}
    for seed in chosen.seeds:
        again = definition.model_copy(update={"name": f"quality-seed{seed}"})
        by_seed[str(seed)] = gains(train(again, PROBED, chosen.workdir, None, (f"seed={seed}",)), PROBED)
    write_provenance(study, by_seed, chosen.out.with_suffix(".json"))


def train(
    definition: StudyConfig,
    points: Sequence[dict[str, Any]],
    workdir: Path,
    trials: int | None,
    overrides: Sequence[str] = (),
) -> LoadedStudy:
    """Run a study over exactly these points, or the first ``trials`` of them."""
    file = workdir / f"{definition.name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    values = definition.model_dump(mode="json", exclude_defaults=True) | {"enqueue": list(points)}
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return optimize(
        str(file),
        trials=trials or len(points),
        workdir=workdir,
        device="cpu",
        overrides=overrides,
        listener=Progress(len(points)),
    )


class Progress(Listener):
    """One line a trial."""

    def __init__(self, total: int) -> None:
        self.total = total

    def trial_completed(self, number: int, outcome: Outcome) -> None:
        print(f"{number + 1} of {self.total}: delta_m {outcome.delta_m_percent:+.2f} %", flush=True)


def every_point(study: StudyConfig) -> list[dict[str, Any]]:
    """The whole space; the first path varies slowest, so equal work comes after what it is equal to."""
    choices = {path: searched.choices or () for path, searched in study.search.items()}
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def write_table(study: LoadedStudy, definition: StudyConfig, file: Path) -> None:
    """One row per trial."""
    runs = {run.trial: run for run in study.records.runs(study.name) if run.state == "complete"}
    costs = grown_step_costs([RunConfig.model_validate_json(run.config or "") for run in runs.values()])
    rows = []
    for trial in study.optuna.get_trials(deepcopy=False):
        run = runs.get(trial.number)
        if run is None:
            continue
        origin = run if run.origin_trial is None else runs[run.origin_trial]
        rows.append(
            {path: trial.params[path] for path in definition.search}
            | {
                "work": (origin.resolved_fingerprint or "")[:12],
                "trained": int(run.origin_trial is None),
                "operations": run.operations,
                "param_overhead_percent": round(run.param_overhead_percent or 0.0, 6),
                "expansion_step": run.expansion_step,
                "total_steps": run.total_steps,
                "grown_step_cost": round(costs[plan_of(RunConfig.model_validate_json(run.config or ""))], 3),
            }
            | {
                f"delta_m_at_{rung.step}": round(rung.delta_m_percent, 4)
                for rung in study.records.rungs(study.name, origin.trial)
            }
        )
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} points: {file}")


def plan_of(config: RunConfig) -> str:
    return config.expansion.plan.model_dump_json()


def grown_step_costs(configs: Sequence[RunConfig]) -> dict[str, float]:
    """Plan -> processor time of a pass forward and backward over that of the unexpanded model."""
    data = build_data(configs[0].data, tuple(configs[0].tasks), torch.device("cpu"))
    unexpanded = build(configs[0], data)
    costs = {}
    for config in configs:
        if plan_of(config) in costs:
            continue
        model = build(config, data)
        plan = config.expansion.plan
        model.grow(
            ExpansionPlan(
                tuple(config.tasks),
                model.info.num_layers,
                {"modulate": plan.groups["modulate"], "expand": plan.groups["expand"]},
            ),
            token_std=config.expansion.token_std,
            seed=config.seed,
        )
        # In turns: what slows the machine down for a while meets both.
        pairs = [(seconds(unexpanded, config, data), seconds(model, config, data)) for _ in range(ROUNDS)]
        before, after = zip(*pairs, strict=True)
        has_grown = bool(plan.groups["modulate"] or plan.groups["expand"])
        costs[plan_of(config)] = median(after) / median(before) if has_grown else 1.0
    return costs


def build(config: RunConfig, data: TaskData) -> MultiTaskViT:
    return build_model(
        config.model, data.specs, data.image_size, seed=config.seed, output_means=data.target_means()
    )


def seconds(model: MultiTaskViT, config: RunConfig, data: TaskData) -> float:
    batch = next(iter(data.train_batches(config.train.batch_size, config.seed)))
    losses = TaskLosses(config.train, model.train(), data)
    started = time.process_time()
    torch.stack(list(losses(batch, tuple(config.tasks)).values())).sum().backward()
    model.zero_grad(set_to_none=True)
    return time.process_time() - started


def gains(study: LoadedStudy, points: Sequence[dict[str, Any]]) -> list[float]:
    """Final delta_m of some points."""
    by_params = {
        json.dumps(trial.params, sort_keys=True): trial.values[0]
        for trial in study.optuna.get_trials(deepcopy=False)
        if trial.values is not None
    }
    return [round(by_params[json.dumps(point, sort_keys=True)], 4) for point in points]


def write_provenance(study: LoadedStudy, by_seed: dict[str, list[float]], file: Path) -> None:
    """Where the numbers come from, what the baselines were, and what other seeds give."""
    runs = study.records.runs(study.name)
    content = {
        "command": "python benchmarks/data/record_table.py --seeds " + " ".join(list(by_seed)[1:]),
        "date": datetime.now(UTC).date().isoformat(),
        "dtme_search": dtme_search.__version__,
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "python": platform.python_version(),
        "seed": runs[0].seed,
        "space_fingerprint": study.optuna.user_attrs[FINGERPRINT_ATTR],
        "data_fingerprint": study.optuna.user_attrs[DATA_ATTR],
        "split": runs[0].split,
        "trials": sum(run.state == "complete" for run in runs),
        "trained": sum(run.state == "complete" and run.origin_trial is None for run in runs),
        "baselines": {
            row.task: {"metric": row.metric, "value": row.value, "no_image_prior": row.prior_value}
            for row in study.records.baselines()
            if row.seed == runs[0].seed
        },
        "probed_points": PROBED,
        "delta_m_percent_by_seed": by_seed,
    }
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
