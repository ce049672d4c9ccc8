"""Write a few views of Taskonomy in its published layouts: 16-bit and RGB pngs, named by point and view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nyud_folder import save_png

SIZE = (24, 24)
TRAIN, TEST = ("hanson", "merom", "darden"), ("ihlen",)
"""Buildings of the tiny split: train, train, val, test."""
VIEWS = ((0, 0), (0, 1), (2, 0), (10, 3))
BITS16 = ("depth_euclidean", "depth_zbuffer", "edge_occlusion", "edge_texture", "keypoints2d", "keypoints3d")
COLOUR = ("rgb", "normal", "principal_curvature", "reshading")
BITS8 = ("segment_unsup2d", "segment_unsup25d")
DOMAINS = (*COLOUR, *BITS16, *BITS8)
LAYOUT = "{domain}/taskonomy/{building}"


def path_of(root, domain, building, point, view, layout=LAYOUT, spelt=None, split="train") -> Path:
    folder = layout.format(domain=domain, building=building, split=split)
    return root / folder / f"point_{point}_view_{view}_domain_{spelt or domain}.png"


def random_values(domain: str, random: np.random.Generator, size=SIZE) -> np.ndarray:
    if domain in COLOUR:
        return random.integers(0, 256, (*size, 3)).astype(np.uint8)
    return random.integers(0, 256 if domain in BITS8 else 20000, size).astype(
        np.uint8 if domain in BITS8 else np.uint16
    )


def write_taskonomy(
    root: Path,
    layout: str = LAYOUT,
    buildings=(*TRAIN, *TEST),
    views=VIEWS,
    domains=DOMAINS,
    size=SIZE,
    old_names: dict[str, str] | None = None,
) -> Path:
    """Random content that depends on building, view and domain only."""
    for place, building in enumerate(buildings):
        for point, view in views:
            for index, domain in enumerate(domains):
                random = np.random.default_rng([place, point, view, index])
                named = (old_names or {}).get(domain, domain)
                split = "test" if building in TEST else "train"
                path = path_of(root, named, building, point, view, layout, split=split)
                save_png(path, random_values(domain, random, size))
    return root


def write_split(path: Path, train=(), val=(), test=(), line_end="\r") -> Path:
    """A split file with the line ends of the published ones."""
    rows = ["id,train,val,test"]
    for column, names in enumerate((train, val, test)):
        rows += [f"{name}," + ",".join(str(int(place == column)) for place in range(3)) for name in names]
    path.write_bytes(line_end.join(rows).encode())
    return path
