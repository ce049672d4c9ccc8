"""From prompted maps of four levels to predictions: every task reads the patches through its own prompt.

Shapes: B images, P embedding dim, H attention heads, W windows a side, T tasks that are decoded, E and F
widths, C output channels, (h, w) token grid.

Source: TaskPrompter, Ye & Xu, ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


@dataclass(frozen=True)
class PromptedMap:
    """What one task reads at one level: all of it from its own stream.

    Attributes:
        patches: Patches that leave the block, as a map (B, P, h, w).
        spatial: Its prompt against the patches, (B, H, h, w).
        prompts: Its prompt against the prompts of all tasks of the model, (B, H, number of those).
        channels: Its prompt against the channels of each window, (B, P, W, W).
    """

    patches: Tensor
    spatial: Tensor
    prompts: Tensor
    channels: Tensor


class TaskFeature(nn.Module):
    """Feature of one task at one level from its prompted map.

    Args:
        embed_dim: P.
        branch_channels: E, width of the spatial and of the channel branch.
        channels: F, width of the feature.
    """

    def __init__(self, embed_dim: int, branch_channels: int, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(embed_dim, branch_channels, kernel_size=1)
        self.channel = nn.Conv2d(embed_dim, branch_channels, kernel_size=1)
        self.fuse = nn.Sequential(
            nn.Conv2d(2 * branch_channels, channels, kernel_size=1),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, kernel_size=1),
        )

    def forward(self, prompted: PromptedMap) -> Tensor:
        """Weigh the map by place and by channel, and join both: (B, F, h, w)."""
        spatial = self.spatial(_scaled_by_head(prompted.patches, prompted.spatial))
        channel = self.channel(_scaled_by_window(prompted.patches, prompted.channels))
        feature: Tensor = self.fuse(torch.cat((spatial, channel), dim=1))
        return feature


def _scaled_by_head(map_BPhw: Tensor, scores_BHhw: Tensor) -> Tensor:
    """Attention head k weighs the k-th group of channels; the map itself is added."""
    grouped_BHphw = map_BPhw.unflatten(1, (scores_BHhw.shape[1], -1))
    return torch.addcmul(grouped_BHphw, grouped_BHphw, scores_BHhw[:, :, None]).flatten(1, 2)


def _scaled_by_window(map_BPhw: Tensor, scores_BPWW: Tensor) -> Tensor:
    """Each window's channels are weighed by its scores; the map itself is added."""
    num_windows, (height, width) = scores_BPWW.shape[-1], map_BPhw.shape[2:]
    windows = map_BPhw.reshape(
        *map_BPhw.shape[:2], num_windows, height // num_windows, num_windows, width // num_windows
    )
    return torch.addcmul(windows, windows, scores_BPWW[:, :, :, None, :, None]).reshape(map_BPhw.shape)


class Reweighting(nn.Module):
    """Cross-task reweighting: how much of every task's feature a task takes, told by its prompt.

    Args:
        num_heads: H.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Conv2d(num_heads, num_heads, kernel_size=1), nn.GELU(), nn.Conv2d(num_heads, 1, kernel_size=1)
        )

    def forward(self, prompts_BHT: Tensor, features_TBFhw: Tensor) -> Tensor:
        """Weighted sum of the features, no softmax: (B, F, h, w)."""
        weights_BT = self.weigh(prompts_BHT[:, :, None])[:, 0, 0]
        return torch.einsum("bt,tbfhw->bfhw", weights_BT, features_TBFhw)


class LevelDecoder(nn.Module):
    """Features of all tasks at one level.

    Args:
        tasks: In the order of the prompts.
        embed_dim: P.
        branch_channels: E.
        channels: F.
        reweighting: H for cross-task reweighting, ``None`` for none.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        embed_dim: int,
        branch_channels: int,
        channels: int,
        reweighting: int | None,
    ) -> None:
        super().__init__()
        self.places = {task: place for place, task in enumerate(tasks)}
        self.features = nn.ModuleDict(
            {task: TaskFeature(embed_dim, branch_channels, channels) for task in tasks}
        )
        self.reweightings = (
            None if reweighting is None else nn.ModuleDict({task: Reweighting(reweighting) for task in tasks})
        )

    def forward(self, prompted: Mapping[str, PromptedMap]) -> dict[str, Tensor]:
        """Feature of each task that is named, (B, F, h, w); only these are exchanged."""
        features = {task: self.features[task](read) for task, read in prompted.items()}
        if self.reweightings is None:
            return features
        places = [self.places[task] for task in prompted]
        features_TBFhw = torch.stack(tuple(features.values()))
        return {
            task: self.reweightings[task](read.prompts[:, :, places], features_TBFhw)
            for task, read in prompted.items()
        }


class PrompterHead(nn.Module):
    """Summed feature to prediction: 3x3 conv, BN, GELU, 1x1 conv, bilinear.

    Args:
        channels: F.
        out_channels: C.
        image_size: (H, W) of the prediction.
        output_mean: Initial bias of the predictor, shape (C,) [ours]; PyTorch's default when ``None``.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        image_size: tuple[int, int],
        output_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.predictor = nn.Conv2d(channels, out_channels, kernel_size=1)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        if output_mean is not None:
            with torch.no_grad():
                _bias_of(self.predictor).copy_(output_mean)

    def forward(self, feature: Tensor) -> Tensor:
        """Predict at image size: (B, F, h, w) -> (B, C, H, W), float32 also under autocast."""
        finer = interpolate(feature, scale_factor=4, mode="bilinear", align_corners=False)
        finer = nn.functional.gelu(self.norm(self.conv(finer)))
        # bfloat16 resolves depth to centimetres only; this convolution is cheap enough for full precision.
        with torch.autocast(finer.device.type, enabled=False):
            output = self.predictor(finer.to(self.predictor.weight.dtype))
            return interpolate(output, size=self.image_size, mode="bilinear", align_corners=False)


class PrompterDecoder(nn.Module):
    """Decoder of all tasks: features at every level, exchanged between tasks, summed, and predicted from.

    Args:
        levels: One decoder for each level.
        heads: Per task its head, in the order of the prompts.
    """

    def __init__(self, levels: Sequence[LevelDecoder], heads: Mapping[str, PrompterHead]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.heads = nn.ModuleDict(heads)

    def forward(self, prompted: Sequence[Mapping[str, PromptedMap]]) -> dict[str, Tensor]:
        """Predict the tasks that the prompted maps name, the same ones at every level.

        Returns:
            Task -> raw outputs, (B, C, H, W).
        """
        features = [level(maps) for level, maps in zip(self.levels, prompted, strict=True)]
        return {task: self.heads[task](sum(one[task] for one in features)) for task in prompted[0]}


def _bias_of(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
