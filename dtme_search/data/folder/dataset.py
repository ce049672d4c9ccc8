"""A user's own data: images and labels in any folders, as a YAML tells (``config/description.py``)."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dtme_search.config import FolderDescription, FolderTask, fingerprint
from dtme_search.config.description import LOSSES, METRICS, UNITS
from dtme_search.data.base import Sample, SourceSplit
from dtme_search.data.folder.label_files import read_label
from dtme_search.data.reading.folders import content_digest, file_size, read_ids, read_pairs
from dtme_search.data.reading.pictures import read_image
from dtme_search.data.reading.presence import class_presence
from dtme_search.data.stratify import hashed_order, take_share
from dtme_search.errors import DataError, nearest
from dtme_search.tasks import TaskSpec

_FINGERPRINTED_IDS = 16


class FolderDataset:
    """The tasks of a description. Labels keep their native size.

    Args:
        description: What stands where.
        root: Folder of the data; it is never written to.
        cache_dir: Where the classes of each image are noted; ``open_cache`` says where otherwise.
        require_complete: Refuse a folder in which files of listed ids are missing.

    Raises:
        DataError: If the folder, an image or a file of a listed id is missing.
    """

    def __init__(
        self,
        description: FolderDescription,
        root: Path,
        cache_dir: Path | None = None,
        *,
        require_complete: bool = True,
    ) -> None:
        self._description = description
        self._root = root
        self._cache_dir = cache_dir
        if not root.is_dir():
            raise DataError(f"{root}: the folder of the data must exist. Set root in the description.")
        groups = description.groups
        self._listed_groups = read_pairs(root / groups.file) if groups and groups.file else {}
        self._ids = self._split_ids()
        if require_complete:
            self._check_complete()

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """The tasks as the description names them."""
        return {name: _spec(name, task) for name, task in self._description.tasks.items()}

    @cached_property
    def fingerprint(self) -> str:
        """From the description, names and sizes of all files, and the bytes of a few training ids.

        The place of the folder and file times do not count, so a copy is the same data set.
        """
        ids = [sample_id for listed in self._ids.values() for sample_id in listed]
        patterns = (self._description.images, *(task.files for task in self._description.tasks.values()))
        sizes = [[file_size(self._path(pattern, sample_id)) for pattern in patterns] for sample_id in ids]
        # Of the training ids: a search opens no file of the test split.
        probes = self._ids["train"][:: max(1, len(self._ids["train"]) // _FINGERPRINTED_IDS)]
        contents = [
            content_digest(path)
            for path in (self._path(pattern, sample_id) for sample_id in probes for pattern in patterns)
            if path.is_file()
        ]
        meaning = self._description.model_dump(mode="json", exclude={"root", "splits", "groups"})
        return fingerprint("folder", meaning, ids, sizes, contents)

    def ids(self, split: SourceSplit) -> tuple[str, ...]:
        """In the order of the list, else sorted."""
        return self._ids[split]

    def groups(self, ids: Sequence[str]) -> Sequence[str] | None:
        """By ``groups`` of the description; ``None`` without."""
        groups = self._description.groups
        if groups is None:
            return None
        if groups.pattern is None:
            return [self._listed_groups.get(sample_id, sample_id) for sample_id in ids]
        matches = [re.search(groups.pattern, sample_id) for sample_id in ids]
        return [match[1] if match else sample_id for match, sample_id in zip(matches, ids, strict=True)]

    def class_presence(self, ids: Sequence[str]) -> npt.NDArray[np.bool_] | None:
        """Classes of all tasks of kind classes side by side; read once, then from the cache.

        Raises:
            DataError: Names the first label that is missing or broken.
        """
        tasks = {name: task for name, task in self._description.tasks.items() if task.kind == "classes"}
        if not tasks:
            return None
        found = [
            class_presence(
                fingerprint(self.fingerprint, name),
                ids,
                len(task.classes),
                lambda sample_id, name=name, task=task: read_label(  # type: ignore[misc]
                    self._path(task.files, sample_id), name, task
                ),
                self._cache_dir,
            )
            for name, task in tasks.items()
        ]
        return np.concatenate(found, axis=1)

    def read(self, sample_id: str, tasks: Sequence[str]) -> Sample:
        """Read one image with the labels of ``tasks``.

        Raises:
            DataError: Names the file that is missing, broken, out of range or of another size than the image.
            ValueError: If a task is not one of ``tasks``.
        """
        unknown = [task for task in tasks if task not in self._description.tasks]
        if unknown:
            raise ValueError(
                f"task must be known, got '{unknown[0]}'.{nearest(unknown[0], self._description.tasks)}"
            )
        labels, valid = {}, {}
        for name in tasks:
            task = self._description.tasks[name]
            labels[name], valid[name] = read_label(self._path(task.files, sample_id), name, task)
        image = read_image(self._path(self._description.images, sample_id))
        for name, mask in valid.items():
            if mask.shape != image.shape[:2]:
                path = self._path(self._description.tasks[name].files, sample_id)
                raise DataError(
                    f"{path}: the size of {name} must be that of the image, "
                    f"{image.shape[0]}x{image.shape[1]}, got {mask.shape[0]}x{mask.shape[1]}. Replace one."
                )
        return Sample(image, labels, valid)

    def _path(self, pattern: str, sample_id: str) -> Path:
        return self._root / pattern.replace("{id}", sample_id)

    def _split_ids(self) -> dict[SourceSplit, tuple[str, ...]]:
        splits = self._description.splits
        if splits.train is not None and splits.test is not None:
            return {"train": self._listed(splits.train), "test": self._listed(splits.test)}
        group_of = dict(zip(self._found, self.groups(self._found) or self._found, strict=True))
        sizes = Counter(group_of.values())
        if len(sizes) < 2:
            raise DataError(
                f"{self._root / self._description.images}: images of at least two groups must be there "
                f"to be divided, got {len(sizes)}. Give splits.train and splits.test."
            )
        order = hashed_order(sizes, splits.seed, "test")
        tested = take_share(order, sizes, splits.test_fraction * len(group_of))
        return {
            "train": tuple(sample_id for sample_id, group in group_of.items() if group not in tested),
            "test": tuple(sample_id for sample_id, group in group_of.items() if group in tested),
        }

    def _listed(self, source: str) -> tuple[str, ...]:
        """Ids of a list file, or those that match a pattern."""
        if "*" not in source:
            return read_ids(self._root / source)
        matching = tuple(sample_id for sample_id in self._found if fnmatchcase(sample_id, source))
        if not matching:
            raise DataError(
                f"{self._root / self._description.images}: some of {len(self._found)} ids must match "
                f"'{source}', got none, '{self._found[0]}' first. Mend splits in the description."
            )
        return matching

    @cached_property
    def _found(self) -> tuple[str, ...]:
        """Ids of all images that are there, sorted."""
        before, after = self._description.images.split("{id}")
        # The part of a file name before the id is no folder.
        folder = self._root / before.rpartition("/")[0]
        paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
        names = (path.relative_to(self._root).as_posix() for path in paths)
        ids = [
            name[len(before) : len(name) - len(after)]
            for name in names
            if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)
        ]
        if not ids:
            raise DataError(
                f"{self._root / self._description.images}: some image must be there, got none. "
                "Mend root or images in the description."
            )
        return tuple(sorted(ids))

    def _check_complete(self) -> None:
        ids = [sample_id for listed in self._ids.values() for sample_id in listed]
        patterns = {"images": self._description.images}
        patterns |= {name: task.files for name, task in self._description.tasks.items()}
        found = []
        for name, pattern in patterns.items():
            gap = [sample_id for sample_id in ids if not self._path(pattern, sample_id).is_file()]
            if gap:
                shown = ", ".join(gap[:3]) + ", ..." * (len(gap) > 3)
                found.append(f"{name} ({pattern}): {len(gap)} of {len(ids)} missing ({shown})")
        if found:
            raise DataError(
                f"{self._root}: every id must have its files, got {'; '.join(found)}. "
                "Complete the data, or list the ids that are complete in splits.train and splits.test."
            )


def _spec(name: str, task: FolderTask) -> TaskSpec:
    channels = {"classes": len(task.classes), "normals": 3, "values": task.channels}.get(task.kind, 1)
    unit = UNITS[task.kind]
    return TaskSpec(
        name,
        channels,
        task.kind,
        task.loss or LOSSES[task.kind][0],
        task.metric or METRICS[task.kind][0],
        unit,
        unit == "fraction",
        tuple(task.classes),
        task.derived_from,
        task.edge_tolerance,
    )
