"""Translate names of Hugging Face's transformers (ViT, DINOv2 without or with registers, DINOv3) to timm."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_LAYER = re.compile(r"^(?:encoder\.|model\.)?layer\.(\d+)\.(.+)$")
_OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.mask_token": "mask_token",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "embeddings.patch_embeddings.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_INSIDE = (
    (r"^layernorm_before\.", "norm1."),
    (r"^layernorm_after\.", "norm2."),
    (r"^attention\.(?:attention\.)?(?:query|q_proj)\.", "attn.q."),
    (r"^attention\.(?:attention\.)?(?:key|k_proj)\.", "attn.k."),
    (r"^attention\.(?:attention\.)?(?:value|v_proj)\.", "attn.v."),
    (r"^attention\.(?:output\.dense|o_proj)\.", "attn.proj."),
    (r"^layer_scale([12])\.lambda1$", r"ls\1.gamma"),
    (r"^intermediate\.dense\.", "mlp.fc1."),
    (r"^output\.dense\.", "mlp.fc2."),
    (r"^mlp\.weights_in\.", "mlp.fc1."),
    (r"^mlp\.(?:weights_out|down_proj)\.", "mlp.fc2."),
    (r"^mlp\.gate_proj\.", "mlp.fc1_g."),
)


def is_from_transformers(names: Mapping[str, object]) -> bool:
    """Whether names are those of transformers."""
    return any(_LAYER.match(name) for name in names)


def to_timm_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename, and join the projections to queries, keys and values; unknown names stay."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        layer = _LAYER.match(name)
        if layer is None:
            renamed[_OUTSIDE.get(name, name)] = tensor
            continue
        inside = layer[2]
        for pattern, replacement in _INSIDE:
            inside = re.sub(pattern, replacement, inside)
        renamed[f"blocks.{layer[1]}.{inside}"] = tensor
    gated = any(".mlp.fc1_g." in name for name in renamed)
    renamed = {
        name.replace(".mlp.up_proj.", ".mlp.fc1_x." if gated else ".mlp.fc1."): tensor
        for name, tensor in renamed.items()
    }
    return _with_joined_projections(renamed)


def _with_joined_projections(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    joined = dict(weights)
    for name in weights:
        if not name.endswith(".attn.q.weight"):
            continue
        prefix = name.removesuffix("q.weight")
        for kind in ("weight", "bias"):
            parts = [joined.pop(f"{prefix}{one}.{kind}", None) for one in "qkv"]
            known = [part for part in parts if part is not None]
            if known:
                # DINOv3's keys have no bias.
                whole = [torch.zeros_like(known[0]) if part is None else part for part in parts]
                joined[f"{prefix}qkv.{kind}"] = torch.cat(whole)
    return joined
