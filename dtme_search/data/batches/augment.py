"""Augmentation of a whole batch on the device: scale, crop, mirror, colour, normalise, pad.

The pipeline is that of ATRC, used unchanged by InvPT and TaskPrompter: zoom by s (depth divided by s), random
crop redrawn while one class of semseg dominates it, mirror (x of normals negated), photometric distortion,
normalisation, symmetric padding. Here it is a single look-up per tensor: every output pixel knows its place
in the source, so no zoomed image is ever built. Evaluation uses the same code with neutral draws. Differences
from those codes [ours]: labels are read at the pixel centre, as images are (OpenCV's nearest looks up to half
a pixel to the top left); a crop is judged on 32 x 32 of its pixels; invalid pixels are a boolean mask, and
their targets are 0.

Shapes: B images, T candidate crops, C channels, H and W of the source tensors, Y and X rows and columns
of the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dtme_search.config import AugmentConfig, DataConfig
from dtme_search.data.base import Batch
from dtme_search.data.batches.photometric import ColorChanges, distort_colors
from dtme_search.data.batches.tensors import RawSamples
from dtme_search.data.batches.transfer import move_together
from dtme_search.tasks import TargetKind, TaskSpec

_STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
_CROP_GRID = 32


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch, on the CPU, so that they are equal on every device.

    Attributes:
        scale: Zoom, float64, shape (B,).
        crops: Place of each candidate crop in its free range, in [0, 1), rows then columns,
            float64, shape (B, T, 2).
        flip: Bool, shape (B,).
        brightness: Added to the image, shape (B,).
        contrast: Factor, shape (B,).
        contrast_first: Bool, whether contrast comes before saturation and hue, shape (B,).
        saturation: Factor, shape (B,).
        hue: Degrees, shape (B,).
    """

    scale: Tensor
    crops: Tensor
    flip: Tensor
    brightness: Tensor
    contrast: Tensor
    contrast_first: Tensor
    saturation: Tensor
    hue: Tensor

    @classmethod
    def random(cls, config: AugmentConfig, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw for each sample independently.

        Brightness changes by up to 32 of 255, contrast and saturation by factors of 0.5 to 1.5, hue by
        -36 to 34 degrees in the steps of 2 that 8-bit OpenCV has.
        """

        def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
            drawn = torch.rand(batch_size, *shape, dtype=torch.float64, generator=generator)
            return low + (high - low) * drawn

        def sometimes(values: Tensor, neutral: float) -> Tensor:
            chosen = uniform() < config.photometric
            return torch.where(chosen, values, neutral).float()

        low, high = config.scale
        return cls(
            scale=uniform(low=low, high=high),
            crops=uniform(config.crop_tries, 2),
            flip=uniform() < config.flip,
            brightness=sometimes(uniform(low=-32.0, high=32.0), 0.0),
            contrast=sometimes(uniform(low=0.5, high=1.5), 1.0),
            contrast_first=uniform() < 0.5,
            saturation=sometimes(uniform(low=0.5, high=1.5), 1.0),
            hue=sometimes(2.0 * uniform(low=-18.0, high=18.0).floor(), 0.0),
        )

    @classmethod
    def neutral(cls, batch_size: int) -> Draws:
        """Draws that change nothing: what evaluation uses."""
        zeros, ones = torch.zeros(batch_size), torch.ones(batch_size)
        never = torch.zeros(batch_size, dtype=torch.bool)
        crops = torch.zeros(batch_size, 1, 2, dtype=torch.float64)
        return cls(
            scale=ones.double(),
            crops=crops,
            flip=never,
            brightness=zeros,
            contrast=ones,
            contrast_first=never,
            saturation=ones,
            hue=zeros,
        )


def restore_colours(images: Tensor, config: DataConfig) -> Tensor:
    """Undo the normalisation of ``Batch.images``: uint8 RGB of the same shape (B, 3, H, W)."""
    mean, std = (
        torch.tensor(values, device=images.device)[:, None, None] for values in _STATISTICS[config.normalize]
    )
    return (255 * (images * std + mean)).round().clamp(0, 255).to(torch.uint8)


def prepare_batch(
    raw: RawSamples,
    indices: Tensor,
    draws: Draws,
    specs: Mapping[str, TaskSpec],
    config: DataConfig,
    crop_task: str | None = None,
) -> Batch:
    """Turn raw samples into a batch of ``data.image_size``.

    Where the source has no pixel (a zoomed image smaller than the crop is padded symmetrically, floor on top
    and left) validity is False, targets are 0 and the image has the mean colour, which is 0 after
    normalisation.

    Args:
        raw: B samples on the device that is to hold the batch.
        indices: Positions in the split, shape (B,); passed through.
        draws: What to do to each sample.
        specs: Tasks whose targets are needed.
        config: Output size, normalisation and crop rule.
        crop_task: Task with classes whose labels in ``raw`` judge a crop, whether it is trained or not;
            ``None`` switches the rule off, so that the first candidate is used.
    """
    # Truncated as int(size * s) does; in float64 on the CPU, so that every device agrees.
    scaled = (raw.sizes * draws.scale[:, None]).long().clamp_(min=1)
    free = (scaled - torch.tensor(config.image_size)).clamp_(min=0)
    colors = ColorChanges.of(draws)
    mean, deviation = image_statistics(config.normalize)
    moved = move_together(
        {
            "indices": indices,
            "sizes": raw.sizes,
            "scaled": scaled,
            "candidates": (draws.crops * (free[:, None] + 1)).long(),
            "flip": draws.flip,
            "scale": draws.scale.float(),
            "mean": mean,
            "deviation": deviation,
            **vars(colors),
        },
        raw.images.device,
    )
    colors = ColorChanges(**{name: moved[name] for name in vars(colors)})
    sizes, scaled, candidates, flip = (moved[name] for name in ("sizes", "scaled", "candidates", "flip"))
    offsets = candidates[:, 0]
    if crop_task is not None:
        labels, counted = raw.labels[crop_task], raw.valid[crop_task]
        offsets = _choose_crops(labels, counted, sizes, scaled, candidates, config)
    upright = torch.zeros_like(flip)
    rows = _sample_axis(config.image_size[0], sizes[:, 0], scaled[:, 0], offsets[:, 0], upright)
    columns = _sample_axis(config.image_size[1], sizes[:, 1], scaled[:, 1], offsets[:, 1], flip)
    inside = (rows.inside[:, :, None] & columns.inside[:, None, :])[:, None]
    nearest = _pixels(rows.nearest, columns.nearest, raw.images)

    targets, valid = {}, {}
    for task, spec in specs.items():
        label, counts = raw.labels[task], raw.valid[task]
        if not spec.of_image:
            label, counts = _look_up(label, nearest) * inside, _look_up(counts, nearest) & inside
        targets[task], valid[task] = _target(label, spec.kind, moved["scale"], flip), counts
    if bool((draws.scale == 1).all()):
        # Bilinear at pixel centres, without rounding of coordinates: the image itself, bit for bit.
        images = _look_up(raw.images, nearest).float()
    else:
        images = _bilinear(raw.images, rows, columns)
    images = distort_colors(images, colors).sub_(moved["mean"]).div_(moved["deviation"])
    return Batch(images.mul_(inside), targets, valid, moved["indices"])


def _target(label: Tensor, kind: TargetKind, scale: Tensor, flip: Tensor) -> Tensor:
    """A moved label (B, C, Y, X) as the target of a loss, after zoom and mirror; both have shape (B,)."""
    if kind == "classes":
        return label[:, 0].long()
    target = label.float()
    if kind == "distance":
        return target / scale[:, None, None, None]
    if kind == "normals":
        target[:, 0] *= torch.where(flip, -1.0, 1.0)[:, None, None]
    return target


@dataclass(frozen=True)
class _AxisSamples:
    """Where each output position on one axis is in the source, shape (B, Y) each.

    Attributes:
        nearest: Index of the pixel it falls into.
        exact: The same place in units of pixels, 0 at the centre of the first one, never beyond a centre.
        inside: Whether the source has a pixel there.
    """

    nearest: Tensor
    exact: Tensor
    inside: Tensor


def _sample_axis(length: int, size: Tensor, scaled: Tensor, offset: Tensor, flip: Tensor) -> _AxisSamples:
    """Sampling positions for output pixels 0 .. ``length`` - 1; every other argument has shape (B,)."""
    size, scaled, offset, flip = size[:, None], scaled[:, None], offset[:, None], flip[:, None]
    crop = scaled.clamp(max=length)
    position = torch.arange(length, device=size.device)[None] - (length - crop) // 2
    inside = (position >= 0) & (position < crop)
    position = torch.where(flip, crop - 1 - position, position) + offset
    # Pixel i of n covers [i, i + 1) / n: in integers, so that every device picks the same pixel.
    twice = (2 * position.clamp(min=0).minimum(scaled - 1) + 1) * size
    exact = (twice - scaled).float() / (2 * scaled)
    return _AxisSamples(twice // (2 * scaled), exact.clamp(min=0).minimum(size - 1), inside)


def _pixels(rows: Tensor, columns: Tensor, source: Tensor) -> Tensor:
    """Positions (B, Y, X) in the flattened pixels of ``source`` (B, C, H, W), from (B, Y) and (B, X)."""
    return rows[:, :, None] * source.shape[-1] + columns[:, None, :]


def _look_up(source: Tensor, pixels: Tensor) -> Tensor:
    """Values of ``source`` (B, C, H, W) at ``pixels`` (B, Y, X), shape (B, C, Y, X)."""
    channels = source.shape[1]
    index = pixels.flatten(1)[:, None].expand(-1, channels, -1)
    return source.flatten(2).gather(2, index).view(-1, channels, *pixels.shape[1:])


def _bilinear(images: Tensor, rows: _AxisSamples, columns: _AxisSamples) -> Tensor:
    """Interpolated float values of ``images`` at every (row, column), shape (B, C, Y, X)."""
    height, width = images.shape[-2:]
    grid = torch.empty(*rows.exact.shape, columns.exact.shape[1], 2, device=images.device)
    grid[..., 0] = ((2 * columns.exact + 1) / width - 1)[:, None, :]
    grid[..., 1] = ((2 * rows.exact + 1) / height - 1)[:, :, None]
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def _choose_crops(
    labels: Tensor, valid: Tensor, sizes: Tensor, scaled: Tensor, candidates: Tensor, config: DataConfig
) -> Tensor:
    """The first candidate that no class dominates, else the last one; offsets of shape (B, 2).

    All candidates are judged at once, each on a regular grid of its pixels. The limit on the share of the
    largest class already implies at least two classes; a crop without labels does not pass.

    Args:
        labels: uint8 classes, shape (B, 1, H, W).
        valid: Where they count, same shape.
        sizes: Source height and width, shape (B, 2).
        scaled: The same after the zoom.
        candidates: Offsets in the zoomed image, shape (B, T, 2).
        config: Output size and largest share.
    """
    num_samples, num_candidates = candidates.shape[:2]
    axes = []
    for axis, length in enumerate(config.image_size):
        grid = min(length, _CROP_GRID)
        size, zoomed = sizes[:, axis, None, None], scaled[:, axis, None, None]
        steps = 2 * torch.arange(grid, device=labels.device) + 1
        position = steps * zoomed.clamp(max=length) // (2 * grid) + candidates[:, :, axis, None]
        axes.append(((2 * position + 1) * size // (2 * zoomed)).flatten(0, 1))
    shape = (num_samples, num_candidates, -1)
    pixels = _pixels(axes[0], axes[1], labels).view(num_samples, -1, axes[1].shape[-1])
    classes = _look_up(labels, pixels).view(shape).long()
    counted = _look_up(valid, pixels).view(shape).int()
    counts = counted.new_zeros(num_samples, num_candidates, 256).scatter_add_(2, classes, counted)
    passed = counts.amax(2) < config.augment.crop_max_class_fraction * counts.sum(2)
    first = torch.where(passed.any(1), passed.int().argmax(1), num_candidates - 1)
    return candidates[torch.arange(num_samples, device=labels.device), first]


def normalize_images(images: Tensor, statistics: str) -> Tensor:
    """Normalise images (B, 3, H, W) of 0..255 in place; ``statistics`` is ``data.normalize``."""
    mean, deviation = (values.to(images) for values in image_statistics(statistics))
    return images.sub_(mean).div_(deviation)


def image_statistics(name: str) -> tuple[Tensor, Tensor]:
    """Mean and deviation of images of 0..255, float32 (1, 3, 1, 1) each."""
    mean, deviation = (255.0 * torch.tensor(values).view(1, 3, 1, 1) for values in _STATISTICS[name])
    return mean, deviation
