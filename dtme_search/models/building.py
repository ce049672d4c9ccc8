"""From a config to a model: what it consists of, checked, and built with its initial weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from dtme_search.errors import ConfigError
from dtme_search.models.architectures import PLAIN, find_architecture
from dtme_search.models.backbone import BackboneInfo
from dtme_search.models.backbones import build_backbone, describe_backbone
from dtme_search.models.decoders import DecoderContext, with_image_heads
from dtme_search.models.multitask import MultiTaskViT

if TYPE_CHECKING:
    from dtme_search.config import ModelConfig
    from dtme_search.tasks import TaskSpec

NUM_LEVELS = {"last": 1, "concat4": 4}
"""``model.levels`` -> number of feature maps for a decoder that takes any number of them."""


def feature_levels(num_layers: int, count: int) -> tuple[int, ...]:
    """Number of blocks after which each of ``count`` feature maps is taken, at equal distances.

    Four levels are those of InvPT and its followers: 3, 6, 9, 12 of 12 blocks; 6, 12, 18, 24 of 24. If the
    number of blocks is not a multiple, the fractions are rounded up (ours). All but the last are taken
    without the final norm.

    Example:
        >>> feature_levels(12, 4), feature_levels(6, 4), feature_levels(6, 1)
        ((3, 6, 9, 12), (2, 3, 5, 6), (6,))
    """
    return tuple(-(-num_layers * part // count) for part in range(1, count + 1))


def check_model(
    config: ModelConfig, image_size: tuple[int, int], *, plugins: Sequence[str] = ()
) -> BackboneInfo:
    """Check everything about a model that can be checked without building it; returns the backbone's sizes.

    Raises:
        ConfigError: As for :func:`build_model`, except for weights.
    """
    info = describe_backbone(config, image_size, plugins)
    architecture, options = find_architecture(config, plugins)
    architecture.decoder.check(info, config.decoder_channels, options)
    if config.image_head == "class" and (not info.has_class_token or config.architecture != PLAIN):
        raise ConfigError(
            f"model.image_head must be mean for {config.backbone} with architecture {config.architecture}, "
            "which has no class token, got class. Set model.image_head: mean."
        )
    return info


def build_model(
    config: ModelConfig,
    specs: Mapping[str, TaskSpec],
    image_size: tuple[int, int],
    *,
    seed: int,
    output_means: Mapping[str, Tensor] | None = None,
    plugins: Sequence[str] = (),
) -> MultiTaskViT:
    """Build the model of a config on the CPU, not grown.

    Initial weights depend on ``seed`` alone; the global random state does not change. A decoder starts the
    same, whichever other tasks there are.

    Args:
        config: Backbone, its weights and the decoder.
        specs: Tasks in the order of the outputs.
        image_size: (H, W) of images and predictions.
        seed: Seed of the initial weights.
        output_means: Per task the training mean of its targets, shape (C,), as the initial output; other
            tasks start at zero (ours; it avoids a stall of regression tasks at the start).
        plugins: Files that may provide backbone and decoder, ``plugins`` of the run.

    Raises:
        ConfigError: If the backbone, its weights, the decoder, options of either, or the image size cannot be
            used.
        ValueError: If ``output_means`` names an unknown task or has a wrong shape.
    """
    means = dict(output_means or {})
    if not set(means) <= set(specs):
        raise ValueError(f"output_means must name some of {list(specs)}, got {list(means)}.")
    info = check_model(config, image_size, plugins=plugins)
    architecture, options = find_architecture(config, plugins)
    kind = architecture.decoder
    levels = feature_levels(info.num_layers, kind.num_levels or NUM_LEVELS[config.levels])
    context = DecoderContext(
        specs,
        info,
        len(levels),
        channels=config.decoder_channels,
        image_size=image_size,
        output_means=means,
        seed=seed,
    )
    backbone = build_backbone(config, image_size, seed, plugins)
    dense = context.of_dense_tasks
    if dense.specs:
        backbone = architecture.adapt(backbone, dense, levels, options)
    decoders = with_image_heads(context, lambda dense: kind.build(dense, options))
    reads_class_token = config.image_head == "class" and any(spec.of_image for spec in specs.values())
    return MultiTaskViT(
        backbone, decoders, tuple(specs), levels, plugins=plugins, reads_class_token=reads_class_token
    )
