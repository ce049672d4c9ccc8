"""The backbone of a config: a plain ViT of timm, or one that a user brings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dtme_search.config import validate
from dtme_search.errors import ConfigError
from dtme_search.models import backbone as plain
from dtme_search.models.backbone import Backbone, BackboneInfo
from dtme_search.models.own_backbone import (
    BackboneKind,
    BackboneSetting,
    described,
    own_backbone,
    patch_size_of_own,
)
from dtme_search.plugins import Family, brought, identity

if TYPE_CHECKING:
    from dtme_search.config import ModelConfig

BACKBONES = Family("backbones", BackboneKind, {})
"""Backbones of users; those of timm are found by timm."""


def describe_backbone(
    config: ModelConfig, image_size: tuple[int, int], plugins: Sequence[str] = ()
) -> BackboneInfo:
    """Sizes of the backbone of a config. Needs no memory for weights; repeated calls are free.

    Args:
        config: Names the backbone.
        image_size: (H, W).
        plugins: Files that may provide it, ``plugins`` of the run.

    Raises:
        ConfigError: If the backbone is unknown or not a plain ViT, its options are wrong, or the image size
            is not a multiple of its patch size.
    """
    if not _is_own(config, plugins):
        return plain.describe_backbone(config, image_size)
    content = tuple(identity([("backbones", config.backbone)], plugins))
    options = tuple(sorted(config.backbone_options.items()))
    _check_own(config)
    return _described(config.backbone, options, tuple(image_size), tuple(plugins), content)


def build_backbone(
    config: ModelConfig, image_size: tuple[int, int], seed: int, plugins: Sequence[str] = ()
) -> Backbone:
    """Build the backbone of a config on the CPU and load its weights.

    Raises:
        ConfigError: As for :func:`describe_backbone`, or if weights cannot be read or do not fit.
    """
    if not _is_own(config, plugins):
        return plain.build_backbone(config, image_size, seed)
    _check_own(config)
    kind, part, options = _found(config.backbone, config.backbone_options, plugins)
    setting = BackboneSetting(image_size, config.drop_path, options)
    return own_backbone(kind, part, setting, seed, config.backbone)


def patch_size_of(config: ModelConfig, plugins: Sequence[str] = ()) -> int:
    """Side of a patch of the backbone of a config, in pixels; both sides of an image are multiples of it.

    Raises:
        ConfigError: As for :func:`describe_backbone`.
    """
    if not _is_own(config, plugins):
        return plain.patch_size_of(config)
    kind, part, options = _found(config.backbone, config.backbone_options, plugins)
    return patch_size_of_own(kind, part, options)


def _is_own(config: ModelConfig, plugins: Sequence[str]) -> bool:
    return any(one.name == config.backbone for one in brought("backbones", plugins))


def _check_own(config: ModelConfig) -> None:
    if config.pretrained or config.checkpoint is not None:
        raise ConfigError(
            f"model.pretrained and model.checkpoint must be left out with '{config.backbone}', which is your "
            "own: its build loads its weights. Remove them."
        )
    if config.architecture != "vit":
        raise ConfigError(
            f"model.architecture must be vit with '{config.backbone}', which is your own, got "
            f"{config.architecture}. Use a backbone of timm."
        )


def _found(name: str, options: Any, plugins: Sequence[str]) -> tuple[BackboneKind, str, Any]:
    """The backbone, its name in messages, and its checked options."""
    kind = BACKBONES.find(name, "model.backbone", plugins)
    part = next(str(one) for one in brought("backbones", plugins) if one.name == name)
    return kind, part, validate(kind.options, options, "model.backbone_options")


@lru_cache(maxsize=64)
def _described(
    name: str,
    options: tuple[tuple[str, int | float | bool | str], ...],
    image_size: tuple[int, int],
    plugins: tuple[str, ...],
    _content: tuple[str, ...],
) -> BackboneInfo:
    kind, part, checked = _found(name, dict(options), plugins)
    return described(kind, part, BackboneSetting(image_size, 0.0, checked), name)
