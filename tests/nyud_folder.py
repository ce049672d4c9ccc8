"""Write a small data set in the published NYUDv2 layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 32)
TRAIN, TEST = ("0003", "0004", "0009"), ("0001", "0002")


def save_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def save_npy(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_nyud(root: Path, published: tuple[str, ...] = ("normals", "edge"), size=SIZE) -> Path:
    """Three training and two test samples of random content, every file a png."""
    lists = root / "gt_sets"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"{i}\n" for i in TRAIN))
    (lists / "val.txt").write_text("".join(f"{i}\n" for i in TEST))
    random = np.random.default_rng(0)
    for sample_id in TRAIN + TEST:
        name = f"{sample_id}.png"
        save_png(root / "images" / name, random.integers(0, 256, (*size, 3)).astype(np.uint8))
        save_png(root / "segmentation" / name, random.integers(0, 40, size).astype(np.uint8))
        save_png(root / "depth" / name, random.integers(500, 9000, size).astype(np.uint16))
        if "normals" in published:
            save_png(root / "normals" / name, random.integers(150, 256, (*size, 3)).astype(np.uint8))
        if "edge" in published:
            save_png(root / "edge" / name, (255 * random.integers(0, 2, size)).astype(np.uint8))
    return root
