"""Predictions for images of any size, in the form of labels.

Shapes: C channels, (H, W) size of the image given, (h, w) size of the model's images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize, pad

from dtme_search.config import RunConfig
from dtme_search.data import normalize_images
from dtme_search.models import MultiTaskViT
from dtme_search.tasks import TaskSpec
from dtme_search.training.runtime import autocast


@dataclass(frozen=True)
class Predictor:
    """A trained model that takes plain images.

    Attributes:
        model: The model.
        specs: Its tasks.
        config: The config it was trained with.
        device: Where it is.
    """

    model: MultiTaskViT
    specs: Mapping[str, TaskSpec]
    config: RunConfig
    device: torch.device

    @torch.no_grad()
    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Predict every task for one image.

        The image is scaled to fit the model's size with its aspect kept and padded symmetrically, as an
        evaluation does with images that are too large; predictions are cut out and scaled back [ours].

        Args:
            image: RGB, uint8, shape (3, H, W).

        Returns:
            Task -> prediction on the CPU; see :func:`as_label`.
        """
        height, width = image.shape[1:]
        target = self.config.data.image_size
        ratio = min(target[0] / height, target[1] / width)
        inner = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        top, left = ((size - used) // 2 for size, used in zip(target, inner, strict=True))
        bottom, right = target[0] - inner[0] - top, target[1] - inner[1] - left
        batch = image[None].to(self.device, torch.float32)
        batch = interpolate(batch, inner, mode="bilinear", antialias=True, align_corners=False)
        batch = pad(normalize_images(batch, self.config.data.normalize), (left, right, top, bottom))
        self.model.eval()
        with autocast(self.config.train, self.device):
            outputs = self.model(batch)
        found = {}
        for name, output in outputs.items():
            cut = output[:, :, top : top + inner[0], left : left + inner[1]].float()
            whole = interpolate(cut, (height, width), mode="bilinear", align_corners=False)
            found[name] = as_label(whole, self.specs[name])[0].cpu()
        return found


def as_label(outputs: Tensor, spec: TaskSpec) -> Tensor:
    """Raw outputs of a decoder in the form of labels.

    Args:
        outputs: Shape (B, C, H, W).
        spec: The task.

    Returns:
        Classes int64 (B, H, W); distances and other single values (B, H, W); normals (B, H, W, 3) of unit
        length; masks as probability (B, H, W); values of several channels (B, H, W, C).
    """
    if spec.kind == "classes":
        return outputs.argmax(1)
    if spec.kind == "normals":
        return normalize(outputs, dim=1).permute(0, 2, 3, 1)
    if spec.kind == "mask":
        return outputs.sigmoid()[:, 0]
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs.permute(0, 2, 3, 1)
