"""Labels at their own size, for measuring predictions there instead of at the size of the tensors.

Shapes: C channels, (H, W) of an image as its file has it, (h, w) of that image in a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dtme_search.data.base import Dataset
from dtme_search.data.batches.resizing import fitted_size
from dtme_search.data.batches.tensors import checked_label
from dtme_search.data.reading.threads import map_in_threads
from dtme_search.tasks import TaskSpec


@dataclass(frozen=True)
class OwnLabels:
    """The labels of one image, on the device, in the form of a batch of one.

    Attributes:
        targets: Task -> classes int64 (1, H, W), else float32 (1, C, H, W); 0 where not valid.
        valid: Task -> bool (1, 1, H, W).
        window: Rows and columns of a tensor that show the image, (h, w).
        size: (H, W).
    """

    targets: Mapping[str, Tensor]
    valid: Mapping[str, Tensor]
    window: tuple[slice, slice]
    size: tuple[int, int]

    def enlarged(self, output: Tensor) -> Tensor:
        """Outputs (1, C, tensor height, tensor width) without padding at the size of the labels, bilinear;
        those about the whole image (1, C, 1, 1) as they are.
        """
        if output.shape[-2:] == (1, 1):
            return output.float()
        cut = output[:, :, *self.window].float()
        if cut.shape[-2:] == self.size:
            return cut
        return F.interpolate(cut, self.size, mode="bilinear", align_corners=False)


def read_own_labels(
    dataset: Dataset,
    ids: Sequence[str],
    specs: Mapping[str, TaskSpec],
    image_size: tuple[int, int],
    device: torch.device,
) -> Iterator[OwnLabels]:
    """The labels of ``ids`` in order, read by several threads.

    Raises:
        DataError: If a file is missing or broken.
    """

    def read(sample_id: str) -> OwnLabels:
        sample = dataset.read(sample_id, tuple(specs))
        size = (sample.image.shape[0], sample.image.shape[1])
        fitted = fitted_size(size, image_size)
        starts = [(whole - part) // 2 for whole, part in zip(image_size, fitted, strict=True)]
        targets, valid = {}, {}
        for task, spec in specs.items():
            label, mask = checked_label(sample, sample_id, spec)
            cleaned = torch.from_numpy(np.where(mask[..., None], label, np.zeros((), label.dtype)))
            of_batch = cleaned.permute(2, 0, 1)[None]
            targets[task] = of_batch[:, 0].long() if spec.kind == "classes" else of_batch.float()
            valid[task] = torch.from_numpy(np.ascontiguousarray(mask))[None, None]
        rows, columns = (slice(start, start + part) for start, part in zip(starts, fitted, strict=True))
        return OwnLabels(targets, valid, (rows, columns), size)

    for found in map_in_threads(read, ids):
        yield OwnLabels(
            {task: target.to(device) for task, target in found.targets.items()},
            {task: mask.to(device) for task, mask in found.valid.items()},
            found.window,
            found.size,
        )
