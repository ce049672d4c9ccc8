"""InvPT: preliminary decoders, then three stages in which the tokens of all tasks attend to each other.

Shapes: B images, P embedding dim, T active tasks, C output channels, (h, w) token grid, (H, W) image.
Widths: E of preliminary features, D0 = E + E' of the first stage, D0/2 and D0/4 of the next.

Source: InvPT, Ye & Xu, ECCV 2022, arXiv 2203.07997; what the text leaves open follows the authors' published
numbers. Layers of their model that affect no output are left out: 6,639,562 of 402,092,888 parameters of the
published NYUD model (a skip from the third level, and what belongs to it).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtme_search.config import Count, Section
from dtme_search.errors import ConfigError
from dtme_search.models.backbone import BackboneInfo
from dtme_search.models.decoders.base import DecoderContext, Level, Predictions, Predictor, resize
from dtme_search.models.decoders.invpt_stage import EPSILON, QueryConv, Stage
from dtme_search.models.seeding import seeded
from dtme_search.models.task_modules import TaskModules

WIDTH = 512
"""E of the paper."""
NUM_STAGES = 3


class InvPTOptions(Section):
    """Options of ``model.decoder: invpt``."""

    mixing_channels: Count | None = None
    """E': channels that mixing adds to those of a preliminary feature; an eighth of them when empty."""
    intermediate_supervision: bool = True
    """Train the preliminary predictions, too: each adds the loss of its task once more."""


class ConvBlock(nn.Sequential):
    """3x3 conv without bias, BN, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels, out_channels, kernel_size=3, padding=dilation, dilation=dilation, bias=False
            ),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )


class JointNorm(nn.Module):
    """Scale and shift of one task in the LayerNorm over the channels of all tasks together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))


class TaskBranch(nn.Module):
    """The parts that belong to one task.

    Args:
        in_channels: P.
        channels: E.
        widths: D0, D1 and D2.
        out_channels: C.
        output_mean: Initial output of both predictions, shape (C,).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        widths: Sequence[int],
        out_channels: int,
        output_mean: Tensor | None,
    ) -> None:
        super().__init__()
        first = widths[0]
        self.preliminary = nn.Sequential(
            ConvBlock(in_channels, in_channels), ConvBlock(in_channels, channels)
        )
        self.preliminary_predictor = Predictor(channels, out_channels, output_mean)
        self.mix = nn.Conv2d(channels + out_channels, first, kernel_size=1)
        self.up_embeds = nn.ModuleList(
            nn.Sequential(ConvBlock(before, width, dilation=2), ConvBlock(width, width, dilation=2))
            for before, width in pairwise(widths)
        )
        self.queries = nn.ModuleList(QueryConv(width) for width in widths)
        self.joint_norms = nn.ModuleList(JointNorm(width) for width in widths)
        self.reductions = nn.ModuleList(
            nn.Identity() if width == first else nn.Conv2d(width, first, kernel_size=1) for width in widths
        )
        self.conv = nn.Conv2d(first, first, kernel_size=3, padding=1)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        self.norm = nn.BatchNorm2d(first)
        self.predictor = Predictor(first, out_channels, output_mean)

    def begin(self, last_BPhw: Tensor) -> tuple[Tensor, Tensor]:
        """Preliminary prediction (B, C, h', w') and mixed tokens (B, D0, h', w') of the last level."""
        feature = self.preliminary(last_BPhw)
        prediction = self.preliminary_predictor(feature)
        return prediction, self.mix(torch.cat((feature, prediction), dim=1))

    def enlarge(self, stage: int, tokens: Tensor, skip: Tensor) -> Tensor:
        """Tokens of the previous stage, twice as large, plus the skip connection from a level."""
        height, width = tokens.shape[-2:]
        embedded: Tensor = self.up_embeds[stage - 1](resize(tokens, (2 * height, 2 * width)))
        return embedded + skip

    def end(self, aggregated: Tensor) -> Tensor:
        """Raw outputs from the sum over the stages."""
        prediction: Tensor = self.predictor(F.relu(self.norm(self.conv(aggregated))))
        return prediction


class InvPTDecoder(nn.Module):
    """Decode all tasks together; see :class:`~dtme_search.models.decoders.Decoder`.

    Tasks interact in the stages, so the outputs of a task depend on which others are active. The LayerNorm
    over the channels of all tasks covers the active ones [ours; the original always has all]. The skip
    connections from the first and the second level come from a task's own stream [ours].

    Args:
        branches: Task -> the parts that belong to it.
        in_channels: P.
        widths: D0, D1 and D2.
        image_size: (H, W) of the predictions.
        supervise: Whether preliminary predictions are returned as auxiliary outputs.
    """

    def __init__(
        self,
        branches: TaskModules,
        in_channels: int,
        widths: Sequence[int],
        image_size: tuple[int, int],
        *,
        supervise: bool,
    ) -> None:
        super().__init__()
        self.branches = branches
        self.image_size = image_size
        self.supervise = supervise
        self.skips = nn.ModuleList(
            (
                nn.Conv2d(in_channels, widths[1], kernel_size=3, padding=1),
                nn.ConvTranspose2d(
                    in_channels, widths[2], kernel_size=3, stride=2, padding=1, output_padding=1
                ),
            )
        )
        self.stages = nn.ModuleList(
            Stage(width, key_stride=2 << index, receives=index > 0) for index, width in enumerate(widths)
        )
        for module in self.stages.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, levels: Sequence[Level], tasks: Sequence[str]) -> Predictions:
        """See :class:`~dtme_search.models.decoders.Decoder`."""
        branches = [cast("TaskBranch", self.branches[task]) for task in tasks]
        first, second, _, last = levels
        height, width = last.maps.shape[-2:]
        last = last.through(lambda maps: resize(maps, (height // 2, width // 2)))
        begun = [branch.begin(last.of(task)) for branch, task in zip(branches, tasks, strict=True)]
        preliminary, tokens = zip(*begun, strict=True)
        skips = [level.through(skip) for level, skip in zip((second, first), self.skips, strict=True)]

        aggregated = self._through_stages(branches, tasks, torch.stack(tokens, dim=1), skips)
        outputs = {
            task: resize(branch.end(feature), self.image_size)
            for task, branch, feature in zip(tasks, branches, aggregated, strict=True)
        }
        return Predictions(
            outputs,
            {task: (one,) for task, one in zip(tasks, preliminary, strict=True)} if self.supervise else {},
        )

    def _through_stages(
        self,
        branches: Sequence[TaskBranch],
        tasks: Sequence[str],
        tokens_BTDhw: Tensor,
        skips: Sequence[Level],
    ) -> list[Tensor]:
        """Sum over the stages of each task's tokens, (B, D0, 4h, 4w)."""
        height, width = tokens_BTDhw.shape[-2:]
        size = (height << NUM_STAGES, width << NUM_STAGES)
        scores: Tensor | None = None
        sums: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            if index > 0:
                enlarged = [
                    branch.enlarge(index, tokens, skips[index - 1].of(task))
                    for branch, task, tokens in zip(branches, tasks, tokens_BTDhw.unbind(1), strict=True)
                ]
                tokens_BTDhw = torch.stack(enlarged, dim=1)
            queries = [branch.queries[index] for branch in branches]
            tokens_BTDhw, scores = stage(tokens_BTDhw, queries, scores)
            normed = _jointly_normed(tokens_BTDhw, [branch.joint_norms[index] for branch in branches])
            reduced = [
                resize(branch.reductions[index](one), size)
                for branch, one in zip(branches, normed.unbind(1), strict=True)
            ]
            sums = [one + more for one, more in zip(sums, reduced, strict=True)] if sums else reduced
        return sums


