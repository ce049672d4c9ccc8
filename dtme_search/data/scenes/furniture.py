"""Random furniture from boxes, cylinders and ellipsoids. All choices are ours.

Classes differ in shape, not in colours and patterns: every surface of a scene, walls included, gets its
material from the same small set of that scene. Sizes are uniform in the usual ranges of furniture. A piece
stands on z = 0 around x = y = 0 with its back towards +y; metres.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dtme_search.data.scenes.scene import NUM_WAVES, Material, Part, Shape, Vector

Parts = tuple[Part, ...]
Span = tuple[float, float]

_SIDES = (-1, 1)
_COLOURS = 6
_MATERIALS = 10
_PATTERNS: tuple[tuple[float, dict[str, float]], ...] = (
    (0.60, {"blotches": 0.1}),  # nearly plain
    (0.10, {"blotches": 0.7}),
    (0.10, {"stripes": 1.0, "blotches": 0.1}),
    (0.10, {"stripes": 1.0, "warp": 1.6}),  # wood
    (0.10, {"checks": 1.5}),
)
"""How often a material has a pattern, and its weights."""


class Draw:
    """The random numbers of one scene and the materials that its surfaces share."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.materials = _materials(rng)
        self._numbers = _uniform_numbers(rng)

    def uniform(self, low: float, high: float) -> float:
        """A number between two."""
        return low + (high - low) * next(self._numbers)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return next(self._numbers) < probability

    def below(self, number: int) -> int:
        """One of 0 .. number - 1."""
        return int(number * next(self._numbers))

    def count(self, mean: float) -> int:
        """A Poisson number."""
        return int(self.rng.poisson(mean))

    def tint(self, level: float, spread: float) -> Vector:
        """A colour of about this level in each channel."""
        low, high = level * (1 - spread), level * (1 + spread)
        return self.uniform(low, high), self.uniform(low, high), self.uniform(low, high)

    def material(self) -> Material:
        """One of the scene's materials, the same object each time."""
        return self.materials[self.below(len(self.materials))]

    def glowing(self, probability: float) -> Material:
        """One of the scene's materials; emits light with this probability."""
        material = self.material()
        return replace(material, emission=self.uniform(0.5, 2.5)) if self.chance(probability) else material


def table(draw: Draw) -> Parts:
    """A slab on four legs or two boards, or a round or square top on a column."""
    x, y, height = draw.uniform(0.4, 0.9), draw.uniform(0.3, 0.5), draw.uniform(0.4, 0.8)
    thick, top, leg = draw.uniform(0.015, 0.04), draw.material(), draw.material()
    under = height - 2 * thick
    kind = draw.uniform(0, 1)
    if kind < 0.4:
        shape, y = (Shape.CYLINDER, x) if kind < 0.3 else (Shape.BOX, y)
        foot = Part((0, 0, 0.02), (0.6 * min(x, y), 0.6 * min(x, y), 0.02), leg, Shape.CYLINDER)
        return Part((0, 0, height - thick), (x, y, thick), top, shape), _pole(0, under, 0.06, leg), foot
    slab = _block((-x, x), (-y, y), (under, height), top)
    if kind < 0.6:
        return slab, *(
            _block(_around(s * (x - 0.08), 0.02), _around(0, y - 0.05), (0, under), leg) for s in _SIDES
        )
    return slab, *_legs(x - 0.04, y - 0.04, under, draw.uniform(0.02, 0.045), leg)


def chair(draw: Draw) -> Parts:
    """Seat and back, the back sometimes raised, sometimes arms, on legs or a column."""
    x, y, seat = draw.uniform(0.2, 0.28), draw.uniform(0.2, 0.26), draw.uniform(0.40, 0.5)
    cloth, wood = draw.material(), draw.material()
    gap = draw.uniform(0.1, 0.2) if draw.chance(0.4) else 0.0
    top = seat + draw.uniform(0.35, 0.6)
    parts = [
        _block((-x, x), (-y, y), (seat - 0.05, seat), cloth),
        _block((-x, x), (y - 0.05, y), (seat + gap, top), cloth),
    ]
    has_arms = draw.chance(0.25)
    for side in _SIDES:
        if gap:
            parts.append(
                _block(_around(side * (x - 0.02), 0.02), (y - 0.04, y - 0.01), (seat, seat + gap), wood)
            )
        if has_arms:
            parts.append(_block(_around(side * x, 0.025), (-y, y), (seat + 0.18, seat + 0.22), wood))
            parts.append(
                _block(_around(side * x, 0.02), (0.02 - y, 0.06 - y), (seat - 0.05, seat + 0.18), wood)
            )
    if draw.chance(0.2):
        foot = Part((0, 0, 0.02), (x, x, 0.02), wood, Shape.CYLINDER)
        return *parts, _pole(0, seat - 0.05, 0.03, wood), foot
    return *parts, *_legs(x - 0.025, y - 0.025, seat - 0.05, 0.02, wood)


