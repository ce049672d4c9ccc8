"""Read ``nyu_depth_v2_labeled.mat`` and the two files that belong to it.

The data set is that of Silberman, Hoiem, Kohli and Fergus (ECCV 2012). The file is MATLAB v7.3, that is HDF5,
which reverses the order of axes: ``images`` is (N, 3, W, H); ``depths``, ``labels`` and ``instances`` are (N,
W, H); texts are references to arrays of character codes. These files must be next to it:

- ``splits.mat``: ``trainNdxs`` and ``testNdxs``, the official split, counted from 1.
- ``classMapping40.mat``: ``mapClass``, from 894 labels to 40 classes (Gupta, Arbelaez and Malik, CVPR 2013).
  Without it 37 classes remain, each with the name of one label. Only the mapping knows which labels belong
  to otherstructure, otherfurniture and otherprop; without it they stay unlabelled.

Shapes: N images, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dtme_search.data.nyud.names import CLASS_NAMES
from dtme_search.data.reading.matlab import read_matlab
from dtme_search.errors import DataError

_FRAME = (640, 480)
"""Width and height, the order of axes in the file."""
_VARIABLES = {"images": (3, *_FRAME), "depths": _FRAME, "labels": _FRAME, "instances": _FRAME}
_NAMED_CLASSES = 37
_LABEL_OF_CLASS = {"books": "book"}
"""Classes whose name differs from that of their label."""
_FARTHEST = 100.0
"""Metres; the range of the sensor is ten."""
_AS_PUBLISHED = "Give nyu_depth_v2_labeled.mat as published."
_WHERE_TO_GET = "Get it from the repository ankurhanda/nyuv2-meta-data on GitHub."


@dataclass(frozen=True)
class MatContent:
    """What the file says about all images.

    Attributes:
        num_images: N; images are numbered from 1.
        names: Names of the labels from 1 on; label 0 is unlabelled.
        scenes: Scene of each image.
    """

    num_images: int
    names: tuple[str, ...]
    scenes: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """One image as a picture, rows first.

    Attributes:
        image: RGB uint8 (H, W, 3).
        depth: Metres, float32 (H, W), holes filled by the authors.
        labels: 0 for unlabelled, uint16 (H, W).
        instances: Number of the object within its label, uint8 (H, W).
    """

    image: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint16]
    instances: npt.NDArray[np.uint8]


def inspect_mat(source: Path) -> MatContent:
    """Names and scenes, after checking what the file contains; reads no image.

    Raises:
        DataError: If it is not an HDF5 file, a variable is missing or of another shape, or h5py is missing.
    """
    with _opened(source, "names and scenes") as file:
        num_images = _check_shapes(source, file)
        names, scenes = (_texts(source, file, name) for name in ("names", "scenes"))
    if len(scenes) != num_images:
        raise DataError(
            f"{source}: variable 'scenes' must name the scene of each of {num_images} images, got "
            f"{len(scenes)}. {_AS_PUBLISHED}"
        )
    return MatContent(num_images, names, scenes)


def read_frames(source: Path, numbers: Sequence[int]) -> Iterator[tuple[int, Frame]]:
    """Read neighbouring images together, numbered from 1 and ascending; holds all from the first to the last.

    Raises:
        DataError: If they cannot be read or depth is not in metres.
    """
    first, last = numbers[0] - 1, numbers[-1]
    with _opened(source, f"images {numbers[0]} to {numbers[-1]}") as file:
        stacks = [file[name][first:last] for name in _VARIABLES]
    for number in numbers:
        # With reversed axes, the transpose of the stored array is the picture.
        frame = Frame(*(stack[number - 1 - first].T for stack in stacks))
        deepest = float(np.max(frame.depth))
        if not 0 < deepest <= _FARTHEST:
            raise DataError(
                f"{source}: depths of image {number} must be metres, above 0 and up to {_FARTHEST:g}, "
                f"got up to {deepest:.6g}. {_AS_PUBLISHED}"
            )
        yield number, frame


def _check_shapes(source: Path, file: Any) -> int:
    for name in (*_VARIABLES, "names", "scenes"):
        if name not in file:
            raise DataError(
                f"{source}: variable '{name}' must exist, got {', '.join(sorted(file)) or 'none'}. "
                + _AS_PUBLISHED
            )
    num_images = int(file["images"].shape[0])
    for name, shape in _VARIABLES.items():
        if file[name].shape != (num_images, *shape):
            raise DataError(
                f"{source}: variable '{name}' must have the shape {(num_images, *shape)}, axes reversed as "
                f"MATLAB v7.3 stores them, got {file[name].shape}. {_AS_PUBLISHED}"
            )
    return num_images


def _texts(source: Path, file: Any, name: str) -> tuple[str, ...]:
    references = np.asarray(file[name]).ravel()
    if references.dtype != object:
        raise DataError(
            f"{source}: variable '{name}' must be a cell array of texts, got {references.dtype}. "
            + _AS_PUBLISHED
        )
    return tuple("".join(map(chr, np.asarray(file[each]).ravel().tolist())) for each in references)


def read_split(path: Path, num_images: int) -> dict[str, list[int]]:
    """Numbers of the images, counted from 1, of "train" and of "val", the official test split.

    Raises:
        DataError: If the file is missing, broken, or lists an image twice or one that does not exist.
    """
    values = _load_v5(path, ("trainNdxs", "testNdxs"), f"the official split. {_WHERE_TO_GET}")
    split = {"train": sorted(values["trainNdxs"].tolist()), "val": sorted(values["testNdxs"].tolist())}
    numbers = [number for listed in split.values() for number in listed]
    if (
        len(set(numbers)) != len(numbers)
        or not numbers
        or not 1 <= min(numbers) <= max(numbers) <= num_images
    ):
        raise DataError(
            f"{path}: trainNdxs and testNdxs must list each image 1 to {num_images} at most once, got "
            f"{len(numbers)} numbers, {len(set(numbers))} different, {min(numbers, default=0)} to "
            f"{max(numbers, default=0)}. Replace the file."
        )
    return split


def read_class_mapping(path: Path, names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Class 1..40, or 1..37 without a mapping, for each label 0..L; 0 for unlabelled.

    Raises:
        DataError: If the file is broken, or missing although not every class has the name of a label.
    """
    if path.exists():
        mapping = _load_v5(path, ("mapClass",), "the classes of all labels.")["mapClass"]
        if len(mapping) < len(names) or mapping.min() < 1 or mapping.max() != len(CLASS_NAMES):
            raise DataError(
                f"{path}: mapClass must give each of {len(names)} labels one of the classes 1 to "
                f"{len(CLASS_NAMES)}, got {len(mapping)} values from {mapping.min()} to {mapping.max()}. "
                + _WHERE_TO_GET
            )
        return np.concatenate([[0], mapping]).astype(np.uint8)
    label_of_name = {name: label for label, name in enumerate(names, start=1)}
    classes = np.zeros(len(names) + 1, dtype=np.uint8)
    for class_id, name in enumerate(CLASS_NAMES[:_NAMED_CLASSES], start=1):
        label = label_of_name.get(name) or label_of_name.get(_LABEL_OF_CLASS.get(name, name))
        if label is None:
            raise DataError(
                f"{path}: the file must be next to the source, because no label of it is named '{name}'. "
                + _WHERE_TO_GET
            )
        classes[label] = class_id
    return classes


