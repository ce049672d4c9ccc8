"""Predictions for images of any size, in the form of labels, a band of rows at a time.

Shapes: C channels, (H, W) size of the image given, (h, w) size that it has inside the model's images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from dtme_search.config import RunConfig
from dtme_search.data import normalize_images
from dtme_search.models import MultiTaskViT
from dtme_search.tasks import TaskSpec
from dtme_search.training.runtime import autocast

Picture = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]

_BAND_VALUES = 4_000_000
"""Number of raw outputs enlarged at once: 16 MB in float32, of which a few copies exist at a time."""


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for one image; small, whatever the size of the image.

    Attributes:
        specs: The tasks.
        outputs: Task -> raw outputs for the part of the model's image that shows the picture, (C, h, w);
            (C, 1, 1) for tasks about the whole image.
        size: (H, W) of the picture.
    """

    specs: Mapping[str, TaskSpec]
    outputs: Mapping[str, Tensor]
    size: tuple[int, int]

    def label(self, task: str, longest: int | None = None) -> Array:
        """The whole prediction in the form of a label, see :func:`as_label`; may need much memory.

        Args:
            task: Its name.
            longest: Largest number of pixels on the longer side; by default that of the picture. A label of
                the whole image has one pixel.
        """
        return np.concatenate(list(self.bands(task, longest)))

    def bands(self, task: str, longest: int | None = None) -> Iterator[Array]:
        """The same from top to bottom, some rows at a time.

        Raw outputs are enlarged bilinearly, at pixel centres, before they become labels.
        """
        spec, output = self.specs[task], self.outputs[task].float()
        size = spec.label_size(shown_size(self.size, longest))
        rows, columns = (
            _between(before, after) for before, after in zip(output.shape[1:], size, strict=True)
        )
        step = max(1, _BAND_VALUES // (output.shape[0] * size[1]))
        for start in range(0, size[0], step):
            band = _mixed(output, [each[start : start + step] for each in rows], dim=1)
            yield as_label(_mixed(band, columns, dim=2)[None], spec)[0].numpy()


def shown_size(size: tuple[int, int], longest: int | None) -> tuple[int, int]:
    """Size of a picture whose longer side is at most ``longest``, with the same aspect ratio."""
    if longest is None or max(size) <= longest:
        return size
    ratio = longest / max(size)
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def _between(before: int, after: int) -> list[Tensor]:
    """For each of ``after`` positions its two neighbours among ``before``, and the weight of the second."""
    place = ((torch.arange(after, dtype=torch.float64) + 0.5) * before / after - 0.5).clamp(min=0)
    first = place.long().clamp(max=before - 1)
    return [first, (first + 1).clamp(max=before - 1), (place - first).float()]


def _mixed(values: Tensor, places: list[Tensor], dim: int) -> Tensor:
    first, second, weight = places
    shape = [1, 1, 1]
    shape[dim] = len(weight)
    return torch.lerp(values.index_select(dim, first), values.index_select(dim, second), weight.view(shape))


Run = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Images uint8 (1, 3, height, width) of the model's size, and where they show the picture, bool (1, 1,
height, width), to raw outputs (1, C, height, width) by task."""


@dataclass(frozen=True)
class Predictor:
    """A trained network that takes pictures of any size.

    Attributes:
        run: The network.
        specs: Its tasks.
        image_size: (height, width) of its images.
    """

    run: Run
    specs: Mapping[str, TaskSpec]
    image_size: tuple[int, int]

    @classmethod
    def of_model(
        cls, model: MultiTaskViT, specs: Mapping[str, TaskSpec], config: RunConfig, device: torch.device
    ) -> Predictor:
        """The predictor of a model that lies on ``device``; ``config`` is that of its training."""
        model.eval()

        def run(images: Tensor, inside: Tensor) -> Mapping[str, Tensor]:
            batch = normalize_images(images.to(device, torch.float32), config.data.normalize)
            with torch.no_grad(), autocast(config.train, device):
                outputs: dict[str, Tensor] = model(batch.mul_(inside.to(device)))
            return outputs

        return cls(run, specs, config.data.image_size)

    def __call__(self, picture: Picture) -> Prediction:
        """Predict every task for one picture.

        The picture is scaled to fit the model's size, keeping its aspect ratio, and padded symmetrically, as
        in an evaluation with images that are too large [ours].

        Args:
            picture: RGB, uint8, shape (H, W, 3).
        """
        size = (picture.shape[0], picture.shape[1])
        ratio = min(whole / side for whole, side in zip(self.image_size, size, strict=True))
        inner = [max(1, round(side * ratio)) for side in size]
        starts = [(whole - part) // 2 for whole, part in zip(self.image_size, inner, strict=True)]
        rows, columns = (slice(start, start + part) for start, part in zip(starts, inner, strict=True))
        # Pillow scales whole numbers; a float copy of a large picture would take gigabytes.
        fitted = Image.fromarray(picture).resize((inner[1], inner[0]), Image.Resampling.BILINEAR)
        images = torch.zeros(1, 3, *self.image_size, dtype=torch.uint8)
        images[0, :, rows, columns] = torch.from_numpy(np.array(fitted)).permute(2, 0, 1)
        inside = torch.zeros(1, 1, *self.image_size, dtype=torch.bool)
        inside[..., rows, columns] = True
        outputs = self.run(images, inside)
        cut = {
            task: (output[0] if self.specs[task].of_image else output[0, :, rows, columns]).float().cpu()
            for task, output in outputs.items()
        }
        return Prediction(self.specs, cut, size)


def as_label(outputs: Tensor, spec: TaskSpec) -> Tensor:
    """Raw outputs of a decoder in the form of labels.

    Args:
        outputs: Shape (B, C, H, W).
        spec: The task.

    Returns:
        Classes int64 (B, H, W); distances and other single values (B, H, W); normals (B, H, W, 3) of unit
        length; masks as probability (B, H, W); values and labels of several channels (B, H, W, C).
    """
    if spec.kind == "classes":
        return outputs.argmax(1)
    if spec.kind == "normals":
        return normalize(outputs, dim=1).permute(0, 2, 3, 1)
    if spec.kind == "mask":
        outputs = outputs.sigmoid()
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs.permute(0, 2, 3, 1)
