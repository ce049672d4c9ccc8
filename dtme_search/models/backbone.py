"""Plain vision transformers of timm: described without weights, built, and loaded with checked weights.

Beside ``pretrained`` the only file that knows timm. timm takes seconds to import, so functions import it when
they need it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from dtme_search.errors import ConfigError, nearest
from dtme_search.models.operations.lora import sizes_of_linears
from dtme_search.models.pretrained import first_line, load_checkpoint, load_published
from dtme_search.models.rotary import give_rotary_positions
from dtme_search.models.seeding import seeded
from dtme_search.models.streams import SharedDropPath
from dtme_search.models.timm_internals import with_positions
from dtme_search.models.weights import digest_of_weights

if TYPE_CHECKING:
    from dtme_search.config import ModelConfig

PLAIN_MODULES = ("timm.models.vision_transformer", "timm.models.deit", "timm.models.eva")
"""timm modules whose models are one sequence of blocks over one set of tokens; eva also has DINOv3."""

TAKEN_OPTIONS = {
    "img_size": "data.image_size sets it",
    "drop_path_rate": "model.drop_path sets it",
    "in_chans": "images have 3 channels",
    "num_classes": "decoders take the place of the classifier",
    "global_pool": "decoders take the place of the classifier",
    "fc_norm": "decoders take the place of the classifier",
    "pool_include_prefix": "decoders take the place of the classifier",
    "drop_rate": "decoders take the place of the classifier",
    "use_fc_norm": "decoders take the place of the classifier",
    "attn_pool_num_heads": "decoders take the place of the classifier",
    "attn_pool_mlp_ratio": "decoders take the place of the classifier",
    "head_init_scale": "decoders take the place of the classifier",
    "dynamic_img_size": "images have one size",
    "dynamic_img_pad": "images have one size",
    "patch_drop_rate": "decoders need every patch",
    "proj_drop_rate": "task streams could not share its masks; use model.drop_path",
    "attn_drop_rate": "task streams could not share its masks; use model.drop_path",
}
"""Arguments of timm's VisionTransformer that ``model.backbone_options`` must not set, and why."""


@dataclass(frozen=True)
class BackboneInfo:
    """Sizes of a backbone at one image size.

    Attributes:
        num_layers: Transformer blocks.
        embed_dim: Width of a token.
        num_heads: Attention heads of a block.
        num_parameters: Parameters without classifier, including the position embedding at this image size;
            parameter overheads refer to this number.
        num_prefix_tokens: Class and register tokens, or prompts, which come before the patch tokens.
        patch_size: Side of a patch in pixels.
        grid: Patches per (column, row) of the image: (H / patch, W / patch).
        has_rotary_positions: Whether every block gets the positions of patches (EVA, DINOv3).
        linears: Linear maps of a block that operations can adapt, by name: (inputs, outputs).
        has_class_token: Whether the first prefix token is a class token.
    """

    num_layers: int
    embed_dim: int
    num_heads: int
    num_parameters: int
    num_prefix_tokens: int
    patch_size: int
    grid: tuple[int, int]
    has_rotary_positions: bool = False
    linears: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    has_class_token: bool = False


class Backbone(nn.Module):
    """A timm ViT in the three steps that task streams need: embed, blocks, norm.

    Args:
        vit: timm's model without head; its stochastic depth is replaced by one draw per image.
        info: Its sizes.
    """

    vit: Any
    keep_probs: Tensor

    def __init__(self, vit: nn.Module, info: BackboneInfo) -> None:
        super().__init__()
        self.vit = vit
        self.info = info
        _share_drop_paths(vit)
        give_rotary_positions(vit)
        self.drop_paths = tuple(part for part in vit.modules() if isinstance(part, SharedDropPath))
        keep_probs = torch.tensor([1.0 - drop_path.drop_prob for drop_path in self.drop_paths])
        self.register_buffer("keep_probs", keep_probs, persistent=False)

    @property
    def blocks(self) -> nn.ModuleList:
        """Transformer blocks in a row, (N, L, P) -> (N, L, P) each."""
        return cast("nn.ModuleList", self.vit.blocks)

    @property
    def first_shared_token(self) -> int:
        """First shared token. Shared tokens are modulated per task, and conflicts are measured on them.

        In a plain ViT all tokens are shared, including class and register tokens [ours].
        """
        return 0

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to tokens (B, L, P): prefix tokens, then patches row by row."""
        tokens: Tensor = self.vit.norm_pre(with_positions(self.vit, self.vit.patch_embed(images)))
        return tokens

    def drop_prefix_tokens(self) -> None:
        """Drop class and register tokens and their positions, for an architecture that has none."""
        vit = self.vit
        if vit.pos_embed is not None and not vit.no_embed_class:
            vit.pos_embed = nn.Parameter(vit.pos_embed.detach()[:, vit.num_prefix_tokens :].clone())
        for name in ("cls_token", "reg_token", "dist_token"):
            if getattr(vit, name, None) is not None:
                setattr(vit, name, None)
        vit.num_prefix_tokens = 0

    def embed_patches(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to patches only, row by row, once there are no prefix tokens."""
        patches: Tensor = self.vit.patch_embed(images)
        if self.vit.pos_embed is not None:
            patches = patches + self.vit.pos_embed
        normed: Tensor = self.vit.norm_pre(patches)
        return normed

    def norm(self, tokens: Tensor) -> Tensor:
        """Final norm of tokens (..., P)."""
        normed: Tensor = self.vit.norm(tokens)
        return normed


