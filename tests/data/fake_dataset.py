"""A small data set in memory, deterministic by id, that remembers what was read."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from dtme_search import tasks
from dtme_search.data import Sample
from dtme_search.errors import DataError
from dtme_search.tasks import TaskSpec

TASKS = {
    "semseg": tasks.semseg(("floor", "wall", "chair", "lamp")),
    "depth": tasks.depth(),
    "normals": tasks.normals(),
    "edge": tasks.edge(),
    "albedo": TaskSpec("albedo", 2, "values", "l1", "rmse", "m", False),
}


class FakeDataset:
    """Random content by id, two neighbours to a group; ids in ``broken`` cannot be read."""

    fingerprint = "fake-1"

    def __init__(
        self,
        num_train: int = 10,
        num_test: int = 4,
        size: tuple[int, int] | Callable[[str], tuple[int, int]] = (12, 20),
        broken: Sequence[str] = (),
        offered: Sequence[str] = tuple(TASKS),
    ) -> None:
        self.tasks = {task: TASKS[task] for task in offered}
        self.broken = set(broken)
        self.reads: list[str] = []
        self._size = size
        self._ids = {
            "train": tuple(f"a{index:03d}" for index in range(num_train)),
            "test": tuple(f"t{index:03d}" for index in range(num_test)),
        }

    def ids(self, split):
        return self._ids[split]

    def groups(self, ids):
        return [f"pair {int(sample_id[1:]) // 2}" for sample_id in ids]

    def class_presence(self, ids):
        return None

    def read(self, sample_id, tasks):
        self.reads.append(sample_id)
        if sample_id in self.broken:
            raise DataError(f"images/{sample_id}.png: cannot be read. Download it again.")
        height, width = self._size(sample_id) if callable(self._size) else self._size
        rng = np.random.default_rng(zlib.crc32(sample_id.encode()))
        normals = rng.normal(size=(height, width, 3))
        labels = {
            "semseg": rng.integers(0, 4, (height, width), dtype=np.uint8),
            "depth": rng.uniform(0.5, 9.0, (height, width)).astype(np.float32),
            "normals": (normals / np.linalg.norm(normals, axis=-1, keepdims=True)).astype(np.float32),
            "edge": rng.integers(0, 2, (height, width), dtype=np.uint8),
            "albedo": rng.uniform(-1, 1, (height, width, 2)).astype(np.float32),
        }
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        valid = {task: rng.random((height, width)) < 0.8 for task in labels}
        labels["semseg"][~valid["semseg"]] = 255
        labels["depth"][~valid["depth"]] = np.nan
        return Sample(image, {task: labels[task] for task in tasks}, {task: valid[task] for task in tasks})
