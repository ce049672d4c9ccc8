"""Random furnished rooms, lit and seen by a random camera. All choices are ours.

A room of 3 to 9 m by 3 to 9 m gets at least one attempt each at sofa, cabinet, table with chairs, floor lamp
and pictures, more in larger rooms; what finds no free floor is left out. The camera stands on free floor, at
any place and heading.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from dtme_search.data.scenes import furniture
from dtme_search.data.scenes.furniture import Draw, Parts
from dtme_search.data.scenes.scene import Camera, Light, Photo, Room, Scene, Thing, Vector


class Label(IntEnum):
    """Semantic classes. Crates count as cabinets, bright windows as pictures."""

    WALL = 0
    FLOOR = 1
    CEILING = 2
    TABLE = 3
    CHAIR = 4
    SOFA = 5
    CABINET = 6
    PICTURE = 7
    LAMP = 8


CLASSES = tuple(label.name.lower() for label in Label)
"""Names of the classes in the order of their numbers."""


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene; it depends only on the state of the generator.

    Example:
        >>> random_scene(np.random.default_rng(3)).room.labels == (0, 0, 0, 0, 1, 2)
        True
    """
    draw = Draw(rng)
    extent = (draw.uniform(3.0, 9.0), draw.uniform(3.0, 9.0), draw.uniform(2.3, 3.4))
    floor = _Floor(draw, extent)
    floor.furnish()
    things = (*floor.things, *_pictures(draw, extent))
    camera = _camera(draw, floor, things)
    return Scene(
        room=_room(draw, extent),
        things=things,
        lights=_lights(draw, extent, camera),
        ambient=draw.tint(draw.uniform(0.2, 0.6), 0.15),
        camera=camera,
        photo=Photo(
            brightness=draw.uniform(0.15, 0.45),
            gains=draw.tint(1.0, 0.12),
            vignetting=draw.uniform(0.0, 0.5),
            noise=draw.uniform(0.005, 0.04),
            gamma=draw.uniform(0.40, 0.52),
        ),
    )


class _Floor:
    """What stands where; furniture never overlaps."""

    def __init__(self, draw: Draw, extent: Vector) -> None:
        self.draw = draw
        self.width, self.length, self.height = extent
        self.things: list[Thing] = []
        self._taken: list[tuple[float, float, float, float]] = []

    def furnish(self) -> None:
        """Put in furniture, in proportion to the size of the room."""
        draw, size = self.draw, self.width * self.length / 30
        for _ in range(1 + draw.count(0.8 * size)):
            self._put_at_wall(Label.SOFA, furniture.sofa(draw))
        for _ in range(1 + draw.count(1.6 * size)):
            self._put_at_wall(Label.CABINET, furniture.cabinet(draw))
        for _ in range(1 + draw.count(0.9 * size)):
            self._put_table()
        for _ in range(draw.count(1.2 * size)):
            self._put_anywhere(Label.CHAIR, furniture.chair(draw))
        for _ in range(draw.count(0.6 * size)):
            self._put_anywhere(Label.CABINET, furniture.crate(draw))
        for _ in range(1 + draw.count(0.8 * size)):
            self._put_anywhere(Label.LAMP, furniture.floor_lamp(draw))
        for _ in range(draw.count(0.8 * size)):
            self._put_anywhere(Label.LAMP, furniture.hanging_lamp(draw, self.height))

    def clearance(self, x: float, y: float) -> float:
        """Distance from a point to the nearest wall or piece; 0 inside a piece."""
        to_things = (
            math.hypot(max(left - x, 0, x - right), max(front - y, 0, y - back))
            for left, right, front, back in self._taken
        )
        return min(x, self.width - x, y, self.length - y, *to_things)

    def _put(self, label: Label, parts: Parts, x: float, y: float, yaw: float, gap: float) -> bool:
        """Add a piece if the floor under it and ``gap`` metres around it is free."""
        half_x, half_y = furniture.footprint(parts, yaw)
        left, right, front, back = x - half_x, x + half_x, y - half_y, y + half_y
        if min(left, self.width - right, front, self.length - back) < gap:
            return False
        for left_, right_, front_, back_ in self._taken:
            if left - gap < right_ and left_ < right + gap and front - gap < back_ and front_ < back + gap:
                return False
        self._taken.append((left, right, front, back))
        self.things.append(Thing(label, (x, y, 0.0), yaw, parts))
        return True

    def _put_at_wall(self, label: Label, parts: Parts) -> None:
        for _ in range(8):
            side = self.draw.below(4)
            half_x, half_y = furniture.footprint(parts, side * math.pi / 2)
            gap = self.draw.uniform(0.01, 0.08)
            along = (half_x, self.width - half_x) if side % 2 == 0 else (half_y, self.length - half_y)
            x, y = _at_wall(
                side, self.draw.uniform(*along), (self.width, self.length), half_x + gap, half_y + gap
            )
            if self._put(label, parts, x, y, side * math.pi / 2, 0.005):
                return

    def _put_anywhere(self, label: Label, parts: Parts) -> bool:
        for _ in range(8):
            yaw = self.draw.below(4) * math.pi / 2 + self.draw.uniform(-0.4, 0.4)
            x, y = self.draw.uniform(0.3, self.width - 0.3), self.draw.uniform(0.3, self.length - 0.3)
            if self._put(label, parts, x, y, yaw, 0.05):
                return True
        return False

    def _put_table(self) -> None:
        """A table with chairs of one kind at some of its sides."""
        if not self._put_anywhere(Label.TABLE, furniture.table(self.draw)):
            return
        table, chair = self.things[-1], furniture.chair(self.draw)
        half_x, half_y = furniture.footprint(table.parts, 0.0)
        for side in range(4):
            if not self.draw.chance(0.55):
                continue
            angle = table.yaw + side * math.pi / 2
            away = (half_x if side % 2 else half_y) + furniture.footprint(chair, 0.0)[1]
            away += self.draw.uniform(0.02, 0.25)
            x, y = table.position[0] - math.sin(angle) * away, table.position[1] + math.cos(angle) * away
            self._put(Label.CHAIR, chair, x, y, angle + self.draw.uniform(-0.2, 0.2), 0.0)


