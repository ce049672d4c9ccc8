"""Names of NYU Depth V2: classes of pixels, and types of scenes."""

from __future__ import annotations

import re

import numpy as np

from dtme_search.data.reading.files import Label

CLASS_NAMES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf"),
    *("picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror"),
    *("floor mat", "clothes", "ceiling", "books", "refridgerator", "television", "paper", "towel"),
    *("shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp", "bathtub"),
    *("bag", "otherstructure", "otherfurniture", "otherprop"),
)
"""The 40 classes of Gupta, Arbelaez and Malik (CVPR 2013), spelt as in their files."""

SCENE_TYPES = (
    *("bedroom", "kitchen", "living_room", "bathroom", "dining_room", "office", "home_office", "classroom"),
    *("bookstore", "others"),
)
"""Ten types of scenes: the nine most frequent ones, and everything else. The usual grouping of the 27 types
of the official file for classification (Gupta, Arbelaez, Girshick and Malik, IJCV 2015)."""

_NUMBER = re.compile(r"_\d+[a-z]?$")


def scene_type(scene: str) -> int:
    """Place of a scene's type in ``SCENE_TYPES``, from its name.

    Example:
        >>> [SCENE_TYPES[scene_type(name)] for name in ("living_room_0047b", "office_kitchen_0001")]
        ['living_room', 'others']
    """
    name = _NUMBER.sub("", scene)
    return SCENE_TYPES.index(name if name in SCENE_TYPES else "others")


def scene_label(scene: str | None) -> Label:
    """The type as the label of an image, uint8 (1, 1), and whether it counts: not without a scene."""
    place = 0 if scene is None else scene_type(scene)
    return np.full((1, 1), place, np.uint8), np.full((1, 1), scene is not None)
