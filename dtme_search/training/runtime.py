"""Where and with which arithmetic a run happens: device, autocast, determinism, timing."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

from dtme_search.config import TrainConfig
from dtme_search.errors import ConfigError


def pick_device(name: str | None = None) -> torch.device:
    """Turn ``cpu``, ``cuda``, ``cuda:1`` or nothing (the best there is) into a device.

    A numbered GPU becomes the current one of this process, else torch's helpers open GPU 0 as well.

    Raises:
        ConfigError: If the name means nothing to torch or the device is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device must be cpu, cuda or cuda:N, got '{name}'.")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ConfigError(
                f"--device must exist, got '{name}' where there are {count} CUDA devices, counted from 0. "
                "Use one of them or --device cpu."
            )
        if device.index is not None:
            torch.cuda.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"


def autocast(train: TrainConfig, device: torch.device) -> torch.autocast:
    """bfloat16 autocast where ``train.precision`` asks for it; a disabled one elsewhere."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision(train, device) == "bfloat16")


def precision(train: TrainConfig, device: torch.device) -> str:
    """Resolve ``train.precision: auto``: bfloat16 where a GPU computes with it and does not imitate it."""
    if train.precision == "auto":
        return "bfloat16" if device.type == "cuda" and _has_bfloat16(device) else "float32"
    return train.precision


@lru_cache
def _has_bfloat16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


@contextmanager
def run_numerics(train: TrainConfig, device: torch.device) -> Iterator[None]:
    """The arithmetic of a run; the caller's settings and RNG come back at the end.

    Deterministic algorithms where asked for. On the CPU this is what makes a resumed run equal to an
    undisturbed one bit for bit: without it, multi-threaded training of a grown model does not even equal
    itself. float32 means float32: no TensorFloat32, neither in convolutions nor in products. cuDNN tries its
    algorithms and keeps the fastest, unless the run is to be deterministic.
    """
    wanted = train.deterministic == "always" or (train.deterministic == "auto" and device.type == "cpu")
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    cuda_devices = [device] if device.type == "cuda" else []
    if wanted and cuda_devices:
        # cuBLAS reads it when it starts, and torch before 2.10 refuses deterministic products without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    convolutions = torch.backends.cudnn.flags(
        enabled=True, benchmark=not wanted, deterministic=wanted, allow_tf32=False
    )
    with torch.random.fork_rng(devices=cuda_devices), convolutions:
        torch.use_deterministic_algorithms(wanted)
        # Filling fresh tensors with NaN finds bugs in torch, costs time, and changes no result.
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            memory.fill_uninitialized_memory = before[1]


class Stopwatch:
    """Seconds per phase of a run. A phase inside another one pauses it, so the phases add up to the total.

    CUDA work is waited for where a phase begins and ends, so the seconds are those of the work, and
    never inside the training loop.
    """

    def __init__(self, device: torch.device, seconds: dict[str, float] | None = None) -> None:
        self.device = device
        self.seconds = dict(seconds or {})
        self._phase: str | None = None
        self._last = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside as ``name``."""
        self.lap()
        outer, self._phase = self._phase, name
        try:
            yield
        finally:
            self.lap()
            self._phase = outer

    def lap(self) -> float:
        """Bring ``seconds`` up to date; returns the clock."""
        now = self.now()
        if self._phase is not None:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self._last
        self._last = now
        return now

    def now(self) -> float:
        """Clock reading after all queued work is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def forget_peak_memory(device: torch.device) -> None:
    """Let :func:`peak_memory_mb` begin anew: a process trains one run after the other."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float | None:
    """Largest memory of a GPU that torch has taken since :func:`forget_peak_memory`.

    ``None`` on the CPU: all that a system tells there is the peak of the whole process, whichever run it was.
    """
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
