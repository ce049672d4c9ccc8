"""Samples as tensors: what both storages hold, and the input of augmentation.

Shapes: N samples, C channels, H height and W width of ``image_size``.

Bytes per pixel: image 3, and per task 1 for validity plus 1 (classes, mask), 4 (distance, values) or 6
(normals). Distance stays float32: float16 has steps of 8 mm beyond 8 m, and would save one byte in ten.
Normals are float16: an error below 0.05 degrees, finer than the 8-bit files they come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from dtme_search.data.base import Dataset, Sample
from dtme_search.data.batches.resizing import Resizing, fitted_size, resize_label
from dtme_search.data.batches.transfer import move_together
from dtme_search.errors import DataError
from dtme_search.tasks import TargetKind, TaskSpec

_DTYPES: dict[TargetKind, torch.dtype] = {
    "classes": torch.uint8,
    "distance": torch.float32,
    "normals": torch.float16,
    "mask": torch.uint8,
    "values": torch.float32,
}


@dataclass(frozen=True)
class RawSamples:
    """Samples before augmentation, each in the top left corner of its tensor.

    Attributes:
        images: uint8, shape (N, 3, H, W).
        labels: Per task, shape (N, C, H, W), C = 1 for classes; 0 where not valid. H = W = 1 for labels of
            whole images.
        valid: Per task, bool, shape (N, 1, H, W); False outside the image.
        sizes: Height and width of the image in the tensor, int64, shape (N, 2); always on the CPU.
    """

    images: Tensor
    labels: Mapping[str, Tensor]
    valid: Mapping[str, Tensor]
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Sequence[int], tasks: Iterable[str]) -> RawSamples:
        """The samples at ``indices``, with the labels of ``tasks``."""
        rows = torch.tensor(indices, dtype=torch.int64)
        there = move_together({"rows": rows}, self.images.device)["rows"]
        return RawSamples(
            self.images.index_select(0, there),
            {task: self.labels[task].index_select(0, there) for task in tasks},
            {task: self.valid[task].index_select(0, there) for task in tasks},
            self.sizes.index_select(0, rows),
        )

    def to(self, device: torch.device) -> RawSamples:
        """Everything but ``sizes`` on ``device``."""
        return RawSamples(
            self.images.to(device, non_blocking=True),
            {task: label.to(device, non_blocking=True) for task, label in self.labels.items()},
            {task: valid.to(device, non_blocking=True) for task, valid in self.valid.items()},
            self.sizes,
        )

    def pin_memory(self) -> RawSamples:
        """Page-locked copy; the DataLoader calls a method of this name."""
        return RawSamples(
            self.images.pin_memory(),
            {task: label.pin_memory() for task, label in self.labels.items()},
            {task: valid.pin_memory() for task, valid in self.valid.items()},
            self.sizes,
        )


def bytes_per_sample(specs: Mapping[str, TaskSpec], image_size: tuple[int, int]) -> int:
    """Memory of one sample as held in ``RawSamples``."""
    cells = [(3, image_size)] + [
        (1 + _channels(spec) * _DTYPES[spec.kind].itemsize, spec.label_size(image_size))
        for spec in specs.values()
    ]
    return sum(num_bytes * height * width for num_bytes, (height, width) in cells)


def stack_samples(
    samples: Iterable[RawSamples],
    num_samples: int,
    specs: Mapping[str, TaskSpec],
    image_size: tuple[int, int],
    device: torch.device,
) -> RawSamples:
    """Combine single samples into one set of tensors, allocated once, on ``device``."""
    height, width = image_size
    stacked = RawSamples(
        torch.zeros((num_samples, 3, height, width), dtype=torch.uint8, device=device),
        {
            task: torch.zeros(
                (num_samples, _channels(spec), *spec.label_size(image_size)),
                dtype=_DTYPES[spec.kind],
                device=device,
            )
            for task, spec in specs.items()
        },
        {
            task: torch.zeros((num_samples, 1, *spec.label_size(image_size)), dtype=torch.bool, device=device)
            for task, spec in specs.items()
        },
        torch.zeros((num_samples, 2), dtype=torch.int64),
    )
    for index, sample in enumerate(samples):
        h, w = sample.images.shape[-2:]
        stacked.images[index, :, :h, :w] = sample.images[0]
        for task, spec in specs.items():
            rows, columns = spec.label_size((h, w))
            stacked.labels[task][index, :, :rows, :columns] = sample.labels[task][0]
            stacked.valid[task][index, :, :rows, :columns] = sample.valid[task][0]
        stacked.sizes[index] = sample.sizes[0]
    return stacked


def read_sample(
    dataset: Dataset,
    sample_id: str,
    specs: Mapping[str, TaskSpec],
    image_size: tuple[int, int],
    resize: Resizing = "area",
) -> RawSamples:
    """Read one sample as tensors of its own size, reduced if it exceeds ``image_size``.

    A larger image is resized keeping its aspect ratio, bilinear and antialiased, its labels by
    :func:`resize_label`. Distances keep their values, because the whole field of view is kept.

    Raises:
        DataError: From the data set, or if a label does not fit its image or its task.
    """
    sample = dataset.read(sample_id, tuple(specs))
    native = (sample.image.shape[0], sample.image.shape[1])
    height, width = fitted_size(native, image_size)
    resized = (height, width) != native
    picture = sample.image
    if resized:
        picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
    labels, valid = {}, {}
    for task, spec in specs.items():
        label, mask = checked_label(sample, sample_id, spec)
        if resized and not spec.of_image:
            label, mask = resize_label(label, mask, spec, (height, width), resize)
        cleaned = np.where(mask[..., None], label, np.zeros((), label.dtype))
        labels[task] = torch.from_numpy(cleaned).permute(2, 0, 1)[None].to(_DTYPES[spec.kind])
        valid[task] = torch.from_numpy(np.ascontiguousarray(mask))[None, None]
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    return RawSamples(image, labels, valid, torch.tensor([[height, width]]))


def _channels(spec: TaskSpec) -> int:
    return 1 if spec.kind == "classes" else spec.channels


def checked_label(
    sample: Sample, sample_id: str, spec: TaskSpec
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Label of shape (H, W, C) and its mask (H, W), after checks that would otherwise fail on a GPU."""
    label, mask = sample.labels[spec.name], sample.valid[spec.name]
    label = label[..., None] if label.ndim == 2 else label
    size = spec.label_size((sample.image.shape[0], sample.image.shape[1]))
    where = f"sample '{sample_id}', task '{spec.name}'"
    if label.shape != (*size, _channels(spec)) or mask.shape != size:
        raise DataError(
            f"{where}: label must have the size of {'one cell' if spec.of_image else 'its image'} {size} and "
            f"{_channels(spec)} channels, got "
            f"label {label.shape} and mask {mask.shape}. Repair or remove the sample."
        )
    counted = label[mask]
    if spec.kind == "classes" and counted.size and int(counted.max()) >= spec.channels:
        raise DataError(
            f"{where}: classes must be below {spec.channels}, got {int(counted.max())}. "
            "Repair the label or set the number of classes of the data set."
        )
    if counted.dtype.kind == "f" and not np.isfinite(counted).all():
        raise DataError(f"{where}: valid labels must be finite, got NaN or infinity. Repair the label.")
    return label, mask
