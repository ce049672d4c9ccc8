"""Multi-task vision transformers that grow in token space."""

from dtme_search.models.backbone import BackboneInfo, describe_backbone
from dtme_search.models.multitask import MultiTaskViT, build_model

__all__ = ["BackboneInfo", "MultiTaskViT", "build_model", "describe_backbone"]
