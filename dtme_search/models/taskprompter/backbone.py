"""A plain ViT extended to carry one prompt per task; its pretrained weights stay usable.

Shapes: B images, T prompts, L patches, P embedding dim, (H, W) image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from dtme_search.errors import ConfigError
from dtme_search.models.backbone import Backbone
from dtme_search.models.seeding import seeded
from dtme_search.models.taskprompter.blocks import PromptBlock

_PARTS_OF_A_BLOCK = ("norm1", "attn.qkv", "attn.q_norm", "ls1", "norm2", "mlp", "ls2")


class PromptedBackbone(Backbone):
    """A ViT whose tokens are the prompts of the tasks, then the patches; it has no class token.

    Args:
        plain: The ViT, with its weights; it is modified. Class and register tokens and their positions are
            dropped.
        tasks: Each gets a prompt, in this order.
        decoded: Number of the block -> windows per side, for decoded blocks; blocks count from 1.
        seed: Seed of the new weights. A prompt starts the same, whichever other tasks there are.
    """

    def __init__(self, plain: Backbone, tasks: Sequence[str], decoded: dict[int, int], seed: int) -> None:
        vit, info = plain.vit, plain.info
        _check_blocks(vit.blocks[0])
        plain.drop_prefix_tokens()
        blocks = []
        with seeded(seed, "prompts"):
            for number, block in enumerate(vit.blocks, start=1):
                windows, last = decoded.get(number), number == info.num_layers
                blocks.append(PromptBlock(block, info.grid, len(tasks), num_windows=windows, last=last))
        vit.blocks = nn.Sequential(*blocks)
        super().__init__(vit, replace(info, num_prefix_tokens=len(tasks), has_class_token=False))
        self.prompts = nn.Parameter(torch.stack([_prompt(task, info.embed_dim, seed) for task in tasks]))

    @property
    def first_shared_token(self) -> int:
        """Prompts belong to their tasks; only patches are shared."""
        return len(self.prompts)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to tokens (B, T + L, P): prompts, which have no position, then patches.

        Raises:
            ValueError: If the size of the images differs from that of the model.
        """
        size = tuple(side * self.info.patch_size for side in self.info.grid)
        if tuple(images.shape[-2:]) != size:
            raise ValueError(
                f"TaskPrompter is bound to the image size {size} it was built for, "
                f"got images of {tuple(images.shape[-2:])}. Build it for their size."
            )
        patches_BLP = self.embed_patches(images)
        prompts_BTP = self.prompts.to(patches_BLP.dtype).expand(images.shape[0], -1, -1)
        return torch.cat((prompts_BTP, patches_BLP), dim=1)


def _prompt(task: str, embed_dim: int, seed: int) -> Tensor:
    """N(1, 1), truncated at -2 and 2."""
    with seeded(seed, f"prompt/{task}"):
        return nn.init.trunc_normal_(torch.empty(embed_dim), mean=1.0, std=1.0, a=-2.0, b=2.0)


def _check_blocks(block: nn.Module) -> None:
    for part in _PARTS_OF_A_BLOCK:
        try:
            block.get_submodule(part)
        except AttributeError:
            raise ConfigError(
                f"model.architecture: taskprompter needs blocks with {part}, which model.backbone lacks "
                f"({type(block).__name__}). Choose a ViT, DeiT or DINOv2 of timm."
            ) from None
