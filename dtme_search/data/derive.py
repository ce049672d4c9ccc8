"""Labels that a data set lacks, computed from those it has: normals from depth, edges from regions.

Shapes: H height, W width. The papers use published labels and say nothing about deriving them. Both methods
here are ours, and figures measured on their output can only be compared with each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dtme_search.thinning import thin

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

DERIVE_VERSION = 1
"""Raise it whenever the same depth or labels would give other normals or edges."""

_FOCAL_UNIT = 260.0
"""Focal length in pixels, that of a Kinect at 320x240, to which the radii below refer."""
_FIT_RADII = (3, 7, 15)
"""Radii of the square windows in which planes are fitted."""
_SENSOR_NOISE = 1.5e-3
"""Standard deviation of a Kinect's inverse depth, 1/m: its disparity error does not depend on distance
(Khoshelham and Elberink, Sensors 2012: 1.4e-3)."""
_LEAST_TRUST = 1e-9
"""Keeps the weights of windows within the precision of running sums."""
_OWN_TOLERANCE = 2.5
_LARGEST_MISS = 4.0
"""Noise levels by which a plane may miss its pixel; beyond that the pixel is on a depth discontinuity."""


@dataclass(frozen=True)
class Camera:
    """Pinhole camera in pixels of one image size; pixel centres lie at half-integers."""

    focal_x: float
    focal_y: float
    centre_x: float
    centre_y: float

    def rays(self, height: int, width: int) -> tuple[Floats, Floats]:
        """Slopes x/z and y/z of the rays through the pixel centres, each (H, W)."""
        x = (np.arange(width) + 0.5 - self.centre_x) / self.focal_x
        y = (np.arange(height) + 0.5 - self.centre_y) / self.focal_y
        slopes_x, slopes_y = np.meshgrid(x, y)
        return slopes_x, slopes_y


def normals_from_depth(
    depth: npt.NDArray[Any], valid: Bools, camera: Camera, depth_step: float = 0.0
) -> tuple[npt.NDArray[np.float32], Bools]:
    """Surface normals by least-squares planes through windows of the depth map (ours).

    A plane is linear in inverse depth: with slopes x, y of the ray, 1/z = a x + b y + c, and its normal is
    (a, b, c) up to length. Inverse depth also has the same noise everywhere, so plain least squares is the
    right fit. Every window that contains a pixel proposes its plane, at three sizes. The proposals are
    averaged with weights that fall with the fourth power of ``1 + residual variance / noise variance``:
    windows across a discontinuity lose to those on one side of it. The variance of the slopes falls with the
    fourth power of the radius, so large windows win as long as they fit.

    Args:
        depth: Distance along the optical axis in metres, shape (H, W).
        valid: Where it was measured, shape (H, W).
        camera: Intrinsics at this size.
        depth_step: Step in metres to which depth was rounded; 0 if it was not.

    Returns:
        Unit normals (H, W, 3) in the camera frame (x right, y down, z away), pointing towards the camera; and
        where they count (H, W): not where depth is invalid, too few neighbours are valid, or the plane misses
        the pixel by more than four noise levels. Elsewhere they are 0.

    Raises:
        ValueError: If depth and valid do not share one shape (H, W).
    """
    if depth.ndim != 2 or depth.shape != valid.shape:
        raise ValueError(f"depth and valid must be of one shape (H, W), got {depth.shape} and {valid.shape}")
    x, y = camera.rays(*depth.shape)
    inverse = np.where(valid, 1 / np.where(valid, depth, 1.0), 0.0)
    noise = np.hypot(_SENSOR_NOISE, depth_step / np.sqrt(12) * inverse**2)
    known = valid.astype(np.float64)
    moments = np.stack(
        [known, x, y, x * x, x * y, y * y, inverse, inverse * x, inverse * y, inverse * inverse]
    )
    moments[1:6] *= known

    plane_sum, weight_sum = np.zeros((3, *depth.shape)), np.zeros(depth.shape)
    for base_radius in _FIT_RADII:
        radius = max(1, round(base_radius * camera.focal_x / _FOCAL_UNIT))
        planes, trust = _fit_windows(moments, radius, camera, noise)
        plane, weight = _average_over_windows(planes, trust, radius)
        miss = _inverse_depth(plane, x, y) - inverse
        weight *= _falling(np.square(miss / (_OWN_TOLERANCE * noise))) * float(base_radius) ** 4
        plane_sum += weight * plane
        weight_sum += weight

    plane = plane_sum / np.where(weight_sum > 0, weight_sum, 1.0)
    miss = np.abs(_inverse_depth(plane, x, y) - inverse)
    length = np.sqrt(np.square(plane).sum(0))
    fits = valid & (length > 0) & (miss <= _LARGEST_MISS * noise)
    # (a, b, c) points along the ray, away from the camera: 1/z is positive on the visible plane.
    normals = np.where(fits, -plane / np.where(fits, length, 1.0), 0.0)
    return np.ascontiguousarray(normals.transpose(1, 2, 0), dtype=np.float32), fits


def edges_from_labels(
    labels: npt.NDArray[Any], crack_radius: int, smallest_region: int = 1
) -> tuple[npt.NDArray[np.uint8], Bools]:
    """Boundaries of label regions, one pixel wide (ours).

    A region is a connected part of one class. Annotators leave thin unlabelled cracks between regions, also
    between two objects of one class. Regions first grow into cracks, so that a crack becomes one line and not
    two. The unlabelled areas that remain are wide: their outline is an edge, their inside is unknown.

    Args:
        labels: Class ids, 0 for unlabelled, shape (H, W).
        crack_radius: Unlabelled strips at most twice this many pixels wide are cracks.
        smallest_region: Regions of fewer pixels are specks and count as unlabelled.

    Returns:
        Edges uint8 (H, W) of 0 and 1, and where they count (H, W): everywhere except inside unlabelled areas.

    Raises:
        ValueError: If labels are not integers of shape (H, W), or ``crack_radius`` is below 0.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers of shape (H, W), got {labels.dtype} {labels.shape}")
    if crack_radius < 0:
        raise ValueError(f"crack_radius must be at least 0, got {crack_radius}")
    regions = _close_cracks(_regions(labels, smallest_region), crack_radius)
    edge = np.zeros(labels.shape, dtype=np.bool_)
    edge[:, :-1] |= regions[:, :-1] != regions[:, 1:]
    edge[:-1] |= regions[:-1] != regions[1:]
    edge = thin(edge)
    return edge.astype(np.uint8), (regions > 0) | edge


