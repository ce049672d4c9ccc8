"""Steps of real runs under a stopwatch: what `device.py` measures with."""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dtme_search.config import RunConfig
from dtme_search.data import Batch, TaskData, build_data
from dtme_search.token_space import ExpansionPlan
from dtme_search.training import Trainer
from dtme_search.training.runtime import autocast, run_numerics

TASKS = ("semseg", "depth", "normals", "edge")


@dataclass(frozen=True)
class Size:
    """How large a case is.

    Attributes:
        backbones: timm's names.
        options: ``model.backbone_options`` of all of them.
        image: Height and width.
        batch: Images per step.
        warm: Steps before the clock starts.
        steps: Steps of a measurement at most.
        seconds: After which a measurement ends, if it has three steps.
        images: Training images; they are rendered first.
    """

    backbones: tuple[str, ...]
    options: Mapping[str, int]
    image: tuple[int, int]
    batch: int
    warm: int
    steps: int
    seconds: float
    images: int


FULL = Size(
    ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"),
    {},
    (448, 576),
    6,
    5,
    40,
    2.5,
    24,
)
TINY = {"patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3}
QUICK = Size(("vit_tiny_patch16_224",), TINY, (48, 64), 4, 1, 3, 0.5, 8)


def config_of(size: Size, backbone: str, **train: Any) -> RunConfig:
    """A run of four tasks on rendered rooms that never grows by itself."""
    return RunConfig.model_validate(
        {
            "data": {
                "name": "scenes",
                "image_size": list(size.image),
                "storage": "device",
                "scenes": {"num_train": size.images, "num_test": 4},
            },
            "model": {"backbone": backbone, "backbone_options": dict(size.options)},
            "expansion": {"policy": "none"},
            "train": {
                "num_steps": 100_000,
                "batch_size": size.batch,
                "eval_batch_size": size.batch,
                "num_evaluations": 1,
                "checkpoint_seconds": 1e9,
                **train,
            },
        }
    )


def plan_of(streams: int, num_layers: int) -> ExpansionPlan | None:
    """TM and TE in the last half of the layers, for 2 groups of two tasks or for 4 tasks; none for 1."""
    if streams == 1:
        return None
    groups = tuple(TASKS[first::1][: 4 // streams] for first in range(0, 4, 4 // streams))
    grown = dict.fromkeys(range(num_layers // 2, num_layers), groups)
    return ExpansionPlan(TASKS, num_layers, {"modulate": grown, "expand": grown})


class Data:
    """Rendered rooms on a device, read once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._known: dict[str, TaskData] = {}

    def of(self, config: RunConfig) -> TaskData:
        """Data of a run."""
        key = config.data.model_dump_json()
        if key not in self._known:
            self._known[key] = build_data(config.data, tuple(config.tasks), self.device)
        return self._known[key]


@contextmanager
def ready(config: RunConfig, data: Data, streams: int = 1) -> Iterator[Trainer]:
    """The trainer of a run, grown and compiled, with its arithmetic; its memory is given back at the end."""
    device = data.device
    free(device)
    with run_numerics(config.train, device):
        trainer = Trainer.of_config(config, data.of(config))
        plan = plan_of(streams, trainer.model.info.num_layers)
        if plan is not None:
            trainer.state.grow(plan)
        if config.train.compile:
            trainer.model.compile_blocks()
        trainer.model.train()
        yield trainer
    del trainer
    free(device)


def free(device: torch.device) -> None:
    """Give unused memory back and forget the largest use."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def wait(device: torch.device) -> None:
    """Until all queued work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batches_of(trainer: Trainer) -> Iterator[Batch]:
    """Training batches from the step at which the run is."""
    config = trainer.config
    return trainer.data.train_batches(config.train.batch_size, config.seed, trainer.state.step)


def seconds_per_step(trainer: Trainer, size: Size) -> float:
    """Mean seconds of a training step, data included, after ``size.warm`` steps."""
    device, batches = trainer.data.device, batches_of(trainer)
    for _ in range(size.warm):
        trainer._train_step(next(batches))
    wait(device)
    begun, done = time.perf_counter(), 0
    while done < size.steps and (done < 3 or time.perf_counter() - begun < size.seconds):
        trainer._train_step(next(batches))
        done += 1
        if done % 10 == 0:
            wait(device)
    wait(device)
    return (time.perf_counter() - begun) / done


def bare_seconds_per_step(size: Size, backbone: str, device: torch.device, config: RunConfig) -> float:
    """The limit: timm's model alone, forward, backward and Adam, on images that are there already."""
    import timm

    free(device)
    with run_numerics(config.train, device):
        model = timm.create_model(backbone, img_size=size.image, num_classes=0, **size.options)
        model = model.to(device).train()
        if config.train.compile:
            for block in model.blocks:
                block.compile(fullgraph=True, dynamic=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=device.type == "cuda")
        images = torch.randn(size.batch, 3, *size.image, device=device)
        seconds = []
        for step in range(size.warm + 10):
            wait(device)
            begun = time.perf_counter()
            with autocast(config.train, device):
                loss = model.forward_features(images).float().square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            wait(device)
            if step >= size.warm:
                seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def flops_per_step(trainer: Trainer) -> int:
    """Floating point operations of the matrix products of one forward and backward pass of all tasks."""
    with FlopCounterMode(display=False) as counter:
        trainer.losses.backward(next(batches_of(trainer)), dict.fromkeys(TASKS, 1.0))
    trainer.model.zero_grad(set_to_none=True)
    return counter.get_total_flops()


@contextmanager
def counted_waits(device: torch.device) -> Iterator[Counter[str]]:
    """Calls that wait for the device by ``file:line``, as CUDA's debug mode reports them."""
    places: Counter[str] = Counter()
    if device.type != "cuda":
        yield places
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if "synchroniz" in str(warning.message).lower():
            places[f"{Path(warning.filename).name}:{warning.lineno}"] += 1
