"""Load foreign weights into a timm backbone: renamed, resampled, cut, checked, and reported in one line."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dtme_search.errors import ConfigError
from dtme_search.models.huggingface import is_from_transformers, to_timm_names
from dtme_search.models.weights import load_weights, read_weights

if TYPE_CHECKING:
    from dtme_search.config import ModelConfig

HEAD_PREFIXES = ("head.", "head_dist.", "attn_pool.")
"""Weights of a classifier, which no backbone here has."""

_log = logging.getLogger(__name__)
_BLOCK = re.compile(r"^blocks\.(\d+)\.")


def load_checkpoint(vit: Any, config: ModelConfig) -> None:
    """Load ``model.checkpoint`` into a model of timm.

    Raises:
        ConfigError: If the file cannot be read or does not fit; names the keys.
    """
    assert config.checkpoint is not None
    path = Path(config.checkpoint)
    place = f"model.checkpoint ({path})"
    notes: list[str] = []
    weights = read_weights(path, "model.checkpoint")
    if is_from_transformers(weights):
        weights = to_timm_names(weights)
        notes.append("names of transformers")
    _load(vit, weights, config, place, notes)


def load_published(vit: Any, config: ModelConfig, image_size: tuple[int, int]) -> None:
    """Load the weights that timm publishes under the name of the backbone.

    Raises:
        ConfigError: If they cannot be loaded, or do not fit the options.
    """
    import timm

    place = "model.pretrained"
    options: dict[str, Any] = dict(config.backbone_options)
    as_published = dict(options)
    if _is_cut(vit, config):
        del as_published["depth"]
    try:
        # The model as published, head included, because only then does timm check that every weight fits.
        published = timm.create_model(config.backbone, pretrained=True, img_size=image_size, **as_published)
    except (AssertionError, RuntimeError) as error:
        way_out = "Remove model.backbone_options or set" if options else "Set"
        raise ConfigError(
            f"{place}: timm cannot load weights for '{config.backbone}' with options {options}: "
            f"{first_line(error)}. {way_out} {place}: false."
        ) from error
    except Exception as error:  # network, hub and cache can fail in many ways
        raise ConfigError(
            f"{place}: the weights of '{config.backbone}' could not be downloaded and are not in the cache "
            f"({type(error).__name__}). Go online once, set model.checkpoint: PATH, or set {place}: false."
        ) from error
    as_resampled = config.model_copy(update={"checkpoint_grid": tuple(vit.patch_embed.grid_size)})
    _load(vit, published.state_dict(), as_resampled, place, [])


def _is_cut(vit: Any, config: ModelConfig) -> bool:
    """Whether ``backbone_options.depth`` asks for fewer blocks than the published model has."""
    import timm

    if "depth" not in config.backbone_options:
        return False
    with torch.device("meta"):
        published: Any = timm.create_model(config.backbone)
    return len(vit.blocks) < len(published.blocks)


def _load(vit: Any, weights: dict[str, Tensor], config: ModelConfig, place: str, notes: list[str]) -> None:
    expected = vit.state_dict()
    weights = _merge_registers(weights)
    positions = weights.pop("pos_embed", None)
    weights = _without_head(_in_form_of(weights, vit, place, notes), expected)
    weights = _as_attention_of(expected, weights)
    if positions is not None and "pos_embed" in expected:
        weights["pos_embed"] = _resample_positions(positions, vit, config, place, notes)
    cut = _cut_blocks(weights, len(vit.blocks), config)
    if cut:
        notes.append(f"only the first {len(vit.blocks)} blocks taken, without the final norm of the last")
        weights = {name: tensor for name, tensor in weights.items() if name not in cut}
        weights |= {name: tensor for name, tensor in expected.items() if name.startswith("norm.")}
    left = [name for name in weights if name not in expected and not _BLOCK.match(name)]
    load_weights(vit, {name: weights[name] for name in weights if name not in left}, place)
    if left:
        notes.append(f"{len(left)} left ({', '.join(left[:3])}{', ...' if len(left) > 3 else ''})")
    num_loaded = len(expected) - (sum(name.startswith("norm.") for name in expected) if cut else 0)
    _say("; ".join([f"{place}: {num_loaded} tensors of the backbone loaded", *notes]))


@lru_cache
def _say(line: str) -> None:
    """Log a line once per process, because each trial builds its model again."""
    _log.warning("%s", line)


def _merge_registers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """In DINOv2 with registers the class token has a position, which timm adds to the token permanently."""
    if "register_tokens" not in weights:
        return dict(weights)
    merged = {name: tensor for name, tensor in weights.items() if name != "register_tokens"}
    merged["reg_token"] = weights["register_tokens"]
    if "pos_embed" in merged:
        merged["cls_token"] = merged["cls_token"] + merged["pos_embed"][:, :1]
        merged["pos_embed"] = merged["pos_embed"][:, 1:]
    return merged


def _in_form_of(weights: dict[str, Tensor], vit: Any, place: str, notes: list[str]) -> dict[str, Tensor]:
    """timm's own conversion of layouts it knows, with the patch embedding resampled."""
    from timm.models import eva, vision_transformer

    patches = weights.get("patch_embed.proj.weight")
    wanted = vit.patch_embed.proj.weight.shape[-1]
    if patches is not None and patches.ndim == 4 and patches.shape[-1] != wanted:
        notes.append(f"patch embedding resampled from {patches.shape[-1]} to {wanted} pixels")
    try:
        if isinstance(vit, eva.Eva):
            return eva.checkpoint_filter_fn(weights, vit)
        return vision_transformer.checkpoint_filter_fn(weights, vit, adapt_layer_scale=True)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{place}: the weights cannot be converted for this backbone: {first_line(error)}. Set "
            "model.backbone and model.backbone_options to the model they were trained with."
        ) from error


