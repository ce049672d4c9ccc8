"""TaskPrompter as an entry of the registry: options, check, backbone, decoder."""

from __future__ import annotations

from dtme_search.config import Section
from dtme_search.errors import ConfigError
from dtme_search.models.backbone import Backbone, BackboneInfo
from dtme_search.models.decoders import DecoderContext
from dtme_search.models.seeding import seeded
from dtme_search.models.taskprompter.backbone import PromptedBackbone
from dtme_search.models.taskprompter.blocks import windows_per_side
from dtme_search.models.taskprompter.decoder import (
    LevelDecoder,
    PrompterDecoder,
    PrompterHead,
    Reweighting,
    TaskFeature,
)


class PrompterOptions(Section):
    """``model.architecture_options.taskprompter``; ``model.decoder_channels`` is the width of features."""

    branch_channels: int | None = None
    """Width of the spatial and of the channel branch; the backbone's embedding width when empty."""
    channel_heads: int = 1
    """Windows in which prompts weigh channels; a square number, whose root divides both sides of the grid."""
    reweighting: bool = True
    """Whether tasks exchange features at every level."""


def check_prompter(info: BackboneInfo, _channels: int | None, options: PrompterOptions) -> None:
    """Check backbone and options.

    Raises:
        ConfigError: If patches are rotated by their positions, a width is below 1, or the grid cannot be cut
            into the windows.
    """
    if info.has_rotary_positions:
        raise ConfigError(
            "model.architecture: taskprompter needs a model.backbone without rotary positions, which prompts "
            "do not have, got one with them. Choose a ViT, DeiT or DINOv2 of timm."
        )
    place = "model.architecture_options.taskprompter"
    if info.has_rotary_positions:
        raise ConfigError(
            "model.architecture: taskprompter must have a backbone without rotary positions, got an "
            "EVA or DINOv3. Choose another backbone, or architecture: vit."
        )
    if options.branch_channels is not None and options.branch_channels < 1:
        raise ConfigError(f"{place}.branch_channels must be at least 1, got {options.branch_channels}.")
    if not windows_per_side(options.channel_heads, info.grid):
        possible = [root**2 for root in range(1, min(info.grid) + 1) if windows_per_side(root**2, info.grid)]
        raise ConfigError(
            f"{place}.channel_heads must be a square number whose root divides both sides of the grid of "
            f"{info.grid[0]}x{info.grid[1]} patches, got {options.channel_heads}. Use one of {possible}."
        )


def prompted_backbone(
    plain: Backbone, context: DecoderContext, levels: tuple[int, ...], options: PrompterOptions
) -> Backbone:
    """The ViT with a prompt for each task, scored at the decoded blocks."""
    num_windows = windows_per_side(options.channel_heads, plain.info.grid)
    assert num_windows, "checked before anything is built"
    return PromptedBackbone(plain, tuple(context.specs), dict.fromkeys(levels, num_windows), context.seed)


def build_prompter(context: DecoderContext, options: PrompterOptions) -> PrompterDecoder:
    """The decoder of all tasks; the parts of one task start the same, whichever others there are."""
    embed_dim, num_heads = context.info.embed_dim, context.info.num_heads
    channels = context.channels or embed_dim
    branch_channels = options.branch_channels or embed_dim
    features: list[dict[str, TaskFeature]] = [{} for _ in range(context.num_levels)]
    reweightings: list[dict[str, Reweighting]] = [{} for _ in range(context.num_levels)]
    heads: dict[str, PrompterHead] = {}
    for task, spec in context.specs.items():
        with seeded(context.seed, f"decoder/{task}"):
            for level in range(context.num_levels):
                features[level][task] = TaskFeature(embed_dim, branch_channels, channels)
                if options.reweighting:
                    reweightings[level][task] = Reweighting(num_heads)
            mean = context.output_means.get(task)
            heads[task] = PrompterHead(channels, spec.channels, context.image_size, mean)
    return PrompterDecoder([LevelDecoder(*of) for of in zip(features, reweightings, strict=True)], heads)