def _jointly_normed(tokens_BTDhw: Tensor, norms: Sequence[nn.Module]) -> Tensor:
    """LayerNorm over the channels of all tasks together."""
    weight_TD, bias_TD = (
        torch.stack([cast("Tensor", getattr(norm, name)) for norm in norms]) for name in ("weight", "bias")
    )
    tokens_BhwTD = tokens_BTDhw.permute(0, 3, 4, 1, 2)
    normed = F.layer_norm(tokens_BhwTD, tuple(weight_TD.shape), weight_TD, bias_TD, EPSILON)
    return normed.permute(0, 3, 4, 1, 2)


def build_invpt(context: DecoderContext, options: InvPTOptions) -> InvPTDecoder:
    """InvPT's decoder, by default with the published width."""
    channels, widths = _widths(context.channels, options)
    branches: dict[str, nn.Module] = {}
    for name, spec in context.specs.items():
        with seeded(context.seed, f"decoder/{name}"):
            branches[name] = TaskBranch(
                context.info.embed_dim, channels, widths, spec.channels, context.output_means.get(name)
            )
    with seeded(context.seed, "decoder"):
        return InvPTDecoder(
            TaskModules(branches),
            context.info.embed_dim,
            widths,
            context.image_size,
            supervise=options.intermediate_supervision,
        )


def check_invpt(info: BackboneInfo, channels: int | None, options: InvPTOptions) -> None:
    """Check sizes: each stage halves the grid of the next one, and heads share its width.

    Raises:
        ConfigError: If the token grid is not a multiple of 4, or a width cannot be split.
    """
    _, widths = _widths(channels, options)
    if widths[0] % 8:
        raise ConfigError(
            "model.decoder invpt: model.decoder_channels and mixing_channels must add up to a multiple of 8, "
            f"got {widths[0]}. Set model.decoder_channels to a multiple of 64, or mixing_channels as well."
        )
    if any(side % 4 for side in info.grid):
        step = 4 * info.patch_size
        size = [side * info.patch_size for side in info.grid]
        nearest = [sorted({max(step, side // step * step), -(-side // step) * step}) for side in size]
        sizes = [[height, width] for height in nearest[0] for width in nearest[1]]
        raise ConfigError(
            f"data.image_size must be a multiple of {step} (4 patches) for model.decoder invpt, got {size}. "
            f"The nearest sizes that work are {', '.join(map(str, sizes))}."
        )


def _widths(channels: int | None, options: InvPTOptions) -> tuple[int, tuple[int, ...]]:
    """E, and D0 to D2."""
    channels = channels or WIDTH
    mixing = channels // 8 if options.mixing_channels is None else options.mixing_channels
    return channels, tuple((channels + mixing) >> index for index in range(NUM_STAGES))
