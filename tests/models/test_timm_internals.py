"""Each private name of timm still does what this package needs it for."""

from __future__ import annotations

import pytest
import torch

from dtme_search.models.timm_internals import with_positions

SMALL = {"depth": 1, "embed_dim": 24, "num_heads": 2, "patch_size": 8, "img_size": (16, 24), "num_classes": 0}
ROTARY = {"class_token": True, "use_rot_pos_emb": True, "use_abs_pos_emb": True}


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("kind", ["VisionTransformer", "Eva"])
def test_positions_come_with_prefix_tokens_before_the_patches(kind, registers):
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    if kind == "Eva":
        vit = Eva(**SMALL, **ROTARY, num_reg_tokens=registers)
    else:
        vit = VisionTransformer(**SMALL, reg_tokens=registers)
    patches = vit.patch_embed(torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)))
    tokens = with_positions(vit, patches)
    assert tokens.shape == (2, vit.num_prefix_tokens + 6, 24) and vit.num_prefix_tokens == 1 + registers
    added = tokens[:, vit.num_prefix_tokens :] - patches
    torch.testing.assert_close(added, vit.pos_embed[:, -6:].expand(2, -1, -1))
    # The same for every image.
    prefix = tokens[:, : vit.num_prefix_tokens]
    torch.testing.assert_close(prefix[0], prefix[1])
