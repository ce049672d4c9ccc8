"""Transformer blocks that carry task prompts beside the patches, and how the prompts score the patches.

Shapes: N sequences (streams times images), T prompts, L patches, M task tokens, K = T + L + M tokens,
P embedding dim, H attention heads, W windows a side, (h, w) token grid. A sequence holds prompts, then
patches row by row, then task tokens; there is no class token.

Source: TaskPrompter, Ye & Xu, ICLR 2023 (ViT variant). That raw scores are computed beside the attention, so
that every block can use fused attention, is ours.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dtme_search.models.operations.lora import map_partly
from dtme_search.models.streams import SharedDropPath

Scores = tuple[Tensor, Tensor, Tensor]
"""How the prompts score what a block sees: raw products, neither scaled nor normalised. Each prompt against
each patch, (N, T, H, L), and against each prompt, (N, T, H, T), per attention head; and against the channels
of each window, (N, T, P, W, W)."""


class PromptBlock(nn.Module):
    """A ViT block in which prompts also learn from where they would look.

    Norms, attention and MLP of the ViT serve prompts and patches alike. Beside the attention a prompt is
    mapped to one value per patch (``to_positions``, Linear_a of the paper) and back (``to_channels``,
    Linear_b), which is added to its update. Both maps hold the number of patches, so the model is bound to
    its image size.

    Args:
        block: Block of a timm ViT: norm1, attn, norm2, mlp. Its stochastic depth is drawn apart for prompts
            and patches.
        grid: (h, w).
        num_prompts: T.
        num_windows: W where the block is decoded; ``None`` where it is not.
        last: Prompts that leave the last block are read by nothing, so it has no ``to_channels``. The
            original keeps that dead map.
    """

    block: Any

    def __init__(
        self,
        block: nn.Module,
        grid: tuple[int, int],
        num_prompts: int,
        *,
        num_windows: int | None,
        last: bool,
    ) -> None:
        super().__init__()
        self.block = block
        self.grid = grid
        self.num_prompts = num_prompts
        self.num_windows = num_windows
        num_patches, embed_dim = grid[0] * grid[1], self.block.attn.qkv.weight.shape[1]
        self.to_positions = _linear(embed_dim, num_patches)
        self.to_channels = None if last else _linear(num_patches, embed_dim)
        for name in ("drop_path1", "drop_path2"):
            if isinstance(shared := getattr(block, name), SharedDropPath):
                setattr(block, name, PromptDropPath(shared, num_prompts))

    def forward(self, tokens_NKP: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the block: (N, K, P) -> (N, K, P), and :data:`Scores` beside it where it is decoded."""
        block = self.block
        normed_NKP = block.norm1(tokens_NKP)
        positions_NTL = self.to_positions(normed_NKP[:, : self.num_prompts])
        update_NKP = block.attn(normed_NKP)
        if self.to_channels is not None:
            update_NKP[:, : self.num_prompts] += self.to_channels(positions_NTL)
        tokens_NKP = tokens_NKP + block.drop_path1(block.ls1(update_NKP))
        tokens_NKP = tokens_NKP + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens_NKP))))
        if self.num_windows is None:
            return tokens_NKP
        return tokens_NKP, *self._scores(normed_NKP, positions_NTL, self.num_windows)

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile attention and MLP. Blocks differ (decoded, last, dropped), and torch keeps few variants."""
        self.block.attn.compile(*arguments, **options)
        self.block.mlp.compile(*arguments, **options)

    def _scores(self, normed_NKP: Tensor, positions_NTL: Tensor, num_windows: int) -> Scores:
        num_prompts, num_patches = positions_NTL.shape[1:]
        seen_NKP = normed_NKP[:, : num_prompts + num_patches]
        spatial_NTHK = self._spatial_scores(seen_NKP[:, :num_prompts], seen_NKP)
        prompts_NTHT, patches_NTHL = spatial_NTHK.split((num_prompts, num_patches), dim=-1)
        (height, width), patches_NLP = self.grid, seen_NKP[:, num_prompts:]
        windows = (num_windows, height // num_windows, num_windows, width // num_windows)
        channels_NTPWW = torch.einsum(
            "ntihjw,nihjwp->ntpij", positions_NTL.unflatten(-1, windows), patches_NLP.unflatten(1, windows)
        )
        return patches_NTHL, prompts_NTHT, channels_NTPWW

    def _spatial_scores(self, prompts_NTP: Tensor, seen_NKP: Tensor) -> Tensor:
        """Queries of the prompts times keys of prompts and patches, (N, T, H, T + L)."""
        attn = self.block.attn
        width = attn.qkv.out_features // 3
        queries = map_partly(attn.qkv, prompts_NTP, slice(0, width))
        keys = map_partly(attn.qkv, seen_NKP, slice(width, 2 * width))
        queries_NTHp = attn.q_norm(queries.unflatten(-1, (attn.num_heads, -1)))
        keys_NKHp = attn.k_norm(keys.unflatten(-1, (attn.num_heads, -1)))
        return torch.einsum("nthp,nkhp->nthk", queries_NTHp, keys_NKHp)


class PromptDropPath(nn.Module):
    """Stochastic depth with one draw for the prompts of an image and one for its patches.

    Args:
        patches: Stochastic depth of the plain block.
        num_prompts: T.
    """

    def __init__(self, patches: SharedDropPath, num_prompts: int) -> None:
        super().__init__()
        self.num_prompts = num_prompts
        self.patches = patches
        self.prompts = SharedDropPath(patches.drop_prob)

    def forward(self, branch_NKP: Tensor) -> Tensor:
        """Drop the branch of prompts and of patches; task tokens, which end here, go with the patches."""
        if not self.training:
            return branch_NKP
        prompts_NTP, patches_NLP = branch_NKP[:, : self.num_prompts], branch_NKP[:, self.num_prompts :]
        return torch.cat((self.prompts(prompts_NTP), self.patches(patches_NLP)), dim=1)


def windows_per_side(channel_heads: int, grid: tuple[int, int]) -> int | None:
    """W for a number of channel heads; ``None`` where the grid cannot be cut into as many equal windows.

    Example:
        >>> windows_per_side(16, (28, 36)), windows_per_side(16, (14, 18)), windows_per_side(8, (28, 36))
        (4, None, None)
    """
    root = math.isqrt(max(channel_heads, 0))
    fits = root > 0 and root**2 == channel_heads and not any(side % root for side in grid)
    return root if fits else None


def _linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear
