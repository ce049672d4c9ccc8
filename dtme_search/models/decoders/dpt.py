"""DPT heads: levels of a plain ViT reassembled into a pyramid and fused from coarse to fine.

Shapes: B images, P embedding dim, D width, C output channels, (h, w) token grid, (H, W) image.

Source: Ranftl et al., Vision Transformers for Dense Prediction, ICCV 2021, arXiv 2103.13413.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from dtme_search.config import NoOptions
from dtme_search.models.decoders.base import DecoderContext, Predictor, of_each_task, resize
from dtme_search.tasks import TaskSpec

WIDTH = 256
"""D of the paper."""
NUM_LEVELS = 4


class Reassemble(nn.Module):
    """One level as a map of the pyramid: 1x1 conv, resampling, 3x3 conv to D (Sec. 3).

    The paper's variant without a readout token: a decoder here gets patch tokens only.

    Args:
        in_channels: P.
        inner_channels: Width while resampling.
        channels: D.
        stage: 0 to 3; the map gets 4, 2, 1 and 1/2 times the size of the token grid.
    """

    def __init__(self, in_channels: int, inner_channels: int, channels: int, stage: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, inner_channels, kernel_size=1)
        self.resample = (
            nn.ConvTranspose2d(inner_channels, inner_channels, kernel_size=4, stride=4),
            nn.ConvTranspose2d(inner_channels, inner_channels, kernel_size=2, stride=2),
            nn.Identity(),
            nn.Conv2d(inner_channels, inner_channels, kernel_size=3, stride=2, padding=1),
        )[stage]
        self.conv = nn.Conv2d(inner_channels, channels, kernel_size=3, padding=1, bias=False)

    def forward(self, map_BPhw: Tensor) -> Tensor:
        """(B, P, h, w) to (B, D, h', w')."""
        reassembled: Tensor = self.conv(self.resample(self.project(map_BPhw)))
        return reassembled


class ResidualUnit(nn.Module):
    """Twice ReLU and 3x3 conv, without batch norm, inside a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.second = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Same shape."""
        return features + cast("Tensor", self.second(F.relu(self.first(F.relu(features)))))


class Fusion(nn.Module):
    """A map of the pyramid plus the fused coarser ones, enlarged and projected (Fig. 1, right)."""

    def __init__(self, channels: int, *, is_coarsest: bool) -> None:
        super().__init__()
        # The coarsest map is added to no other, so it needs no unit of its own before the addition.
        self.of_level = None if is_coarsest else ResidualUnit(channels)
        self.of_sum = ResidualUnit(channels)
        self.project = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, level: Tensor, coarser: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Features of the size of the next finer map."""
        if self.of_level is not None and coarser is not None:
            level = coarser + self.of_level(level)
        fused: Tensor = self.project(resize(self.of_sum(level), size))
        return fused


class DptDecoder(nn.Module):
    """Decode one task from four levels.

    Reassembling, fusion and widths (D = 256) are the paper's; resampling levels at 1/8, 1/4, 1/2 and 1 of P
    follows the heads for DINOv2. Ours: enlargement without aligned corners, as everywhere here, and the same
    final layers for every task, those of the paper's segmentation head (3x3 conv without bias, BN, ReLU, 1x1
    conv, bilinear) without its dropout, at twice the size of the finest map as there, but not above the
    image's.

    Args:
        in_channels: P.
        channels: D.
        out_channels: C of the task.
        image_size: (H, W) of the prediction.
        output_mean: Initial bias of the predictor, shape (C,); ``None`` means zeros.

    Raises:
        ValueError: If ``output_mean`` does not have shape (C,).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        image_size: tuple[int, int],
        output_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        stages = range(NUM_LEVELS)
        self.reassemble = nn.ModuleList(
            Reassemble(in_channels, max(1, in_channels >> (3 - stage)), channels, stage) for stage in stages
        )
        self.fuse = nn.ModuleList(Fusion(channels, is_coarsest=stage == NUM_LEVELS - 1) for stage in stages)
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.predictor = Predictor(channels, out_channels, output_mean)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Predict at image size.

        Args:
            maps: Four feature maps, each (B, P, h, w), from the first to the last level.

        Returns:
            Raw outputs, shape (B, C, H, W); float32 also under autocast.
        """
        pyramid = [reassemble(level) for reassemble, level in zip(self.reassemble, maps, strict=True)]
        largest = (
            min(2 * finest, side) for finest, side in zip(pyramid[0].shape[-2:], self.image_size, strict=True)
        )
        sizes = [tuple(largest), *(tuple(level.shape[-2:]) for level in pyramid[:-1])]
        fused: Tensor | None = None
        for fuse, level, size in list(zip(self.fuse, pyramid, sizes, strict=True))[::-1]:
            fused = fuse(level, fused, size)
        features = F.relu(self.norm(self.conv(fused)))
        return resize(self.predictor(features), self.image_size)


@of_each_task
def build_dpt(context: DecoderContext, spec: TaskSpec, _options: NoOptions) -> nn.Module:
    """A DPT head of one task."""
    return DptDecoder(
        in_channels=context.info.embed_dim,
        channels=context.channels or WIDTH,
        out_channels=spec.channels,
        image_size=context.image_size,
        output_mean=context.output_means.get(spec.name),
    )
