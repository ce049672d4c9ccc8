"""Write a small PASCAL-Context release as it was published: MATLAB v5 structs, palette pngs, jpegs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from nyud_folder import save_png
from PIL import Image
from scipy import io

SIZE = (30, 40)
TRAIN = ("2008_000003", "2008_000015", "2008_000019", "2008_000023", "2008_000027", "2008_000031")
TEST = ("2008_000002", "2008_000007")
WITHOUT_PERSON = ("2008_000015", "2008_000007")
"""Images in which no person has parts: nobody is there, or a person without part masks."""
NYU_CLASSES = {"wall": 1, "floor": 2, "unknown": 3, "ceiling": 4, "television": 5}
CONTEXT_CLASSES = {"aeroplane": 2, "floor": 158, "sky": 360, "tvmonitor": 427, "unknown": 431, "wall": 440}
REGIONS = (158, 360, 427, 440, 2)


def struct(rows: list[dict[str, Any]]) -> np.ndarray:
    """A MATLAB struct array of shape (1, N)."""
    array = np.zeros((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for index, row in enumerate(rows):
        for name, value in row.items():
            array[0, index][name] = value
    return array


def person(*parts: tuple[str, np.ndarray], size=SIZE, name="person", index=15) -> dict[str, Any]:
    listed = [{"part_name": part, "mask": mask.astype(np.uint8)} for part, mask in parts]
    mask = np.zeros(size, dtype=np.uint8)
    # MATLAB has [] where an object has no parts.
    return {
        "class": name,
        "class_ind": float(index),
        "mask": mask,
        "parts": struct(listed) if listed else np.zeros((0, 0)),
    }


def save_parts(path: Path, sample_id: str, objects: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    anno = struct([{"imname": sample_id, "objects": struct(objects) if objects else np.zeros((0, 0))}])
    io.savemat(path, {"anno": anno}, do_compression=True)


def save_regions(path: Path, regions: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    io.savemat(path, {"LabelMap": regions.astype(np.uint16)}, do_compression=True)


def save_palette(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(np.random.default_rng(1).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path)


def rectangle(rows: slice, columns: slice, size=SIZE) -> np.ndarray:
    mask = np.zeros(size, dtype=np.uint8)
    mask[rows, columns] = 1
    return mask


def regions_of(seed: int, size=SIZE) -> np.ndarray:
    """Four quadrants of different classes."""
    chosen = np.random.default_rng(seed).permutation(REGIONS)[:4].reshape(2, 2)
    return np.kron(chosen, np.ones((size[0] // 2, size[1] // 2), dtype=np.uint16)).astype(np.uint16)


def write_release(root: Path, size=SIZE, train=TRAIN, test=TEST) -> Path:
    lists = root / "ImageSets" / "Context"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"{i}\n" for i in train))
    (lists / "val.txt").write_text("".join(f"{i}\n" for i in test))
    (root / "db_info").mkdir()
    (root / "db_info" / "nyu_classes.json").write_text(json.dumps(NYU_CLASSES))
    (root / "db_info" / "context_classes.json").write_text(json.dumps(CONTEXT_CLASSES))
    (root / "JPEGImages").mkdir()
    height, width = size
    for index, sample_id in enumerate((*train, *test)):
        random = np.random.default_rng(index)
        smooth = Image.fromarray(random.integers(0, 256, (4, 4, 3)).astype(np.uint8)).resize((width, height))
        smooth.save(root / "JPEGImages" / f"{sample_id}.jpg", quality=95)
        ids = random.integers(0, 21, size)
        ids[0] = 255
        folder = "VOC12" if index % 2 else "pascal-context"
        save_palette(root / "semseg" / folder / f"{sample_id}.png", ids)
        save_png(
            root / "normals_distill" / f"{sample_id}.png",
            random.integers(150, 256, (*size, 3)).astype(np.uint8),
        )
        save_png(root / "sal_distill" / f"{sample_id}.png", random.integers(0, 256, size).astype(np.uint8))
        save_regions(root / "pascal-context" / "trainval" / f"{sample_id}.mat", regions_of(index, size))
        parts = (
            []
            if sample_id in WITHOUT_PERSON
            else [
                ("head", rectangle(slice(2, 6), slice(10, 16), size)),
                ("torso", rectangle(slice(6, 16), slice(8, 18), size)),
                ("lhand", rectangle(slice(10, 12), slice(18, 20), size)),
                ("ruarm", rectangle(slice(6, 10), slice(18, 20), size)),
                ("luleg", rectangle(slice(16, 22), slice(8, 12), size)),
                ("rfoot", rectangle(slice(22, 24), slice(8, 12), size)),
            ]
        )
        dog = person(("head", rectangle(slice(0, 2), slice(0, 2), size)), size=size, name="dog", index=12)
        save_parts(root / "human_parts" / f"{sample_id}.mat", sample_id, [dog, person(*parts, size=size)])
    return root
