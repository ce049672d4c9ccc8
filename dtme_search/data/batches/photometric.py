"""Photometric distortion of a batch of images, as SSD and the segmentation toolkits do it.

Shapes: B images, H height, W width. Images are float, 0 to 255.

Differences from the usual code on 8-bit OpenCV images [ours]: values stay fractional (OpenCV truncates to
whole numbers after each step, and keeps hue in steps of 2 degrees and saturation in steps of 1/255), and
saturation and hue share one conversion to HSV. The steps, their order, their ranges and the clipping to
0..255 are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class ColorDraws(Protocol):
    """Values of one batch, each of shape (B,), on the CPU; neutral ones change nothing."""

    @property
    def brightness(self) -> Tensor:
        """Added to every channel; 0 is neutral."""
        ...

    @property
    def contrast(self) -> Tensor:
        """Factor of every channel; 1 is neutral."""
        ...

    @property
    def contrast_first(self) -> Tensor:
        """Bool: contrast before saturation and hue, or after them."""
        ...

    @property
    def saturation(self) -> Tensor:
        """Factor of the saturation in HSV; 1 is neutral."""
        ...

    @property
    def hue(self) -> Tensor:
        """Degrees added to the hue; 0 is neutral."""
        ...


@dataclass(frozen=True)
class ColorChanges:
    """The draws of a batch in the form that the device needs.

    Attributes:
        brightness: Added to every channel, shape (B,).
        before: Factor before saturation and hue, shape (B,).
        after: Factor after them, shape (B,).
        chosen: Positions of the images whose saturation or hue changes, int64, shape (n,).
        saturation: Factor of each of those, shape (n,).
        hue: Sextants of 60 degrees added to the hue of each of those, shape (n,).
    """

    brightness: Tensor
    before: Tensor
    after: Tensor
    chosen: Tensor
    saturation: Tensor
    hue: Tensor

    @classmethod
    def of(cls, draws: ColorDraws) -> ColorChanges:
        """Computed where the draws are; on the CPU, selecting images waits for nothing."""
        ones = torch.ones_like(draws.contrast)
        chosen = ((draws.saturation != 1.0) | (draws.hue != 0.0)).nonzero()[:, 0]
        return cls(
            brightness=draws.brightness,
            before=torch.where(draws.contrast_first, draws.contrast, ones),
            after=torch.where(draws.contrast_first, ones, draws.contrast),
            chosen=chosen,
            saturation=draws.saturation[chosen],
            hue=draws.hue[chosen] / 60.0,
        )


def distort_colors(images: Tensor, changes: ColorChanges) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image by its own values.

    Args:
        images: Float, 0 to 255, shape (B, 3, H, W).
        changes: Values per image, on the device of the images. An image with neutral values is returned
            unchanged, bit for bit.

    Returns:
        A new tensor, 0 to 255.
    """

    def per_image(values: Tensor) -> Tensor:
        return values.to(images.dtype)[:, None, None, None]

    images = (images + per_image(changes.brightness)).clamp_(0.0, 255.0)
    images = images.mul_(per_image(changes.before)).clamp_(0.0, 255.0)
    chosen = changes.chosen
    if len(chosen):
        images[chosen] = _shift_hsv(images[chosen], per_image(changes.saturation), per_image(changes.hue))
    return images.mul_(per_image(changes.after)).clamp_(0.0, 255.0)


def _shift_hsv(images: Tensor, saturation: Tensor, hue_sextants: Tensor) -> Tensor:
    """Multiply the saturation (at most 1 afterwards) and rotate the hue, in sextants of 60 degrees."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    safe = chroma.clamp(min=1e-6)
    hue = torch.where(
        value == red,
        (green - blue).div_(safe),
        torch.where(value == green, (blue - red).div_(safe).add_(2.0), (red - green).div_(safe).add_(4.0)),
    )
    hue += hue_sextants[:, 0]
    chroma = torch.minimum(chroma.mul_(saturation[:, 0]), value)
    # A channel is the value minus a trapezoid of the hue that is full for two of the six sextants.
    channels = []
    for offset in (5.0, 3.0, 1.0):
        position = (hue + offset).remainder_(6.0)
        trapezoid = torch.minimum(position, 4.0 - position).clamp_(0.0, 1.0)
        channels.append(value - trapezoid.mul_(chroma))
    return torch.stack(channels, 1)