def _as_attention_of(expected: Mapping[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Layer scale under the name, and attention bias in the form, that this kind of block uses."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        for ours, other in ((".gamma_1", ".ls1.gamma"), (".gamma_2", ".ls2.gamma")):
            if name.endswith(other) and name.removesuffix(other) + ours in expected:
                name = name.removesuffix(other) + ours
        prefix = name.removesuffix("qkv.bias")
        if prefix == name or name in expected:
            renamed[name] = tensor
        elif f"{prefix}q_bias" in expected:
            renamed[f"{prefix}q_bias"], _, renamed[f"{prefix}v_bias"] = tensor.chunk(3)
        elif tensor.any():
            renamed[name] = tensor  # otherwise the bias is all zeros, and the model has none
    return renamed


def _resample_positions(
    positions: Tensor, vit: Any, config: ModelConfig, place: str, notes: list[str]
) -> Tensor:
    """The position embedding on the grid of the model, resampled as timm does it."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)
    num_prefix = vit.pos_embed.shape[1] - grid[0] * grid[1]
    count = positions.shape[1] - num_prefix
    source = _source_grid(count, grid, config, place)
    was, new = (f"{rows}x{columns}" for rows, columns in (source, grid))
    if config.checkpoint_grid is None:
        was += " (assumed; else set model.checkpoint_grid)"
    if source == grid:
        if config.checkpoint_grid is None:
            notes.append(f"position embedding of {was} patches")
        return positions
    notes.append(f"position embedding of {was} resampled to {new} patches")
    resampled: Tensor = resample_abs_pos_embed(
        positions, new_size=list(grid), old_size=list(source), num_prefix_tokens=num_prefix
    )
    return resampled


def _source_grid(count: int, grid: tuple[int, int], config: ModelConfig, place: str) -> tuple[int, int]:
    told = config.checkpoint_grid
    if told is not None:
        if told[0] * told[1] != count:
            raise ConfigError(
                f"model.checkpoint_grid must give the {count} patches of {place}, got {list(told)}. "
                "Set the rows and columns of patches that the weights were trained with."
            )
        return told
    if count == grid[0] * grid[1]:
        return grid
    side = math.isqrt(max(count, 0))
    if side and side * side == count:
        return side, side
    raise ConfigError(
        f"{place}: the position embedding cannot be resampled to {grid[0]}x{grid[1]} patches: nothing says "
        f"how its {count} patches lie. Set model.checkpoint_grid: [rows, columns]."
    )


def _cut_blocks(weights: Mapping[str, Tensor], num_layers: int, config: ModelConfig) -> set[str]:
    """Remove what belongs to the blocks that ``backbone_options.depth`` leaves out."""
    numbers = {name: int(found[1]) for name in weights if (found := _BLOCK.match(name))}
    surplus = {name for name, number in numbers.items() if number >= num_layers}
    if not surplus or "depth" not in config.backbone_options:
        return set()
    return surplus | {name for name in weights if name.startswith("norm.")}


def _without_head(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    body = {name: tensor for name, tensor in weights.items() if not name.startswith(HEAD_PREFIXES)}
    if "norm.weight" in expected and "norm.weight" not in body:
        # Models that pool the average have the same norm after the pooling.
        body = {name.replace("fc_norm.", "norm.", 1): tensor for name, tensor in body.items()}
    return body


def first_line(error: BaseException) -> str:
    """The first informative line of a message; of torch's list of mismatches, the first mismatch."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__).rstrip(".:")
