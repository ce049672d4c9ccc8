"""What a picture consists of: a room, things in it, lights, a camera.

World frame: z up, the floor at z = 0. Camera frame: x right, y down, z forward. Metres and radians.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Vector = tuple[float, float, float]

NUM_WAVES = 5
"""Sine waves of a texture."""


class Shape(IntEnum):
    """Shape of a part; the number says how many of x, y, z are round, the others are cut off by planes."""

    BOX = 0
    CYLINDER = 2
    ELLIPSOID = 3


@dataclass(frozen=True)
class Material:
    """A solid texture: two colours mixed by up to five sine waves in the coordinates of the thing.

    Attributes:
        base: Linear RGB reflectance, 0 to 1.
        second: Reflectance where the pattern is 1.
        waves: Wave vectors in radians per metre, float32, shape (5, 3).
        phases: Phase of each wave, float32, shape (5,).
        stripes: Weight of the first wave.
        checks: Weight of the product of the first two waves.
        blotches: Weight of the sum of the last three waves.
        warp: How far that sum bends the first two waves; makes wood of stripes.
        sharpness: Steepness of the passage from one colour to the other.
        emission: Light given off where the reflectance is 1, in units of the light received.
    """

    base: Vector
    second: Vector
    waves: npt.NDArray[np.float32]
    phases: npt.NDArray[np.float32]
    stripes: float = 0.0
    checks: float = 0.0
    blotches: float = 0.0
    warp: float = 0.0
    sharpness: float = 1.0
    emission: float = 0.0


@dataclass(frozen=True)
class Part:
    """One convex solid: ``shape`` fitted into the box ``centre`` ± ``half`` in the frame of its thing."""

    centre: Vector
    half: Vector
    material: Material
    shape: Shape = Shape.BOX


@dataclass(frozen=True)
class Thing:
    """One instance: parts in their own frame, turned by ``yaw`` about z and moved to ``position``."""

    label: int
    position: Vector
    yaw: float
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Room:
    """The box from 0 to ``extent``; faces are the wall at low x, high x, low y, high y, floor, ceiling.

    Each face is a separate instance, so corners between walls are edges.
    """

    extent: Vector
    labels: tuple[int, int, int, int, int, int]
    materials: tuple[Material, Material, Material, Material, Material, Material]


@dataclass(frozen=True)
class Light:
    """A point light; ``colour`` is its linear RGB strength. Without shadows it represents bounced light."""

    position: Vector
    colour: Vector
    casts_shadows: bool


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with square pixels.

    Attributes:
        position: Its place in the world.
        rotation: World vectors to camera vectors: rows right, down, forward, float64, shape (3, 3).
        half_width: Tangent of half the horizontal field of view. A taller image of the same width shows
            more above and below and the same at the sides.
    """

    position: Vector
    rotation: npt.NDArray[np.float64]
    half_width: float

    def intrinsics(self, image_size: tuple[int, int]) -> npt.NDArray[np.float64]:
        """Matrix K for an image (H, W), in pixels; the centre of the first pixel has coordinates (0, 0).

        The pixel in column u and row v with depth z shows the point ``z * inverse(K) @ (u, v, 1)`` of the
        camera frame.

        Example:
            >>> Camera((0, 0, 1), np.eye(3), 1.0).intrinsics((64, 96)).tolist()
            [[48.0, 0.0, 47.5], [0.0, 48.0, 31.5], [0.0, 0.0, 1.0]]
        """
        height, width = image_size
        focal = width / (2 * self.half_width)
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


@dataclass(frozen=True)
class Photo:
    """What the sensor makes of the light that reaches it.

    Attributes:
        brightness: Mean of the exposed image, linear, 0 to 1.
        gains: White balance: a factor for each of R, G and B.
        vignetting: Share of the light lost in the corners.
        noise: Standard deviation of the noise at white, as a share of white.
        gamma: Exponent of the tone curve.
    """

    brightness: float
    gains: Vector
    vignetting: float
    noise: float
    gamma: float


@dataclass(frozen=True)
class Scene:
    """Everything that determines a picture except its size and its noise."""

    room: Room
    things: tuple[Thing, ...]
    lights: tuple[Light, ...]
    ambient: Vector
    camera: Camera
    photo: Photo
