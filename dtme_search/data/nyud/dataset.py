"""NYU Depth V2 in the published folder layout (Silberman, Hoiem, Kohli and Fergus, ECCV 2012).

    ROOT/gt_sets/train.txt, val.txt     one id per line; val is the official test split
    ROOT/images/ID.png or jpg           RGB
    ROOT/segmentation/ID.png or npy     0 unlabelled, 1..num_classes
    ROOT/depth/ID.npy or png            metres, or 16-bit millimetres
    ROOT/normals/ID.png or npy          optional; (x, y, z) as 255 (n + 1) / 2, or floats
    ROOT/edge/ID.png or npy             optional; 0 and 255, or 0 and 1
    ROOT/gt_sets/scenes.txt             optional, ours: "ID SCENE" per line
    ROOT/gt_sets/classes.txt            optional, ours: one name per line, in the order of the ids
    ROOT/gt_sets/derived.txt            optional, ours: "TASK SOURCE" per line, for normals and edge

``dtme-search data prepare nyud`` writes this from the official file (``data/nyud_prepare.py``). Without the
folder ``normals`` or ``edge`` that task is derived (``data/derive.py``) and kept in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dtme_search.config import NyudConfig, fingerprint
from dtme_search.data.base import Sample, SourceSplit, chosen_specs
from dtme_search.data.derive import DERIVE_VERSION, Camera, edges_from_labels, normals_from_depth
from dtme_search.data.nyud.names import CLASS_NAMES, SCENE_TYPES, scene_label, scene_type
from dtme_search.data.reading.cache import open_cache
from dtme_search.data.reading.digests import contents
from dtme_search.data.reading.files import (
    Bools,
    Label,
    make_sample,
    no_label,
    read_class_ids,
    read_depth,
    read_mask,
    read_normals,
)
from dtme_search.data.reading.folders import (
    content_digest,
    list_files,
    name_gaps,
    read_ids,
    read_pairs,
)
from dtme_search.data.reading.partly import Labelled, beside_classes, with_gaps
from dtme_search.data.reading.pictures import read_image
from dtme_search.data.reading.presence import class_presence
from dtme_search.errors import DataError
from dtme_search.tasks import TaskSpec, depth, edge, image_class, normals, semseg

_SPLIT_FILES: dict[SourceSplit, str] = {"train": "train.txt", "test": "val.txt"}
_SUFFIXES = {
    "images": (".png", ".jpg", ".jpeg"),
    "segmentation": (".png", ".npy"),
    "depth": (".npy", ".png"),
    "normals": (".png", ".npy"),
    "edge": (".png", ".npy"),
}
"""Kinds of file per folder; the first one that exists is read."""
_FOLDERS = {"semseg": "segmentation", "depth": "depth", "normals": "normals", "edge": "edge"}
_OPTIONAL = ("normals", "edge")

_FRAME = (480, 640)
_CROP = (425, 560)
_CROP_AT = (45, 40)
"""First row and column of the published crop in the full frame."""
_FRAME_CAMERA = Camera(focal_x=518.858, focal_y=519.470, centre_x=325.582, centre_y=253.736)
_CRACK_RADIUS, _SPECK_AREA = 3, 8
"""Width of the unlabelled strips between objects, and size of stray labels, in pixels of a 320x240 frame."""
_COARSEST_STEP = 0.05
"""Metres; a larger common divisor of all depths is chance, as in a picture of one flat wall."""
UNKNOWN_EDGE = 127
"""Grey level of unknown pixels in a prepared edge file."""


class NyudDataset:
    """Tasks semseg, depth, normals and edge of NYU Depth V2, and scene where ``scenes.txt`` names scenes.

    Labels keep their native size. Published normals keep the frame of their file: channels (x, y, z) as
    stored, only scaled to length 1; derived ones are in the camera frame of ``Sample``. Derived normals do
    not count in the margin of a full frame, where the depth sensor saw nothing.

    Args:
        root: Folder of the layout above; it is never written to.
        config: Number of classes.
        cache_dir: Where derived labels are kept; the default is in ``open_cache``.
        require_complete: Refuse a folder in which files of listed ids are missing. ``check_dataset`` gets a
            data set without this, to name each of them.
        partly_labelled: Whether images may lack labels of some tasks.

    Raises:
        DataError: If the folder, a part of the layout or a file of a listed id is missing.
    """

    def __init__(
        self,
        root: Path,
        config: NyudConfig,
        cache_dir: Path | None = None,
        *,
        require_complete: bool = True,
        partly_labelled: bool = False,
    ) -> None:
        self._root = root
        self._cache_dir = cache_dir
        self._partly_labelled = partly_labelled
        self._num_classes = config.num_classes
        _check_layout(root)
        self._ids = {split: read_ids(root / "gt_sets" / name) for split, name in _SPLIT_FILES.items()}
        scenes, marks = (root / "gt_sets" / name for name in ("scenes.txt", "derived.txt"))
        self._scenes = read_pairs(scenes) if scenes.exists() else {}
        self._derived_from = read_pairs(marks) if marks.exists() else {}
        self._class_names = _class_names(root / "gt_sets" / "classes.txt", config.num_classes)
        self._files = {
            folder: list_files(root / folder, suffixes)
            for folder, suffixes in _SUFFIXES.items()
            if folder not in _OPTIONAL or (root / folder).is_dir()
        }
        if require_complete:
            self._check_complete()
        self._derived: dict[str, Any] = {}
        missing = {"normals": _derived_normals, "edge": _derived_edge}
        if not missing.keys() <= self._files.keys():
            memory = open_cache(cache_dir)
            for task in missing.keys() - self._files.keys():
                self._derived[task] = memory.cache(missing[task], ignore=["path"])
                # Joblib records the source of a function at first use; parallel readers would race for it.
                self._derived[task].check_call_in_cache(Path(), "", 0)
                self._derived_from[task] = {"normals": "depth", "edge": "segmentation labels"}[task]

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """The four tasks, and scene; ``derived_from`` says which labels are not published ones."""
        specs = [
            semseg(self._class_names),
            depth(),
            normals(self._derived_from.get("normals")),
            edge(self._derived_from.get("edge")),
            *([image_class("scene", SCENE_TYPES)] if self._scenes else []),
        ]
        return {spec.name: spec for spec in specs}

    @cached_property
    def fingerprint(self) -> str:
        """From the content of every training file, the types of training scenes, and the ids of the test
        split, of which no file is opened."""
        version = DERIVE_VERSION if self._derived else None
        content = contents(self._root, self._files, self._ids["train"], self._cache_dir)
        types = self._scene_types("train")
        return fingerprint("nyud", self._num_classes, version, content, self._ids["test"], *types)

    @cached_property
    def test_fingerprint(self) -> str:
        """From the content of every file of the test split."""
        content = contents(self._root, self._files, self._ids["test"], self._cache_dir)
        return fingerprint("nyud", content, *self._scene_types("test"))

    def _scene_types(self, split: SourceSplit) -> list[list[int | None]]:
        """Type of each scene of a split, ``None`` without one; empty without any scenes."""
        named = [self._scenes.get(sample_id) for sample_id in self._ids[split]]
        return [[None if scene is None else scene_type(scene) for scene in named]] if self._scenes else []

    def ids(self, split: SourceSplit) -> tuple[str, ...]:
        """Ids in the order of the split file; "test" is the published val.txt, the official test split."""
        return self._ids[split]

    def groups(self, ids: Sequence[str]) -> Sequence[str] | None:
        """Scenes from ``gt_sets/scenes.txt``, or the id if it is not listed; ``None`` without that file."""
        return [self._scenes.get(sample_id, sample_id) for sample_id in ids] if self._scenes else None

    def class_presence(self, ids: Sequence[str]) -> Bools | None:
        """Classes from the segmentation files, read once, then from the cache, and scene types, by sample.

        In addition, for each task with missing files, whether there is a label.

        Raises:
            DataError: Names the first missing or broken segmentation.
        """

        def read(sample_id: str) -> Label:
            if self._lacks("semseg", sample_id):
                return no_label(self.tasks["semseg"], (1, 1))
            return self._read_classes(self._path("segmentation", sample_id))

        of_pixels = class_presence(self.fingerprint, ids, self._num_classes, read, self._cache_dir)
        of_scenes = np.zeros((len(ids), len(SCENE_TYPES) if self._scenes else 0), np.bool_)
        for row, sample_id in enumerate(ids if self._scenes else ()):
            label, valid = scene_label(self._scenes.get(sample_id))
            of_scenes[row, label[valid]] = True
        files = {task: there for task, there in (self.labelled(ids) or {}).items() if task != "scene"}
        return beside_classes([of_pixels, of_scenes], files)

    def labelled(self, ids: Sequence[str]) -> Labelled | None:
        """For each task with missing labels, whether each id has one, shape (N,); opens no file."""
        return with_gaps(ids, self.tasks, lambda task, sample_id: not self._lacks(task, sample_id))

    def read(self, sample_id: str, tasks: Sequence[str]) -> Sample:
        """Read one image with the labels of ``tasks``.

        Raises:
            DataError: Names the file that is missing, broken or of another size than the image. A broken
                label is named before a broken image, so that reading task by task finds every broken file.
            ValueError: If a task is not one of ``tasks``.
        """
        specs = chosen_specs(self.tasks, tasks)
        labels = {
            task: self._read_label(task, sample_id) for task in tasks if not self._lacks(task, sample_id)
        }
        image = read_image(self._path("images", sample_id))
        return make_sample(image, specs, labels, lambda task: self._source(task, sample_id))

    def _read_label(self, task: str, sample_id: str) -> Label:
        if task == "scene":
            return scene_label(self._scenes.get(sample_id))
        path = self._source(task, sample_id)
        if task in self._derived:
            return _decode(task, self._derived[task](path, content_digest(path), DERIVE_VERSION))
        if task == "semseg":
            return self._read_classes(path)
        if task == "depth":
            return read_depth(path)
        if task == "normals":
            return read_normals(path)
        return read_mask(path, UNKNOWN_EDGE if "edge" in self._derived_from else None)

    def _read_classes(self, path: Path) -> Label:
        ids = read_class_ids(path)
        largest = ids.max(initial=0)
        if largest > self._num_classes or ids.min(initial=0) < 0:
            advice = (
                f"Set data.nyud.num_classes to {len(CLASS_NAMES)}."
                if largest == len(CLASS_NAMES)
                else "Replace it with a file that has the ids of the 40 classes."
            )
            raise DataError(
                f"{path}: segmentation ids must be 0 (unlabelled) to {self._num_classes} "
                f"(data.nyud.num_classes), got {ids.min()} to {largest}. {advice}"
            )
        return np.maximum(ids - 1, 0).astype(np.uint8), ids > 0

    def _lacks(self, task: str, sample_id: str) -> bool:
        """Whether an image has no label of a task and may have none."""
        if task == "scene":
            return sample_id not in self._scenes
        return self._partly_labelled and sample_id not in self._files[self._folder(task)]

    def _folder(self, task: str) -> str:
        """Folder that labels come from; for derived ones, that of what they are derived from."""
        derived_from = {"normals": "depth", "edge": "segmentation"}
        return derived_from[task] if task in self._derived else _FOLDERS[task]

    def _source(self, task: str, sample_id: str) -> Path:
        return self._path(self._folder(task), sample_id)

    def _path(self, folder: str, sample_id: str) -> Path:
        name = self._files[folder].get(sample_id, sample_id + _SUFFIXES[folder][0])
        return self._root / folder / name

    def _check_complete(self) -> None:
        ids = [sample_id for listed in self._ids.values() for sample_id in listed]
        gaps = name_gaps(ids, self._files, _FOLDERS.values() if self._partly_labelled else ())
        if gaps:
            optional = [f for f in _OPTIONAL if f in self._files and not self._files[f].keys() >= set(ids)]
            remedy = f", or remove the folder {' and '.join(optional)} to have it derived" if optional else ""
            raise DataError(
                f"{self._root}: every id of gt_sets/*.txt must have its files, got {gaps}. "
                f"Complete the data set, shorten the lists{remedy}, or set data.missing: skip to train with "
                "the labels that exist."
            )


# The cache distinguishes calls by digest and version alone, so that moved data is not derived again.
def _derived_normals(path: Path, digest: str, version: int) -> npt.NDArray[np.int8]:  # noqa: ARG001
    """Normals times 127, int8 (H, W, 3), 0 where they do not count: as fine as the published files."""
    metres, valid = read_depth(path)
    camera, seen = _camera(path, metres.shape)
    unit, fits = normals_from_depth(metres[seen], valid[seen], camera, _rounding_step(metres))
    codes = np.zeros((*metres.shape, 3), dtype=np.int8)
    codes[seen] = np.where(fits[..., None], np.rint(127 * unit), 0)
    return codes


def _rounding_step(metres: npt.NDArray[np.float32]) -> float:
    """Step to which depth was rounded, at least a millimetre; some copies keep no more than centimetres."""
    millimetres = np.unique(np.rint(1000 * metres).astype(np.int64))
    return min(int(np.gcd.reduce(millimetres)) / 1000, _COARSEST_STEP)


def _derived_edge(path: Path, digest: str, version: int) -> npt.NDArray[np.int8]:  # noqa: ARG001
    """Edges as 0 and 1, int8 (H, W), -1 where they do not count."""
    ids = read_class_ids(path)
    scale = ids.shape[1] / (_FRAME[1] / 2)
    mask, valid = edges_from_labels(
        ids, max(1, round(_CRACK_RADIUS * scale)), max(1, round(_SPECK_AREA * scale**2))
    )
    return np.where(valid, mask, -1).astype(np.int8)


def _decode(task: str, codes: npt.NDArray[np.int8]) -> Label:
    if task == "edge":
        return np.maximum(codes, 0).astype(np.uint8), codes >= 0
    vectors = codes.astype(np.float32)
    length = np.sqrt(np.einsum("hwc,hwc->hw", vectors, vectors))
    return vectors / np.maximum(length, 1)[..., None], length > 0


def _camera(path: Path, size: tuple[int, ...]) -> tuple[Camera, tuple[slice, slice]]:
    """Camera of the part of a depth map that the sensor saw, and that part."""
    full, (top, left) = _FRAME_CAMERA, _CROP_AT
    if size == _CROP:
        cropped = Camera(full.focal_x, full.focal_y, full.centre_x - left, full.centre_y - top)
        return cropped, (slice(None), slice(None))
    if size[0] * _FRAME[1] != size[1] * _FRAME[0]:
        raise DataError(
            f"{path}: depth must be a 4:3 frame or the 425x560 crop for normals to be derived, got "
            f"{size[0]}x{size[1]}. Add published normals, or leave the task normals out."
        )
    scale = size[1] / _FRAME[1]
    rows = slice(int(np.ceil(top * scale)), int((top + _CROP[0]) * scale))
    columns = slice(int(np.ceil(left * scale)), int((left + _CROP[1]) * scale))
    camera = Camera(
        full.focal_x * scale,
        full.focal_y * scale,
        full.centre_x * scale - columns.start,
        full.centre_y * scale - rows.start,
    )
    return camera, (rows, columns)


def crop_of_frame() -> tuple[Camera, tuple[slice, slice]]:
    """Rows and columns of the published crop in a full frame, and the camera of that crop."""
    return _camera(Path(), _FRAME)


def _class_names(path: Path, num_classes: int) -> tuple[str, ...]:
    if path.exists():
        names = read_ids(path)
        if len(names) != num_classes:
            raise DataError(
                f"{path}: names {len(names)} classes, so data.nyud.num_classes must be {len(names)}, got "
                f"{num_classes}. Pass --set data.nyud.num_classes={len(names)}."
            )
        return names
    if num_classes in (39, 40):
        return CLASS_NAMES[:num_classes]
    return tuple(f"class {index}" for index in range(1, num_classes + 1))


def _check_layout(root: Path) -> None:
    if not root.is_dir():
        raise DataError(
            f"{root}: the folder of data set nyud must exist. Pass --data-root DIR or set DTME_DATA_ROOT."
        )
    required = [f"gt_sets/{name}" for name in _SPLIT_FILES.values()]
    required += [folder for folder in _SUFFIXES if folder not in _OPTIONAL]
    missing = [name for name in required if not (root / name).exists()]
    if missing:
        inside = root / "NYUDv2"
        advice = f"Did you mean {inside}?" if inside.is_dir() else "Give the folder that holds them."
        raise DataError(
            f"{root}: data set nyud must have {', '.join(required)} (normals and edge may be absent), "
            f"got no {', '.join(missing)}. {advice}"
        )
