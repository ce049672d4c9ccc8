"""A decoder from a user tells which rule it breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from dtme_search.guards import Guard, shape_or_type
from dtme_search.models.backbone import BackboneInfo
from dtme_search.models.decoders.base import DecoderContext, DecoderKind, Level, Predictions


def guarded_decoder(kind: DecoderKind, part: str) -> DecoderKind:
    """The same kind; it and its modules tell which rule of :class:`Decoder` they break."""
    guard = Guard(part)

    def build(context: DecoderContext, options: Any) -> nn.Module:
        with guard.calling("build"):
            made = kind.build(context, options)
        guard.hold(isinstance(made, nn.Module), "build", f"give a module, got {type(made).__name__}")
        return GuardedDecoder(made, context, guard)

    def check(info: BackboneInfo, channels: int | None, options: Any) -> None:
        with guard.calling("check"):
            kind.check(info, channels, options)

    return replace(kind, build=build, check=check)


class GuardedDecoder(nn.Module):
    """A decoder from a user, and its rules.

    Args:
        decoder: The decoder.
        context: What it was built for.
        guard: Names it.
    """

    def __init__(self, decoder: nn.Module, context: DecoderContext, guard: Guard) -> None:
        super().__init__()
        self.decoder = decoder
        self.mixes_tasks = getattr(decoder, "mixes_tasks", True)
        self._channels = {name: spec.channels for name, spec in context.specs.items()}
        self._size, self._guard = context.image_size, guard

    def forward(self, levels: Sequence[Level], tasks: Sequence[str]) -> Predictions:
        """See :class:`Decoder`."""
        with self._guard.calling("forward"):
            found: Predictions = self.decoder(levels, tasks)
        hold = self._guard.hold
        hold(isinstance(found, Predictions), "forward", f"give Predictions, got {type(found).__name__}")
        names = list(found.outputs)
        hold(set(names) == set(tasks), "forward", f"predict {list(tasks)}, no more and no less, got {names}")
        num_images = levels[0].maps.shape[1]
        for task, output in found.outputs.items():
            shape = (num_images, self._channels[task], *self._size)
            got = shape_or_type(output, Tensor)
            hold(got == shape, "forward", f"give (B, C, H, W) = {shape} for {task}, got {got}")
        for task, further in found.auxiliary.items():
            hold(task in names, "forward", f"give auxiliary outputs of {names} only, got {task}")
            for output in further:
                fits = output.dim() == 4 and output.shape[1] == self._channels[task]
                rule = f"give auxiliary outputs of {self._channels[task]} channels for {task}"
                hold(fits, "forward", f"{rule}, got {tuple(output.shape)}")
        return found
