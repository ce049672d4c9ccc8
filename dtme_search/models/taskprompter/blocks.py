"""Transformer blocks that carry task prompts beside the patches, and how the prompts score the patches.

Shapes: N sequences (streams times images), L patches, T prompts, M further task tokens, K = L + T + M tokens,
P embedding dim, H attention heads, W windows a side, (h, w) token grid. A sequence holds patches row by row,
then prompts, then task tokens; there is no class token.

Source: TaskPrompter, Ye & Xu, ICLR 2023 (ViT variant). Where the tokens lie, and that scores are computed
from the input of a block beside its own attention, is ours: so every block can use fused attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class TaskPrompts(nn.Module):
    """One learnable prompt per task, without position; starts at N(1, 1) cut off at -2 and 2.

    Args:
        num_prompts: T.
        embed_dim: P.
    """

    def __init__(self, num_prompts: int, embed_dim: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(num_prompts, embed_dim))
        nn.init.trunc_normal_(self.tokens, mean=1.0, std=1.0, a=-2.0, b=2.0)

    def forward(self, patches_NLP: Tensor) -> Tensor:
        """Put the prompts behind the patches: (N, L, P) -> (N, L + T, P)."""
        prompts_NTP = self.tokens.to(patches_NLP.dtype).expand(len(patches_NLP), -1, -1)
        return torch.cat((patches_NLP, prompts_NTP), dim=1)


@dataclass(frozen=True)
class PromptScores:
    """How the prompts score what a block sees: raw products, neither scaled nor normalised.

    Attributes:
        patches: Each prompt against each patch, per attention head, (N, T, H, L).
        prompts: Each prompt against each prompt, (N, T, H, T).
        channels: Each prompt against the channels of each window, (N, T, P, W, W).
    """

    patches: Tensor
    prompts: Tensor
    channels: Tensor


class PromptBlock(nn.Module):
    """A ViT block in which prompts also learn from where they would look.

    Norms, attention and MLP of the ViT serve patches and prompts alike. Beside the attention a prompt is
    mapped to one value per patch (``to_positions``) and back (``to_channels``), which is added to its update.
    Both maps are new and hold the number of patches: the model is bound to its image size.

    Args:
        block: Block of a timm ViT.
        grid: (h, w).
        num_prompts: T.
        last: The prompts that leave the last block are read by nothing, so it has no ``to_channels``; the
            original keeps that dead map.
    """

    block: Any

    def __init__(self, block: nn.Module, grid: tuple[int, int], num_prompts: int, *, last: bool) -> None:
        super().__init__()
        self.block = block
        self.grid = grid
        self.num_prompts = num_prompts
        num_patches, embed_dim = grid[0] * grid[1], self.block.norm1.weight.shape[0]
        self.to_positions = _linear(embed_dim, num_patches)
        self.to_channels = None if last else _linear(num_patches, embed_dim)

    @property
    def num_patches(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]

    def forward(self, tokens_NKP: Tensor) -> Tensor:
        """Run the block: (N, K, P) -> (N, K, P)."""
        block = self.block
        normed_NKP = block.norm1(tokens_NKP)
        update_NKP = block.attn(normed_NKP)
        if self.to_channels is not None:
            prompts_NTP = self._prompts(normed_NKP)
            self._prompts(update_NKP).add_(self.to_channels(self.to_positions(prompts_NTP)))
        tokens_NKP = tokens_NKP + block.drop_path1(block.ls1(update_NKP))
        update_NKP = block.mlp(block.norm2(tokens_NKP))
        result: Tensor = tokens_NKP + block.drop_path2(block.ls2(update_NKP))
        return result

    def scores(self, tokens_NKP: Tensor, num_windows: int) -> PromptScores:
        """Scores of the prompts in the tokens that enter the block; further task tokens are not looked at.

        Args:
            tokens_NKP: What :meth:`forward` is given, (N, K, P).
            num_windows: W, windows a side for the channel scores; divides h and w.
        """
        normed_NKP = self.block.norm1(tokens_NKP[:, : self.num_patches + self.num_prompts])
        prompts_NTP = self._prompts(normed_NKP)
        spatial_NTHK = self._spatial_scores(prompts_NTP, normed_NKP)
        patches_NTHL, prompts_NTHT = spatial_NTHK.split((self.num_patches, self.num_prompts), dim=-1)
        return PromptScores(
            patches_NTHL,
            prompts_NTHT,
            self._channel_scores(prompts_NTP, normed_NKP[:, : self.num_patches], num_windows),
        )

    def _spatial_scores(self, prompts_NTP: Tensor, tokens_NKP: Tensor) -> Tensor:
        """Queries of the prompts times keys of all tokens."""
        attn = self.block.attn
        query_weight, key_weight, _ = attn.qkv.weight.chunk(3)
        query_bias, key_bias, _ = (None, None, None) if attn.qkv.bias is None else attn.qkv.bias.chunk(3)
        queries = nn.functional.linear(prompts_NTP, query_weight, query_bias)
        keys = nn.functional.linear(tokens_NKP, key_weight, key_bias)
        queries_NTHp = attn.q_norm(queries.unflatten(-1, (attn.num_heads, -1)))
        keys_NKHp = attn.k_norm(keys.unflatten(-1, (attn.num_heads, -1)))
        return torch.einsum("nthp,nkhp->nthk", queries_NTHp, keys_NKHp)

    def _channel_scores(self, prompts_NTP: Tensor, patches_NLP: Tensor, num_windows: int) -> Tensor:
        """Prompts as maps over the positions, times the patches, summed over each window."""
        height, width = self.grid
        windows = (num_windows, height // num_windows, num_windows, width // num_windows)
        maps_NTihjw = self.to_positions(prompts_NTP).unflatten(-1, windows)
        patches_NihjwP = patches_NLP.unflatten(1, windows)
        return torch.einsum("ntihjw,nihjwp->ntpij", maps_NTihjw, patches_NihjwP)

    def _prompts(self, tokens_NKP: Tensor) -> Tensor:
        return tokens_NKP[:, self.num_patches : self.num_patches + self.num_prompts]


def windows_per_side(channel_heads: int, grid: tuple[int, int]) -> int | None:
    """W for a number of channel heads; ``None`` where the grid cannot be cut into as many square parts.

    Example:
        >>> windows_per_side(16, (28, 36)), windows_per_side(16, (14, 18)), windows_per_side(8, (28, 36))
        (4, None, None)
    """
    root = math.isqrt(channel_heads)
    return root if root**2 == channel_heads and not any(side % root for side in grid) else None


def _linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear
