"""Multi-task vision transformers that grow in token space."""

from dtme_search.models.backbone import (
    BackboneInfo,
    check_weights,
    name_weights,
    pooling_of,
    weights_for_timm,
)
from dtme_search.models.backbones import describe_backbone, patch_size_of
from dtme_search.models.building import build_model, check_model
from dtme_search.models.decoders import Predictions, resize
from dtme_search.models.multitask import MultiTaskViT
from dtme_search.models.operations import check_operations, folded, sizes_of

__all__ = [
    "BackboneInfo",
    "MultiTaskViT",
    "Predictions",
    "build_model",
    "check_model",
    "check_operations",
    "check_weights",
    "describe_backbone",
    "folded",
    "name_weights",
    "patch_size_of",
    "pooling_of",
    "resize",
    "sizes_of",
    "weights_for_timm",
]