def _fit_windows(
    moments: Floats, radius: int, camera: Camera, noise: Floats
) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Plane (3, H, W) of the window around each pixel, and how far to trust it (H, W), 0 for not at all."""
    share, x, y, xx, xy, yy, w, xw, yw, ww = _window_means(moments, radius)
    count = np.where(share > 0, share, 1.0)
    x, y, w = x / count, y / count, w / count
    xx, xy, yy = xx / count - x * x, xy / count - x * y, yy / count - y * y
    xw, yw, ww = xw / count - x * w, yw / count - y * w, ww / count - w * w
    determinant = xx * yy - xy * xy
    full_window = (radius * (radius + 1) / 3) ** 2 / (camera.focal_x * camera.focal_y) ** 2
    solvable = (share > 0.2) & (determinant > 0.05 * full_window)
    determinant = np.where(solvable, determinant, 1.0)
    a = (yy * xw - xy * yw) / determinant
    b = (xx * yw - xy * xw) / determinant
    residual = np.maximum(ww - a * xw - b * yw, 0.0)
    trust = np.maximum(_falling(residual / np.square(noise)), _LEAST_TRUST) * solvable
    return np.stack([a, b, w - a * x - b * y]), trust


def _average_over_windows(planes: Floats, trust: Floats, radius: int) -> tuple[Floats, Floats]:
    """Mean of the planes of all windows that contain a pixel, weighted by trust, and the mean trust."""
    *sums, weight = _window_means(np.concatenate([trust * planes, trust[None]]), radius)
    weight = np.where(weight > 1e-4 * _LEAST_TRUST, weight, 0.0)
    return np.stack(sums) / np.where(weight > 0, weight, 1.0), weight


def _window_means(images: Floats, radius: int) -> Floats:
    # One call per image is faster than one call with three axes.
    return np.stack(
        [ndimage.uniform_filter(image, 2 * radius + 1, mode="constant", cval=0.0) for image in images]
    )


def _falling(excess: Floats) -> Floats:
    squared: Floats = np.square(1 + excess)
    return 1 / np.square(squared)


def _inverse_depth(plane: Floats, x: Floats, y: Floats) -> Floats:
    value: Floats = plane[0] * x + plane[1] * y + plane[2]
    return value


def _regions(labels: npt.NDArray[Any], smallest: int) -> npt.NDArray[np.int32]:
    """Number the connected parts of every class from 1; 0 is unlabelled."""
    regions = np.zeros(labels.shape, dtype=np.int32)
    for class_id, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if box is None:
            continue
        parts, num_parts = ndimage.label(labels[box] == class_id, structure=np.ones((3, 3)))
        large = np.bincount(parts.ravel(), minlength=num_parts + 1) >= smallest
        inside = (parts > 0) & large[parts]
        regions[box][inside] = parts[inside] + regions.max()
    return regions


def _close_cracks(regions: npt.NDArray[np.int32], radius: int) -> npt.NDArray[np.int32]:
    """Give every pixel of a thin unlabelled strip to the nearest region."""
    unlabelled = regions == 0
    if radius == 0 or unlabelled.all() or not unlabelled.any():
        return regions
    size = 2 * radius + 1
    # Wide areas are those in some window that is entirely unlabelled; strips along the frame are cracks too.
    deep = ndimage.minimum_filter(unlabelled, size, mode="constant", cval=False)
    wide = ndimage.maximum_filter(deep, size, mode="constant", cval=False)
    nearest = ndimage.distance_transform_edt(unlabelled, return_distances=False, return_indices=True)
    closed: npt.NDArray[np.int32] = np.where(unlabelled & ~wide, regions[tuple(nearest)], regions)
    return closed