def describe_backbone(config: ModelConfig, image_size: tuple[int, int]) -> BackboneInfo:
    """Sizes of the backbone of a config. Needs no memory for weights; repeated calls are free.

    Raises:
        ConfigError: If the backbone is unknown or not a plain ViT, its options are wrong, or the image size
            is not a multiple of its patch size.
    """
    return _describe(config.backbone, tuple(sorted(config.backbone_options.items())), tuple(image_size))


def patch_size_of(config: ModelConfig) -> int:
    """Side of a patch of the backbone of a config, in pixels; both sides of an image are multiples of it.

    Raises:
        ConfigError: If the backbone is unknown or not a plain ViT, or its options are wrong.
    """
    patch_size: int = _skeleton(config.backbone, config.backbone_options, None).patch_embed.patch_size[0]
    return patch_size


def build_backbone(config: ModelConfig, image_size: tuple[int, int], seed: int) -> Backbone:
    """Build the backbone of a config on the CPU and load its weights.

    Raises:
        ConfigError: As for :func:`describe_backbone`, or if weights cannot be read or do not fit.
    """
    info = describe_backbone(config, image_size)
    with seeded(seed, "backbone"):
        vit = _create(config.backbone, config.backbone_options, image_size, drop_path_rate=config.drop_path)
        if config.pretrained:
            load_published(vit, config, image_size)
        elif config.checkpoint is not None:
            load_checkpoint(vit, config)
    return Backbone(vit, info)


def weights_for_timm(
    backbone: Backbone, config: ModelConfig, image_size: tuple[int, int]
) -> dict[str, Tensor]:
    """The weights of a backbone as timm loads them into a plain model of that name.

    Empty if it is not one of timm's, or an architecture has changed its inside, so that they would not fit.
    """
    if type(backbone) is not Backbone:
        return {}
    plain = _skeleton(config.backbone, config.backbone_options, image_size).state_dict()
    weights = backbone.vit.state_dict()
    fits = {name: tensor.shape for name, tensor in plain.items()} == {
        name: tensor.shape for name, tensor in weights.items()
    }
    return dict(weights) if fits else {}


def name_weights(config: ModelConfig) -> str | None:
    """Identifies the initial weights of the backbone of a config by their content, wherever they are stored.

    A file is identified by the digest of its content; timm's weights by their tag (timm's default if the
    config names none) and timm's version; ``None`` means random weights.

    Raises:
        ConfigError: If the file cannot be read.
    """
    if config.checkpoint is not None:
        return f"sha256 {digest_of_weights(Path(config.checkpoint))}"
    if not config.pretrained:
        return None
    from timm.models import get_pretrained_cfg

    published = get_pretrained_cfg(config.backbone)
    return f"timm {version('timm')} {getattr(published, 'tag', None) or 'default'}"


def check_weights(config: ModelConfig, image_size: tuple[int, int]) -> None:
    """Load ``model.checkpoint`` once, to find out before any training that it fits.

    Raises:
        ConfigError: As for :func:`build_backbone`.
    """
    if config.checkpoint is not None:
        build_backbone(config, image_size, seed=0)


@lru_cache(maxsize=64)
def _describe(
    name: str, options: tuple[tuple[str, int | float | bool | str], ...], image_size: tuple[int, int]
) -> BackboneInfo:
    vit = _skeleton(name, dict(options), image_size)
    if not len(vit.blocks):
        raise ConfigError("model.backbone_options.depth must be at least 1, got 0.")
    patch_size: int = vit.patch_embed.patch_size[0]
    check_image_size(image_size, patch_size, name)
    return BackboneInfo(
        num_layers=len(vit.blocks),
        embed_dim=vit.embed_dim,
        # The kinds of blocks have different names for their attention.
        num_heads=next(part.num_heads for part in vit.blocks[0].modules() if hasattr(part, "num_heads")),
        num_parameters=sum(parameter.numel() for parameter in vit.parameters()),
        num_prefix_tokens=vit.num_prefix_tokens,
        patch_size=patch_size,
        grid=vit.patch_embed.grid_size,
        has_rotary_positions=getattr(vit, "rope", None) is not None,
        linears=sizes_of_linears(vit.blocks[0]),
        has_class_token=getattr(vit, "cls_token", None) is not None,
    )


