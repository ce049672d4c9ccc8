"""Rules of backbones."""

from __future__ import annotations

from typing import Any

import torch

from dtme_search.guards import Guard
from dtme_search.models.own_backbone import (
    BackboneKind,
    BackboneSetting,
    OwnBackbone,
    described,
    own_backbone,
)
from dtme_search.testing.networks import hold_all_reached, same_weights
from dtme_search.testing.words import words_of


def check_backbone(
    kind: BackboneKind, options: Any = None, *, name: str = "", image_size: tuple[int, int] = (64, 96)
) -> None:
    """Check a backbone on random images, and on PyTorch's meta device.

    Args:
        kind: The backbone.
        options: Its options; by default their defaults.
        name: For messages.
        image_size: (H, W), multiples of the patch size.

    Raises:
        BrokenRule: Names the first rule that is broken.
        ConfigError: If the image size is not a multiple of the patch size.
    """
    guard = Guard(words_of("backbones", name))
    setting = BackboneSetting(image_size, 0.0, kind.options() if options is None else options)
    info = described(kind, guard.part, setting, name)
    backbone = own_backbone(kind, guard.part, setting, 3, name)
    same = own_backbone(kind, guard.part, setting, 3, name)
    guard.hold(same_weights(backbone, same), "build", "give the same weights again for the same random state")
    guard.hold(info == backbone.info, "build", f"give the same sizes on the meta device, got {info}")
    images = torch.randn(2, 3, *image_size, generator=torch.Generator().manual_seed(0))
    backbone.eval()
    both = _features(backbone, images)
    guard.hold(bool(both.isfinite().all()), "norm", "give finite numbers")
    alone = _features(backbone, images[:1])
    rule = "treat each image by itself: next to another one it gives something else"
    guard.hold(torch.allclose(both[:1], alone, rtol=1e-4, atol=1e-5), "embed and blocks", rule)
    # Weighted at random, because the plain mean behind a norm has no gradient.
    (both * torch.randn(both.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    hold_all_reached(backbone.vit, "embed and blocks", guard)


def _features(backbone: OwnBackbone, images: torch.Tensor) -> torch.Tensor:
    tokens = backbone.embed(images)
    for block in backbone.blocks:
        tokens = block(tokens)
    return backbone.norm(tokens)
