"""What measuring conflicts costs in training steps, and how many images a stable ranking of layers needs.

    python benchmarks/conflict_analysis.py [CONFIG] [--steps 120]

Trains CONFIG (default: demo) for a while, then measures on 8, 16, 32, 64 and 128 images, twice each on
different images, and compares the rankings of the layers with that of all training images.
"""

from __future__ import annotations

import argparse
import time

import torch

from dtme_search.config import RunConfig, load_run_config
from dtme_search.data import TaskData, build_data
from dtme_search.models import MultiTaskViT, build_model
from dtme_search.token_space import ConflictReport
from dtme_search.training import Trainer
from dtme_search.training.forward import TaskLosses
from dtme_search.training.growth import Growth

SHARE_ALLOWED = 0.05


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("config", nargs="?", default="demo")
    arguments.add_argument("--steps", type=int, default=120)
    arguments.add_argument("--data-root", default=None)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    overrides = (f"train.num_steps={chosen.steps}", "train.num_evaluations=1")
    if chosen.data_root is not None:
        overrides += (f"data.root={chosen.data_root}",)
    full = load_run_config(chosen.config)
    config = load_run_config(chosen.config, overrides)
    data = build_data(config.data, tuple(config.tasks), torch.device("cpu"))
    means = data.target_means()
    model = build_model(config.model, data.specs, data.image_size, seed=config.seed, output_means=means)
    started = time.process_time()
    Trainer(config, model, data).run()
    step_seconds = (time.process_time() - started) / chosen.steps
    print(f"{chosen.config}: {chosen.steps} steps trained, {len(data.splits.train)} training images")

    everything, _ = measure(config, model, data, len(data.splits.train), seed=0)
    print(
        "\nimages  cost in steps  share of a run  rank correlation with all images (range, null), two samples"
    )
    for num_images in (8, 16, 32, 64, 128):
        reports, seconds = zip(
            *(measure(config, model, data, num_images, seed) for seed in (1, 2)), strict=True
        )
        steps = min(seconds) / step_seconds
        share = steps / full.train.num_steps
        agreement = "  ".join(
            f"({correlation(one, everything, 'range'):+.2f}, {correlation(one, everything, 'null'):+.2f})"
            for one in reports
        )
        print(f"{num_images:6d}  {steps:13.1f}  {share:13.1%}  {agreement}")
    print(f"\nAt most {SHARE_ALLOWED:.0%} of a run is allowed at the default number of images.")
    print(everything.table())
    print(everything.summary())


def measure(
    config: RunConfig, model: MultiTaskViT, data: TaskData, num_images: int, seed: int
) -> tuple[ConflictReport, float]:
    """Conflicts on ``num_images`` images chosen by ``seed``, and the processor seconds that took."""
    expansion = config.expansion.model_copy(update={"policy": "conflict", "num_images": num_images})
    settings = config.model_copy(update={"expansion": expansion, "seed": seed})
    growth = Growth(settings, model, data, TaskLosses(config.train, model, data), tuple(config.tasks))
    started = time.process_time()
    report = growth.measure()
    assert report is not None
    return report, time.process_time() - started


def correlation(one: ConflictReport, other: ConflictReport, space: str) -> float:
    """Spearman's rank correlation of the layer scores."""
    ranks = torch.stack([report.scores(space).argsort().argsort().double() for report in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


if __name__ == "__main__":
    main()