def _skeleton(
    name: str, options: Mapping[str, int | float | bool | str], image_size: tuple[int, int] | None
) -> Any:
    """timm's model without memory for its weights."""
    _check_name(name)
    _check_options(name, options)
    try:
        with torch.device("meta"):
            return _create(name, options, image_size)
    except Exception as error:  # the name is valid here, so it is the options, which fail in many ways
        raise ConfigError(
            f"model.backbone_options: timm cannot build '{name}' with {dict(options)}: "
            f"{first_line(error)}. Correct or remove them."
        ) from error


def _check_name(name: str) -> None:
    from timm.models import list_models, model_entrypoint

    architecture, _, tag = name.partition(".")
    if architecture not in list_models():
        plain = [known for module in PLAIN_MODULES for known in list_models(module=module.rpartition(".")[2])]
        raise ConfigError(
            f"model.backbone must be a model of timm, got '{name}'.{nearest(architecture, plain)} "
            "Any plain ViT works, for example vit_tiny_patch16_224."
        )
    if model_entrypoint(architecture).__module__ not in PLAIN_MODULES:
        raise ConfigError(
            f"model.backbone must be a plain ViT (one sequence of blocks over all tokens), got '{name}'. "
            "Choose a ViT, DeiT, DINOv2, DINOv3 or EVA of timm, for example vit_tiny_patch16_224."
        )
    if tag:
        tagged = list_models(f"{architecture}.*", pretrained=True)
        if name not in tagged:
            raise ConfigError(
                f"model.backbone: timm has no weights '{tag}' for {architecture}.{nearest(name, tagged)}"
            )


def _check_options(backbone: str, options: Mapping[str, int | float | bool | str]) -> None:
    from timm.models import model_entrypoint
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    is_eva = model_entrypoint(backbone.partition(".")[0]).__module__ == "timm.models.eva"
    kind_of_model: Any = Eva if is_eva else VisionTransformer
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(kind_of_model).parameters.items()
        if name not in TAKEN_OPTIONS and not inspect.isclass(parameter.default)
    }
    for name, value in options.items():
        place = f"model.backbone_options.{name}"
        if name in TAKEN_OPTIONS:
            raise ConfigError(f"{place} must be left out: {TAKEN_OPTIONS[name]}.")
        if name not in defaults:
            raise ConfigError(
                f"{place}: timm's {kind_of_model.__name__} has no such option.{nearest(name, defaults)}"
            )
        kind = type(defaults[name])
        if kind in (bool, int, str) and type(value) is not kind:
            raise ConfigError(
                f"{place} must be of type {kind.__name__} as in timm (default {defaults[name]!r}), "
                f"got {value!r}."
            )


def check_image_size(image_size: tuple[int, int], patch_size: int, name: str) -> None:
    """Refuse an image that cannot be cut into patches.

    Raises:
        ConfigError: Names the nearest size that can.
    """
    if any(side % patch_size for side in image_size):
        valid = [max(patch_size, round(side / patch_size) * patch_size) for side in image_size]
        raise ConfigError(
            f"data.image_size must be a multiple of the patch size {patch_size} of {name}, "
            f"got {list(image_size)}. The nearest valid size is {valid}."
        )


def pooling_of(name: str) -> str:
    """The pooling with which timm builds a model of that name without a head."""
    # timm's distilled DeiT refuses any other pooling, although without a head it never pools.
    return "token" if "distilled" in name else ""


def _create(
    name: str, options: Mapping[str, Any], image_size: tuple[int, int] | None, **arguments: Any
) -> nn.Module:
    import timm

    vit: nn.Module = timm.create_model(
        name,
        img_size=image_size,
        num_classes=0,
        global_pool=pooling_of(name),
        dynamic_img_size=False,
        **options,
        **arguments,
    )
    return vit


def _share_drop_paths(vit: nn.Module) -> None:
    from timm.layers.drop import DropPath

    for parent in list(vit.modules()):
        for name, child in parent.named_children():
            if isinstance(child, DropPath):
                setattr(parent, name, SharedDropPath(child.drop_prob))
