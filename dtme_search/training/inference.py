"""What predictions of a network cost: time on a device, and memory of its tensors.

Weights do not matter to either, so the network is a fresh one, grown by the plan.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dtme_search.config import InferenceConfig, RunConfig, fingerprint
from dtme_search.models import build_model, folded
from dtme_search.tasks import TaskSpec
from dtme_search.token_space import ExpansionPlan
from dtme_search.training.runtime import autocast, device_name, precision


@dataclass(frozen=True)
class InferenceCost:
    """What predicting all tasks of a batch costs.

    Attributes:
        latency_ms: Median of the timed predictions.
        latency_spread_ms: Distance between their quartiles.
        memory_mb: Largest memory of tensors at one time, parameters included, in 2^20 bytes: counted, so
            without what an allocator keeps beside it, and the same whenever it is measured.
    """

    latency_ms: float
    latency_spread_ms: float
    memory_mb: float


def measure_inference(
    config: RunConfig,
    specs: Mapping[str, TaskSpec],
    plan: ExpansionPlan,
    settings: InferenceConfig,
    device: torch.device,
) -> InferenceCost:
    """Build the network of a run, grow it, and time its predictions by the clock on the wall.

    As in a deployed file, what all tasks share is in the weights where it can be.
    """
    without = config.model.model_copy(update={"pretrained": False, "checkpoint": None})
    size = config.data.image_size
    model = build_model(without, specs, size, seed=0, plugins=config.plugins)
    model.grow(folded(plan, model.tasks, config.plugins), token_std=config.expansion.token_std, seed=0)
    model.to(device).eval()
    images = torch.zeros(settings.batch_size, 3, *size, device=device)
    train = config.train.model_copy(update={"precision": settings.precision})

    def predict() -> None:
        model(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with torch.inference_mode(), autocast(train, device):
        for _ in range(settings.warmup):
            predict()
        milliseconds = []
        for _ in range(settings.repeats):
            started = time.perf_counter()
            predict()
            milliseconds.append(1000 * (time.perf_counter() - started))
    with torch.no_grad(), autocast(train, device), LiveTensors() as live:
        for tensor in (*model.parameters(), *model.buffers(), images):
            live.add(tensor)
        predict()
    first, _, third = quantiles(milliseconds, n=4)
    return InferenceCost(median(milliseconds), third - first, live.peak / 2**20)


def inference_fingerprint(
    config: RunConfig, plan: ExpansionPlan, settings: InferenceConfig, device: torch.device
) -> str:
    """Names all that the cost of a prediction depends on: network, plan, device and settings."""
    model = config.model.model_dump(mode="json", exclude={"pretrained", "checkpoint", "drop_path"})
    threads = torch.get_num_threads() if device.type == "cpu" else None
    return fingerprint(
        "inference",
        model,
        list(config.tasks),
        config.data.image_size,
        folded(plan, tuple(config.tasks), config.plugins).to_json(),
        settings.model_dump(),
        [device_name(device), threads, torch.__version__],
    )


def inference_precision(config: RunConfig, settings: InferenceConfig, device: torch.device) -> str:
    """What ``precision: auto`` comes to."""
    return precision(config.train.model_copy(update={"precision": settings.precision}), device)


@dataclass
class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that live at one time; views share theirs.

    Example:
        >>> with LiveTensors() as live:
        ...     kept = torch.zeros(1000)
        ...     kept = kept + torch.zeros(1000)
        >>> live.peak
        12000
    """

    peak: int = 0
    _live: int = 0
    _known: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def add(self, tensor: Tensor) -> None:
        """Count a tensor that was there before."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._gone, key, size).atexit = False

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return out
