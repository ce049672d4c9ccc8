"""The interface of every decoder: feature levels of the task streams in, predictions of the tasks out.

Shapes: S streams, B images, P embedding dim, C output channels, (h, w) token grid, (H, W) image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtme_search.config import NoOptions, Section
from dtme_search.models.backbone import BackboneInfo
from dtme_search.models.seeding import seeded
from dtme_search.models.streams import Streams
from dtme_search.models.task_modules import TaskModules
from dtme_search.tasks import TaskSpec


@dataclass(frozen=True)
class Level:
    """Feature maps after one block, one for each stream.

    Attributes:
        streams: Tasks of each stream.
        maps: Shape (S, B, P, h, w).
        beside: Further outputs of the block, each of shape (S, B, ...); most blocks have none.
        class_token: Shape (S, B, P), normed like the maps; at the last level only, and only if it is read.
    """

    streams: Streams
    maps: Tensor
    beside: tuple[Tensor, ...] = ()
    class_token: Tensor | None = None

    def of(self, task: str) -> Tensor:
        """Map of the stream that a task is in, shape (B, P, h, w)."""
        return self._by_task[task]

    def summary_of(self, task: str) -> Tensor:
        """What the stream of a task says about the whole image, as a map of one cell, (B, P, 1, 1): its class
        token, or the mean of its patches where no class token is read."""
        if self.class_token is None:
            return self.of(task).mean((2, 3), keepdim=True)
        stream = next(index for index, tasks in enumerate(self.streams) if task in tasks)
        return self.class_token[stream][:, :, None, None]

    def through(self, layer: Callable[[Tensor], Tensor]) -> Level:
        """The level behind a layer (N, P, h, w) -> (N, P', h', w') that all tasks share."""
        out = layer(self.maps.flatten(0, 1))
        return Level(self.streams, out.unflatten(0, self.maps.shape[:2]))

    @cached_property
    def _by_task(self) -> dict[str, Tensor]:
        each = zip(self.streams, self.maps.unbind(), strict=True)
        return {task: map_BPhw for stream, map_BPhw in each for task in stream}


@dataclass(frozen=True)
class Predictions:
    """Predictions for the requested tasks.

    Attributes:
        outputs: Task -> raw outputs, shape (B, C, H, W); (B, C, 1, 1) about whole images.
        auxiliary: Task -> further raw outputs of any size, (B, C, h', w'). In training each of them, enlarged
            to the image, adds the loss of its task once more; nothing else uses them.
    """

    outputs: dict[str, Tensor]
    auxiliary: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)


class Decoder(Protocol):
    """A decoder of all tasks: a module with this call signature.

    It may have an attribute ``mixes_tasks``: ``False`` promises that the outputs of a task depend on its own
    stream alone.
    """

    def __call__(self, levels: Sequence[Level], tasks: Sequence[str]) -> Predictions:
        """Predict ``tasks``, which are in the order of the model and occur in the streams of every level.

        Other tasks cost nothing. Only its own tasks read a stream.
        """


class PerTask(TaskModules):
    """Combines decoders of one task each, from lists of maps (B, P, h, w) to (B, C, H, W), into one."""

    mixes_tasks = False

    def forward(self, levels: Sequence[Level], tasks: Sequence[str]) -> Predictions:
        """See :class:`Decoder`."""
        return Predictions({task: self[task]([level.of(task) for level in levels]) for task in tasks})


@dataclass(frozen=True)
class DecoderContext:
    """What a decoder is built for.

    Attributes:
        specs: Tasks in the order of the model.
        info: The backbone.
        num_levels: Levels that it will get.
        channels: ``model.decoder_channels``; ``None`` means the decoder's own default.
        image_size: (H, W) of the predictions.
        output_means: Task -> training mean of its targets, shape (C,), as the initial output.
        seed: Seed of the initial weights. The weights of a task are drawn under ``decoder/<task>``, so that
            they start the same, whichever other tasks there are.
    """

    specs: Mapping[str, TaskSpec]
    info: BackboneInfo
    num_levels: int
    channels: int | None
    image_size: tuple[int, int]
    output_means: Mapping[str, Tensor]
    seed: int

    @property
    def of_dense_tasks(self) -> DecoderContext:
        """The same for the tasks with a label for every pixel."""
        specs = {name: spec for name, spec in self.specs.items() if not spec.of_image}
        means = {name: mean for name, mean in self.output_means.items() if name in specs}
        return replace(self, specs=specs, output_means=means)


def fits_everywhere(info: BackboneInfo, channels: int | None, options: Any) -> None:
    """Check of a decoder that works with any backbone, image size and width."""


@dataclass(frozen=True)
class DecoderKind:
    """Entry of the registry.

    Attributes:
        build: Returns the :class:`Decoder`, a module, from the context and the options.
        options: Section that checks ``model.decoder_options.<name>``.
        num_levels: 4 = the levels after each quarter of the blocks; ``None`` = as ``model.levels`` says.
        check: Called with the sizes of the backbone, ``model.decoder_channels`` and the options before
            anything is built; raises ``ConfigError`` if they do not fit.
    """

    build: Callable[[DecoderContext, Any], nn.Module]
    options: type[Section] = NoOptions
    num_levels: int | None = None
    check: Callable[[BackboneInfo, int | None, Any], None] = fits_everywhere


def of_each_task(
    build_one: Callable[[DecoderContext, TaskSpec, Any], nn.Module],
) -> Callable[[DecoderContext, Any], PerTask]:
    """``DecoderKind.build`` from a function that builds the decoder of one task.

    Args:
        build_one: Returns a module from a list of maps, each (B, P, h, w), to (B, C, H, W). Called under the
            seed of the task.
    """

    def build(context: DecoderContext, options: Any) -> PerTask:
        decoders: dict[str, nn.Module] = {}
        for name, spec in context.specs.items():
            with seeded(context.seed, f"decoder/{name}"):
                decoders[name] = build_one(context, spec, options)
        return PerTask(decoders)

    return build


class Predictor(nn.Conv2d):
    """1x1 convolution from features to the outputs of a task, in full precision even under autocast.

    The bias starts at the training mean of a regression target, so that training does not have to find the
    average first [ours]. Small weights, N(0, 0.01²) as in ATRC's head, start even closer but learn more
    slowly: after 150 steps on the built-in scenes (two seeds, four tasks, simple decoder) seven of eight
    losses were 2 to 5 % higher.

    Args:
        in_channels: Channels of the features.
        out_channels: C of the task.
        output_mean: Initial bias, shape (C,); ``None`` means zeros.

    Raises:
        ValueError: If ``output_mean`` does not have shape (C,).
    """

    def __init__(self, in_channels: int, out_channels: int, output_mean: Tensor | None = None) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)
        assert self.bias is not None
        nn.init.zeros_(self.bias)
        if output_mean is not None:
            if output_mean.shape != self.bias.shape:
                raise ValueError(
                    f"output_mean must have shape {tuple(self.bias.shape)}, got {tuple(output_mean.shape)}."
                )
            with torch.no_grad():
                self.bias.copy_(output_mean)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, D, h, w) to raw outputs (B, C, h, w)."""
        # bfloat16 resolves depth to centimetres only, and full precision is cheap for this convolution.
        # Autocast does not know the meta device, on which operations are counted.
        device = "cpu" if features.is_meta else features.device.type
        with torch.autocast(device, enabled=False):
            return super().forward(features.to(self.weight.dtype))


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (N, C, h, w) to ``size``, corners not aligned."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
