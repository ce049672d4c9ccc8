"""The network of a run as one function of images: what goes into a file.

Shapes: B images, C output channels, (H, W) image size of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtme_search.data import image_statistics
from dtme_search.models import MultiTaskViT
from dtme_search.tasks import TaskSpec

Form = Literal["labels", "raw"]
"""``labels``: classes, metres, unit normals, probabilities. ``raw``: the outputs of the decoders."""


class Program(nn.Module):
    """From images as a camera gives them to predictions of the chosen tasks; streams run in one batch.

    Args:
        model: A trained model; it is put into evaluation mode and needs no gradients from then on.
        specs: Its tasks.
        tasks: Tasks whose streams and decoders are kept.
        normalize: ``data.normalize`` of the run; normalisation is part of the program.
        form: What is returned for each task.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        model: MultiTaskViT,
        specs: Mapping[str, TaskSpec],
        tasks: Sequence[str],
        normalize: str,
        form: Form = "labels",
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.specs = {task: specs[task] for task in tasks}
        self.form = form
        mean, deviation = image_statistics(normalize)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Predict.

        Args:
            images: RGB, uint8, shape (B, 3, H, W).

        Returns:
            One tensor per task, in their order: raw (B, C, H, W), (B, C, 1, 1) about whole images, or in the
            form of :func:`in_form`.
        """
        normalised = (images.to(self.mean.dtype) - self.mean) / self.deviation
        outputs = self.model(normalised, tuple(self.specs))
        if self.form == "raw":
            return tuple(outputs[task] for task in self.specs)
        return tuple(in_form(outputs[task], spec) for task, spec in self.specs.items())


def in_form(output: Tensor, spec: TaskSpec) -> Tensor:
    """Raw outputs (B, C, H, W) as labels: classes int32 (B, H, W); masks as probability (B, H, W); normals of
    unit length (B, 3, H, W); numbers (B, H, W), of several channels (B, C, H, W). About whole images: classes
    (B,); probabilities and numbers (B, C).
    """
    if spec.of_image:
        output = output.flatten(1)
    if spec.kind == "classes":
        return output.argmax(1).to(torch.int32)
    if spec.kind == "normals":
        return F.normalize(output, dim=1)
    if spec.kind == "mask":
        output = output.sigmoid()
    return output[:, 0] if spec.channels == 1 and not spec.of_image else output


def as_raw(label: Tensor, spec: TaskSpec) -> Tensor:
    """Outputs (B, C, H, W) that :func:`in_form` turns into ``label``."""
    if spec.of_image:
        label = label.view(-1, 1, 1) if spec.kind == "classes" else label[..., None, None]
    if spec.kind == "classes":
        return F.one_hot(label.long(), spec.channels).movedim(-1, 1).float()
    raw = torch.logit(label, eps=1e-6) if spec.kind == "mask" else label
    return raw if spec.channels > 1 or spec.of_image else raw[:, None]
