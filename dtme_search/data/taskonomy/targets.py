"""What the files of Taskonomy contain and what is trained on: one row per domain.

The targets are the canonical ones of the Taskonomy task bank (Zamir et al., CVPR 2018), with two exceptions:
unsupervised segments are regressed by their id, as the authors of DTME do in their other code, where the task
bank learns an embedding of 64 numbers; and normals have length 1.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dtme_search.data.reading.files import Bools
from dtme_search.tasks import TaskSpec, normals, regression

Floats = npt.NDArray[np.float32]
Stored = npt.NDArray[Any]

MASK_DOMAIN = "depth_zbuffer"
"""Domain that shows where the sensor saw a mesh."""

_UNSEEN = 64500
"""16-bit depth from which on nothing was seen; a hole is written as 65535."""
_LARGEST = 65535
_EDGE_BLUR = 4.0
"""Standard deviation in pixels of a 512x512 image."""
_CURVATURE_MEAN = np.array([123.572, 120.1], dtype=np.float32)
_CURVATURE_DEVIATION = np.array([31.922, 21.658], dtype=np.float32)


@dataclass(frozen=True)
class Domain:
    """One kind of label file.

    Attributes:
        folder: Name of its folder and, nearly always, of the domain in its file names.
        old_folder: Name in older copies.
        spec: The task made of it.
        bits: Bits of a pixel of its pngs.
        masked: Whether it counts only where a mesh was seen.
        decode: Stored numbers -> target, float32 (H, W) or (H, W, C).
    """

    folder: str
    old_folder: str | None
    spec: TaskSpec
    bits: Literal[8, 16, 24]
    masked: bool
    decode: Callable[[Stored], Floats]


def seen_in(depth: Stored, margin: int) -> Bools:
    """Where a mesh was seen, (H, W): stored depth below 64500, ``margin`` pixels away from any hole.

    Without a margin this is the mask of the task bank; values at the edge of a hole mix both sides.
    """
    seen = depth < _UNSEEN
    if margin == 0 or seen.all():
        return seen
    shrunk: Bools = ndimage.minimum_filter(seen, 2 * margin + 1, mode="constant", cval=True)
    return shrunk


def _log_depth(stored: Stored) -> Floats:
    """log(1 + d) / log(65536), d in steps of 1/512 m."""
    logarithm: Floats = np.log1p(stored, dtype=np.float32)
    return logarithm / np.float32(math.log(_LARGEST + 1))


def _ramp(stored: Stored, high: float, full: int = _LARGEST) -> Floats:
    """[0, ``high``] of the full range to [-1, 1], linear beyond."""
    return stored.astype(np.float32) * np.float32(2.0 / (high * full)) - 1


def _occlusion_edges(stored: Stored) -> Floats:
    blurred: Floats = ndimage.gaussian_filter(_ramp(stored, 0.00625), _EDGE_BLUR)
    return blurred


def _directions(stored: Stored) -> Floats:
    vectors = stored.astype(np.float32) * np.float32(2 / 255) - 1
    # No three integers give a vector of length 0.
    unit: Floats = vectors / np.sqrt(np.square(vectors).sum(-1, keepdims=True))
    return unit


def _curvatures(stored: Stored) -> Floats:
    return (stored[..., :2] - _CURVATURE_MEAN) / _CURVATURE_DEVIATION


DOMAINS: dict[str, Domain] = {
    row.spec.name: row
    for row in (
        Domain("depth_euclidean", "mist", regression("depth_euclidean"), 16, True, _log_depth),
        Domain("depth_zbuffer", "depth", regression("depth_zbuffer"), 16, True, _log_depth),
        Domain("edge_occlusion", "edge", regression("edge_occlusion"), 16, True, _occlusion_edges),
        Domain(
            "edge_texture",
            "edge2d",
            regression("edge_texture"),
            16,
            False,
            lambda stored: np.minimum(_ramp(stored, 0.08), 1),
        ),
        Domain(
            "keypoints2d",
            "keypoint2d",
            regression("keypoints2d"),
            16,
            False,
            lambda stored: np.minimum(_ramp(stored, 0.005), 1),
        ),
        Domain(
            "keypoints3d", "keypoint", regression("keypoints3d"), 16, True, lambda stored: _ramp(stored, 1.0)
        ),
        Domain("normal", None, normals(), 24, True, _directions),
        Domain(
            "principal_curvature",
            "curvature",
            regression("principal_curvature", 2, "mse", "rmse"),
            24,
            True,
            _curvatures,
        ),
        Domain(
            "reshading",
            "reshade",
            regression("reshading"),
            24,
            True,
            lambda stored: _ramp(stored[..., 0], 1.0, 255),
        ),
        Domain(
            "segment_unsup2d",
            "segment2d",
            regression("segment_unsup2d"),
            8,
            False,
            lambda stored: _ramp(stored, 1.0, 255),
        ),
        Domain(
            "segment_unsup25d",
            "segment25d",
            regression("segment_unsup25d"),
            8,
            False,
            lambda stored: _ramp(stored, 1.0, 255),
        ),
    )
}
"""Task -> domain: DE, DZ, EO, ET, Key2D, Key3D, N, PC, R, S2D and S25D of the papers."""
