"""One stage of the InvPT decoder: attention among the tokens of all tasks, with scores passed on.

Shapes: B images, T active tasks, D width of the stage, (h, w) its grid, H heads, Q queries and K keys of
each task.

Source: InvPT, Ye & Xu, ECCV 2022, arXiv 2203.07997.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtme_search.models.decoders.base import resize

NUM_HEADS = 2
MLP_RATIO = 4
EPSILON = 1e-5
"""Epsilon of every LayerNorm in the decoder."""


class QueryConv(nn.Module):
    """Depthwise 3x3 conv of stride 2 and BN: the queries of one task, on half the grid of a stage."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels, channels, kernel_size=3, stride=2, padding=1, groups=channels, bias=False
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, h, w) to (B, D, h/2, w/2)."""
        queries: Tensor = self.norm(self.conv(maps))
        return queries


class CrossTaskAttention(nn.Module):
    """Attention of every task's queries to the keys of all tasks, with message passing.

    Keys and values are averages over squares of tokens, so that every stage has equally many and the scores
    of one stage fit the next. Scores are scaled by the full width D, not by that of a head.

    Args:
        channels: D.
        key_stride: Side of the squares in tokens.
        receives: Whether it receives scores from the previous stage.
    """

    def __init__(self, channels: int, key_stride: int, *, receives: bool) -> None:
        super().__init__()
        self.key_stride = key_stride
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels)
        self.fuse = nn.Conv2d(2 * NUM_HEADS, NUM_HEADS, kernel_size=1) if receives else None

    def forward(
        self, maps_BTDhw: Tensor, query_convs: Sequence[nn.Module], previous: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            maps_BTDhw: Normed tokens.
            query_convs: :class:`QueryConv` of each task.
            previous: Scores of the previous stage, (B, H, T, h/4, w/4, T * K).

        Returns:
            What is added to the tokens, (B, T, D, h, w), and the scores before the softmax, (B, H, T, h/2,
            w/2, T * K), which the next stage receives.
        """
        num_tasks, channels, height, width = maps_BTDhw.shape[1:]
        queries_BTDhw = torch.stack(
            [conv(maps) for conv, maps in zip(query_convs, maps_BTDhw.unbind(1), strict=True)], dim=1
        )
        pooled = F.avg_pool2d(maps_BTDhw.flatten(0, 1), self.key_stride)
        keys_BTKD = pooled.unflatten(0, (-1, num_tasks)).flatten(3).transpose(2, 3)
        queries_BTQD = queries_BTDhw.flatten(3).transpose(2, 3)

        query, key, value = (
            linear(tokens.flatten(1, 2)).unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2)
            for linear, tokens in (
                (self.query, queries_BTQD),
                (self.key, keys_BTKD),
                (self.value, keys_BTKD),
            )
        )
        grid = queries_BTDhw.shape[-2:]
        scores = (query @ key.transpose(-1, -2) * channels**-0.5).unflatten(2, (num_tasks, *grid))
        if self.fuse is not None and previous is not None:
            scores = self._with_message(scores, previous)
        attended_BHND = scores.flatten(2, 4).softmax(-1) @ value
        outputs_BND = self.project(attended_BHND.transpose(1, 2).flatten(2))
        outputs = outputs_BND.transpose(1, 2).unflatten(2, (num_tasks, *grid)).transpose(1, 2)
        enlarged = resize(outputs.flatten(0, 1), (height, width))
        return enlarged.unflatten(0, (-1, num_tasks)), scores

    def _with_message(self, scores: Tensor, previous: Tensor) -> Tensor:
        """Fuse own scores with those of the previous stage, enlarged to the grid of the queries."""
        assert self.fuse is not None
        num_images, num_heads, num_tasks, height, width, num_keys = scores.shape
        message = previous.flatten(0, 2).permute(0, 3, 1, 2)
        message = resize(message, (height, width)).permute(0, 2, 3, 1)
        message = message.reshape(num_images, num_heads, num_tasks * height * width, num_keys)
        fused: Tensor = self.fuse(torch.cat((scores.flatten(2, 4), message), dim=1)).unflatten(
            2, (num_tasks, height, width)
        )
        return fused


class Stage(nn.Module):
    """Pre-norm transformer block over the tokens of all active tasks.

    Args:
        channels: D.
        key_stride: See :class:`CrossTaskAttention`.
        receives: Whether it receives scores from the previous stage.
    """

    def __init__(self, channels: int, key_stride: int, *, receives: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=EPSILON)
        self.attention = CrossTaskAttention(channels, key_stride, receives=receives)
        self.norm2 = nn.LayerNorm(channels, eps=EPSILON)
        self.mlp = nn.Sequential(
            nn.Linear(channels, MLP_RATIO * channels), nn.GELU(), nn.Linear(MLP_RATIO * channels, channels)
        )

    def forward(
        self, maps_BTDhw: Tensor, query_convs: Sequence[nn.Module], previous: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, D, h, w) of the same shape, and the scores that the next stage receives."""
        normed = self.norm1(maps_BTDhw.movedim(2, -1)).movedim(-1, 2)
        attended, scores = self.attention(normed, query_convs, previous)
        tokens = (maps_BTDhw + attended).movedim(2, -1)
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens.movedim(-1, 2), scores