def sofa(draw: Draw) -> Parts:
    """Base, back, two arms and a row of cushions."""
    x, y = draw.uniform(0.45, 1.15), draw.uniform(0.38, 0.5)
    seat, arm, back = draw.uniform(0.28, 0.36), draw.uniform(0.5, 0.65), draw.uniform(0.7, 0.95)
    side, cloth = draw.uniform(0.08, 0.16), draw.material()
    cushion = cloth if draw.chance(0.5) else draw.material()
    number = max(1, round((x - side) / 0.33))
    half = (x - side) / number
    middles = [side - x + (2 * i + 1) * half for i in range(number)]
    return (
        _block((-x, x), (-y, y), (0.03, seat), cloth),
        _block((-x, x), (y - 0.2, y), (seat, back), cloth),
        *(_block(_around(s * (x - side / 2), side / 2), (-y, y), (seat, arm), cloth) for s in _SIDES),
        *(
            _block(_around(m, half - 0.01), (-y - 0.02, y - 0.2), (seat, seat + 0.13), cushion)
            for m in middles
        ),
    )


def cabinet(draw: Draw) -> Parts:
    """Open shelves, or a chest with slightly protruding fronts."""
    x, y, height = draw.uniform(0.35, 0.9), draw.uniform(0.18, 0.32), draw.uniform(0.6, 2.1)
    wood, front = draw.material(), draw.material()
    rows, columns = max(1, round(height / draw.uniform(0.3, 0.7))), max(1, round(x / 0.4))
    if draw.chance(0.35):
        levels = [0.05 + i * (height - 0.07) / rows for i in range(rows + 1)]
        return (
            _block((-x, x), (y - 0.02, y), (0, height), front),
            *(_block(_around(s * x, 0.02), (-y, y), (0, height), wood) for s in _SIDES),
            *(_block((-x, x), (-y, y - 0.02), _around(z, 0.02), wood) for z in levels),
        )
    cell_x, cell_z = x / columns, (height - 0.08) / (2 * rows)
    return (
        _block((-x, x), (-y, y), (0, height), wood),
        *(
            _block(
                _around((2 * i + 1) * cell_x - x, cell_x - 0.015),
                (-y - 0.02, -y),
                _around(0.06 + (2 * j + 1) * cell_z, cell_z - 0.015),
                front,
            )
            for i in range(columns)
            for j in range(rows)
        ),
    )


def crate(draw: Draw) -> Parts:
    """A box with a lid; it counts as a cabinet."""
    x, y, height = draw.uniform(0.2, 0.5), draw.uniform(0.2, 0.4), draw.uniform(0.25, 0.6)
    return (
        _block(_around(0, x), _around(0, y), (0, height), draw.material()),
        _block(_around(0, x + 0.015), _around(0, y + 0.015), (height - 0.06, height), draw.material()),
    )


def floor_lamp(draw: Draw) -> Parts:
    """Foot, pole and shade."""
    height, metal = draw.uniform(1.2, 1.9), draw.material()
    shade = _shade(draw, height, draw.uniform(0.17, 0.32))
    foot = Part((0, 0, 0.02), (0.16, 0.16, 0.02), metal, Shape.CYLINDER)
    return shade, _pole(0, height - 2 * shade.half[2], 0.018, metal), foot


def hanging_lamp(draw: Draw, ceiling: float) -> Parts:
    """A shade on a cord from the ceiling."""
    top = ceiling - draw.uniform(0.3, 0.9)
    return _shade(draw, top, draw.uniform(0.15, 0.32)), _pole(top, ceiling, 0.012, draw.material())


