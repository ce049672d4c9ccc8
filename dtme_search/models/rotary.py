"""Rotary positions in every block, even if task tokens come after the patches.

EVA (arXiv 2303.11331) and DINOv3 (arXiv 2508.10104) rotate queries and keys by the position of their patch.
Class and register tokens, which come first, have no position, and neither have task tokens [ours]: they are
not rotated.

Shapes: N images times streams, L tokens, P embedding dim, h heads, E twice the width of a head (sines, then
cosines).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def give_rotary_positions(vit: Any) -> None:
    """Let each block get the positions of its tokens itself, so that it is called with tokens only.

    A model without rotary positions does not change.
    """
    if getattr(vit, "rope", None) is None:
        return
    for number, block in enumerate(vit.blocks):
        block.register_forward_pre_hook(_Positions(vit, number), with_kwargs=True)


class _Positions:
    """Gives a block its positions, unless the caller passes some."""

    def __init__(self, vit: Any, number: int) -> None:
        self.rope: Any = vit.rope
        self.grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)
        self.num_prefix: int = vit.num_prefix_tokens
        self.number = number if getattr(vit, "rope_mixed", False) else None

    def __call__(
        self, _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if kwargs.get("rope") is not None:
            return args, kwargs
        has_grid = hasattr(self.rope, "feat_shape")
        positions = self.rope.get_embed() if has_grid else self.rope.get_embed(shape=self.grid)
        if self.number is not None:
            positions = positions[self.number]
        tokens_NLP: Tensor = args[0]
        num_more = tokens_NLP.shape[1] - self.num_prefix - positions.shape[-2]
        return args, {**kwargs, "rope": _with_unturned(positions, num_more) if num_more else positions}


def _with_unturned(positions: Tensor, num_more: int) -> Tensor:
    """Positions (..., L, E), followed by ``num_more`` that rotate nothing: sine 0, cosine 1."""
    shape = (*positions.shape[:-2], num_more, positions.shape[-1] // 2)
    unturned = torch.cat((positions.new_zeros(shape), positions.new_ones(shape)), dim=-1)
    return torch.cat((positions, unturned), dim=-2)
