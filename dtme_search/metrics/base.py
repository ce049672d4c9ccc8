"""What every meter promises, and the checks they share.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from dtme_search.tasks import TaskSpec


class Meter(Protocol):
    """Accumulates one metric over a set of images.

    Pixels where ``valid`` is False have no effect, whatever the prediction or the target holds there. Neither
    has the way the set is cut into batches (integer counts, float64 sums). Sums stay on the device until
    ``compute``, because reading them waits for it.
    """

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a batch; the tensors do not change.

        Args:
            prediction: Raw output of the decoder, any float type, shape (B, C, H, W).
            target: Classes int64 (B, H, W); every other kind float32 (B, C, H, W).
            valid: Where the target counts, bool (B, 1, H, W).

        Raises:
            ValueError: If the shapes do not match.
        """
        ...

    def compute(self) -> float:
        """Metric over everything added so far, in the unit of the task.

        Raises:
            ValueError: If there was no valid pixel.
        """
        ...

    def reset(self) -> None:
        """Reset to the state of a new meter."""
        ...


def check_batch(spec: TaskSpec, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
    """Refuse shapes that would broadcast to a wrong number.

    Raises:
        ValueError: Names the tensor, the shape it must have and the shape it has.
    """
    if prediction.dim() != 4 or prediction.shape[1] != spec.channels:
        raise ValueError(
            f"meter of task '{spec.name}': prediction must have shape (B, {spec.channels}, H, W), "
            f"got {tuple(prediction.shape)}. Pass the raw decoder output."
        )
    num_images, _, height, width = prediction.shape
    expected = (num_images, height, width) if spec.kind == "classes" else tuple(prediction.shape)
    for name, tensor, shape in (
        ("target", target, expected),
        ("valid", valid, (num_images, 1, height, width)),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"meter of task '{spec.name}': {name} must have shape {shape}, got {tuple(tensor.shape)}. "
                "Pass targets and masks at the size of the prediction."
            )


def no_valid_pixels(spec: TaskSpec) -> ValueError:
    """The error of ``compute`` if nothing was measured."""
    return ValueError(
        f"meter of task '{spec.name}': no valid {spec.labelled_thing}s, so {spec.metric} is not defined. "
        f"Update it with at least one labelled {spec.labelled_thing}."
    )


def pick(mask: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """The values where ``mask`` is true, for sums over them; ``mask`` has their leading shape.

    Selecting on a device would wait for it to learn how many there are. There all values are returned, with 0
    where they do not count, which is right for every sum of terms that are 0 at 0.
    """
    if mask.device.type == "cpu":
        return tuple(tensor[mask] for tensor in values)
    return tuple(
        torch.where(mask.view(*mask.shape, *[1] * (tensor.ndim - mask.ndim)), tensor, 0) for tensor in values
    )


def count_values(values: Tensor, mask: Tensor, num_values: int) -> Tensor:
    """How often each of 0 .. ``num_values`` - 1 occurs where ``mask`` is true, int64 (num_values,).

    No other value may occur there. On a device it scatters, because ``bincount`` would wait for the device.
    """
    if values.device.type == "cpu":
        return torch.bincount(values[mask], minlength=num_values)
    places = torch.where(mask, values, num_values).flatten().long()
    counts = torch.zeros(num_values + 1, dtype=torch.int64, device=values.device)
    return counts.scatter_add_(0, places, torch.ones_like(places))[:num_values]


def bounding_boxes(masks_BHW: Tensor) -> list[tuple[slice, slice] | None]:
    """Rows and columns that contain all of each mask, ``None`` for an empty one. Waits for the device."""
    ends = []
    for along in (masks_BHW.any(2), masks_BHW.any(1)):
        hits = along.int()
        ends += [hits.argmax(1), hits.shape[1] - hits.flip(1).argmax(1)]
    table = torch.stack([masks_BHW.flatten(1).any(1).long(), *ends]).T.tolist()
    return [
        (slice(top, bottom), slice(left, right)) if some else None for some, top, bottom, left, right in table
    ]