def _at_wall(
    side: int, along: float, size: tuple[float, float], away_x: float = 0.0, away_y: float = 0.0
) -> tuple[float, float]:
    """Place at a wall; an object turned by ``side`` quarter turns has its back to that wall."""
    width, length = size
    return ((along, length - away_y), (away_x, along), (along, away_y), (width - away_x, along))[side]


def _pictures(draw: Draw, extent: Vector) -> list[Thing]:
    """Pictures and windows on the four walls, side by side."""
    width, length, height = extent
    things: list[Thing] = []
    hung: list[tuple[int, float, float]] = []
    for _ in range(2 + draw.count(width * length / 12)):
        side, half_x, half_z = draw.below(4), draw.uniform(0.2, 0.8), draw.uniform(0.2, 0.6)
        along = draw.uniform(half_x, (length if side % 2 else width) - half_x)
        up = draw.uniform(1.0 + half_z / 2, height - half_z - 0.1)
        if any(side == s and abs(along - a) < half_x + h + 0.05 for s, a, h in hung):
            continue
        hung.append((side, along, half_x))
        position = (*_at_wall(side, along, (width, length)), up)
        things.append(
            Thing(Label.PICTURE, position, side * math.pi / 2, furniture.picture(draw, half_x, half_z))
        )
    return things


def _room(draw: Draw, extent: Vector) -> Room:
    """Walls of one material, sometimes one in another."""
    wall = draw.material()
    return Room(
        extent=extent,
        labels=(Label.WALL, Label.WALL, Label.WALL, Label.WALL, Label.FLOOR, Label.CEILING),
        materials=(
            draw.material() if draw.chance(0.4) else wall,
            wall,
            draw.material() if draw.chance(0.2) else wall,
            wall,
            draw.material(),
            draw.material(),
        ),
    )


def _lights(draw: Draw, extent: Vector, camera: Camera) -> tuple[Light, ...]:
    """A lamp that casts shadows, possibly one that does not, and the flash of the camera.

    The flash makes near surfaces bright and slanted ones dark: a cue for depth and normals as in photographs,
    blurred by everything else that affects the brightness of a pixel. The camera never sees its shadows.
    """
    width, length, height = extent
    lamps = [
        Light(
            position=(
                draw.uniform(0.4, width - 0.4),
                draw.uniform(0.4, length - 0.4),
                height * draw.uniform(0.6, 0.97),
            ),
            colour=draw.tint(draw.uniform(2.0, 10.0), 0.2),
            casts_shadows=number == 0,
        )
        for number in range(1 + draw.below(2))
    ]
    return *lamps, Light(camera.position, draw.tint(draw.uniform(2.0, 8.0), 0.1), casts_shadows=False)


def _camera(draw: Draw, floor: _Floor, things: tuple[Thing, ...]) -> Camera:
    """Hand-held between waist and eye level, on free floor, towards something at some distance."""
    spots = draw.rng.uniform((0.3, 0.3), (floor.width - 0.3, floor.length - 0.3), (20, 2)).tolist()
    free = (spot for spot in spots if floor.clearance(*spot) > 0.45)
    x, y = next(free, None) or max(spots, key=lambda spot: floor.clearance(*spot))
    aims = [things[draw.below(len(things))].position for _ in range(2)]
    aim = max(aims, key=lambda aim: math.hypot(aim[0] - x, aim[1] - y))
    heading = math.atan2(aim[1] - y, aim[0] - x) + draw.uniform(-0.4, 0.4)
    pitch, roll = np.radians(draw.rng.normal((-10.0, 0.0), (4.0, 1.5))).tolist()
    return Camera(
        position=(x, y, draw.uniform(1.2, 1.8)),
        rotation=_rotation(heading, pitch, roll),
        half_width=math.tan(math.radians(draw.uniform(58.0, 80.0)) / 2),
    )


def _rotation(heading: float, pitch: float, roll: float) -> npt.NDArray[np.float64]:
    """Rows right, down, forward; ``pitch`` is above the horizon, ``roll`` turns about the view."""
    (ch, sh), (cp, sp), (cr, sr) = ((math.cos(a), math.sin(a)) for a in (heading, pitch, roll))
    right, down = np.array([sh, -ch, 0.0]), np.array([ch * sp, sh * sp, -cp])
    forward = np.array([ch * cp, sh * cp, sp])
    return np.stack([cr * right + sr * down, cr * down - sr * right, forward])
