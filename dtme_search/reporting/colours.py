"""Colours in one place: those of the figures, and how labels and predictions become pictures.

Colour-blind readers can distinguish all of them. The eight base colours are those of M. Okabe and K. Ito,
"Color Universal Design"; more are added so that any two stay apart for normal sight, deuteranopia and
protanopia [ours]. Pictures are uint8, shape (H, W, 3).
"""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from dtme_search.tasks import TaskSpec

Picture = npt.NDArray[np.uint8]

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, RED, YELLOW, BLACK = "#56B4E9", "#D55E00", "#F0E442", "#000000"
GREY, LIGHT_GREY = "#7F7F7F", "#D9D9D9"

SERIES = (BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK)
"""Colours of lines and points, in order of use."""

STATE_COLOURS = MappingProxyType(
    {
        "front": RED,
        "complete": BLUE,
        "infeasible": GREY,
        "taken over": SKY,
        "pruned": ORANGE,
        "failed": BLACK,
        "interrupted": PINK,
        "running": GREEN,
        "waiting": LIGHT_GREY,
    }
)
"""How a trial ended."""

CONTINUOUS = "cividis"
"""Colormap of magnitudes, in matplotlib and plotly: dark blue is low, yellow is high."""

INVALID_COLOURS = ((255, 255, 255), (120, 120, 120))
"""Diagonal stripes of pixels without a label; no label is painted like that."""
_STRIPE = 4

# G. Machado, M. Oliveira, L. Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency", 2009, table of matrices, severity 1; they act on linear RGB.
_SIGHT = (
    np.eye(3),
    np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
)
# OKLab: B. Ottosson, "A perceptual color space for image processing", 2020.
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def rgb(colour: str) -> tuple[int, int, int]:
    """Channels of a ``#RRGGBB`` colour.

    Example:
        >>> rgb("#0072B2")
        (0, 114, 178)
    """
    return (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16))


def colour_distances(colours: npt.ArrayLike, others: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Distance between colours for the worst of normal sight, deuteranopia and protanopia.

    Args:
        colours: Channels 0..255, shape (N, 3).
        others: Channels 0..255, shape (M, 3).

    Returns:
        Distances in OKLab, shape (N, M); black and white are 1 apart, about 0.02 is just visible.
    """
    seen = [(_lab(colours, sight), _lab(others, sight)) for sight in _SIGHT]
    apart = [np.linalg.norm(a[:, None] - b[None], axis=-1) for a, b in seen]
    worst: npt.NDArray[np.float64] = np.min(apart, axis=0)
    return worst


@cache
def class_colours(count: int) -> Picture:
    """One colour per class, uint8, shape (count, 3); read-only. The first classes keep theirs in any count.

    After the base colours each next one is the grid colour farthest from all before it.
    """
    chosen = [rgb(colour) for colour in SERIES if colour != BLACK][:count]
    steps = np.linspace(0, 255, 12).round()
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness = _lab(grid, _SIGHT[0])[:, 0]
    grid = grid[(lightness > 0.3) & (lightness < 0.95)]
    avoided = np.array([*chosen, *INVALID_COLOURS]).reshape(-1, 3)
    nearest = colour_distances(grid, avoided).min(axis=1)
    while len(chosen) < count:
        best = int(nearest.argmax())
        chosen.append(tuple(grid[best].astype(int)))
        nearest = np.minimum(nearest, colour_distances(grid, grid[best : best + 1])[:, 0])
    colours = np.array(chosen, dtype=np.uint8).reshape(count, 3)
    colours.flags.writeable = False
    return colours


def value_limits(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Range of a colour scale: the 1st and the 99th percentile of what counts; (0, 1) if nothing does."""
    counted = values[valid]
    counted = counted[np.isfinite(counted)]
    if not counted.size:
        return (0.0, 1.0)
    low, high = (float(value) for value in np.percentile(counted, (1, 99)))
    return (low, high) if high > low else (low, low + 1.0)


def paint(
    spec: TaskSpec,
    label: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_] | None = None,
    limits: tuple[float, float] | None = None,
) -> Picture:
    """Paint a label or a prediction in the form of a ``Sample``; what does not count is striped.

    Classes use :func:`class_colours`. Distances and other values use a colormap (several channels: their
    length). Normals use red for x to the right, green for y *up*, blue for towards the camera, so that a wall
    facing the camera is light blue and a floor green. Masks, including soft ones of 0..1, go from white to
    black.

    Args:
        spec: The task.
        label: Shape (H, W), or (H, W, C) for normals and values; classes as integers.
        valid: Where it counts, shape (H, W); everywhere by default.
        limits: Values of the ends of the colormap; :func:`value_limits` by default.
    """
    counts = np.ones(label.shape[:2], dtype=bool) if valid is None else valid
    if spec.kind == "classes":
        known = np.clip(np.where(counts, label, 0).astype(np.int64), 0, spec.channels - 1)
        picture = class_colours(spec.channels)[known]
    elif spec.kind == "normals":
        towards_viewer = np.nan_to_num(label) * np.array([1.0, -1.0, -1.0])
        picture = (127.5 * (1 + np.clip(towards_viewer, -1, 1))).round().astype(np.uint8)
    elif spec.kind == "mask":
        ink = np.clip(np.nan_to_num(label.astype(np.float64)), 0, 1)
        picture = (255 * (1 - ink)).round().astype(np.uint8)[..., None].repeat(3, axis=-1)
    else:
        values = label if label.ndim == 2 else np.linalg.norm(label, axis=-1)
        picture = paint_values(values, limits or value_limits(values, counts))
    return np.where(counts[..., None], picture, stripes(counts.shape))


def paint_values(values: npt.NDArray[Any], limits: tuple[float, float]) -> Picture:
    """Values on the colormap; values beyond the limits get the colour of the limit."""
    from matplotlib import colormaps  # takes a while to import

    scaled = np.clip((np.nan_to_num(values) - limits[0]) / (limits[1] - limits[0]), 0, 1)
    painted: Picture = colormaps[CONTINUOUS](scaled, bytes=True)[..., :3]
    return painted


def stripes(shape: tuple[int, ...]) -> Picture:
    """The pattern of pixels without a label, (H, W, 3)."""
    rows, columns = np.indices(shape[:2])
    dark = ((rows + columns) // _STRIPE) % 2 == 1
    return np.where(dark[..., None], INVALID_COLOURS[1], INVALID_COLOURS[0]).astype(np.uint8)


def _lab(colours: npt.ArrayLike, sight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    channels = np.asarray(colours, dtype=np.float64) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ sight.T, 0, 1)
    lab: npt.NDArray[np.float64] = np.cbrt(seen @ _TO_CONES.T) @ _TO_LAB.T
    return lab
