"""Time per training batch: tensors on the device against a DataLoader whose workers augment.

The ways, on the same data set and with the same transforms:

tensors      samples held on the device, the whole batch augmented there (data.storage: device)
loader       two workers read, the whole batch is augmented on the device (data.storage: loader)
per sample   two workers read and augment one sample at a time, the batch is collated: the usual way

Rounds of all ways alternate in one run; a figure is the median over rounds, a ratio that of the medians.
Nothing else runs meanwhile: on a CPU the workers of the last two would take time from the model as well.

    python benchmarks/data_loading.py [--height 240 --width 320] [--device cuda]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.utils.data

from dtme_search.config import DataConfig
from dtme_search.config.run import ScenesConfig
from dtme_search.data import Batch, Dataset, Purpose, build_data, build_dataset, make_generator
from dtme_search.data.augment import Draws, prepare_batch
from dtme_search.data.pipeline import CROP_TASK, training_order
from dtme_search.data.tensors import read_sample, stack_samples

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


def milliseconds_per_batch(batches: Iterator[Batch], count: int, device: torch.device) -> float:
    """Mean over ``count`` batches, after as many that fill the queues of the workers."""
    for _ in itertools.islice(batches, 2 * NUM_WORKERS + 2):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in itertools.islice(batches, count):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - start) / count


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Time per training batch of three ways to load data.")
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--batches", type=int, default=12, help="batches per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

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
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, open_batches in ways.items():
            times[way].append(milliseconds_per_batch(open_batches(), args.batches, device))

    medians = {way: statistics.median(values) for way, values in times.items()}
    print(
        f"{args.batch_size} images of {args.height} x {args.width}, {len(tasks)} tasks, device {device}, "
        f"{torch.get_num_threads()} threads, {NUM_WORKERS} workers"
    )
    print(f"{'way':<12}{'ms per batch':>14}{'range':>18}{'times tensors':>16}")
    for way, median in medians.items():
        spread = f"{min(times[way]):.1f} - {max(times[way]):.1f}"
        print(f"{way:<12}{median:>14.1f}{spread:>18}{median / medians['tensors']:>16.2f}")


if __name__ == "__main__":
    main()
