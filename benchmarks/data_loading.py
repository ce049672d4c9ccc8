"""Time per training batch: tensors on the device against a DataLoader whose workers augment.

The ways, on the same data set and with the same transforms:

tensors      samples held on the device, the whole batch augmented there (data.storage: device)
loader       two workers read, the whole batch is augmented on the device (data.storage: loader)
per sample   two workers read and augment one sample at a time, the batch is collated: the usual way

Rounds of all ways alternate in one run; a figure is the median over rounds, a ratio that of the medians.
Nothing is trained meanwhile. On a CPU the processor time of all processes says more than the waiting time:
what the workers use there is taken from the model. It includes starting the workers.

    python benchmarks/data_loading.py [--height 240 --width 320] [--device cuda]
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.utils.data

from dtme_search.config import DataConfig
from dtme_search.config.run import ScenesConfig
from dtme_search.data import Batch, Dataset, Purpose, build_data, build_dataset, make_generator
from dtme_search.data.batches.augment import Draws, prepare_batch
from dtme_search.data.batches.order import training_order
from dtme_search.data.batches.pipeline import CROP_TASK
from dtme_search.data.batches.tensors import read_sample, stack_samples

NUM_WORKERS = 2
SEED = 0


@dataclass(frozen=True)
class SampleByStep(torch.utils.data.Dataset[Batch]):
    """Reads and augments one sample per call, as a worker of the usual pipeline does."""

    dataset: Dataset
    ids: Sequence[str]
    config: DataConfig

    def __getitem__(self, place: tuple[int, int]) -> Batch:
        position, index = place
        specs, size = dict(self.dataset.tasks), self.config.image_size
        raw = read_sample(self.dataset, self.ids[index], specs, size)
        raw = stack_samples([raw], 1, specs, size, torch.device("cpu"))
        draws = Draws.random(self.config.augment, 1, make_generator("cpu", SEED, Purpose.AUGMENT, position))
        return prepare_batch(raw, torch.tensor([index]), draws, specs, self.config, CROP_TASK)


def collate(samples: Sequence[Batch]) -> Batch:
    """Put single samples together."""
    tasks = samples[0].targets
    return Batch(
        torch.cat([sample.images for sample in samples]),
        {task: torch.cat([sample.targets[task] for sample in samples]) for task in tasks},
        {task: torch.cat([sample.valid[task] for sample in samples]) for task in tasks},
        torch.cat([sample.indices for sample in samples]),
    )


def per_sample_batches(
    dataset: Dataset, ids: Sequence[str], config: DataConfig, batch_size: int, device: torch.device
) -> Iterator[Batch]:
    """The usual way: workers read and augment single samples."""
    order = training_order(len(ids), batch_size, SEED)
    numbered = (
        [(step * batch_size + row, index) for row, index in enumerate(chosen)]
        for step, chosen in enumerate(order)
    )
    loader = torch.utils.data.DataLoader(
        SampleByStep(dataset, ids, config),
        batch_sampler=numbered,
        num_workers=NUM_WORKERS,
        collate_fn=collate,
    )
    for batch in loader:
        yield Batch(
            batch.images.to(device),
            {task: target.to(device) for task, target in batch.targets.items()},
            {task: valid.to(device) for task, valid in batch.valid.items()},
            batch.indices.to(device),
        )


@dataclass(frozen=True)
class Cost:
    """What one batch takes, in milliseconds: waiting time, and processor time of all processes together."""

    wall: float
    cpu: float


def measure(open_batches: Callable[[], Iterator[Batch]], count: int, device: torch.device) -> Cost:
    """Means of one round of ``count`` batches, after as many that fill the queues of the workers."""
    cpu_start = sum(os.times()[:4])
    batches = open_batches()
    warm_up = 2 * NUM_WORKERS + 2
    for _ in itertools.islice(batches, warm_up):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in itertools.islice(batches, count):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall = time.perf_counter() - start
    # Ends the workers: only then does the system add their time to ours.
    del batches
    cpu = sum(os.times()[:4]) - cpu_start
    return Cost(1e3 * wall / count, 1e3 * cpu / (warm_up + count))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Time per training batch of three ways to load data.")
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--batches", type=int, default=10, help="batches per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of this process")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    device = torch.device(args.device)
    config = DataConfig(
        image_size=(args.height, args.width),
        scenes=ScenesConfig(num_train=args.images, num_test=2),
        loader_workers=NUM_WORKERS,
    )
    dataset = build_dataset(config)
    tasks = list(dataset.tasks)
    kept, read = (
        build_data(config.model_copy(update={"storage": storage}), tasks, device, final=True, dataset=dataset)
        for storage in ("device", "loader")
    )
    ways = {
        "tensors": lambda: kept.train_batches(args.batch_size, SEED),
        "loader": lambda: read.train_batches(args.batch_size, SEED),
        "per sample": lambda: per_sample_batches(dataset, kept.splits.train, config, args.batch_size, device),
    }
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, open_batches in ways.items():
            costs[way].append(measure(open_batches, args.batches, device))

    print(
        f"{args.batch_size} images of {args.height} x {args.width}, {len(tasks)} tasks, device {device}, "
        f"{args.threads} thread, {NUM_WORKERS} workers; milliseconds per batch"
    )
    print(f"{'way':<12}{'wall':>8}{'range':>18}{'ratio':>8}{'cpu':>8}{'ratio':>8}")
    first = costs["tensors"]
    for way, rounds in costs.items():
        wall, cpu = median_costs(rounds)
        spread = f"{min(cost.wall for cost in rounds):.1f} - {max(cost.wall for cost in rounds):.1f}"
        wall_ratio, cpu_ratio = wall / median_costs(first)[0], cpu / median_costs(first)[1]
        print(f"{way:<12}{wall:>8.1f}{spread:>18}{wall_ratio:>8.2f}{cpu:>8.1f}{cpu_ratio:>8.2f}")


def median_costs(rounds: Sequence[Cost]) -> tuple[float, float]:
    """Median wall and processor time."""
    return statistics.median(cost.wall for cost in rounds), statistics.median(cost.cpu for cost in rounds)


if __name__ == "__main__":
    main()
