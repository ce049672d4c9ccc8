"""From prompted maps of four levels to predictions: every task reads the patches through its own prompt.

Shapes: S streams, B images, P embedding dim, H attention heads, W windows a side, T prompts, A tasks that are
decoded, E and F widths, C output channels, (h, w) token grid.

Source: TaskPrompter, Ye & Xu, ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from dtme_search.models.decoders import Level, Predictions, Predictor, resize
from dtme_search.models.task_modules import TaskModules


@dataclass(frozen=True)
class PromptedMap:
    """What one task reads at one level, all from its own stream.

    Attributes:
        patches: Patches after the block, as a map (B, P, h, w).
        spatial: Its prompt against the patches, (B, H, h, w).
        prompts: Its prompt against the prompts of all tasks of the model, (B, H, T).
        channels: Its prompt against the channels of each window, (B, P, W, W).
    """

    patches: Tensor
    spatial: Tensor
    prompts: Tensor
    channels: Tensor

    @classmethod
    def of(cls, task: str, prompt: int, level: Level) -> PromptedMap:
        """Read the row of a task's prompt in the scores of its stream."""
        patches_BPhw = level.of(task)
        stream = next(index for index, tasks in enumerate(level.streams) if task in tasks)
        spatial_BHL, prompts_BHT, channels_BPWW = (scores[stream, :, prompt] for scores in level.beside)
        return cls(
            patches_BPhw, spatial_BHL.unflatten(-1, patches_BPhw.shape[2:]), prompts_BHT, channels_BPWW
        )


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
        """Weight the map by place and by channel, and join both: (B, F, h, w)."""
        spatial = self.spatial(_weighed_by_head(prompted.patches, prompted.spatial))
        channel = self.channel(_weighed_by_window(prompted.patches, prompted.channels))
        feature: Tensor = self.fuse(torch.cat((spatial, channel), dim=1))
        return feature


def _weighed_by_head(map_BPhw: Tensor, scores_BHhw: Tensor) -> Tensor:
    """Attention head k weights the k-th group of channels; the map itself is added."""
    grouped_BHphw = map_BPhw.unflatten(1, (scores_BHhw.shape[1], -1))
    return torch.addcmul(grouped_BHphw, grouped_BHphw, scores_BHhw[:, :, None]).flatten(1, 2)


def _weighed_by_window(map_BPhw: Tensor, scores_BPWW: Tensor) -> Tensor:
    """The scores of a window weight its channels; the map itself is added."""
    windows, (height, width) = scores_BPWW.shape[-1], map_BPhw.shape[2:]
    cut = map_BPhw.reshape(*map_BPhw.shape[:2], windows, height // windows, windows, width // windows)
    return torch.addcmul(cut, cut, scores_BPWW[:, :, :, None, :, None]).reshape(map_BPhw.shape)


class Reweighting(nn.Module):
    """Cross-task reweighting: how much a task takes of every task's feature, by how its prompt scores theirs.

    Args:
        num_heads: H.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Conv2d(num_heads, num_heads, kernel_size=1), nn.GELU(), nn.Conv2d(num_heads, 1, kernel_size=1)
        )

    def forward(self, prompts_BHA: Tensor, features_ABFhw: Tensor) -> Tensor:
        """Weighted sum of the features, no softmax: (B, F, h, w)."""
        weights_BA = self.weigh(prompts_BHA[:, :, None])[:, 0, 0]
        return torch.einsum("ba,abfhw->bfhw", weights_BA, features_ABFhw)


class LevelDecoder(nn.Module):
    """Features of all tasks at one level.

    Args:
        features: Per task, in the order of the prompts.
        reweightings: The same for cross-task reweighting; empty for none.
    """

    def __init__(self, features: Mapping[str, TaskFeature], reweightings: Mapping[str, Reweighting]) -> None:
        super().__init__()
        self.features = TaskModules(features)
        self.reweightings = TaskModules(reweightings)

    def forward(self, level: Level, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Feature of each of ``tasks``, (B, F, h, w); only these are exchanged."""
        prompt_of = {task: prompt for prompt, task in enumerate(self.features)}
        prompted = {task: PromptedMap.of(task, prompt_of[task], level) for task in tasks}
        features = {task: self.features[task](prompted[task]) for task in tasks}
        if not self.reweightings:
            return features
        active = [prompt_of[task] for task in tasks]
        features_ABFhw = torch.stack(tuple(features.values()))
        return {
            task: self.reweightings[task](prompted[task].prompts[:, :, active], features_ABFhw)
            for task in tasks
        }


class PrompterHead(nn.Module):
    """Summed feature to prediction: bilinear by 4, 3x3 conv, BN, GELU, 1x1 conv, bilinear.

    Args:
        channels: F.
        out_channels: C.
        image_size: (H, W) of the prediction.
        output_mean: Initial value of a regression output, shape (C,) [ours].
    """

    def __init__(
        self, channels: int, out_channels: int, image_size: tuple[int, int], output_mean: Tensor | None = None
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        self.norm = nn.BatchNorm2d(channels)
        self.predictor = Predictor(channels, out_channels, output_mean)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, F, h, w) -> raw outputs (B, C, H, W), float32 also under autocast."""
        height, width = feature.shape[2:]
        finer = gelu(self.norm(self.conv(resize(feature, (4 * height, 4 * width)))))
        return resize(self.predictor(finer), self.image_size)


class PrompterDecoder(nn.Module):
    """Decoder of all tasks: features at every level, exchanged between tasks, summed, then predictions.

    Args:
        levels: One decoder for each level.
        heads: Per task its head, in the order of the prompts.
    """

    def __init__(self, levels: Sequence[LevelDecoder], heads: Mapping[str, PrompterHead]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.heads = TaskModules(heads)

    def forward(self, levels: Sequence[Level], tasks: Sequence[str]) -> Predictions:
        """See :class:`~dtme_search.models.decoders.Decoder`; there is no auxiliary output."""
        features = [decode(level, tasks) for decode, level in zip(self.levels, levels, strict=True)]
        return Predictions({task: self.heads[task](sum(of[task] for of in features)) for task in tasks})