def picture(draw: Draw, x: float, z: float) -> Parts:
    """A framed picture or bright window of half sizes x and z, its back at y = 0 and its middle at z = 0."""
    rim = draw.uniform(0.02, 0.07)
    frame = _block((-x, x), (-0.03, 0), (-z, z), draw.material())
    return frame, _block((rim - x, x - rim), (-0.034, -0.002), (rim - z, z - rim), draw.glowing(0.3))


def footprint(parts: Parts, yaw: float) -> tuple[float, float]:
    """Half sizes along the walls of the floor under a piece turned by ``yaw``."""
    x = max(abs(part.centre[0]) + part.half[0] for part in parts)
    y = max(abs(part.centre[1]) + part.half[1] for part in parts)
    cos, sin = abs(float(np.cos(yaw))), abs(float(np.sin(yaw)))
    return cos * x + sin * y, sin * x + cos * y


def _shade(draw: Draw, top: float, radius: float) -> Part:
    """A round or square lampshade under z = top; it may glow."""
    shape = (Shape.CYLINDER, Shape.ELLIPSOID, Shape.BOX)[draw.below(3)]
    half = radius * draw.uniform(0.6, 1.1)
    return Part((0, 0, top - half), (radius, radius, half), draw.glowing(0.4), shape)


def _around(middle: float, half: float) -> Span:
    return middle - half, middle + half


def _block(x: Span, y: Span, z: Span, material: Material) -> Part:
    centre = ((x[0] + x[1]) / 2, (y[0] + y[1]) / 2, (z[0] + z[1]) / 2)
    return Part(centre, ((x[1] - x[0]) / 2, (y[1] - y[0]) / 2, (z[1] - z[0]) / 2), material)


def _pole(low: float, high: float, radius: float, material: Material) -> Part:
    return Part((0, 0, (low + high) / 2), (radius, radius, (high - low) / 2), material, Shape.CYLINDER)


def _legs(x: float, y: float, height: float, half: float, material: Material) -> Parts:
    return tuple(
        _block(_around(i * x, half), _around(j * y, half), (0, height), material)
        for i in _SIDES
        for j in _SIDES
    )


def _uniform_numbers(rng: np.random.Generator) -> Iterator[float]:
    """Endless numbers in [0, 1), drawn in blocks: a scene needs hundreds, and single calls are slow."""
    while True:
        yield from rng.random(256).tolist()


def _materials(rng: np.random.Generator) -> tuple[Material, ...]:
    """Materials of a scene, over a few colours: plain, stripes, wood, checks, blotches."""
    # Any hue, mostly with low saturation, from dark to light.
    hues = np.cos(2 * np.pi * (rng.random((_COLOURS, 1)) + np.arange(3) / 3))
    chroma = 0.85 * rng.beta(1.2, 2.2, (_COLOURS, 1))
    colours = np.clip(rng.uniform(0.2, 0.8, (_COLOURS, 1)) * (1 + chroma * hues), 0.03, 0.95).tolist()
    pairs = rng.integers(_COLOURS, size=(_MATERIALS, 2))
    # Stripes run along an axis of the thing, blotches anywhere.
    directions = rng.standard_normal((_MATERIALS, NUM_WAVES, 3))
    directions[:, :2] = np.eye(3)[rng.random((_MATERIALS, 3)).argsort(axis=1)[:, :2]]
    directions /= np.sqrt((directions**2).sum(axis=2, keepdims=True))
    cycles_per_metre = rng.uniform((1, 1, 0.3, 0.3, 0.3), (6, 6, 3, 3, 3), (_MATERIALS, NUM_WAVES))
    waves = (2 * np.pi * cycles_per_metre[:, :, None] * directions).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, (_MATERIALS, NUM_WAVES)).astype(np.float32)
    patterns = rng.choice(len(_PATTERNS), _MATERIALS, p=[share for share, _ in _PATTERNS])
    sharpness = rng.uniform(0.4, 2.5, _MATERIALS)
    return tuple(
        Material(
            base=tuple(colours[first]),
            second=tuple(colours[second]),
            waves=waves[i],
            phases=phases[i],
            sharpness=float(sharpness[i]),
            **_PATTERNS[patterns[i]][1],
        )
        for i, (first, second) in enumerate(pairs)
    )
