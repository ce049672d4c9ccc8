"""Write a small ``nyu_depth_v2_labeled.mat``: real HDF5 with reversed axes, and the files beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import savemat

from dtme_search.data.nyud.names import CLASS_NAMES

FRAME = (480, 640)
NAMES = ("book", *CLASS_NAMES[:37], "hooks", "wine rack")
"""Labels from 1 on; of these "books" is not the name of its label, and the last two are in no named class."""
WALL, FLOOR, CHAIR, HOOKS = (NAMES.index(name) + 1 for name in ("wall", "floor", "chair", "hooks"))


def frame(number: int) -> dict[str, np.ndarray]:
    """Picture number ``number`` as rows and columns, so different along both that a swap shows.

    A wall across the whole frame; on it two chairs side by side that only their instance tells apart, a floor
    below, hooks on the left, and an unlabelled block.
    """
    rows, columns = np.indices(FRAME)
    labels = np.full(FRAME, WALL, dtype=np.uint16)
    labels[400:] = FLOOR
    labels[200:300, 100:200] = CHAIR
    labels[100:140, 60:90] = HOOKS
    labels[100:180, 400:500] = 0
    instances = np.ones(FRAME, dtype=np.uint8)
    instances[200:300, 150:200] = 2
    return {
        "images": np.stack([rows // 2, columns // 3, np.full(FRAME, number)], axis=-1).astype(np.uint8),
        "depths": np.full(FRAME, 2.0 + number / 10, dtype=np.float32),
        "labels": labels,
        "instances": instances,
    }


def write_mat(folder: Path, num_images: int = 3, mapping: bool = True, **changed: object) -> Path:
    """The data set with its split (the first image is for training, as is the third) and its mapping.

    Args:
        folder: Where to write.
        num_images: Images in the file.
        mapping: Write ``classMapping40.mat`` too.
        changed: Variables that take the place of ours; ``None`` leaves one out.
    """
    import h5py

    folder.mkdir(parents=True, exist_ok=True)
    frames = [frame(number) for number in range(1, num_images + 1)]
    stacked = {name: np.stack([each[name].T for each in frames]) for name in frames[0]}
    texts = {
        "names": list(NAMES),
        "scenes": [f"kitchen_{(index // 2):04d}" for index in range(num_images)],
    }
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        for name, values in (stacked | changed).items():
            if values is not None:
                file.create_dataset(name, data=values, chunks=True, compression="gzip")
        for name, words in texts.items():
            if name in changed:
                continue
            references = file.create_dataset(name, (1, len(words)), dtype=h5py.ref_dtype)
            for index, word in enumerate(words):
                codes = np.array([[ord(letter)] for letter in word], dtype=np.uint16)
                references[0, index] = file.create_dataset(f"#refs#/{name}{index}", data=codes).ref
    numbers = np.arange(1, num_images + 1, dtype=np.uint16)[:, None]
    savemat(folder / "splits.mat", {"trainNdxs": numbers[::2], "testNdxs": numbers[1::2]})
    if mapping:
        classes = [CLASS_NAMES.index({"book": "books"}.get(name, name)) + 1 for name in NAMES[:38]] + [40, 39]
        savemat(folder / "classMapping40.mat", {"mapClass": np.array([classes], dtype=np.uint8)})
    return folder / "nyu_depth_v2_labeled.mat"
