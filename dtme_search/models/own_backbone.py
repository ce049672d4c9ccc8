"""Backbones that users bring, as a sequence of blocks over one set of tokens like the plain ViTs of timm.

Shapes: B images, L tokens, P embedding dim, N = S * B for S streams, (h, w) token grid, (H, W) image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dtme_search.config import NoOptions, Section
from dtme_search.guards import Guard, shape_or_type
from dtme_search.models.backbone import Backbone, BackboneInfo, check_image_size
from dtme_search.models.operations.lora import sizes_of_linears
from dtme_search.models.seeding import seeded

_USUAL_SIZE = (224, 224)
_NUMBERS = {"patch_size": None, "num_prefix_tokens": 0, "num_heads": 1}
"""What a module has, and what it is where a module does not say."""


@dataclass(frozen=True)
class BackboneSetting:
    """What a backbone is built for.

    Attributes:
        image_size: (H, W).
        drop_path: ``model.drop_path``. A timm ``DropPath`` is replaced by one draw for all streams.
        options: Its own options, checked.
    """

    image_size: tuple[int, int]
    drop_path: float
    options: Any


@dataclass(frozen=True)
class BackboneKind:
    """Entry of the registry.

    Attributes:
        build: Gives a module with

            - ``embed(images)``: (B, 3, H, W) to tokens (B, L, P), prefix tokens first, then patches by rows;
            - ``blocks``: a ``ModuleList``, each from tokens (N, L, P) to tokens, for any number of tokens;
            - ``norm``: a module for tokens (..., P), applied to the output of the last block;
            - ``patch_size``: side of a patch in pixels, and where they are not 0 and 1 ``num_prefix_tokens``
              and ``num_heads``; ``has_class_token`` if the first token is one.

            Also called, as are its methods, on PyTorch's meta device, to learn the sizes.
        options: Section that checks ``model.backbone_options``.
    """

    build: Callable[[BackboneSetting], nn.Module]
    options: type[Section] = NoOptions


class OwnBackbone(Backbone):
    """A backbone from a user in the three steps that task streams need.

    Args:
        module: What ``build`` gave.
        info: Its sizes.
        guard: Names it.
    """

    def __init__(self, module: nn.Module, info: BackboneInfo, guard: Guard) -> None:
        super().__init__(module, info)
        self._guard = guard

    def embed(self, images: Tensor) -> Tensor:
        height, width = self.info.grid
        length = self.info.num_prefix_tokens + height * width
        return _tokens_of(self.vit, images, (len(images), length, self.info.embed_dim), self._guard)


def own_backbone(
    kind: BackboneKind, part: str, setting: BackboneSetting, seed: int, name: str = ""
) -> OwnBackbone:
    """Build a backbone on the default device and find out its sizes.

    Args:
        kind: The backbone.
        part: Names it in messages.
        setting: What it is built for.
        seed: Of its initial weights.
        name: ``model.backbone``, for messages about the image size.

    Raises:
        BrokenRule: Names the method and the rule.
        ConfigError: If the image size is not a multiple of the patch size.
    """
    guard = Guard(part)
    module, numbers = _built(kind, guard, setting, seed)
    patch_size, prefix = numbers["patch_size"], numbers["num_prefix_tokens"]
    check_image_size(setting.image_size, patch_size, name)
    height, width = (side // patch_size for side in setting.image_size)
    embed_dim = _probed(module, setting.image_size, prefix + height * width, guard)
    info = BackboneInfo(
        num_layers=len(module.blocks),
        embed_dim=embed_dim,
        num_heads=numbers["num_heads"],
        num_parameters=sum(parameter.numel() for parameter in module.parameters()),
        num_prefix_tokens=prefix,
        patch_size=patch_size,
        grid=(height, width),
        linears=sizes_of_linears(module.blocks[0]),
        has_class_token=bool(getattr(module, "has_class_token", False)),
    )
    return OwnBackbone(module, info, guard)


def described(kind: BackboneKind, part: str, setting: BackboneSetting, name: str) -> BackboneInfo:
    """Sizes of a backbone, without memory for its weights; errors as for :func:`own_backbone`."""
    with torch.device("meta"):
        return own_backbone(kind, part, setting, seed=0, name=name).info


def patch_size_of_own(kind: BackboneKind, part: str, options: Any) -> int:
    """Side of a patch, for images whose size is still to be chosen; errors as for :func:`own_backbone`."""
    with torch.device("meta"):
        _, numbers = _built(kind, Guard(part), BackboneSetting(_USUAL_SIZE, 0.0, options), seed=0)
    return numbers["patch_size"]


def _built(
    kind: BackboneKind, guard: Guard, setting: BackboneSetting, seed: int
) -> tuple[Any, dict[str, int]]:
    """The module, with its parts and numbers checked."""
    with guard.calling("build"), seeded(seed, "backbone"):
        module = kind.build(setting)
    guard.hold(isinstance(module, nn.Module), "build", f"give a module, got {type(module).__name__}")
    blocks = getattr(module, "blocks", None)
    is_list = isinstance(blocks, nn.ModuleList) and len(blocks) > 0
    guard.hold(is_list, "blocks", f"be a ModuleList with at least one block, got {type(blocks).__name__}")
    guard.has(module, ("embed", "norm"))
    numbers: dict[str, Any] = {name: getattr(module, name, usual) for name, usual in _NUMBERS.items()}
    for name, value in numbers.items():
        least = 0 if name == "num_prefix_tokens" else 1
        holds = isinstance(value, int) and value >= least
        guard.hold(holds, name, f"be a whole number of {least} or more, got {value!r}")
    return module, numbers


@torch.no_grad()
def _probed(module: Any, image_size: tuple[int, int], length: int, guard: Guard) -> int:
    """Send an empty image through the blocks, and give the width of its tokens."""
    images = torch.zeros(1, 3, *image_size)
    module.eval()
    tokens = _tokens_of(module, images, (1, length, None), guard)
    for index, block in enumerate(module.blocks):
        # With a token more, as operations may add some.
        given = torch.cat((tokens, tokens[:, :1]), 1)
        with guard.calling(f"blocks.{index}"):
            found = block(given)
        got = shape_or_type(found, Tensor)
        rule = f"give tokens of the shape that they get, {tuple(given.shape)}, got {got}"
        guard.hold(got == tuple(given.shape), f"blocks.{index}", rule)
    with guard.calling("norm"):
        normed = module.norm(tokens)
    got = shape_or_type(normed, Tensor)
    guard.hold(got == tuple(tokens.shape), "norm", f"keep the shape {tuple(tokens.shape)}, got {got}")
    module.train()
    return int(tokens.shape[-1])


def _tokens_of(module: Any, images: Tensor, shape: tuple[int | None, ...], guard: Guard) -> Tensor:
    with guard.calling("embed"):
        tokens: Tensor = module.embed(images)
    got = tuple(tokens.shape) if isinstance(tokens, Tensor) else (type(tokens).__name__,)
    fits = len(got) == 3 and all(want is None or want == side for want, side in zip(shape, got, strict=True))
    wanted = ", ".join("P" if want is None else str(want) for want in shape)
    guard.hold(fits, "embed", f"give tokens of shape ({wanted}), one for each patch, got {got}")
    return tokens