def _load_v5(path: Path, names: Sequence[str], purpose: str) -> dict[str, npt.NDArray[np.int64]]:
    """Whole numbers of a MATLAB v5 file, flattened."""
    if not path.exists():
        raise DataError(f"{path}: the file must be next to the source; it holds {purpose}")
    try:
        content: Mapping[str, Any] = read_matlab(path)
    except Exception as error:  # scipy passes on whatever error a damaged file causes in its parser
        raise DataError(f"{path}: the file cannot be read ({_first_line(error)}). {_WHERE_TO_GET}") from error
    found = {name: np.asarray(content.get(name, ())) for name in names}
    for name, values in found.items():
        if values.size == 0 or values.dtype.kind not in "iuf":
            raise DataError(f"{path}: must hold whole numbers named '{name}', got none. {_WHERE_TO_GET}")
    return {name: values.ravel().astype(np.int64) for name, values in found.items()}


@contextmanager
def _opened(source: Path, wanted: str) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            "data prepare nyud: the package h5py must be installed, got none. "
            "Run: pip install 'dtme-search[data]'."
        ) from error
    try:
        with h5py.File(source, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:  # h5py raises all of them
        raise DataError(
            f"{source}: {wanted} cannot be read as MATLAB v7.3 ({_first_line(error)}). "
            "Download the file again."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
