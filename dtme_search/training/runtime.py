"""Device, autocast, determinism and timing of a run."""

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
    """Turn ``cpu``, ``cuda``, ``cuda:1`` or nothing (the best available) into a device.

    A numbered GPU becomes the current one of this process, otherwise torch's helpers open GPU 0 as well.

    Raises:
        ConfigError: If torch does not know the name or the device does not exist.
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


def device_name(device: torch.device, count: int = 1) -> str:
    """The name that the device reports; for a run on several, with their number."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    return name if count == 1 else f"{count} x {name}"


def autocast(train: TrainConfig, device: torch.device) -> torch.autocast:
    """bfloat16 autocast if ``train.precision`` asks for it, otherwise a disabled one."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision(train, device) == "bfloat16")


def precision(train: TrainConfig, device: torch.device) -> str:
    """Resolve ``train.precision: auto``: bfloat16 only if the GPU supports it in hardware."""
    if train.precision == "auto":
        return "bfloat16" if device.type == "cuda" and _has_bfloat16(device) else "float32"
    return train.precision


@lru_cache
def _has_bfloat16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


@contextmanager
def run_numerics(train: TrainConfig, device: torch.device) -> Iterator[None]:
    """The arithmetic of a run; restores the caller's settings and RNG at the end.

    Deterministic algorithms if requested. On the CPU they make a resumed run equal to an undisturbed one bit
    for bit; without them even two identical multi-threaded trainings of a grown model differ. float32 means
    float32: no TensorFloat32, neither in convolutions nor in products. cuDNN tries its algorithms and keeps
    the fastest, unless the run must be deterministic.
    """
    wanted = train.deterministic == "always" or (train.deterministic == "auto" and device.type == "cpu")
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    cuda_devices = [device] if device.type == "cuda" else []
    if wanted and cuda_devices:
        # cuBLAS reads it at start, and torch before 2.10 refuses deterministic products without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    convolutions = torch.backends.cudnn.flags(
        enabled=True, benchmark=not wanted, deterministic=wanted, allow_tf32=False
    )
    with torch.random.fork_rng(devices=cuda_devices), convolutions:
        torch.use_deterministic_algorithms(wanted)
        # Filling new tensors with NaN finds bugs in torch, costs time, and changes no result.
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            memory.fill_uninitialized_memory = before[1]


class Stopwatch:
    """Seconds per phase of a run. A phase inside another one pauses it, so the phases add up to the total.

    The clock waits for CUDA at the beginning and end of a phase, so the seconds are those of the work. It
    never waits inside the training loop.
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
        """Update ``seconds``; returns the clock."""
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
    """Reset :func:`peak_memory_mb`, because a process trains one run after the other."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float | None:
    """Largest GPU memory that torch has taken since :func:`forget_peak_memory`.

    ``None`` on the CPU, where a system reports only the peak of the whole process, over all its runs.
    """
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
