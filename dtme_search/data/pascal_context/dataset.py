"""PASCAL-Context with the five tasks of the multi-task literature, as ``data prepare`` writes it.

    ROOT/ImageSets/Context/train.txt, val.txt    one id per line; val is the official test split
    ROOT/JPEGImages/ID.jpg                       RGB, longest side 500
    ROOT/semseg/ID.png                           0 background, 1..20 the classes of VOC, 255 void
    ROOT/human_parts/ID.png                      0..6; 255 throughout where no person has parts
    ROOT/edge/ID.png                             0 and 255
    ROOT/normals/ID.png                          optional; (x, y, z) as 255 (n + 1) / 2, grey where unknown
    ROOT/sal/ID.png                              optional; salient above 127

Images: Everingham et al., IJCV 2010; regions: Mottaghi et al., CVPR 2014; parts: Chen et al., CVPR 2014;
tasks, and normals and saliency predicted by other networks: Maninis et al., CVPR 2019 (ASTMT). The published
release has MATLAB files for parts and regions; ``data/pascal_context/prepare.py`` reads them once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dtme_search.config import fingerprint
from dtme_search.data.base import Sample, SourceSplit, chosen_specs
from dtme_search.data.pascal_context.labels import PART_NAMES
from dtme_search.data.reading.digests import contents
from dtme_search.data.reading.files import (
    Label,
    make_sample,
    no_label,
    read_class_ids,
    read_levels,
    read_mask,
    read_normals,
)
from dtme_search.data.reading.folders import list_files, name_gaps, read_ids
from dtme_search.data.reading.partly import Labelled, beside_classes, with_gaps
from dtme_search.data.reading.pictures import read_image
from dtme_search.data.reading.presence import class_presence
from dtme_search.errors import DataError
from dtme_search.tasks import TaskSpec, edge, human_parts, normals, sal, semseg

CLASS_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
"""The 20 classes of VOC and the background, which is a class like the others here."""

EDGE_TOLERANCE = 0.0075
"""Fraction of the image diagonal; published odsF on this set was measured with this value."""

_SPLIT_FILES: dict[SourceSplit, str] = {"train": "train.txt", "test": "val.txt"}
_LISTS = Path("ImageSets") / "Context"
_FOLDERS = {
    "semseg": "semseg",
    "human_parts": "human_parts",
    "sal": "sal",
    "normals": "normals",
    "edge": "edge",
}
"""Folder per task, in the order of the tasks."""
_IMAGES = "JPEGImages"
_OPTIONAL = ("normals", "sal")
_VOID = 255
_TEACHER = "another network"


class PascalContextDataset:
    """Tasks semseg (21 classes), human_parts (7), sal, normals and edge of PASCAL-Context.

    The official validation split is the test split, as in the literature. Labels keep their native size. An
    image in which no person has parts says nothing about human_parts, so none of its pixels counts.

    Args:
        root: Folder of the layout above; it is never written to.
        cache_dir: Where the classes of each image are stored; the default is in ``open_cache``.
        require_complete: Refuse a folder in which files of listed ids are missing. ``check_dataset`` gets a
            data set without this, to name each of them.
        partly_labelled: Whether images may lack labels of some tasks.

    Raises:
        DataError: If the folder, a part of the layout or a file of a listed id is missing.
    """

    def __init__(
        self,
        root: Path,
        cache_dir: Path | None = None,
        *,
        require_complete: bool = True,
        partly_labelled: bool = False,
    ) -> None:
        self._root = root
        self._partly_labelled = partly_labelled
        self._cache_dir = cache_dir
        _check_layout(root)
        self._ids = {split: read_ids(root / _LISTS / name) for split, name in _SPLIT_FILES.items()}
        self._files = {
            folder: list_files(root / folder, (".jpg", ".jpeg", ".png") if folder == _IMAGES else (".png",))
            for folder in (_IMAGES, *_FOLDERS.values())
            if folder not in _OPTIONAL or (root / folder).is_dir()
        }
        every_id = [sample_id for listed in self._ids.values() for sample_id in listed]
        gaps = name_gaps(every_id, self._files, _FOLDERS.values() if partly_labelled else ())
        if require_complete and gaps:
            raise DataError(
                f"{root}: every id of {_LISTS}/*.txt must have its files, got {gaps}. "
                "Run 'dtme-search data prepare pascal_context' again, shorten the lists, or set "
                "data.missing: skip to train with the labels that exist."
            )

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """Tasks whose folder exists; ``derived_from`` says which labels were not drawn by people."""
        specs = (
            semseg(CLASS_NAMES),
            human_parts(PART_NAMES),
            sal(_TEACHER),
            normals(_TEACHER),
            edge("region labels", EDGE_TOLERANCE),
        )
        return {spec.name: spec for spec in specs if _FOLDERS[spec.name] in self._files}

    @cached_property
    def fingerprint(self) -> str:
        """From the content of every training file, and the ids of the test split, of which none is opened."""
        content = contents(self._root, self._files, self._ids["train"], self._cache_dir)
        return fingerprint("pascal_context", content, self._ids["test"])

    @cached_property
    def test_fingerprint(self) -> str:
        """From the content of every file of the test split."""
        content = contents(self._root, self._files, self._ids["test"], self._cache_dir)
        return fingerprint("pascal_context", content)

    def ids(self, split: SourceSplit) -> tuple[str, ...]:
        """Ids in the order of the split file; "test" is the published val.txt."""
        return self._ids[split]

    def groups(self, ids: Sequence[str]) -> None:
        """``None``: the images are unrelated photographs."""

    def class_presence(self, ids: Sequence[str]) -> npt.NDArray[np.bool_] | None:
        """Classes of semseg and of human_parts by sample, from their files; read once, then from the cache.

        In addition, for each task with missing files, whether there is a label.

        Raises:
            DataError: Names the first missing or broken file.
        """

        def read(sample_id: str) -> Label:
            (classes, known), (parts, seen) = (
                no_label(self.tasks[task], (1, 1))
                if self._lacks(task, sample_id)
                else self._read_label(task, sample_id)
                for task in ("semseg", "human_parts")
            )
            both = np.concatenate([classes.ravel(), parts.ravel() + len(CLASS_NAMES)])
            return both, np.concatenate([known.ravel(), seen.ravel()])

        num_classes = len(CLASS_NAMES) + len(PART_NAMES)
        found = class_presence(self.fingerprint, ids, num_classes, read, self._cache_dir)
        return beside_classes([found], self.labelled(ids))

    def labelled(self, ids: Sequence[str]) -> Labelled | None:
        """For each task with missing files, whether each id has one, shape (N,); opens no file."""
        return with_gaps(ids, self.tasks, lambda task, sample_id: not self._lacks(task, sample_id))

    def read(self, sample_id: str, tasks: Sequence[str]) -> Sample:
        """Read one image with the labels of ``tasks``.

        Raises:
            DataError: Names the file that is missing, broken, of another size than the image, or that holds
                ids out of range.
            ValueError: If a task is not one of ``tasks``.
        """
        specs = chosen_specs(self.tasks, tasks)
        labels = {
            task: self._read_label(task, sample_id) for task in tasks if not self._lacks(task, sample_id)
        }
        image = read_image(self._path(_IMAGES, sample_id))
        return make_sample(image, specs, labels, lambda task: self._path(_FOLDERS[task], sample_id))

    def _lacks(self, task: str, sample_id: str) -> bool:
        """Whether an image has no label of a task and may have none."""
        return self._partly_labelled and sample_id not in self._files[_FOLDERS[task]]

    def _read_label(self, task: str, sample_id: str) -> Label:
        path = self._path(_FOLDERS[task], sample_id)
        if task == "semseg":
            return _read_classes(path, "segmentation", len(CLASS_NAMES))
        if task == "human_parts":
            return _read_classes(path, "part", len(PART_NAMES))
        if task == "sal":
            # Grey levels of a soft prediction: a dark one whose brightest pixel is 1 shows nothing salient.
            levels = read_levels(path, "saliency", 8)
            return (levels > 127).astype(np.uint8), np.ones(levels.shape, dtype=np.bool_)
        return read_normals(path) if task == "normals" else read_mask(path)

    def _path(self, folder: str, sample_id: str) -> Path:
        suffix = ".jpg" if folder == _IMAGES else ".png"
        return self._root / folder / self._files[folder].get(sample_id, sample_id + suffix)


def _read_classes(path: Path, name: str, num_classes: int) -> Label:
    ids = read_class_ids(path)
    valid = ids != _VOID
    counted = ids[valid]
    if counted.size and not 0 <= counted.min() <= counted.max() < num_classes:
        raise DataError(
            f"{path}: {name} ids must be 0 to {num_classes - 1}, or {_VOID} for void, got {counted.min()} to "
            f"{counted.max()}. Replace the file."
        )
    return np.where(valid, ids, 0).astype(np.uint8), valid


def _check_layout(root: Path) -> None:
    if not root.is_dir():
        raise DataError(
            f"{root}: the folder of data set pascal_context must exist. Pass --data-root DIR or set "
            "DTME_DATA_ROOT."
        )
    required = [str(_LISTS / name) for name in _SPLIT_FILES.values()]
    required += [folder for folder in (_IMAGES, *_FOLDERS.values()) if folder not in _OPTIONAL]
    missing = [name for name in required if not (root / name).exists()]
    if missing or (root / "pascal-context").is_dir():
        published = (root / "pascal-context").is_dir()
        found = "the published release" if published else f"no {', '.join(missing)}"
        raise DataError(
            f"{root}: data set pascal_context must be prepared first (with {', '.join(required)}), got "
            f"{found}. Run: dtme-search data prepare pascal_context "
            f"--source {root if published else 'RELEASE'} --out DIR"
        )
