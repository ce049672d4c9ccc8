"""Write a small photo set of somebody's own, with one task of every kind, and the YAML that describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

SIZE = (32, 48)
COLOURS = {"soil": "#402000", "leaf": "#00ff00", "fruit": "#ff0000"}
DESCRIPTION: dict[str, Any] = {
    "root": "orchard",
    "images": "photos/tree{id}.jpg",
    "splits": {"test_fraction": 0.25},
    "groups": {"pattern": r"^(\d+)_"},
    "tasks": {
        "plants": {"files": "labels/{id}.png", "kind": "classes", "encoding": "colours", "classes": COLOURS},
        "ripeness": {
            "files": "ripe/{id}.png",
            "kind": "classes",
            "classes": {"green": 10, "red": [20, 21]},
            "ignore": [255],
        },
        "distance": {
            "files": "depth/{id}.png",
            "kind": "distance",
            "scale": 0.001,
            "ignore": [65535],
            "range": [0, 20],
            "metric": "l1",
        },
        "faces": {"files": "normals/{id}.png", "kind": "normals", "derived_from": "distance"},
        "outline": {"files": "outline/{id}.png", "kind": "edge", "ignore": [127]},
        "light": {"files": "light/{id}.npy", "kind": "values", "encoding": "numbers", "channels": 2},
    },
}


def ids(num_images: int) -> list[str]:
    """``0_0``, ``0_1``, ``1_0``, ...: two pictures of every tree."""
    return [f"{index // 2}_{index % 2}" for index in range(num_images)]


def picture(index: int) -> dict[str, np.ndarray]:
    """The raw content of the files of one image."""
    rng = np.random.default_rng(index)
    rows, columns = np.indices(SIZE)
    fruit = (rows - 10 - index % 8) ** 2 + (columns - 15 - index) ** 2 < 60
    leaf = rows < 24
    classes = np.where(fruit, 2, np.where(leaf, 1, 0))
    palette = np.array([(0x40, 0x20, 0), (0, 255, 0), (255, 0, 0)], dtype=np.uint8)
    ripe = np.where(fruit, np.where(columns > 20, 20, 21), np.where(leaf, 10, 255)).astype(np.uint8)
    depth = (1000 + 40 * rows + 500 * classes).astype(np.uint16)
    depth[:2] = 65535
    outline = np.where(classes != np.roll(classes, 1, axis=1), 255, 0).astype(np.uint8)
    outline[-1] = 127
    normals = np.full((*SIZE, 3), (128, 128, 0), dtype=np.uint8)
    normals[0] = 128
    return {
        "photos": np.clip(palette[classes] // 2 + rng.integers(0, 90, (*SIZE, 3)), 0, 255).astype(np.uint8),
        "labels": palette[classes],
        "ripe": ripe,
        "depth": depth,
        "normals": normals,
        "outline": outline,
        "light": rng.normal(size=(*SIZE, 2)).astype(np.float32),
    }


def write_own(
    folder: Path, num_images: int = 8, description: dict[str, Any] = DESCRIPTION, **changes: Any
) -> Path:
    """Write ``orchard/`` and ``orchard.yaml``; gives the YAML.

    Args:
        folder: Where to write.
        num_images: Images in all.
        description: Content of the YAML.
        changes: Keys that take the place of those in it.
    """
    for index, sample_id in enumerate(ids(num_images)):
        for name, pixels in picture(index).items():
            place = folder / "orchard" / name
            place.mkdir(parents=True, exist_ok=True)
            if name == "light":
                np.save(place / f"{sample_id}.npy", pixels)
            elif name == "photos":
                Image.fromarray(pixels).save(place / f"tree{sample_id}.jpg", quality=95)
            else:
                Image.fromarray(pixels).save(place / f"{sample_id}.png")
    file = folder / "orchard.yaml"
    file.write_text(yaml.safe_dump(description | changes, sort_keys=False), encoding="utf-8")
    return file
