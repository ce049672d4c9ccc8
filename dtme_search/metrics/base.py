"""What every meter promises, and the checks they share.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from dtme_search.tasks import TaskSpec


class Meter(Protocol):
    """Accumulates one metric over a set of images.

    Pixels where ``valid`` is False change nothing, whatever the prediction or the target holds there;
    how the set is cut into batches changes nothing either (integer counts, float64 sums).
    """

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a batch; the tensors are left as they are.

        Args:
            prediction: Raw output of the decoder, any float type, shape (B, C, H, W).
            target: Classes int64 (B, H, W); every other kind float32 (B, C, H, W).
            valid: Where the target counts, bool (B, 1, H, W).

        Raises:
            ValueError: If the shapes do not belong together.
        """
        ...

    def compute(self) -> float:
        """Metric over everything added so far, in the unit of the task.

        Raises:
            ValueError: If there was no valid pixel.
        """
        ...

    def reset(self) -> None:
        """Forget everything, as a new meter."""
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
    """The error of ``compute`` when nothing was measured."""
    return ValueError(
        f"meter of task '{spec.name}': no valid pixels, so {spec.metric} is not defined. "
        "Update it with at least one labelled pixel."
    )


def bounding_box(mask_HW: Tensor) -> tuple[slice, slice]:
    """Rows and columns that hold all of a mask with at least one pixel."""
    rows, columns = mask_HW.any(1).nonzero().flatten(), mask_HW.any(0).nonzero().flatten()
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
