"""Which surface a ray meets first: exact intersections in numpy, over all pixels and parts at once.

All rays of a cast start at one point, the camera or a light. That makes it cheap to drop the rays that cannot
meet a thing (using the ball around it, then the box around it) before its parts are tested.

Shapes: N rays, n of them left, K parts of one shape. Vectors are stored (3, N), float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dtme_search.data.scenes.scene import Scene, Shape, Thing

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

NUM_FACES = 6
"""Faces of the room: the first parts and the first instances."""

_TINY = np.float32(1e-12)
"""Keeps divisions finite, without a noticeable change of direction."""
_FAR = np.float32(1e9)
"""Distance for a ray that misses."""
_AXES = np.arange(3)[:, None]


@dataclass(frozen=True)
class Surface:
    """What N rays hit.

    Attributes:
        point: Place in the world, shape (3, N).
        normal: Unit normal in the world, towards the side the ray came from, shape (3, N).
        local: Place in the frame of the thing, shape (3, N).
        part: Index of the part, shape (N,).
    """

    point: Floats
    normal: Floats
    local: Floats
    part: Integers


@dataclass(frozen=True)
class _Body:
    """One thing, ready for intersection.

    Attributes:
        position: Origin of its frame in the world, shape (3, 1).
        rotation: World vectors to its frame, shape (3, 3).
        low: Lowest corner of the box around it, in its frame, shape (3, 1).
        high: Highest corner, shape (3, 1).
        blocks: Per shape: indices of the parts (K,), their centres (K, 3, 1) and half sizes (K, 3, 1).
    """

    position: Floats
    rotation: Floats
    low: Floats
    high: Floats
    blocks: tuple[tuple[Shape, Integers, Floats, Floats], ...]

    @cached_property
    def middle(self) -> Floats:
        """Centre of the box in the world, shape (3, 1)."""
        middle: Floats = self.position + self.rotation.T @ ((self.low + self.high) * np.float32(0.5))
        return middle

    @cached_property
    def squared_radius(self) -> float:
        """Radius of the ball around the box, with room for rounding."""
        return (float(np.linalg.norm(self.high - self.low)) / 2 + 1e-3) ** 2


class Solids:
    """The room and all parts of a scene as arrays."""

    def __init__(self, scene: Scene) -> None:
        things = scene.things
        parts = [part for thing in things for part in thing.parts]
        x, y, z = scene.room.extent
        # A face of the room has the room as its box; its normals point outwards and are flipped.
        room = [(x / 2, y / 2, z / 2)] * NUM_FACES
        self.materials = (*scene.room.materials, *(part.material for part in parts))
        owners = [NUM_FACES + i for i, thing in enumerate(things) for _ in thing.parts]
        self.instances = np.array([*range(NUM_FACES), *owners], np.int32)
        self.labels = np.array([*scene.room.labels, *(thing.label for thing in things)], np.uint8)
        self._extent = np.array(scene.room.extent, np.float32)[:, None]
        self._centre = np.array([*room, *(part.centre for part in parts)], np.float32).T
        self._half = np.array([*room, *(part.half for part in parts)], np.float32).T
        self._shape = np.array([Shape.BOX] * NUM_FACES + [part.shape for part in parts])
        yaw = np.array([0.0, *(thing.yaw for thing in things)])
        self._turn = np.stack([np.cos(yaw), np.sin(yaw)]).astype(np.float32)
        self._position = np.array([(0.0, 0.0, 0.0), *(thing.position for thing in things)], np.float32).T
        firsts = np.cumsum([NUM_FACES, *(len(thing.parts) for thing in things)]).tolist()
        self._bodies = [self._body(i + 1, thing, firsts[i]) for i, thing in enumerate(things)]

    def cast(self, origin: Floats, direction: Floats) -> tuple[Floats, Integers]:
        """Find the first surface along each ray.

        Args:
            origin: Where all rays start, shape (3, 1), in the room and outside of every part.
            direction: Shape (3, N), of any length.

        Returns:
            Distance in units of ``direction`` and index of the part, shape (N,) each.
        """
        middle, sign = self._extent / 2, np.sign(direction)
        exits = (middle + sign * (middle - origin)) / np.maximum(np.abs(direction), _TINY)
        nearest, axis = exits.min(axis=0), exits.argmin(axis=0)
        part = 2 * axis + (sign[axis, np.arange(axis.size)] > 0)
        for rays, parts, entries in self._entries(origin, direction):
            first = entries.argmin(axis=0)
            distance = entries[first, np.arange(first.size)]
            closer = np.flatnonzero(distance < nearest[rays])
            nearest[rays[closer]] = distance[closer]
            part[rays[closer]] = parts[first[closer]]
        return nearest, part

    def in_shadow(self, light: Floats, points: Floats) -> npt.NDArray[np.bool_]:
        """Whether a part stands between a light (3, 1) and each of the points (3, N), shape (N,)."""
        shadow = np.zeros(points.shape[1], dtype=np.bool_)
        for rays, _, entries in self._entries(light, points - light):
            shadow[rays] |= (entries < 1).any(axis=0)
        return shadow

    def surface(self, origin: Floats, direction: Floats, distance: Floats, part: Integers) -> Surface:
        """Describe what ``cast`` has found."""
        point = origin + direction * distance
        indoors = part < NUM_FACES
        frame = np.maximum(self.instances.take(part) - (NUM_FACES - 1), 0)
        cos, sin = self._turn.take(frame, axis=1)
        local = _turned(point - self._position.take(frame, axis=1), cos, sin)
        half = self._half.take(part, axis=1)
        unit = (local - self._centre.take(part, axis=1)) / half
        # At the edges of a part rounding may select a face that looks away; only visible faces count.
        backward = -_turned(direction, cos, sin)
        axis = np.where(indoors, part // 2, (unit * np.sign(backward)).argmax(axis=0))
        normal = (axis == _AXES) * np.sign(unit) * np.where(indoors, np.float32(-1), np.float32(1))
        shape = self._shape.take(part)
        for curved in (Shape.CYLINDER, Shape.ELLIPSOID):
            rays = np.flatnonzero(shape == curved)
            normal[:, rays] = _curved_normal(
                curved, unit.take(rays, axis=1), half.take(rays, axis=1), backward.take(rays, axis=1)
            )
        return Surface(point, _turned(normal, cos, -sin), local, part)

    def _body(self, frame: int, thing: Thing, first: int) -> _Body:
        parts = slice(first, first + len(thing.parts))
        centre, half = self._centre[:, parts], self._half[:, parts]
        cos, sin = self._turn[:, frame]
        shapes: dict[Shape, list[int]] = {}
        for index, part in enumerate(thing.parts, first):
            shapes.setdefault(part.shape, []).append(index)
        return _Body(
            position=self._position[:, frame, None],
            rotation=np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float32),
            low=(centre - half).min(axis=1, keepdims=True),
            high=(centre + half).max(axis=1, keepdims=True),
            blocks=tuple(
                (shape, np.array(chosen), self._centre.T[chosen, :, None], self._half.T[chosen, :, None])
                for shape, chosen in shapes.items()
            ),
        )

    def _entries(self, origin: Floats, direction: Floats) -> Iterator[tuple[Integers, Integers, Floats]]:
        """Per thing and shape: the rays that may meet it (n,), its parts (K,), distances to them (K, n)."""
        length = np.sqrt(_reduce(np.add, direction * direction))
        for body in self._bodies:
            middle = body.middle - origin
            tangent = np.sqrt(np.float32(max(float((middle * middle).sum()) - body.squared_radius, 0.0)))
            rays = np.flatnonzero(middle[:, 0] @ direction >= tangent * length)
            start = body.rotation @ (origin - body.position)
            along = body.rotation @ direction.take(rays, axis=1)
            enter, leave = _slabs(body.low - start, body.high - start, along)
            inside = np.flatnonzero((enter < leave) & (leave > 0))
            if not inside.size:
                continue
            rays, along = rays[inside], along.take(inside, axis=1)
            for shape, parts, centre, half in body.blocks:
                enter, leave = _span(shape, centre - start, half, along)
                yield rays, parts, np.maximum(enter, ((enter >= leave) | (enter < 0)) * _FAR)


def _turned(vectors: Floats, cos: Floats, sin: Floats) -> Floats:
    """Vectors (3, N) as seen from frames turned about z, given the cosine and sine of the angles (N,)."""
    x, y, z = vectors
    return np.stack([cos * x + sin * y, cos * y - sin * x, z])


def _reduce(combine: np.ufunc, values: Floats) -> Any:
    """Reduce axis -2, which is too short for numpy's own reduction to be fast."""
    result = values[..., 0, :]
    for axis in range(1, values.shape[-2]):
        result = combine(result, values[..., axis, :])
    return result


