"""The simple decoder of the DTME paper: 3x3 conv, BN, ReLU, 1x1 conv, bilinear.

Shapes: B images, P embedding dim, C output channels, (h, w) token grid, (H, W) image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtme_search.config import NoOptions
from dtme_search.models.decoders.base import DecoderContext, Predictor, of_each_task, resize
from dtme_search.tasks import TaskSpec


class SimpleDecoder(nn.Module):
    """Decode one task from one or several feature maps (arXiv 2507.07485v2, experimental set-up).

    The sequence of layers is the paper's; widths and initial weights are ours: the 3x3 convolution has no
    bias (BN follows), and weights start with PyTorch's defaults.

    Args:
        in_channels: Channels of all feature maps together.
        channels: Width between the two convolutions.
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
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.predictor = Predictor(channels, out_channels, output_mean)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Predict at image size.

        Args:
            maps: Feature maps, each (B, P, h, w).

        Returns:
            Raw outputs, shape (B, C, H, W); float32 also under autocast.
        """
        features = F.relu(self.norm(self.conv(torch.cat(tuple(maps), dim=1))))
        return resize(self.predictor(features), self.image_size)


@of_each_task
def build_simple(context: DecoderContext, spec: TaskSpec, _options: NoOptions) -> nn.Module:
    """A simple decoder of one task, by default as wide as the backbone."""
    return SimpleDecoder(
        in_channels=context.info.embed_dim * context.num_levels,
        channels=context.channels or context.info.embed_dim,
        out_channels=spec.channels,
        image_size=context.image_size,
        output_mean=context.output_means.get(spec.name),
    )
