"""Write the folder that ``data/nyud/dataset.py`` reads from the official ``nyu_depth_v2_labeled.mat``.

It contains the 425x560 pixels inside the white border: 8-bit png for image and classes, float32 metres for
depth, and normals and edges, derived (``data/derive.py``) from depth and from regions of one label and
instance; ``gt_sets/derived.txt`` says so.

Shapes: H height, W width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import methodcaller
from pathlib import Path

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from PIL import Image

from dtme_search.data.derive import DERIVE_VERSION, edges_from_labels, normals_from_depth
from dtme_search.data.nyud.dataset import UNKNOWN_EDGE, crop_of_frame
from dtme_search.data.nyud.mat import Frame, inspect_mat, read_class_mapping, read_frames, read_split
from dtme_search.data.nyud.names import CLASS_NAMES
from dtme_search.data.reading.folders import claim_folder, write_whole
from dtme_search.errors import DataError

_FILES = {
    "images": ".png",
    "segmentation": ".png",
    "depth": ".npy",
    "normals": ".png",
    "edge": ".png",
}
_DERIVED = {"normals": "depth", "edge": "regions of label and instance"}
_BATCH = 8
"""Neighbours that one process reads together: chunks of the file may span several images."""
_CRACK_RADIUS, _SPECK_AREA = 6, 32
"""As in ``data/nyud/dataset.py``, for the full frame."""
_PREPARE_VERSION = 1


def prepare_nyud(source: Path, out: Path, *, jobs: int, on_progress: Callable[[int, int], None]) -> int:
    """Write the folder layout; keeps what an interrupted call has written. See ``data.prepare.Preparer``.

    The lists of ids are written last, so an incomplete folder cannot be mistaken for a complete one. A
    process never holds more than a few images.
    """
    content = inspect_mat(source)
    split = read_split(source.with_name("splits.mat"), content.num_images)
    class_of_label = read_class_mapping(source.with_name("classMapping40.mat"), content.names)
    num_classes = int(class_of_label.max())
    claim_folder(
        out,
        {
            "source": source.name,
            "bytes": source.stat().st_size,
            "classes": num_classes,
            "versions": [_PREPARE_VERSION, DERIVE_VERSION],
        },
    )
    for folder in _FILES:
        (out / folder).mkdir(exist_ok=True)
    numbers = sorted(number for numbers in split.values() for number in numbers)
    waiting = [number for number in numbers if not _is_complete(out, number)]
    done = len(numbers) - len(waiting)
    on_progress(done, len(numbers))
    written = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(_write_batch)(source, out, batch, class_of_label) for batch in _batches(waiting)
    )
    for count in written:
        done += count
        on_progress(done, len(numbers))
    _write_lists(out, split, content.scenes, num_classes)
    return len(waiting)


def _is_complete(out: Path, number: int) -> bool:
    return all((out / folder / f"{number:04d}{suffix}").is_file() for folder, suffix in _FILES.items())


def _batches(numbers: Sequence[int]) -> Iterator[list[int]]:
    for _, batch in itertools.groupby(numbers, key=lambda number: (number - 1) // _BATCH):
        yield list(batch)


def _write_batch(source: Path, out: Path, numbers: list[int], class_of_label: npt.NDArray[np.uint8]) -> int:
    for number, frame in read_frames(source, numbers):
        if int(frame.labels.max()) >= len(class_of_label):
            raise DataError(
                f"{source}: labels of image {number} must be 0 to {len(class_of_label) - 1}, got "
                f"{frame.labels.max()}. Replace the file."
            )
        _write_sample(out, number, frame, class_of_label)
    return len(numbers)


def _write_sample(out: Path, number: int, frame: Frame, class_of_label: npt.NDArray[np.uint8]) -> None:
    camera, crop = crop_of_frame()
    depth = frame.depth[crop]
    seen = np.isfinite(depth) & (depth > 0)
    depth = np.where(seen, depth, 0).astype(np.float32)
    vectors, fits = normals_from_depth(depth, seen, camera)
    edge, known = edges_from_labels(_regions(frame)[crop], _CRACK_RADIUS, _SPECK_AREA)
    pictures = {
        "images": frame.image[crop],
        "segmentation": class_of_label[frame.labels[crop]],
        # Grey is no direction.
        "normals": np.where(fits[..., None], np.rint(127.5 * (vectors + 1)), 128).astype(np.uint8),
        "edge": np.where(known, 255 * edge, UNKNOWN_EDGE).astype(np.uint8),
    }
    for folder, pixels in pictures.items():
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        write_whole(out / folder / f"{number:04d}.png", partial(picture.save, format="png"))
    write_whole(out / "depth" / f"{number:04d}.npy", partial(np.save, arr=depth))


def _regions(frame: Frame) -> npt.NDArray[np.int64]:
    """Number pairs of label and instance from 1; 0 is unlabelled."""
    pairs = frame.labels.astype(np.int64) * (int(frame.instances.max()) + 1) + frame.instances
    labelled = frame.labels > 0
    regions = np.zeros(pairs.shape, dtype=np.int64)
    regions[labelled] = 1 + np.unique(pairs[labelled], return_inverse=True)[1]
    return regions


def _write_lists(out: Path, split: Mapping[str, list[int]], scenes: Sequence[str], num_classes: int) -> None:
    numbers = sorted(number for listed in split.values() for number in listed)
    lists = {
        "classes": CLASS_NAMES[:num_classes],
        "derived": [f"{task} {source}" for task, source in _DERIVED.items()],
        "scenes": [f"{number:04d} {scenes[number - 1]}" for number in numbers],
        **{name: [f"{number:04d}" for number in listed] for name, listed in split.items()},
    }
    (out / "gt_sets").mkdir(exist_ok=True)
    for name, lines in lists.items():
        text = "".join(f"{line}\n" for line in lines)
        write_whole(out / "gt_sets" / f"{name}.txt", methodcaller("write", text.encode()))