def _slabs(low: Floats, high: Floats, direction: Floats) -> tuple[Floats, Floats]:
    """Enter and leave the space between planes ``low`` and ``high`` (..., A, 1), rays (A, N) from 0."""
    inverse = 1 / (direction + np.copysign(_TINY, direction))
    first, second = low * inverse, high * inverse
    return _reduce(np.maximum, np.minimum(first, second)), _reduce(np.minimum, np.maximum(first, second))


def _span(shape: Shape, centre: Floats, half: Floats, direction: Floats) -> tuple[Floats, Floats]:
    """Enter and leave K shapes, rays (3, n) from 0: (K, n) each, entry not below exit if they miss."""
    if shape is Shape.BOX:
        return _slabs(centre - half, centre + half, direction)
    # Scaled to radius 1: first how near the ray passes the centre, then half the chord. Unlike the roots of
    # the quadratic equation this keeps its precision for thin poles far away.
    c, d = centre[:, :shape] / half[:, :shape], direction[:shape] / half[:, :shape]
    squared = _reduce(np.add, d * d) + _TINY
    nearest = _reduce(np.add, c * d) / squared
    offset = c - d * nearest[:, None]
    height = 1 - _reduce(np.add, offset * offset)
    chord = np.sqrt(np.maximum(height, 0) / squared)
    enter, leave = nearest - chord + (height < 0) * _FAR, nearest + chord
    if shape is Shape.CYLINDER:
        bottom, top = (centre - half)[:, shape:], (centre + half)[:, shape:]
        above, below = _slabs(bottom, top, direction[shape:])
        enter, leave = np.maximum(enter, above), np.minimum(leave, below)
    return enter, leave


def _curved_normal(shape: Shape, unit: Floats, half: Floats, backward: Floats) -> Floats:
    """Outward normals (3, N) of cylinders or ellipsoids at points in units of their half sizes."""
    normal = unit / half
    if shape is Shape.CYLINDER:
        x, y, z = normal * backward
        radial = unit[0] ** 2 + unit[1] ** 2
        is_cap = (z > 0) & ((unit[2] ** 2 > radial) | (x + y <= 0))
        normal *= is_cap == (_AXES == 2)
    unit_normal: Floats = normal / np.sqrt(_reduce(np.add, normal * normal))
    return unit_normal
