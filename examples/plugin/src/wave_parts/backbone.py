"""A backbone: any module with ``embed``, ``blocks``, ``norm`` and ``patch_size``."""

import torch
from torch import nn

from dtme_search.config import Section
from dtme_search.models.own_backbone import BackboneKind


class Options(Section):
    """What YAML may say in model.backbone_options."""

    width: int = 24
    depth: int = 3


class Block(nn.Module):
    """Attention and an MLP. Maps called attn.qkv, attn.proj, mlp.fc1 and mlp.fc2 can be adapted by LoRA."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 2 * width), "fc2": nn.Linear(2 * width, width)})

    def forward(self, tokens):
        query, key, value = self.attn["qkv"](self.norm1(tokens)).chunk(3, -1)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.attn["proj"](attended)
        return tokens + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(tokens))))


class Convit(nn.Module):
    """Three convolutions of stride 2 make patches of 8 pixels; each patch has a learnt position."""

    patch_size = 8

    def __init__(self, setting):
        super().__init__()
        width = setting.options.width
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
        )
        length = setting.image_size[0] * setting.image_size[1] // self.patch_size**2
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(setting.options.depth))
        self.norm = nn.LayerNorm(width)

    def embed(self, images):
        return self.stem(images).flatten(2).transpose(1, 2) + self.positions


CONVIT = BackboneKind(Convit, Options)
