"""What the devices of a run send each other, with ``torch.distributed``: all take part in every call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dtme_search.errors import TrainingError

_BUCKET = 2**25
"""Numbers that travel together (128 MiB of float32)."""
_PATIENCE = timedelta(minutes=5)
"""For one exchange. Nobody begins one before all have said that they are ready."""


def meet(place: str, rank: int, size: int, device: torch.device) -> None:
    """Join the other devices for a run; returns when all are there.

    Args:
        place: A file that does not exist before.
        rank: Number of this device.
        size: Number of devices.
        device: This one.
    """
    if dist.is_initialized():
        raise TrainingError("this process already takes part in another distributed training; end it first.")
    backend, uri = "nccl" if device.type == "cuda" else "gloo", Path(place).as_uri()
    dist.init_process_group(backend, uri, rank=rank, world_size=size, timeout=_PATIENCE)


def part() -> None:
    """Leave the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


@torch.no_grad()
def send_weights(model: nn.Module, rank: int) -> None:
    """Give all devices the parameters and buffers of the leader; whole numbers stay."""
    tensors = [each.detach() for each in (*model.parameters(), *model.buffers()) if each.is_floating_point()]
    for bucket in _buckets(tensors):
        flat = _flat(bucket)
        dist.broadcast(flat, 0)
        if rank:
            for tensor, sent in zip(bucket, _pieces(flat, bucket), strict=True):
                tensor.copy_(sent)


@torch.no_grad()
def add_up(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sums over the devices, for the leader."""
    totals: list[Tensor] = []
    for bucket in _buckets(tensors):
        flat = _flat(bucket)
        dist.reduce(flat, 0)
        totals += _pieces(flat, bucket)
    return totals


class RunningStatistics:
    """Running statistics of batch norm, as after all parts of a batch in their order.

    With momentum m, n passes turn a value r into a r + b with a = (1 - m)^n. Every device starts from the
    same r, so the values after its own passes give its b, and the maps are put together one after the other.
    A batch norm without momentum counts the leader's parts alone.

    Args:
        model: Before its passes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.norms = [
            each
            for each in model.modules()
            if isinstance(each, _BatchNorm) and each.track_running_stats and each.momentum is not None
        ]
        self._before = [value.clone() for value in self._values()]
        self._passes = [_count(norm).clone() for norm in self.norms]

    @torch.no_grad()
    def put_together(self, rank: int, size: int) -> None:
        """After the passes: the leader gets the statistics of all."""
        if not self.norms:
            return
        flat = _flat(self._values())
        gathered = [torch.empty_like(flat) for _ in range(size)]
        dist.all_gather(gathered, flat)
        if rank:
            return
        of_others = [_pieces(each, self._values()) for each in gathered[1:]]
        for index, norm in enumerate(self.norms):
            passes = _count(norm) - self._passes[index]
            keeps = (1.0 - (norm.momentum or 0.0)) ** passes
            for place in (2 * index, 2 * index + 1):
                value = self._values()[place]
                for theirs in of_others:
                    value.copy_(theirs[place] + keeps * (value - self._before[place]))
            _count(norm).add_(passes * (size - 1))

    def _values(self) -> list[Tensor]:
        """Mean and variance of each."""
        values = [(norm.running_mean, norm.running_var) for norm in self.norms]
        return [value for pair in values for value in pair if value is not None]


def _count(norm: _BatchNorm) -> Tensor:
    assert norm.num_batches_tracked is not None
    return norm.num_batches_tracked


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        size = sum(each.numel() for each in bucket)
        if bucket and (tensor.dtype != bucket[0].dtype or size + tensor.numel() > _BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.reshape(-1) for each in tensors])


def _pieces(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    pieces = flat.split([each.numel() for each in tensors])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]
