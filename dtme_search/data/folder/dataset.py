"""A user's own data: images and labels in any folders, described by a YAML (``config/description.py``)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dtme_search.config import FolderDescription, fingerprint
from dtme_search.data.base import Sample, SourceSplit, chosen_specs
from dtme_search.data.folder.files import FolderFiles
from dtme_search.data.folder.groups import Groups
from dtme_search.data.folder.image_labels import ImageLabels
from dtme_search.data.folder.label_files import Label, read_label
from dtme_search.data.folder.specs import spec_of
from dtme_search.data.reading.digests import content_digests
from dtme_search.data.reading.files import make_sample, no_label
from dtme_search.data.reading.folders import read_ids
from dtme_search.data.reading.partly import beside_classes, with_gaps
from dtme_search.data.reading.pictures import read_image, read_size
from dtme_search.data.reading.presence import class_presence
from dtme_search.data.stratify import hashed_order, take_share
from dtme_search.errors import DataError
from dtme_search.tasks import TaskSpec


class FolderDataset:
    """The tasks of a description. Labels keep their native size.

    Args:
        description: What is where.
        root: Folder of the data; it is never written to.
        cache_dir: Where the classes of each image are stored; the default is in ``open_cache``.
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
        self._files = FolderFiles(root, description.images)
        self._groups = Groups(description.groups, root)
        self._dense = description.dense
        self._of_images = {
            name: ImageLabels(name, task, root, description.images)
            for name, task in description.of_images.items()
        }
        self._ids = self._split_ids()
        self._groups.check([*self._ids["train"], *self._ids["test"]])
        self._groups.check_apart(self._ids["train"], self._ids["test"])
        if require_complete:
            self._check_complete()

    @cached_property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """The tasks as the description names them."""
        return {name: spec_of(name, task) for name, task in self._description.tasks.items()}

    @cached_property
    def fingerprint(self) -> str:
        """From the description, the content of every training label and image, and the ids of the test split.

        No file of the test split is opened. The location of the folder does not count, so a copy is the same
        data set.
        """
        meaning = self._description.model_dump(mode="json", exclude={"root", "splits", "groups", "missing"})
        for name, task in meaning["tasks"].items():
            # The contents include which files are missing.
            del task["missing"]
            # The default metric of a mask has changed once.
            spec = self.tasks[name]
            is_mask = spec.kind == "mask" and not spec.of_image
            task |= {"loss": spec.loss, "metric": spec.metric} if is_mask else {}
        return fingerprint("folder", meaning, self._ids["test"], self._contents("train"))

    @cached_property
    def test_fingerprint(self) -> str:
        """From the content of every file of the test split."""
        return fingerprint("folder", self._contents("test"))

    def _contents(self, split: SourceSplit) -> list[tuple[object, ...]]:
        """Id, digests of image and labels, and labels of the whole image, for every sample of a split."""
        ids, patterns = self._ids[split], self._patterns
        paths = [self._path(pattern, sample_id) for sample_id in ids for pattern in patterns.values()]
        digests = content_digests(self._root, paths, self._cache_dir)
        width = len(patterns)
        return [
            (
                each,
                digests[width * row : width * (row + 1)],
                *(labels.cells(each) for labels in self._of_images.values()),
            )
            for row, each in enumerate(ids)
        ]

    def remarks(self) -> list[str]:
        """Remarks of the check about files, not content: skipped files, images without a group."""
        in_lists = set(self._ids["train"]) | set(self._ids["test"])
        found = self._files.passed_over() + self._groups.check(self._files.ids)
        for labels in self._of_images.values():
            found += labels.strangers([*self._files.ids, *in_lists])
        if self._description.splits.train is not None:
            rest = [sample_id for sample_id in self._files.ids if sample_id not in in_lists]
            if rest:
                found.append(
                    f"splits: {len(rest)} of {len(self._files.ids)} images are neither for training nor for "
                    f"the test, '{rest[0]}' first"
                )
        return found + self._twins()

    def _twins(self) -> list[str]:
        """Report photographs that occur under several names: they may end up on both sides of a split."""
        ids = [*self._ids["train"], *self._ids["test"]]
        paths = [self._path(self._description.images, sample_id) for sample_id in ids]
        names: defaultdict[str, list[str]] = defaultdict(list)
        for sample_id, digest in zip(ids, content_digests(self._root, paths, self._cache_dir), strict=True):
            if digest is not None:
                names[digest].append(sample_id)
        test = set(self._ids["test"])
        found = []
        for where, twins in (
            (
                "training and test share",
                [each for each in names.values() if 0 < len(test & set(each)) < len(each)],
            ),
            (
                "training images repeat",
                [each for each in names.values() if len(each) > 1 and not test & set(each)],
            ),
        ):
            if twins:
                found.append(
                    f"images: {where} {len(twins)} photographs, {' and '.join(twins[0][:2])} first: the same "
                    "file under two names. Remove one, or put them into one group"
                )
        return found

    def ids(self, split: SourceSplit) -> tuple[str, ...]:
        """In the order of the list, otherwise sorted."""
        return self._ids[split]

    def groups(self, ids: Sequence[str]) -> Sequence[str] | None:
        """By ``groups`` of the description; ``None`` without."""
        return self._groups.of(ids)

    def class_presence(self, ids: Sequence[str]) -> npt.NDArray[np.bool_] | None:
        """Classes of all tasks with classes, concatenated; read once, then from the cache.

        In addition, for each task with missing labels, whether there is a label.

        Raises:
            DataError: Names the first missing or broken label.
        """
        found = [
            class_presence(
                fingerprint(self.fingerprint, name),
                ids,
                len(task.classes),
                lambda sample_id, name=name: self._label(sample_id, name, (1, 1)),  # type: ignore[misc]
                self._cache_dir,
            )
            for name, task in self._dense.items()
            if task.kind == "classes"
        ]
        found += [labels.presence(ids) for labels in self._of_images.values() if labels.task.names]
        return beside_classes(found, self.labelled(ids))

    def labelled(self, ids: Sequence[str]) -> Mapping[str, npt.NDArray[np.bool_]] | None:
        """For each task with missing labels, whether each id has one, shape (N,); opens no file."""
        return with_gaps(
            ids, self._description.partly_labelled, lambda name, sample_id: self._has_label(sample_id, name)
        )

    def read(self, sample_id: str, tasks: Sequence[str]) -> Sample:
        """Read one image with the labels of ``tasks``.

        Raises:
            DataError: Names the file that is missing, broken, out of range or of another size than the image.
            ValueError: If a task is not one of ``tasks``.
        """
        specs = chosen_specs(self.tasks, tasks)
        image = read_image(self._path(self._description.images, sample_id))
        size = (image.shape[0], image.shape[1])
        labels = {name: self._label(sample_id, name, size) for name in tasks}
        return make_sample(image, specs, labels, lambda name: self._path(self._dense[name].files, sample_id))

    def image_size(self, sample_id: str) -> tuple[int, int]:
        """(H, W) of an image, without reading its pixels.

        Raises:
            DataError: If the file is missing or not a picture.
        """
        return read_size(self._path(self._description.images, sample_id))

    def _label(self, sample_id: str, name: str, size: tuple[int, int]) -> Label:
        """A label; an empty one of ``size`` if its file is missing and may be."""
        if name in self._of_images:
            return self._of_images[name].label(sample_id)
        task = self._dense[name]
        path = self._path(task.files, sample_id)
        if name not in self._description.partly_labelled or path.is_file():
            return read_label(path, name, task)
        return no_label(self.tasks[name], size)

    def _path(self, pattern: str, sample_id: str) -> Path:
        return self._files.path(pattern, sample_id)

    def _is_complete(self, sample_id: str, name: str) -> bool:
        """Whether a label is there, or the image if that is what ``name`` says."""
        if name == "images":
            return self._path(self._description.images, sample_id).is_file()
        return self._has_label(sample_id, name)

    def _has_label(self, sample_id: str, name: str) -> bool:
        if name in self._of_images:
            return bool(self._of_images[name].cells(sample_id))
        return self._path(self._dense[name].files, sample_id).is_file()

    @property
    def _patterns(self) -> dict[str, str]:
        of_tasks = {name: task.files for name, task in self._dense.items()}
        return {"images": self._description.images} | of_tasks

    def _split_ids(self) -> dict[SourceSplit, tuple[str, ...]]:
        splits = self._description.splits
        if splits.train is not None and splits.test is not None:
            return {"train": self._listed(splits.train), "test": self._listed(splits.test)}
        found = self._files.ids
        self._groups.check(found)
        group_of = dict(zip(found, self.groups(found) or found, strict=True))
        sizes = Counter(group_of.values())
        if len(sizes) < 2:
            raise DataError(
                f"{self._root / self._description.images}: there must be images of at least two groups "
                f"to split, got {len(sizes)}. Give splits.train and splits.test."
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
        matching = tuple(sample_id for sample_id in self._files.ids if fnmatchcase(sample_id, source))
        if not matching:
            raise DataError(
                f"{self._root / self._description.images}: some of {len(self._files.ids)} ids must match "
                f"'{source}', got none, '{self._files.ids[0]}' first. Correct splits in the description."
            )
        return matching

    def _check_complete(self) -> None:
        ids = [sample_id for listed in self._ids.values() for sample_id in listed]
        found = []
        sources = self._patterns | {name: each.source for name, each in self._of_images.items()}
        for name, source in sources.items():
            gap = [each for each in ids if not self._is_complete(each, name)]
            if gap and (name not in self._description.partly_labelled or len(gap) == len(ids)):
                shown = ", ".join(gap[:3]) + ", ..." * (len(gap) > 3)
                found.append(f"{name} ({source}): {len(gap)} of {len(ids)} missing ({shown})")
        if found:
            raise DataError(
                f"{self._root}: every id must have its files and labels, got {'; '.join(found)}. "
                "Complete the data, list the ids that are complete in splits.train and splits.test, or set "
                "missing: skip for tasks of which some images have no label."
            )
