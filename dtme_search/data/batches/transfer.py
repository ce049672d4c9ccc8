"""To the device without waiting: small tensors in one copy, batches on a separate stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dtme_search.data.base import Batch

_ALIGNMENT = 16
_MOST_AHEAD = 3
"""Steps that the CPU may be ahead of the device. Each keeps a batch in memory, and one would be enough."""


def move_together(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy small tensors from the CPU to ``device`` without waiting for the copy.

    A copy from ordinary memory waits until the device has finished all earlier work. Here all bytes are in
    one page-locked buffer, which torch does not reuse before the copy is done.

    Returns:
        The tensors by name, on the device; on the CPU the given ones.
    """
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in tensors.items()}
    starts, end = {}, 0
    for name, tensor in tensors.items():
        starts[name] = end
        end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    packed = torch.empty(end, dtype=torch.uint8, pin_memory=True)

    def place(buffer: Tensor, name: str) -> Tensor:
        tensor = tensors[name]
        piece = buffer[starts[name] : starts[name] + tensor.nbytes]
        return piece.view(tensor.dtype).view(tensor.shape)

    for name, tensor in tensors.items():
        place(packed, name).copy_(tensor)
    moved = packed.to(device, non_blocking=True)
    return {name: place(moved, name) for name in tensors}


class SideStream:
    """A second queue of the device, on which the next batch is made while the training step still runs.

    One for all iterators over the same data, because torch keeps the freed memory of each stream separate.
    Without CUDA batches are passed through unchanged.

    Args:
        device: Where batches are created.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        in_use = device.type == "cuda" and torch.cuda.is_available()
        self._stream = torch.cuda.Stream(device) if in_use else None

    def ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches. They are created on this queue; the stream that uses them waits for it."""
        if self._stream is None:
            yield from batches
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        done: deque[torch.cuda.Event] = deque()
        while True:
            with torch.cuda.stream(self._stream):
                batch = next(batches, None)
            if batch is None:
                return
            user = torch.cuda.current_stream(self._device)
            user.wait_stream(self._stream)
            for tensor in (batch.images, batch.indices, *batch.targets.values(), *batch.valid.values()):
                tensor.record_stream(user)
            yield batch
            done.append(torch.cuda.current_stream(self._device).record_event())
            if len(done) > _MOST_AHEAD:
                done.popleft().synchronize()
