"""A size of the tensors that suits the images of a data set [ours].

Shapes: H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from dtme_search.config import DataConfig
from dtme_search.data.folder.dataset import FolderDataset
from dtme_search.data.registry import build_dataset
from dtme_search.errors import DataError

MOST_TOKENS = 1024
"""Tokens of the largest size that is chosen, as 512x512 in patches of 16 in publications."""
_LOOK_AT = 512


def usual_size(config: DataConfig) -> tuple[int, int] | None:
    """Median height and width of the training images of a description; ``None`` for other data sets.

    Of many images an even selection is looked at; their headers only.
    """
    dataset = build_dataset(config, require_complete=False)
    if not isinstance(dataset, FolderDataset):
        return None
    ids = dataset.ids("train")
    sizes = []
    for sample_id in ids[:: max(1, len(ids) // _LOOK_AT)]:
        try:
            sizes.append(dataset.image_size(sample_id))
        except DataError:
            continue  # whoever reads all files will name it
    if not sizes:
        return None
    return round(median(height for height, _ in sizes)), round(median(width for _, width in sizes))


def suitable_size(usual: tuple[int, int], patch_size: int, patches: int = 1) -> tuple[int, int]:
    """A size near that of the images: their aspect kept, not larger than they are, at most ``MOST_TOKENS``.

    Args:
        usual: (H, W) of the images.
        patch_size: Side of a patch in pixels.
        patches: Both sides become a multiple of so many patches.

    Example:
        >>> suitable_size((275, 413), 16), suitable_size((3024, 4032), 16), suitable_size((43, 64), 16)
        ((272, 416), (432, 576), (48, 64))
    """
    step, most = patch_size * patches, MOST_TOKENS * patch_size**2
    shrink = min(1.0, math.sqrt(most / (usual[0] * usual[1])))
    rows, columns = (_around(side * shrink / step) for side in usual)
    sizes = [(row * step, column * step) for row in rows for column in columns]
    # One step is the least, however little is allowed.
    allowed = [size for size in sizes if size[0] * size[1] <= most] or [min(sizes)]
    return min(allowed, key=lambda size: (_distortion(size, usual), -size[0]))


def _around(steps: float) -> Sequence[int]:
    """Whole numbers near ``steps``; above it only if less than half of the last one is padding."""
    low = math.floor(steps)
    return [number for number in (low, low + 1) if number >= 1 and number - steps <= 0.5] or [max(1, low)]


def _distortion(size: tuple[int, int], usual: tuple[int, int]) -> float:
    return abs(math.log(size[0] * usual[1] / (size[1] * usual[0])))
